"""What is left of a number when steps are taken off it: remainders, and shrinking towards zero."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from guidxmage.engine.calls.call import Call, Frame, Hole, is_active
from guidxmage.engine.rules import rows
from guidxmage.engine.rules.comparisons import always
from guidxmage.engine.rules.table import PRODUCTS, Plain, Rule, Traits, register
from guidxmage.engine.trail.decisions import Decisions
from guidxmage.engine.trail.dense import Dense

_TRAITS = Traits(unproved="no independent run of it is written")


# --- x − k·divisor with a whole number k ----------------------------------------------------------


def _refuse_active_divisor(call: Call) -> str | None:
    divisor = len(call.args) > 1 and is_active(call.args[1])
    return "it divides by what depends on the image" if divisor else None


def _sawtooth() -> Rule:
    """The trail keeps k, whether it is rounded down or towards 0."""

    def steps(x: Tensor, value: Tensor, divisor: Any) -> Tensor:
        return ((x - value) / divisor).round()

    def record(f: Frame, x: Tensor, divisor: Any = 1) -> tuple[Tensor, Decisions]:
        value = f.call.run(x, divisor) if len(f.call.args) > 1 else f.call.run(x)
        return value, Decisions.of_numbers(steps(x, value, divisor).expand(f.shape))

    def plain_record(f: Frame, x: Tensor, divisor: Any = 1) -> tuple[Tensor, Dense]:
        value = f.call.run(x, divisor) if len(f.call.args) > 1 else f.call.run(x)
        return value, Dense.of(steps(x, value, divisor).expand(f.shape))

    def constant(f: Frame, x: Hole, divisor: Any = 1) -> Tensor:
        return -f.for_rows(f.taken().numbers()).to(x.dtype) * divisor

    return Rule(
        "decision",
        push=lambda f, x, *_: x.expand(f.shape),
        pull=lambda f, g, x, *_: [g.sum_to_size(x.shape)],
        record=record,
        constant=constant,
        terms=lambda f, x, *_: 4,
        jumps=always,
        refuse=_refuse_active_divisor,
        rows=rows.elementwise,
        plain=Plain(record=plain_record),
        traits=_TRAITS,
    )


register(
    "aten.remainder.Scalar aten.remainder.Tensor aten.fmod.Scalar aten.fmod.Tensor"
    " aten.frac.default",
    _sawtooth(),
)


# --- shrinking -----------------------------------------------------------------------------------


def _outside(x: Tensor, limit: float) -> tuple[Tensor, Tensor]:
    """Where |x| is above the limit, and where x is."""
    return x.abs() > limit, x > limit


def _record_shrink(f: Frame, x: Tensor, limit: float = 0.5) -> tuple[Tensor, Decisions]:
    return f.call.run(x, limit), Decisions.from_bits(*_outside(x, limit))


def _plain_shrink(f: Frame, x: Tensor, limit: float = 0.5) -> tuple[Tensor, Dense]:
    return f.call.run(x, limit), Dense.of(*_outside(x, limit))


def _moved_inwards(f: Frame, x: Hole, limit: float = 0.5) -> Tensor:
    outside, above = (f.taken().plane(number).to(x.dtype) for number in (0, 1))
    return f.for_rows((outside - 2 * above) * limit)


_HARD = Rule(
    "decision",
    push=lambda f, x, *_: f.switched(x),
    pull=lambda f, g, x, *_: [f.switched(g)],
    record=_record_shrink,
    jumps=always,
    growth=lambda f, x, *_: 1.0,
    rows=rows.elementwise,
    plain=Plain(record=_plain_shrink),
    traits=_TRAITS,
)
register("aten.hardshrink.default", _HARD)
register(
    "aten.softshrink.default",
    Rule(
        "decision",
        push=_HARD.push,
        pull=_HARD.pull,
        record=_record_shrink,
        constant=_moved_inwards,
        terms=lambda f, x, *_: 1,
        growth=lambda f, x, *_: 1.0,
        rows=rows.elementwise,
        plain=Plain(record=_plain_shrink),
        traits=_TRAITS,
    ),
)


# --- between bounds that depend on the image -----------------------------------------------------


def _chosen(f: Frame, x: Any, low: Any = None, high: Any = None) -> tuple[Tensor, Tensor]:
    """Where x itself is the value, and where the upper bound is."""
    lower = x if low is None else torch.maximum(x, low)
    above = torch.zeros_like(lower, dtype=torch.bool) if high is None else lower > high
    inside = ~above if low is None else ~above & (x >= low)
    return inside.expand(f.shape), above.expand(f.shape)


def _record_bounded(f: Frame, *args: Any) -> tuple[Tensor, Decisions]:
    return f.call.run(*args), Decisions.from_bits(*_chosen(f, *_ordered(f, args)))


def _plain_bounded(f: Frame, *args: Any) -> tuple[Tensor, Dense]:
    return f.call.run(*args), Dense.of(*_chosen(f, *_ordered(f, args)))


def _ordered(f: Frame, args: tuple[Any, ...]) -> tuple[Any, Any, Any]:
    """The value, its lower and its upper bound."""
    if "clamp_max" in f.call.op:
        return args[0], None, args[1]
    return args[0], args[1], (args[2] if len(args) > 2 else None)


def _masks(f: Frame) -> tuple[Tensor, Tensor, Tensor]:
    inside, above = (f.taken().plane(number) for number in (0, 1))
    return inside, 1 - inside - above, above


def _push_bounded(f: Frame, *args: Any) -> Tensor:
    parts = [
        f.gate(part.expand(f.shape), mask)
        for part, ref, mask in zip(
            _ordered(f, args), _ordered(f, tuple(f.call.args)), _masks(f), strict=True
        )
        if is_active(ref)
    ]
    return sum(parts[1:], parts[0])


def _pull_bounded(f: Frame, g: Tensor, *args: Any) -> list[Tensor]:
    return [
        f.gate(g, mask).sum_to_size(part.shape)
        for part, mask in zip(_ordered(f, args), _masks(f), strict=True)
        if isinstance(part, Hole)
    ]


def _bounded_constant(f: Frame, *args: Any) -> Tensor | None:
    found = None
    for part, mask in zip(_ordered(f, args), _masks(f), strict=True):
        if isinstance(part, Tensor):
            own = torch.where(f.for_rows(mask).bool(), part, 0)  # an infinite one is never taken
            found = own if found is None else found + own
    return found


_BOUNDED = Rule(
    "decision",
    _push_bounded,
    _pull_bounded,
    record=_record_bounded,
    constant=_bounded_constant,
    rows=rows.elementwise,
    plain=Plain(record=_plain_bounded),
    traits=_TRAITS,
)
register("aten.clamp_min.Tensor aten.clamp_max.Tensor", _BOUNDED)
register("aten.clamp.Tensor", _BOUNDED, PRODUCTS)
