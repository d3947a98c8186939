"""A contact sheet of maps: one row for each image, one column for each method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from guidxmage.view.canvas import FAINT_INK, Canvas, fitted, strongest
from guidxmage.view.colors import RGB, FloatMap, colorize, shared_scale
from guidxmage.view.panel import shorten

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BOX, GAP, MARGIN, TITLE, CAPTION, FOOT = 150, 8, 24, 128, 26, 16
NARROWEST = 760  # that title and line fit into, however few the methods


@dataclass(frozen=True)
class Strip:
    """One image (H, W, 3) uint8 and each method's map (H, W); None where a method has none."""

    name: str
    image: RGB
    maps: tuple[FloatMap | None, ...]


def contact_sheet(
    strips: Sequence[Strip], methods: Sequence[tuple[str, bool]], title: str, line: str
) -> Figure:
    """methods: their names, and whether their maps are signed.

    Signed maps are in units of their own scale, which all rows share; the others run from white
    (0) to dark (1).
    """
    scales = [_scale(strips, column) for column in range(len(methods))]
    width = max(NARROWEST, 2 * MARGIN + BOX + len(methods) * (BOX + GAP))
    canvas = Canvas(width, TITLE + len(strips) * (BOX + CAPTION) + FOOT)
    canvas.text(MARGIN, 18, shorten(title, 110), size=13, weight="bold")
    canvas.text(MARGIN, 50, line, size=8, color=FAINT_INK)
    lefts = [MARGIN + column * (BOX + GAP) for column in range(len(methods) + 1)]
    for left, name in zip(lefts, ("image", *(name for name, _ in methods)), strict=True):
        canvas.text(left, TITLE - 26, shorten(name, 21), size=6)
    for row, strip in enumerate(strips):
        top = TITLE + row * (BOX + CAPTION)
        tall, wide = fitted(strip.image.shape[:2], BOX)
        canvas.picture(strip.image, lefts[0], top, wide, tall)
        canvas.text(lefts[0], top + BOX + 2, shorten(strip.name, 24), size=7, color=FAINT_INK)
        for column, values in enumerate(strip.maps):
            if values is None:
                canvas.text(lefts[column + 1], top + BOX / 2, "failed", size=8, color=FAINT_INK)
                continue
            small = strongest(values, (tall, wide))
            pixels = _drawn(small, scales[column], signed=methods[column][1])
            canvas.picture(pixels, lefts[column + 1], top, wide, tall)
    return canvas.figure


def _scale(strips: Sequence[Strip], column: int) -> float:
    found = [strip.maps[column] for strip in strips]
    maps = [values for values in found if values is not None]
    return shared_scale(maps) if maps else 0.0


def _drawn(values: FloatMap, scale: float, *, signed: bool) -> RGB:
    if signed:
        return colorize(values, scale, "continuous")
    grey: npt.NDArray[np.uint8] = np.rint(255 * (1 - np.clip(values, 0, 1))).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)
