"""Photos inside other files: WebDataset tars, read as data, and Parquet with images' bytes."""

from __future__ import annotations

import tarfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from guidxmage.dataset.items import LARGEST_GROUP, LARGEST_PHOTO, InParquet, InTar, Item, Where
from guidxmage.dataset.lists import LABELS, PATHS, column_of, item_of
from guidxmage.errors import InputError
from guidxmage.files.names import brief, shown
from guidxmage.inputs.photos import IMAGE_SUFFIXES

IMAGES = ("image", "img", "jpg", "jpeg", "png", "webp", "bytes")
MASKS = ("mask", "seg", "mask.png", "seg.png")
KEYS = ("__key__", "key", "name", "id", *PATHS)
# Members of a tar; a shard of WebDataset has some ten thousand.
_MOST_MEMBERS = 10_000_000
_LONGEST_LABEL = 1000
# What else a sample may have its true label in.
_LABEL_ENDINGS = ("cls", "label", "label.txt", "cls.txt")


def tar_items(files: Sequence[Path]) -> list[Item]:
    """The photos of WebDataset tars: members of one stem are a sample.

    KEY.jpg (or another image) is the photo, KEY.cls its label in text, KEY.mask.png or KEY.seg.png
    its mask. Nothing is unpacked. Raises InputError.
    """
    return [item for file in files for item in _samples(file, len(files) > 1)]


def _samples(file: Path, several: bool) -> Iterator[Item]:
    samples: dict[str, dict[str, InTar]] = {}
    for member in _members(file):
        folder, _, name = member.name.rpartition("/")
        stem, _, ending = name.partition(".")
        if name.startswith(".") or not ending:
            continue
        if not 0 <= member.size <= LARGEST_PHOTO:
            continue  # neither a photo, nor a mask, nor a label
        key = f"{folder}/{stem}" if folder else stem
        where = InTar(str(file), member.offset_data, member.size)
        samples.setdefault(key, {})[ending.lower()] = where
    before = f"{file.name}/" if several else ""
    for key, parts in samples.items():
        photo = next((e for e in parts if f".{e}" in IMAGE_SUFFIXES), None)
        if photo is None:
            continue
        masks: list[Where] = [parts[e] for e in MASKS if e in parts]
        yield Item(
            name=shown(f"{before}{key}.{photo}"),
            where=parts[photo],
            label=_label(parts),
            mask=masks[0] if masks else None,
            stamp=(parts[photo].size, file.stat().st_mtime_ns),
        )


def _members(file: Path) -> Iterable[tarfile.TarInfo]:
    try:
        with tarfile.open(file, "r:") as archive:
            for number, member in enumerate(archive):
                if number >= _MOST_MEMBERS:
                    raise InputError(f"{shown(file)} has more than {_MOST_MEMBERS} members")
                archive.members = []  # type: ignore[attr-defined] # the library keeps them all otherwise
                # Links lead elsewhere, and sparse members do not lie in a run.
                if member.isreg() and not member.issparse():
                    yield member
    except (OSError, tarfile.TarError, ValueError) as error:
        raise InputError(f"{shown(file)} cannot be read as a tar: {brief(error)}") from error


def _label(parts: dict[str, InTar]) -> str | None:
    where = next((parts[ending] for ending in _LABEL_ENDINGS if ending in parts), None)
    if where is None or where.size > _LONGEST_LABEL:
        return None
    return shown(where.read().decode("utf-8", "replace").strip())


def parquet_items(files: Sequence[Path]) -> list[Item]:
    """The photos of Parquet files: bytes in a column, or paths as in a list. Raises InputError."""
    return [item for file in files for item in _rows(file, len(files) > 1)]


def _rows(file: Path, several: bool) -> Iterator[Item]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as opened:
            columns = opened.schema_arrow.names
            image = column_of(columns, IMAGES)
            paths = column_of(columns, PATHS)
            if image is None and paths is None:
                listed = ", ".join(map(brief, columns))
                raise InputError(
                    f"{shown(file)} has neither a column 'path' nor one with images "
                    f"({', '.join(IMAGES)}); its columns are {listed}"
                )
            for group in range(opened.num_row_groups):
                size = opened.metadata.row_group(group).total_byte_size
                if size > LARGEST_GROUP:
                    raise InputError(
                        f"{shown(file)} has a row group of {size} bytes; write it with at most "
                        f"{LARGEST_GROUP} in one"
                    )
                yield from _of_group(file, opened, group, image, several)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{shown(file)} cannot be read as Parquet: {brief(error)}") from error


def _of_group(
    file: Path, opened: Any, group: int, image: str | None, several: bool
) -> Iterator[Item]:
    columns = opened.schema_arrow.names
    masks = None if image is None else column_of(columns, MASKS)
    plain = [c for c in columns if c not in (image, masks) and _is_plain(opened, c)]
    table = opened.read_row_group(group, columns=plain)
    key, label = column_of(plain, KEYS), column_of(plain, LABELS)
    stamp, before = file.stat(), f"{file.name}/" if several else ""
    for row, values in enumerate(table.to_pylist() if plain else [{}] * _count(opened, group)):
        if image is None:
            yield item_of(values, file)
            continue
        name = values.get(key) if key else None
        told = None if label is None or values.get(label) is None else str(values[label])
        yield Item(
            name=shown(f"{before}{group}/{row}" if name is None else f"{before}{name}"),
            where=InParquet(str(file), group, row, image),
            label=told,
            mask=None if masks is None else InParquet(str(file), group, row, masks),
            stamp=(stamp.st_size, stamp.st_mtime_ns),
        )


def _count(opened: Any, group: int) -> int:
    count: int = opened.metadata.row_group(group).num_rows
    return count


def _is_plain(opened: Any, column: str) -> bool:
    """Whether a column may hold names or labels: texts and whole numbers."""
    import pyarrow as pa

    kind = opened.schema_arrow.field(column).type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or _is_int(kind))


def _is_int(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_integer(kind))
