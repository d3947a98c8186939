"""Photos inside other files: WebDataset tars, read as data, and Parquet with images' bytes."""

from __future__ import annotations

import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from guidxmage.dataset.items import (
    LARGEST_GROUP,
    InParquet,
    InTar,
    Item,
    Where,
    label_of,
    named,
)
from guidxmage.dataset.lists import LABELS, PATHS, beside, column_of, item_of, stamp_of
from guidxmage.errors import InputError
from guidxmage.files.names import brief, shown
from guidxmage.files.untrusted import regular
from guidxmage.inputs.photos import IMAGE_SUFFIXES

IMAGES = ("image", "img", "jpg", "jpeg", "png", "webp", "bytes")
MASKS = ("mask", "seg", "mask.png", "seg.png")
KEYS = ("__key__", "key", "name", "id", *PATHS)
# Members of a tar; a shard of WebDataset has some ten thousand.
_MOST_MEMBERS = 10_000_000
_LONGEST_LABEL = 1000
# What else a sample may have its true label in.
_LABEL_ENDINGS = ("cls", "label", "label.txt", "cls.txt")
_PHOTO_ENDINGS = frozenset(suffix[1:] for suffix in IMAGE_SUFFIXES)
_MASK_ENDINGS = (
    "mask",
    "seg",
    *(f"{kind}{suffix}" for kind in ("mask", "seg") for suffix in sorted(IMAGE_SUFFIXES)),
)
_KNOWN = _PHOTO_ENDINGS.union(_MASK_ENDINGS, _LABEL_ENDINGS)


def tar_items(file: Path, before: str = "") -> list[Item]:
    """The photos of a WebDataset tar: members of one stem are a sample.

    KEY.jpg (or another image) is a photo, KEY.cls its label in text, KEY.mask.png or KEY.seg.png
    its mask. KEY ends at the first dot behind which such an ending follows, so that no image is
    passed over: a.5.jpg is a photo. Two images of a sample are two photos, and where a name comes
    again a new sample begins. before: what names begin with. Nothing is unpacked. Raises
    InputError.
    """
    stamp = stamp_of(file)
    return [item for sample in _samples(file) for item in sample.items(before, stamp[1])]


@dataclass
class _Sample:
    """Members of one key: photos as (name, where), the others by their endings."""

    photos: list[tuple[str, InTar]] = field(default_factory=list)
    parts: dict[str, InTar] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)

    def add(self, name: str, ending: str, where: InTar) -> None:
        self.seen.add(ending)
        if ending in _PHOTO_ENDINGS:
            self.photos.append((name, where))
        else:
            self.parts[ending] = where

    def items(self, before: str, changed: int) -> Iterator[Item]:
        label = _label(self.parts)
        mask: Where | None = next((self.parts[e] for e in _MASK_ENDINGS if e in self.parts), None)
        for name, where in self.photos:
            stamp = (where.size, changed)
            yield named(f"{before}{name}", where=where, label=label, mask=mask, stamp=stamp)


def _samples(file: Path) -> list[_Sample]:
    """In the order of their first members."""
    found: list[_Sample] = []
    of_key: dict[str, _Sample] = {}
    for member in _members(file):
        folder, _, name = member.name.rpartition("/")
        stem, ending = _parted(name)
        if name.startswith(".") or not ending:
            continue
        key = f"{folder}/{stem}"
        if key not in of_key or ending in of_key[key].seen:
            of_key[key] = _Sample()
            found.append(of_key[key])
        of_key[key].add(member.name, ending, InTar(str(file), member.offset_data, member.size))
    return found


def _parted(name: str) -> tuple[str, str]:
    """Key and ending of a member; no ending where it is neither photo nor mask nor label."""
    stem, _, rest = name.partition(".")
    while rest:
        if rest.lower() in _KNOWN:
            return stem, rest.lower()
        more, _, rest = rest.partition(".")
        stem = f"{stem}.{more}"
    return name, ""


def _members(file: Path) -> Iterable[tarfile.TarInfo]:
    try:
        with tarfile.open(regular(file), "r:") as archive:
            for number, member in enumerate(archive):
                if number >= _MOST_MEMBERS:
                    raise InputError(f"{shown(file)} has more than {_MOST_MEMBERS} members")
                archive.members = []  # type: ignore[attr-defined] # the library keeps them all otherwise
                # Links lead elsewhere, and sparse members do not lie in a run.
                if member.isreg() and not member.issparse() and member.size >= 0:
                    yield member
    except (OSError, tarfile.TarError, ValueError) as error:
        raise InputError(f"{shown(file)} cannot be read as a tar: {brief(error)}") from error


