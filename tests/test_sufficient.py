"""Sufficient pixels and decisions within a radius, against brute force that shares no code."""

from __future__ import annotations

from dataclasses import replace
from math import isfinite
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from guidxmage import Explainer, InputError
from guidxmage.adversarial import SufficientPixels, certify, sufficient
from guidxmage.adversarial.certified.case import Case, goal_of
from guidxmage.adversarial.certified.decision import Decider
from guidxmage.adversarial.certified.domains import Domains
from guidxmage.engine.linear_regions.relu_form import ReluForm
from tests.blobs import trained_on_blobs
from tests.test_exact import brute_force, image, tiny

Flags = NDArray[Any]


# --- a decision within a radius ------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("seed", range(6))
def test_decisions_are_those_of_brute_force(seed: int, norm: str) -> None:
    model, X = tiny(seed, 4, 4, 3), image(seed, 4)
    draw = np.random.default_rng(seed)
    for target in (None, (int(model(X).argmax()) + 1) % 3):
        free: Any = draw.random(4) < 0.7
        free[seed % 4] = True
        least = brute_force(model, X, norm, target, free)
        for share in (0.5, 0.999, 1.001, 1.6):
            within = share * (least if isfinite(least) else 1.0)
            found = certify(
                model, X, norm=norm, target=target, mask=torch.from_numpy(free)[None], within=within
            )
            expected = "sample" if share > 1 and isfinite(least) else "proved"
            assert found.verdict == expected
            assert found.proved == (expected == "proved")
            if expected == "sample":
                Z = found.adversarial
                assert Z is not None
                assert found.size <= within
                assert least <= found.size * (1 + 1e-9)
                assert bool((X[0] == Z)[0, 0, ~free].all())
                assert int(model(Z[None]).argmax()) == found.to_class != found.from_class
                assert target is None or found.to_class == target


def test_rather_than_another_class() -> None:
    """One rival alone: the least radius over all rivals is that of the best of them."""
    for seed in range(6):
        model, X = tiny(seed, 4, 4, 3), image(seed, 4)
        own, least = int(model(X).argmax()), brute_force(model, X, "linf")
        if not isfinite(least):
            continue
        others = [k for k in range(3) if k != own]
        below = [
            certify(model, X, norm="linf", within=0.999 * least, rather_than=k) for k in others
        ]
        above = [
            certify(model, X, norm="linf", within=1.001 * least, rather_than=k) for k in others
        ]
        assert all(one.proved for one in below)
        assert any(one.verdict == "sample" for one in above)
        for k, one in zip(others, above, strict=True):
            if one.adversarial is not None:
                scores = model(one.adversarial[None])[0]
                assert scores[k] > scores[own]


def test_what_is_given_wrong_is_said() -> None:
    model, X = tiny(0), image(0)
    for wrong in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="within"):
            certify(model, X, norm="linf", within=wrong)
        with pytest.raises(InputError, match="epsilon"):
            sufficient(model, X, wrong)
    own = int(model(X).argmax())
    for rival in (own, 3, -1):
        with pytest.raises(InputError, match="another class"):
            certify(model, X, within=0.1, rather_than=rival)
        with pytest.raises(InputError, match="another class"):
            sufficient(model, X, 0.1, rather_than=rival)
    with pytest.raises(InputError, match="needs within"):
        certify(model, X, rather_than=(own + 1) % 3)  # type: ignore[call-overload]
    with pytest.raises(InputError, match="leave out label"):
        sufficient(model, X, 0.1, label=(own + 1) % 3)
    with pytest.raises(InputError, match="order"):
        sufficient(model, X, 0.1, order=[0, 1, 1])
    with pytest.raises(InputError, match="order"):
        sufficient(model, X, 0.1, order="random")
    with pytest.raises(InputError, match="outside"):
        sufficient(model, X + 1, 0.1)
    with pytest.raises(InputError, match="one image"):
        sufficient(model, X.repeat(2, 1, 1, 1), 0.1)


def test_time_over_is_unknown_and_sound() -> None:
    explainer, images = trained_on_blobs(_pooled, 6)
    found = sufficient(explainer, images[0], 0.2, seconds=1e-9)
    assert not found.minimal
    assert "seconds" in found.reason
    assert bool(found.sufficient_set.all())
    assert found.claim.proved


# --- sufficient pixels ---------------------------------------------------------------------------


