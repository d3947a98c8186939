"""Folders of results: whole or not there, held by one run, and never anybody else's.

What a folder is stands in its mark, a sealed JSON file that names its schema and, under `files`,
all other files with their SHA-256. Only what a mark lists is ever replaced.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guidxmage.errors import InputError
from guidxmage.files.atomic import (
    HIDDEN,
    LOCK,
    MANIFEST,
    PARTIAL,
    alone,
    hidden,
    is_sealed,
    sealed,
    sha256_of,
    sync_folder,
)
from guidxmage.files.locks import held
from guidxmage.files.names import shown
from guidxmage.files.untrusted import LARGEST_MARK, read_text

SCHEMAS = "guid-xmage/"
"""How the schemas of all marks begin."""
PROVENANCE, PLACES = "provenance", "places"
"""The key of a mark under which stands what the result depends on; of which photos it is."""
NEW, OLD = "new", "old"
"""Endings of a folder's temporary neighbours: what comes, and what was there before."""
# As the first versions named files while they wrote them.
_EARLIER = re.compile(rf"\..+\.\d+\.{PARTIAL}")
# What file managers leave behind; it is nobody's work.
_NOBODYS = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})


@dataclass(frozen=True)
class Kind:
    """What results of one kind are told by: the schemas that their mark may state, and its name."""

    schemas: tuple[str, ...]
    mark: str = MANIFEST


def write_mark(folder: Path, content: Mapping[str, Any], mark: str = MANIFEST) -> dict[str, Any]:
    """Write a mark that lists what is in the folder by now; what stands in it.

    Raises OSError where it cannot be written.
    """
    names = [name for name in _entries(folder) if name != mark and (folder / name).is_file()]
    files = {name: sha256_of(folder / name) for name in names}
    text = sealed({**content, "files": files})
    (folder / mark).write_text(text, encoding="utf-8")
    written: dict[str, Any] = json.loads(text)
    return written


def read_mark(folder: Path, kind: Kind) -> dict[str, Any] | None:
    """What a folder's mark states, where it is one of this kind; it may have been changed since."""
    content = _read(folder / kind.mark)
    return content if content is not None and content.get("schema") in kind.schemas else None


def is_result(folder: Path, mark: str = MANIFEST) -> bool:
    """Whether a folder holds a result of any kind."""
    return _read(folder / mark) is not None


def _read(mark: Path) -> dict[str, Any] | None:
    """What a mark of any kind states; None for what is none."""
    try:
        content = json.loads(_text_of(mark))
    except (OSError, ValueError, RecursionError, InputError):
        return None
    ours = isinstance(content, dict) and str(content.get("schema", "")).startswith(SCHEMAS)
    return content if ours and isinstance(content.get("files"), dict) else None


def _text_of(mark: Path) -> str:
    """The text of a mark; a pipe or a device is none. Raises InputError."""
    return read_text(mark, LARGEST_MARK)


def place_of(photo: Path, out: Path) -> str:
    """Where a photo lies as seen from a folder of results, so that both may be moved together."""
    there = os.path.join(os.path.realpath(photo.parent), photo.name)
    try:
        return shown(Path(os.path.relpath(there, os.path.realpath(out))).as_posix())
    except ValueError:  # on another drive
        return shown(Path(there).as_posix())


