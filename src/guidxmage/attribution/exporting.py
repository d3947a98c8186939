"""Who writes an explainer as a graph: a port, with the writer plugged in.

Graphs are written above all that they are made of. Who writes them tells it here, so that an
explainer can be asked for one.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from guidxmage.errors import InputError


class Written(Protocol):
    """A file that was written: its format and size in bytes, and what is said in it."""

    @property
    def path(self) -> Path:
        """Where it is."""

    @property
    def format(self) -> str:
        """One of "onnx", "pt2" and "aoti"."""

    @property
    def size(self) -> int:
        """Bytes."""

    @property
    def metadata(self) -> dict[str, Any]:
        """What it says of itself (docs/export.md)."""


Writing = Callable[..., Written]
_writing: list[Writing] = []


def written_by(writing: Writing) -> None:
    """Plug in what writes an explainer to a path: `guidxmage.export.export`."""
    _writing[:] = [writing]


class Exportable:
    """What can be written as a graph that runs without Python."""

    def export(self, path: Path | str, **options: Any) -> Written:
        """Write the network and its explanation as one graph of ordinary operators.

        options: those of `guidxmage.export.export`, such as format="onnx", "pt2" or "aoti", target,
        outputs, depth. The file appears whole or not at all. Raises InputError, and
        UnsupportedOperatorError by operator and call site for what has no form that leaves Python.
        """
        if not _writing:
            raise InputError("nothing writes graphs here; import guidxmage first")
        return _writing[0](self, path, **options)
