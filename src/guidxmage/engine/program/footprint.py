"""How much memory a run takes, from the shapes alone, and how many rows fit into a budget."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from math import isfinite, prod

from guidxmage.engine.calls.call import Call, last_uses
from guidxmage.engine.program.program import Program
from guidxmage.errors import InputError

# What runs take beside the values that wait for their next use: copies in another layout, and
# the pixels of a strided first convolution, whose transpose works on four images at once. On
# torchvision's networks and EfficientNet-Lite0 up to 4.0 times the values (benchmarks/budget.py).
_WORKING_SPACE = 5
_UNITS = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}


def row_bytes(program: Program) -> int:
    """Bytes that recording one image, or pulling one target of it, takes at most beyond weights."""

    def held() -> int:
        forward = _held(program.calls, program, forwards=True) + _gates(program)
        backward = _held(program.symbolic_calls, program, forwards=False) + _gates(program)
        return _WORKING_SPACE * max(forward, backward)

    return int(program.once("row_bytes", held))


def rows_within(program: Program, budget: int, most: int) -> int:
    """How many rows may be run at once: one at least, `most` at most."""
    if not program.batched:
        return 1
    return max(1, min(most, budget // max(1, row_bytes(program))))


def read_budget(budget: int | str) -> int:
    """Bytes from a number or a text such as "2 GiB". Raises InputError for anything else."""
    if isinstance(budget, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", budget.lower())
        factor = _UNITS.get(match[2] or "b") if match else None
        found = int(float(match[1]) * factor) if match and factor else 0
    else:
        found = int(budget) if isinstance(budget, int | float) and isfinite(budget) else 0
    if found < 1:
        raise InputError(
            f'memory_budget is {budget!r}; give a number of bytes, or a text such as "2 GiB"'
        )
    return found


def _gates(program: Program) -> int:
    """About what smooth operators leave on the trail."""
    shapes = program.shapes(1)
    gates = [call for call in program.smooth if call.id in shapes]  # not what Python was told
    return sum(prod(shapes[call.id]) for call in gates) * program.dtype.itemsize


def _held(calls: Sequence[Call], program: Program, *, forwards: bool) -> int:
    """The most bytes that values of one row hold at once while the calls run, either way."""
    shapes = program.shapes(1)
    item = program.dtype.itemsize

    def size(ids: Iterable[int]) -> int:
        return sum(prod(shapes[id_]) * item for id_ in ids)

    most = 0
    if forwards:
        live = {0}
        for call, expired in zip(calls, last_uses(calls, program.result), strict=True):
            live.add(call.id)
            most = max(most, size(live))
            live.difference_update(expired)
    else:
        live = {program.result}
        for call in reversed(calls):
            if call.id in live:
                live.update(call.inputs)
                most = max(most, size(live))
                live.remove(call.id)
    return most
