"""Background-suppressed samples: the object is untouched and the background's sum falls."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from guidxmage import Explainer
from guidxmage.errors import InputError
from guidxmage.hardening.samples.series import Series
from guidxmage.hardening.samples.suppression import (
    Scheme,
    background_contribution,
    contribution_masks,
    suppress,
    suppress_by_gradient,
)
from tests.test_laws import properties


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    layers = [nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(3, 2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(32, 5)).eval().requires_grad_(False)


def images(count: int = 6, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Images of whole grey levels with a square object each."""
    generator = torch.Generator().manual_seed(seed)
    X = torch.randint(0, 256, (count, 3, 12, 12), generator=generator).float() / 255
    masks = torch.zeros(count, 12, 12, dtype=torch.bool)
    for row in range(count):
        masks[row, row % 4 : row % 4 + 6, 2:9] = True
    return X, masks


@pytest.mark.parametrize("strength", [0.6 / 255, 2.6 / 255, 3 / 255])
def test_a_strength_that_is_no_whole_level_is_kept_to(strength: float) -> None:
    X, masks = images(4, 0)
    made = suppress(Explainer(network(0)), X, masks, scheme=Scheme((strength,), 4))
    assert made.on_grid
    levels = (made.samples[:, 0] - X).abs() * 255
    assert float(levels.max()) == pytest.approx(int(strength * 255 + 1e-6), abs=1e-3)


@given(
    seed=st.integers(0, 50),
    guide=st.sampled_from(["class", "contrast"]),
    part=st.sampled_from(["background", "object"]),
    steps=st.integers(1, 5),
    whole=st.booleans(),
    reference=st.sampled_from([0.0, 0.5]),
)
@properties
def test_only_the_part_moves_and_its_contribution_never_rises(
    seed: int, guide: str, part: str, steps: int, whole: bool, reference: float
) -> None:
    X, masks = images(4, seed)
    X = X if whole else (X * 0.98 + 0.0013)
    scheme = Scheme((1 / 255, 5 / 255), steps, guide, part, reference)  # type: ignore[arg-type]
    explainer = Explainer(network(seed))
    made = suppress(explainer, X, masks, scheme=scheme)
    kept_fast = (masks if part == "background" else ~masks)[:, None, None].expand_as(made.samples)
    assert torch.equal(made.samples[kept_fast], X[:, None].expand_as(made.samples)[kept_fast])
    for number, strength in enumerate(scheme.strengths):
        assert float((made.samples[:, number] - X).abs().max()) <= strength * (1 + 1e-5)
    assert float(made.samples.min()) >= 0
    assert float(made.samples.max()) <= 1
    assert bool((made.curves.diff(dim=1) <= 0).all())
    assert made.on_grid == whole
    if whole:
        levels = made.samples * 255
        assert torch.allclose(levels, levels.round(), atol=1e-4)


def test_curves_are_what_an_explanation_says() -> None:
    X, masks = images()
    explainer = Explainer(network().double())
    X = X.double()
    made = suppress(explainer, X, masks)
    for curve, Z in ((made.before, X), (made.after[:, -1], made.samples[:, -1])):
        A = explainer.explain(Z, made.labels).contributions
        told = (A * ~masks[:, None]).flatten(1).sum(1)
        assert torch.allclose(curve, told, rtol=1e-10, atol=1e-12)
    assert bool((made.after[:, -1] < made.before).all())
    again = background_contribution(explainer, X, masks, made.labels)
    assert torch.allclose(again, made.before, rtol=1e-10, atol=1e-12)


def test_gradients_give_the_same_samples() -> None:
    X, masks = images()
    model = network()
    labels = model(X).argmax(1)
    for guide in ("class", "contrast"):
        scheme = Scheme(guide=guide)  # type: ignore[arg-type]
        a = suppress(Explainer(model), X, masks, labels, scheme=scheme).samples
        b = suppress_by_gradient(model, X, masks, labels, scheme=scheme)
        assert float((a != b).double().mean()) < 0.01
    assert all(parameter.grad is None for parameter in model.parameters())


def test_backgrounds_without_any_say_are_reported_as_stuck() -> None:
    X, masks = images(3)

    class Inner(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(x * inner).flatten(1)[:, 12 * 4 : 12 * 7]

    inner = torch.zeros(1, 1, 12, 12)
    inner[..., 4:6, 4:7] = 1.0
    made = suppress(Explainer(Inner().eval()), X, masks)
    assert made.stuck.all()
    assert torch.equal(made.samples[:, -1], X)
    assert made.summary()["stuck_images"] == [0, 1, 2]


def test_one_image_at_a_time_gives_the_same() -> None:
    X, masks = images()
    whole = suppress(Explainer(network()), X, masks)
    single = suppress(Explainer(network(), batch_rows=1), X, masks)
    assert torch.allclose(whole.curves, single.curves, rtol=1e-5, atol=1e-6)


def test_a_series_comes_back_from_its_files(tmp_path: Path) -> None:
    X, masks = images()
    for values in (X, X * 0.9 + 0.001):
        made = suppress(Explainer(network()), values, masks)
        made.save(tmp_path / "series", model="tiny", seed=3)
        read = Series.load(tmp_path / "series")
        for name in ("originals", "samples", "masks", "labels", "curves", "kept", "answers"):
            assert torch.equal(getattr(read, name), getattr(made, name)), name
        assert read.strengths == made.strengths
    manifest = json.loads((tmp_path / "series" / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["schema"] == "guid-xmage/series/1"
    assert manifest["about"] == {"model": "tiny", "seed": 3}


def test_files_that_are_no_series_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no series of samples"):
        Series.load(tmp_path / "nothing")
    (tmp_path / "manifest.json").write_text('{"schema": "other/1"}', encoding="utf-8")
    with pytest.raises(InputError, match="other/1"):
        Series.load(tmp_path)


def test_bad_input_is_named() -> None:
    X, masks = images()
    explainer = Explainer(network())
    with pytest.raises(InputError, match=r"masks are bool \[6, 12, 12\]"):
        suppress(explainer, X, masks[:, :6])
    with pytest.raises(InputError, match="mask of image 2 shows no object"):
        suppress(explainer, X, masks & (torch.arange(6) != 2)[:, None, None])
    with pytest.raises(InputError, match="mask of image 1 leaves no background"):
        suppress(explainer, X, masks | (torch.arange(6) == 1)[:, None, None])
    with pytest.raises(InputError, match=r"do not lie in \[0, 1\]"):
        suppress(explainer, X * 2, masks)
    with pytest.raises(InputError, match="labels of"):
        suppress(explainer, X, masks, torch.zeros(3, dtype=torch.long))
    with pytest.raises(InputError, match="has to ascend"):
        Scheme(strengths=(0.1, 0.05))


def test_masks_from_contributions_hold_the_stated_share() -> None:
    X, _ = images()
    explainer = Explainer(network())
    small, large = (contribution_masks(explainer, X, share=share) for share in (0.3, 0.9))
    assert bool((small <= large).all())
    assert 0 < float(small.float().mean()) < float(large.float().mean()) < 1
    with pytest.raises(InputError, match="between 0 and 1"):
        contribution_masks(explainer, X, share=1.0)
