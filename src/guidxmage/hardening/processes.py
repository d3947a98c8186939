"""The processes that train together, one for each part of a batch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch.distributed as dist
from torch import nn


class Processes:
    """The processes that train together: this one's number, and how many there are."""

    def __init__(self, rank: int = 0, world: int = 1) -> None:
        self.rank, self.world = rank, world

    @property
    def first(self) -> bool:
        """Whether this process writes files."""
        return self.rank == 0

    @classmethod
    @contextmanager
    def joined(cls, network: nn.Module) -> Iterator[Processes]:
        """Those that torchrun has started, as its environment says; else this one alone."""
        world = int(os.environ.get("WORLD_SIZE", "1"))
        if world == 1:
            yield cls()
            return
        on_gpu = next(network.parameters()).is_cuda
        own = not dist.is_initialized()
        if own:
            dist.init_process_group("nccl" if on_gpu else "gloo")
        try:
            yield cls(dist.get_rank(), dist.get_world_size())
        finally:
            if own:
                dist.destroy_process_group()

    def wait(self) -> None:
        """Until all processes are here."""
        if self.world > 1:
            dist.barrier()

    def shared(self, value: Any) -> Any:
        """The first process's value, in all of them; so nodes need no common disk."""
        box = [value]
        if self.world > 1:
            dist.broadcast_object_list(box, src=0)
        return box[0]

    def align(self, network: nn.Module) -> None:
        """The first process's running statistics in all of them."""
        for buffer in network.buffers() if self.world > 1 else ():
            dist.broadcast(buffer, src=0)
