"""Seconds and memory of one map, in the precision that methods run in."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from guidxmage.evaluation.measures.case import Case, Claimed, Figures

MIB = 2**20


def cost(case: Case, claimed: Claimed) -> Figures:
    """seconds: of one more map, the one before having warmed up what there is to warm up.

    peak_mib: the most that PyTorch held at once in tensors allocated for it, tracked by its
    profiler in a further run; NumPy's arrays are not seen. Slow methods are not run again: their
    seconds are those of the map itself, their memory is left out.
    """
    if claimed.method.is_slow(case.fast):
        return {"seconds": claimed.seconds, "peak_mib": None}

    def run() -> None:
        claimed.method.explain(case.fast, case.image, case.target, case.seed)

    began = time.perf_counter()
    run()
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "peak_mib": peak_bytes(run) / MIB}


def peak_bytes(work: Callable[[], None]) -> int:
    """The largest sum of tensor memory allocated and not yet freed while `work` runs."""
    cpu = torch.profiler.ProfilerActivity.CPU
    with (
        _quiet(),
        torch.profiler.profile(activities=[cpu], profile_memory=True) as profile,
    ):
        work()
    assert profile.profiler is not None
    events = profile.profiler.kineto_results.events()
    changes = [(one.start_ns(), one.nbytes()) for one in events if one.name() == "[memory]"]
    held = peak = 0
    for _, change in sorted(changes, key=lambda one: one[0]):
        held += change
        peak = max(peak, held)
    return peak


@contextmanager
def _quiet() -> Iterator[None]:
    """Nothing on standard error: the profiler announces its start and its end there."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
