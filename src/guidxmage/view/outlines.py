"""Objects on a picture: lines between them, and places for their names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from guidxmage.errors import MissingExtraError
from guidxmage.view.canvas import DPI, INK, Canvas
from guidxmage.view.colors import RGB

NAME_SIZE, LONGEST_NAME, SPACE = 7, 14, 4
EM = NAME_SIZE * DPI / 72
LETTER_WIDTH, LINE_HEIGHT = 0.62 * EM, 1.2 * EM
"""Room for a name, in pixels of the figure."""

BEYOND = 2.0
"""How many times as wide as its region a name may be."""

Place = tuple[int, int]
Labels = npt.NDArray[Any]


def outlined(pixels: RGB, labels: Labels | None, shape: tuple[int, int], grey: int = 255) -> RGB:
    """A picture enlarged to a shape (H, W), with lines between regions of labels (h, w).

    grey: of the lines, white unless told otherwise.

    Without labels it is returned as it is.
    """
    if labels is None:
        return pixels
    large: RGB = nearest(pixels, shape)
    regions = nearest(np.asarray(labels), shape)
    border = np.zeros(shape, dtype=bool)
    border[:-1] |= regions[:-1] != regions[1:]
    border[:, :-1] |= regions[:, :-1] != regions[:, 1:]
    large[border] = grey
    return large


def nearest(values: npt.NDArray[Any], shape: tuple[int, int]) -> npt.NDArray[Any]:
    """An array (h, w, …) as (H, W, …), each element the nearest one."""
    rows, columns = (np.arange(n) * m // n for n, m in zip(shape, values.shape, strict=False))
    result: npt.NDArray[Any] = values[np.ix_(rows, columns)]
    return result


def draw_names(
    canvas: Canvas,
    labels: Labels | None,
    names: Mapping[int, str],
    box: tuple[float, float, int, int],
    *,
    instead: Mapping[int, str] | None = None,
    size: float = NAME_SIZE,
    dark: bool = False,
) -> None:
    """Write the names of labels into their regions of a picture at (left, top, height, width).

    Names that are much wider than their region, or only fit over others, are left out. instead: of
    each name, what is written where it is too wide. dark: dark letters
    with a light edge, for light pictures.
    """
    from matplotlib.patheffects import withStroke

    left, top, height, width = box
    if labels is None or height < LINE_HEIGHT * size / NAME_SIZE:
        return
    regions = nearest(np.asarray(labels), (height, width))
    texts, widths = {}, {}
    for label, name in names.items():
        room = min(width, BEYOND * np.count_nonzero((regions == label).any(axis=0)))
        for text in (name, instead.get(label, name) if instead else name):
            widths[label] = canvas.width_of(text, size) + SPACE
            if widths[label] <= room:
                texts[label] = text
                break
    inner, outer = (INK, "white") if dark else ("white", INK)
    halo = [withStroke(linewidth=2.4, foreground=outer)]
    line = LINE_HEIGHT * size / NAME_SIZE
    places = name_places(regions, texts, widths, line)
    for label, (row, column) in places.items():
        middle = {"ha": "center", "va": "center", "color": inner, "path_effects": halo}
        canvas.text(left + column, top + row, texts[label], size, **middle)


def name_places(
    labels: Labels,
    names: Mapping[int, str],
    widths: Mapping[int, float] | None = None,
    line: float = LINE_HEIGHT,
) -> dict[int, Place]:
    """Row and column of the middle of each name, for labels (H, W) at the size of the picture.

    A name lies where its region is widest, inside the picture and clear of the names before it;
    where it cannot be, and for labels without pixels, it is left out. widths: of the names in
    pixels, and line: their height.
    """
    taken: list[tuple[Place, float]] = []
    places: dict[int, Place] = {}
    for label, name in names.items():
        free = _depth(labels == label)
        half_width = (len(name) * LETTER_WIDTH if widths is None else widths[label]) / 2
        for (row, column), other in taken:
            rows = _around(row, line)
            free[rows, _around(column, half_width + other)] = 0
        if not free.any():
            continue
        top, left = np.unravel_index(free.argmax(), labels.shape)
        place = (
            _clamped(top, line / 2, labels.shape[0]),
            _clamped(left, half_width, labels.shape[1]),
        )
        if any(_meet(place, half_width, one, other, line) for one, other in taken):
            continue
        places[label] = place
        taken.append((place, half_width))
    return places


def _meet(one: Place, half: float, other: Place, other_half: float, line: float) -> bool:
    """Whether two names lie over each other."""
    return abs(one[0] - other[0]) < line - 1 and abs(one[1] - other[1]) < half + other_half - 1


def _depth(inside: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """How far each pixel of a mask is from the pixels outside it and outside the picture."""
    try:
        from scipy.ndimage import distance_transform_edt
    except ImportError as error:
        raise MissingExtraError("scipy", "view") from error
    depth: npt.NDArray[np.float64] = distance_transform_edt(np.pad(inside, 1))[1:-1, 1:-1]
    return depth


def _around(middle: int, reach: float) -> slice:
    return slice(max(0, int(middle - reach)), int(middle + reach) + 1)


def _clamped(middle: Any, half: float, length: int) -> int:
    """A middle moved so that ±half stays within 0…length; half is at most length / 2."""
    return round(min(max(float(middle), half), length - half))
