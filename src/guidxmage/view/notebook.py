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


def panel_html(panels: Sequence[Panel], title: str = "") -> str:
    """The figure as an embedded PNG and, below it, a table of its numbers: for notebooks."""
    png = b64encode(figure_bytes(figure(panels, title=title), "png")).decode("ascii")
    caption = escape(title or "guid-Xmage explanation", quote=True)
    return (
        f'<figure style="margin:0"><img alt="{caption}" src="data:image/png;base64,{png}" '
        f'style="max-width:100%">{html_table(COLUMNS, map(_cells, panels))}</figure>'
    )


def _cells(panel: Panel) -> tuple[str, ...]:
    total = panel.pixel_sum()
    digits = decimals(panel.score, total, panel.bias)
    return (
        panel.class_name,
        "" if panel.target is None else str(panel.target),
        *(number(value, digits) for value in (panel.score, total, panel.bias)),
        brief(panel.residual),
        brief(panel.residual_bound),
        panel.exactness,
    )
