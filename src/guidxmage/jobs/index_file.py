"""index.csv: all results of a folder in one table, a line for each object of each target."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from guidxmage.errors import InputError
from guidxmage.files.atomic import MANIFEST, write_atomically
from guidxmage.files.untrusted import LARGEST_MARK, read_json

INDEX = "index.csv"
_DEEPEST = 4  # folders below the one that results are written to
_OF_RESULT = (
    *("result", "photo", "target", "name", "score", "pixels", "bias"),
    *("placed", "unplaced", "depth", "residual", "exactness"),
)
_OF_OBJECT = {
    "object": "name",
    "area": "pixels",
    "object_whole": "whole",
    "object_positive": "whole_positive",
    "object_negative": "whole_negative",
    "object_pixels": "sum",
    "object_bias": "bias",
}

_HEAD = ",".join((*_OF_RESULT, *_OF_OBJECT))


def write_index(out: Path, say: Callable[[str], None] = lambda _: None) -> Path | None:
    """Write the table of all results in the folders below `out`, those of earlier runs as well.

    It is made anew from the manifests and appears whole, so that runs side by side do no harm: the
    last to end knows of all. Nothing is written where there is no result, and nothing is replaced
    that is not such a table: `say` is told then. What is no manifest of an explanation is passed
    over.
    """
    found = (path for depth in range(1, _DEEPEST + 1) for path in out.glob("*/" * depth + MANIFEST))
    return _write(out, sorted(found), say)


def add_to_index(
    out: Path, results: Iterable[Path], say: Callable[[str], None] = lambda _: None
) -> Path | None:
    """`write_index` for results wherever they are, beside those that the table has already."""
    listed = _listed(out / INDEX) if (out / INDEX).is_file() and _is_ours(out / INDEX) else set()
    added = {place_from(out, folder) for folder in results}
    return _write(out, [out / place / MANIFEST for place in sorted(listed | added)], say)


def index_of(
    out: Path, results: Iterable[Path], say: Callable[[str], None] = lambda _: None
) -> Path | None:
    """`write_index` for these results and no others."""
    return _write(out, [folder / MANIFEST for folder in results], say)


def _listed(path: Path) -> set[str]:
    """The results that a table has."""
    with path.open(encoding="utf-8", newline="") as file:
        return {line["result"] for line in csv.DictReader(file) if line["result"]}


def place_from(out: Path, folder: Path) -> str:
    """Where a result lies as seen from a folder, with slashes."""
    try:
        return Path(os.path.relpath(folder, out)).as_posix()
    except ValueError:  # on another drive
        return folder.absolute().as_posix()


def _write(out: Path, manifests: list[Path], say: Callable[[str], None]) -> Path | None:
    lines = [line for path in manifests for line in _lines(out, path)]
    if not lines:
        return None
    if not _is_ours(out / INDEX):
        say(f"{out / INDEX} is something else and is left as it is; the numbers are in no table")
        return None
    text = io.StringIO()
    writer = csv.DictWriter(text, [*_OF_RESULT, *_OF_OBJECT], lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    content = text.getvalue().encode()
    if not (out / INDEX).is_file() or (out / INDEX).read_bytes() != content:
        write_atomically(out / INDEX, content)
    return out / INDEX


def _is_ours(path: Path) -> bool:
    """Whether there is nothing yet, or a table of this kind."""
    if not path.exists():
        return True
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return file.readline(1000).rstrip("\r\n") == _HEAD
    except (OSError, UnicodeDecodeError):  # a folder, or no text
        return False


def _lines(out: Path, path: Path) -> Iterator[dict[str, Any]]:
    """The lines of one result; objects and the rest of the pixels, where there are any."""
    try:
        manifest = read_json(path, LARGEST_MARK)
        if not str(manifest["schema"]).startswith("guid-xmage/explanation/"):
            return
        found = [
            {**_of_result(manifest, result), "result": place_from(out, path.parent)}
            for result in manifest["results"]
        ]
        tables = manifest.get("objects") or [None] * len(found)
        pairs = [(own, list(_objects(table))) for own, table in zip(found, tables, strict=True)]
    except (InputError, KeyError, TypeError, ValueError, AttributeError):  # damaged, or no result
        return
    for own, objects in pairs:
        yield from ({**own, **one} for one in objects or [{}])


def _of_result(manifest: dict[str, Any], result: dict[str, Any]) -> dict[str, Any]:
    depths = manifest.get("depths") or [{}]
    return {
        "photo": manifest.get("photo", ""),
        "target": result["target"],
        "name": result["name"],
        "score": result["score"],
        "pixels": result["contribution_sum"],
        "bias": result["bias"],
        "placed": result.get("placed", ""),
        "unplaced": result.get("unplaced", ""),
        "depth": depths[0].get("site", ""),
        "residual": result["residual"],
        "exactness": manifest["exactness"],
    }


def _objects(table: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    if table is None:
        return
    for row in (*table["rows"], table["rest"]):
        if row["pixels"] or row is not table["rest"]:
            yield {column: row.get(key, "") for column, key in _OF_OBJECT.items()}
