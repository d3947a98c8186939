"""Colour bars that state the values at which the colours of a map change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from guidxmage.view.canvas import FAINT_INK, INK, Canvas
from guidxmage.view.colors import (
    ASCENDING,
    LARGE_SHARE,
    PERCENTILE,
    RGB,
    SMALL_SHARE,
    Style,
    colorize,
    thresholds,
)
from guidxmage.view.diverging import diverging
from guidxmage.view.maps import overlay
from guidxmage.view.panel import brief

if TYPE_CHECKING:
    from matplotlib.colors import Normalize

LEGEND_HEIGHT = 168
BAR_TOP, BAR_HEIGHT, WORDS_TOP, LINE = 34, 22, 102, 24
BAND_EDGES = (-LARGE_SHARE, -SMALL_SHARE, SMALL_SHARE, LARGE_SHARE)
BLEND_TICKS = (-1.0, -0.5, 0.0, 0.5, 1.0)
STEPS = 255


@dataclass(frozen=True)
class Legend:
    """The colour bar of one column of maps, below them, and its scale in words."""

    canvas: Canvas
    left: int
    top: int
    width: int
    scale: float
    given: bool = False

    def draw_distribution(self, style: Style, title: str = "(b) each pixel") -> None:
        """The legend of the distribution maps; `title` says which."""
        if style == "bands":
            self._draw_bands()
            small, large = (brief(value, 3) for value in thresholds(self.scale))
            change = f"changes at ±{small} ({SMALL_SHARE} s), ±{large} ({LARGE_SHARE} s)"
        else:
            self._draw_blend(colorize(np.linspace(-1, 1, STEPS), 1.0, style))
            change = "colours blend between these values"
        if self.scale == 0:
            change = "zero is green"
        self._draw_words(title, change)

    def draw_saliency(self) -> None:
        """The legend of the saliency maps, over the grey of a photograph."""
        self._draw_blend(overlay(None, np.linspace(-1, 1, STEPS)[None], 1.0)[0])
        self._draw_words("(c) smoothed, each pixel", "the photograph shows where it is near zero")

    def draw_whole(self, smoothing: str) -> None:
        """The legend of the whole maps, in score per hundredth of the picture."""
        self._draw_blend(diverging(np.linspace(-1, 1, STEPS), 1.0))
        given = f"s = {brief(self.scale, 3)} as given"
        own = (
            f"s = {brief(self.scale, 3)}: the largest value of the map"
            if self.scale
            else "every value is zero"
        )
        self._draw_lines(
            "score per 1 % of the picture",
            (
                f"smoothed, {smoothing}; the photo in grey",
                given if self.given else own,
            ),
        )

    def scale_words(self) -> str:
        """What the scale is and where it comes from."""
        if self.given:
            return f"s = {brief(self.scale, 3)} as given"
        if self.scale == 0:
            return "s = 0: every value is zero"
        return f"s = {brief(self.scale, 3)}: ≥ {PERCENTILE} % of non-zero values within ±s"

    def _draw_words(self, title: str, change: str) -> None:
        self._draw_lines(title, (change, self.scale_words()))

    def _draw_lines(self, title: str, lines: tuple[str, str]) -> None:
        canvas, right, middle = self.canvas, self.left + self.width, self.left + self.width / 2
        sides = ("◀ subtracts", "adds ▶")
        half = max(canvas.width_of(side, 8) for side in sides)
        if canvas.width_of(title, 8) + 2 * half > self.width:
            sides = ("◀ −", "+ ▶")
        for side, left, ha in zip(sides, (self.left, right), ("left", "right"), strict=True):
            canvas.text(left, self.top + 6, side, size=8, ha=ha, color=FAINT_INK)
        canvas.text(middle, self.top + 6, title, size=8, ha="center")
        for line, words in enumerate(lines):
            size = min(8.0, max(6.5, 8 * self.width / canvas.width_of(words, 8)))
            fitting = canvas.shortened(words, self.width, size)
            top = self.top + WORDS_TOP + LINE * line
            canvas.text(middle, top, fitting, size=size, ha="center", color=FAINT_INK)

    def _draw_bands(self) -> None:
        from matplotlib.colors import BoundaryNorm

        norm = BoundaryNorm(BAND_EDGES, len(ASCENDING), extend="both")
        self._draw_bar(norm, ASCENDING, BAND_EDGES, extend_share=0.3)

    def _draw_blend(self, colors: RGB) -> None:
        from matplotlib.colors import Normalize

        self._draw_bar(Normalize(-1, 1), colors, BLEND_TICKS, extend_share=0.08)

    def _draw_bar(
        self, norm: Normalize, colors: RGB, ticks: Sequence[float], *, extend_share: float
    ) -> None:
        """A colour bar in units of the scale, its ticks labelled with values."""
        from matplotlib.cm import ScalarMappable
        from matplotlib.colorbar import Colorbar
        from matplotlib.colors import ListedColormap

        if self.scale == 0:
            ticks = (0.0,)
            if not self.given:
                colors = np.repeat(colors[len(colors) // 2][None], len(colors), axis=0)
        axes = self.canvas.axes(self.left, self.top + BAR_TOP, self.width, BAR_HEIGHT)
        axes.set_axis_on()
        bar = Colorbar(
            axes,
            ScalarMappable(norm, ListedColormap((colors / 255).tolist())),
            orientation="horizontal",
            extend="both",
            extendfrac=extend_share,
            spacing="uniform",
            drawedges=False,
        )
        labels = [brief(tick * self.scale, 3) for tick in ticks]
        bar.set_ticks(list(ticks), labels=labels)
        bar.minorticks_off()
        for label in axes.get_xticklabels():
            label.set_usetex(False)
        bar.outline.set_linewidth(0.6)
        size = 8 if max(map(len, labels)) < 8 else 7
        axes.tick_params(labelsize=size, labelcolor=INK, color=INK, length=4, width=0.6)
