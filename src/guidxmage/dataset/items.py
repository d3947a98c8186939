"""One photo of a source: what it is called, where its bytes lie, its true label and its mask."""

from __future__ import annotations

import hashlib
import math
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from functools import lru_cache
from pathlib import Path
from typing import Any

from guidxmage.errors import InputError
from guidxmage.files.names import brief, shown

LARGEST_PHOTO = 2**28
"""Bytes of one photo; more are refused before memory is taken for them."""
# A row group that is read for one photo is kept for its neighbours.
_KEPT_GROUPS = 2
LARGEST_GROUP = 2**31


@dataclass(frozen=True, slots=True)
class InFile:
    """A file."""

    path: str

    def read(self) -> bytes:
        """Its bytes. Raises InputError."""
        return _part_of(self.path, 0, None)


@dataclass(frozen=True, slots=True)
class InTar:
    """A member of a tar archive: bytes in a run."""

    path: str
    offset: int
    size: int

    def read(self) -> bytes:
        """Its bytes. Raises InputError."""
        return _part_of(self.path, self.offset, self.size)


@dataclass(frozen=True, slots=True)
class InParquet:
    """A value in a column of a Parquet file: bytes, or the path of a file as seen from there.

    Both may be in a record of "bytes" and "path", as Hugging Face's datasets write images. beside:
    the path that another column gives.
    """

    path: str
    group: int
    row: int
    column: str
    beside: str | None = None

    def found(self) -> bytes | None:
        """The bytes; None where there is no value. Raises InputError."""
        value = _group(self.path, self.group, self.column)[self.row].as_py()
        record = value if isinstance(value, dict) else {"bytes": value, "path": value}
        content, named = record.get("bytes"), record.get("path")
        if isinstance(content, bytes):
            return checked_size(content, shown(self.path))
        named = named or self.beside
        if isinstance(named, str) and named and "\0" not in named:
            return _part_of(os.path.join(os.path.dirname(self.path), named), 0, None)
        return None

    def read(self) -> bytes:
        """Its bytes. Raises InputError, also where there is no value."""
        value = self.found()
        if value is None:
            raise InputError(f"{shown(self.path)} has no image in row {self.row}")
        return value


@dataclass(frozen=True, slots=True)
class InMemory:
    """An image or a mask that a data set in Python gives: an array, a tensor or a Pillow image."""

    value: Any


@dataclass(frozen=True, slots=True)
class Nowhere:
    """A photo of which the source does not say where it is: a sentence that says so."""

    reason: str

    def read(self) -> bytes:
        """Raises InputError."""
        raise InputError(self.reason)


Where = InFile | InTar | InParquet | InMemory | Nowhere


@dataclass(frozen=True, slots=True)
class Item:
    """A photo that was not read yet.

    name: its path in the source, which tells it from the others, as it can be printed; own_name:
    as it is, where that is another text. label: the true one, as text. mask: where the objects'
    masks are; None where they are found by the photo's name, or there are none. stamp: size in
    bytes, and when it was changed in nanoseconds, as far as that is known.
    """

    name: str
    where: Where
    label: str | None = None
    mask: Where | None = None
    stamp: tuple[int, int] = (0, 0)
    own_name: str | None = None

    @property
    def sought(self) -> str:
        """The name by which its masks are found."""
        return self.name if self.own_name is None else self.own_name

    @property
    def path(self) -> Path | None:
        """The file, for those that lie in one of their own."""
        return Path(self.where.path) if isinstance(self.where, InFile) else None


def named(name: str, *, label: str | None = None, **more: Any) -> Item:
    """An item of this name, whatever is in it; the other fields as they are."""
    printed = shown(name)
    own = None if printed == name else name
    return Item(printed, own_name=own, label=None if label is None else shown(label), **more)


def label_of(value: Any) -> str | None:
    """A true label as text; None where there is none.

    value: a text or a number, of Python, NumPy or torch: 3.0 is 3, and NaN is none. Raises
    InputError for what is no single one.
    """
    if hasattr(value, "item") and math.prod(getattr(value, "shape", ())) == 1:
        value = value.item()
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        value = int(value)
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, Enum):
        value = value.name
    if not isinstance(value, str | int | float | Decimal):
        shape = getattr(value, "shape", None)
        kind = type(value).__name__ + ("" if shape is None else f" of shape {tuple(shape)}")
        raise InputError(f"a label is a text or a number, not {brief(kind)}; give the class's own")
    return shown(str(value).strip()) or None


def digest_of(items: Sequence[Item], masks: Sequence[str]) -> str:
    """SHA-256 of what is known of items without reading them, but for when they were changed.

    masks: of each item what is known of its mask, as `masks.stamps_of` has it.
    """
    found = hashlib.sha256()
    for item, stamp in zip(items, masks, strict=True):
        mask = item.mask
        masked = "" if mask is None or isinstance(mask, InMemory) else repr(mask)
        text = repr((item.name, item.label, item.stamp[0], masked, stamp))
        found.update(text.encode("utf-8", "surrogateescape"))
    return found.hexdigest()


def times_of(items: Sequence[Item]) -> str:
    """SHA-256 of when each of them was changed."""
    return hashlib.sha256(repr([item.stamp[1] for item in items]).encode()).hexdigest()


def checked_size(content: bytes, name: str) -> bytes:
    """The content, if it is no larger than a photo may be. Raises InputError."""
    if len(content) > LARGEST_PHOTO:
        raise InputError(f"{name} has {len(content)} bytes; at most {LARGEST_PHOTO} are read")
    return content


def _part_of(path: str, offset: int, size: int | None) -> bytes:
    name = shown(path)
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # of a pipe, the end never comes
            raise InputError(f"{name} is {'a folder' if os.path.isdir(path) else 'no file'}")
        with open(path, "rb") as file:
            there = os.fstat(file.fileno()).st_size
            wanted = there - offset if size is None else size
            if wanted > LARGEST_PHOTO:
                raise InputError(f"{name} has {wanted} bytes; at most {LARGEST_PHOTO} are read")
            file.seek(offset)
            content = file.read(wanted)
    except FileNotFoundError:
        raise InputError(f"{name} does not exist") from None
    except OSError as error:
        raise InputError(f"cannot read {name}: {error.strerror or error}") from error
    if size is not None and len(content) != size:
        raise InputError(f"{name} ends before what it says to hold; it is incomplete")
    return content


@lru_cache(_KEPT_GROUPS)
def _group(path: str, group: int, column: str) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with open(path, "rb") as content, pq.ParquetFile(content) as file:
            return file.read_row_group(group, columns=[column]).column(0)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{shown(path)} cannot be read: {brief(error)}") from error
