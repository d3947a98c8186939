"""The processes of a training run: one, or those that torchrun started."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from guidxmage.errors import InputError

T = TypeVar("T")

# The others wait while the first evaluates the network; a process that died is noticed by torchrun.
_PATIENCE = timedelta(hours=2)


@dataclass(frozen=True)
class Processes:
    """One process (rank) among `count`, and where it computes."""

    rank: int
    count: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this is the process that evaluates and writes files."""
        return self.rank == 0

    def shared(self, network: nn.Module) -> nn.Module:
        """The network, whose gradients are averaged over the processes.

        Buffers are left alone: `share_buffers` does that where a resumed run can do it too.
        """
        if self.count == 1:
            return network
        with warnings.catch_warnings():
            # The name that replaces broadcast_buffers is unknown to older versions.
            warnings.simplefilter("ignore", FutureWarning)
            # Looking for unused parameters keeps the buckets of gradients as they are. Otherwise
            # the first step rearranges them, which changes the order of the sums and so the
            # rounding, and a resumed run has its first step elsewhere.
            return DistributedDataParallel(
                network, broadcast_buffers=False, find_unused_parameters=True
            )

    def share_buffers(self, network: nn.Module) -> None:
        """Give every process the first one's buffers, batch-norm's averages for instance."""
        if self.count == 1:
            return
        by_type: dict[torch.dtype, list[Tensor]] = {}
        for buffer in network.buffers():
            by_type.setdefault(buffer.dtype, []).append(buffer)
        for buffers in by_type.values():
            flat = torch.cat([buffer.detach().flatten() for buffer in buffers])
            dist.broadcast(flat, 0)
            parts = flat.split([buffer.numel() for buffer in buffers])
            for buffer, part in zip(buffers, parts, strict=True):
                buffer.detach().copy_(part.view_as(buffer))

    def total(self, value: float | Tensor, *, ok: bool = True) -> tuple[float, bool]:
        """A number's sum over the processes, and whether all of them are ok."""
        if self.count == 1:
            return float(value), ok
        sums = torch.tensor([0.0, 0.0], dtype=torch.float64, device=self.device)
        sums[0], sums[1] = value, not ok
        try:
            dist.all_reduce(sums)
        except RuntimeError as error:
            raise InputError(
                f"another process of this run is gone ({str(error).splitlines()[0]}); "
                "start the run again to go on from its last checkpoint"
            ) from error
        total, failures = sums.tolist()
        return total, failures == 0

    def first_does(self, work: Callable[[], T]) -> T | None:
        """The first process's result of the work, None on the others, who wait for it.

        Where it fails the others stop with an InputError rather than wait for ever.
        """
        found, failure = None, None
        if self.first:
            try:
                found = work()
            except Exception as error:  # raised below, once the others know
                failure = error
        _, ok = self.total(0, ok=failure is None)
        if failure is not None:
            raise failure
        if not ok:
            raise InputError("the first process of this run stopped; its own message says why")
        return found

    def agree(self, value: int) -> bool:
        """Whether all processes have the same number."""
        if self.count == 1:
            return True
        bounds = torch.tensor([value, -value], device=self.device)
        dist.all_reduce(bounds, op=dist.ReduceOp.MAX)
        highest, negated_lowest = bounds.tolist()
        return bool(highest == -negated_lowest)


ALONE = Processes(0, 1, torch.device("cpu"))
"""One process that waits for no other."""


@contextmanager
def processes(device: str | None) -> Iterator[Processes]:
    """The processes of this run, connected within the block.

    torchrun names them in the environment; they talk over NCCL on GPUs and gloo on CPUs. An
    existing default process group is used as it is. Raises InputError for an unusable device.
    """
    chosen = _device(device)
    if dist.is_available() and dist.is_initialized():
        yield Processes(dist.get_rank(), dist.get_world_size(), chosen)
        return
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Processes(0, 1, chosen)
        return
    backend = "nccl" if chosen.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=_PATIENCE)
    try:
        yield Processes(dist.get_rank(), dist.get_world_size(), chosen)
        # Nobody hangs up while another one still listens.
        dist.barrier()
    finally:
        # gloo's threads need the interpreter once more to drop what they worked on. Where it is
        # shutting down by then, which happens to scripts that end here, they abort the process.
        time.sleep(0.2)
        dist.destroy_process_group()


def _device(name: str | None) -> torch.device:
    """The named device, or this process's GPU, or the CPU."""
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        if device.type == "cuda":
            if device == torch.device("cuda"):
                device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
            torch.cuda.set_device(device)
        torch.empty(0, device=device)
    # A torch without CUDA stops with an AttributeError.
    except (RuntimeError, AssertionError, AttributeError) as error:
        raise InputError(
            f"device {name!r} is not available: {str(error).splitlines()[0]}"
        ) from error
    return device
