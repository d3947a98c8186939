"""The slices of a volume or the frames of a video, each with what its pixels add."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from guidxmage.errors import InputError
from guidxmage.view.canvas import FAINT_INK, Canvas, average, fitted
from guidxmage.view.colors import RGB, FloatMap, colorize, shared_scale
from guidxmage.view.legend import LEGEND_HEIGHT, Legend
from guidxmage.view.panel import brief

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BOX, GAP, MARGIN, TITLE, CAPTION, COLUMNS = 190, 14, 24, 96, 34, 6
LEGEND = 560
MOST = 24
"""So many are shown at most, evenly spaced, the strongest among them."""


def slices_figure(
    input_: npt.NDArray[np.float64],
    contributions: FloatMap,
    title: str,
    line: str,
    word: str = "slice",
) -> Figure:
    """Pairs of pictures, the input in grey and what its pixels add, for each slice.

    input_ (D, H, W), any range; contributions (D, H, W), of which one scale is shared by all.
    word: what one of them is called. Raises InputError for other shapes.
    """
    if contributions.ndim != 3 or input_.shape != contributions.shape:
        raise InputError(
            f"slices are depth × height × width, of input and contributions alike, not "
            f"{input_.shape} and {contributions.shape}"
        )
    shown = _shown(contributions)
    scale = shared_scale([contributions.reshape(len(contributions), -1)])
    low, high = float(input_.min()), float(input_.max())
    pairs = COLUMNS // 2
    rows = -(-len(shown) // pairs)
    width = 2 * MARGIN + COLUMNS * BOX + (COLUMNS - 1) * GAP
    canvas = Canvas(width, TITLE + rows * (BOX + CAPTION) + LEGEND_HEIGHT)
    words = canvas.shortened(title, width - 2 * MARGIN, 13, weight="bold")
    canvas.text(MARGIN, 18, words, size=13, weight="bold")
    canvas.text(MARGIN, 54, canvas.shortened(line, width - 2 * MARGIN, 9), color=FAINT_INK)
    for place, number in enumerate(shown):
        row, pair = divmod(place, pairs)
        left = MARGIN + pair * 2 * (BOX + GAP)
        top = TITLE + row * (BOX + CAPTION)
        tall, wide = fitted(contributions.shape[1:], BOX)
        grey = _grey(average(input_[number], (tall, wide)), low, high)
        canvas.picture(grey, left, top, wide, tall)
        canvas.picture(colorize(contributions[number], scale), left + BOX + GAP, top, wide, tall)
        total = brief(float(contributions[number].sum()), 3)
        canvas.text(left, top + BOX + 4, f"{word} {number}", size=8)
        canvas.text(left + BOX + GAP, top + BOX + 4, f"Σ {total}", size=8, color=FAINT_INK)
    legend = Legend(canvas, MARGIN, TITLE + rows * (BOX + CAPTION), LEGEND, scale)
    legend.draw_distribution("bands", "each pixel")
    return canvas.figure


def _shown(contributions: FloatMap) -> list[int]:
    """Which slices are shown: all, or some evenly spaced and the one with the largest share."""
    count = len(contributions)
    if count <= MOST:
        return list(range(count))
    strongest = int(np.abs(contributions).sum((1, 2)).argmax())
    even = np.linspace(0, count - 1, MOST - 1).round().astype(int).tolist()
    return sorted({*even, strongest})


def _grey(values: FloatMap, low: float, high: float) -> RGB:
    share = (values - low) / (high - low) if high > low else np.full(values.shape, 0.5)
    grey: npt.NDArray[np.uint8] = np.rint(255 * share).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1)
