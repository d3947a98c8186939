"""Lists of photos: tables with paths, and labels and masks where they are known."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from guidxmage.dataset.items import InFile, Item, Nowhere, label_of, named
from guidxmage.errors import InputError
from guidxmage.files.names import brief, shown
from guidxmage.files.untrusted import regular

PATHS = ("path", "file", "filename", "file_name", "image_path", "image", "img")
LABELS = ("label", "class", "cls", "target")
MASKS = ("mask", "mask_path")
LARGEST_LIST = 2**33
# Of one cell; a path has some hundred characters.
_LONGEST_CELL = 2**15
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
LISTS = tuple(_DELIMITERS)


def list_items(path: Path, before: str = "") -> list[Item]:
    """Items of a CSV or TSV file with a heading. before: what their names begin with.

    A photo of which the path is missing is an item that says so. Raises InputError.
    """
    if regular(path).stat().st_size > LARGEST_LIST:
        raise InputError(f"{shown(path)} is larger than the {LARGEST_LIST} bytes that are read")
    csv.field_size_limit(_LONGEST_CELL)
    delimiter = _DELIMITERS[path.suffix.lower()]
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, delimiter=delimiter, skipinitialspace=True)
            _check_heading(reader.fieldnames or (), path, delimiter)
            return list(_items(reader, path, before))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{shown(path)} cannot be read as a list: {brief(error)}") from error


def _items(reader: csv.DictReader[str], path: Path, before: str) -> Iterator[Item]:
    for row in reader:
        if any(isinstance(cell, str) and cell.strip() for cell in row.values()):
            yield item_of(row, path, f"line {reader.line_num}", before)


def _check_heading(columns: Any, path: Path, delimiter: str) -> None:
    """Raise InputError where no column has paths, and say so where others separate the columns."""
    if column_of(columns, PATHS) is not None:
        return
    for other, name in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars"), (",", "commas")):
        parts = [part for column in columns for part in str(column).split(other)]
        if other != delimiter and column_of(parts, PATHS) is not None:
            wanted = "tabs" if delimiter == "\t" else "commas"
            also = ", or call it .tsv" if other == "\t" else ""
            raise InputError(
                f"{shown(path)} has {name} between its columns; save it with {wanted}{also}"
            )
    there = ", ".join(map(brief, columns)) or "none"
    raise InputError(f"{shown(path)} has no column {PATHS[0]!r}; its columns are {there}")


def column_of(columns: Any, names: tuple[str, ...]) -> str | None:
    """The first of some names that is among the columns, in lower case or upper."""
    there = {str(column).strip().lower(): str(column) for column in columns if column}
    return next((there[name] for name in names if name in there), None)


def item_of(row: Mapping[str, Any], path: Path, place: str, before: str = "") -> Item:
    """The item of one row; paths are seen from where the list lies. place: of the row, in words.

    Raises InputError where the label is none.
    """

    def cell(names: tuple[str, ...]) -> str | None:
        column = column_of(row, names)
        value = None if column is None else row[column]
        return None if value in (None, "") else value if isinstance(value, str) else str(value)

    column = column_of(row, LABELS)
    label = None if column is None else label_of(row[column])
    given = cell(PATHS)
    if given is None or not given.strip() or "\0" in given:
        why = f"{shown(path)} has no path in {place}"
        return named(f"{before}{path.name}: {place}", where=Nowhere(why), label=label)
    given = _without_spaces(path, given)
    photo, mask = os.path.join(path.parent, given), cell(MASKS)
    where = None if mask is None else beside(path, _without_spaces(path, mask))
    name = given if os.path.isabs(given) else f"{before}{given}"
    return named(name, where=InFile(photo), label=label, mask=where, stamp=stamp_of(photo))


def beside(path: Path, given: str) -> InFile:
    """A file as it is seen from a list."""
    return InFile(os.path.join(path.parent, given))


def stamp_of(file: str | os.PathLike[str]) -> tuple[int, int]:
    """Size of a file, and when it was changed, moved or renamed; zeros where there is none.

    That it is missing is told when it is read.
    """
    try:
        status = os.stat(file)
    except (OSError, ValueError):
        return 0, 0
    return status.st_size, max(status.st_mtime_ns, status.st_ctime_ns)


def _without_spaces(path: Path, given: str) -> str:
    """What a cell names, without the spaces around it where there is no file with them."""
    bare = given.strip()
    return given if bare == given or os.path.exists(os.path.join(path.parent, given)) else bare
