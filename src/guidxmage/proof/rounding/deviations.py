"""How much rounding explains of every single number: standard deviations, one for each.

A transposed run in floating point errs at every call: each sum of K products by about u·√K times
the root of its squared products (Higham & Mary, A New Approach to Probabilistic Rounding Error
Analysis, 2019). Such errors travel on as cotangents do, and where they are independent their
variances travel through the squared weights. So one run of variances through the network with
squared weights gives the standard deviation of every weight Δ_i and of every site's share of the
bias, in units of the unit roundoff u. Measured on ImageNet networks no weight is further off than
one of them; `DEVIATIONS` of them are what rounding explains.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import hypot, prod
from typing import Any

import torch
from torch import Tensor

from guidxmage.engine.calls.call import Call, Hole
from guidxmage.engine.program.program import Program
from guidxmage.engine.program.steps import constants_of
from guidxmage.engine.rules import rule_of, traits_of
from guidxmage.engine.trail.trail import Trail
from guidxmage.proof.modular.operators import short
from guidxmage.proof.rounding.magnitudes import with_magnitudes, without_magnitudes

DEVIATIONS = 4.0
# Shares of the bias are sums over positions, whose errors are not independent: measured up to 3.
SITE_DEVIATIONS = 16.0


@dataclass(frozen=True)
class Deviations:
    """Standard deviations in units of u: of Δ on the network's input (1, …), and by call site."""

    weights: Tensor
    sites: Mapping[str, float]


def unit_of(dtype: torch.dtype) -> float:
    """What a deviation is a multiple of, for a number of that dtype beside a float64 one.

    Both are rounded; in float64 by as much.
    """
    own, wide = (torch.finfo(kind).eps / 2 for kind in (dtype, torch.float64))
    return hypot(own, wide)


class RoundingModel:
    """Of one float64 program, unfolded; its squared weights serve all images and targets."""

    def __init__(self, wide: Program) -> None:
        self._wide = wide
        self.known = not wide.smooth and without_magnitudes(wide) is None
        self._squares: Program | None = None

    @torch.no_grad()
    def deviations(self, trail: Trail, cotangents: Mapping[int, Tensor]) -> Deviations | None:
        """Of one image and target, whose exact cotangents of every call (1, …) are given.

        None where an operator's coefficients are not known here, as those of smooth operators are
        not.
        """
        if not self.known:
            return None
        wide = self._wide
        if self._squares is None:
            self._squares = with_magnitudes(wide, torch.square)
        start = cotangents[wide.result]
        waiting: dict[int, Tensor] = {wide.result: torch.zeros_like(start)}
        sites: dict[str, float] = {}
        for own, call in zip(reversed(wide.calls), reversed(self._squares.calls), strict=True):
            variance = waiting.pop(call.id, None)
            if variance is None:
                continue
            arrived = self._arrived(own, trail, variance, cotangents[call.id], sites)
            for id_, part in zip(call.inputs, self._pulled(call, trail, arrived), strict=True):
                waiting[id_] = part if id_ not in waiting else waiting[id_] + part
        reached = waiting.get(0)
        weights = start.new_zeros(1, *wide.input_shape) if reached is None else reached.sqrt()
        return Deviations(weights, sites)

    def _arrived(
        self, call: Call, trail: Trail, variance: Tensor, g: Tensor, sites: dict[str, float]
    ) -> Tensor:
        """The variance of what a call sums, with its own roundings; notes its bias's deviation."""
        rule, frame = rule_of(call), self._wide.frame(call, 1, trail)
        assert rule is not None
        holes = self._holes(call)
        switched = None if rule.switched is None else rule.switched(*holes, **call.kwargs)
        if switched is not None:
            plane, factor = switched
            kept = frame.plane(g, plane)
            sites[call.site] = abs(factor) * float(_share(kept, variance, g))
        for constant in [] if switched is not None else constants_of(frame, rule, holes):
            sites[constant.site] = _share(constant.weighed, variance, g)
        terms = 1 if rule.terms is None else 1 + rule.terms(frame, *holes, **call.kwargs)
        total = torch.addcmul(variance, g, g, value=terms)
        return total.mul_(_largest_coefficient(self._wide, call))

    def _pulled(self, call: Call, trail: Trail, arrived: Tensor) -> list[Tensor]:
        """A call with squared weights transposed."""
        rule = rule_of(call)
        assert rule is not None
        assert self._squares is not None
        frame = self._squares.frame(call, 1, trail)
        sent = self._squares.pull_call(rule, frame, arrived, self._holes(call))
        return [part.abs() for part in sent if part is not None]

    def _holes(self, call: Call) -> list[Any]:
        wide, shapes = self._wide, self._wide.shapes(1)
        blanks = {id_: Hole(shapes[id_], wide.dtype, wide.device) for id_ in call.inputs}
        return call.arguments(blanks, 1)


def _share(constant: Tensor, variance: Tensor, g: Tensor) -> float:
    """The deviation of ⟨g, constant⟩: g's own errors, and those of summing over positions."""
    positions = prod(g.shape[2:])
    total = torch.addcmul(variance, g, g, value=positions)
    blind = [d for d in range(total.ndim) if d < constant.ndim and constant.shape[d] == 1]
    if constant.ndim == total.ndim and blind:
        total = total.sum(blind, keepdim=True)
    squared = constant if constant.dtype == torch.uint8 else constant.double().square()
    return float((squared * total).sum().sqrt())


def _largest_coefficient(program: Program, call: Call) -> float:
    """Of an average, whose coefficients c are no weights: their squares are at most c times this.

    1 for every other call.
    """
    if not traits_of(call).averages:
        return 1.0
    name = short(call)
    shape, out = program.shapes(1)[call.inputs[0]], program.shapes(1)[call.id]
    if name == "mean":
        return prod(out) / prod(shape)
    dims = int(name[-2])
    if name.startswith("adaptive"):
        pairs = zip(shape[-dims:], out[-dims:], strict=True)
        return 1 / prod([max(1, n // m) for n, m in pairs])
    return 1 / _fewest(call, dims)


def _fewest(call: Call, dims: int) -> int:
    """The fewest numbers that a window of an average pool may divide by."""
    defaults: list[Any] = [[], [], [0], False, True, None]
    given = list(call.args[1:7])
    kernel, _, padding, ceil_mode, with_zeros, divisor = [*given, *defaults[len(given) :]]
    if divisor:
        return abs(int(divisor))
    if ceil_mode:
        return 1
    sides = [*kernel] * (dims if len(kernel) == 1 else 1)
    if with_zeros:
        return prod(sides)
    edges = [*padding] * (dims if len(padding) == 1 else 1)
    return prod([max(1, side - edge) for side, edge in zip(sides, edges, strict=True)])
