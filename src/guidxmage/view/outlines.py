"""Objects on a picture: lines between them, and places for their names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from guidxmage.errors import MissingExtraError
from guidxmage.view.canvas import DPI, INK, Canvas
from guidxmage.view.colors import RGB

if TYPE_CHECKING:
    from guidxmage.view.panel import Panel

NAME_SIZE, LONGEST_NAME = 7, 14
EM = NAME_SIZE * DPI / 72
LETTER_WIDTH, LINE_HEIGHT = 0.62 * EM, 1.2 * EM
"""Room for a name, in pixels of the figure."""

Place = tuple[int, int]
Labels = npt.NDArray[Any]


def outlined(pixels: RGB, labels: Labels | None, shape: tuple[int, int]) -> RGB:
    """A picture enlarged to a shape (H, W), with white lines between regions of labels (h, w).

    Without labels it is returned as it is.
    """
    if labels is None:
        return pixels
    large: RGB = nearest(pixels, shape)
    regions = nearest(np.asarray(labels), shape)
    border = np.zeros(shape, dtype=bool)
    border[:-1] |= regions[:-1] != regions[1:]
    border[:, :-1] |= regions[:, :-1] != regions[:, 1:]
    large[border] = 255
    return large


def nearest(values: npt.NDArray[Any], shape: tuple[int, int]) -> npt.NDArray[Any]:
    """An array (h, w, …) as (H, W, …), each element the nearest one."""
    rows, columns = (np.arange(n) * m // n for n, m in zip(shape, values.shape, strict=False))
    result: npt.NDArray[Any] = values[np.ix_(rows, columns)]
    return result


def draw_names(
    canvas: Canvas, panel: Panel, names: Mapping[int, str], box: tuple[int, int, int, int]
) -> None:
    """Write the names of labels into their regions of a picture at (left, top, height, width).

    Names that do not fit into the picture are left out.
    """
    from matplotlib.patheffects import withStroke

    left, top, height, width = box
    if panel.labels is None or height < LINE_HEIGHT:
        return
    texts = {label: name for label, name in names.items() if len(name) * LETTER_WIDTH <= width}
    halo = [withStroke(linewidth=2, foreground=INK)]
    places = name_places(nearest(np.asarray(panel.labels), (height, width)), texts)
    for label, (row, column) in places.items():
        middle = {"ha": "center", "va": "center", "color": "white", "path_effects": halo}
        canvas.text(left + column, top + row, texts[label], NAME_SIZE, **middle)


def name_places(labels: Labels, names: Mapping[int, str]) -> dict[int, Place]:
    """Row and column of the middle of each name, for labels (H, W) at the size of the picture.

    A name lies where its region is widest, inside the picture and clear of the names before it
    as far as the region has room. Labels without pixels are left out.
    """
    taken: list[tuple[Place, float]] = []
    places: dict[int, Place] = {}
    for label, name in names.items():
        inside = labels == label
        if not inside.any():
            continue
        half_width = len(name) * LETTER_WIDTH / 2
        depth = _depth(inside)
        free = depth.copy()
        for (row, column), other in taken:
            rows = _around(row, LINE_HEIGHT)
            free[rows, _around(column, half_width + other)] = 0
        row, column = np.unravel_index((free if free.any() else depth).argmax(), labels.shape)
        place = (
            _clamped(row, LINE_HEIGHT / 2, labels.shape[0]),
            _clamped(column, half_width, labels.shape[1]),
        )
        places[label] = place
        taken.append((place, half_width))
    return places


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
