"""Piecewise-linear operators: what was decided on the image is kept, the rest is affine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import inf, prod
from typing import Any

import torch
from torch import Tensor

from guidxmage.engine.call import Call, Frame, Hole, Noted, Sent, is_active
from guidxmage.engine.ledger import row_norms
from guidxmage.engine.rules import crossing, rows
from guidxmage.engine.rules.affine import largest, leading, spreading
from guidxmage.engine.rules.crossing import Crossings, halves
from guidxmage.engine.rules.table import Rule, register
from guidxmage.engine.trail import Decisions

aten = torch.ops.aten


# --- two pieces: on or off -----------------------------------------------------------------------


def _slopes(on: Callable[..., Any], off: Callable[..., Any]) -> Callable[..., Sent]:
    """v ↦ v·(on-slope where on, off-slope elsewhere), for both directions and cotangents."""

    def scaled(f: Frame, v: Tensor, *args: Any) -> Sent:
        low, high = off(*args), on(*args)
        if isinstance(low, int | float) and low == 0:
            return f.switched_off(v) if high == 1 else Sent([f.switched(v) * high])
        bits = f.plane(v)
        # low + (high − low)·bit, exactly `high` or `low` because a product with 0 or 1 is exact.
        return Sent([f.gate(v * high, bits) + f.gate(v * low, 1 - bits)])

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
        push=lambda f, x, *args: scaled(f, x, *args).cotangents[0],
        pull=lambda f, g, x, *args: scaled(f, g, *args),
        record=record,
        constant=constant if off_value else None,
        refuse=refuse,
        crossings=lambda f, x, *args: _threshold_crossings(f, x, limit(*args)),
        choices=("off", "on"),
        jumps=jumps,
        terms=(lambda f, x, *args: 1) if slanted else None,
        gain=lambda f, x, *args: max(1.0, abs(off(*args))),
        sums=False,
        growth=None if off_value else lambda f, x, *args: max(1.0, abs(off(*args))),
        rows=rows.elementwise,
    )


def _threshold_crossings(f: Frame, x: Tensor, limit: Any = 0) -> Crossings:
    z, dz = halves(x)
    return crossing.threshold(z, dz, limit, f.plane(z).view(torch.bool), rows=f.rows, ties=f.ties)


def _record_relu(f: Frame, x: Tensor) -> Noted:
    decisions, done, norms = f.decided(x, 0)
    if not done:
        x = x.relu_() if f.owned else f.call.run(x)
    return Noted(x, decisions, norms)


register(
    "aten.relu.default",
    replace(_two_pieces(lambda x, y: y > 0), record=_record_relu, measures=True),
)


def _default_slope(slope: float = 0.01) -> float:
    return slope


register(
    "aten.leaky_relu.default",
    _two_pieces(lambda x, y, *args: x > 0, off=_default_slope, slanted=True),
)
register("aten.abs.default", _two_pieces(lambda x, y: x > 0, off=lambda: -1))
register(
    "aten.threshold.default",
    _two_pieces(
        lambda x, y, limit, value: x > limit,
        off_value=lambda limit, value: value,
        limit=lambda limit, value: limit,
        jumps=lambda call: call.args[1] != call.args[2],
    ),
)


def _rrelu_slope(lower: float = 1 / 8, upper: float = 1 / 3, *_: Any) -> float:
    return (lower + upper) / 2


def _refuse_training(call: Call) -> str | None:
    return "it is random (training=True)" if len(call.args) > 3 and call.args[3] else None


register(
    "aten.rrelu.default",
    _two_pieces(lambda x, y, *args: x > 0, off=_rrelu_slope, refuse=_refuse_training, slanted=True),
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
        terms=lambda f, x, weight: 1,
        gain=lambda f, x, weight: max(1.0, largest(weight)),
        sums=False,
        growth=lambda f, x, weight: max(1.0, largest(weight)),
        rows=rows.with_dimensions(2),
    ),
)


# --- three pieces: below, inside, above ----------------------------------------------------------


def _three_pieces(bounds: Callable[..., tuple[Any, Any]], closed: bool) -> Rule:
    """Clamping between two bounds; `closed` tells whether a value on a bound counts as inside.

    The trail keeps two planes, inside and above: the first alone is the slope.
    """

    def record(f: Frame, x: Tensor, *args: Any) -> tuple[Tensor, Decisions]:
        low, high = bounds(*args)
        inside = ((x >= low) & (x <= high)) if closed else ((x > low) & (x < high))
        above = (x > high) if closed else (x >= high)
        return f.call.run(x, *args), Decisions.from_bits(inside & ~above, above)

    def constant(f: Frame, x: Hole, *args: Any) -> Tensor | None:
        low, high = bounds(*args)
        result = None
        inside, above = (f.taken().plane(number).to(x.dtype) for number in (0, 1))
        for bound, where in ((low, 1 - inside - above), (high, above)):
            if isinstance(bound, Tensor) or bound not in (0, -inf, inf):
                part = where * bound
                result = part if result is None else result + part
        return None if result is None else f.for_rows(result)

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
        pull=lambda f, g, x, *args: f.switched_off(g),
        record=record,
        constant=constant,
        crossings=crossings,
        choices=("below", "inside", "above"),
        switched=switched,
        growth=growth,
        rows=rows.elementwise,
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
        norms = row_norms(x, f.rows) if f.measure else None
        value = f.call.run(x, low, high)
        return Noted(value, Decisions.from_interval(value, low, high), norms)
    decisions, done, norms = f.decided(x, low, high)
    if not done:
        clamp_ = torch.nn.functional.hardtanh_
        x = clamp_(x, low, high) if f.owned else f.call.run(x, low, high)
    return Noted(x, decisions, norms)


# PyTorch's derivative on the bound itself: 0 for hardtanh and relu6, 1 for clamp.
register(
    "aten.hardtanh.default",
    replace(_three_pieces(_hardtanh_bounds, closed=False), record=_record_hardtanh, measures=True),
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
        terms=lambda f, x: 2,
        gain=lambda f, x: 1,
        sums=False,
        growth=None,
    ),
)


# --- the larger or smaller of two ----------------------------------------------------------------


def _pick(choose_first: Callable[[Tensor, Tensor], Tensor], sign: int) -> Rule:
    """Elementwise maximum (sign +1) or minimum (−1) of two operands, one possibly constant."""

    def masks(f: Frame) -> tuple[Tensor, Tensor]:
        first = f.taken().plane()
        return first, 1 - first

    def record(f: Frame, x: Tensor, y: Tensor) -> tuple[Tensor, Decisions]:
        value = f.call.run(x, y)
        return value, Decisions.from_bits(choose_first(x, y).expand(f.shape))

    def push(f: Frame, x: Tensor, y: Tensor) -> Tensor:
        parts = [
            f.gate(part.expand(f.shape), mask)
            for part, mask, ref in zip((x, y), masks(f), f.call.args, strict=True)
            if is_active(ref)
        ]
        return sum(parts[1:], parts[0])

    def pull(f: Frame, g: Tensor, x: Any, y: Any) -> list[Tensor]:
        return [
            f.gate(g, mask).sum_to_size(part.shape)
            for part, mask in zip((x, y), masks(f), strict=True)
            if isinstance(part, Hole)
        ]

    def constant(f: Frame, x: Any, y: Any) -> Tensor | None:
        hole = x if isinstance(x, Hole) else y
        for part, mask in zip((x, y), masks(f), strict=True):
            if not isinstance(part, Hole):
                return f.for_rows(mask.to(hole.dtype) * leading(part, f, hole))
        return None

    def crossings(f: Frame, x: Tensor, y: Tensor) -> Crossings:
        (zx, dx), (zy, dy) = (
            halves(part) if is_active(ref) else (part, torch.zeros_like(part))
            for part, ref in zip((x, y), f.call.args, strict=True)
        )
        first = f.taken().plane().view(torch.bool)
        z, dz = (sign * (a - b).expand(first.shape) for a, b in ((zx, zy), (dx, dy)))
        return crossing.threshold(z, dz, 0, first, rows=f.rows, ties=f.ties, closed=True)

    return Rule(
        "decision",
        push,
        pull,
        record=record,
        constant=constant,
        crossings=crossings,
        choices=("second", "first"),
        growth=lambda f, x, y: (
            spreading(f, x, y) if isinstance(x, Hole) and isinstance(y, Hole) else None
        ),
        rows=rows.elementwise,
    )


register("aten.maximum.default", _pick(lambda x, y: x >= y, +1))
register("aten.minimum.default", _pick(lambda x, y: x <= y, -1))


# --- the largest or smallest along dimensions ----------------------------------------------------


def _reduced_dims(dims: Any, ndim: int) -> list[int]:
    listed = [dims] if isinstance(dims, int) else list(dims or range(1, ndim))
    return sorted(d % ndim for d in listed)


def _to_last(tensor: Tensor, dims: Sequence[int]) -> Tensor:
    """Reduced dimensions moved to the end and flattened into one."""
    kept = [d for d in range(tensor.ndim) if d not in dims]
    return tensor.permute(*kept, *dims).flatten(len(kept)) if kept else tensor.flatten()


def _reduction(argument: Callable[[Tensor], Tensor], sign: int) -> Rule:
    """The largest (sign +1) or smallest (−1) along dimensions; the trail keeps which operand."""

    def record(f: Frame, x: Tensor, dims: Any = (), *rest: Any) -> tuple[Tensor, Decisions]:
        lines = _to_last(x, _reduced_dims(dims, x.ndim))
        taken = argument(lines)
        return f.call.run(x, dims, *rest), Decisions.from_index(taken, lines.shape[-1])

    def push(f: Frame, x: Tensor, dims: Any = (), *rest: Any) -> Tensor:
        lines = _to_last(x, _reduced_dims(dims, x.ndim))
        index = f.for_rows(f.taken().index())[..., None]
        return lines.gather(-1, index).reshape(f.shape)

    def pull(f: Frame, g: Tensor, x: Hole, dims: Any = (), *rest: Any) -> list[Tensor]:
        reduced = _reduced_dims(dims, len(x.shape))
        kept = [d for d in range(len(x.shape)) if d not in reduced]
        index = f.for_rows(f.taken().index())[..., None]
        length = prod(x.shape[d] for d in reduced)
        lines = g.new_zeros(*index.shape[:-1], length)
        lines.scatter_add_(-1, index, g.reshape(index.shape))
        moved = lines.reshape([x.shape[d] for d in (*kept, *reduced)])
        order = [(*kept, *reduced).index(d) for d in range(len(x.shape))]
        return [moved.permute(order)]

    def refuse(call: Call) -> str | None:
        if call.output not in (None, 0):
            return "its indices are used as numbers"
        return None

    def crossings(f: Frame, x: Tensor, dims: Any = (), *rest: Any) -> Crossings:
        z, dz = (_to_last(part, _reduced_dims(dims, x.ndim)) * sign for part in halves(x))
        index = f.taken().index()[..., None]
        gap, rate = z.gather(-1, index) - z, dz - dz.gather(-1, index)
        before = torch.arange(z.shape[-1], device=z.device) < index
        s, rival = crossing.overtaking(gap, rate, before, ties=f.ties).min(-1)
        return crossing.earliest(s, f.rows, lambda position: crossing.at(rival, position))

    return Rule(
        "decision",
        push,
        pull,
        record=record,
        refuse=refuse,
        crossings=crossings,
        growth=lambda f, *args: 1,
        rows=rows.along(1),
    )


register("aten.amax.default aten.max.dim", _reduction(lambda lines: lines.argmax(-1), +1))
register("aten.amin.default aten.min.dim", _reduction(lambda lines: lines.argmin(-1), -1))
