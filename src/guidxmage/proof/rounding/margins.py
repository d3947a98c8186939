"""How narrowly each decision of a call was taken, and what its alternative is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import inf
from typing import Any

import torch
from torch import Tensor

from guidxmage.engine.calls.call import Call
from guidxmage.engine.rules import rule_of
from guidxmage.engine.rules.choices import AboveLimit, BetweenBounds, OfTwo, OfWindows, TwoSlopes
from guidxmage.engine.trail.decisions import Decisions
from guidxmage.proof.modular.forward import windows_of


@dataclass(frozen=True)
class Margins:
    """gap (1, *shape): distance to the other decision, in units of the operator's input.

    other: the position that comes second, or for clamps whether the nearer bound is the upper one.
    among_several: whether numbers are compared with each other, rather than with a limit.
    """

    gap: Tensor
    other: Tensor
    among_several: bool = False


def margins_of(call: Call, inputs: Sequence[Tensor], entry: Decisions) -> Margins | None:
    """The margins of one call's decisions for float64 inputs (1, …).

    None for operators whose margins are not worked out.
    """
    rule, x = rule_of(call), inputs[0]
    choice = None if rule is None else rule.choice
    rest = call.args[1:]
    zeros = torch.zeros((), dtype=torch.int64)
    if isinstance(choice, TwoSlopes):
        return Margins(x.abs(), zeros)
    if isinstance(choice, AboveLimit):
        return Margins((x - choice.numbers(*rest)[0]).abs(), zeros)
    if isinstance(choice, BetweenBounds):
        below, above = ((x - bound).abs() for bound in choice.bounds(*rest))
        return Margins(torch.minimum(below, above), (above < below).long())
    if isinstance(choice, OfTwo):
        constant = next((arg for arg in call.args if isinstance(arg, Tensor)), None)
        other = inputs[1] if constant is None else constant
        return Margins((x - other).abs(), zeros, among_several=constant is None)
    if isinstance(choice, OfWindows):
        return _window_margins(call, choice.dims, x, entry)
    return None


def _window_margins(call: Call, dims: int, x: Tensor, entry: Decisions) -> Margins:
    """The position taken against the best of the others in its window."""
    taken = entry.index()
    out = taken.shape[-dims:]
    starts, reach, ends = windows_of(call, dims, x.shape[-dims:], out)
    best = torch.full(taken.shape, -inf, dtype=x.dtype)
    second = torch.zeros_like(taken)
    top = torch.full_like(best, -inf)
    for number, steps in enumerate(product(*reach)):
        value = shifted(x, starts, ends, steps)
        own = taken == number
        top = torch.where(own, value, top)
        better = ~own & (value > best)
        best = torch.where(better, value, best)
        second = torch.where(better, number, second)
    return Margins((top - best).abs(), second, among_several=True)


def shifted(
    x: Tensor, starts: Any, ends: Any, steps: Sequence[int], outside: float = -inf
) -> Tensor:
    """One position of all windows; `outside` where it is not in the plane or the window."""
    dims, inside = len(starts), torch.ones((), dtype=torch.bool)
    found = x
    for d in range(dims):
        at = torch.tensor(starts[d]) + steps[d]
        fits = (at >= 0) & (at < torch.tensor(ends[d]))
        found = found.index_select(x.ndim - dims + d, at.clamp(0, x.shape[x.ndim - dims + d] - 1))
        shape = [-1 if d == e else 1 for e in range(dims)]
        inside = inside & fits.reshape(shape)
    return torch.where(inside, found, outside)
