"""What contributions are counted from: every kind of reference in every space, and its name."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from typer.testing import CliRunner

from guidxmage.attribution.archive import signed
from guidxmage.attribution.attribution import Attribution
from guidxmage.attribution.change_space import on_input, on_photo
from guidxmage.cli import app
from guidxmage.errors import InputError
from guidxmage.explainer import Explainer
from guidxmage.explanation import Explanation
from guidxmage.inputs.photos import read_image
from guidxmage.inputs.preprocessing import Preprocessing
from guidxmage.jobs.explain_photos import Job, explain_photos
from guidxmage.jobs.verify_result import verify
from tests.test_certificate import seeded

MEAN, STD = (0.4, 0.5, 0.6), (0.25, 0.2, 0.3)
WAY = Preprocessing(resize=10, crop=8, mean=MEAN, std=STD)
SPACES = ["pixels", "photo", "input"]


def network() -> nn.Module:
    return seeded(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 5)
    ).requires_grad_(False)


def photo(seed: int = 1, size: tuple[int, int] = (13, 17)) -> Image.Image:
    draw = np.random.default_rng(seed)
    return Image.fromarray(draw.integers(0, 256, (*size, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def explainer() -> Explainer:
    return Explainer(network(), preprocessing=WAY, dtype=torch.float64, name="tiny")


def per_channel(values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)[:, None, None]


def planes(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).double() / 255


def in_space(space: str, pixels: Tensor) -> Tensor:
    """Pixels as they are in a space."""
    return (pixels - per_channel(MEAN)) / per_channel(STD) if space == "input" else pixels


def seen_in(space: str, image: Image.Image) -> Tensor:
    """A photo as it is explained."""
    return planes(image) if space == "photo" else in_space(space, planes(WAY.crop_image(image)))


COLOUR = per_channel((0.1, 0.2, 0.3))
OTHER = photo(9)
# What is given; R in a space; its name.
REFERENCES: dict[str, tuple[Any, Callable[[str], Any], str]] = {
    "nothing": (None, lambda s: in_space(s, per_channel(MEAN)), "network's zero"),
    "zero": ("zero", lambda s: in_space(s, per_channel(MEAN)), "network's zero"),
    "black": ("black", lambda s: in_space(s, per_channel((0.0,) * 3)), "black"),
    "number": (0.25, lambda _: 0.25, "0.25"),
    "tensor": (COLOUR, lambda _: COLOUR, "0.1, 0.2, 0.3"),
    "image": (OTHER, lambda s: seen_in(s, OTHER), "an image"),
    "array": (np.asarray(OTHER), lambda s: seen_in(s, OTHER), "an image"),
}


def check(found: Attribution, R: Any, name: str) -> None:
    """Everything that follows from R."""
    assert found.reference_name == name
    X = found.input
    counted = X - torch.as_tensor(R, dtype=torch.float64)
    several = found.batched and found.several
    expected = found.weights * (counted[:, None] if several else counted)
    # In the network's input R and X are differences that were rounded.
    assert torch.allclose(found.contributions, expected, rtol=1e-10, atol=1e-14)
    total = found.contributions.flatten(-3).sum(-1)
    size = float(found.contributions.abs().sum()) + 1
    assert float((found.score - total - found.bias).abs().max()) <= 1e-12 * size
    assert bool((found.residual.abs() <= found.residual_bound).all())
    shares = sum(found.bias_by_layer.values())
    assert torch.allclose(torch.as_tensor(shares), found.bias, rtol=1e-12, atol=1e-14)
    model = found.symbolic_model
    Z = X[:, None] if several else X
    own = (model.weights * Z).flatten(-3).sum(-1) + model.bias
    assert float((own - found.score).abs().max()) <= 1e-12 * size
    assert found.exactness == "on region"


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("kind", REFERENCES)
@pytest.mark.parametrize("target", ["top1", [0, 3]])
@pytest.mark.parametrize("batch", [False, True])
def test_every_reference_in_every_space(
    explainer: Explainer, space: Any, kind: str, target: Any, batch: bool
) -> None:
    given, R, name = REFERENCES[kind]
    images: Any = photo()
    if batch:
        if space == "photo":
            pytest.skip("a photo's own pixels are explained one by one")
        images = [photo(), photo(2), photo(3)]
        target = ("top", 2) if target != "top1" else target
    found = explainer.explain(images, target, reference=given, space=space)
    check(found, R(space), name)
    kept = {"preprocessing", "reference"} & set(found.bias_by_layer)
    if name == "network's zero":
        assert not kept
    elif space != "input":
        assert kept == {"preprocessing", *([] if name == "black" else ["reference"])}
    for part in found.split():
        assert part.reference_name == name


@pytest.mark.parametrize("space", ["pixels", "input"])
def test_a_reference_for_each_image(explainer: Explainer, space: Any) -> None:
    zero = in_space(space, per_channel(MEAN))
    each = torch.stack([zero.expand(3, 8, 8), torch.rand(3, 8, 8, dtype=torch.float64)])
    for target in ("top1", ("top", 2)):
        images: Any = [photo(), photo(2)]
        found = explainer.explain(images, target, reference=each, space=space)
        check(found, each, "one for each image")
        for one, R, name in zip(found, each, ("network's zero", "an image"), strict=True):
            check(one, R, name)
        assert all(one.holds for one in found.certificate()), found.certificate()


def test_the_default_in_pixels_is_that_of_the_input(explainer: Explainer) -> None:
    """One set of contributions and one bias, whichever of the two is asked for."""
    images: Any = [photo(), photo(2)]
    pixels, own = (explainer.explain(images, space=s) for s in ("pixels", "input"))  # type: ignore[arg-type]
    assert torch.allclose(pixels.contributions, own.contributions, rtol=1e-10, atol=1e-14)
    assert torch.allclose(pixels.bias, own.bias, rtol=1e-12)
    assert list(pixels.bias_by_layer) == list(own.bias_by_layer)
    plain = Explainer(explainer.model).explain(own.input)
    assert torch.allclose(plain.contributions, own.contributions, rtol=1e-10, atol=1e-14)
    assert plain.reference is None
    assert plain.reference_name == "network's zero"


def test_black_gives_the_numbers_that_were_the_default(explainer: Explainer) -> None:
    found = explainer.explain(photo(), reference="black")
    same = explainer.explain(photo(), reference=0.0)
    assert found.reference is None
    assert same.reference is None
    assert torch.equal(found.contributions, same.contributions)
    assert torch.equal(found.bias, found.symbolic_model.bias)


def test_the_black_around_a_small_photo_is_part_of_the_bias() -> None:
    way = Preprocessing(crop=12, mean=MEAN, std=STD)
    model = seeded(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(400, 5))
    explainer = Explainer(model, preprocessing=way, dtype=torch.float64)
    image = photo(size=(7, 20))
    found = explainer.explain(image, [0, 1], space="photo")
    check(found, per_channel(MEAN), "network's zero")
    pixels = explainer.explain(image, [0, 1])
    around = torch.ones(12, 12, dtype=torch.bool)
    around[2:9] = False  # 7 of 12 rows are the photo's
    expected = (pixels.contributions * around).flatten(1).sum(1)
    assert torch.allclose(found.bias_by_layer["black padding"], expected, rtol=1e-10)
    assert all(one.holds for one in found.certificate())
    moved = dict(found.bias_by_layer)
    moved["black padding"] = moved["black padding"] + 1e-6
    assert not replace(found, bias_by_layer=moved).certificate()[0].holds


@pytest.mark.parametrize("given", [None, "black", 0.3])
def test_explanations_from_any_reference_are_carried_over(explainer: Explainer, given: Any) -> None:
    pixels = explainer.explain(photo(), [0, 3], reference=given)
    for kind in ("nothing", "black", "number", "image"):
        wanted, R, name = REFERENCES[kind]
        inside, outside = on_input(pixels, wanted), on_photo(pixels, photo(), wanted)
        check(inside, R("input"), name)
        check(outside, R("photo"), name)
        direct = explainer.explain(photo(), [0, 3], reference=wanted, space="input")
        assert torch.allclose(inside.bias, direct.bias, rtol=1e-10)
        if given != 0.3:  # the bound depends a little on the way
            assert all(one.holds for one in (*inside.certificate(), *outside.certificate()))


def test_a_layer_may_be_called_preprocessing() -> None:
    """Its bias is its own where the network's input is explained."""
    model = nn.Sequential()
    model.add_module("preprocessing", nn.Conv2d(3, 4, 3))
    model.add_module("rest", nn.Sequential(nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)))
    found = Explainer(model.double().eval()).explain(torch.rand(3, 8, 8, dtype=torch.float64))
    assert "preprocessing" in found.bias_by_layer
    check(found, 0.0, "network's zero")
    assert found.certificate()[0].holds


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("given", [None, "black", 0.3])
def test_the_whole_map_depends_on_no_reference(
    explainer: Explainer, space: Any, given: Any
) -> None:
    """Only what of it is the pixels' and what the bias' does; of the network's zero, its own."""
    found = explainer.explain(photo(), 1, reference=given, space=space, depth="input")
    plain = explainer.explain(photo(), 1, space="input", depth="input")
    total = found.whole.sum() + found.unplaced
    assert torch.allclose(total, found.score, rtol=1e-10)
    parts = found.pixel_contributions() + found.placed_bias
    assert torch.allclose(parts, found.whole, rtol=1e-10, atol=1e-14)
    if space != "photo":
        assert torch.allclose(found.whole, plain.whole, rtol=1e-10, atol=1e-14)
    if given is None:
        assert torch.allclose(found.placed_bias.sum(), plain.placed_bias.sum(), atol=0.05)


