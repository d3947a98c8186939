"""Photos by the million: sources, the ledger of blocks, engines that fill it, and questions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from guidxmage.dataset.making import Made, Scope, explain_dataset
    from guidxmage.dataset.options import DatasetOptions
    from guidxmage.dataset.query import Dataset
    from guidxmage.dataset.sources import open_source

_HOMES = {
    "Dataset": "guidxmage.dataset.query",
    "DatasetOptions": "guidxmage.dataset.options",
    "Made": "guidxmage.dataset.making",
    "Scope": "guidxmage.dataset.making",
    "explain_dataset": "guidxmage.dataset.making",
    "open_source": "guidxmage.dataset.sources",
}

__all__ = ["Dataset", "DatasetOptions", "Made", "Scope", "explain_dataset", "open_source"]


def __getattr__(name: str) -> Any:
    """Imported when first used: a query needs no torch, and a run no DuckDB."""
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
