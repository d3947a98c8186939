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

_LETTERS = "abcdefghijklmnop"


@dataclass(frozen=True)
class Layout:
    """How the positions of a value lie on a picture.

    axes: the dimensions of the value, images first, along which places differ; bounds (2, D,
    *sizes of the axes) are the edges of the cells in pixels, NaN without a place; picture: its
    size.
    """

    axes: tuple[int, ...]
    bounds: Tensor
    picture: tuple[int, ...]

    @classmethod
    def of(cls, places: Places, picture: Sequence[int]) -> Layout | None:
        """None for a value that lies nowhere, or everywhere."""
        bounds = places.bounds
        if bounds is None or not places.somewhere:
            return None
        if places.shape[0] != 1:  # parts of an image in the first dimension
            bounds = bounds.unsqueeze(2)
        axes = tuple(dim for dim, size in enumerate(bounds.shape[2:]) if size > 1)
        sizes = [bounds.shape[2 + dim] for dim in axes]
        return cls(axes, bounds.reshape(*bounds.shape[:2], *sizes), tuple(picture))

    @cached_property
    def key(self) -> tuple[object, ...]:
        """Equal for values that lie alike."""
        return (self.axes, tuple(self.bounds.shape), self.bounds.cpu().numpy().tobytes())

    @property
    def grid(self) -> tuple[int, ...]:
        """How many cells there are in each direction of the picture."""
        middle = self.bounds.mean(0)
        cells = (one[~one.isnan()] for one in middle)
        return tuple(len((one * 64).round().unique()) for one in cells)

    @cached_property
    def placeless(self) -> Tensor | None:
        """Which positions have no place, bool, of the axes' sizes; None where all have one."""
        missing = self.bounds[0, 0].isnan()
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
        equation, factors = self._recipe
        return torch.einsum(equation, sums.double(), *factors)

    @cached_property
    def _recipe(self) -> tuple[str, list[Tensor]]:
        """An einsum: for each direction of the picture the shares of its lines in every cell."""
        letters = _LETTERS[: len(self.axes)]
        inputs, factors = ["r" + letters], []
        for d, size in enumerate(self.picture):
            used = [n for n in range(len(self.axes)) if self._differs(d, n)]
            lines = self.bounds[:, d]
            for n in range(len(self.axes)):
                if n not in used:
                    lines = _first_known(lines, 1 + n)
            shape = [lines.shape[1 + n] for n in used]
            shares = _shares(lines.reshape(2, prod(shape)), size)
            inputs.append("".join(letters[n] for n in used) + "xyzuvw"[d])
            factors.append(shares.reshape(*shape, size))
        output = "r" + "xyzuvw"[: len(self.picture)]
        return ",".join(inputs) + "->" + output, factors

    def _differs(self, d: int, axis: int) -> bool:
        lines = self.bounds[:, d].movedim(1 + axis, 0)
        first = _first_known(lines, 0)
        return not bool(((lines == first) | lines.isnan()).all())


def _first_known(lines: Tensor, dim: int) -> Tensor:
    """The first that is no NaN along a dimension, which keeps size 1."""
    known = (~lines.isnan()).to(torch.uint8).argmax(dim, keepdim=True)
    return lines.gather(dim, known)


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
