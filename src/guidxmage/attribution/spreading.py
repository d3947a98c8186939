"""From numbers at positions of feature maps to a map of the picture, with the same sum.

Every number is spread evenly over its cell of the picture (`engine/rules/places.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

import torch
from torch import Tensor

from guidxmage.engine.rules.places import Places


@dataclass(frozen=True)
class Layout:
    """How the positions of a value lie on a picture.

    axes: the dimensions of the value, images first, along which places differ; edges: for each
    direction of the picture (2, *sizes of the axes), size 1 where they are the same, the first and
    the last edge of the cells in pixels, NaN without a place; picture: its size.
    """

    axes: tuple[int, ...]
    edges: tuple[Tensor, ...]
    picture: tuple[int, ...]

    @classmethod
    def of(cls, places: Places, picture: Sequence[int]) -> Layout | None:
        """None for a value that lies nowhere, or everywhere."""
        if not places.somewhere:
            return None
        # Parts of an image may lie in the first dimension: images get one of their own.
        more = 0 if places.shape[0] == 1 else 1
        edges, sizes = places.unsqueezed(more), [1] * more + list(places.sizes)
        axes = tuple(dim for dim, size in enumerate(sizes) if size > 1)
        own = (one.reshape(2, *[one.shape[1 + dim] for dim in axes]) for one in edges)
        return cls(axes, tuple(own), tuple(picture))

    @cached_property
    def key(self) -> tuple[object, ...]:
        """Equal for values that lie alike."""
        return (self.axes, *((one.shape, one.cpu().numpy().tobytes()) for one in self.edges))

    @property
    def grid(self) -> tuple[int, ...]:
        """How many cells there are in each direction of the picture."""
        middles = (one.mean(0) for one in self.edges)
        return tuple(len((one[~one.isnan()] * 64).round().unique()) for one in middles)

    @cached_property
    def placeless(self) -> Tensor | None:
        """Which positions have no place, bool, of the axes' sizes; None where all have one."""
        missing = self.edges[0][0].isnan()
        for one in self.edges[1:]:
            missing = missing | one[0].isnan()
        return missing if bool(missing.any()) else None

    def summed(self, products: Tensor) -> Tensor:
        """Products (R, …) of a value's numbers, summed to (R, *axes) in float64."""
        others = [dim for dim in range(1, products.ndim) if dim not in self.axes]
        return products.sum(others, dtype=torch.float64) if others else products.double()

    def inner(self, g: Tensor, value: Tensor) -> Tensor:
        """⟨g, value⟩ (R, …) at each position, (R, *axes) in float64."""
        others = [dim for dim in range(1, g.ndim) if dim not in self.axes]
        return (g * value).sum(others).double() if others else (g * value).double()

    def parted(self, sums: Tensor) -> tuple[Tensor, Tensor | None]:
        """Sums (R, *axes) of what has a place, and all that has none, (R,)."""
        if self.placeless is None:
            return sums, None
        without = (sums * self.placeless).flatten(1).sum(1)
        return sums.masked_fill(self.placeless, 0), without

    def spread(self, sums: Tensor) -> Tensor:
        """Sums (R, *axes) over the picture, (R, *picture), float64."""
        cells, lines = self._cells
        found = sums.double()
        if cells is not None:
            found = found.new_zeros(sums.shape[0], prod(cells.grid)).index_add(
                1, cells.index, found.flatten(1)
            )
            found = found.unflatten(1, cells.grid)
        for d, one in enumerate(lines):
            found = one.along(found, 1 + d)
        return found

    @cached_property
    def _cells(self) -> tuple[Cells | None, list[Lines]]:
        """How the positions are sorted into cells, where they are not, and the lines of these."""
        each = [tuple(n > 1 for n in one.shape[1:]) for one in self.edges]
        order = [used.index(True) for used in each if sum(used) == 1]
        if order == list(range(len(self.axes))) and len(order) == len(self.edges):
            own = [one.reshape(2, -1) for one in self.edges]
            return None, [Lines.of(one, size) for one, size in zip(own, self.picture, strict=True)]
        sizes = torch.broadcast_shapes(*(one.shape[1:] for one in self.edges))
        index = torch.zeros(prod(sizes), dtype=torch.int64, device=self.edges[0].device)
        lines, grid = [], []
        for edges, size in zip(self.edges, self.picture, strict=True):
            flat = edges.nan_to_num(nan=0.0).expand(2, *sizes).reshape(2, -1)
            known, which = flat.unique(dim=1, return_inverse=True)
            index = index * known.shape[1] + which
            grid.append(known.shape[1])
            lines.append(Lines.of(known, size))
        return Cells(index, tuple(grid)), lines


@dataclass(frozen=True)
class Cells:
    """Which cell of a grid each position lies in, by its number."""

    index: Tensor
    grid: tuple[int, ...]


@dataclass(frozen=True)
class Lines:
    """The lines of cells in one direction of the picture: how many pixels wide, if all alike.

    shares (cells, pixels): how much of each cell lies in each pixel.
    """

    shares: Tensor
    wide: int

    @classmethod
    def of(cls, edges: Tensor, size: int) -> Lines:
        """Of intervals (2, n) on a picture with so many pixels."""
        shares = _shares(edges, size)
        count = edges.shape[1]
        wide = size // count if size % count == 0 else 0
        if wide:
            even = torch.eye(count, dtype=torch.float64, device=edges.device) / wide
            wide = wide if torch.equal(shares, even.repeat_interleave(wide, 1)) else 0
        return cls(shares, wide)

    def along(self, values: Tensor, dim: int) -> Tensor:
        """Values with cells along a dimension, over pixels."""
        if self.wide == 1:
            return values
        if self.wide:
            size = list(values.shape)
            apart = (values / self.wide).unsqueeze(dim + 1)
            whole = apart.expand(*size[: dim + 1], self.wide, *size[dim + 1 :])
            return whole.flatten(dim, dim + 1)
        spread: Tensor = torch.tensordot(values, self.shares, ([dim], [0])).movedim(-1, dim)
        return spread


def _shares(edges: Tensor, size: int) -> Tensor:
    """How much of each interval edges (2, n) lies in each of `size` pixels, float64 (n, size).

    Of what lies on the picture; an interval beyond it counts for the pixel next to it.
    """
    low, high = edges.double().nan_to_num(nan=0.0)[..., None]
    pixels = torch.arange(size, dtype=torch.float64, device=edges.device)
    overlap = (torch.minimum(high, pixels + 1) - torch.maximum(low, pixels)).clamp(min=0)
    total = overlap.sum(1, keepdim=True)
    nearest = ((low + high) / 2).floor().clamp(0, size - 1)
    alone = (pixels == nearest).double()
    return torch.where(total > 0, overlap / total.where(total > 0, 1), alone)
