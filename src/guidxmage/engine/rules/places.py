"""Where the numbers of a value lie on the picture, and where an operator's output lies then.

A convolution's output at (i, j) belongs to a cell of the picture, a transformer's token to its
patch. What mixes all positions has no place. Shares of a score are exact; a place is a convention:
the cell around the centre of what a number sees, not all of what it sees.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from guidxmage.engine.calls.call import Frame, leaves
from guidxmage.engine.rules.table import rule_of

_HALF = 0.5


@dataclass(frozen=True)
class Places:
    """Where the numbers of a value of one image lie.

    shape: of the value. bounds (2, D, *dims): the first and the last edge of each number's cell in
    the D directions of the picture, in pixels, NaN for what has no place; dims broadcast to shape.
    None where nothing has one. extent (2, D): the part of the picture that the value covers.
    """

    shape: tuple[int, ...]
    bounds: Tensor | None = None
    extent: Tensor | None = None

    @classmethod
    def of_picture(cls, shape: tuple[int, ...], like: Tensor) -> Places:
        """The pixels of an image (1, C, *picture)."""
        size = shape[2:]
        bounds = like.new_zeros(2, len(size), *[1] * 2, *size)
        for d, count in enumerate(size):
            edges = torch.arange(count, dtype=like.dtype, device=like.device)
            line = edges.reshape(-1, *[1] * (len(size) - 1 - d))
            bounds[0, d], bounds[1, d] = line, line + 1
        extent = like.new_tensor([[0.0] * len(size), [float(n) for n in size]])
        return cls(shape, bounds, extent)

    @property
    def cells(self) -> int:
        """How many places there are, with those of numbers that lie alike."""
        return 0 if self.bounds is None else self.bounds[0, 0].numel()

    @property
    def somewhere(self) -> bool:
        """Whether there are several places: a value that is one cell lies everywhere."""
        return self.cells > 1

    def unsqueezed(self, count: int) -> Tensor | None:
        """The bounds with so many dimensions more, in front."""
        bounds = self.bounds
        if bounds is None:
            return None
        return bounds.reshape(*bounds.shape[:2], *[1] * count, *bounds.shape[2:])

    def varies(self, dim: int) -> Tensor:
        """In which directions of the picture the places differ along a dimension, bool (D,)."""
        assert self.bounds is not None
        first = self.bounds.narrow(2 + dim, 0, 1)
        same = (self.bounds == first) | (self.bounds.isnan() & first.isnan())
        return ~same.transpose(0, 1).flatten(1).all(1)

    def over(self, dims: Sequence[int]) -> Places:
        """With one cell around all those along some dimensions, which then have size 1."""
        if self.bounds is None:
            return self
        bounds = self.bounds
        for dim in dims:
            low = bounds[0].nan_to_num(nan=torch.inf).amin(1 + dim, keepdim=True)
            high = bounds[1].nan_to_num(nan=-torch.inf).amax(1 + dim, keepdim=True)
            bounds = torch.stack([low, high])
        bounds = bounds.masked_fill(bounds.isinf(), torch.nan)
        return replace(self, bounds=bounds)

    def shaped(self, shape: Sequence[int], bounds: Tensor | None) -> Places:
        """Places of another value, its bounds as narrow as they can be."""
        shape = tuple(shape)
        if bounds is None or bool(bounds.isnan().all()):
            return Places(shape)
        found = Places(shape, bounds, self.extent)
        for dim, size in enumerate(bounds.shape[2:]):
            if size > 1 and not bool(found.varies(dim).any()):
                bounds = bounds.narrow(2 + dim, 0, 1)
                found = replace(found, bounds=bounds)
        return found


def given(args: Sequence[Any]) -> list[Places]:
    """The places of the active inputs among arguments, in order."""
    return [one for one in leaves(args) if isinstance(one, Places)]


def as_input(frame: Frame, *args: Any, **_: Any) -> Places:
    """Those of the input that is laid out like the output and has the most places."""
    found = Places(frame.shape)
    for one in given(args):
        if one.cells > found.cells and _broadcasts(one, frame.shape):
            found = one.shaped(frame.shape, one.unsqueezed(len(frame.shape) - len(one.shape)))
    return found


def _broadcasts(one: Places, shape: tuple[int, ...]) -> bool:
    own = one.shape[::-1]
    fits = all(a in (1, b) for a, b in zip(own, shape[::-1], strict=False))
    return fits and len(own) <= len(shape)


def moved(frame: Frame, *args: Any, **kwargs: Any) -> Places:
    """What hands numbers on hands on their places: the operator itself is applied to them."""
    inputs = given(args)
    known = [one for one in inputs if one.bounds is not None]
    rule = rule_of(frame.call)
    if not known or rule is None:
        return Places(frame.shape)
    like = known[0].bounds
    assert like is not None

    def applied(number: Sequence[int] | None) -> Tensor:
        filled = [_component(one, number, like) for one in inputs]
        moving: Tensor = rule.push(frame, *_filled(args, iter(filled)), **kwargs)
        return moving

    placed = applied(None) > _HALF
    bounds = torch.stack(
        [torch.stack([applied((e, d)) for d in range(like.shape[1])]) for e in range(2)]
    )
    bounds = torch.where(placed, bounds, torch.nan)
    own = known[0].shaped(frame.shape, bounds)
    return own if own.bounds is None else replace(own, extent=_covered(own))


def _component(one: Places, number: Sequence[int] | None, like: Tensor) -> Tensor:
    """One edge in one direction, 0 without a place; or, without a number, 1 where there is one."""
    if one.bounds is None:
        return like.new_zeros(one.shape)
    if number is None:
        return (~one.bounds[0, 0].isnan()).to(like.dtype).expand(one.shape)
    return one.bounds[number[0], number[1]].nan_to_num(nan=0.0).expand(one.shape)


def _filled(arg: Any, values: Any) -> Any:
    if isinstance(arg, Places):
        return next(values)
    if isinstance(arg, list | tuple):
        return [_filled(item, values) for item in arg]
    return arg


def _covered(own: Places) -> Tensor:
    """The part of the picture between the outermost cells, within what was covered before."""
    assert own.bounds is not None
    assert own.extent is not None
    low = own.bounds[0].flatten(1).nan_to_num(nan=torch.inf).amin(1)
    high = own.bounds[1].flatten(1).nan_to_num(nan=-torch.inf).amax(1)
    return torch.stack([torch.maximum(low, own.extent[0]), torch.minimum(high, own.extent[1])])


# --- windows -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Window:
    """How the windows of one dimension lie.

    first: the input position, not always whole, that output 0 is centred at; stride: how far, in
    inputs, the next output is.
    """

    first: float
    stride: float

    @classmethod
    def of(cls, size: int, step: int, before: int) -> Window:
        """Windows `size` long, a step apart, after `before` positions of padding."""
        return cls((size - 1) / 2 - before, step)

    @classmethod
    def transposed(cls, size: int, step: int, before: int) -> Window:
        """Those of the convolution that a transposed one reverses."""
        return cls((before - (size - 1) / 2) / step, 1 / step)


def through_windows(x: Places, shape: Sequence[int], windows: Sequence[Window]) -> Places:
    """Places behind windows over the last dimensions of x, whose output has that shape."""
    if x.bounds is None:
        return Places(tuple(shape))
    first = len(x.shape) - len(windows)
    x = x.over([dim for dim in range(1, first) if x.bounds.shape[2 + dim] > 1])
    for number, window in enumerate(windows):
        x = _along(x, first + number, shape[first + number], window)
    assert x.bounds is not None
    return x.shaped(shape, x.bounds)


def _along(x: Places, dim: int, count: int, window: Window) -> Places:
    """Cells around the windows' centres, as wide as the windows are apart."""
    assert x.bounds is not None
    size, axis = x.bounds.shape[2 + dim], 2 + dim
    if size == 1:  # one cell, or the same cell for all
        return x
    lines = x.bounds.movedim(axis, 0)
    at = window.first + window.stride * torch.arange(count, dtype=lines.dtype, device=lines.device)
    index = at.floor().clamp(0, size - 2).long()
    part = (at - index).reshape(-1, *[1] * (lines.ndim - 1))
    between = lines[index] * (1 - part) + lines[index + 1] * part
    centre = between.mean(1, keepdim=True)
    wide = (between[:, 1:] - between[:, :1]) * torch.where(
        x.varies(dim).reshape(-1, *[1] * (lines.ndim - 3)), window.stride, 1.0
    )
    edges = torch.cat([centre - wide / 2, centre + wide / 2], 1).movedim(0, axis)
    moved_by = _off_centre(x, edges, dim) if window.stride != 1 else None
    return replace(x, bounds=edges if moved_by is None else edges - moved_by)


