"""Random draws that depend on where a training run is, not on what it drew before."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def stream_seed(seed: int, *place: object) -> int:
    """A seed for one purpose at one place of a run, such as (seed, "dropout", step, rank)."""
    text = "/".join(map(str, (seed, *place)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def stream(seed: int, *place: object) -> torch.Generator:
    """A fresh generator on the CPU with that seed."""
    return torch.Generator().manual_seed(stream_seed(seed, *place))


@contextmanager
def global_draws_from(seed: int, device: torch.device) -> Iterator[None]:
    """Let what draws from the global generators, such as dropout, start from a seed.

    Afterwards they are in the state they were in before.
    """
    gpus = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=gpus):
        # torch.manual_seed would also seed the GPUs that are not restored.
        torch.default_generator.manual_seed(seed)
        if gpus:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield
