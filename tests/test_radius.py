"""Validity radii: against the half-spaces written out by autograd, and by what happens at them."""

from __future__ import annotations

from math import inf

import pytest
import torch
from torch import Tensor, nn

from guidxmage import Explainer
from guidxmage.errors import InputError, UnsupportedOperatorError
from guidxmage.explanation import Explanation
from guidxmage.preprocessing import Preprocessing
from guidxmage.proof.radius import validity_radius
from guidxmage.proof.reach import reaches
from tests.laws import random_like
from tests.test_certificate import NETWORKS, SHAPE, seeded


def small() -> nn.Module:
    return seeded(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 2, 2), nn.LeakyReLU(0.2),
        nn.MaxPool2d(2, 1), nn.Flatten(), nn.Linear(8, 3), nn.Hardtanh(-0.2, 0.3), nn.Linear(3, 3),
    ).double()  # fmt: skip


X = random_like((1, 6, 6), 5)


def explained(network: nn.Module, image: Tensor = X) -> Explanation:
    return Explainer(network).explain(image)


def by_autograd(network: nn.Module, image: Tensor) -> tuple[float, float]:
    """min m/‖row‖₂ and min m/‖row‖₁ over all ReLUs, clamps and windows of `small`."""
    leaf = image[None].clone().requires_grad_()
    found, value = [], leaf
    for layer in network:  # type: ignore[attr-defined]
        margins: list[Tensor] = []
        if isinstance(layer, nn.ReLU | nn.LeakyReLU):
            margins = [value.abs().flatten()]
        elif isinstance(layer, nn.Hardtanh):
            margins = [(value - bound).abs().flatten() for bound in (-0.2, 0.3)]
        elif isinstance(layer, nn.MaxPool2d):
            windows = value.unfold(2, 2, 1).unfold(3, 2, 1).flatten(-2)
            best = windows.argmax(-1, keepdim=True)
            gaps = (windows.gather(-1, best) - windows).flatten(0, -2)
            margins = [torch.stack([g[n] for g, b in zip(gaps, best.flatten(), strict=True)
                                    for n in range(4) if n != int(b)])]  # fmt: skip
        for margin in margins[0] if margins else []:
            (row,) = torch.autograd.grad(margin, leaf, retain_graph=True)
            found.append((margin.item(), float(row.norm()), float(row.abs().sum())))
        if len(margins) > 1:
            for margin in margins[1]:
                (row,) = torch.autograd.grad(margin, leaf, retain_graph=True)
                found.append((margin.item(), float(row.norm()), float(row.abs().sum())))
        value = layer(value)
    alive = [(m, two, one) for m, two, one in found if one > 0]
    return min(m / two for m, two, _ in alive), min(m / one for m, _, one in alive)


def test_radii_are_the_distances_to_the_half_spaces() -> None:
    network = small()
    found = validity_radius(explained(network))
    l2, linf = by_autograd(network, X)
    assert found.method == "exact"
    assert found.l2 == pytest.approx(l2, rel=1e-9)
    assert found.linf == pytest.approx(linf, rel=1e-9)


def test_inside_nothing_changes_and_the_nearest_decision_ends_it() -> None:
    explanation = explained(small())
    found = validity_radius(explanation)
    draw = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, (200, *X.shape), generator=draw).double() * 2 - 1
    assert bool(explanation.symbolic_model.follows(X + 0.999 * found.linf * signs).all())
    steps = torch.randn(200, *X.shape, generator=draw, dtype=torch.float64)
    steps /= steps.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)
    assert bool(explanation.symbolic_model.follows(X + 0.999 * found.l2 * steps).all())
    # Along the signs of the nearest decision's row the region ends at the radius.
    lengths = [
        explanation.symbolic_model.step_length(direction)  # type: ignore[union-attr]
        for direction in _signs_of_rows(small(), X)
    ]
    assert min(step.length for step in lengths) == pytest.approx(found.linf, rel=1e-6)


def _signs_of_rows(network: nn.Module, image: Tensor) -> list[Tensor]:
    leaf = image[None].clone().requires_grad_()
    value, found = leaf, []
    for layer in network:  # type: ignore[attr-defined]
        if isinstance(layer, nn.ReLU | nn.LeakyReLU | nn.Hardtanh):
            for entry in value.flatten():
                (row,) = torch.autograd.grad(entry, leaf, retain_graph=True)
                found += [row[0].sign(), -row[0].sign()]
        if isinstance(layer, nn.MaxPool2d):
            windows = value.unfold(2, 2, 1).unfold(3, 2, 1).flatten(-2)
            for offers in windows.flatten(0, -2):
                for offer in offers:
                    (row,) = torch.autograd.grad(offers.max() - offer, leaf, retain_graph=True)
                    found.append(-row[0].sign())
        value = layer(value)
    return [direction for direction in found if bool(direction.any())]


@pytest.mark.parametrize("name", NETWORKS)
def test_the_lower_bound_is_one(name: str) -> None:
    explanation = explained(NETWORKS[name](), random_like(SHAPE, 6).float())
    exact = validity_radius(explanation)
    bound = validity_radius(explanation, columns=1)
    assert (exact.method, bound.method) == ("exact", "lower bound")
    assert 0 < bound.linf <= exact.linf
    assert bound.l2 <= exact.l2


def test_one_layer_is_bounded_exactly() -> None:
    explanation = explained(seeded(nn.Flatten(), nn.Linear(36, 4), nn.ReLU()).double())
    exact = validity_radius(explanation)
    assert validity_radius(explanation, columns=1).linf == pytest.approx(exact.linf, rel=1e-5)


