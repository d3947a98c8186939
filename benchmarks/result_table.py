"""Result files: JSON Lines, first what all rows depend on, then a row a line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def write(file: Path, conditions: Mapping[str, Any], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a table, in place of the one that was there."""
    lines = ({"conditions": dict(conditions)}, *map(dict, rows))
    texts = (json.dumps(line, ensure_ascii=False, allow_nan=False) for line in lines)
    file.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")


def read(file: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Conditions and rows; nothing of either where there is no file."""
    if not file.is_file():
        return {}, []
    first, *rows = (json.loads(line) for line in file.read_text(encoding="utf-8").splitlines())
    return first["conditions"], rows
