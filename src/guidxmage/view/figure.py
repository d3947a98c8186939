"""The figure of an explanation: input, distribution map, saliency map, contribution values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from guidxmage.errors import InputError
from guidxmage.view.bars import BAR_HEIGHT, Bars, draw_bars
from guidxmage.view.canvas import Canvas, average, fitted, strongest
from guidxmage.view.colors import RGB, FloatMap, Style, check_scale, colorize, shared_scale
from guidxmage.view.legend import LEGEND_HEIGHT, Legend
from guidxmage.view.maps import (
    BACKDROP,
    default_sigma,
    overlay,
    smooth_contributions,
)
from guidxmage.view.outlines import LONGEST_NAME, draw_names, outlined
from guidxmage.view.panel import Panel, brief, parts, shorten

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BOX = 448
"""Side of the square that holds a map, in pixels: twice the usual input of 224."""

MARGIN, GAP, BARS_WIDTH = 24, 26, 478
TITLE, HEADER, CAPTION, AFTER_ROW = 60, 74, 34, 30
COLUMNS = [MARGIN + column * (BOX + GAP) for column in range(4)]
WIDTH = COLUMNS[3] + BARS_WIDTH + MARGIN


class Scales(NamedTuple):
    """The colour scales that all rows share: of pixels and of smoothed values."""

    pixels: float
    smooth: float

    @classmethod
    def of(cls, rows: Sequence[FigureRow], pixels: float | None, smooth: float | None) -> Scales:
        """The given scales, or those that no row saturates."""
        return cls(
            shared_scale(row.values for row in rows) if pixels is None else check_scale(pixels),
            shared_scale(row.smooth for row in rows) if smooth is None else check_scale(smooth),
        )


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
        """Height of the whole row on the figure."""
        bars = Bars.of(self.panel).lines * BAR_HEIGHT
        return HEADER + CAPTION + max(self.display[0], bars) + AFTER_ROW

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

    def reduction(self) -> str:
        """How many pixels one dot of the distribution map stands for, if more than one."""
        block = ceil(max(self.values.shape) / BOX)
        return f" (strongest of {block}×{block} px)" if block > 1 else ""


def figure(
    panels: Sequence[Panel],
    *,
    title: str = "",
    scale: float | None = None,
    saliency_scale: float | None = None,
    style: Style = "bands",
) -> Figure:
    """One row for each panel: (a) input, (b) distribution map, (c) saliency map, (d) bars.

    All rows share one colour scale for (b), `scale` or else `shared_scale` of the panels, and
    one for (c), `saliency_scale` or else `shared_scale` of the smoothed values; both are stated
    below the maps with the values at which colours change. With objects and labels, (a) names
    the objects that have bars. Raises InputError without panels or for a scale that is negative
    or not finite.
    """
    if not panels:
        raise InputError("a figure needs at least one panel; none was given.")
    rows = [FigureRow.of(panel) for panel in panels]
    scales = Scales.of(rows, scale, saliency_scale)
    top = TITLE if title else MARGIN
    canvas = Canvas(WIDTH, top + sum(row.height for row in rows) + LEGEND_HEIGHT)
    if title:
        canvas.text(MARGIN, 18, shorten(title, 90), size=14, weight="bold")
    for row in rows:
        _draw_header(canvas, row, top)
        _draw_maps(canvas, row, top + HEADER + CAPTION, scales, style=style)
        draw_bars(canvas, row.panel, COLUMNS[3], top + HEADER + CAPTION, width=BARS_WIDTH)
        top += row.height
    _legend(canvas, COLUMNS[1], top, scales.pixels, scale).draw_distribution(style)
    _legend(canvas, COLUMNS[2], top, scales.smooth, saliency_scale).draw_saliency()
    return canvas.figure


def _legend(canvas: Canvas, left: int, top: int, scale: float, given: float | None) -> Legend:
    return Legend(canvas, left, top, BOX, scale, given is not None)


def _draw_header(canvas: Canvas, row: FigureRow, top: int) -> None:
    if top > MARGIN:
        canvas.rule(MARGIN, top, WIDTH - 2 * MARGIN)
    canvas.text(MARGIN, top + 12, row.panel.heading(), size=11.5, weight="bold")
    said = (row.panel.equation(), row.panel.exactness, row.panel.note)
    canvas.text(MARGIN, top + 44, "  ·  ".join(filter(None, said)), size=9.5)
    captions = (
        row.input_words(),
        f"distribution map{row.reduction()}",
        f"saliency map (σ = {brief(row.sigma, 2)} px)",
        "contribution values" + (" of the objects" if row.panel.objects is not None else ""),
    )
    for letter, left, caption in zip("abcd", COLUMNS, captions, strict=True):
        canvas.text(left, top + HEADER + 6, f"({letter})", weight="bold")
        canvas.text(left + 36, top + HEADER + 6, caption)


def _draw_maps(canvas: Canvas, row: FigureRow, top: int, scales: Scales, *, style: Style) -> None:
    """Input, distribution map and saliency map, each in the middle of its column."""
    height, width = row.display
    inset = (BOX - width) // 2
    distribution = colorize(strongest(row.values, row.display), scales.pixels, style)
    smooth = average(row.smooth, row.display)
    photo = _photo(row, smooth.shape)
    saliency = outlined(overlay(photo, smooth, scales.smooth), row.panel.labels, row.display)
    empty = np.full((1, 1, 3), BACKDROP, dtype=np.uint8)
    names = row.names()
    shown = outlined(
        empty if photo is None else photo, row.panel.labels if names else None, row.display
    )
    for left, pixels in zip(COLUMNS, (shown, distribution, saliency), strict=False):
        canvas.picture(pixels, left + inset, top, width, height)
    draw_names(canvas, row.panel, names, (COLUMNS[0] + inset, top, height, width))


def _photo(row: FigureRow, shape: tuple[int, ...]) -> RGB | None:
    """The panel's photograph at a shape (H, W) that is not larger than it; None without one."""
    image = row.panel.image
    if image is None:
        return None
    return np.asarray(image.convert("RGB").resize((shape[1], shape[0])))