def test_radii_are_in_the_explained_space() -> None:
    network = small()
    pixels = X.clamp(0, 1)
    plain = Preprocessing(mean=(0.0,), std=(1.0,))
    scaled = Preprocessing(mean=(0.0,), std=(0.5,))
    one = validity_radius(Explainer(network, preprocessing=plain).explain(pixels))
    doubled = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), network).double().eval()
    with torch.no_grad():
        doubled[0].weight.fill_(0.5)  # type: ignore[union-attr,operator]
    two = validity_radius(Explainer(doubled, preprocessing=scaled).explain(pixels))
    assert two.linf == pytest.approx(one.linf, rel=1e-9)
    assert two.l2 == pytest.approx(one.l2, rel=1e-9)


def test_on_the_edge_the_radius_is_zero_and_dead_layers_have_none() -> None:
    network = seeded(nn.Flatten(), nn.Linear(36, 4, bias=False), nn.ReLU(), nn.Linear(4, 3))
    assert validity_radius(explained(network.double(), torch.zeros(1, 6, 6))).l2 == 0
    dead = nn.Sequential(nn.Flatten(), nn.Linear(36, 4), nn.ReLU(), nn.Linear(4, 3)).eval()
    with torch.no_grad():
        dead[1].weight.zero_()  # type: ignore[union-attr,operator]
        dead[1].bias.fill_(-1)  # type: ignore[union-attr,operator]
    assert validity_radius(explained(dead.double())).linf == inf


def test_what_has_no_radius_is_refused() -> None:
    smooth = seeded(nn.Flatten(), nn.Linear(36, 4), nn.GELU()).double()
    with pytest.raises(UnsupportedOperatorError, match=r"aten\.gelu"):
        validity_radius(explained(smooth))
    with pytest.raises(InputError, match="single image"):
        validity_radius(explained(small(), X[None]))


# --- along directions ----------------------------------------------------------------------------


def test_a_reach_ends_where_the_trail_does() -> None:
    explanation = explained(small())
    found = reaches(explanation)
    assert [one.direction for one in found] == [
        "towards zero", "score up, along Δ", "score down, along −Δ",
    ]  # fmt: skip
    radius = validity_radius(explanation)
    ways = (-X, explanation.weights, -explanation.weights)
    for one, way in zip(found, ways, strict=True):
        assert radius.l2 <= one.l2 < inf
        assert radius.linf <= one.linf
        unit = way / way.norm()
        assert one.linf == pytest.approx(one.l2 * float(unit.abs().max()))
        model = explanation.symbolic_model
        assert bool(model.follows(X + 0.999 * one.l2 * unit))
        (difference,) = model.replay((X + 1.001 * one.l2 * unit)[None]).first_difference
        assert difference is not None
        assert (difference.site, difference.position) == (one.site, one.position)
        assert f"{one.site} at" in str(one)


def test_the_nearest_decision_is_reached_at_the_radius() -> None:
    explanation = explained(small())
    radius = validity_radius(explanation)
    draw = torch.randn(
        400, *X.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    found = reaches(explanation, {str(n): way for n, way in enumerate(draw)})
    assert min(one.l2 for one in found) >= radius.l2


def test_reaches_of_float32_results_are_those_of_float64() -> None:
    wide, narrow = (
        Explainer(small().to(d)).explain(X.to(d)) for d in (torch.float64, torch.float32)
    )
    for a, b in zip(reaches(wide), reaches(narrow), strict=True):
        assert b.l2 == pytest.approx(a.l2, rel=1e-3)
        assert b.site == a.site


def test_where_nothing_flips_and_what_has_no_reach() -> None:
    linear = explained(seeded(nn.Flatten(), nn.Linear(36, 3)).double())
    assert all(one.l2 == inf for one in reaches(linear))
    assert reaches(linear)[0].to_json()["l2"] is None
    assert str(reaches(linear)[0]) == "towards zero: no decision ever flips"
    with pytest.raises(InputError, match="one image and target"):
        reaches(Explainer(small()).explain(X, [0, 1]))
    pixels = Preprocessing(mean=(0.5,), std=(0.2,))
    image = torch.rand(1, 6, 6, generator=torch.Generator().manual_seed(2))
    there = Explainer(small(), preprocessing=pixels).explain(image)
    assert [one.direction for one in reaches(there)][:2] == ["towards black", "towards white"]
    smooth = explained(seeded(nn.Flatten(), nn.Linear(36, 3), nn.GELU()).double())
    with pytest.raises(UnsupportedOperatorError, match="gelu"):
        reaches(smooth)


class Stacked(nn.Module):
    """Two convolutions of the image, stacked before its first dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 2, 3), nn.Conv2d(1, 2, 3)
        self.head = nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.stack([self.a(x), self.b(x)]).relu()
        return self.head(y.sum(0).mean((2, 3)))


def test_values_of_several_rows_for_one_image() -> None:
    network = seeded(Stacked()).double()[0]  # type: ignore[index]
    leaf = X[None].clone().requires_grad_()
    before = torch.stack([network.a(leaf), network.b(leaf)]).flatten()
    rows = [torch.autograd.grad(v, leaf, retain_graph=True)[0] for v in before]
    found = validity_radius(explained(network))
    pairs = list(zip(before.tolist(), rows, strict=True))
    assert found.linf == pytest.approx(min(abs(v) / float(r.abs().sum()) for v, r in pairs))
    assert found.l2 == pytest.approx(min(abs(v) / float(r.norm()) for v, r in pairs))
