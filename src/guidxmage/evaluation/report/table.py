"""Tables of figures: Markdown, HTML, CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from html import escape

from guidxmage.evaluation.report.bootstrap import Estimate
from guidxmage.evaluation.report.figures import COLUMNS, Column, Row

Cells = list[list[str]]


def cell(column: Column, found: Estimate | None) -> str:
    """A mean with its interval; a dash where nothing was measured."""
    if found is None:
        return "–"
    if column.key in ("seconds", "peak_mib"):
        return column.text(found.mean)
    low, high = column.text(found.low), column.text(found.high)
    return f"{column.text(found.mean)} [{low}, {high}]"


def network_table(rows: Sequence[Row], group: str) -> Cells:
    """The heading and a line for each method; empty where nothing was measured.

    The last column has the numbers of views and photos behind the figures of the line.
    """
    columns = [
        column
        for column in COLUMNS
        if column.group == group and any(column.key in row.figures for row in rows)
    ]
    if not columns:
        return []
    titles = [column.title + (f", {column.unit}" if column.unit else "") for column in columns]
    lines = [["method", *titles, "views (photos)"]]
    for row in rows:
        found = [row.figures[c.key] for c in columns if c.key in row.figures]
        views, photos = _range([e.views for e in found]), _range([e.photos for e in found])
        count = f"{views} ({photos})" if found else "failed" if row.failures else "–"
        lines.append([row.title, *(cell(c, row.figures.get(c.key)) for c in columns), count])
    return lines


def _range(counts: Sequence[int]) -> str:
    """The least and the largest of some numbers; one where they are equal."""
    if not counts:
        return ""
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{low}–{high}"


def paper_table(rows: Sequence[Row]) -> Cells:
    """The shape of the paper's Table 1: methods down, networks across, on the path, per cent."""
    networks = list(dict.fromkeys(row.network for row in rows))
    methods = {row.method: row.title for row in rows}
    column = COLUMNS[0]
    by_place = {(row.method, row.network): row for row in rows}
    lines = [["interpretive accuracy, %", *networks]]
    for method, title in methods.items():
        cells = []
        for network in networks:
            row = by_place.get((method, network))
            found = row.figures.get(column.key) if row else None
            failed = row is not None and bool(row.failures) and found is None
            cells.append("failed" if failed else cell(column, found))
        lines.append([title, *cells])
    return lines


def markdown(cells: Cells) -> str:
    """A table in Markdown."""
    head, *body = ([one.replace("|", "\\|") for one in line] for line in cells)
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, rule, *body))


def html(cells: Cells) -> str:
    """A table in HTML."""
    head, *body = cells
    parts = ["<table><thead><tr>", *(f"<th>{escape(one)}</th>" for one in head), "</tr></thead>"]
    for line in body:
        parts += ["<tr>", *(f"<td>{escape(one)}</td>" for one in line), "</tr>"]
    return "".join([*parts, "</table>"])


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
