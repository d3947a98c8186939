"""Long work, one piece after another: places in the queue, progress, cancelling, time limits."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from guidxmage.errors import GuidXmageError, InputError
from guidxmage.files.names import brief, shown
from guidxmage.files.untrusted import Array

Say = Callable[[str, float | None], None]
"""Tells how far the work is: a few words, and the share that is done where it is known."""
Stop = Callable[[], None]
"""Called between the stages of the work; raises StoppedError where it must not go on."""

WAITING, RUNNING, DONE, FAILED, CANCELLED = "waiting", "running", "done", "failed", "cancelled"
_ENDED = (DONE, FAILED, CANCELLED)
# Threads that a network which never returns may take away and are replaced by new ones.
_MOST_LOST = 2
_STUCK = (
    "nothing can be computed any more: the network does not come back from what it was given; "
    "start the server again"
)


class FullError(InputError):
    """There is no place left in the queue."""


class StoppedError(GuidXmageError):
    """The work was cancelled, or took longer than it may."""


@dataclass(frozen=True)
class Outcome:
    """What came of a piece of work: the id of a result, or the answer to a question."""

    result: str | None = None
    answer: Mapping[str, Any] | None = None
    arrays: Mapping[str, Array] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return sum(values.nbytes for values in self.arrays.values())


Work = Callable[[Say, Stop], Outcome]


@dataclass(frozen=True)
class Limits:
    """workers: threads. waiting, waiting_bytes: what may stand in the queue. seconds: for one
    piece of work. kept, kept_bytes, kept_seconds: ended work that can still be asked about.
    """

    workers: int = 1
    waiting: int = 64
    waiting_bytes: int = 2**28
    seconds: float = 600.0
    kept: int = 256
    kept_bytes: int = 2**29
    kept_seconds: float = 900.0


class Job:
    """One piece of work, and where it stands; changed by its queue alone."""

    def __init__(self, title: str, work: Work, nbytes: int) -> None:
        self.id = secrets.token_urlsafe(12)
        self.title, self.nbytes = title, nbytes
        self.state, self.text = WAITING, "waiting"
        self.fraction: float | None = None
        self.error: str | None = None
        self.outcome: Outcome | None = None
        self.ended_at = 0.0
        self.work: Work | None = work

    @property
    def ended(self) -> bool:
        """Whether it is over, in whatever way."""
        return self.state in _ENDED


class WorkQueue:
    """Runs what is submitted in threads of its own, in order."""

    def __init__(self, limits: Limits = Limits()) -> None:
        self.limits = limits
        self._jobs: dict[str, Job] = {}  # in the order of their submission
        self._changed = threading.Condition()
        self._closed = False
        self._threads: list[threading.Thread] = []
        self._doing: dict[threading.Thread, Job] = {}
        self._lost: set[threading.Thread] = set()  # those that are not waited for any more

    def submit(self, title: str, work: Work, nbytes: int = 0) -> Job:
        """Stand in the queue with work that holds so many bytes meanwhile. Raises FullError."""
        job = Job(title, work, nbytes)
        with self._changed:
            self._forget()
            if self._is_stuck():
                raise FullError(_STUCK)
            waiting = [one for one in self._jobs.values() if one.state == WAITING]
            held = sum(one.nbytes for one in waiting) + nbytes
            full = len(waiting) >= self.limits.waiting or held > self.limits.waiting_bytes
            if full and waiting:
                raise FullError(
                    f"the queue is full: {len(waiting)} pieces of work are waiting; "
                    "try again when some are done"
                )
            self._jobs[job.id] = job
            self._start_threads()
            self._changed.notify_all()
        return job

    def find(self, identity: str) -> Job | None:
        """The work of that id; None where there is none, or none any more."""
        with self._changed:
            self._forget()
            return self._jobs.get(identity)

    def place(self, job: Job) -> int:
        """How many pieces of work come before it, among them those that run."""
        with self._changed:
            if job.state != WAITING:
                return 0
            others = list(self._jobs.values())
            before = others[: others.index(job)] if job in others else []
            return sum(not one.ended for one in before)

    def cancel(self, job: Job) -> None:
        """Let it not begin, or end it at its next stage; what has ended stays as it is."""
        with self._changed:
            self._end(job, CANCELLED, "it was cancelled")

    def counts(self) -> dict[str, int]:
        """How many pieces of work wait and run."""
        with self._changed:
            states = [job.state for job in self._jobs.values()]
        return {state: states.count(state) for state in (WAITING, RUNNING)}

    def close(self, patience: float = 2.0) -> None:
        """End everything; waits a little for what is running."""
        with self._changed:
            self._closed = True
            for job in self._jobs.values():
                self._end(job, CANCELLED, "the server was stopped")
            self._changed.notify_all()
            threads = list(self._threads)
        until = time.monotonic() + patience
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))

    # --- inside, with the lock held --------------------------------------------------------------

    def _start_threads(self) -> None:
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        self._lost &= set(self._threads)
        replaced = min(len(self._lost), _MOST_LOST)
        while len(self._threads) < self.limits.workers + replaced:
            thread = threading.Thread(target=self._work, name="guid-xmage work", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _is_stuck(self) -> bool:
        """Whether no thread is left that does anything."""
        return bool(self._lost) and len(self._lost) == len(self._threads)

    def _end(self, job: Job, state: str, error: str | None) -> None:
        if job.ended:
            return
        job.state, job.error, job.ended_at = state, error, time.monotonic()
        job.work = None  # with the photo that it holds
        self._changed.notify_all()

    def _forget(self) -> None:
        """Drop ended work that is old, or too much; the oldest first."""
        ended = [job for job in self._jobs.values() if job.ended]
        ended.sort(key=lambda job: job.ended_at)
        held = sum(job.outcome.nbytes for job in ended if job.outcome is not None)
        now = time.monotonic()
        for number, job in enumerate(ended):
            too_many = len(ended) - number > self.limits.kept or held > self.limits.kept_bytes
            if not too_many and now - job.ended_at < self.limits.kept_seconds:
                return
            held -= 0 if job.outcome is None else job.outcome.nbytes
            del self._jobs[job.id]

    def _next(self) -> Job | None:
        """Wait for work for this thread; None when there will be no more."""
        with self._changed:
            while not self._closed:
                for job in self._jobs.values():
                    if job.state == WAITING:
                        job.state, job.text = RUNNING, "starting"
                        self._doing[threading.current_thread()] = job
                        return job
                self._changed.wait()
        return None

    # --- the threads -----------------------------------------------------------------------------

    def _work(self) -> None:
        while (job := self._next()) is not None:
            work = job.work
            thread = threading.current_thread()
            late = threading.Timer(self.limits.seconds, self._overdue, [thread, job])
            late.daemon = True
            late.start()
            try:
                if work is not None:
                    self._run(job, work)
            finally:
                late.cancel()
                work = None
            with self._changed:
                del self._doing[thread]
                others = set(self._threads) - self._lost - {thread}
                if thread in self._lost and len(others) >= self.limits.workers:
                    return  # another thread has taken its place meanwhile
                self._lost.discard(thread)

    def _run(self, job: Job, work: Work) -> None:
        def say(text: str, fraction: float | None = None) -> None:
            with self._changed:
                if not job.ended:
                    job.text, job.fraction = text, fraction

        def stop() -> None:
            if job.ended:
                raise StoppedError(job.error or "it was stopped")

        try:
            outcome = work(say, stop)
        except (GuidXmageError, MemoryError) as error:
            words = "there is not enough memory for it" if isinstance(error, MemoryError) else ""
            with self._changed:
                self._end(job, FAILED, shown(words or str(error)))
        except BaseException as error:  # a network may raise whatever it likes, even SystemExit
            with self._changed:
                self._end(job, FAILED, f"{job.title} failed: {_named(error)}")
        else:
            with self._changed:
                if not job.ended:
                    job.outcome, job.text, job.fraction = outcome, "done", 1.0
                self._end(job, DONE, None)

    def _overdue(self, thread: threading.Thread, job: Job) -> None:
        """The time is over: say so, and let others go on while the work does not listen.

        The work may have been cancelled long ago.
        """
        with self._changed:
            if self._doing.get(thread) is not job:
                return  # it has come back just now
            limit = f"{self.limits.seconds:g}"
            self._end(job, FAILED, f"{job.title} took longer than the {limit} s that it may take")
            if self._closed:
                return
            self._lost.add(thread)
            self._start_threads()
            if self._is_stuck():
                for one in self._jobs.values():
                    self._end(one, FAILED, _STUCK)


def _named(error: BaseException) -> str:
    words = brief(error)
    return f"{type(error).__name__}: {words}" if words else type(error).__name__