def safe(model: nn.Sequential, X: Tensor, norm: str, epsilon: float, free: Flags) -> bool:
    """Whether nothing within epsilon changes the class, by every region of the network."""
    return not free.any() or brute_force(model, X, norm, None, free) > epsilon


@pytest.mark.parametrize("seed", range(14))
def test_every_verdict_is_that_of_brute_force(seed: int) -> None:
    model, X = tiny(seed, 4, 3, 3), image(seed, 4)
    norm = "linf" if seed % 3 else "l2"
    epsilon = float(np.random.default_rng(seed).uniform(0.05, 0.6))
    order = None if seed % 2 else list(np.random.default_rng(seed).permutation(4))
    found = sufficient(model, X, epsilon, norm=norm, order=order or "contribution")
    assert found.minimal
    free = found.irrelevant[0].numpy()
    assert safe(model, X, norm, epsilon, free)
    for pixel in np.flatnonzero(found.needed[0].numpy()):
        more = free.copy()
        more[pixel] = True
        assert not safe(model, X, norm, epsilon, more)
    check_counterexamples(found, model)
    if order is not None:  # then the set is that of one pixel after the other
        kept = np.zeros(4, dtype=bool)
        for pixel in order:
            kept[pixel] = True
            kept[pixel] = safe(model, X, norm, epsilon, kept)
        assert kept.tolist() == free.tolist()


def check_counterexamples(found: SufficientPixels, model: nn.Module) -> None:
    """Every needed unit has an image that changes the answer, and no more than it may."""
    needed = [n for n, verdict in enumerate(found.verdicts) if verdict == "needed"]
    assert found.counterexample_of.tolist() == needed
    for unit, Z in zip(needed, found.counterexamples, strict=True):
        delta = Z - found.image
        size = delta.abs().max() if found.norm == "linf" else delta.norm()
        assert float(size) <= found.epsilon
        assert 0 <= float(Z.min()) <= float(Z.max()) <= 1
        changed = (delta != 0).any(0)
        assert bool(changed[found.parts == unit].any())
        assert not bool(changed[~(found.irrelevant | (found.parts == unit))].any())
        scores = model(Z[None])[0]
        if found.rather_than >= 0:
            assert scores[found.rather_than] > scores[found.from_class]
        else:
            assert int(scores.argmax()) != found.from_class


def check_free(found: SufficientPixels, model: nn.Module, seed: int) -> None:
    """Random changes of the free pixels, into the corners too, never change the answer."""
    draw = torch.Generator().manual_seed(seed)
    shape = (1000, *found.image.shape)
    delta = torch.rand(shape, generator=draw, dtype=torch.float64) * 2 - 1
    delta[::2] = delta[::2].sign()
    delta = delta * found.irrelevant
    if found.norm == "l2":
        delta /= delta.flatten(1).norm(dim=1).clamp_min(1e-12).reshape(-1, 1, 1, 1)
    scores = model((found.image + found.epsilon * delta).clamp(0, 1))
    rivals = scores.clone()
    rivals[:, found.from_class] = -torch.inf
    best = rivals.amax(1) if found.rather_than < 0 else scores[:, found.rather_than]
    assert bool((scores[:, found.from_class] > best).all())


def _pooled() -> nn.Module:
    first = nn.Conv2d(1, 2, 3), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten()
    return nn.Sequential(*first, nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))


def _clamped() -> nn.Module:
    first = nn.Conv2d(1, 3, 3, 2), nn.Hardtanh(-0.5, 0.8), nn.Flatten(), nn.Linear(12, 10)
    return nn.Sequential(*first, nn.LeakyReLU(0.1), nn.Linear(10, 4))


def _normed() -> nn.Module:
    first = nn.Conv2d(1, 4, 3, 2), nn.BatchNorm2d(4), nn.ReLU6(), nn.AvgPool2d(2), nn.Flatten()
    return nn.Sequential(*first, nn.Linear(4, 10), nn.ReLU(), nn.Linear(10, 4))


