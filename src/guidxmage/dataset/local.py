"""The local engine: workers on this machine, each a process with one network, or this process."""

from __future__ import annotations

import multiprocessing
import pickle
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from guidxmage.dataset.block import BlockMaker, StoppedError
from guidxmage.dataset.ledger import Head
from guidxmage.dataset.options import DatasetOptions
from guidxmage.dataset.progress import Progress
from guidxmage.dataset.sources import share
from guidxmage.dataset.working import MakeExplainer, Outcome, Work, Worker
from guidxmage.errors import GuidXmageError, InputError
from guidxmage.explainer import Explainer
from guidxmage.files.locks import PAUSE
from guidxmage.files.names import brief

Look = Callable[[], None]
"""Called now and then, to show how far the run is."""
_SECONDS = 0.25
# A block at which so many workers ended is at fault, or too large for the memory.
_MOST_DEATHS = 3
_BEFORE = "before it began"
_SMALL = "the memory may be too small for so many workers"
# A process that ends by an error of Python's has printed it.
_UNKNOWN = (
    "its own error stands above; what a notebook or an interactive session defines is not known to "
    "other processes: put classes and functions into a module, or give workers=1"
)
# What a worker is given to end by itself.
_GRACE = 5.0


@dataclass(frozen=True)
class Setup:
    """What a worker begins with; data: of a source in Python, which is sent to each once."""

    folder: Path
    head: Head
    options: DatasetOptions
    make: MakeExplainer
    data: Any = None

    def worker(self, explainer: Explainer | None = None) -> Worker:
        """A worker; by default with an explainer of its own, else with the one the run is of."""
        if explainer is None and self.data is not None:
            share(self.data)
        known = self.head.network if explainer is not None else ""
        maker = BlockMaker(explainer or self.make(), self.options, known)
        return Worker(self.folder, self.head, maker)


def run_here(
    setup: Setup, explainer: Explainer, blocks: Iterable[Work], progress: Progress, look: Look
) -> Iterator[Outcome]:
    """One worker, in this process."""
    worker = setup.worker(explainer)
    waiting = deque(blocks)
    refused = 0

    def tick(photos: int, errors: int) -> None:
        progress.add(photos, errors)
        look()

    while waiting:
        work = waiting.popleft()
        outcome = worker.work(work, tick)
        if outcome.state == "busy":
            refused += 1
            waiting.append(work)
            progress.waiting = refused >= len(waiting)
            if progress.waiting:  # all that is left is at other runs
                look()
                time.sleep(PAUSE)
            continue
        refused, progress.waiting = 0, False
        if outcome.state == "there":
            progress.keep(outcome.photos)
        look()
        yield outcome


# --- processes -----------------------------------------------------------------------------------


def check_portable(setup: Setup) -> None:
    """Raise InputError where processes cannot be told how to make the explainer."""
    try:
        pickle.dumps(setup.make)
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            "several workers need to be told how the explainer is made: give factory=, a function "
            f"of a module without arguments, or workers=1 ({type(error).__name__}: {error})"
        ) from error


def not_sent(error: Exception) -> InputError:
    """The sentence for a source or options that cannot be sent to other processes."""
    return InputError(
        "several workers are sent the source and the options, and pickle cannot take these: define "
        "the classes and functions in them at the top of a module, or give workers=1 "
        f"({type(error).__name__}: {brief(error)})"
    )


@dataclass
class _Process:
    process: Any
    pipe: Connection
    at: Work | None = None
    done: tuple[int, int] = (0, 0)
    """Photos and errors of the block at hand so far."""
    began: bool = True
    """Whether it has its network."""


