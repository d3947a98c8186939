"""The decision operators over the rationals: which choice each output entry is."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import isinf, prod
from typing import Any

import torch
from torch import Tensor

from guidxmage.engine.calls.call import Call, is_active
from guidxmage.engine.program.program import Program
from guidxmage.engine.rules import rule_of
from guidxmage.engine.rules.choices import (
    AboveLimit,
    AlongDimensions,
    BetweenBounds,
    Choice,
    OfTwo,
    OfWindows,
    TwoSlopes,
)
from guidxmage.errors import UnsupportedOperatorError
from guidxmage.proof.rational.formula import ONE, Line
from guidxmage.proof.rational.pieces import Clamp, Decision, Hinge, Largest

Shape = tuple[int, ...]


def decisions_of(call: Call, program: Program, first: Sequence[int]) -> tuple[Decision, ...]:
    """The choice that every output entry of one image is; `first` are the inputs' first variables.

    Raises UnsupportedOperatorError for a decision operator that is not written here.
    """
    rule = rule_of(call)
    choice = None if rule is None else rule.choice
    if choice is None or isinstance(choice, AboveLimit):
        raise UnsupportedOperatorError(
            f"{call.op} at '{call.site}' is not among the operators that can be proved about"
        )
    rest = (*call.args[1:], *call.kwargs.values())
    shapes = program.shapes(1)
    ins: list[Shape] = [tuple(shapes[id_]) for id_ in call.inputs]
    numbers = [
        torch.arange(prod(s)).reshape(s) + start for s, start in zip(ins, first, strict=True)
    ]
    return tuple(_decisions(call, choice, numbers, tuple(shapes[call.id]), rest))


def _decisions(
    call: Call, choice: Choice, v: list[Tensor], out: Shape, rest: Sequence[Any]
) -> list[Decision]:
    if isinstance(choice, TwoSlopes):
        return _hinges(v[0], choice.slope(*rest))
    if isinstance(choice, BetweenBounds):
        return _clamps(call, v[0], choice, *choice.bounds(*rest))
    if isinstance(choice, OfTwo):
        return _larger(call, v, out, choice.sign)
    if isinstance(choice, AlongDimensions):
        return _extreme(v[0], out, choice.sign, *rest)
    assert isinstance(choice, OfWindows)
    return _windows(choice, v[0], out, rest)


def _hinges(v: Tensor, slope: Any) -> list[Decision]:
    if isinstance(slope, Tensor):  # one for every channel
        slope = slope.double().reshape(-1, *[1] * (v.ndim - 2)).expand(v.shape)
    slopes = torch.as_tensor(slope, dtype=torch.float64).expand(v.shape).flatten().tolist()
    pairs = zip(v.flatten().tolist(), slopes, strict=True)
    return [Hinge(n, Fraction(own)) for n, own in pairs]


def _clamps(call: Call, v: Tensor, choice: BetweenBounds, low: Any, high: Any) -> list[Decision]:
    if isinstance(low, Tensor) or isinstance(high, Tensor):
        raise UnsupportedOperatorError(f"{call.op} at '{call.site}': bounds must be numbers")
    if choice.divisor != 1:
        raise UnsupportedOperatorError(f"{call.op} at '{call.site}' divides by {choice.divisor}")
    first, second = (None if isinf(n) else Fraction(n) for n in (low, high))
    return [Clamp(n, first, second, choice.closed) for n in v.flatten().tolist()]


def _larger(call: Call, v: list[Tensor], out: Shape, sign: int) -> list[Decision]:
    """Of two operands; the trail holds 1 for the first."""
    waiting = iter(v)
    sides: list[list[Line]] = []
    for arg in call.args[:2]:
        if is_active(arg):
            numbers = next(waiting).expand(out).flatten().tolist()
            sides.append([Line({n: ONE}) for n in numbers])
        else:
            constant = torch.as_tensor(arg, dtype=torch.float64)
            flat = constant.expand(out).flatten().tolist()
            sides.append([Line({}, Fraction(value)) for value in flat])
    pairs = zip(*sides, strict=True)
    return [Largest((first, second), (1, 0), sign) for first, second in pairs]


def _extreme(x: Tensor, out: Shape, sign: int, dims: Any = (), *rest: Any) -> list[Decision]:
    """Along dimensions, counted with that of the batch."""
    listed = [dims] if isinstance(dims, int) else list(dims or range(x.ndim))
    reduced = sorted(d % x.ndim for d in listed)
    kept = [d for d in range(x.ndim) if d not in reduced]
    lines = x.permute(*kept, *reduced).reshape(prod(out), -1).tolist()
    return [_of_variables(line, range(len(line)), sign) for line in lines]


def _windows(choice: OfWindows, v: Tensor, out: Shape, args: Sequence[Any]) -> list[Decision]:
    dims = choice.dims
    windows = choice.geometry(v.shape[-dims:], out[-dims:], args)
    flat = (windows.base.flatten() + windows.offsets[:, None]).t().tolist()
    inside = windows.inside.flatten(1).t().tolist()
    found: list[Decision] = []
    for plane in v.reshape(-1, prod(v.shape[-dims:])).tolist():
        for index, within in zip(flat, inside, strict=True):
            positions = [p for p, there in enumerate(within) if there]
            found.append(_of_variables([plane[index[p]] for p in positions], positions, 1))
    return found


def _of_variables(numbers: Sequence[int], positions: Sequence[int], sign: int) -> Largest:
    return Largest(tuple(Line({n: ONE}) for n in numbers), tuple(positions), sign)
