"""Where the numbers of a value lie on the picture, and where an operator's output lies then.

A convolution's output at (i, j) belongs to a cell of the picture, a transformer's token to its
patch. What mixes all positions has no place. Shares of a score are exact; a place is a convention:
the cell around the centre of what a number sees, not all of what it sees.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from torch import Tensor

from guidxmage.engine.calls.call import Frame, leaves
from guidxmage.engine.rules.table import rule_of

_HALF = 0.5
# Of each side of the picture.
_EVERYWHERE = 0.75


@dataclass(frozen=True)
class Places:
    """Where the numbers of a value of one image lie.

    shape: of the value. edges: for each direction of the picture the first and the last edge of
    every number's cell, in pixels: (2, *dims), dims of size 1 where it is the same along them, and
    NaN for what has no place; empty where nothing has one. extent (2, directions): the part of the
    picture that the value covers. picture: its size.
    """

    shape: tuple[int, ...]
    edges: tuple[Tensor, ...] = ()
    extent: Tensor | None = None
    picture: tuple[int, ...] = ()

    @classmethod
    def of_picture(cls, shape: tuple[int, ...], like: Tensor) -> Places:
        """The pixels of an image (1, C, *picture)."""
        size, found = shape[2:], []
        for d, count in enumerate(size):
            first = torch.arange(count, dtype=like.dtype, device=like.device)
            line = [1] * len(shape)
            line[2 + d] = count
            found.append(torch.stack([first, first + 1]).reshape(2, *line))
        extent = like.new_tensor([[0.0] * len(size), [float(n) for n in size]])
        return cls(shape, tuple(found), extent, tuple(size))

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many different places there are along each dimension, at most."""
        if not self.edges:
            return (1,) * len(self.shape)
        return tuple(torch.broadcast_shapes(*(one.shape[1:] for one in self.edges)))

    @property
    def somewhere(self) -> bool:
        """Whether there are several places: a value that is one cell lies everywhere."""
        return prod(self.sizes) > 1

    def over(self, dims: Sequence[int]) -> Places:
        """With one cell around all those along some dimensions, which then have size 1."""
        found = []
        for edges in self.edges:
            low, high = edges[0].nan_to_num(nan=torch.inf), edges[1].nan_to_num(nan=-torch.inf)
            for dim in dims:
                low, high = low.amin(dim, keepdim=True), high.amax(dim, keepdim=True)
            both = torch.stack([low, high])
            found.append(both.masked_fill(both.isinf(), torch.nan))
        return replace(self, edges=tuple(found))

    def given_to(self, shape: Sequence[int], edges: Sequence[Tensor]) -> Places:
        """The places of another value, its edges as narrow as they can be."""
        narrow = tuple(_narrowed(one) for one in self._without_everywhere(edges))
        if not narrow or any(bool(one.isnan().all()) for one in narrow):
            return Places(tuple(shape))
        return Places(tuple(shape), narrow, self.extent, self.picture)

    def _without_everywhere(self, edges: Sequence[Tensor]) -> Sequence[Tensor]:
        """NaN for cells that cover nearly all of the picture, which is no place."""
        wide = [
            (one[1] - one[0]) / size > _EVERYWHERE
            for one, size in zip(edges, self.picture, strict=True)
        ]
        if not wide or not all(bool(one.any()) for one in wide):
            return edges
        every = wide[0]
        for one in wide[1:]:
            every = every & one
        return [torch.where(every, torch.nan, one) for one in edges] if every.any() else edges

    def unsqueezed(self, count: int) -> list[Tensor]:
        """The edges with so many dimensions more, in front."""
        return [one.reshape(2, *[1] * count, *one.shape[1:]) for one in self.edges]


def _narrowed(edges: Tensor) -> Tensor:
    """With size 1 along dimensions in which nothing changes."""
    for dim in range(1, edges.ndim):
        if edges.shape[dim] > 1:
            first = edges.narrow(dim, 0, 1)
            if bool(((edges == first) | (edges.isnan() & first.isnan())).all()):
                edges = first
    return edges


def places_in(args: Sequence[Any]) -> list[Places]:
    """The places of the active inputs among arguments, in order."""
    return [one for one in leaves(args) if isinstance(one, Places)]


def as_input(frame: Frame, *args: Any, **_: Any) -> Places:
    """Those of the input that is laid out like the output and has the most places."""
    found = Places(frame.shape)
    for one in places_in(args):
        most = prod(found.sizes) if found.edges else 0
        if one.edges and prod(one.sizes) > most and _broadcasts(one.shape, frame.shape):
            missing = len(frame.shape) - len(one.shape)
            found = one.given_to(frame.shape, one.unsqueezed(missing))
    return found if found.edges else _without_features(frame, args)