def _label(parts: dict[str, InTar]) -> str | None:
    where = next((parts[ending] for ending in _LABEL_ENDINGS if ending in parts), None)
    if where is None or where.size > _LONGEST_LABEL:
        return None
    return label_of(where.read())


def parquet_items(file: Path, before: str = "", paths_before: str = "") -> list[Item]:
    """The photos of a Parquet file: bytes in a column, or paths as in a list.

    before, paths_before: what names of such photos begin with. Raises InputError.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # Opened here: Arrow takes no path that is no text.
        with regular(file).open("rb") as content, pq.ParquetFile(content) as opened:
            table = _Table.of(file, opened)
            start = paths_before if table.image is None else before
            groups = range(opened.num_row_groups)
            return [item for group in groups for item in table.items(opened, group, start)]
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{shown(file)} cannot be read as Parquet: {brief(error)}") from error


@dataclass(frozen=True)
class _Table:
    """What the columns of a Parquet file are.

    image: with bytes, or None where the photos are files; masks: with bytes; plain: those of names,
    labels and paths, which are read while the photos are listed.
    """

    file: Path
    image: str | None
    masks: str | None
    plain: tuple[str, ...]

    @classmethod
    def of(cls, file: Path, opened: Any) -> _Table:
        schema = opened.schema_arrow
        columns = schema.names
        plain = tuple(c for c in columns if _is_plain(schema.field(c).type))
        image = column_of([c for c in columns if _has_bytes(schema.field(c).type)], IMAGES)
        if image is None and column_of(plain, PATHS) is None:
            listed = ", ".join(map(brief, columns))
            raise InputError(
                f"{shown(file)} has neither a column 'path' nor one with images "
                f"({', '.join(IMAGES)}); its columns are {listed}"
            )
        label = column_of(columns, LABELS)
        if label is not None and column_of(plain, LABELS) is None:
            kind = brief(schema.field(label).type, 60)
            raise InputError(
                f"{shown(file)} has labels of type {kind}; give texts or numbers, or rename the "
                f"column {brief(label)}"
            )
        masks = column_of([c for c in columns if c not in plain], MASKS)
        wanted = (KEYS, LABELS, MASKS, PATHS, ("mask_path",))
        kept = {column_of([c for c in plain if c != image], names) for names in wanted}
        return cls(file, image, masks, tuple(c for c in plain if c in kept))

    def items(self, opened: Any, group: int, before: str) -> Iterator[Item]:
        """Of the photos in a row group."""
        metadata = opened.metadata.row_group(group)
        if metadata.total_byte_size > LARGEST_GROUP:
            raise InputError(
                f"{shown(self.file)} has a row group of {metadata.total_byte_size} bytes; write it "
                f"with at most {LARGEST_GROUP} in one"
            )
        table = opened.read_row_group(group, columns=list(self.plain))
        rows = table.to_pylist() if self.plain else [{}] * int(metadata.num_rows)
        stamp = stamp_of(self.file)
        for row, values in enumerate(rows):
            place = f"row {row} of row group {group}"
            if self.image is None:
                item = item_of(values, self.file, place, before)
                mask = item.mask if self.masks is None else self._mask(group, row, values)
                yield item if mask is item.mask else replace(item, mask=mask)
                continue
            key, label, path = (column_of(self.plain, of) for of in (KEYS, LABELS, PATHS))
            name = None if key is None else _text(values[key])
            yield named(
                f"{before}{group}/{row}" if name is None else f"{before}{name}",
                where=InParquet(
                    str(self.file),
                    group,
                    row,
                    self.image,
                    None if path is None else _text(values[path]),
                ),
                label=None if label is None else label_of(values[label]),
                mask=self._mask(group, row, values),
                stamp=stamp,
            )

    def _mask(self, group: int, row: int, values: dict[str, Any]) -> Where | None:
        """In a column with bytes, else a file that one with paths names."""
        if self.masks is not None:
            return InParquet(str(self.file), group, row, self.masks)
        column = column_of(self.plain, (*MASKS, "mask_path"))
        given = None if column is None else _text(values[column])
        return None if given is None or "\0" in given else beside(self.file, given)


def _text(value: Any) -> str | None:
    return None if value in (None, "") else str(value)


def _has_bytes(kind: Any) -> bool:
    """Whether a column has bytes, or records of bytes and a path."""
    import pyarrow as pa

    return bool(
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_fixed_size_binary(kind)
        or pa.types.is_struct(kind)
    )


def _is_plain(kind: Any) -> bool:
    """Whether a column may hold names, labels or paths: texts and numbers, also as categories."""
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        return _is_plain(kind.value_type)
    return bool(
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_decimal(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_null(kind)
    )
