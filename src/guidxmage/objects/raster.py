"""Polygons and run lengths as masks, the way COCO means them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]
Size = tuple[int, int]

MOST_CORNERS = 100_000
# Beyond this a corner lies nowhere near any photo, and sums with it lose the pixels.
_FARTHEST = 2**24
# Run lengths are numbers of pixels; thirteen digits of five bits are more than there can be.
_MOST_BITS = 60


def fill_polygon(corners: npt.NDArray[np.float64], size: Size) -> Mask:
    """Pixels (H, W) whose centre lies inside the polygon with corners (N, 2) in x, y.

    Even-odd rule, as in COCO; pixel (row, column) covers the unit square with its upper left
    corner at x = column, y = row. Polygons that share an edge neither overlap nor leave a gap.
    Raises ValueError for corners that are not finite numbers, or far outside of any photo.
    """
    if not np.isfinite(corners).all():
        raise ValueError("a corner is not a finite number")
    if len(corners) > MOST_CORNERS or (np.abs(corners) > _FARTHEST).any():
        raise ValueError(f"it has more than {MOST_CORNERS} corners, or one far outside")
    # To the right of where an edge crosses the middle of a row, inside turns into outside. The
    # column behind the last one takes the crossings to the right of the image.
    turns = np.zeros((size[0], size[1] + 1), dtype=np.bool_)
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        top, bottom = np.clip(np.ceil(np.array(sorted((y0, y1))) - 0.5), 0, size[0]).astype(int)
        if top < bottom:
            rows = np.arange(top, bottom)
            crossing = x0 + (rows + 0.5 - y0) * ((x1 - x0) / (y1 - y0))
            columns = np.clip(np.ceil(crossing - 0.5), 0, size[1]).astype(int)
            turns[rows, columns] ^= True
    mask: Mask = np.logical_xor.accumulate(turns[:, :-1], axis=1)
    return mask


def polygon_corners(polygon: Any) -> npt.NDArray[np.float64]:
    """The corners (N, 2) of a polygon in a COCO file: x and y in turn. Raises ValueError."""
    if not isinstance(polygon, Sequence) or isinstance(polygon, str):
        raise ValueError("a polygon is a list of numbers, x and y in turn")
    if len(polygon) % 2 or len(polygon) > 2 * MOST_CORNERS:
        raise ValueError(f"a polygon has {len(polygon)} numbers, not an x and a y for each corner")
    for number in polygon:
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise ValueError("a corner is not a number")
        if isinstance(number, float) and not math.isfinite(number):
            raise ValueError("a corner is not a finite number")
        if abs(number) > _FARTHEST:
            raise ValueError("a corner lies far outside of the photo")
    return np.asarray(polygon, dtype=np.float64).reshape(-1, 2)


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
