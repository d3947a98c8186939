"""The ledger of a data set: what it is made of, and which of its blocks are there and whole.

    DATASET/dataset.json             network, options, source; sealed
    DATASET/rows/000/000007.parquet  a block's rows, whole or not there
    DATASET/ledger/….jsonl           a line for each finished block; every run writes its own file

A block counts where a line states its very bytes. So a run that is killed loses the blocks it was
at and nothing else, and two runs need not agree on more than who is at which block.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from guidxmage.errors import InputError
from guidxmage.files.atomic import alone, read_sealed, sha256_of, sync_folder, write_sealed
from guidxmage.files.names import brief, shown
from guidxmage.files.untrusted import entry, optional, parsed_json

SCHEMA = "guid-xmage/dataset/1"
HEAD, LEDGER, ROWS = "dataset.json", "ledger", "rows"
PAGES = ("REPORT.md", "report.html", "background.png")
"""What a summary writes."""
_SHARDS = r"\d{3,}/\d{6,}\.parquet"
# What runs write below each folder.
_OURS = {
    LEDGER: r"[0-9a-f]+-[0-9a-f]{8}\.jsonl",
    ROWS: _SHARDS,
    "previews": _SHARDS,
    "maps.zarr": r"(\w+/)?zarr\.json|\w+/c(/\d+)+",
}
# Of one ledger file: a line of a block has some hundred bytes.
_LARGEST = 2**28


@dataclass(frozen=True)
class Head:
    """What a data set is made of.

    network: its SHA-256; model: its name; options: as `DatasetOptions.told` has them; source, with
    the sample that was drawn from it; photos: of the source as last seen; block: photos in one.
    """

    network: str
    model: str
    options: dict[str, Any]
    source: dict[str, Any]
    photos: int
    block: int
    versions: dict[str, str]
    named: dict[str, str] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """SHA-256 of all that a block's rows depend on but for its photos."""
        known: list[Any] = [self.network, self.options, self.versions, self.block]
        known.append(self.source.get("sample"))
        return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()

    @property
    def blocks(self) -> int:
        """How many blocks there are when all is done."""
        return -(-self.photos // self.block)


@dataclass(frozen=True)
class Line:
    """One finished block.

    shard: SHA-256 of its rows. items: of what its photos are called; times: of when each was
    changed; content: of what was read for them. made_with: the head's digest. also: other files by
    SHA-256.
    """

    block: int
    shard: str
    items: str
    times: str
    content: str
    made_with: str
    photos: int
    errors: int
    seconds: float
    at: int = 0
    also: dict[str, str] = field(default_factory=dict)


class Ledger:
    """The ledger in a folder; several processes may write to it at once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._own = folder / LEDGER / f"{time.time_ns():x}-{uuid4().hex[:8]}.jsonl"
        self._known: dict[int, list[Line]] = {}
        self._read: dict[Path, int] = {}

    def shard(self, block: int) -> Path:
        """Where the rows of a block lie."""
        return self.folder / ROWS / f"{block // 1000:03}" / f"{block:06}.parquet"

    def lines(self) -> dict[int, list[Line]]:
        """What was finished, by block, the last one first. Half a line is none.

        Asked again it reads what was added since.
        """
        for file in sorted((self.folder / LEDGER).glob("*.jsonl")):
            for line in self._added(file):
                self._known.setdefault(line.block, []).append(line)
                self._known[line.block].sort(key=lambda one: -one.at)
        return self._known

    def _added(self, file: Path) -> list[Line]:
        """The whole lines of a file behind those that were read before."""
        try:
            with file.open("rb") as opened:
                opened.seek(self._read.get(file, 0))
                content = opened.read(_LARGEST)
        except OSError as error:
            raise InputError(f"cannot read {file}: {error.strerror or error}") from error
        end = content.rfind(b"\n") + 1
        self._read[file] = self._read.get(file, 0) + end
        texts = content[:end].decode("utf-8", "replace").splitlines()
        return [line for text in texts if (line := _read_line(text, shown(file))) is not None]

    def whole(self, block: int, lines: Mapping[int, list[Line]], head: Head) -> Line | None:
        """The line that states the very bytes that are there of a block; None where none does.

        head: what the data set is made of; a block that was made of anything else is none of its.
        """
        try:
            there = sha256_of(self.shard(block))
        except OSError:
            return None
        for line in lines.get(block, ()):
            if line.made_with != head.digest:
                continue
            if line.shard == there and all(map(self._is_there, line.also.items())):
                return line
        return None

    def _is_there(self, file: tuple[str, str]) -> bool:
        name, digest = file
        try:
            return sha256_of(self.folder / name) == digest
        except OSError:
            return False

    def finished(self, head: Head) -> dict[int, Line]:
        """The last line of each block that was made of this and has a file, by number.

        The file is not read; `whole` says whether it is what the line states.
        """
        found = {}
        for block, lines in self.lines().items():
            own = next((one for one in lines if one.made_with == head.digest), None)
            if own is not None and self.shard(block).is_file():
                found[block] = own
        return found

    def add(self, line: Line) -> None:
        """Write down a finished block, on the disk. Raises InputError where that is not possible.

        A line begins with an end of line: it stands by itself behind half a line, too.
        """
        text = json.dumps(asdict(replace(line, at=time.time_ns())))
        try:
            new = not self._own.exists()
            self._own.parent.mkdir(parents=True, exist_ok=True)
            with self._own.open("ab") as file:
                file.write(f"\n{text}\n".encode())
                file.flush()
                os.fsync(file.fileno())
            if new:
                sync_folder(self._own.parent)
        except OSError as error:
            raise InputError(f"cannot write {self._own}: {error.strerror or error}") from error

    # --- the head ----------------------------------------------------------------------------

    def head(self) -> Head:
        """What the data set is made of. Raises InputError where there is none, or a damaged one."""
        path = self.folder / HEAD
        if not path.is_file():
            raise InputError(f"{self.folder} is no data set; `guid-xmage batch` makes one")
        return _head_of(read_sealed(path), shown(path))

    def begin(self, wanted: Head, *, overwrite: bool = False) -> Head:
        """Make the data set, or go on with one that is there; its head.

        Without a finished block the options of an earlier run bind nobody. Raises InputError where
        the folder holds anything else, or blocks of another network or of other options.
        """
        with alone(self.folder / HEAD):
            if not (self.folder / HEAD).exists():
                self._refuse_others()
            elif overwrite:
                self.head()
                self._clear()
            else:
                found = self.head()
                if self.finished(found):
                    self._check(found, wanted)
                    wanted = replace(wanted, block=found.block)
                if wanted == found:
                    return found
            write_sealed(self.folder / HEAD, {"schema": SCHEMA, **asdict(wanted)})
            return wanted

    def _refuse_others(self) -> None:
        there = [name for name in os.listdir(self.folder) if not name.startswith(".")]
        if there:
            raise InputError(
                f"{self.folder} holds {brief(there[0])} and is no data set; choose another folder"
            )

    def _check(self, found: Head, wanted: Head) -> None:
        different = []
        if found.network != wanted.network:
            different.append("another network, or one with other settings or code")
        for key, value in wanted.options.items():
            if key != "digest" and found.options.get(key) != value:
                different.append(f"{key} {found.options.get(key)!r} instead of {value!r}")
        if not different and found.options.get("digest") != wanted.options.get("digest"):
            different.append("another target, reference or depth")
        if found.source.get("sample") != wanted.source.get("sample"):
            different.append("another sample")
        if found.versions != wanted.versions:
            made = ", ".join(f"{name} {one}" for name, one in found.versions.items())
            different.append(f"other versions ({made})")
        if different:
            raise InputError(
                f"{self.folder} was made with {'; '.join(different)}: choose another folder, or "
                "overwrite it"
            )

    def _clear(self) -> None:
        """Remove all that runs wrote, the lines first, so that no block counts that is half gone.

        What has another name was put there by somebody else, and stays.
        """
        for name, ours in _OURS.items():
            for path in sorted((self.folder / name).rglob("*"), reverse=True):
                if path.is_dir() and not path.is_symlink():
                    with suppress(OSError):  # it is not empty
                        path.rmdir()
                elif re.fullmatch(ours, path.relative_to(self.folder / name).as_posix()):
                    path.unlink(missing_ok=True)
            with suppress(OSError):
                (self.folder / name).rmdir()
        for name in PAGES:  # of what is gone now
            (self.folder / name).unlink(missing_ok=True)


def _read_line(text: str, name: str) -> Line | None:
    """A line of a ledger; None for half a line, and for an empty one."""
    if not text.strip():
        return None
    try:
        found = parsed_json(text, name)
        plain = {key: entry(found, key, kind, name) for key, kind in _LINE.items()}
        also = entry(found, "also", dict, name)
    except InputError:
        return None
    safe = all(
        isinstance(key, str) and isinstance(one, str) and _is_inside(key)
        for key, one in also.items()
    )
    return Line(**plain, also=also) if safe and plain["block"] >= 0 else None


def _is_inside(name: str) -> bool:
    """Whether a file that a line names lies in the data set."""
    return not os.path.isabs(name) and ".." not in name.split("/") and "\\" not in name


_LINE: dict[str, type[Any]] = {
    "block": int,
    "shard": str,
    "items": str,
    "times": str,
    "content": str,
    "made_with": str,
    "photos": int,
    "errors": int,
    "seconds": float,
    "at": int,
}


def _head_of(content: Mapping[str, Any], name: str) -> Head:
    if content.get("schema") != SCHEMA:
        raise InputError(f"{name} is of another version of guid-Xmage ({content.get('schema')!r})")
    photos, block = (entry(content, key, int, name) for key in ("photos", "block"))
    if photos < 0 or block < 1:
        raise InputError(f"{name} states {photos} photos in blocks of {block}")
    options, source, versions = (
        entry(content, key, dict, name) for key in ("options", "source", "versions")
    )
    network, model = (entry(content, key, str, name) for key in ("network", "model"))
    named = optional(content, "named", dict, name) or {}
    return Head(network, model, options, source, photos, block, versions, named)
