"""The report as files: Markdown, one self-contained HTML page, CSV, JSON, pictures."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path

from guidxmage.evaluation.records import SCHEMA
from guidxmage.evaluation.report.figures import Row
from guidxmage.evaluation.report.table import comma_separated, html, markdown
from guidxmage.evaluation.report.text import Piece
from guidxmage.files.atomic import write_atomically

REPORT, PAGE, CSV, JSON, FIGURES = (
    "REPORT.md",
    "report.html",
    "figures.csv",
    "figures.json",
    "figures",
)
_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:75rem;margin:2rem auto;padding:0 1rem;"
    "color:#1a1a1a}table{border-collapse:collapse;margin:1rem 0;font-size:13px;display:block;"
    "overflow-x:auto}th,td{border-bottom:1px solid #d5d5d5;padding:.3rem .6rem;text-align:right;"
    "white-space:nowrap}th{white-space:normal}th:first-child,td:first-child{text-align:left}"
    "img{max-width:100%}code{background:#f3f3f3}"
)
_CODE = re.compile("`(.*?)`")
_LINK = re.compile(r"\[([^\]]*)\]\(([^)]*)\)")
_PICTURE = re.compile(r"!\[(.*)\]\((.*)\)")


def write_report(out: Path, content: Sequence[Piece], rows: Sequence[Row]) -> Path:
    """Write all forms of a report into a folder, each file whole; the Markdown's path."""
    title = str(content[0]).lstrip("# ")
    text = "\n\n".join(one if isinstance(one, str) else markdown(one) for one in content)
    body = "\n".join(_html(one, out) for one in content)
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style><body>\n{body}\n</body></html>\n"
    )
    stated = {"schema": SCHEMA, "rows": [asdict(row) for row in rows]}
    write_atomically(out / REPORT, f"{text}\n".encode())
    write_atomically(out / PAGE, page.encode())
    write_atomically(out / CSV, comma_separated(rows).encode())
    write_atomically(out / JSON, (json.dumps(stated, indent=1, ensure_ascii=False) + "\n").encode())
    return out / REPORT


def _html(piece: Piece, out: Path) -> str:
    if not isinstance(piece, str):
        return html(piece)
    if picture := _PICTURE.fullmatch(piece):
        content = base64.b64encode((out / picture[2]).read_bytes()).decode()
        return f'<img alt="{escape(picture[1])}" src="data:image/png;base64,{content}">'
    level = len(piece) - len(piece.lstrip("#"))
    if level:
        return f"<h{level}>{escape(piece.lstrip('# '))}</h{level}>"
    marked = _CODE.sub(r"<code>\1</code>", escape(piece))
    return f"<p>{_LINK.sub(_linked, marked)}</p>"


def _linked(found: re.Match[str]) -> str:
    """A link to a report leads from page to page."""
    name, target = (part.replace(REPORT, PAGE) for part in found.groups())
    return f'<a href="{target}">{name}</a>'
