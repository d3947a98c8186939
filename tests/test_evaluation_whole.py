"""The whole map among the methods of the evaluation: equal smoothing, removals, differences."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from guidxmage.attribution.placement import smoothed
from guidxmage.evaluation.measures.removal import removal
from guidxmage.evaluation.measures.smoothing import SIGMAS, equal_smoothing
from guidxmage.evaluation.methods import METHODS
from guidxmage.evaluation.report.paired import difference, paired_table
from tests.evaluated import case, claimed, explained, truth

WHOLE = ("whole", "depth", "signed-cam")


class Pooled(nn.Module):
    """Two convolutions and a global average: cells of four pixels."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(3)
            self.body = nn.Sequential(
                nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU(), nn.Conv2d(6, 8, 3, 2, 1), nn.ReLU()
            )
            self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean((2, 3)))


class Linear(nn.Module):
    """f is linear in the pixels: what is removed is just gone."""

    def __init__(self, side: int) -> None:
        super().__init__()
        draws = torch.Generator().manual_seed(4)
        self.head = nn.Linear(3 * side * side, 2)
        with torch.no_grad():
            self.head.weight.copy_(torch.randn(self.head.weight.shape, generator=draws))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.flatten(1))


@pytest.mark.parametrize("name", WHOLE)
def test_the_whole_maps_add_up_to_the_score(name: str) -> None:
    of = case(Pooled())
    method = METHODS[name]
    values = method.explain(of.fast, of.image, of.target, 0)
    bias = float(of.exact.whole.network.head.bias[of.target].detach())  # type: ignore[union-attr,index]
    assert values.sum() + bias == pytest.approx(of.score, rel=1e-5)
    sigma = method.sigma(of.fast, tuple(of.image.shape))
    drawn = method.drawn(of.fast, values, tuple(of.image.shape))
    assert sigma >= 1
    assert drawn.sum() == pytest.approx(values.sum(), rel=1e-9)
    assert np.allclose(drawn, smoothed(torch.from_numpy(values), sigma).numpy())


def test_the_signed_cam_is_gradient_times_activation() -> None:
    of = case(Pooled())
    values = METHODS["signed-cam"].explain(of.fast, of.image, of.target, 0)
    network = of.exact.whole.network
    a = network.body(of.image[None])  # type: ignore[operator]
    cells = torch.einsum("c,chw->hw", network.head.weight[of.target], a[0])  # type: ignore[union-attr,index]
    cells = cells / cells.numel() / 16
    side = of.image.shape[1] // 4
    spread = cells.repeat_interleave(4, 0).repeat_interleave(4, 1).detach().numpy()
    assert cells.shape == (side, side)
    assert np.allclose(values, spread, atol=1e-6)


@pytest.mark.skipif(find_spec("skimage") is None, reason="scikit-image is not installed")
def test_removals_of_a_linear_network_are_predicted() -> None:
    side = case().image.shape[1]
    of = case(Linear(side))
    weights = of.explanation.weights
    right = (weights * (of.image - of.even)).sum(0).numpy()
    found = removal(of, claimed(right, total="score"))
    assert found["removal"] == pytest.approx(1)
    assert found["removal_0"] == pytest.approx(1)
    assert found["removal_error"] == pytest.approx(0, abs=1e-9)
    other = removal(of, claimed(-right, total="score"))
    assert other["removal"] == pytest.approx(-1)
    falls = np.abs(of.superpixel_falls).mean() / abs(of.score)
    assert other["removal_error"] == pytest.approx(2 * falls)
    assert "removal_error" not in removal(of, claimed(right, total=None))
    counts = np.bincount(of.superpixels.ravel())
    assert counts.min() > 0
    assert len(of.superpixel_falls) == len(counts)


def test_good_maps_gain_more_than_bad_ones_at_every_smoothing() -> None:
    of = case()
    good, bad = (equal_smoothing(of, claimed(sign * truth().astype(float))) for sign in (1, -1))
    for sigma in SIGMAS:
        assert good[f"gain_{sigma}"] > 0.5
        assert bad[f"gain_{sigma}"] < -0.5


def test_smoothing_starts_from_the_map_before_it_was_drawn() -> None:
    of = case(Pooled())
    raw = explained("whole", of)
    assert raw.raw is None
    shown = METHODS["whole"].drawn(of.fast, raw.values, tuple(of.image.shape))
    drawn = replace(raw, values=shown, raw=raw.values)
    assert equal_smoothing(of, drawn) == equal_smoothing(of, raw)


def test_the_centre_is_the_middle() -> None:
    of = case()
    values = METHODS["centre"].explain(of.fast, of.image, 0, 0)
    side = values.shape[0]
    middle = (side - 1) / 2
    top, left = np.unravel_index(values.argmax(), values.shape)
    assert abs(top - middle) <= 0.5
    assert abs(left - middle) <= 0.5
    assert np.allclose(values, values[::-1, ::-1])


def record(photo: str, view: int, method: str, **figures: float | None) -> dict[str, object]:
    return {"photo": photo, "view": view, "method": method, "figures": figures}


def test_differences_are_of_the_same_views() -> None:
    records = [
        record("a", 0, "grad-cam", gain_16=0.2),
        record("a", 0, "depth", gain_16=0.5),
        record("a", 1, "grad-cam", gain_16=0.1),
        record("a", 1, "depth", gain_16=0.2),
        record("b", 0, "grad-cam", gain_16=0.4),
        record("b", 0, "depth", gain_16=0.3),
        record("c", 0, "depth", gain_16=9.0),  # without the other
        record("d", 0, "grad-cam", gain_16=None),
        record("d", 0, "depth", gain_16=5.0),
    ]
    found = difference(records, "depth", "grad-cam", "gain_16", 0)
    assert found is not None
    assert found.mean == pytest.approx((0.3 + 0.1 - 0.1) / 3)
    assert found.views == 3
    assert found.photos == 2
    assert found.low == pytest.approx(-0.1)
    assert found.high == pytest.approx(0.2)
    table = paired_table(records, 0)
    assert "+0.100 [-0.100, +0.200]" in table
    assert "grad-CAM" not in table.splitlines()[-1]
    assert paired_table([record("a", 0, "depth", gain_16=1.0)], 0) == ""
