"""Contributions by the conventions of Captum and Quantus, beside the libraries themselves."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from guidxmage import InputError
from guidxmage.interfaces.captum import ExactContributions, flat_targets
from guidxmage.interfaces.quantus import explain_func
from guidxmage.models import import_torchvision
from tests.laws import close, random_like
from tests.networks import CLASSES, SMALL_NETWORKS


class Many(nn.Module):
    """Any number of inputs and constants, scores of any shape."""

    def __init__(self, tail: tuple[int, ...]) -> None:
        super().__init__()
        self.tail = tail
        self.conv = nn.Conv2d(3, 4, 3)
        self.line = nn.Linear(5, 4)
        self.head = nn.Linear(4, int(np.prod(tail)))

    def forward(
        self, x: Tensor, y: Tensor | None = None, gate: Tensor | None = None, factor: float = 1.0
    ) -> Tensor:
        a = self.conv(x).relu().mean((2, 3))
        if y is not None:
            a = a + self.line(y).relu()
        if gate is not None:
            a = a * gate
        return self.head(a * factor).reshape(len(x), *self.tail)


def many(*tail: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Many(tail).double().eval()


X, Y = random_like((4, 3, 6, 6), 1), random_like((4, 5), 2)


def by_captum(model: nn.Module, inputs: Any, *args: Any) -> Any:
    attr = pytest.importorskip("captum.attr")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tensors = inputs if isinstance(inputs, tuple) else (inputs,)
        own = tuple(t.clone().requires_grad_() for t in tensors)
        return attr.InputXGradient(model).attribute(
            own if isinstance(inputs, tuple) else own[0], *args
        )


@pytest.mark.parametrize(
    "target",
    [1, -1, [0, 2, 1, 1], torch.tensor([2, 0, 1, 0]), torch.tensor(2), torch.tensor([1])],
    ids=str,
)
def test_targets_are_those_of_captum(target: Any) -> None:
    found = ExactContributions(many(3)).attribute(X, target)
    assert found.shape == X.shape
    close(found, by_captum(many(3), X, target))


@pytest.mark.parametrize("target", [(1, 0), [(0, 1), (1, 2), (1, 0), (0, 0)]], ids=str)
def test_scores_of_more_dimensions(target: Any) -> None:
    close(ExactContributions(many(2, 3)).attribute(X, target), by_captum(many(2, 3), X, target))


@pytest.mark.parametrize("tail", [(), (1,)], ids=str)
def test_one_score_for_each_row_needs_no_target(tail: tuple[int, ...]) -> None:
    close(ExactContributions(many(*tail)).attribute(X), by_captum(many(*tail), X))


def test_a_network_with_pools_and_batch_norm() -> None:
    images = random_like((3, 3, 16, 16), 3)
    for name in ("batch_norm_after", *list(SMALL_NETWORKS)[:6]):
        model = SMALL_NETWORKS[name]().double().eval()
        for target in (0, [4, 0, 2]):
            found = ExactContributions(model).attribute(images, target)
            close(found, by_captum(model, images, target), 1e-11)
    assert CLASSES > 4


def test_several_inputs_come_back_as_a_tuple() -> None:
    found = ExactContributions(many(3)).attribute((X, Y), 2)
    assert isinstance(found, tuple)
    for ours, theirs in zip(found, by_captum(many(3), (X, Y), 2), strict=True):
        close(ours, theirs)
    (alone,) = ExactContributions(many(3)).attribute((X,), 2)
    close(alone, by_captum(many(3), X, 2))


@pytest.mark.parametrize(
    "extra",
    [
        (None, None, 0.5),
        (None, random_like((1, 4), 5), 2.0),
        (None, random_like((4, 4), 6)),
        (Y, random_like((4, 4), 7), 0.3),
    ],
    ids=["plain", "for all", "for each", "input as constant"],
)
def test_constants_are_passed_along(extra: tuple[Any, ...]) -> None:
    target = [0, 2, 1, 1]
    found = ExactContributions(many(3)).attribute(X, target, extra)
    close(found, by_captum(many(3), X, target, extra))
    both = ExactContributions(many(3)).attribute((X, Y), target, extra[1:])
    for ours, theirs in zip(both, by_captum(many(3), (X, Y), target, extra[1:]), strict=True):
        close(ours, theirs)


def test_a_constant_that_only_looks_like_one_row_for_each_image_is_refused() -> None:
    with pytest.raises(InputError, match="explain the images one by one"):
        ExactContributions(many(3)).attribute(X, 0, (None, random_like((4,), 5)))


@pytest.mark.parametrize(
    "baselines", [0.5, random_like((1, 3, 6, 6), 8), random_like((4, 3, 6, 6), 9)]
)
def test_baselines(baselines: Any) -> None:
    """Σ A = f(X) − bias, and on a linear network f(X) − f(R)."""
    linear = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(32, 3)).double().eval()
    found = ExactContributions(linear).attribute(X, 1, baselines=baselines)
    R = torch.as_tensor(baselines, dtype=torch.float64).expand(X.shape)
    close(found.flatten(1).sum(1), (linear(X) - linear(R))[:, 1].detach(), 1e-11)


def test_baselines_of_several_inputs_and_constants_for_each() -> None:
    attribution, extra = ExactContributions(many(3)), (random_like((4, 4), 6),)
    plain = attribution.attribute((X, Y), 0, extra)
    moved = attribution.attribute((X, Y), 0, extra, baselines=(0.5 * X, None))
    close(moved[0], 0.5 * plain[0])
    close(moved[1], plain[1])


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (None, "name one with target"),
        (3, "out of range"),
        ((0, 1), "does not select one"),
        ([0, 1], "2 targets were given for 4"),
        (True, "does not select"),
        (0.5, "does not select"),
    ],
)
def test_targets_that_select_nothing(target: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        flat_targets(target, (4, 3))


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ((), "no input"),
        (X.round().long(), "tensors of floats"),
        ((X, Y[:2]), "batches of 2 and 4"),
        (X * torch.nan, "NaN"),
    ],
)
def test_inputs_that_cannot_be_used(inputs: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        ExactContributions(many(3)).attribute(inputs, 0)


def test_the_model_stays_as_it_was() -> None:
    model = many(3)
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    inputs = X.clone().requires_grad_()
    found = ExactContributions(model).attribute(inputs, 0)
    assert inputs.grad is None
    assert not found.requires_grad
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert not any(m._forward_hooks for m in model.modules())
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())
    with pytest.raises(InputError, match="training mode"):
        ExactContributions(many(3).train()).attribute(X, 0)


def test_weights_changed_between_calls_are_seen() -> None:
    model = many(3)
    attribution = ExactContributions(model)
    first = attribution.attribute((X, Y), 0)
    with torch.no_grad():
        model.head.weight.mul_(2)
    second = attribution.attribute((X, Y), 0)
    for a, b in zip(first, second, strict=True):
        close(2 * a, b)
    model.train()
    with pytest.raises(InputError, match="training mode"):
        attribution.attribute((X, Y), 0)


# --- Quantus -------------------------------------------------------------------------------------


def test_arrays_in_and_out() -> None:
    targets = np.array([0, 2, 1, 1])
    found = explain_func(many(3), X.numpy(), targets)
    assert isinstance(found, np.ndarray)
    assert found.shape == X.shape
    close(torch.from_numpy(found), by_captum(many(3), X, torch.from_numpy(targets)))


def test_an_attribution_serves_its_own_model_only() -> None:
    mine, other = many(3), many(3)
    with torch.no_grad():
        other.head.weight.mul_(3)
    attribution = ExactContributions(mine)
    arrays = (X.numpy(), np.array([0, 2, 1, 1]))
    own = explain_func(mine, *arrays, attribution=attribution)
    close(
        torch.from_numpy(explain_func(other, *arrays, attribution=attribution)),
        torch.from_numpy(3 * own),
    )


def test_a_metric_of_quantus() -> None:
    """Without biases f(X) = Σ A, so blackened pixels cost about what they contribute."""
    import_torchvision()  # which Quantus imports too
    quantus = pytest.importorskip("quantus")
    images = random_like((4, 1, 8, 8), 5).float().abs()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 2, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(72, 3, bias=False)
        ).eval()
    attribution = ExactContributions(model)
    state = np.random.get_state()  # Quantus draws its subsets from the global generator
    np.random.seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        metric = quantus.FaithfulnessCorrelation(
            nr_runs=100, subset_size=16, perturb_baseline="black", disable_warnings=True,
            similarity_func=quantus.similarity_func.correlation_pearson, return_aggregate=False,
        )  # fmt: skip
        scores = metric(
            model=model, x_batch=images.numpy(), y_batch=np.array([0, 1, 2, 0]), device="cpu",
            explain_func=explain_func, explain_func_kwargs={"attribution": attribution},
        )  # fmt: skip
    np.random.set_state(state)
    assert len(scores) == 4
    assert min(scores) > 0.5
