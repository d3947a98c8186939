"""Integrated gradients from regions: completeness to rounding, agreement with quadrature."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from guidxmage import Explainer
from guidxmage.analysis.integrated_gradients import integrated_gradients
from guidxmage.errors import InputError, UnsupportedOperatorError
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


@pytest.mark.parametrize("sampled", [False, True])
def test_the_profile_is_the_network_at_its_knots(sampled: bool) -> None:
    network = NETWORKS["pools"]().double()
    R = random_like(SHAPE, 9)
    found = integrated_gradients(
        Explainer(network), X, [1, 3], baseline=R, sampled=sampled, **PIECES[sampled]
    )
    assert found.scores.shape == (len(found.knots), 2)
    assert len(found.knots) == found.pieces + 1
    assert (float(found.knots[0]), float(found.knots[-1])) == (0.0, 1.0)
    assert bool((found.knots.diff() > 0).all())
    with torch.no_grad():
        points = R + found.knots.reshape(-1, 1, 1, 1) * (X - R)
        torch.testing.assert_close(found.scores, network(points)[:, [1, 3]], rtol=1e-10, atol=1e-11)
        middles = (found.knots[1:] + found.knots[:-1]) / 2
        between = network(R + middles.reshape(-1, 1, 1, 1) * (X - R))[:, [1, 3]]
    straight = (found.scores[1:] + found.scores[:-1]) / 2
    assert torch.allclose(between, straight, rtol=1e-10, atol=1e-11) is not sampled
    areas = (found.slopes * found.knots.diff()[:, None]).sum(0)
    torch.testing.assert_close(areas, found.scores[-1] - found.scores[0])


PIECES: dict[bool, dict[str, int]] = {False: {}, True: {"pieces": 12}}


def test_the_profile_is_drawn() -> None:
    found = integrated_gradients(Explainer(NETWORKS["pools"]().double(), name="$small$"), X, 1)
    figure = found.figure(marks=[0.1, 0.7], words="samples")
    figure.canvas.draw()
    words = [text.get_text() for text in figure.texts]
    assert words[0] == "$small$: class 1"
    assert f"{found.pieces} regions, walked one by one: exact" in words[1]
    (_, below) = figure.axes
    (marked,) = [line for line in below.get_lines() if line.get_label() == "samples (2)"]
    number = int((found.knots[1:-1] <= 0.7).sum())
    assert marked.get_ydata()[1] == pytest.approx(float(found.slopes[number, 0]))