@pytest.mark.parametrize("make", [_pooled, _clamped, _normed])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_free_pixels_change_nothing(make: type[nn.Module], norm: str) -> None:
    explainer, images = trained_on_blobs(make, 6)
    model = explainer.model.double()
    explainer = Explainer(model)
    draw = np.random.default_rng(0)
    seen = set()
    for number, X in enumerate(images[:4].double()):
        own = int(model(X[None]).argmax())
        rival = (own + 1 + number % 3) % 4 if number % 2 else None
        parts = None if number % 3 else torch.from_numpy(draw.integers(0, 9, (6, 6)))
        epsilon = float(draw.uniform(0.05, 0.3)) * (4 if norm == "l2" else 1)
        found = sufficient(
            explainer, X, epsilon, norm=norm, rather_than=rival, objects=parts, seconds=4
        )
        assert found.minimal == ("unknown" not in found.verdicts) == (not found.reason)
        check_free(found, model, number)
        check_counterexamples(found, model)
        seen |= set(found.verdicts)
    assert {"needed", "irrelevant"} <= seen


def test_objects() -> None:
    """Units are objects; what is ignored stays fixed; single objects are asked about, too."""
    explainer, images = trained_on_blobs(_pooled, 6)
    labels = torch.zeros(6, 6, dtype=torch.int64)
    labels[:3, :3], labels[3:, 3:], labels[0, 5] = 1, 2, 255
    for X in images[:4].double():
        found = sufficient(explainer, X, 0.15, objects=labels)
        assert found.names == ("background", "object 1", "object 2")
        assert int(found.parts[0, 5]) == -1
        assert bool(found.sufficient_set[0, 5])
        for unit in range(3):
            inside = found.parts == unit
            outside = (found.parts >= 0) & ~inside
            for free, said in ((outside, found.suffices[unit]), (inside, found.cannot_flip[unit])):
                one = certify(explainer, X, norm="linf", mask=free, within=0.15)
                assert {"proved": "proved", "refuted": "sample"}[said] == one.verdict
        assert found.irrelevant[found.parts == 0].unique().numel() == 1


def test_what_cannot_be_bounded_is_attacked_all_the_same() -> None:
    """A smooth network: what is needed is shown, nothing is proved, and the reason is given."""
    explainer, images = trained_on_blobs(_smooth, 6)
    labels = torch.arange(4).reshape(2, 2).repeat_interleave(3, 0).repeat_interleave(3, 1)
    found = sufficient(explainer, images[0], 0.9, objects=labels)
    assert set(found.verdicts) == {"needed"}
    check_counterexamples(found, Explainer(explainer.model, dtype=torch.float64).model)
    found = sufficient(explainer, images[0], 0.01, objects=labels)
    assert set(found.verdicts) == {"unknown"}
    assert "gelu" in found.reason


def _smooth() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 12), nn.GELU(), nn.Linear(12, 4))


# --- bounds --------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_bounds_hold_in_every_branch(norm: str) -> None:
    """Whatever slopes and multipliers: no point of a branch is above the branch's bound."""
    draw = np.random.default_rng(0)
    for seed in range(6):
        model, X = tiny(seed, 4, 6, 5), image(seed, 4)
        own = model(X).argmax(1)
        every = torch.ones_like(X[0], dtype=torch.bool)
        case = Case(Explainer(model), X, goal_of(own, None, None), norm, every)
        decider = Decider(case, 0.4, 100)
        relaxed, root = decider.root(np.ones(4, dtype=bool))
        both = root.domains
        for _ in range(3):
            open_ = both.open
            numbers = np.where(open_.any(1), (open_ * draw.random(open_.shape)).argmax(1), 0)
            kept = np.flatnonzero(open_.any(1))
            both = Domains.joined([both, both.take(kept).split(numbers[kept])])
        points = decider.ascent.fitted(draw.uniform(-0.5, 0.5, (3000, 4)), np.ones((1, 4), bool))
        z, values = relaxed.form.run(points)
        reached = values @ relaxed.goals.T
        for steps in (0, 1, 9):
            bound = relaxed.bound(both, steps)
            for row, high in enumerate(bound.high):
                sign = both.sign[row]
                inside = ((sign == 0) | (sign * z >= 0)).all(1)
                goal = reached[inside] @ both.weights[row]
                assert goal.max(initial=-np.inf) <= high


def test_what_overflows_is_not_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums that are no numbers say nothing."""
    model, X = tiny(1, 4, 6, 5), image(1, 4)
    written = Case.form

    def huge(self: Case, most: int = 5000) -> ReluForm:
        form = written(self, most)
        return replace(form, rows=form.rows * 1e250)

    monkeypatch.setattr(Case, "form", huge)
    found = sufficient(model, X, 0.01)
    assert "not finite" in found.reason
    assert not found.irrelevant.any()
