"""The bound on rounding holds where numbers cancel, and where maxima choose among what is left."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from guidxmage import Explainer, InputError
from guidxmage.engine.rules import RULES, convolution
from tests.laws import random_like

Body = Callable[["Cancelling", Tensor], Tensor]


class Cancelling(nn.Module):
    """Differences of large numbers, a body that chooses or sums, and a linear layer."""

    def __init__(self, body: Body) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            self.conv = nn.Conv2d(3, 6, 3, bias=False)
            self.zero_sum = nn.Conv2d(3, 6, 3)
            self.deep = nn.Conv2d(6, 6, 3, padding=1)
            self.norm = nn.BatchNorm2d(6)
            self.body = body
            with torch.no_grad():
                self.zero_sum.weight.sub_(self.zero_sum.weight.mean((1, 2, 3), keepdim=True))
                features = self.body(self, torch.zeros(1, 3, 12, 12)).flatten(1)
            self.head = nn.Linear(features.shape[1], 2)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.body(self, x).flatten(1))
        return scores


def _ceiling(x: Tensor, at: float = 0.2) -> Tensor:
    """min(x, at), by a difference that loses its digits."""
    return x - F.relu(x - at)


BODIES: dict[str, Body] = {
    "largest of windows": lambda m, x: F.max_pool2d(_ceiling(m.conv(x)), 3),
    "largest of parts": lambda m, x: F.adaptive_max_pool2d(_ceiling(m.conv(x)), 2),
    "largest of all": lambda m, x: _ceiling(m.conv(x)).amax((2, 3)),
    "smallest": lambda m, x: (-_ceiling(m.conv(x))).amin((2, 3)),
    "larger of two": lambda m, x: torch.maximum(_ceiling(m.conv(x)), _ceiling(m.conv(x.flip(3)))),
    "rectified": lambda m, x: F.relu(_ceiling(m.conv(x)) - 0.2),
    "clamped": lambda m, x: (_ceiling(m.conv(x)) - 0.2).clamp(0, 1),
    "clamped to a third": lambda m, x: (_ceiling(m.conv(x)) * 3).clamp(0.6, 2),
    "twice": lambda m, x: F.max_pool2d(_ceiling(m.deep(_ceiling(m.conv(x)))), 2),
    "zero-sum filters": lambda m, x: F.max_pool2d(m.zero_sum(x + 3), 2),
    "zero-sum filters twice": lambda m, x: F.relu(m.deep(m.zero_sum(x + 7))),
    "centred": lambda m, x: F.max_pool2d(x - x.mean((2, 3), keepdim=True), 2),
    "normalised": lambda m, x: F.relu(m.norm(m.conv(x)) - m.norm(m.conv(x).clone())),
    "averaged": lambda m, x: F.avg_pool2d(m.conv(x) - m.conv(x.flip(3)).flip(3), 2).relu(),
    "layer norm": lambda m, x: F.layer_norm(m.conv(x) * 1e-3 + 50, (10, 10)),
    "group norm": lambda m, x: F.group_norm(m.conv(x) + 100, 2),
}


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("scale", [1.0, 1e2, 1e4, 1e6])
def test_the_residual_lies_within_its_bound(name: str, scale: float) -> None:
    body = BODIES[name]
    model = Cancelling(body)
    X = (random_like((3, 3, 12, 12), 5) * scale).float()
    for images in (X, X[0]):
        explained = Explainer(model).explain(images, target="all")
        assert bool((explained.residual.abs() <= explained.residual_bound).all())
        assert explained.exactness in ("on region", "at input")


def test_a_wrong_sum_is_beyond_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """A convolution's bias that is off by one in a hundred is more than rounding."""

    def off(f: Any, x: Any, weight: Tensor, bias: Any = None, *rest: Any) -> Any:
        found = convolution.channel_bias(f, bias, weight)
        return None if found is None else found * 0.99

    rule = RULES["aten.conv2d.default"]
    monkeypatch.setitem(RULES, "aten.conv2d.default", replace(rule, constant=off))
    explained = Explainer(Cancelling(BODIES["zero-sum filters"])).explain(
        random_like((3, 12, 12), 5).float()
    )
    assert explained.exactness == "not exact"


def test_errors_of_one_sign_are_judged_by_what_holds_at_worst() -> None:
    """A thousand maxima, each of many values that are equal but for their rounding: no error is
    undone by another, and the sum is off by more than independent errors would be."""

    def summed(m: Cancelling, x: Tensor) -> Tensor:
        total = F.max_pool2d(_ceiling(x, 0.1), 5).sum((1, 2, 3))
        return total[:, None].expand(-1, 6) * 0.01

    X = (random_like((2, 3, 100, 100), 5) * 1e2).float()
    explainer = Explainer(Cancelling(summed))
    explained = explainer.explain(X, target="all")
    assert bool((explained.residual.abs() <= explained.residual_bound).all())
    recording = explained.symbolic_model.network.program.record(X)  # type: ignore[union-attr]
    pulled = explained.symbolic_model.network.program.pull(  # type: ignore[union-attr]
        recording.trail, torch.eye(2)[:1].repeat(2, 1), recording.norms
    )
    likely = 6 * 2.0**-24 * pulled.variance.sqrt()
    assert bool((explained.residual[:, 0].abs() > likely).any()), "no such case any more"


@pytest.mark.parametrize("scale", [1e20, 1e30, 1e38])
def test_numbers_beyond_the_range_are_refused(scale: float) -> None:
    model = Cancelling(BODIES["largest of parts"])
    with pytest.raises(InputError, match=r"overflows|NaN or Inf"):
        Explainer(model).explain((random_like((3, 12, 12), 5) * scale).float(), target="all")