def _off_centre(x: Places, edges: Tensor, dim: int) -> Tensor:
    """How far cells lie off the middle of what they cover, where that is less than a cell.

    Strided windows are padded on one side rather than the other; that is no reason to draw a map
    half a cell off.
    """
    assert x.extent is not None
    low = edges[0].flatten(1).nan_to_num(nan=torch.inf).amin(1)
    high = edges[1].flatten(1).nan_to_num(nan=-torch.inf).amax(1)
    wide = (edges[1] - edges[0]).flatten(1).nan_to_num(nan=0.0).amax(1)
    uneven = (low - x.extent[0]) - (x.extent[1] - high)
    moving = x.varies(dim) & (uneven.abs() <= wide)
    return (moving * uneven / 2).reshape(1, -1, *[1] * (edges.ndim - 2))


def pooled(
    frame: Frame, x: Places, kernel: Any, stride: Any = (), padding: Any = (0,), *rest: Any
) -> Places:
    """Cells around the windows of a pool."""
    dims = 1 if isinstance(kernel, int) else len(kernel)
    dilation = rest[0] if rest and not isinstance(rest[0], bool) else (1,)
    given = [_each(one, dims) for one in (kernel, stride or kernel, padding, dilation)]
    windows = [Window.of(d * (k - 1) + 1, s, p) for k, s, p, d in zip(*given, strict=True)]
    return through_windows(x, frame.shape, windows)


