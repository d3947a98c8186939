"""Explanations of the photo's own pixels, and of the normalised input."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from guidxmage import Explainer, Explanation
from guidxmage.cli import app
from guidxmage.errors import InputError
from guidxmage.inputs.photo_map import PhotoMap
from guidxmage.inputs.preprocessing import Interpolation, Preprocessing

CHELSEA = Path(__file__).parents[1] / "examples" / "chelsea.png"


def noise(height: int, width: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    draw = np.random.default_rng(seed)
    shape = (height, width, 3) if mode == "RGB" else (height, width)
    return Image.fromarray(draw.integers(60, 200, shape, dtype=np.uint8))


def preprocessing(
    crop: int | None = 20, interpolation: Interpolation = "bilinear"
) -> Preprocessing:
    return Preprocessing(24, crop, (0.5, 0.4, 0.3), (0.2, 0.3, 0.25), interpolation)


@pytest.fixture(scope="module")
def explainer() -> Explainer:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(3, 2), nn.Flatten(), nn.Linear(512, 5)]
    return Explainer(nn.Sequential(*layers).double().eval(), preprocessing=preprocessing())


# --- the map of a photo --------------------------------------------------------------------------


@given(
    size=st.tuples(st.integers(3, 60), st.integers(3, 60)),
    resize=st.one_of(st.none(), st.integers(4, 40), st.tuples(*[st.integers(4, 40)] * 2)),
    crop=st.one_of(st.none(), st.integers(3, 45), st.tuples(*[st.integers(3, 45)] * 2)),
    interpolation=st.sampled_from(["bilinear", "nearest"]),
    mode=st.sampled_from(["RGB", "L"]),
)
@settings(max_examples=60, deadline=None)
def test_the_matrices_do_what_pillow_does(
    size: tuple[int, int],
    resize: int | tuple[int, int] | None,
    crop: int | tuple[int, int] | None,
    interpolation: Interpolation,
    mode: str,
) -> None:
    ones = (1.0,) * (3 if mode == "RGB" else 1)
    prepared = Preprocessing(resize, crop, ones, ones, interpolation)
    there = PhotoMap.of(prepared, noise(*size, mode), torch.float64)
    # Two passes, each rounded to whole grey levels.
    assert there.remainder.abs().max() * 255 <= (1.02 if interpolation == "bilinear" else 1e-9)
    Z, u = torch.rand_like(there.photo), torch.rand_like(there.seen)
    linear = there(Z) - there(torch.zeros_like(Z))
    assert torch.allclose((linear * u).sum(), (Z * there.adjoint(u)).sum(), rtol=1e-12)


def test_a_smooth_photo_is_resized_bicubically_within_rounding() -> None:
    rows, columns = np.mgrid[:90, :70]
    levels = 120 + 60 * np.sin(rows / 9) * np.cos(columns / 7)
    photo = Image.fromarray(levels.astype(np.uint8)).convert("RGB")
    there = PhotoMap.of(preprocessing(None, "bicubic"), photo, torch.float64)
    assert there.remainder.abs().max() * 255 < 1.1


def test_a_black_pixel_outside_of_the_crop_is_not_seen() -> None:
    there = PhotoMap.of(preprocessing(), noise(24, 60), torch.float64)
    weights = there.adjoint(torch.ones(3, 20, 20, dtype=torch.float64))
    assert torch.equal(weights[:, 2:22, 20:40], torch.ones(3, 20, 20, dtype=torch.float64))
    assert weights.sum() == 3 * 400  # rows and columns outside of the crop have none


# --- explanations --------------------------------------------------------------------------------


@pytest.mark.parametrize("space", ["photo", "input"])
@pytest.mark.parametrize("target", ["top1", [0, 3]])
@pytest.mark.parametrize("reference", [None, 0.25])
def test_every_space_has_the_same_score(
    explainer: Explainer, space: str, target: object, reference: float | None
) -> None:
    photo = noise(40, 33)
    pixels = explainer.explain(photo, target)
    found = explainer.explain(photo, target, space=space, reference=reference)  # type: ignore[arg-type]
    assert found.space == space
    assert torch.equal(found.logits, pixels.logits)
    assert torch.equal(found.score, pixels.score)
    assert (found.residual.abs() <= found.residual_bound).all()
    assert found.residual.abs().max() < 1e-12
    total = found.contributions.flatten(-3).sum(-1) + found.bias
    assert torch.allclose(total, found.score, rtol=1e-12)
    by_layer = torch.stack(list(found.bias_by_layer.values())).sum(0)
    assert torch.allclose(by_layer, found.bias, rtol=1e-12)


def test_contributions_of_the_photo_sum_to_those_of_the_network(explainer: Explainer) -> None:
    photo = noise(40, 33)
    pixels, own = explainer.explain(photo), explainer.explain(photo, space="photo")
    assert tuple(own.weights.shape) == (3, 40, 33)
    missing = pixels.contributions.sum() - own.contributions.sum()
    assert missing.item() == pytest.approx(float(own.bias_by_layer["resize rounding"]), abs=1e-12)
    assert own.picture() == photo


def test_weights_of_the_photo_are_the_slope_of_the_network(explainer: Explainer) -> None:
    photo = noise(30, 31)
    found = explainer.explain(photo, 2, space="photo")
    model = found.symbolic_model
    assert bool(model.follows(found.input))
    direction = torch.randn(
        found.input.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    step = model.step_length(direction)
    assert not isinstance(step, tuple)
    inside = found.input + 0.9 * step.length * direction
    assert model.follows(inside)
    replay = model.replay(inside[None])
    assert torch.allclose(replay.score, replay.network_score, rtol=1e-12)
    assert not model.follows(found.input + 1.1 * step.length * direction)


def test_the_normalised_input_has_the_networks_own_weights(explainer: Explainer) -> None:
    photo = noise(30, 31)
    found = explainer.explain(photo, 1, space="input")
    plain = Explainer(explainer.model).explain(found.input, 1)
    assert torch.allclose(found.weights, plain.weights, rtol=1e-12)
    assert torch.allclose(found.bias, plain.bias, rtol=1e-12)
    assert torch.allclose(found.contributions, plain.contributions, rtol=1e-12)
    assert "preprocessing" not in found.bias_by_layer
    batch = explainer.explain([photo, noise(30, 31, seed=1)], [1, 2], space="input")
    assert torch.allclose(batch.weights[0], explainer.explain(photo, 1, space="input").weights)


def test_in_float32_the_photo_follows_its_own_trail(explainer: Explainer) -> None:
    single = Explainer(explainer.model, preprocessing=preprocessing(), dtype=torch.float32)
    for seed in range(5):
        photo = noise(47, 29, seed=seed)
        found = single.explain(photo, space="photo")
        network = found.symbolic_model.network
        assert network is not None
        own = single.to_input(single.read(photo)[None])
        assert torch.equal(network.to_input(found.input[None]), own), "bit for bit"
        assert found.residual.abs() <= found.residual_bound


@pytest.mark.parametrize("space", ["photo", "input", "pixels"])
def test_saved_and_loaded(explainer: Explainer, tmp_path: Path, space: str) -> None:
    found = explainer.explain(noise(40, 33), space=space)  # type: ignore[arg-type]
    found.save(tmp_path / "saved")
    alone = Explanation.load(tmp_path / "saved")
    assert alone.space == space
    with pytest.raises(InputError, match="without its network"):
        alone.symbolic_model.follows(alone.input)
    again = Explanation.load(tmp_path / "saved", explainer)
    assert torch.equal(again.weights, found.weights)
    assert bool(again.symbolic_model.follows(again.input))
    if space != "input":
        with pytest.raises(InputError, match="has no way to"):
            Explanation.load(tmp_path / "saved", Explainer(explainer.model))


def test_objects_of_the_photo(explainer: Explainer) -> None:
    found = explainer.explain(noise(40, 33), space="photo")
    mask = np.zeros((40, 33), dtype=np.uint8)
    mask[5:20, 4:30] = 1
    table = found.objects(mask)
    assert not isinstance(table, list)
    inside = found.contributions[:, 5:20, 4:30].sum().item()
    sums = sorted([inside, found.contributions.sum().item() - inside])
    assert sorted(row.sum for row in table.rows) == pytest.approx(sums)


def test_what_cannot_be_explained_so(explainer: Explainer) -> None:
    photo = noise(30, 30)
    for image in (explainer.read(photo), [photo, photo]):
        with pytest.raises(InputError, match="explains a single photo"):
            explainer.explain(image, space="photo")
    with pytest.raises(InputError, match="space 'sky' is unknown"):
        explainer.explain(photo, space="sky")  # type: ignore[arg-type]
    closed = Explainer(explainer.model, preprocessing=lambda _: torch.zeros(3, 20, 20))
    with pytest.raises(InputError, match="are known; this explainer's is not"):
        closed.explain(photo, space="photo")
    with pytest.raises(InputError, match="does not fit"):
        explainer.explain(photo, space="photo", reference=torch.zeros(3, 20, 20))


def test_the_command_line(tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["explain", str(CHELSEA), "--space", "photo", "--objects", "none"]
    result = CliRunner().invoke(app, [*arguments, "--out", str(out)])
    assert result.exit_code == 0, result.output
    found = Explanation.load(out / "chelsea")
    assert found.space == "photo"
    with Image.open(CHELSEA) as photo, Image.open(out / "chelsea" / "distribution.png") as drawn:
        assert found.weights.shape[1:] == photo.size[::-1]
        assert drawn.size == photo.size