# --- what cannot be ------------------------------------------------------------------------------


def test_what_black_is_must_be_known() -> None:
    for preprocessing in (None, lambda image: planes(image.resize((8, 8))).float()):
        explainer = Explainer(network(), preprocessing=preprocessing)
        with pytest.raises(InputError, match="which input black pixels become is not known"):
            explainer.explain(torch.rand(3, 8, 8), reference="black")
        for given in (None, "zero"):
            found = explainer.explain(torch.rand(3, 8, 8), reference=given)
            assert found.reference is None
            assert found.reference_name == "network's zero"
    found = explainer.explain(photo(), reference=photo(4))
    expected = planes(photo(4).resize((8, 8))).float()
    assert torch.equal(found.reference, expected)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "space", "words"),
    [
        (photo(2, (9, 9)), "photo", "does not fit"),
        ("no_such_file.png", "pixels", "no_such_file.png"),
        ({}, "pixels", "'zero' or 'black', not dict"),
        (torch.full((3, 1, 1), float("inf")), "input", "NaN or Inf"),
        (torch.zeros(3, 5, 5), "input", "does not fit"),
    ],
)
def test_what_is_no_reference(explainer: Explainer, given: Any, space: Any, words: str) -> None:
    with pytest.raises(InputError, match=words) as error:
        explainer.explain(photo(), reference=given, space=space)
    assert "\n" not in str(error.value)


