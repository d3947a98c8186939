"""The figure of samples: images, what was changed, and the contributions before and after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from guidxmage.view.attack import amplification, picture
from guidxmage.view.canvas import FAINT_INK, Canvas, fitted
from guidxmage.view.colors import FloatMap, colorize, shared_scale
from guidxmage.view.legend import LEGEND_HEIGHT, Legend
from guidxmage.view.panel import brief, shorten

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BOX, MARGIN, GAP, CAPTION, TITLE = 240, 24, 18, 60, 96
COLUMNS = [MARGIN + column * (BOX + GAP) for column in range(5)]


@dataclass(frozen=True)
class Sample:
    """One image and its sample, (H, W, C) in [0, 1], and what pixels contribute to each, (H, W).

    background: sums of the contributions outside the object, before and after.
    """

    name: str
    before: npt.NDArray[np.floating]
    after: npt.NDArray[np.floating]
    maps: tuple[FloatMap, FloatMap]
    background: tuple[float, float]


def samples_figure(samples: Sequence[Sample], title: str, line: str = "") -> Figure:
    """A row for each sample; all maps share one scale, perturbations one factor."""
    height = TITLE + len(samples) * (BOX + CAPTION) + LEGEND_HEIGHT
    canvas = Canvas(COLUMNS[-1] + BOX + MARGIN, height)
    canvas.text(MARGIN, 18, shorten(title, 110), size=13, weight="bold")
    canvas.text(MARGIN, 54, line, color=FAINT_INK)
    deltas = [sample.after - sample.before for sample in samples]
    factor = amplification(np.stack(deltas))
    scale = shared_scale([values for sample in samples for values in sample.maps])
    for row, (sample, delta) in enumerate(zip(samples, deltas, strict=True)):
        top = TITLE + row * (BOX + CAPTION)
        words = [
            shorten(sample.name, 26),
            f"change × {factor:g}" if delta.any() else "no step lowered it",
            "sample",
            f"background {brief(sample.background[0], 3)}",
            f"afterwards {brief(sample.background[1], 3)}",
        ]
        pictures = [picture(sample.before), picture(0.5 + factor * delta), picture(sample.after)]
        pictures += [colorize(values, scale, "bands") for values in sample.maps]
        width, tall = fitted(sample.before.shape[:2], BOX)[::-1]
        for left, word, pixels in zip(COLUMNS, words, pictures, strict=True):
            canvas.text(left, top + 8, word)
            canvas.picture(pixels, left + (BOX - width) // 2, top + 36, width, tall)
    below = TITLE + len(samples) * (BOX + CAPTION) + 8
    legend = Legend(canvas, COLUMNS[3], below, 2 * BOX + GAP, scale)
    legend.draw_distribution("bands", "each pixel")
    return canvas.figure
