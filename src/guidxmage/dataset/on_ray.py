"""The Ray engine: the same workers as actors, on this machine or on a cluster that shares a folder.

Ray is the scheduler only: who is at which block, and which are done, stands in the ledger.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from guidxmage.dataset.local import Look, Setup
from guidxmage.dataset.progress import Progress
from guidxmage.dataset.sources import share
from guidxmage.dataset.working import Outcome, Work
from guidxmage.errors import GuidXmageError, InputError, MissingExtraError
from guidxmage.files.locks import PAUSE

# Of an actor. Whole ones would leave none for anybody else where there are as many as processors.
_CPUS = 0.5
# How often Ray makes an actor that was killed anew, and gives it its block again.
_RESTARTS = 3
_SECONDS = 0.5


@dataclass(frozen=True)
class Cluster:
    """How many actors, where, and how much of a GPU each has."""

    workers: int
    address: str | None = None
    gpus: float = 0.0


class _Actor:
    """One worker in a process of Ray's."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._worker: Any = None
        if setup.data is not None:
            share(setup.data)

    def work(self, work: Work) -> Outcome:
        """Make one block; errors come back as a sentence, not as a trace of Ray's."""
        if self._worker is None:
            self._worker = self._setup.worker()
        outcome: Outcome = self._worker.work(work, lambda *_: None)
        return outcome


def run_on_ray(
    setup: Setup, cluster: Cluster, blocks: Sequence[Work], progress: Progress, look: Look
) -> Iterator[Outcome]:
    """The outcome of each block, as they come. Raises InputError where a worker does."""
    # Before Ray is imported: it reports how it is used otherwise.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError as error:
        raise MissingExtraError("ray", "ray") from error
    own = not ray.is_initialized()
    actors: list[Any] = []
    try:
        if own:
            _begin(ray, cluster)
        count = min(cluster.workers, len(blocks))
        made = ray.remote(
            num_cpus=_CPUS,
            num_gpus=cluster.gpus,
            max_restarts=_RESTARTS,
            max_task_retries=_RESTARTS,
        )(_Actor)
        actors = [made.remote(setup) for _ in range(count)]
        yield from _outcomes(ray, actors, blocks, progress, look)
    finally:
        for actor in actors:
            with suppress(Exception):
                ray.kill(actor)
        if own:
            ray.shutdown()


def _begin(ray: Any, cluster: Cluster) -> None:
    here: dict[str, Any] = {"num_cpus": _processors(cluster), "include_dashboard": False}
    given = {"address": cluster.address} if cluster.address else here
    try:
        ray.init(log_to_driver=False, logging_level="ERROR", **given)
    except Exception as error:
        where = cluster.address or "this machine"
        raise InputError(f"Ray cannot begin on {where}: {str(error).splitlines()[0]}") from error


def _processors(cluster: Cluster) -> int:
    return max(os.cpu_count() or 1, -(-cluster.workers // 2))


def _outcomes(
    ray: Any, actors: list[Any], blocks: Sequence[Work], progress: Progress, look: Look
) -> Iterator[Outcome]:
    waiting, free = deque(blocks), deque(actors)
    running: dict[Any, tuple[Any, Work]] = {}
    refused = 0
    while waiting or running:
        while waiting and free:
            actor, work = free.popleft(), waiting.popleft()
            running[actor.work.remote(work)] = (actor, work)
        done, _ = ray.wait(list(running), num_returns=1, timeout=_SECONDS)
        for one in done:
            actor, work = running.pop(one)
            outcome = _got(ray, one, work)
            free.append(actor)
            if outcome.state == "busy":
                refused += 1
                waiting.append(work)
                continue
            refused = 0
            if outcome.state == "made":
                progress.add(outcome.photos, outcome.errors)
            else:
                progress.keep(outcome.photos)
            yield outcome
        progress.waiting = 0 < len(waiting) <= refused
        if progress.waiting:
            time.sleep(PAUSE)
        look()


def _got(ray: Any, reference: Any, work: Work) -> Outcome:
    """What an actor answered. Raises InputError for what it stumbled over."""
    try:
        outcome: Outcome = ray.get(reference)
        return outcome
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        if isinstance(cause, GuidXmageError):
            raise InputError(str(cause)) from None
        raise InputError(f"a worker ended: {type(cause).__name__}: {cause}") from error
    except ray.exceptions.RayError as error:
        raise InputError(
            f"a worker was killed {_RESTARTS + 1} times at photos {work.first} and following "
            f"({type(error).__name__}): the memory may be too small for so many workers"
        ) from error
