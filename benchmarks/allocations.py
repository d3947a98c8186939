"""Peak memory of a call: what it allocates at once, beyond what was there before."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable

import torch
from torch.profiler import ProfilerActivity, profile


def peak_bytes(run: Callable[[], object], device: torch.device | None = None) -> int:
    """The most memory that tensors of one call take at once, after one call to warm up.

    On the CPU PyTorch's own allocations are added up in their order; memory that a library takes
    past PyTorch, such as oneDNN's for prepacked weights, is not seen.
    """
    run()
    gc.collect()
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        run()
    assert profiled.profiler is not None
    waiting = list(profiled.profiler.kineto_results.experimental_event_tree())
    changes: list[tuple[int, int]] = []
    while waiting:
        event = waiting.pop()
        waiting.extend(event.children)
        if event.tag == torch._C._profiler._EventType.Allocation:
            changes.append((event.start_time_ns, event.extra_fields.alloc_size))
    return highest(size for _, size in sorted(changes))


def highest(changes: Iterable[int]) -> int:
    """The highest of the running sums of allocations (above 0) and releases (below 0)."""
    held = most = 0
    for change in changes:
        held += change
        most = max(most, held)
    return most
