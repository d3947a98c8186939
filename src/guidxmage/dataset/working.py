"""What one worker does: hold a block, see whether it is there, make it, write it, write it down."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from guidxmage.dataset.block import BlockMaker, Content, Tick
from guidxmage.dataset.items import InMemory, Item, digest_of, times_of
from guidxmage.dataset.kept import write_kept
from guidxmage.dataset.ledger import Head, Ledger, Line
from guidxmage.dataset.masks import stamps_of
from guidxmage.dataset.reading import content_digest, content_of
from guidxmage.errors import InputError
from guidxmage.explainer import Explainer
from guidxmage.files.atomic import alone, write_atomically
from guidxmage.files.locks import BusyError

MakeExplainer = Callable[[], Explainer]


@dataclass(frozen=True)
class Work:
    """A block that is to be made: its number, the place of its first photo, its photos."""

    block: int
    first: int
    items: Sequence[Item]

    def digest(self, objects: Path | None) -> str:
        """SHA-256 of what is known of its photos and of their masks without reading them."""
        return digest_of(self.items, stamps_of(self.items, objects))


@dataclass(frozen=True)
class Outcome:
    """What became of a block: made now, there already, or held by another run."""

    block: int
    state: Literal["made", "there", "busy"]
    photos: int
    errors: int = 0


class Worker:
    """Makes blocks of one data set, one after the other.

    maker: with an explainer that was compared with the data set's, or is compared here. Raises
    InputError where it is another one.
    """

    def __init__(self, folder: Path, head: Head, maker: BlockMaker) -> None:
        self.ledger, self.head, self.maker = Ledger(folder), head, maker
        if self.maker.network != head.network:
            raise InputError(
                "the network that a worker made is not the one that the data set is of: weights, "
                "settings or code differ; give it saved weights rather than random ones"
            )

    def work(self, work: Work, tick: Tick, stop: Callable[[], bool] = lambda: False) -> Outcome:
        """Make a block, unless it is there or another run is at it.

        Raises InputError, and StoppedError when told to stop.
        """
        path = self.ledger.shard(work.block)
        try:
            with alone(path, wait=False):
                there = self._there(work) if path.exists() else None
                if there is not None:
                    return Outcome(work.block, "there", there.photos, there.errors)
                told = work.digest(self.maker.options.objects)  # before any mask is read
                with threads(self.maker.options.threads):
                    content = self.maker.make(work.items, work.first, tick, stop)
                self._write(work, content, told)
                return Outcome(work.block, "made", content.photos, content.errors)
        except BusyError:
            return Outcome(work.block, "busy", len(work.items))

    def _there(self, work: Work) -> Line | None:
        """Another run may have made it since this one looked."""
        known = self.ledger.lines()
        return standing(self.ledger, self.head, work, known, self.maker.options.objects)

    def _write(self, work: Work, content: Content, told: str) -> None:
        path = self.ledger.shard(work.block)
        folder = self.ledger.folder
        kept, size = content.kept, self.head.block
        also = {} if kept is None else write_kept(folder, work.block, kept, size)
        write_atomically(path, content.shard)
        self.ledger.add(
            Line(
                block=work.block,
                shard=hashlib.sha256(content.shard).hexdigest(),
                items=told,
                times=times_of(work.items),
                content=_together(content.contents),
                made_with=self.head.digest,
                photos=content.photos,
                errors=content.errors,
                seconds=round(content.seconds, 3),
                also=also,
            )
        )


def standing(
    ledger: Ledger, head: Head, work: Work, lines: dict[int, list[Line]], objects: Path | None
) -> Line | None:
    """The line of a block that is there, whole, and of these very photos; None where it is not.

    head: of the data set. objects: where the masks are, as `DatasetOptions` has it. Where any
    photo's time stamp is another one, or there is none as of a data set in Python, the bytes of
    photos, and of masks that are in no file of their own, decide; only then are they read. Of a
    mask's file the time stamp itself decides.
    """
    line = ledger.whole(work.block, lines, head)
    if line is None or line.items != work.digest(objects):
        return None
    # Of a data set in Python nothing is known before it is read.
    told = not any(isinstance(item.where, InMemory) for item in work.items)
    if told and line.times == times_of(work.items):
        return line
    with ThreadPoolExecutor(4) as pool:
        contents = list(pool.map(_content, work.items))
    return line if line.content == _together(contents) else None


def _content(item: Item) -> str:
    try:
        _, label, mask, id_ = content_of(item)
        return content_digest(item, id_, label, mask)
    except Exception:  # it has an error row, and nothing was read
        return ""


def _together(contents: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(contents).encode()).hexdigest()


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let PyTorch compute with so many threads: their number may move the last digits."""
    before = torch.get_num_threads()
    if before == count:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
