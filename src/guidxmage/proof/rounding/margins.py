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
from guidxmage.engine.trail.decisions import Decisions
from guidxmage.proof.modular.forward import bounds_of, windows_of
from guidxmage.proof.modular.operators import short


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
    name, x = short(call), inputs[0]
    zeros = torch.zeros((), dtype=torch.int64)
    if name in ("relu", "abs", "leaky_relu", "prelu", "_prelu_kernel"):
        return Margins(x.abs(), zeros)
    if name == "threshold":
        return Margins((x - call.args[1]).abs(), zeros)
    if name in ("hardtanh", "relu6", "clamp", "clamp_min", "clamp_max"):
        return _between(name, call, x)
    if name in ("maximum", "minimum"):
        constant = next((arg for arg in call.args if isinstance(arg, Tensor)), None)
        other = inputs[1] if constant is None else constant
        return Margins((x - other).abs(), zeros, among_several=constant is None)
    if name.startswith(("max_pool", "adaptive_max_pool")):
        return _window_margins(call, x, entry)
    return None


def _between(name: str, call: Call, x: Tensor) -> Margins | None:
    args = [None, *call.args[1:]]
    if any(isinstance(arg, Tensor) for arg in args):
        return None
    low, high = bounds_of(name, args)
    below = (x - (-inf if low is None else low)).abs()
    above = (x - (inf if high is None else high)).abs()
    return Margins(torch.minimum(below, above), (above < below).long())


def _window_margins(call: Call, x: Tensor, entry: Decisions) -> Margins:
    """The position taken against the best of the others in its window."""
    dims = int(call.op.split("max_pool")[1][0])
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
