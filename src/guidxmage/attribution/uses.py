"""What an explainer is asked for and is built above it: a port, with the makers plugged in.

Graphs and data sets are written above all that they are made of. Who writes them tells it here, so
that an explainer can be asked for one.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from guidxmage.errors import InputError


class Written(Protocol):
    """A graph that was written: its format and size in bytes, and what is said in it."""

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


class Made(Protocol):
    """A data set that was made: of how many photos, and what became of them."""

    @property
    def folder(self) -> Path:
        """Where it is."""

    @property
    def photos(self) -> int:
        """Photos that were asked for."""

    @property
    def explained(self) -> int:
        """Photos that this run explained."""

    @property
    def kept(self) -> int:
        """Photos whose rows were there already."""

    @property
    def errors(self) -> int:
        """Photos that have a row with an error."""


_makers: dict[str, Callable[..., Any]] = {}


def made_by(**makers: Callable[..., Any]) -> None:
    """Plug in what `Explainer.export` and `Explainer.explain_dataset` do."""
    _makers.update(makers)


def _maker(name: str) -> Callable[..., Any]:
    if name not in _makers:
        raise InputError(f"nothing is plugged in for {name} here; import guidxmage first")
    return _makers[name]


class Usable:
    """What an explainer is asked for beyond an explanation."""

    def export(self, path: Path | str, **options: Any) -> Written:
        """Write the network and its explanation as one graph of ordinary operators.

        options: those of `guidxmage.export.export`, such as format="onnx", "pt2" or "aoti", target,
        outputs, depth. The file appears whole or not at all. Raises InputError, and
        UnsupportedOperatorError by operator and call site for what has no form that leaves Python.
        """
        written: Written = _maker("export")(self, path, **options)
        return written

    def explain_dataset(self, source: Any, out: Path | str, **options: Any) -> Made:
        """Explain all photos of a source into the data set `out`, a row for each photo and target.

        source: a folder, a list, a tar, Parquet or a data set of Python (docs/dataset.md). options:
        fields of `guidxmage.dataset.DatasetOptions` and `Scope`, such as target, objects, depth,
        maps, workers, limit; and factory, overwrite and show, as `guidxmage.dataset.
        explain_dataset` has them. What is there already is kept. Raises InputError, and
        MissingExtraError without the extra `dataset`.
        """
        made: Made = _maker("explain_dataset")(self, source, out, **options)
        return made
