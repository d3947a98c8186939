"""What is known of every operator that has a counterpart modulo primes: its constants, its sums."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import lcm, prod
from typing import cast

from torch import Tensor

from guidxmage.engine.calls.call import Call
from guidxmage.engine.program.program import Program
from guidxmage.engine.rules import traits_of
from guidxmage.errors import UnsupportedOperatorError

BATCH_NORM = "aten._native_batch_norm_legit_no_training.default"


def short(call: Call) -> str:
    """An operator's name without namespace and overload."""
    return call.op.split(".")[1]


def reduced_cotangents(program: Program) -> frozenset[int]:
    """The calls whose cotangents come in reduced: from one call alone, which leaves them so."""
    users: dict[int, list[Call]] = {}
    for call in program.calls:
        for id_ in call.inputs:
            users.setdefault(id_, []).append(call)
    found = {program.result} if program.result not in users else set()
    for call in reversed(program.calls):
        own = users.get(call.id, [])
        if len(own) == 1 and (
            multiplies(own[0]) or (traits_of(own[0]).moves and own[0].id in found)
        ):
            found.add(call.id)
    return frozenset(found)


def multiplies(call: Call) -> bool:
    """Whether a call multiplies residues: what enters it must be reduced, and what comes out."""
    traits = traits_of(call)
    if traits.residues == "terms":  # with a factor for the second operand
        return len(call.args) > 2 or call.kwargs.get("alpha", 1) != 1
    factors = traits.factors or traits.residues in ("weights", "norm")
    return bool(traits.residues) and (factors or traits.averages)


def without_rule(calls: Iterable[Call]) -> Call | None:
    """The first call that has no modular counterpart."""
    for call in calls:
        if not traits_of(call).residues or "training" in call.kwargs:
            return call
    return None


def longest_sum(program: Program) -> int:
    """The most products that one entry of any value or cotangent sums, with room to spare."""
    longest = max(program.classes, 1024)
    for call in program.calls:
        traits = traits_of(call)
        for arg in call.args if traits.residues == "weights" else ():
            if isinstance(arg, Tensor) and arg.ndim > 1:
                longest = max(longest, prod(arg.shape[1:]), arg.numel() // arg.shape[1])
        if traits.averages:
            longest = max(longest, 2 * divisor(program, call))
    return 2 * longest


def divisor(program: Program, call: Call) -> int:
    """A common multiple of the whole numbers by which a call divides; 1 where it divides by none.

    Raises UnsupportedOperatorError where that multiple is too large for exact arithmetic.
    """
    if not traits_of(call).averages:
        return 1
    name = short(call)
    shape = program.shapes(1)[call.inputs[0]]
    if name == "mean":
        dims = call.args[1] if len(call.args) > 1 and call.args[1] else range(len(shape))
        found = prod(shape[d] for d in cast("Sequence[int]", dims))
    elif name.startswith("adaptive"):
        out = program.shapes(1)[call.id]
        found = _adaptive_multiple(shape[-_dims(name) :], out[-_dims(name) :])
    else:
        found = _window_multiple(call, _dims(name))
    if found > 2**24:
        raise UnsupportedOperatorError(f"{call.op} at '{call.site}' averages in too many ways")
    return found


def _dims(name: str) -> int:
    return int(name[-2])


def _adaptive_multiple(size: Sequence[int], out: Sequence[int]) -> int:
    """The least common multiple of the windows' sizes, dimension by dimension."""
    found = 1
    for n, m in zip(size, out, strict=True):
        found *= lcm(*(-(-(o + 1) * n // m) - o * n // m for o in range(m)))
    return found


def _window_multiple(call: Call, dims: int) -> int:
    kernel = list(call.args[1]) * (dims if len(call.args[1]) == 1 else 1)
    if len(call.args) > 6 and call.args[6]:
        return int(call.args[6])
    padding = call.args[3] if len(call.args) > 3 else [0]
    ceil_mode = len(call.args) > 4 and bool(call.args[4])
    if not any(padding) and not ceil_mode:
        return prod(kernel)
    return prod(lcm(*range(1, k + 1)) for k in kernel)
