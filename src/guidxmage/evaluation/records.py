"""What was measured, line by line, in files that an interrupted run goes on with."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from guidxmage.errors import InputError
from guidxmage.files import write_atomically

Record = dict[str, Any]
Key = tuple[str, int, str]
"""Photo, view and method."""

FOLDER, SETTINGS = "records", "evaluation.json"
SCHEMA = "guid-xmage/evaluation/1"


@dataclass
class Records:
    """The records of one network: one JSON line for each photo, view and method.

    A line is on the disk before the next is begun; half a line, left by a crash, is cut off.
    """

    path: Path
    found: dict[Key, Record] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path, network: str) -> Records:
        """The records of a network in a run's folder, with those that are there already."""
        path = folder / FOLDER / f"{file_name(network)}.jsonl"
        records = cls(path)
        if path.is_file():
            content = path.read_bytes()
            whole = content[: content.rfind(b"\n") + 1]
            if len(whole) != len(content):
                write_atomically(path, whole)
            for line in whole.decode("utf-8").splitlines():
                record = json.loads(line)
                records.found[key_of(record)] = record
        return records

    def claim(self, digest: str) -> None:
        """Note which network these are of. Raises InputError where they are another one's."""
        note = self.path.with_suffix(".sha256")
        if not note.is_file():
            write_atomically(note, f"{digest}\n".encode())
        elif note.read_text(encoding="utf-8").strip() != digest:
            raise InputError(
                f"{self.path} holds what was measured on other weights; choose another folder"
            )

    def add(self, record: Record) -> None:
        """Keep a record, on the disk too. Raises InputError where it cannot be written."""
        line = json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "ab") as file:
                file.write(line.encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise InputError(f"cannot write {self.path}: {error.strerror or error}") from error
        self.found[key_of(record)] = record


def key_of(record: Record) -> Key:
    """Which photo, view and method a record is of."""
    return record["photo"], record["view"], record["method"]


def file_name(name: str) -> str:
    """A name as a part of file names."""
    return "".join(c if c.isalnum() or c in "-_+." else "-" for c in name)


def claim(out: Path, settings: dict[str, Any]) -> None:
    """Make a folder this evaluation's own; networks, methods and views may be added.

    Raises InputError for a folder that holds another evaluation, or something else.
    """
    for leftover in out.rglob(".*.partial"):  # of a run that was killed while it wrote
        leftover.unlink(missing_ok=True)
    file = out / SETTINGS
    own: dict[str, Any] = json.loads(json.dumps({"schema": SCHEMA, **settings}))
    if file.is_file():
        try:
            theirs = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"{file} is damaged ({error}); choose another folder") from error
        for name, value in own.items():
            if theirs.get(name) != value:
                raise InputError(
                    f"{out} holds an evaluation with another {name}; choose another folder"
                )
        return
    if out.exists() and any(out.iterdir()):
        raise InputError(f"{out} holds something other than an evaluation; choose another folder")
    write_atomically(file, (json.dumps(own, indent=1, ensure_ascii=False) + "\n").encode())
