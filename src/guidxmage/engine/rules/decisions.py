"""Piecewise-linear operators: what was decided on the image is kept, the rest is affine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import inf
from typing import Any

import torch
from torch import Tensor

from guidxmage.engine.calls.call import Call, Frame, Hole, Noted, is_active
from guidxmage.engine.rules import breakpoints as crossing
from guidxmage.engine.rules import rows
from guidxmage.engine.rules.affine import largest
from guidxmage.engine.rules.breakpoints import Crossings, halves
from guidxmage.engine.rules.choices import AboveLimit, BetweenBounds, TwoSlopes
from guidxmage.engine.rules.table import Rule, Traits, register
from guidxmage.engine.trail.decisions import Decisions

aten = torch.ops.aten


# --- two pieces: on or off -----------------------------------------------------------------------


def _slopes(on: Callable[..., Any], off: Callable[..., Any]) -> Callable[..., Tensor]:
    """v ↦ v·(on-slope where on, off-slope elsewhere), for both directions and cotangents."""

    def scaled(f: Frame, v: Tensor, *args: Any) -> Tensor:
        low, high = off(*args), on(*args)
        if isinstance(low, int | float) and low == 0:
            return f.switched(v) if high == 1 else f.switched(v) * high
        bits = f.plane(v)
        # low + (high − low)·bit, exactly `high` or `low` because a product with 0 or 1 is exact.
        return f.gate(v * high, bits) + f.gate(v * low, 1 - bits)

    return scaled


def _two_pieces(
    decide: Callable[..., Tensor],
    on: Callable[..., Any] = lambda *args: 1,
    off: Callable[..., Any] = lambda *args: 0,
    off_value: Callable[..., Any] | None = None,
    limit: Callable[..., Any] = lambda *args: 0,
    jumps: Callable[[Call], bool] | None = None,
    refuse: Callable[[Call], str | None] | None = None,
    slanted: bool = False,
) -> Rule:
    """An operator with one threshold: slopes on either side, a constant where it is off.

    slanted: a slope is neither 0 nor ±1, so that products are rounded.
    """
    scaled = _slopes(on, off)

    def record(f: Frame, x: Tensor, *args: Any) -> tuple[Tensor, Decisions]:
        value = f.call.run(x, *args)
        return value, Decisions.from_bits(decide(x, value, *args))

    def constant(f: Frame, x: Hole, *args: Any) -> Tensor | None:
        value = off_value(*args) if off_value else 0
        if value == 0:
            return None
        return f.for_rows((1 - f.taken().plane()).to(x.dtype) * value)

    return Rule(
        "decision",
        push=scaled,
        pull=lambda f, g, x, *args: [scaled(f, g, *args)],
        record=record,
        constant=constant if off_value else None,
        refuse=refuse,
        crossings=lambda f, x, *args: _threshold_crossings(f, x, limit(*args)),
        choices=("off", "on"),
        jumps=jumps,
        terms=(lambda f, x, *args, **kw: 1) if slanted else None,
        gain=lambda f, x, *args, **kw: max(1.0, abs(off(*args))),
        sums=False,
        growth=None if off_value else lambda f, x, *args: max(1.0, abs(off(*args))),
        rows=rows.elementwise,
        choice=(
            AboveLimit(lambda *args: (limit(*args), off_value(*args)))
            if off_value
            else TwoSlopes(off)
        ),
    )


def _threshold_crossings(f: Frame, x: Tensor, limit: Any = 0) -> Crossings:
    z, dz = halves(x)
    return crossing.threshold(z, dz, limit, f.plane(z).view(torch.bool), rows=f.rows, ties=f.ties)


def _record_relu(f: Frame, x: Tensor) -> Noted:
    decisions, done = f.decided(x, 0)
    if not done:
        x = x.relu_() if f.owned else f.call.run(x)
    return Noted(x, decisions)


register(
    "aten.relu.default",
    replace(_two_pieces(lambda x, y: y > 0), record=_record_relu),
    traits=Traits(residues="nothing", moves=True),
)


def _default_slope(slope: float = 0.01) -> float:
    return slope


register(
    "aten.leaky_relu.default",
    _two_pieces(lambda x, y, *args: x > 0, off=_default_slope, slanted=True),
    traits=Traits(residues="bounds", factors=True),
)
register(
    "aten.abs.default",
    _two_pieces(lambda x, y: x > 0, off=lambda: -1),
    traits=Traits(residues="nothing", moves=True),
)
register(
    "aten.threshold.default",
    _two_pieces(
        lambda x, y, limit, value: x > limit,
        off_value=lambda limit, value: value,
        limit=lambda limit, value: limit,
        jumps=lambda call: call.args[1] != call.args[2],
    ),
    traits=Traits(residues="bounds"),
)


def _rrelu_slope(lower: float = 1 / 8, upper: float = 1 / 3, *_: Any) -> float:
    return (lower + upper) / 2


def _refuse_training(call: Call) -> str | None:
    return "it is random (training=True)" if len(call.args) > 3 and call.args[3] else None


register(
    "aten.rrelu.default",
    _two_pieces(lambda x, y, *args: x > 0, off=_rrelu_slope, refuse=_refuse_training, slanted=True),
    traits=Traits(unproved="its slope is computed from its arguments"),
)


# --- PReLU: the slope is a weight per channel ----------------------------------------------------


def _prelu(f: Frame, v: Tensor, weight: Tensor) -> Tensor:
    bits = f.plane(v)
    slope = weight.reshape(1, -1, *[1] * (v.ndim - 2)) if v.ndim > 1 else weight
    return f.gate(v, bits) + f.gate(v, 1 - bits) * slope


register(
    "aten.prelu.default aten._prelu_kernel.default",
    Rule(
        "decision",
        push=_prelu,
        pull=lambda f, g, x, weight: [_prelu(f, g, weight)],
        record=lambda f, x, weight: (f.call.run(x, weight), Decisions.from_bits(x > 0)),
        crossings=lambda f, x, weight: _threshold_crossings(f, x),
        choices=("off", "on"),
        terms=lambda f, x, weight, **kw: 1,
        gain=lambda f, x, weight, **kw: max(1.0, largest(weight)),
        sums=False,
        growth=lambda f, x, weight, **kw: max(1.0, largest(weight)),
        rows=rows.with_dimensions(2),
    ),
    choice=TwoSlopes(lambda weight: weight),
    traits=Traits(residues="weights"),
)


# --- three pieces: below, inside, above ----------------------------------------------------------


def _on_bounds(f: Frame, x: Hole, low: Any, high: Any) -> Tensor | None:
    """A bound where a value is beyond it; an infinite one is never taken."""
    inside, above = (f.taken().plane(number).to(x.dtype) for number in (0, 1))
    by_row = isinstance(low, Tensor) or isinstance(high, Tensor)  # they may differ by rows
    if by_row:
        inside, above = f.for_rows(inside), f.for_rows(above)
    parts = [
        torch.where(where.bool(), bound.to(where.dtype), 0)
        if isinstance(bound, Tensor)
        else where * bound
        for bound, where in ((low, 1 - inside - above), (high, above))
        if isinstance(bound, Tensor) or bound not in (0, -inf, inf)
    ]
    if not parts:
        return None
    found = sum(parts[1:], parts[0])
    return found if by_row else f.for_rows(found)


def _three_pieces(bounds: Callable[..., tuple[Any, Any]], closed: bool) -> Rule:
    """Clamping between two bounds; `closed` tells whether a value on a bound counts as inside.

    The trail keeps two planes, inside and above: the first alone is the slope.
    """

    def record(f: Frame, x: Tensor, *args: Any) -> tuple[Tensor, Decisions]:
        low, high = bounds(*args)
        inside = ((x >= low) & (x <= high)) if closed else ((x > low) & (x < high))
        above = (x > high) if closed else (x >= high)
        return f.call.run(x, *args), Decisions.from_bits(inside & ~above, above)

    def switched(x: Hole, *args: Any) -> tuple[int, float] | None:
        """ReLU6 and its like: nothing but the upper bound, where a value is above it."""
        low, high = bounds(*args)
        plain = isinstance(low, int | float) and isinstance(high, int | float)
        return (1, high) if plain and low in (0, -inf) and high not in (0, -inf, inf) else None

    def growth(f: Frame, x: Hole, *args: Any) -> float | None:
        """What is brought towards 0 grows no larger."""
        low, high = bounds(*args)
        if isinstance(low, Tensor) or isinstance(high, Tensor):
            return None
        return 1.0 if low <= 0 <= high else None

    def crossings(f: Frame, x: Tensor, *args: Any) -> Crossings:
        z, dz = halves(x)
        low, high = bounds(*args)
        if not closed and low == high:  # constant: everything is above
            return crossing.never(z, f.rows)
        planes = (f.plane(z, 0).view(torch.bool), f.plane(z, 1).view(torch.bool))
        return crossing.interval(z, dz, low, high, planes, rows=f.rows, ties=f.ties, closed=closed)

    return Rule(
        "decision",
        push=lambda f, x, *args: f.switched(x),
        pull=lambda f, g, x, *args: [f.switched(g)],
        record=record,
        constant=lambda f, x, *args: _on_bounds(f, x, *bounds(*args)),
        crossings=crossings,
        choices=("below", "inside", "above"),
        switched=switched,
        growth=growth,
        rows=rows.elementwise,
        choice=BetweenBounds(bounds, closed),
        traits=Traits(residues="bounds", moves=True),
    )


def _hardtanh_bounds(low: float = -1, high: float = 1) -> tuple[float, float]:
    return low, high


def _clamp_bounds(low: Any = None, high: Any = None) -> tuple[Any, Any]:
    low, high = (-inf if low is None else low), (inf if high is None else high)
    if isinstance(low, Tensor) and isinstance(high, Tensor):
        return torch.minimum(low, high), high
    # A lower bound above the upper one gives way to it.
    return (low if isinstance(low, Tensor) or isinstance(high, Tensor) else min(low, high)), high


def _refuse_active_bounds(call: Call) -> str | None:
    constant = is_active(call.args[0]) and not any(map(is_active, call.args[1:]))
    return None if constant else "its bounds are computed from the image"


def _record_hardtanh(f: Frame, x: Tensor, low: float = -1, high: float = 1) -> Noted:
    if low == high:  # a constant: every output is on the upper bound
        value = f.call.run(x, low, high)
        return Noted(value, Decisions.from_interval(value, low, high))
    decisions, done = f.decided(x, low, high)
    if not done:
        clamp_ = torch.nn.functional.hardtanh_
        x = clamp_(x, low, high) if f.owned else f.call.run(x, low, high)
    return Noted(x, decisions)


# PyTorch's derivative on the bound itself: 0 for hardtanh and relu6, 1 for clamp.
register(
    "aten.hardtanh.default",
    replace(_three_pieces(_hardtanh_bounds, closed=False), record=_record_hardtanh),
)
register("aten.relu6.default", _three_pieces(lambda: (0, 6), closed=False))
register(
    "aten.clamp.default aten.clamp.Tensor",
    replace(_three_pieces(_clamp_bounds, closed=True), refuse=_refuse_active_bounds),
)
register("aten.clamp_min.default", _three_pieces(lambda low: (low, inf), closed=True))
register("aten.clamp_max.default", _three_pieces(lambda high: (-inf, high), closed=True))


def _record_hardsigmoid(f: Frame, x: Tensor) -> tuple[Tensor, Decisions]:
    above = x >= 3
    return f.call.run(x), Decisions.from_bits((x > -3) & ~above, above)


def _hardsigmoid_constant(f: Frame, x: Hole) -> Tensor:
    inside, above = (f.taken().plane(number).to(x.dtype) for number in (0, 1))
    return f.for_rows(inside / 2 + above)


_between = _three_pieces(lambda: (-3, 3), closed=False)
register(
    "aten.hardsigmoid.default",
    replace(
        _between,
        switched=None,
        push=lambda f, x: _between.push(f, x) / 6,
        pull=lambda f, g, x: [f.switched(g) / 6],
        record=_record_hardsigmoid,
        constant=_hardsigmoid_constant,
        terms=lambda f, x, **kw: 2,
        gain=lambda f, x, **kw: 1,
        sums=False,
        growth=None,
    ),
    choice=BetweenBounds(lambda: (-3, 3), closed=False, divisor=6, shift=0.5),
    traits=Traits(unproved="it divides by 6", scales=True),
)
