"""One photo of a source: what it is called, where its bytes lie, its true label and its mask."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
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
    """A value in a column of a Parquet file."""

    path: str
    group: int
    row: int
    column: str

    def read(self) -> bytes:
        """Its bytes. Raises InputError."""
        value = _group(self.path, self.group, self.column)[self.row].as_py()
        if isinstance(value, dict):  # images as Hugging Face's datasets write them
            value = value.get("bytes")
        if not isinstance(value, bytes):
            raise InputError(f"{shown(self.path)} has no image in row {self.row}")
        return checked_size(value, shown(self.path))


@dataclass(frozen=True, slots=True)
class InMemory:
    """An image or a mask that a data set in Python gives: an array, a tensor or a Pillow image."""

    value: Any


Where = InFile | InTar | InParquet | InMemory


@dataclass(frozen=True, slots=True)
class Item:
    """A photo that was not read yet.

    name: its path in the source, which tells it from the others. label: the true one, as text.
    mask: where the objects' masks are; None where they are found by the photo's name, or there are
    none. stamp: size in bytes, and when it was changed in nanoseconds, as far as that is known.
    """

    name: str
    where: Where
    label: str | None = None
    mask: Where | None = None
    stamp: tuple[int, int] = (0, 0)

    @property
    def path(self) -> Path | None:
        """The file, for those that lie in one of their own."""
        return Path(self.where.path) if isinstance(self.where, InFile) else None


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
        with pq.ParquetFile(path) as file:
            return file.read_row_group(group, columns=[column]).column(0)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{shown(path)} cannot be read: {brief(error)}") from error
