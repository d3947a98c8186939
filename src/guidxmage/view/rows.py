"""One panel of a figure on its row: what is computed for it once, and its maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import NamedTuple

import numpy as np

from guidxmage.view.bars import BAR_HEIGHT, Bars
from guidxmage.view.canvas import Canvas, average, fitted, strongest
from guidxmage.view.colors import RGB, FloatMap, Style, check_scale, colorize, shared_scale
from guidxmage.view.legend import Legend
from guidxmage.view.maps import BACKDROP, default_sigma, overlay, smooth_contributions
from guidxmage.view.outlines import LONGEST_NAME, NAME_SIZE, draw_names, outlined
from guidxmage.view.panel import Panel, brief, parts, shorten

BOX = 448
"""Side of the square that holds a map, in pixels: twice the usual input of 224."""

MARGIN, GAP, BARS_WIDTH = 24, 26, 478
CAPTION, AFTER_ROW = 34, 30
COLUMNS = [MARGIN + column * (BOX + GAP) for column in range(4)]
WIDTH = COLUMNS[3] + BARS_WIDTH + MARGIN


class Scales(NamedTuple):
    """The colour scales that all rows share: of pixels and of smoothed values."""

    pixels: float
    smooth: float
    style: Style

    @classmethod
    def of(
        cls, rows: Sequence[FigureRow], pixels: float | None, smooth: float | None, style: Style
    ) -> Scales:
        """The given scales, or those that no row saturates."""
        return cls(
            shared_scale(row.values for row in rows) if pixels is None else check_scale(pixels),
            shared_scale(row.smooth for row in rows) if smooth is None else check_scale(smooth),
            style,
        )

    def draw_legends(
        self, canvas: Canvas, top: int, pixels: float | None, smooth: float | None
    ) -> None:
        """The colour bars of the distribution and saliency maps; which scales were given."""
        Legend(canvas, COLUMNS[1], top, BOX, self.pixels, pixels is not None).draw_distribution(
            self.style
        )
        Legend(canvas, COLUMNS[2], top, BOX, self.smooth, smooth is not None).draw_saliency()


@dataclass(frozen=True)
class FigureRow:
    """A panel with what is computed for it once."""

    panel: Panel
    values: FloatMap
    smooth: FloatMap
    sigma: float

    @classmethod
    def of(cls, panel: Panel) -> FigureRow:
        """The row of a panel, smoothed at the default width."""
        values = panel.pixels()
        sigma = default_sigma(values.shape)
        return cls(panel, values, smooth_contributions(values, sigma, panel.labels), sigma)

    @property
    def display(self) -> tuple[int, int]:
        """Height and width of its maps on the figure."""
        return fitted(self.values.shape, BOX)

    @property
    def height(self) -> int:
        """Height of its maps and bars."""
        return max(self.display[0], Bars.of(self.panel).lines * BAR_HEIGHT)

    def input_words(self) -> str:
        """What the first picture is, or the shape of an input that is none."""
        if self.panel.image is not None:
            return "input"
        shape = self.panel.shape or np.shape(self.panel.contributions)
        size = "×".join(map(str, shape))
        if len(shape) > 3:
            return f"{size}, sums over {shape[-3]} frames"
        return f"no picture of this {size} input"

    def names(self) -> dict[int, str]:
        """The names of the objects that have bars, by label."""
        if self.panel.objects is None:
            return {}
        bars = ((part.label, shorten(part.name, LONGEST_NAME)) for part in parts(self.panel))
        return {label: name for label, name in bars if label is not None}

    def captions(self) -> tuple[str, str, str, str]:
        """What the four pictures are."""
        values = "contribution values"
        return (
            self.input_words(),
            f"distribution map{self._reduction()}",
            f"saliency map (σ = {brief(self.sigma, 2)} px)",
            values + (" of the objects" if self.panel.objects is not None else ""),
        )

    def _reduction(self) -> str:
        """How many pixels one dot of the distribution map stands for, if more than one."""
        block = ceil(max(self.values.shape) / BOX)
        return f" (strongest of {block}×{block} px)" if block > 1 else ""

    def photo(self, shape: tuple[int, ...]) -> RGB | None:
        """The panel's photograph at a shape (H, W) that is not larger than it; None without one."""
        image = self.panel.image
        if image is None:
            return None
        return np.asarray(image.convert("RGB").resize((shape[1], shape[0])))

    # --- its pictures ------------------------------------------------------------------------

    def draw_input(
        self,
        canvas: Canvas,
        left: int,
        top: int,
        *,
        middle: bool = True,
        size: float = NAME_SIZE,
    ) -> None:
        """The input with the names of its objects, in the middle of its column or at the left."""
        height, width = self.display
        left += (BOX - width) // 2 if middle else 0
        photo = self.photo(average(self.values, self.display).shape)
        empty = np.full((1, 1, 3), BACKDROP, dtype=np.uint8)
        names = self.names()
        shown = outlined(
            empty if photo is None else photo, self.panel.labels if names else None, self.display
        )
        canvas.picture(shown, left, top, width, height)
        draw_names(canvas, self.panel.labels, names, (left, top, height, width), size=size)

    def draw_maps(self, canvas: Canvas, top: int, scales: Scales) -> None:
        """Distribution map and saliency map, each in the middle of its column."""
        height, width = self.display
        inset = (BOX - width) // 2
        distribution = colorize(strongest(self.values, self.display), scales.pixels, scales.style)
        smooth = average(self.smooth, self.display)
        saliency = overlay(self.photo(smooth.shape), smooth, scales.smooth)
        saliency = outlined(saliency, self.panel.labels, self.display)
        for left, pixels in ((COLUMNS[1], distribution), (COLUMNS[2], saliency)):
            canvas.picture(pixels, left + inset, top, width, height)


def caption(canvas: Canvas, left: int, top: int, letter: str, words: str) -> None:
    """A letter and what the picture below it is."""
    canvas.text(left, top + 6, f"({letter})", weight="bold")
    canvas.text(left + 36, top + 6, words)
