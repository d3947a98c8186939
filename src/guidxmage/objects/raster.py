"""Polygons and run lengths as masks, the way COCO means them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]
Size = tuple[int, int]
Whole = npt.NDArray[np.int64]

MOST_CORNERS = 100_000
# Beyond this a corner lies nowhere near any photo, and sums with it lose the pixels.
_FARTHEST = 2**24
# Corners are rounded to one part in so many of a pixel.
_GRID = 5
# Passages of edges through columns that are looked at together.
_AT_ONCE = 2**18
# Run lengths are numbers of pixels; thirteen digits of five bits are more than there can be.
_MOST_BITS = 60


def fill_polygon(corners: npt.NDArray[np.float64], size: Size) -> Mask:
    """The pixels (H, W) of a polygon with corners (N, 2) in x, y, as pycocotools draws it.

    Corners are rounded to fifths of a pixel. An edge is walked from point to point of that grid,
    along its longer direction. Where it passes the middle of a column, inside turns into outside
    below the upper one of the two points there. Pixel (row, column) covers the unit square with
    its upper left corner at x = column, y = row. Polygons that share an edge neither overlap nor
    leave a gap. Raises ValueError for corners that are not finite numbers, or far outside of any
    photo.
    """
    if not np.isfinite(corners).all():
        raise ValueError("a corner is not a finite number")
    if len(corners) > MOST_CORNERS or (np.abs(corners) > _FARTHEST).any():
        raise ValueError(f"it has more than {MOST_CORNERS} corners, or one far outside")
    height, width = size
    # Column after column. The place behind the last pixel takes what passes below that.
    turns = np.zeros(height * width + 1, dtype=np.bool_)
    for columns, rows in _passages(corners, width):
        np.logical_xor.at(turns, columns * height + np.clip(rows, 0, height), True)
    mask: Mask = np.logical_xor.accumulate(turns[:-1]).reshape(width, height).T
    return mask


def _passages(corners: npt.NDArray[np.float64], width: int) -> Iterator[tuple[Whole, Whole]]:
    """Where edges pass the middles of columns: (columns, rows), a bounded number at a time.

    A row is the first that has its middle below the passage; it may lie outside of the image.
    """
    # Rounded as C rounds, towards zero.
    begin = np.trunc(_GRID * corners + 0.5).astype(np.int64)
    end = np.roll(begin, -1, axis=0)
    left, right = np.minimum(begin[:, 0], end[:, 0]), np.maximum(begin[:, 0], end[:, 0])
    # The middle of column q lies between the grid's columns 5q + 2 and 5q + 3.
    first = np.maximum((left + 2) // _GRID, 0)
    count = np.maximum(np.minimum((right + 2) // _GRID, width) - first, 0)
    total = np.cumsum(count)
    start = done = 0
    while start < len(begin):
        # One edge at least; it has no more passages than there are columns.
        stop = max(start + 1, int(np.searchsorted(total, done + _AT_ONCE, side="right")))
        edge = np.repeat(np.arange(start, stop), count[start:stop])
        columns = first[edge] + done + np.arange(len(edge)) - (total - count)[edge]
        yield columns, _rows(begin[edge], end[edge], _GRID * columns + 3)
        start, done = stop, int(total[stop - 1])


def _rows(begin: Whole, end: Whole, reached: Whole) -> Whole:
    """The first row below each edge where it comes from grid column reached − 1 to reached."""
    steep = np.diff(abs(end - begin))[:, 0] > 0
    upper = np.empty(len(begin), dtype=np.int64)
    upper[~steep] = _upper_flat(*_ascending(begin[~steep], end[~steep], 0), reached[~steep])
    upper[steep] = _upper_steep(*_ascending(begin[steep], end[steep], 1), reached[steep])
    return (upper + 2) // _GRID


def _ascending(begin: Whole, end: Whole, axis: int) -> tuple[Whole, Whole]:
    """Both ends of each edge, the one that comes first along the axis first.

    Polygons that share an edge then agree about it, whichever way they go.
    """
    back = (begin[:, axis] > end[:, axis])[:, None]
    return np.where(back, end, begin).T, np.where(back, begin, end).T


# Below, sums stand in the order that pycocotools has them in, since they round.


def _upper_flat(begin: Whole, end: Whole, reached: Whole) -> Whole:
    """The upper grid row of the two points, of edges that are walked column by column."""
    (x, y), (dx, dy) = begin, end - begin
    rows = [np.floor(y + dy / dx * step + 0.5) for step in (reached - x - 1, reached - x)]
    upper: Whole = np.minimum(*rows).astype(np.int64)
    return upper


def _upper_steep(begin: Whole, end: Whole, reached: Whole) -> Whole:
    """The same of edges that are walked row by row: the row before the step that gets there."""
    (x, y), (dx, dy) = begin, end - begin
    slope = dx / dy
    # Exact but for rounding, which is what decides where a step comes close to the column.
    step = np.floor((reached - 0.5 - x) / slope).astype(np.int64) - 1
    for _ in range(3):
        step += (x + slope * step + 0.5 >= reached) != (slope > 0)
    upper: Whole = y + step - 1
    return upper


def polygon_corners(polygon: Any) -> npt.NDArray[np.float64]:
    """The corners (N, 2) of a polygon in a COCO file: x and y in turn. Raises ValueError."""
    if not isinstance(polygon, Sequence) or isinstance(polygon, str):
        raise ValueError("a polygon is a list of numbers, x and y in turn")
    if len(polygon) > 2 * MOST_CORNERS:
        raise ValueError(f"a polygon has {len(polygon)} numbers")
    for number in polygon:
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise ValueError("a corner is not a number")
        if isinstance(number, float) and not math.isfinite(number):
            raise ValueError("a corner is not a finite number")
        if abs(number) > _FARTHEST:
            raise ValueError("a corner lies far outside of the photo")
    if len(polygon) % 2:
        raise ValueError(f"a polygon has {len(polygon)} numbers, not an x and a y for each corner")
    return np.asarray(polygon, dtype=np.float64).reshape(-1, 2)


def box_corners(box: Any) -> npt.NDArray[np.float64]:
    """The corners (4, 2) of a box in a COCO file: x, y, width and height. Raises ValueError."""
    if not isinstance(box, Sequence) or len(box) != 4:
        raise ValueError("a box is a list of four numbers: left, top, width and height")
    (left, top), extent = polygon_corners(box)
    if (extent < 0).any():
        raise ValueError("a box has a width or a height below 0")
    right, bottom = left + extent[0], top + extent[1]
    return np.array([[left, top], [left, bottom], [right, bottom], [right, top]])


def decode_runs(counts: Any, size: Size) -> Mask:
    """COCO's run lengths, of 0s first, down the columns → mask (H, W).

    counts: whole numbers, or the text that packs them. Raises ValueError.
    """
    runs = list(_unpacked(counts)) if isinstance(counts, str) else counts
    if not isinstance(runs, Sequence):
        raise ValueError("run lengths are a list of whole numbers, or text")
    pixels, total = size[0] * size[1], 0
    for run in runs:
        # Numbers are compared before NumPy makes 64 bits of them.
        if isinstance(run, bool) or not isinstance(run, int) or not 0 <= run <= pixels:
            raise ValueError("a run length is no whole number from 0 to the number of pixels")
        total += run
    if total != pixels:
        raise ValueError(f"run lengths add up to {total}, not {size[0]}·{size[1]}")
    values = np.arange(len(runs)) % 2 == 1
    mask: Mask = np.repeat(values, np.asarray(runs, dtype=np.int64)).reshape(size[::-1]).T
    return mask


def _unpacked(text: str) -> Iterator[int]:
    """COCO's compressed run lengths: base 32 digits, lowest first, from the character '0' on.

    The bit 32 says that more digits follow, the bit 16 of the last digit is the sign; from the
    fourth number on the difference to the number two before is stored.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        digit = ord(character) - ord("0")
        if not 0 <= digit < 64 or shift > _MOST_BITS:
            raise ValueError("compressed run lengths hold what is no number")
        value |= (digit & 31) << shift
        shift += 5
        if digit & 32:
            continue
        if digit & 16:
            value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
        value = shift = 0
    if shift:
        raise ValueError("compressed run lengths end in the middle of a number")
    yield from counts
