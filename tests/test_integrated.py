"""Integrated gradients from regions: completeness to rounding, agreement with quadrature."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from guidxmage import Explainer
from guidxmage.errors import InputError, UnsupportedOperatorError
from guidxmage.integrated import integrated_gradients
from tests.laws import random_like
from tests.test_certificate import NETWORKS, SHAPE, seeded

X = random_like(SHAPE, 8)


def quadrature(network: nn.Module, image: Tensor, R: Tensor, target: int, steps: int) -> Tensor:
    """The midpoint rule by autograd."""
    total = torch.zeros_like(image)
    for part in ((torch.arange(steps).double() + 0.5) / steps).split(500):
        points = (R + part.reshape(-1, 1, 1, 1) * (image - R)).requires_grad_()
        (gradient,) = torch.autograd.grad(network(points)[:, target].sum(), points)
        total += gradient.sum(0)
    return total / steps * (image - R)


@pytest.mark.parametrize("name", NETWORKS)
def test_exact_integrals_agree_with_ten_thousand_steps(name: str) -> None:
    network = NETWORKS[name]().double()
    R = random_like(SHAPE, 9)
    found = integrated_gradients(Explainer(network), X, 1, baseline=R)
    explanation = found.explanation
    with torch.no_grad():
        ends = network(torch.stack([X, R]))[:, 1]
    total = float(explanation.contributions.sum())
    assert found.exact
    assert found.pieces > 3
    assert total == pytest.approx(float(ends[0] - ends[1]), abs=1e-12)
    assert float(explanation.bias) == pytest.approx(float(ends[1]), abs=1e-12)
    assert abs(float(explanation.residual)) <= float(explanation.residual_bound)
    sampled = quadrature(network, X, R, 1, 10_000)
    size = float(explanation.contributions.norm())
    assert size > 0.01
    assert float((sampled - explanation.contributions).norm()) < 1e-3 * size


def test_within_one_region_it_is_the_contribution_matrix() -> None:
    network = seeded(nn.Flatten(), nn.Linear(162, 4)).double()
    explainer = Explainer(network)
    found = integrated_gradients(explainer, X, 2)
    assert found.pieces == 1
    torch.testing.assert_close(
        found.explanation.contributions, explainer.explain(X, 2).contributions
    )


def test_several_targets_at_once() -> None:
    explainer = Explainer(NETWORKS["pools"]().double())
    both = integrated_gradients(explainer, X, [0, 3]).explanation
    for place, target in enumerate((0, 3)):
        one = integrated_gradients(explainer, X, target).explanation
        torch.testing.assert_close(both[place].contributions, one.contributions)
        torch.testing.assert_close(both[place].bias, one.bias)


def test_samples_go_where_completeness_is_missing() -> None:
    explainer = Explainer(NETWORKS["pools"]().double())
    exact = integrated_gradients(explainer, X, 1).explanation
    gaps, errors = [], []
    for pieces in (4, 64, 1024):
        found = integrated_gradients(explainer, X, 1, pieces=pieces, sampled=True)
        assert not found.exact
        assert found.pieces == pieces
        gaps.append(abs(float(found.gap)))
        errors.append(float((found.explanation.contributions - exact.contributions).norm()))
    assert errors[2] < 1e-3 * float(exact.contributions.norm())
    assert errors[2] < errors[1] < errors[0]
    assert gaps[2] < 1e-4


def test_too_many_regions_are_refused_with_what_to_do() -> None:
    explainer = Explainer(NETWORKS["pools"]().double())
    with pytest.raises(InputError, match=r"more than 3 regions: 3 reach s = 0\.\d+ of 1"):
        integrated_gradients(explainer, X, 1, baseline=random_like(SHAPE, 9), pieces=3)


def test_bad_input() -> None:
    explainer = Explainer(NETWORKS["pools"]().double())
    with pytest.raises(InputError, match="one image at a time"):
        integrated_gradients(explainer, X[None])
    with pytest.raises(InputError, match="does not fit"):
        integrated_gradients(explainer, X, baseline=torch.zeros(5))
    with pytest.raises(InputError, match="NaN"):
        integrated_gradients(explainer, X, baseline=float("nan"))
    smooth = seeded(nn.Flatten(), nn.Linear(162, 4), nn.GELU()).double()
    with pytest.raises(UnsupportedOperatorError, match="gelu"):
        integrated_gradients(Explainer(smooth), X)
    assert not integrated_gradients(Explainer(smooth), X, sampled=True, pieces=64).exact


@pytest.mark.parametrize("image", [torch.zeros(SHAPE), torch.full(SHAPE, 0.5)])
def test_the_baseline_itself_and_constant_images(image: Tensor) -> None:
    explainer = Explainer(NETWORKS["pools"]().double())
    found = integrated_gradients(explainer, image.double(), 1)
    total = float(found.explanation.contributions.sum())
    assert abs(float(found.gap)) < 1e-12
    if not bool(image.any()):
        assert total == 0
