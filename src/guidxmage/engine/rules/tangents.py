"""First-order expansions of what makes one number of several, written out for export."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

from guidxmage.engine.calls.call import Call, Frame, Hole
from guidxmage.engine.rules.table import UNWRITTEN, Plain
from guidxmage.engine.trail.gates import Gates


@dataclass(frozen=True)
class Expansion:
    """The Jacobian of a function of one tensor, times a direction and transposed.

    Both take the frame, the point x, the direction or cotangent, and the call's other arguments.
    """

    along: Callable[..., Tensor]
    back: Callable[..., Tensor]


def written(expansion: Expansion, refuse: Callable[[Call, str], str | None] | None = None) -> Plain:
    """How an operator is exported by its expansion."""

    def record(f: Frame, x: Tensor, *args: Any, **kw: Any) -> tuple[Tensor, Gates]:
        value = f.call.run(x, *args)
        return value, Gates("tangent", (x, value - expansion.along(f, x, x, *args, **kw)))

    def pull(f: Frame, g: Tensor, x: Hole, *args: Any, **kw: Any) -> list[Tensor]:
        return [expansion.back(f, f.for_rows(f.numbers()[0]), g, *args, **kw)]

    return Plain(record=record, pull=pull, refuse=refuse)


def _dims(x: Tensor, given: Any) -> list[int]:
    """The dimensions that are summed over; all where none is named."""
    listed = [given] if isinstance(given, int) else list(given or range(x.ndim))
    return sorted(dim % x.ndim for dim in listed)


def _with(v: Tensor, dims: Sequence[int], ndim: int) -> Tensor:
    """A result with the dimensions that were summed over, of size 1."""
    if v.ndim < ndim:
        for dim in dims:
            v = v.unsqueeze(dim)
    return v


# --- softmax and its logarithm -------------------------------------------------------------------


def _softmax(f: Frame, x: Tensor, v: Tensor, dim: int, *_: Any, **__: Any) -> Tensor:
    """The Jacobian is its own transpose."""
    s = x.softmax(dim)
    return s * (v - (s * v).sum(dim, keepdim=True))


def _log_softmax(f: Frame, x: Tensor, v: Tensor, dim: int, *_: Any, **__: Any) -> Tensor:
    return v - (x.softmax(dim) * v).sum(dim, keepdim=True)


def _log_softmax_back(f: Frame, x: Tensor, g: Tensor, dim: int, *_: Any, **__: Any) -> Tensor:
    return g - x.softmax(dim) * g.sum(dim, keepdim=True)


def _shares(x: Tensor, dims: list[int]) -> Tensor:
    return (x - x.logsumexp(dims, keepdim=True)).exp()


def _logsumexp(f: Frame, x: Tensor, v: Tensor, dims: Any, keep: bool = False, **_: Any) -> Tensor:
    own = _dims(x, dims)
    return (_shares(x, own) * v).sum(own, keepdim=keep)


def _logsumexp_back(f: Frame, x: Tensor, g: Tensor, dims: Any, *_: Any, **__: Any) -> Tensor:
    own = _dims(x, dims)
    return _shares(x, own) * _with(g, own, x.ndim)


SOFTMAX = Expansion(_softmax, _softmax)
LOG_SOFTMAX = Expansion(_log_softmax, _log_softmax_back)
LOGSUMEXP = Expansion(_logsumexp, _logsumexp_back)


# --- variances, deviations, lengths --------------------------------------------------------------


def _spread_slope(
    f: Frame, x: Tensor, dims: Any = None, *, correction: Any = 1, **_: Any
) -> tuple[Tensor, list[int]]:
    """The derivative of a variance, a deviation, or of the mean beside it, by x."""
    own = _dims(x, dims)
    count = prod(x.shape[dim] for dim in own)
    if f.call.output == 1:
        return torch.full_like(x, 1 / count), own
    free = count - (1 if correction is None else correction)
    centred = (x - x.mean(own, keepdim=True)) / free
    if "std" not in f.call.op:
        return 2 * centred, own
    deviation = (centred * (x - x.mean(own, keepdim=True))).sum(own, keepdim=True).sqrt()
    return centred / deviation, own


def _spread(
    f: Frame, x: Tensor, v: Tensor, dims: Any = None, *, keepdim: bool = False, **kw: Any
) -> Tensor:
    slope, own = _spread_slope(f, x, dims, **kw)
    return (slope * v).sum(own, keepdim=keepdim)


def _spread_back(f: Frame, x: Tensor, g: Tensor, dims: Any = None, **kw: Any) -> Tensor:
    slope, own = _spread_slope(f, x, dims, **kw)
    return slope * _with(g, own, x.ndim)


SPREAD = Expansion(_spread, _spread_back)


def _length(
    f: Frame, x: Tensor, v: Tensor, order: Any = 2, dims: Any = None, keep: bool = False, **_: Any
) -> Tensor:
    own = _dims(x, dims)
    return (_unit(x, own) * v).sum(own, keepdim=keep)


def _unit(x: Tensor, dims: list[int]) -> Tensor:
    """x over its length; 0 where that is 0."""
    length = x.square().sum(dims, keepdim=True).sqrt()
    return x / torch.where(length == 0, 1, length)


def _length_back(
    f: Frame, x: Tensor, g: Tensor, order: Any = 2, dims: Any = None, *_: Any, **__: Any
) -> Tensor:
    own = _dims(x, dims)
    return _unit(x, own) * _with(g, own, x.ndim)


LENGTH = Expansion(_length, _length_back)


def other_norm(call: Call, convention: str) -> str | None:
    """Lengths alone have a formula here."""
    order = call.args[1] if len(call.args) > 1 else 2
    return None if order in (2, None) else UNWRITTEN


# --- gated linear units --------------------------------------------------------------------------


def _glu(f: Frame, x: Tensor, v: Tensor, dim: int = -1) -> Tensor:
    (a, b), (da, db) = x.chunk(2, dim), v.chunk(2, dim)
    s = b.sigmoid()
    return da * s + a * s * (1 - s) * db


def _glu_back(f: Frame, x: Tensor, g: Tensor, dim: int = -1) -> Tensor:
    a, b = x.chunk(2, dim)
    s = b.sigmoid()
    return torch.cat([g * s, g * a * s * (1 - s)], dim)


GLU = Expansion(_glu, _glu_back)
