"""A report of saved results, wherever they are, and a table of them beside it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from guidxmage.attribution.archive import ARRAYS
from guidxmage.errors import InputError
from guidxmage.files.names import shown
from guidxmage.jobs.index_file import add_to_index, index_of, place_from
from guidxmage.jobs.saved_scene import saved_scene
from guidxmage.jobs.verify_result import find_results
from guidxmage.viewer.report import (
    MOST_BYTES,
    MOST_PHOTOS,
    ReportPhoto,
    check_report,
    data_folder,
    write_report,
)
from guidxmage.viewer.report_network import ReportNetwork, network_folder

Say = Callable[[str], None]


@dataclass(frozen=True)
class Report:
    """A written report: its page, the folder of its data where it has one, and of how many photos.

    left_out: how many results could not be shown. network: the folder of what the page can ask.
    """

    path: Path
    data: Path | None
    photos: int
    left_out: int
    network: Path | None = None


def report_folders(paths: Iterable[Path], say: Say = lambda _: None) -> list[Path]:
    """The folders of results among paths and below them, each once, in order.

    say: told of paths where there is none. Raises InputError where there is none at all.
    """
    found: dict[str, Path] = {}
    problems: list[str] = []
    for path in paths:
        try:
            for folder in find_results(path):
                found.setdefault(os.path.realpath(folder), folder)
        except InputError as error:
            problems.append(str(error))
    if not found:
        for problem in problems[:-1]:
            say(problem)
        raise InputError(problems[-1] if problems else "there are no results")
    for problem in problems:
        say(problem)
    return list(found.values())


def report_results(
    folders: Sequence[Path],
    out: Path,
    *,
    title: str,
    network: ReportNetwork | None = None,
    overwrite: bool = False,
    alone: bool = False,
    say: Say = lambda _: None,
    advance: Callable[[], None] = lambda: None,
) -> Report:
    """Write the report of some results to the file `out`, and index.csv beside it.

    A result that cannot be shown is told in a sentence and left out; one at a time is in memory.
    network: what the page can ask. overwrite: as `write_report` has it. alone: the table has these
    results and no earlier ones. Raises InputError where none is left, or where something other than
    an earlier report would have to be replaced.
    """
    check_report(out)
    reading = _Reading(out, say, advance)
    beside = len(folders) > MOST_PHOTOS or _size(folders) > MOST_BYTES
    photos = reading.photos(folders)
    first = next(photos, None)
    if first is None:  # before anything is made
        raise InputError("there is no result that a report could show")
    count = write_report(
        out,
        chain([first], photos),
        title=title,
        beside=beside,
        network=network,
        overwrite=overwrite,
    )
    (index_of if alone else add_to_index)(out.parent, reading.read, say)
    data = _kept(data_folder(out), beside, say)
    asked = _kept(network_folder(out), network is not None, say)
    return Report(out, data, count, len(folders) - count, asked)


def _kept(folder: Path, used: bool, say: Say) -> Path | None:
    """A folder beside the report, where it has one; one of an earlier report is told."""
    if not used and folder.is_dir():
        say(f"{shown(folder)} belongs to no report any more; remove it if it is yours")
    return folder if used else None


def _size(folders: Iterable[Path]) -> int:
    """How many bytes the arrays of some results take."""
    files = (folder / ARRAYS for folder in folders)
    return sum(file.stat().st_size for file in files if file.is_file())


@dataclass
class _Reading:
    """Reads results one after the other, and remembers those that could be."""

    out: Path
    say: Say
    advance: Callable[[], None]
    read: list[Path] = field(default_factory=list)

    def photos(self, folders: Iterable[Path]) -> Iterator[ReportPhoto]:
        for folder in folders:
            try:
                scene, summary = saved_scene(folder)
                place = shown(place_from(self.out.parent, folder))
                yield ReportPhoto.of(scene, summary, place)
            except InputError as error:
                self.say(f"left out: {error}")
            else:
                self.read.append(folder)
            self.advance()
