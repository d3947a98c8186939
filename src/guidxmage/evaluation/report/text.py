"""The report in words and tables, and all its files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from guidxmage.evaluation.methods import METHODS
from guidxmage.evaluation.records import SCHEMA
from guidxmage.evaluation.report.figures import GROUPS, Row
from guidxmage.evaluation.report.paired import BESIDE
from guidxmage.evaluation.report.table import comma_separated, network_table, paper_table
from guidxmage.evaluation.settings import Settings
from guidxmage.files.atomic import write_atomically
from guidxmage.provenance.versions import versions
from guidxmage.reports.markdown import rendered
from guidxmage.reports.page import write_report

LIBRARIES = ("torch", "captum", "grad-cam", "zennit", "quantus")


def write_files(out: Path, template: str, rows: Sequence[Row], **values: Any) -> Path:
    """Write a report into a folder: Markdown, a page, every figure as CSV and as JSON.

    values: of the template. Returns the path of the Markdown.
    """
    stated = {"schema": SCHEMA, "rows": [asdict(row) for row in rows]}
    machines = json.dumps(stated, indent=1, ensure_ascii=False) + "\n"
    write_atomically(out / "figures.csv", comma_separated(rows).encode())
    write_atomically(out / "figures.json", machines.encode())
    return write_report(out, rendered(__package__, template, **values))


def write_evaluation(
    out: Path,
    rows: Sequence[Row],
    settings: Settings,
    title: str,
    pictures: Mapping[str, Sequence[str]],
    *,
    paired: Mapping[str, str],
) -> Path:
    """The report of one run.

    pictures: of each network, files below the folder; paired: its table of differences.
    """
    networks = list(dict.fromkeys(row.network for row in rows))
    return write_files(
        out,
        "evaluation.md",
        rows,
        title=title,
        settings=settings,
        photos=max((e.photos for row in rows for e in row.figures.values()), default=0),
        seen=seen(settings.views),
        libraries=", ".join(f"{name} {own}" for name, own in versions(LIBRARIES).items()),
        paper=paper_table(rows),
        methods=METHODS,
        networks=[
            _about(name, [row for row in rows if row.network == name], pictures.get(name, ()))
            | {"paired": paired.get(name, "")}
            for name in networks
        ],
        beside=METHODS[BESIDE].title,
    )


def seen(views: int) -> str:
    """How many views there are of each photo, in words."""
    return "as they are" if views == 1 else f"up to {views} views of each (crops and flips)"


def _about(name: str, rows: Sequence[Row], pictures: Sequence[str]) -> dict[str, Any]:
    """What the template says of one network; lists of methods with a number each."""
    exponents = [f"{row.title} {row.exponent:g}" for row in rows if row.exponent is not None]
    return {
        "name": name,
        "rows": rows,
        "layer": next((row.layer for row in rows if row.layer), ""),
        "exponents": ", ".join(exponents),
        "undecided": ", ".join(f"{row.title} {row.undecided}" for row in rows if row.undecided),
        "empty": ", ".join(f"{row.title} {row.empty}" for row in rows if row.empty),
        "tables": {group: network_table(rows, group) for group in GROUPS},
        "pictures": pictures,
    }