def _without_features(frame: Frame, args: Sequence[Any]) -> Places:
    """Those of an input from which the output differs only along dimensions without places."""
    for one in places_in(args):
        kept = [dim for dim, size in enumerate(one.sizes) if size > 1]
        same_rank = len(one.shape) == len(frame.shape)
        if same_rank and kept and all(one.shape[d] == frame.shape[d] for d in kept):
            return one.given_to(frame.shape, one.edges)
        for gone in range(1, len(one.shape)):  # a dimension that was summed and left out
            left = [n for dim, n in enumerate(one.shape) if dim != gone]
            if tuple(left) == frame.shape and kept and one.sizes[gone] == 1:
                edges = [edge.squeeze(1 + gone) for edge in one.edges]
                return one.given_to(frame.shape, edges)
    return Places(frame.shape)


def _broadcasts(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    pairs = zip(shape[::-1], wanted[::-1], strict=False)
    return len(shape) <= len(wanted) and all(a in (1, b) for a, b in pairs)


def moved(frame: Frame, *args: Any, **kwargs: Any) -> Places:
    """What hands numbers on hands on their places: the operator itself is applied to them."""
    inputs = places_in(args)
    known = [one for one in inputs if one.edges]
    rule = rule_of(frame.call)
    if not known or rule is None:
        return Places(frame.shape)
    like = known[0].edges[0]

    def applied(which: tuple[int, int] | None) -> Tensor:
        filled = [_component(one, which, like) for one in inputs]
        moving: Tensor = rule.push(frame, *_filled(args, iter(filled)), **kwargs)
        return moving

    placed = applied(None) > _HALF
    edges = [
        torch.where(placed, torch.stack([applied((d, 0)), applied((d, 1))]), torch.nan)
        for d in range(len(known[0].edges))
    ]
    own = known[0].given_to(frame.shape, edges)
    return own if not own.edges else replace(own, extent=_covered(own))


def _component(one: Places, which: tuple[int, int] | None, like: Tensor) -> Tensor:
    """An edge in one direction, 0 without a place; or, where `which` is None, 1 with a place."""
    if not one.edges:
        return like.new_zeros(one.shape)
    if which is None:
        missing = one.edges[0][0].isnan()
        for edges in one.edges[1:]:
            missing = missing | edges[0].isnan()
        return (~missing).to(like.dtype).expand(one.shape)
    return one.edges[which[0]][which[1]].nan_to_num(nan=0.0).expand(one.shape)


def _filled(arg: Any, values: Iterator[Tensor]) -> Any:
    if isinstance(arg, Places):
        return next(values)
    if isinstance(arg, list | tuple):
        return [_filled(item, values) for item in arg]
    return arg


def _hull(edges: Tensor) -> tuple[Tensor, Tensor]:
    """The outermost edges of all cells."""
    low = edges[0].nan_to_num(nan=torch.inf).min()
    return low, edges[1].nan_to_num(nan=-torch.inf).max()


def _covered(own: Places) -> Tensor:
    """The part of the picture between the outermost cells, within what was covered before."""
    assert own.extent is not None
    hulls = [torch.stack(_hull(edges)) for edges in own.edges]
    low, high = torch.stack(hulls, 1)
    return torch.stack([torch.maximum(low, own.extent[0]), torch.minimum(high, own.extent[1])])


# --- windows -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Window:
    """How the windows of one dimension lie.

    first: the input position, not always whole, that output 0 is centred at; stride: how far, in
    inputs, the next output is. slack: how far, in inputs, a cell may be moved and yet lie within
    its window, or the window within the cell.
    """

    first: float
    stride: float
    slack: float

    @classmethod
    def of(cls, size: int, step: int, before: int) -> Window:
        """Windows `size` long, a step apart, after `before` positions of padding."""
        even = (step - 1) / 2 if before else 0.0  # what padding on both sides is off by
        return cls((size - 1) / 2 - before, step, max(abs(size - step) / 2, even))

    @classmethod
    def transposed(cls, size: int, step: int, before: int) -> Window:
        """Those of the convolution that a transposed one reverses."""
        return cls((before - (size - 1) / 2) / step, 1 / step, abs(size - step) / 2 / step)


def through_windows(x: Places, shape: Sequence[int], windows: Sequence[Window]) -> Places:
    """Places behind windows over the last dimensions of x, whose output has that shape."""
    first = len(x.shape) - len(windows)
    x = x.over([dim for dim in range(1, first) if x.sizes[dim] > 1])
    found = []
    for d, own in enumerate(x.edges):
        edges = own
        assert x.extent is not None
        for number, window in enumerate(windows):
            dim = 1 + first + number
            if edges.shape[dim] > 1:  # else one cell, or the same for all
                wide = float((edges[1] - edges[0]).nan_to_num(nan=0.0).max())
                edges = _along(edges, dim, shape[first + number], window)
                if window.stride != 1:
                    edges = edges - _off_centre(edges, x.extent[:, d], wide * window.slack)
        found.append(edges)
    return x.given_to(shape, found)


def _along(edges: Tensor, dim: int, count: int, window: Window) -> Tensor:
    """Cells around the windows' centres, as wide as the windows are apart."""
    lines = edges.movedim(dim, 0)
    at = window.first + window.stride * torch.arange(count, dtype=lines.dtype, device=lines.device)
    index = at.floor().clamp(0, len(lines) - 2).long()
    part = (at - index).reshape(-1, *[1] * (lines.ndim - 1))
    between = lines[index] * (1 - part) + lines[index + 1] * part
    centre = between.mean(1)
    half = (between[:, 1] - between[:, 0]) * window.stride / 2
    return torch.stack([centre - half, centre + half]).movedim(1, dim)


def _off_centre(edges: Tensor, extent: Tensor, most: float) -> Tensor:
    """How far cells lie off the middle of what they cover, where that is no more than a cell.

    Strided windows are padded on one side rather than the other; that is no reason to draw a map
    half a cell off. most: how far they may be moved.
    """
    low, high = _hull(edges)
    wide = (edges[1] - edges[0]).nan_to_num(nan=0.0).max()
    uneven = (low - extent[0]) - (extent[1] - high)
    shift = (uneven / 2).clamp(-most, most)
    return torch.where(uneven.abs() <= wide, shift, torch.zeros_like(shift))


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
    x = x.over([1] if len(x.shape) > 1 and x.sizes[1] > 1 else [])
    found = []
    for own in x.edges:
        edges = own
        for dim in range(2, len(x.shape)):
            if edges.shape[1 + dim] > 1:
                edges = _cut_anew(edges, 1 + dim, frame.shape[dim])
        found.append(edges)
    return x.given_to(frame.shape, found)


def _cut_anew(edges: Tensor, dim: int, count: int) -> Tensor:
    lines = edges.movedim(dim, 0)
    at = torch.linspace(0, len(lines), count + 1, dtype=lines.dtype, device=lines.device)
    index = at.floor().clamp(0, len(lines) - 1).long()
    part = (at - index).reshape(-1, *[1] * (lines.ndim - 2))
    edge = lines[index, 0] * (1 - part) + lines[index, 1] * part
    return torch.stack([edge[:-1], edge[1:]]).movedim(1, dim)


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
    listed = [every] if isinstance(every, int) else list(every)
    reduced = [d % len(x.shape) for d in listed]
    x = x.over(reduced)
    if len(frame.shape) == len(x.shape):
        return x.given_to(frame.shape, x.edges)
    left = [[n for d, n in enumerate(one.shape[1:]) if d not in reduced] for one in x.edges]
    edges = [one.reshape(2, *shape) for one, shape in zip(x.edges, left, strict=True)]
    return x.given_to(frame.shape, edges)


def over_features(frame: Frame, x: Places, *_: Any, **__: Any) -> Places:
    """A linear layer sums its input's last dimension."""
    x = x.over([len(x.shape) - 1])
    return x.given_to(frame.shape, x.edges)


def multiplied(frame: Frame, *args: Any, **_: Any) -> Places:
    """A product of matrices: the places of the left one's rows, else of the right one's columns."""
    sides = [one for one in args if isinstance(one, Places | Tensor)][-2:]
    found = Places(frame.shape)
    for side, dim in zip(sides, (-1, -2), strict=True):
        missing = len(frame.shape) - len(side.shape)
        if not isinstance(side, Places) or len(side.shape) < 2 or missing < 0:
            continue
        own = side.over([len(side.shape) + dim])
        if own.edges and not found.somewhere:
            found = own.given_to(frame.shape, own.unsqueezed(missing))
    return found


def by_letters(frame: Frame, equation: str, operands: Sequence[Any], **_: Any) -> Places:
    """An einsum: the places of the first operand that hands several of them to the output."""
    sides = equation.replace(" ", "").split("->")
    if len(sides) != 2 or "." in equation:
        return Places(frame.shape)
    for letters, one in zip(sides[0].split(","), operands, strict=True):
        if isinstance(one, Places) and one.edges:
            own = one.over([n for n, letter in enumerate(letters) if letter not in sides[1]])
            edges = [_lettered(edge, letters, sides[1]) for edge in own.edges]
            found = own.given_to(frame.shape, edges)
            if found.somewhere:
                return found
    return Places(frame.shape)


def _lettered(edges: Tensor, letters: str, output: str) -> Tensor:
    """Dimensions in the order of the output's letters; those that are not there have size 1."""
    kept = [letters.index(letter) for letter in output if letter in letters]
    others = [n for n in range(len(letters)) if n not in kept]
    picked = edges.permute(0, *[1 + n for n in (*kept, *others)])
    sizes = iter(picked.shape[1:])
    return picked.reshape(2, *[next(sizes) if letter in letters else 1 for letter in output])
