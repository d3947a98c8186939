"""Tables of figures: Markdown and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from guidxmage.evaluation.report.bootstrap import Estimate
from guidxmage.evaluation.report.figures import COLUMNS, Column, Row
from guidxmage.reports.markdown import table


def cell(column: Column, found: Estimate | None) -> str:
    """A mean with its interval; a dash where nothing was measured."""
    if found is None:
        return "–"
    if column.key in ("seconds", "peak_mib"):
        return column.text(found.mean)
    low, high = column.text(found.low), column.text(found.high)
    return f"{column.text(found.mean)} [{low}, {high}]"


def network_table(rows: Sequence[Row], group: str) -> str:
    """A line for each method; empty where nothing was measured.

    The last column has the numbers of views and photos behind the figures of the line.
    """
    columns = [
        column
        for column in COLUMNS
        if column.group == group and any(column.key in row.figures for row in rows)
    ]
    if not columns:
        return ""
    titles = [column.title + (f", {column.unit}" if column.unit else "") for column in columns]
    lines = []
    for row in rows:
        found = [row.figures[c.key] for c in columns if c.key in row.figures]
        views, photos = _range([e.views for e in found]), _range([e.photos for e in found])
        count = f"{views} ({photos})" if found else "failed" if row.failures else "–"
        lines.append([row.title, *(cell(c, row.figures.get(c.key)) for c in columns), count])
    return table(["method", *titles, "views (photos)"], lines)


def _range(counts: Sequence[int]) -> str:
    """The least and the largest of some numbers; one where they are equal."""
    low, high = min(counts, default=0), max(counts, default=0)
    return str(low) if low == high else f"{low}–{high}"


def paper_table(rows: Sequence[Row]) -> str:
    """The shape of the paper's Table 1: methods down, networks across, on the path, per cent.

    Empty where directional agreement was not measured.
    """
    if not any(COLUMNS[0].key in row.figures for row in rows):
        return ""
    networks = list(dict.fromkeys(row.network for row in rows))
    by_place = {(row.method, row.network): row for row in rows}

    def text(method: str, network: str) -> str:
        row = by_place.get((method, network))
        found = row.figures.get(COLUMNS[0].key) if row else None
        return "failed" if row and row.failures and not found else cell(COLUMNS[0], found)

    titles = {row.method: row.title for row in rows}
    lines = [[title, *(text(name, one) for one in networks)] for name, title in titles.items()]
    return table(["interpretive accuracy, %", *networks], lines)


def comma_separated(rows: Sequence[Row]) -> str:
    """Every figure on a line of its own."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["network", "method", "figure", "mean", "low", "high", "views", "photos"])
    for row in rows:
        for key, found in row.figures.items():
            numbers = (found.mean, found.low, found.high, found.views, found.photos)
            writer.writerow([row.network, row.method, key, *numbers])
    return out.getvalue()
