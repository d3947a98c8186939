"""Photo after photo, each result in a folder of its own; what is there already is kept.

A result belongs to the photo at a place, told by the path from the results to the photo, so that
photos of one name do not meet and both may be moved together. It is named after the photo's stem
where that is free, and else after stem and place.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from guidxmage.errors import InputError, MissingExtraError
from guidxmage.files.locks import BusyError, Turns
from guidxmage.files.names import folded, folder_name, shown, with_suffix
from guidxmage.files.result_folder import (
    Kind,
    ResultFolder,
    held_folder,
    place_of,
    provenance_of,
    read_mark,
    sweep,
)

PLACE = "place"
"""Where a result's photo lies, in what its manifest says that it depends on."""
Say = Callable[[str], None]
Write = Callable[[Path, Mapping[str, Any]], dict[str, Any]]
"""Writes a result and its mark into a folder, with what it depends on; returns the mark."""


@dataclass(frozen=True)
class Outcome:
    """What became of one photo: its folder and manifest, or the sentence that says why not.

    resumed: an earlier run's result was kept. changed: of one that was not, what is not as it was.
    """

    photo: Path
    folder: Path | None = None
    manifest: dict[str, Any] = field(default_factory=dict)
    error: str | None = None
    resumed: bool = False
    changed: tuple[str, ...] = ()


@dataclass(frozen=True)
class PhotoResults:
    """The results of photos below one folder.

    kind: what their folders are told by. overwrite: make them anew, whatever is there. say: told
    when another run has to be waited for.
    """

    out: Path
    kind: Kind
    overwrite: bool = False
    say: Say = lambda _: None
    _there: dict[str, str] = field(default_factory=dict, init=False, repr=False, compare=False)
    """What lies in the folder by the names that some file systems take for the same."""

    def each(
        self,
        photos: Iterable[Path],
        depends: Callable[[Path], Mapping[str, Any]],
        make: Callable[[Path], Write],
    ) -> Iterator[Outcome]:
        """The outcome of each photo; a bad photo is reported and the rest goes on.

        depends: what the result of a photo depends on besides its place, as JSON values:
        fingerprints and versions. make: works on a photo and returns what writes its result. Photos
        that another run is at come last, and are not made again. Raises MissingExtraError.
        """
        if self.out.is_dir():
            sweep(self.out)
            self._there.update({folded(name): name for name in os.listdir(self.out)})
        turns = Turns(photos)
        for photo, wait in turns:
            try:
                outcome = self._one(photo, wait, depends, make)
            except MissingExtraError:
                raise
            except BusyError:
                turns.put_off(photo)
            except InputError as error:
                yield Outcome(photo, error=str(error))
            else:
                yield outcome

    def gone(self, roots: Sequence[Path]) -> list[Path]:
        """The results of photos that lay in or below one of these folders and are not there now."""
        above = [os.path.realpath(root) for root in roots if root.is_dir()]
        if not above or not self.out.is_dir():
            return []
        return [folder for folder in sorted(self.out.iterdir()) if self._is_gone(folder, above)]

    def _is_gone(self, folder: Path, above: Sequence[str]) -> bool:
        content = read_mark(folder, self.kind)
        place = provenance_of(content).get(PLACE)
        if not isinstance(place, str) or "\\" in place:  # a name that is no text, see `shown`
            return False
        photo = os.path.normpath(os.path.join(os.path.realpath(self.out), place))
        inside = any(os.path.commonpath([root, photo]) == root for root in above)
        return inside and not os.path.lexists(photo)

    def _one(
        self,
        photo: Path,
        wait: bool,
        depends: Callable[[Path], Mapping[str, Any]],
        make: Callable[[Path], Write],
    ) -> Outcome:
        wanted = {PLACE: place_of(photo, self.out), **depends(photo)}
        with self._claimed(photo, wait) as folder:
            known = folder.mark()
            changed = tuple(
                name for name in wanted if provenance_of(known).get(name) != wanted[name]
            )
            if known is not None and not changed and not self.overwrite and folder.intact():
                return Outcome(photo, folder.path, known, resumed=True)
            folder.check(overwrite=self.overwrite)
            write = make(photo)
            if depends(photo) != {name: wanted[name] for name in wanted if name != PLACE}:
                raise InputError(f"{photo} or its masks were changed meanwhile; run it again")
            with folder.replaced(overwrite=self.overwrite) as new:
                manifest = write(new, wanted)
            return Outcome(photo, folder.path, manifest, changed=changed if known else ())

    @contextmanager
    def _claimed(self, photo: Path, wait: bool) -> Iterator[ResultFolder]:
        """The photo's folder, held: the one with its result, else the first that may have it."""
        place = place_of(photo, self.out)
        names = _names(photo, place)
        for wanted in (_has(place), _may_have(place)):
            for name in names:
                with ExitStack() as stack:
                    path = self.out / self._spelled(name)
                    waiting = f"waiting for another run, which is at {shown(photo)}"
                    told = lambda text=waiting: self.say(text)  # noqa: E731
                    folder = stack.enter_context(held_folder(path, self.kind, wait=wait, told=told))
                    if wanted(folder):
                        self._there.setdefault(folded(name), path.name)
                        yield folder
                        return
        raise InputError(f"all names for the result of {photo} are taken; choose another folder")

    def _spelled(self, name: str) -> str:
        """The name as a folder has it that some file systems would take for this one."""
        return name if (self.out / name).exists() else self._there.get(folded(name), name)


def _names(photo: Path, place: str) -> list[str]:
    """What the folder of a photo may be called; all but the first are nobody else's."""
    name = folder_name(photo.stem)
    digest = hashlib.sha256(place.encode()).hexdigest()
    return [name, with_suffix(name, digest[:8]), with_suffix(name, digest)]


def _has(place: str) -> Callable[[ResultFolder], bool]:
    return lambda folder: provenance_of(folder.mark()).get(PLACE) == place


def _may_have(place: str) -> Callable[[ResultFolder], bool]:
    """Whatever holds no other result: what else it may not replace is refused, not gone round."""
    return lambda folder: not folder.is_other and (folder.mark() is None or _has(place)(folder))
