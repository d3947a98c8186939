"""The figure of an explanation: input, distribution map, saliency map, contribution values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from guidxmage.errors import InputError
from guidxmage.view.bars import Bars, draw_bars
from guidxmage.view.canvas import Canvas
from guidxmage.view.colors import Style, check_scale
from guidxmage.view.legend import LEGEND_HEIGHT
from guidxmage.view.page import Page
from guidxmage.view.panel import Panel, shorten
from guidxmage.view.rows import (
    AFTER_ROW,
    BARS_WIDTH,
    CAPTION,
    COLUMNS,
    MARGIN,
    WIDTH,
    FigureRow,
    Scales,
    caption,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE, HEADER = 60, 74


def figure(
    panels: Sequence[Panel],
    *,
    title: str = "",
    about: str = "",
    scale: float | None = None,
    saliency_scale: float | None = None,
    whole_scale: float | None = None,
    style: Style = "bands",
) -> Figure:
    """One row for each panel: (a) input, (b) distribution map, (c) saliency map, (d) bars.

    Where the panels have maps of the whole score, that of the chosen depth comes first, large and
    over the photo, with its sentence and what lies on each object; then the same score at every
    depth; then (b) to (d). An input that several rows share is drawn once.

    All rows share one colour scale for (b), `scale` or else `shared_scale` of the panels, one for
    (c), `saliency_scale` or else `shared_scale` of the smoothed values, and one for the whole maps,
    `whole_scale` or else the largest value; all are stated with the maps. With objects and labels,
    (a) names the objects that have bars. title and about: what stands at the top. Raises InputError
    without panels or for a scale that is negative or not finite.
    """
    if not panels:
        raise InputError("a figure needs at least one panel; none was given.")
    rows = [FigureRow.of(panel) for panel in panels]
    scales = Scales.of(rows, scale, saliency_scale, style)
    given = (scale, saliency_scale, None if whole_scale is None else check_scale(whole_scale))
    if all(panel.depths for panel in panels):
        return Page.of(rows, title, about).drawn(scales, given)
    top = TITLE if title else MARGIN
    heights = [HEADER + CAPTION + row.height + AFTER_ROW for row in rows]
    canvas = Canvas(WIDTH, top + sum(heights) + LEGEND_HEIGHT)
    if title:
        canvas.text(MARGIN, 18, shorten(title, 90), size=14, weight="bold")
    for row, height in zip(rows, heights, strict=True):
        _draw_row(canvas, row, top, scales)
        top += height
    scales.draw_legends(canvas, top, *given[:2])
    return canvas.figure


def _draw_row(canvas: Canvas, row: FigureRow, top: int, scales: Scales) -> None:
    if top > MARGIN:
        canvas.rule(MARGIN, top, WIDTH - 2 * MARGIN)
    canvas.text(MARGIN, top + 12, row.panel.heading(), size=11.5, weight="bold")
    said = (row.panel.equation(), row.panel.exactness, row.panel.note)
    canvas.text(MARGIN, top + 44, "  ·  ".join(filter(None, said)), size=9.5)
    for letter, left, words in zip("abcd", COLUMNS, row.captions(), strict=True):
        caption(canvas, left, top + HEADER, letter, words)
    below = top + HEADER + CAPTION
    row.draw_input(canvas, COLUMNS[0], below)
    row.draw_maps(canvas, below, scales)
    draw_bars(canvas, Bars.of(row.panel), COLUMNS[3], below, width=BARS_WIDTH)
