"""The transpose of an operator that picks numbers of each image, found by running it on places."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from guidxmage.engine.calls.call import Frame, Hole


@dataclass(frozen=True)
class Picked:
    """Where the numbers that an operator picks of one image stand in it.

    block: first and last-plus-one position in every dimension, where they are a block in order.
    back: for every number of the image where it goes to, `outputs` where it goes nowhere; empty
    where one goes to several places. places: for every output where it comes from, the number of
    inputs for what was put in.
    """

    block: tuple[tuple[int, int], ...] | None
    back: Tensor
    places: Tensor
    outputs: int

    @classmethod
    def of(cls, f: Frame, shape: Sequence[int], args: Sequence[Any]) -> Picked:
        """By running the call on the places themselves, which float64 holds exactly.

        They count from 1: what the operator puts in is 0.
        """
        count = prod(shape)
        places = 1 + torch.arange(count, dtype=torch.float64).reshape(1, *shape)
        return cls._from(f.call.run(places, *args).long().flatten() - 1, shape)

    @classmethod
    def along(cls, f: Frame, shape: Sequence[int], args: Sequence[Any]) -> Picked:
        """The same of one line, with size 1 in all other dimensions."""
        places = torch.arange(prod(shape)).reshape(tuple(shape))
        return cls._from(f.call.run(places, *args).flatten(), (prod(shape),))

    @classmethod
    def _from(cls, index: Tensor, shape: Sequence[int]) -> Picked:
        """From the place that every output comes from, −1 for what was put in."""
        count = prod(shape)
        own, outputs = index >= 0, len(index)
        nothing = index[:0]
        block = _block(index, shape) if bool(own.all()) else None
        if block is not None:
            return cls(block, nothing, nothing, outputs)
        back = torch.full((count,), outputs)
        back[index[own]] = torch.arange(outputs)[own]
        if int((back < outputs).sum()) == int(own.sum()):
            return cls(None, back, nothing, outputs)
        return cls(None, nothing, torch.where(own, index, count), outputs)


# Where operators that pick along one dimension name it among their arguments.
_DIMENSION = {
    **dict.fromkeys(("select", "slice", "narrow", "index_select", "unbind"), 0),
    **dict.fromkeys(("split", "split_with_sizes", "chunk"), 1),
}


def line_pull(f: Frame, g: Tensor, x: Hole, *args: Any) -> list[Tensor]:
    """For what picks along one dimension: there it is undone, whatever the others are."""
    place, ndim = _DIMENSION[f.call.op.split(".")[1]], len(x.shape)
    dim = (args[place] if len(args) > place else 0) % ndim
    size = x.shape[dim]
    shape = [size if d == dim else 1 for d in range(ndim)]

    line: Picked = f.prepare(f"line{size}", lambda: Picked.along(f, shape, args))
    g = g.unsqueeze(dim) if len(f.shape) < ndim else g
    if line.block is not None:
        ((low, end),) = line.block
        return [_padded(g, dim, low, size - end)]
    if len(line.back):
        return [_padded(g, dim, 0, 1).index_select(dim, line.back.to(g.device))]
    return [x.zeros().index_add(dim, line.places.to(g.device), g)]


def _padded(g: Tensor, dim: int, before: int, after: int) -> Tensor:
    """With zeros at the ends of one dimension."""
    later = g.ndim - 1 - dim
    return functional.pad(g, [*[0] * (2 * later), before, after])


def selection_pull(f: Frame, g: Tensor, x: Hole, *args: Any) -> list[Tensor]:
    """A block is put back among zeros; other orders are undone number by number."""
    shape = x.shape[1:]
    picked: Picked = f.prepare("picked", lambda: Picked.of(f, shape, args))
    if picked.block is not None:
        inner = g.reshape(-1, *(high - low for low, high in picked.block))
        sides = [(low, size - end) for (low, end), size in zip(picked.block, shape, strict=True)]
        return [functional.pad(inner, [n for side in reversed(sides) for n in side])]
    flat = g.reshape(-1, picked.outputs)
    if len(picked.back):
        one_zero = functional.pad(flat, [0, 1])
        return [one_zero.index_select(1, picked.back.to(g.device)).reshape(-1, *shape)]
    zeros = flat.new_zeros(flat.shape[0], prod(shape) + 1)
    index = picked.places.to(g.device).expand(flat.shape[0], -1)
    return [zeros.scatter_add(1, index, flat)[:, :-1].reshape(-1, *shape)]


def _block(index: Tensor, shape: Sequence[int]) -> tuple[tuple[int, int], ...] | None:
    if not len(index):
        return None
    low, high = (torch.unravel_index(end, tuple(shape)) for end in (index.min(), index.max()))
    ends = tuple((int(a), int(b) + 1) for a, b in zip(low, high, strict=True))
    if any(a >= b for a, b in ends):
        return None
    whole = torch.arange(prod(shape)).reshape(tuple(shape))
    block = whole[tuple(slice(a, b) for a, b in ends)].flatten()
    return ends if torch.equal(block, index) else None