def test_an_image_of_another_size_does_not_fit() -> None:
    explainer = Explainer(network(), preprocessing=Preprocessing(mean=MEAN, std=STD))
    with pytest.raises(InputError, match="the reference image comes out at"):
        explainer.explain(photo(size=(8, 8)), reference=photo(size=(8, 9)))


def test_several_inputs_keep_zero() -> None:
    class Sum(nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return torch.relu(a) + b

    X = (torch.rand(2, 3), torch.rand(2, 3))
    explainer = Explainer(Sum().eval())
    plain, zero = explainer.explain(X, 0), explainer.explain(X, 0, reference="zero")
    assert torch.equal(plain.whole.contributions, zero.whole.contributions)
    assert torch.allclose(plain.sums[0], X[0][:, 0].double())
    with pytest.raises(InputError, match="several inputs is no 'black'"):
        explainer.explain(X, 0, reference="black")


# --- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("kind", REFERENCES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_saved_loaded_and_verified(tmp_path: Path, space: Any, kind: str, dtype: Any) -> None:
    given, _, name = REFERENCES[kind]
    explainer = Explainer(network(), preprocessing=WAY, dtype=dtype, name="tiny")
    found = explainer.explain(photo(), [0, 3], reference=given, space=space)
    folder = found.save(tmp_path / "result")
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["reference"] == name
    loaded = Explanation.load(folder, explainer)
    assert loaded.reference_name == name
    assert torch.equal(loaded.contributions, found.contributions)
    outcome = verify(folder, explainer)
    assert outcome.passed, [one for one in outcome.checks if one.passed is False]


@pytest.mark.parametrize("space", SPACES)
def test_a_forged_name_is_caught(explainer: Explainer, tmp_path: Path, space: Any) -> None:
    folder = explainer.explain(photo(), 1, space=space).save(tmp_path / "result")
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    for name in ("black", "an image", "", None):
        path.write_text(signed({**manifest, "reference": name}), encoding="utf-8")
        outcome = verify(folder, explainer)
        (failed,) = [one for one in outcome.checks if one.passed is False]
        assert failed.name == "manifest"
        assert failed.detail.startswith(f"reference is {name!r}, where it is ")
    without = {key: value for key, value in manifest.items() if key != "reference"}
    path.write_text(signed(without), encoding="utf-8")
    assert not verify(folder, explainer).passed


@pytest.mark.parametrize("space", SPACES)
def test_another_reference_than_the_contributions_is_caught(
    explainer: Explainer, space: Any
) -> None:
    found = explainer.explain(photo(), 1, space=space)
    for R in (None, COLOUR, per_channel(MEAN)):
        forged = replace(found, reference=R)
        if R is found.reference or forged.reference_name == found.reference_name:
            continue
        assert not forged.certificate()[0].holds
    # Both entries, which cancel, say no less; a single one does.
    if space != "input":
        shift = found.symbolic_model.bias - found.bias
        moved = {**found.bias_by_layer, "preprocessing": shift}
        assert not replace(found, bias_by_layer=moved).certificate()[0].holds


# --- what is said of it --------------------------------------------------------------------------


def test_the_figure_and_the_text_say_it(explainer: Explainer) -> None:
    for kind, (given, _, name) in REFERENCES.items():
        found = explainer.explain(photo(), reference=given)
        assert f"reference: {name}" in repr(found), kind
        figure = found.figure()
        texts = [text.get_text() for text in figure.findobj(lambda one: hasattr(one, "get_text"))]
        assert any(f"reference: {name}" in text for text in texts), kind


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ([], "network's zero"),
        (["--reference", "zero"], "network's zero"),
        (["--reference", "black"], "black"),
        (["--reference", "0.5"], "0.5"),
        (["--reference", "other.png"], "an image"),
    ],
)
def test_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    photo(size=(40, 50)).save("photo.png")
    photo(5, size=(45, 40)).save("other.png")
    Path("net.py").write_text(
        "import torch\nfrom guidxmage.inputs.preprocessing import Preprocessing\n"
        "preprocessing = Preprocessing(resize=10, crop=8, mean=(0.4, 0.5, 0.6))\n"
        "def build():\n    torch.manual_seed(0)\n    first = torch.nn.Conv2d(3, 4, 3)\n"
        "    last = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(144, 5))\n"
        "    return torch.nn.Sequential(first, torch.nn.ReLU(), last), preprocessing\n",
        encoding="utf-8",
    )
    arguments = ["explain", "photo.png", "--model", "net.py:build", "--objects", "none"]
    result = CliRunner().invoke(app, [*arguments, *options])
    assert result.exit_code == 0, result.output
    assert f"; reference: {name})" in result.stdout
    result = CliRunner().invoke(app, [*arguments, *options, "--json"])
    (manifest,) = json.loads(result.stdout)
    assert manifest["reference"] == name


def test_another_reference_image_is_another_result(tmp_path: Path) -> None:
    photo().save(tmp_path / "photo.png")
    photo(2).save(tmp_path / "other.png")
    explainer = Explainer(network(), preprocessing=WAY)
    job = Job(objects="none", reference=tmp_path / "other.png")

    def resumed() -> bool:
        photos, out = [tmp_path / "photo.png"], tmp_path / "out"
        (outcome,) = explain_photos(explainer, photos, out, job)
        assert outcome.error is None
        return outcome.resumed

    assert not resumed()
    assert resumed()
    photo(3).save(tmp_path / "other.png")
    assert not resumed()


def test_read_image_is_what_a_reference_is_read_by(explainer: Explainer, tmp_path: Path) -> None:
    photo(7).save(tmp_path / "other.png")
    by_path = explainer.explain(photo(), reference=tmp_path / "other.png")
    by_text = explainer.explain(photo(), reference=str(tmp_path / "other.png"))
    R = planes(WAY.crop_image(read_image(tmp_path / "other.png")))
    for found in (by_path, by_text):
        assert torch.equal(found.reference, R)  # type: ignore[arg-type]
