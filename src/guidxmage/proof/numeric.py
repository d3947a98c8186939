"""How far the printed numbers are from exact ones: the errors of rounding, layer by layer.

Along a fixed trail every operator is affine, so that the error of the score is exactly the sum over
layers of ⟨g, δ⟩: δ what the layer itself rounded, g the cotangent of its output. In float64 such a
sum closes to about 1e-14.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import isfinite, nan
from typing import Any

import torch
from torch import Tensor

from guidxmage.engine.call import Call
from guidxmage.engine.program import Program
from guidxmage.engine.rules import rule_of
from guidxmage.engine.trail import Trail
from guidxmage.proof.modular_operators import BATCH_NORM

UNIT = 2.0**-53


@dataclass(frozen=True)
class Numeric:
    """The printed Δ, b and score against a float64 run along the same trail, nothing folded.

    weights, contributions: relative 2-norm of the difference, and largest of all entries; bias and
    score: differences. ledger: call site → what rounding there moved the score by, largest first;
    unexplained: what the ledger leaves of the score's difference. bound: a-priori bound on the
    error of the float64 score itself, to first order.
    """

    weights: float
    weights_largest: float
    contributions: float
    bias: float
    score: float
    ledger: dict[str, float]
    unexplained: float
    bound: float


@dataclass(frozen=True)
class Exact:
    """A float64 run along a trail: Δ (1, *input shape), b by site, and the score ⟨Δ, X⟩ + b."""

    weights: Tensor
    sites: dict[str, float]
    score: float
    cotangents: dict[int, Tensor]

    @property
    def bias(self) -> float:
        """b, the sum over all call sites."""
        return sum(self.sites.values())


def exact_run(program: Program, trail: Trail, X: Tensor, cotangent: Tensor) -> Exact:
    """Pull a cotangent (1, classes) through a float64 program whose calls are unfolded."""
    cotangents: dict[int, Tensor] = {}

    def keep(call: Call, g: Tensor) -> None:
        cotangents[call.id] = g.clone()

    pulled = program.pull(trail, cotangent, visit=keep)
    sites = {site: float(share) for site, share in pulled.bias_by_site.items()}
    score = float((pulled.weights * X).sum()) + sum(sites.values())
    return Exact(pulled.weights, sites, score, cotangents)


@torch.no_grad()
def ledger(
    wide: Program, trail: Trail, values: Mapping[int, Tensor], cotangents: Mapping[int, Tensor]
) -> tuple[dict[str, float], float]:
    """Each call's share of the score's error, and a bound on what float64 itself adds.

    wide: the float64 program, unfolded; values: what the deployed run computed (`fidelity.Run`).
    """
    found: dict[str, float] = {}
    bound = 0.0
    for call in wide.calls:
        g = cotangents.get(call.id)
        if g is None:
            continue
        args = call.arguments(values, 1)
        local = values[call.id] - wide.along(call, trail, args, 1)
        share = float((g * local).sum())
        if not isfinite(share):  # what nothing is taken from, a pool's padding with −∞
            share = float((g * torch.where(g == 0, 0, local)).sum())
        found[call.site] = share
        rounded = _rounded(call, args)
        if rounded is not None:
            bound += float((g.abs() * rounded).sum())
    return dict(sorted(found.items(), key=lambda item: -abs(item[1]))), bound


def _rounded(call: Call, args: list[Any]) -> Tensor | None:
    """γ_K (|W||v| + |b|): the most that a float64 call may round, entry by entry; None: nothing.

    N. J. Higham, Accuracy and Stability of Numerical Algorithms (2002), section 3.1.
    """
    rule = rule_of(call)
    if rule is None or rule.terms is None:
        return None
    sizes = [_absolute(arg) for arg in args]
    if call.op == BATCH_NORM:
        x, gamma, beta, mean, variance, _, eps = sizes
        view = (1, -1, *[1] * (x.ndim - 2))
        scale = (variance + eps).rsqrt() * (1 if gamma is None else gamma)
        largest = x * scale.view(view) + (mean * scale + (0 if beta is None else beta)).view(view)
        return torch.as_tensor(_gamma(6) * largest)
    result: Tensor = call.run(*sizes)
    return result.abs() * _gamma(_products(call, args, result))


def _products(call: Call, args: list[Any], result: Tensor) -> int:
    """The most products summed for one entry of a call's output."""
    weights = [a for a in call.args if isinstance(a, Tensor) and a.ndim > 1]
    if weights:
        return max(a.numel() // min(a.shape) for a in weights) + 2
    return 2 + sum(a.numel() for a in args if isinstance(a, Tensor)) // max(1, result.numel()) + 2


def _absolute(arg: Any) -> Any:
    if isinstance(arg, Tensor):
        return arg.abs() if arg.is_floating_point() else arg
    if isinstance(arg, float):
        return abs(arg)
    return [_absolute(item) for item in arg] if isinstance(arg, list) else arg


def _gamma(count: int) -> float:
    return count * UNIT / (1 - count * UNIT)


def measured(
    exact: Exact, carried: tuple[Tensor, float], Z: Tensor, printed: tuple[Tensor, float, float]
) -> Numeric:
    """How far printed Δ (1, …), b and score of an image Z (1, …) are from exact ones.

    carried: exact Δ and b in the space of Z; the ledger is filled in by `with_ledger`.
    """
    (there, exact_bias), (weights, bias, score) = carried, printed
    difference = weights.double() - there
    return Numeric(
        weights=_relative(difference, there),
        weights_largest=float(difference.abs().max()),
        contributions=_relative(difference * Z.double(), there * Z.double()),
        bias=bias - exact_bias,
        score=score - exact.score,
        ledger={},
        unexplained=nan,
        bound=nan,
    )


def with_ledger(found: Numeric, entries: dict[str, float], bound: float) -> Numeric:
    """With what a ledger says of the score's error."""
    left = found.score - sum(entries.values())
    return replace(found, ledger=entries, unexplained=left, bound=bound)


def _relative(difference: Tensor, size: Tensor) -> float:
    norm = float(torch.linalg.vector_norm(size))
    return float(torch.linalg.vector_norm(difference)) / norm if norm else 0.0