def _each(value: Any, dims: int) -> list[int]:
    numbers = [value] if isinstance(value, int) else list(value)
    return numbers * dims if len(numbers) == 1 else numbers


def resized(frame: Frame, x: Places, *_: Any, **__: Any) -> Places:
    """Cells of the same plane cut more or less finely: resampling and adaptive pools."""
    if x.bounds is None:
        return Places(frame.shape)
    planes = len(x.shape) - 2
    x = x.over([1] if x.bounds.shape[3] > 1 else [])
    assert x.bounds is not None
    for dim in range(2, 2 + planes):
        x = _cut_anew(x, dim, x.shape[dim], frame.shape[dim])
    return x.shaped(frame.shape, x.bounds)


def _cut_anew(x: Places, dim: int, before: int, after: int) -> Places:
    assert x.bounds is not None
    lines = x.bounds.movedim(2 + dim, 0)
    if lines.shape[0] == 1:  # nothing tells which of a cell's directions the dimension is
        return x
    at = torch.linspace(0, before, after + 1, dtype=lines.dtype, device=lines.device)
    index = at.floor().clamp(0, before - 1).long()
    part = (at - index).reshape(-1, *[1] * (lines.ndim - 2))
    edge = lines[index, 0] * (1 - part) + lines[index, 1] * part
    varies = x.varies(dim).reshape(-1, *[1] * (lines.ndim - 3))
    low = torch.where(varies, edge[:-1], lines[index[:-1], 0])
    high = torch.where(varies, edge[1:], lines[index[:-1], 1])
    return replace(x, bounds=torch.stack([low, high]).movedim(1, 2 + dim))


