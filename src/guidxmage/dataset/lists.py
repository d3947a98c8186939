"""Lists of photos: tables with paths, and labels and masks where they are known."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from guidxmage.dataset.items import InFile, Item
from guidxmage.errors import InputError
from guidxmage.files.names import brief, shown

PATHS = ("path", "file", "filename", "image_path")
LABELS = ("label", "class", "cls", "target")
MASKS = ("mask", "mask_path")
LARGEST_LIST = 2**33
# Of one cell; a path has some hundred characters.
_LONGEST_CELL = 2**15


def list_items(path: Path, delimiter: str = ",") -> list[Item]:
    """Items of a CSV or TSV file with a heading. Raises InputError."""
    if path.stat().st_size > LARGEST_LIST:
        raise InputError(f"{shown(path)} is larger than the {LARGEST_LIST} bytes that are read")
    csv.field_size_limit(_LONGEST_CELL)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, delimiter=delimiter)
            named(reader.fieldnames or (), PATHS, path)
            return [item_of(row, path) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{shown(path)} cannot be read as a list: {brief(error)}") from error


def named(columns: Any, names: tuple[str, ...], path: Path) -> str:
    """The first of some names among the columns. Raises InputError where there is none."""
    found = column_of(columns, names)
    if found is None:
        there = ", ".join(map(brief, columns)) or "none"
        raise InputError(f"{shown(path)} has no column {names[0]!r}; its columns are {there}")
    return found


def column_of(columns: Any, names: tuple[str, ...]) -> str | None:
    """The first of some names that is among the columns, in lower case or upper."""
    there = {str(column).strip().lower(): str(column) for column in columns if column}
    return next((there[name] for name in names if name in there), None)


def item_of(row: Mapping[str, Any], path: Path) -> Item:
    """The item of one row; paths are seen from where the list lies. Raises InputError."""

    def cell(names: tuple[str, ...]) -> str | None:
        column = column_of(row, names)
        value = None if column is None else row[column]
        return None if value in (None, "") else str(value)

    given = cell(PATHS)
    if given is None or "\0" in given:
        raise InputError(f"{shown(path)} has a row without a path")
    photo = os.path.join(path.parent, given)
    mask = cell(MASKS)
    where = None if mask is None else InFile(os.path.join(path.parent, mask))
    try:
        status = os.stat(photo)
        stamp = (status.st_size, status.st_mtime_ns)
    except OSError:
        stamp = (0, 0)  # it is told when it is read
    return Item(shown(given), InFile(photo), cell(LABELS), where, stamp)
