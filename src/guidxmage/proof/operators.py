"""The decision operators over the rationals: which choice each output entry is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from math import isinf, prod
from typing import Any

import torch
from torch import Tensor

from guidxmage.engine.call import Call, is_active
from guidxmage.engine.program import Program
from guidxmage.engine.rules.pooling import adaptive_windows, strided_windows
from guidxmage.errors import UnsupportedOperatorError
from guidxmage.proof.formula import ONE, Line
from guidxmage.proof.pieces import Clamp, Decision, Hinge, Largest

Shape = tuple[int, ...]


def decisions_of(call: Call, program: Program, first: Sequence[int]) -> tuple[Decision, ...]:
    """The choice that every output entry of one image is; `first` are the inputs' first variables.

    Raises UnsupportedOperatorError for a decision operator that is not written here.
    """
    make = _OPERATORS.get(call.op.split(".")[1])
    arguments = (*call.args[1:], *call.kwargs.values())
    if make is None:
        raise UnsupportedOperatorError(
            f"{call.op} at '{call.site}' is not among the operators that can be proved about"
        )
    shapes = program.shapes(1)
    ins: list[Shape] = [tuple(shapes[id_]) for id_ in call.inputs]
    numbers = [
        torch.arange(prod(s)).reshape(s) + start for s, start in zip(ins, first, strict=True)
    ]
    return tuple(make(call, numbers, tuple(shapes[call.id]), *arguments))


def _hinges(slope: float) -> Callable[..., list[Decision]]:
    def make(call: Call, v: list[Tensor], out: Shape, given: float = slope) -> list[Decision]:
        return [Hinge(n, Fraction(given)) for n in v[0].flatten().tolist()]

    return make


def _prelu(call: Call, v: list[Tensor], out: Shape, weight: Tensor) -> list[Decision]:
    shaped = weight.double().reshape(-1, *[1] * (v[0].ndim - 2)).expand(v[0].shape).flatten()
    return [
        Hinge(n, Fraction(slope))
        for n, slope in zip(v[0].flatten().tolist(), shaped.tolist(), strict=True)
    ]


def _clamps(low: float | None, high: float | None, closed: bool) -> Callable[..., list[Decision]]:
    def make(
        call: Call, v: list[Tensor], out: Shape, a: Any = low, b: Any = high
    ) -> list[Decision]:
        if isinstance(a, Tensor) or isinstance(b, Tensor):
            raise UnsupportedOperatorError(f"{call.op} at '{call.site}': bounds must be numbers")
        if a is not None and b is not None:
            a = min(a, b)  # as torch: the upper bound wins
        first, second = (None if n is None or isinf(n) else Fraction(n) for n in (a, b))
        return [Clamp(n, first, second, closed) for n in v[0].flatten().tolist()]

    return make


def _clamp_max(call: Call, v: list[Tensor], out: Shape, high: Any) -> list[Decision]:
    return _clamps(None, high, closed=True)(call, v, out)


def _larger(sign: int) -> Callable[..., list[Decision]]:
    """Of two operands; the trail holds 1 for the first."""

    def make(call: Call, v: list[Tensor], out: Shape, *_: Any) -> list[Decision]:
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

    return make


def _extreme(sign: int) -> Callable[..., list[Decision]]:
    """Along dimensions, counted with that of the batch."""

    def make(call: Call, v: list[Tensor], out: Shape, dims: Any = (), *rest: Any) -> list[Decision]:
        x = v[0]
        listed = [dims] if isinstance(dims, int) else list(dims or range(x.ndim))
        reduced = sorted(d % x.ndim for d in listed)
        kept = [d for d in range(x.ndim) if d not in reduced]
        lines = x.permute(*kept, *reduced).reshape(prod(out), -1).tolist()
        return [_of_variables(line, range(len(line)), sign) for line in lines]

    return make


def _max_pool(dims: int, geometry: Callable[..., Any]) -> Callable[..., list[Decision]]:
    def make(call: Call, v: list[Tensor], out: Shape, *args: Any) -> list[Decision]:
        windows = geometry(v[0].shape[-dims:], out[-dims:], args)
        flat = (windows.base.flatten() + windows.offsets[:, None]).t().tolist()
        inside = windows.inside.flatten(1).t().tolist()
        found: list[Decision] = []
        for plane in v[0].reshape(-1, prod(v[0].shape[-dims:])).tolist():
            for index, within in zip(flat, inside, strict=True):
                positions = [p for p, there in enumerate(within) if there]
                found.append(_of_variables([plane[index[p]] for p in positions], positions, 1))
        return found

    return make


def _of_variables(numbers: Sequence[int], positions: Sequence[int], sign: int) -> Largest:
    return Largest(tuple(Line({n: ONE}) for n in numbers), tuple(positions), sign)


_OPERATORS: dict[str, Callable[..., list[Decision]]] = {
    "relu": _hinges(0),
    "leaky_relu": _hinges(0.01),
    "abs": _hinges(-1),
    "prelu": _prelu,
    "_prelu_kernel": _prelu,
    "hardtanh": _clamps(-1, 1, closed=False),
    "relu6": _clamps(0, 6, closed=False),
    "clamp": _clamps(None, None, closed=True),
    "clamp_min": _clamps(None, None, closed=True),
    "clamp_max": _clamp_max,
    "maximum": _larger(+1),
    "minimum": _larger(-1),
    "amax": _extreme(+1),
    "max": _extreme(+1),
    "amin": _extreme(-1),
    "min": _extreme(-1),
    **{f"max_pool{d}d": _max_pool(d, strided_windows) for d in (1, 2, 3)},
    **{f"max_pool{d}d_with_indices": _max_pool(d, strided_windows) for d in (1, 2, 3)},
    **{f"adaptive_max_pool{d}d": _max_pool(d, adaptive_windows) for d in (1, 2, 3)},
}