def padded(frame: Frame, x: Places, pad: Sequence[int], *rest: Any, **_: Any) -> Places:
    """Cells go on beyond the edges where a constant is put there, else the pixels' own."""
    mode = next((one for one in rest if isinstance(one, str)), "constant")
    if mode != "constant":
        return moved(frame, x, pad, *rest)
    windows = [Window.of(1, 1, pad[2 * n]) for n in range(len(pad) // 2)][::-1]
    return through_windows(x, frame.shape, windows)


# --- sums ----------------------------------------------------------------------------------------


def summed_over(frame: Frame, x: Places, dims: Any = None, keep: bool = False, **_: Any) -> Places:
    """One cell around all that is summed."""
    every = range(len(x.shape)) if dims is None or dims == [] else dims
    return _reduced(x, [d % len(x.shape) for d in _listed(every)], frame.shape)


def _listed(dims: Any) -> Sequence[int]:
    return [dims] if isinstance(dims, int) else list(dims)


def _reduced(x: Places, dims: Sequence[int], shape: Sequence[int]) -> Places:
    x = x.over(dims)
    if x.bounds is None:
        return Places(tuple(shape))
    left = [n for d, n in enumerate(x.bounds.shape[2:]) if d not in dims]
    kept = x.bounds.shape[2:] if len(shape) == len(x.shape) else left
    return x.shaped(shape, x.bounds.reshape(*x.bounds.shape[:2], *kept))


def over_features(frame: Frame, x: Places, *_: Any, **__: Any) -> Places:
    """A linear layer sums its input's last dimension."""
    x = x.over([len(x.shape) - 1])
    return x.shaped(frame.shape, x.bounds)


def multiplied(frame: Frame, *args: Any, **_: Any) -> Places:
    """A product of matrices: the places of the left one's rows, else of the right one's columns."""
    sides = [one for one in args if isinstance(one, Places | Tensor)][-2:]
    found = Places(frame.shape)
    for side, dim in zip(sides, (-1, -2), strict=True):
        missing = len(frame.shape) - len(side.shape)
        if not isinstance(side, Places) or len(side.shape) < 2 or missing < 0:
            continue
        own = side.over([len(side.shape) + dim])
        if own.bounds is not None and not found.somewhere:
            found = own.shaped(frame.shape, own.unsqueezed(missing))
    return found


def by_letters(frame: Frame, equation: str, operands: Sequence[Any], **_: Any) -> Places:
    """An einsum: the places of the operand that hands the most of them to the output."""
    sides = equation.replace(" ", "").split("->")
    if len(sides) != 2 or "." in equation:
        return Places(frame.shape)
    found = Places(frame.shape)
    for letters, one in zip(sides[0].split(","), operands, strict=True):
        if not isinstance(one, Places) or one.bounds is None:
            continue
        own = one.over([n for n, letter in enumerate(letters) if letter not in sides[1]])
        assert own.bounds is not None
        order = [letters.index(letter) for letter in sides[1] if letter in letters]
        picked = own.bounds.permute(0, 1, *[2 + n for n in order], *_rest(order, len(letters)))
        sizes = iter(picked.shape[2:])
        shape = [next(sizes) if letter in letters else 1 for letter in sides[1]]
        bounds = picked.reshape(*picked.shape[:2], *shape)
        candidate = own.shaped(frame.shape, bounds)
        if candidate.somewhere and not found.somewhere:
            found = candidate
    return found


def _rest(order: Sequence[int], count: int) -> list[int]:
    return [2 + n for n in range(count) if n not in order]


def nowhere(frame: Frame, *_: Any, **__: Any) -> Places:
    """What mixes positions in a way that leaves none."""
    return Places(frame.shape)
