"""What the page lists: photos and results of the command line, and what was uploaded.

Everything is in memory, within bounds; what was not looked at for the longest time is forgotten
first. Of a photo or result from the command line only its numbers are forgotten, not the entry.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from guidxmage.inputs.photos import read_image
from guidxmage.serving.held import Held, open_saved, saved_picture, thumbnail
from guidxmage.serving.replies import RefusedError

NEW, WORKING, READY, FAILED = "new", "working", "ready", "failed"


@dataclass(eq=False)
class Entry:
    """One line of the list. photo, saved: the file or folder of the command line, if it is one."""

    name: str
    photo: Path | None = None
    saved: Path | None = None
    summary: dict[str, Any] = field(default_factory=dict)
    held: Held | None = None
    error: str | None = None
    job: str | None = None
    id: str = field(default_factory=lambda: secrets.token_urlsafe(9))
    opening: threading.Lock = field(default_factory=threading.Lock)
    picture: bytes | None = None

    @property
    def state(self) -> str:
        """Whether it can be looked at."""
        if self.held is not None or self.saved is not None:
            return READY
        if self.job is not None:
            return WORKING
        return FAILED if self.error else NEW

    def to_json(self) -> dict[str, Any]:
        """What the page is told."""
        found = {"id": self.id, "name": self.name, "state": self.state, **self.summary}
        found |= {"job": self.job, "error": self.error}
        found["origin"] = "photo" if self.photo else "result" if self.saved else "upload"
        return found


class Gallery:
    """All entries by id. keep: results that are in memory at most; most_bytes: what they take."""

    def __init__(self, keep: int = 50, most_bytes: int = 2**31) -> None:
        self.keep, self.most_bytes = keep, most_bytes
        self._entries: dict[str, Entry] = {}
        self._used: dict[str, None] = {}  # ids with numbers in memory, the latest last
        self._lock = threading.RLock()

    def add(self, entry: Entry) -> Entry:
        """One more."""
        with self._lock:
            self._entries[entry.id] = entry
            if entry.held is not None:
                self._touch(entry)
        return entry

    def find(self, identity: str) -> Entry:
        """The entry. Raises RefusedError where there is none."""
        with self._lock:
            if identity not in self._entries:
                raise RefusedError(404, "there is no such result here, or it was forgotten")
            return self._entries[identity]

    def put(self, entry: Entry, held: Held) -> None:
        """What was explained of an entry; nothing where it was taken off the list meanwhile."""
        with self._lock:
            if entry.id not in self._entries:
                return
            entry.held, entry.summary, entry.error, entry.picture = held, held.summary, None, None
            self._touch(entry)

    def held(self, identity: str) -> Held:
        """The numbers of an entry, read from its folder if need be; that takes a moment.

        Raises RefusedError where it has none, InputError where the folder is damaged.
        """
        entry = self.find(identity)
        with entry.opening:
            found = entry.held
            if found is None and entry.saved is not None:
                found = open_saved(entry.saved)
            if found is None:
                raise RefusedError(409, f"{entry.name} is not explained yet")
            with self._lock:
                if identity in self._entries:
                    entry.held = found
                    self._touch(entry)
        return found

    def picture(self, identity: str) -> bytes:
        """A thumbnail as PNG; made when it is first asked for. Raises InputError."""
        entry = self.find(identity)
        with entry.opening:
            if entry.picture is None:
                entry.picture = thumbnail(_picture(entry))
            return entry.picture

    def remove(self, identity: str) -> None:
        """Forget an entry; files stay where they are. Raises RefusedError where there is none."""
        with self._lock:
            self.find(identity)
            del self._entries[identity]
            self._used.pop(identity, None)

    def each(self, told: Callable[[Entry], Any]) -> list[Any]:
        """What is to be told of all entries, in the order they came."""
        with self._lock:
            return [told(entry) for entry in self._entries.values()]

    def _touch(self, entry: Entry) -> None:
        """Note that it was used, and forget what is too much; the entry itself stays."""
        self._used.pop(entry.id, None)
        self._used[entry.id] = None
        sizes = {one: self._size(one) for one in self._used}
        for oldest in list(self._used)[:-1]:
            if len(sizes) <= self.keep and sum(sizes.values()) <= self.most_bytes:
                return
            del sizes[oldest], self._used[oldest]
            forgotten = self._entries[oldest]
            forgotten.held = None
            if forgotten.photo is None and forgotten.saved is None:
                del self._entries[oldest]
            elif forgotten.saved is None:
                forgotten.summary = {}

    def _size(self, identity: str) -> int:
        held = self._entries[identity].held
        return 0 if held is None else held.nbytes


def _picture(entry: Entry) -> Any:
    if entry.held is not None:
        return entry.held.explanation.picture()
    if entry.photo is not None:
        return read_image(entry.photo)
    return None if entry.saved is None else saved_picture(entry.saved)
