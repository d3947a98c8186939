"""A box or an area that was asked for, as a label map: inside of it, near it, elsewhere.

A map for a box resembles the box; what lies outside of it is the news.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, floor

import numpy as np
import numpy.typing as npt

from guidxmage.errors import InputError, MissingExtraError
from guidxmage.inputs.photo_map import labels_on_photo
from guidxmage.inputs.preprocessing import Preprocessing
from guidxmage.objects.label_map import LabelMap
from guidxmage.outputs.meaning import Meaning, area_of

INSIDE, NEAR, ELSEWHERE = 1, 2, 3
_NAMES = {INSIDE: "inside", NEAR: "near", ELSEWHERE: "elsewhere"}
Size = tuple[int, int]


def asked_about(
    meanings: Sequence[Sequence[Meaning]], size: tuple[int, ...], photo: Preprocessing | None
) -> LabelMap | None:
    """What lies inside, near and elsewhere of the one place that all numbers are about.

    meanings: of one image's targets; size: (height, width) of what is explained, which is the photo
    itself where its preprocessing is given. None where they are about no place, or several.
    """
    if len(meanings) != 1 or len(size) != 2:
        return None
    shown = (size[0], size[1])
    seen = shown if photo is None else photo.geometry(shown)[1][2:]
    places = [_place(one, seen) for one in meanings[0]]
    first = places[0]
    if first is None or any(other is None or not _same(first, other) for other in places):
        return None
    if photo is None:
        return first
    labels = labels_on_photo(first.labels, photo, shown, ELSEWHERE)
    return LabelMap(labels, first.names, seen=True)


def _same(one: LabelMap, other: LabelMap) -> bool:
    return np.array_equal(one.labels, other.labels)


def _place(meaning: Meaning, size: Size) -> LabelMap | None:
    if meaning.box is not None:
        try:
            return around_box(meaning.box, size)
        except InputError:  # the network puts it outside of the picture, or upside down
            return None
    if meaning.choice.get("kind") != "mask" or len(meaning.choice["size"]) != 2:
        return None
    grid = meaning.choice["size"]
    area = area_of(meaning.choice["area"], tuple(grid))
    rows, columns = (
        ((np.arange(side) + 0.5) * cells / side).astype(int)
        for side, cells in zip(size, grid, strict=True)
    )
    return around_area(area[np.ix_(rows, columns)])


def around_box(sides: Sequence[float], size: Size) -> LabelMap:
    """What lies inside of a box, near it and elsewhere, for a picture (height, width).

    sides: left, top, right, bottom in pixels. Near is what a box of twice the width and height
    around the same middle has beyond it. Raises InputError for a box of which no pixel is in the
    picture.
    """
    left, top, right, bottom = sides
    labels = np.full(size, ELSEWHERE, dtype=np.int32)
    across, down = (right - left) / 2, (bottom - top) / 2
    for label, grown in ((NEAR, 1.0), (INSIDE, 0.0)):
        rows = _inside(top - grown * down, bottom + grown * down, size[0])
        columns = _inside(left - grown * across, right + grown * across, size[1])
        labels[rows, columns] = label
    if not (labels == INSIDE).any():
        words = ", ".join(f"{side:.4g}" for side in sides)
        raise InputError(f"the box {words} has no pixel in a picture of {size[0]}×{size[1]}")
    return LabelMap(labels, _there(labels), seen=True)


def _inside(low: float, high: float, size: int) -> slice:
    """The pixels whose middles lie between two sides."""
    return slice(max(0, ceil(low - 0.5)), min(size, floor(high - 0.5) + 1))


def around_area(area: npt.NDArray[np.bool_]) -> LabelMap:
    """What lies inside of an area (H, W), near it and elsewhere.

    Near is what is within half the side of a square as large as the area. Needs scipy
    (MissingExtraError). Raises InputError for an empty area.
    """
    if not area.any():
        raise InputError("the area is empty")
    try:
        from scipy.ndimage import distance_transform_edt
    except ImportError as error:
        raise MissingExtraError("scipy", "view") from error
    reach = 0.5 * float(np.count_nonzero(area)) ** 0.5
    near = distance_transform_edt(~area) <= reach
    labels = np.where(area, INSIDE, np.where(near, NEAR, ELSEWHERE)).astype(np.int32)
    return LabelMap(labels, _there(labels), seen=True)


def _there(labels: npt.NDArray[np.int32]) -> dict[int, str]:
    return {label: name for label, name in _NAMES.items() if (labels == label).any()}
