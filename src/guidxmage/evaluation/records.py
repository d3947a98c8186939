"""What was measured, line by line, in files that an interrupted run goes on with."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from guidxmage.errors import InputError
from guidxmage.files.atomic import (
    HIDDEN,
    alone,
    others_present,
    present,
    read_sealed,
    write_atomically,
    write_sealed,
)
from guidxmage.files.result_folder import sweep
from guidxmage.files.untrusted import listed
from guidxmage.provenance import fingerprint

Record = dict[str, Any]
Key = tuple[str, int, str]
"""Photo, view and method."""

FOLDER, SETTINGS, PHOTOS = "records", "evaluation.json", "known_photos"
SCHEMA = "guid-xmage/evaluation/1"
MADE_FROM, MAPS_KEPT = "made_from", "maps"
"""Of a record: the fingerprint of photo, mask and library, and the SHA-256 of the maps it kept."""
_DIGEST, _DIGITS = "digest", 16
# What a record is told by; a line that somebody made by hand may lack anything.
_KINDS = {
    **dict.fromkeys(("network", "photo", "method", MADE_FROM), str),
    "view": int,
    MAPS_KEPT: dict,
}


@dataclass
class Records:
    """The records of one network: one JSON line for each photo, view and method.

    A line is on the disk before the next is begun. Half a line, left by a crash, is cut off; so are
    lines that are not as they were written, whose number is `damaged`.
    """

    path: Path
    found: dict[Key, Record] = field(default_factory=dict)
    damaged: int = 0

    @classmethod
    def open(cls, folder: Path, network: str) -> Records:
        """The records of a network in a run's folder, with those that are there already.

        Raises InputError where they cannot be read.
        """
        records = cls.read(folder / FOLDER / f"{file_name(network)}.jsonl")
        tidy = b"".join(map(_line, records.found.values()))
        if records.path.is_file() and records.path.read_bytes() != tidy:
            write_atomically(records.path, tidy)
        return records

    @classmethod
    def read(cls, path: Path) -> Records:
        """The records in a file, which is left as it is. Raises InputError if it is unreadable."""
        records = cls(path)
        try:
            content = path.read_bytes() if path.exists() else b""
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
        *lines, _ = content.split(b"\n")
        for line in lines:
            if (record := _record(line)) is None:
                records.damaged += 1
            else:
                records.found[key_of(record)] = record
        return records

    def claim(self, digest: str) -> None:
        """Note which network these are of. Raises InputError where they are another one's."""
        note = self.path.with_suffix(".sha256")
        if not note.is_file():
            if self.found:
                raise InputError(
                    f"{note} is missing, which says of which network {self.path} is; choose "
                    "another folder"
                )
            write_atomically(note, f"{digest}\n".encode())
        elif note.read_bytes().strip() != digest.encode():
            if self.found:
                raise InputError(
                    f"{self.path} holds what was measured on other weights, or with other code of "
                    "the network; choose another folder"
                )
            write_atomically(note, f"{digest}\n".encode())

    def add(self, record: Record) -> None:
        """Keep a record, on the disk too, instead of an earlier one of the same key.

        Raises InputError where it cannot be written.
        """
        known = self.found.pop(key_of(record), None)
        self.found[key_of(record)] = record
        if known is not None:
            write_atomically(self.path, b"".join(map(_line, self.found.values())))
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "ab") as file:
                file.write(_line(record))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise InputError(f"cannot write {self.path}: {error.strerror or error}") from error


def key_of(record: Record) -> Key:
    """Which photo, view and method a record is of."""
    return record["photo"], record["view"], record["method"]


def file_name(name: str) -> str:
    """A name as a part of file names."""
    return "".join(c if c.isalnum() or c in "-_+." else "-" for c in name)


@contextmanager
def claimed(out: Path, settings: dict[str, Any], photos: Sequence[str] = ()) -> Iterator[list[str]]:
    """Make a folder this evaluation's own; networks, methods, views and photos may be added.

    Yields the names of all its photos, earlier ones first, so that a photo keeps its number. What
    killed runs left is cleared away. Settings of an earlier run that measured nothing are replaced,
    unless a run is at work there. Raises InputError for a folder that holds another evaluation, or
    something else.
    """
    file = out / SETTINGS
    own: dict[str, Any] = json.loads(json.dumps({"schema": SCHEMA, **settings}))
    with ExitStack() as stack:
        with alone(file):
            known = _known(file, own)
            ranked = [*known, *(name for name in photos if name not in set(known))]
            sweep(out, below=True)
            if ranked != known or not known:
                write_sealed(file, {**own, PHOTOS: ranked})
            stack.enter_context(present(out))
        yield ranked


def numbers(out: Path) -> dict[str, int]:
    """The numbers that photos have in a folder, by name. Raises InputError where it has none."""
    file = out / SETTINGS
    return {name: n for n, name in enumerate(listed(read_sealed(file), PHOTOS, str, str(file)))}


def _known(file: Path, own: dict[str, Any]) -> list[str]:
    """The photos of an evaluation that is there and that this one goes on with."""
    out = file.parent
    if file.exists():
        try:
            theirs = read_sealed(file)
            photos = listed(theirs, PHOTOS, str, str(file))
        except InputError as error:
            raise InputError(f"{error}; choose another folder") from error
        if not _measured(out) and not others_present(out):
            return []
        for name, value in own.items():
            if theirs.get(name) != value:
                raise InputError(
                    f"{out} holds an evaluation with other settings ({name}: {theirs.get(name)}, "
                    f"not {value}); choose another folder"
                )
        return photos
    if any(not path.name.startswith(HIDDEN) for path in out.iterdir()):
        raise InputError(f"{out} holds something other than an evaluation; choose another folder")
    return []


def _measured(out: Path) -> bool:
    """Whether anything was ever measured in a folder; what cannot be read may have been."""
    return any(path.stat().st_size for path in (out / FOLDER).glob("*.jsonl"))


def _line(record: Record) -> bytes:
    """A record as a line that ends with the SHA-256 of the rest."""
    text = json.dumps(record, ensure_ascii=False, allow_nan=False)
    digest = fingerprint.of_text(text)[:_DIGITS]
    return f"{json.dumps({**record, _DIGEST: digest}, ensure_ascii=False)}\n".encode()


def _record(line: bytes) -> Record | None:
    """What a line holds; None where that is not what was written."""
    try:
        record = json.loads(line)
        del record[_DIGEST]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
    sound = all(isinstance(record.get(key), kind) for key, kind in _KINDS.items())
    try:
        return record if sound and line + b"\n" == _line(record) else None
    except ValueError:  # NaN, which is never written
        return None
