"""A figure with its numbers as a self-contained piece of HTML."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from html import escape

from guidxmage.reports.markdown import html_table
from guidxmage.view.figure import figure
from guidxmage.view.files import figure_bytes
from guidxmage.view.panel import Panel, brief, decimals, number

COLUMNS = ("class", "index", "score", "Σ pixels", "bias", "residual", "bound", "exact")
PLACED = ("class", "index", "score", "Σ pixels", "placed bias", "no place", *COLUMNS[5:])


def panel_html(panels: Sequence[Panel], title: str = "", about: str = "") -> str:
    """The figure as an embedded PNG and, below it, a table of its numbers: for notebooks."""
    made = figure(panels, title=title, about=about)
    png = b64encode(figure_bytes(made, "png")).decode("ascii")
    head = PLACED if all(panel.depths for panel in panels) else COLUMNS
    cells = [_cells(panel, placed=head is PLACED) for panel in panels]
    caption = escape(title or "guid-Xmage explanation", quote=True)
    return (
        f'<figure style="margin:0"><img alt="{caption}" src="data:image/png;base64,{png}" '
        f'style="max-width:100%">{html_table(head, cells)}</figure>'
    )


def _cells(panel: Panel, *, placed: bool) -> tuple[str, ...]:
    total = panel.pixel_sum()
    digits = decimals(panel.score, total, panel.bias)
    carried = panel.placed() if placed else (panel.bias,)
    return (
        panel.class_name,
        "" if panel.target is None else str(panel.target),
        *(number(value, digits) for value in (panel.score, total, *carried)),
        brief(panel.residual),
        brief(panel.residual_bound),
        panel.exactness,
    )