def provenance_of(content: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """What a mark says its result depends on; nothing where it does not, or where there is none."""
    found = {} if content is None else content.get(PROVENANCE)
    return found if isinstance(found, Mapping) else {}


@contextmanager
def atomic_folder(
    path: Path, kind: Kind, *, overwrite: bool = False, places: Sequence[str] | None = None
) -> Iterator[Path]:
    """Yield a temporary folder beside `path` that takes its place when the block succeeds.

    The block writes everything, the mark as well. Another run that writes the same folder is waited
    for. overwrite, places, and what is raised: as `check_replaceable` has them.
    """
    sweep(path.parent)
    with held_folder(path, kind) as folder:
        folder.check(overwrite=overwrite, places=places)
        with folder.replaced(overwrite=overwrite) as new:
            yield new


def check_replaceable(
    path: Path, kind: Kind, *, overwrite: bool = False, places: Sequence[str] | None = None
) -> None:
    """Raise InputError where `atomic_folder` would not replace what is there by now.

    That is anything but a result of this kind, files beside it that its mark does not list and,
    unless told to overwrite, files that were changed after they were written and, where places are
    given, a result of photos at other places.
    """
    folder = ResultFolder(path, kind, Path(os.path.realpath(path)))
    folder.check(overwrite=overwrite, places=places)


@contextmanager
def held_folder(
    path: Path, kind: Kind, *, wait: bool = True, told: Callable[[], None] = lambda: None
) -> Iterator[ResultFolder]:
    """Hold a result folder, which need not be there yet, so that no other run touches it.

    What a killed run left half done is cleared away first; what it had moved aside is put back.
    wait, told: as `held` has them. Raises BusyError, and InputError where nothing can be written.
    """
    place = Path(os.path.realpath(path))
    busy = f"another run is writing {path}; wait for it, or choose another folder"
    with alone(place, wait=wait, told=told, busy=busy):
        try:
            _recover(place)
        except OSError as error:
            raise InputError(f"cannot write to {path.parent}: {error.strerror or error}") from error
        yield ResultFolder(path, kind, place)


@dataclass(frozen=True)
class ResultFolder:
    """A folder as the user names it (path) and where it lies (place)."""

    path: Path
    kind: Kind
    place: Path

    @property
    def free(self) -> bool:
        """Whether nothing is there, or an empty folder."""
        return not os.path.lexists(self.place) or (
            self.place.is_dir() and not any(self.place.iterdir())
        )

    @property
    def is_other(self) -> bool:
        """Whether a result of another kind is there, or of another version's schema."""
        return is_result(self.place, self.kind.mark) and self.mark() is None

    def mark(self) -> dict[str, Any] | None:
        """What the mark states, where there is a result of this kind."""
        return read_mark(self.place, self.kind)

    def intact(self) -> bool:
        """Whether there is a result with all its files as they were written."""
        content = self.mark()
        with self._readable():
            return (
                content is not None
                and not any(self._changed(content))
                and not _missing(self.place, content)
            )

    def check(self, *, overwrite: bool = False, places: Sequence[str] | None = None) -> None:
        """Raise InputError where what is there may not be replaced: see `check_replaceable`."""
        with self._readable():
            self._check(overwrite, places)

    def _check(self, overwrite: bool, places: Sequence[str] | None) -> None:
        if self.free:
            return
        content = self.mark()
        if content is None:
            raise InputError(self._unknown())
        if foreign := _foreign(self.place, content, self.kind.mark):
            raise InputError(
                f"{self.path} holds {shown(foreign[0])}{_more(foreign)} beside an earlier result; "
                "move that, or choose another folder"
            )
        if overwrite:
            return
        if places is not None and provenance_of(content).get(PLACES) != list(places):
            raise InputError(
                f"{self.path} holds the result of other photos; choose another folder, or replace "
                "it with --overwrite"
            )
        if changed := list(self._changed(content)):
            raise InputError(
                f"{self.path / changed[0]}{_more(changed)} was changed after it was written; move "
                "it away, or replace it with --overwrite"
            )

    @contextmanager
    def replaced(self, *, overwrite: bool = False) -> Iterator[Path]:
        """Yield a temporary folder; when the block succeeds, it takes this one's place.

        It is brought to the disk, the old folder is renamed aside, the new one into its place, the
        old one removed. Raises InputError as `check` does, and where something cannot be written.
        """
        self.check(overwrite=overwrite)
        new = hidden(self.place, NEW)
        try:
            new.mkdir()
            try:
                yield new
                _sync(new)
                self._put_in(new, overwrite=overwrite)
            finally:
                shutil.rmtree(new, ignore_errors=True)
        except OSError as error:
            raise InputError(f"cannot write {self.path}: {error.strerror or error}") from error

    def _put_in(self, new: Path, *, overwrite: bool) -> None:
        aside = hidden(self.place, OLD) / self.place.name
        if os.path.lexists(self.place) and self.free:
            self.place.rmdir()
        elif os.path.lexists(self.place):
            aside.parent.mkdir()
            os.rename(self.place, aside)
        try:
            if aside.exists():
                # Somebody may have put a file there while the new result was made.
                ResultFolder(self.path, self.kind, aside).check(overwrite=overwrite)
            os.rename(new, self.place)
            sync_folder(self.place.parent)
        finally:
            _recover(self.place)

    @contextmanager
    def _readable(self) -> Iterator[None]:
        """Look into the folder, where that is allowed."""
        try:
            yield
        except OSError as error:
            raise InputError(f"{self.path} cannot be read: {error.strerror or error}") from error

    def _unknown(self) -> str:
        """What is said of a folder that does not tell what it is."""
        if (self.place / self.kind.mark).is_file():
            return (
                f"{self.path} exists, and its {self.kind.mark} is damaged or of something other "
                "than an earlier result; move the folder away, or choose another one"
            )
        return (
            f"{self.path} exists and holds something other than an earlier result; choose another "
            "folder"
        )

    def _changed(self, content: Mapping[str, Any]) -> Iterator[str]:
        """The listed files, and the mark, that are not as they were written."""
        if not is_sealed(_text_of(self.place / self.kind.mark)):
            yield self.kind.mark
        for name in _entries(self.place):  # not of the list, which may name whatever it likes
            if name in content["files"]:
                file = self.place / name
                if not file.is_file() or sha256_of(file) != content["files"][name]:
                    yield name


def sweep(folder: Path, *, below: bool = False) -> None:
    """Clear away what killed runs left in a folder, and put back what they had moved aside.

    below: in all folders below it, too, which must be this package's. What a run that is alive
    holds is left alone, and so is what cannot be told to be left over.
    """
    with suppress(OSError):
        for path in sorted(folder.rglob(".*") if below else folder.glob(f"{HIDDEN}*")):
            if path.name.startswith(HIDDEN) or _EARLIER.fullmatch(path.name):
                _sweep(path)


def _sweep(path: Path) -> None:
    ending = path.suffix.removeprefix(".")
    if ending not in (PARTIAL, LOCK, NEW, OLD):
        return
    # A lock that is not there any more is made anew, so that nobody begins meanwhile.
    guard = path if ending == PARTIAL else path.with_suffix(f".{LOCK}")
    with suppress(InputError, OSError), held(guard, wait=False):
        if ending == OLD:
            for aside in list(path.iterdir()):
                if hidden(path.with_name(aside.name), OLD) == path:
                    _recover(path.with_name(aside.name))
            if path.exists() and not any(path.iterdir()):
                path.rmdir()
        elif ending == NEW:
            shutil.rmtree(path)
        # Locks and half-written files are removed when they are let go.


def _recover(place: Path) -> None:
    """End what was begun at a folder, by a run that was killed or by this one, which holds it."""
    new, old = hidden(place, NEW), hidden(place, OLD)
    if new.exists():
        shutil.rmtree(new)
    if not old.exists():
        return
    if (old / place.name).exists() and not os.path.lexists(place):
        os.rename(old / place.name, place)
        sync_folder(place.parent)
    elif (old / place.name).exists() and not _is_result(place):
        raise InputError(
            f"{place} holds something other than the result that a killed run was replacing, which "
            f"is kept in {old}; move one of them away"
        )
    shutil.rmtree(old)  # by now the new result is in its place, or the old one is back


def _is_result(place: Path) -> bool:
    """Whether a folder has a mark of whatever kind that is as it was written."""
    with suppress(OSError, UnicodeDecodeError):
        return any(is_sealed(mark.read_text(encoding="utf-8")) for mark in place.glob("*.json"))
    return False


def _sync(folder: Path) -> None:
    """Bring a folder's files to the disk."""
    for parent, _, files in os.walk(folder):
        for name in files:
            descriptor = os.open(os.path.join(parent, name), os.O_RDWR)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        sync_folder(Path(parent))


def _entries(folder: Path) -> list[str]:
    """All files and empty folders below a folder, as relative names with slashes, in order."""
    found = []
    for parent, folders, files in os.walk(folder):
        links = [name for name in folders if os.path.islink(os.path.join(parent, name))]
        names = [*files, *links] if folders or files else [""]
        found += [Path(parent, name).relative_to(folder).as_posix() for name in names]
    return sorted(found)


def _foreign(folder: Path, content: Mapping[str, Any], mark: str) -> list[str]:
    listed = {mark, *content["files"], *_NOBODYS}
    return [name for name in _entries(folder) if name not in listed]


def _missing(folder: Path, content: Mapping[str, Any]) -> bool:
    return not all((folder / name).is_file() for name in content["files"])


def _more(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""
