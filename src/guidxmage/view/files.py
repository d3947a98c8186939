"""Figures as files: complete or not there, and the same bytes for the same figure."""

from __future__ import annotations

import io
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from guidxmage.errors import InputError
from guidxmage.files.atomic import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METADATA: dict[str, dict[str, Any]] = {
    "png": {"Software": "guid-Xmage"},
    "svg": {"Creator": "guid-Xmage", "Date": None},
    "pdf": {"Creator": "guid-Xmage", "CreationDate": None},
}
"""What the files say of their origin, by format: nothing that changes from run to run."""


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Write a figure as PNG, SVG or PDF, by the suffix of `path`, and return the path.

    The file appears complete or not at all. Raises InputError for another suffix or where it
    cannot be written.
    """
    path = Path(path)
    kind = path.suffix.lower().removeprefix(".")
    if kind not in METADATA:
        raise InputError(f"cannot write {path}: its name must end in .png, .svg or .pdf.")
    if not path.parent.is_dir():
        raise InputError(f"cannot write {path}: choose a folder that exists.")
    write_atomically(path, figure_bytes(figure, kind))
    return path


def figure_bytes(figure: Figure, kind: str) -> bytes:
    """The file of a figure, kind "png", "svg" or "pdf"; equal figures give equal bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=figure.dpi, facecolor="white", metadata=METADATA[kind])
    content = buffer.getvalue()
    return _number_ids(content) if kind == "svg" else content


def _number_ids(svg: bytes) -> bytes:
    """Number the identifiers of an SVG in order of appearance.

    Matplotlib salts them with a random number unless a global setting says otherwise.
    """
    found = re.findall(rb'\bid="([a-z]+[0-9a-f]{10})"', svg)
    numbered = {name: b"n%d" % count for count, name in enumerate(dict.fromkeys(found))}
    return re.sub(
        rb'(\bid="|href="#|url\(#)([a-z]+[0-9a-f]{10})\b',
        lambda match: match[1] + numbered.get(match[2], match[2]),
        svg,
    )