@dataclass
class Pool:
    """Several workers, each in a process of its own; one that is killed is replaced."""

    setup: Setup
    workers: int
    progress: Progress
    look: Look
    _context: Any = field(default_factory=lambda: multiprocessing.get_context("spawn"))
    _running: list[_Process] = field(default_factory=list)
    _deaths: dict[int, int] = field(default_factory=dict)

    def run(self, blocks: Iterable[Work]) -> Iterator[Outcome]:
        """The outcome of each block, as they come. Raises InputError where a worker does."""
        waiting = deque(blocks)
        refused = 0
        try:
            for _ in range(min(self.workers, len(waiting))):
                self._running.append(self._started())
            while waiting or any(one.at for one in self._running):
                for one in self._running:
                    if one.at is None and waiting:
                        self._give(one, waiting.popleft())
                for outcome, work in self._heard(waiting):
                    if outcome.state != "busy":
                        refused = 0
                        yield outcome
                    elif work is not None:
                        refused += 1
                        waiting.append(work)
                self.progress.waiting = 0 < len(waiting) <= refused
                if self.progress.waiting:
                    time.sleep(PAUSE)
                self.look()
        finally:
            self._end()

    def _started(self) -> _Process:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(self.setup, theirs), daemon=True)
        try:
            process.start()
        except OSError:
            raise
        except Exception as error:  # pickle raises whatever it stumbles over
            raise not_sent(error) from error
        theirs.close()
        return _Process(process, ours, began=False)

    def _give(self, one: _Process, work: Work) -> None:
        one.at, one.done = work, (0, 0)
        with suppress(OSError):  # it is dead, which is seen next
            one.pipe.send(work)

    def _heard(self, waiting: deque[Work]) -> Iterator[tuple[Outcome, Work | None]]:
        ready = wait([one.pipe for one in self._running], _SECONDS)
        for number, one in enumerate(self._running):
            if one.pipe not in ready:
                continue
            try:
                message = one.pipe.recv()
            except (EOFError, OSError):
                self._running[number] = self._replaced(one, waiting)
                continue
            one.began = True
            if isinstance(message, BaseException):
                raise message
            if isinstance(message, Outcome):
                work, one.at = one.at, None
                if message.state == "there":
                    self.progress.keep(message.photos)
                yield message, work
            else:
                self.progress.add(*message)
                one.done = (one.done[0] + message[0], one.done[1] + message[1])

    def _replaced(self, one: _Process, waiting: deque[Work]) -> _Process:
        """A new worker for one that has ended; its block is made again."""
        one.process.join(_GRACE)
        code = one.process.exitcode
        one.pipe.close()
        work = one.at
        key = -1 if work is None or not one.began else work.block
        self._deaths[key] = self._deaths.get(key, 0) + 1
        if self._deaths[key] >= _MOST_DEATHS:
            where = f"at photos {work.first} and following" if work and one.began else _BEFORE
            why = _UNKNOWN if code == 1 and not one.began else _SMALL
            raise InputError(
                f"a worker ended {_MOST_DEATHS} times {where} (exit code {code}): {why}"
            )
        if work is not None:
            waiting.appendleft(work)
            self.progress.add(-one.done[0], -one.done[1])
        return self._started()

    def _end(self) -> None:
        for one in self._running:
            with suppress(OSError):
                one.pipe.send(None)
        until = time.monotonic() + _GRACE
        for one in self._running:
            one.process.join(max(until - time.monotonic(), 0))
            if one.process.is_alive():
                one.process.terminate()
                one.process.join(_GRACE)
            one.pipe.close()
        self._running = []


def _serve(setup: Setup, pipe: Connection) -> None:
    """A worker's life: blocks come, ticks and outcomes go; it ends with the run that made it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the run itself says when to end

    def stop() -> bool:
        """Whether the run has ended, or wants this to end: something came though none is due."""
        try:
            return pipe.poll()
        except OSError:
            return True

    def tick(photos: int, errors: int) -> None:
        with suppress(OSError):
            pipe.send((photos, errors))

    try:
        worker = setup.worker()
        tick(0, 0)  # it has begun
        while True:
            work = pipe.recv()
            if work is None:
                return
            pipe.send(worker.work(work, tick, stop))
    except (EOFError, StoppedError, BrokenPipeError):
        return
    except GuidXmageError as error:
        with suppress(OSError):
            pipe.send(InputError(str(error)))
    except Exception as error:
        with suppress(OSError):
            pipe.send(InputError(f"a worker ended: {type(error).__name__}: {error}"))
