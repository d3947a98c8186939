"""The Ray engine: the same workers as actors, on this machine or on a cluster that shares a folder.

Ray is the scheduler only: who is at which block, and which are done, stands in the ledger.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from math import inf
from pickle import PicklingError
from typing import IO, Any

from guidxmage.dataset.local import Look, Setup, not_sent
from guidxmage.dataset.progress import Progress
from guidxmage.dataset.sources import share
from guidxmage.dataset.working import Outcome, Work
from guidxmage.errors import GuidXmageError, InputError, MissingExtraError
from guidxmage.files.locks import PAUSE
from guidxmage.files.names import brief, shown

# Of an actor. Whole ones would leave none for anybody else where there are as many as processors.
_CPUS = 0.5
# How often Ray makes an actor that was killed anew, and gives it its block again.
_RESTARTS = 3
_SECONDS = 0.5
# Until the first actor has begun; a cluster that grows on demand takes minutes.
_PATIENCE = 900.0


@dataclass(frozen=True)
class Cluster:
    """How many actors, where, and how much of a GPU each has."""

    workers: int
    address: str | None = None
    gpus: float = 0.0


class _Actor:
    """One worker in a process of Ray's."""

    def __init__(self, setup: Setup, here: str) -> None:
        """here: the folder that the run was started in, from where its paths are seen."""
        self._setup, self._here = setup, here
        self._worker: Any = None
        if setup.data is not None:
            share(setup.data)

    def begin(self) -> None:
        """Make the network; answered when the cluster has room for this actor."""
        if self._worker is not None:
            return
        try:
            os.chdir(self._here)
        except OSError:
            raise InputError(
                f"{shown(self._here)} is not there on every machine of the cluster; photos, data "
                "set and the folder that the run is started in must be shared by all"
            ) from None
        self._worker = self._setup.worker()

    def work(self, work: Work) -> Outcome:
        """Make one block; errors come back as a sentence, not as a trace of Ray's."""
        self.begin()  # again, where this is an actor that was made anew
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
        _check_room(ray, cluster, own=own and cluster.address is None)
        count = min(cluster.workers, len(blocks))
        made = ray.remote(
            num_cpus=_CPUS,
            num_gpus=cluster.gpus,
            max_restarts=_RESTARTS,
            max_task_retries=_RESTARTS,
        )(_Actor)
        try:
            actors = [made.remote(setup, os.getcwd()) for _ in range(count)]
        except (TypeError, AttributeError, PicklingError) as error:
            raise not_sent(error) from error
        yield from _outcomes(ray, actors, blocks, progress, look)
    finally:
        for actor in actors:
            with suppress(Exception):
                ray.kill(actor)
        if own:
            ray.shutdown()


def _begin(ray: Any, cluster: Cluster) -> None:
    # "local": a cluster of its own, also where another one runs on this machine.
    here = {"address": "local", "num_cpus": _processors(cluster), "include_dashboard": False}
    given: dict[str, Any] = {"address": cluster.address} if cluster.address else here
    with _quiet() as heard:
        try:
            ray.init(log_to_driver=False, logging_level="ERROR", **given)
        except Exception as error:
            where = cluster.address or "this machine"
            heard.seek(0)
            token = "InvalidAuthToken" in heard.read().decode("utf-8", "replace")
            why = (
                "it asks for a token; set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN to the cluster's"
                if token
                else brief(str(error).splitlines()[0])
            )
            raise InputError(f"Ray cannot begin on {where}: {why}") from error


def _check_room(ray: Any, cluster: Cluster, *, own: bool) -> None:
    """Raises InputError where this machine will never have what one actor wants."""
    there = ray.cluster_resources().get("GPU", 0)
    if own and cluster.gpus > there:
        raise InputError(f"each worker is to have {cluster.gpus:g} GPUs; Ray finds {there:g} here")


@contextmanager
def _quiet() -> Iterator[IO[bytes]]:
    """What is written to the error output meanwhile, by Ray's own code beyond Python's reach."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as heard:
        kept = os.dup(2)
        try:
            os.dup2(heard.fileno(), 2)
            yield heard
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def _processors(cluster: Cluster) -> int:
    return max(os.cpu_count() or 1, -(-cluster.workers // 2))


def _outcomes(
    ray: Any, actors: list[Any], blocks: Sequence[Work], progress: Progress, look: Look
) -> Iterator[Outcome]:
    """Blocks are given to the actors that have begun: a cluster may have no room for some."""
    waiting, free = deque(blocks), deque[Any]()
    beginning = {actor.begin.remote(): actor for actor in actors}
    running: dict[Any, tuple[Any, Work]] = {}
    refused, until = 0, time.monotonic() + _PATIENCE
    while waiting or running:
        while waiting and free:
            actor, work = free.popleft(), waiting.popleft()
            running[actor.work.remote(work)] = (actor, work)
        done, _ = ray.wait([*running, *beginning], num_returns=1, timeout=_SECONDS)
        for one in done:
            if one in beginning:
                _got(ray, one, "before it began")
                free.append(beginning.pop(one))
                until = inf
                continue
            actor, work = running.pop(one)
            outcome: Outcome = _got(ray, one, f"at photos {work.first} and following")
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
        if time.monotonic() > until:
            raise InputError(_no_room(ray))
        progress.waiting = 0 < len(waiting) <= refused
        if progress.waiting:
            time.sleep(PAUSE)
        look()


def _no_room(ray: Any) -> str:
    there = ray.cluster_resources()
    return (
        f"no worker could begin within {_PATIENCE / 60:.0f} minutes; the cluster has "
        f"{there.get('CPU', 0):g} processors and {there.get('GPU', 0):g} GPUs, some of them in use"
    )


def _got(ray: Any, reference: Any, where: str) -> Any:
    """What an actor answered. Raises InputError for what it stumbled over."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        if isinstance(cause, GuidXmageError):
            raise InputError(str(cause)) from None
        raise InputError(f"a worker ended: {type(cause).__name__}: {cause}") from error
    except ray.exceptions.RayError as error:
        raise InputError(
            f"a worker was killed {_RESTARTS + 1} times {where} ({type(error).__name__}): the "
            "memory may be too small for so many workers"
        ) from error
