"""Training runs on 8×8 images, for the tests and for the processes they start.

As a script, under torchrun or alone: folder, then where to die as rank:step, or "never".
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from guidxmage.hardening.data.dataset import InMemory, LabelledBatch
from guidxmage.hardening.robustness.pgd import PGD
from guidxmage.hardening.training.batches import Shuffled
from guidxmage.hardening.training.loop import TrainingResult, train
from guidxmage.hardening.training.schedule import TrainingConfig

STEPS = 12


def dataset(count: int = 60) -> InMemory:
    """Images of three classes, told by which channel is bright."""
    draw = torch.Generator().manual_seed(5)
    labels = torch.arange(count) % 3
    images = torch.randint(0, 150, (count, 3, 8, 8), generator=draw)
    images[torch.arange(count), labels] += 60
    masks = torch.ones(count, 8, 8, dtype=torch.bool)
    return InMemory(images.to(torch.uint8), labels, masks, ("red", "green", "blue"))


def network(*, normed: bool = True, dropout: float = 0.2, seed: int = 1) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: list[nn.Module] = [nn.Conv2d(3, 6, 3)]
        layers += [nn.BatchNorm2d(6)] if normed else []
        layers += [nn.ReLU(), nn.Flatten(), nn.Dropout(dropout), nn.Linear(6 * 36, 3)]
        return nn.Sequential(*layers)


def recipe(**options: Any) -> Shuffled:
    options = {"seed": 3, "crop": 1, "lesson": PGD("linf", 4 / 255, 2), **options}
    return Shuffled(dataset(), options.pop("batch_size", 12), **options)


def config(**options: Any) -> TrainingConfig:
    usual = {"steps": STEPS, "learning_rate": 0.05, "checkpoint_every": 4, "log_every": 1}
    return TrainingConfig(**{**usual, "seed": 7, **options})


def score(network: nn.Module) -> float:
    held_out = dataset(30).__getitems__(range(30))
    return float((network(held_out.images).argmax(1) == held_out.labels).double().mean())


class Dying(Shuffled):
    """Kills its process, as a crash would, before one step; once, told by a file."""

    def __init__(self, *args: Any, rank: int, step: int, mark: Path, **options: Any) -> None:
        super().__init__(*args, **options)
        self.place, self.mark = (rank, step), mark

    def batch(self, step: int, rank: int, world: int, generator: torch.Generator) -> LabelledBatch:
        if (rank, step) == self.place and not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().batch(step, rank, world, generator)


def run(folder: Path, die: str, **options: Any) -> TrainingResult:
    normed = options.pop("normed", True)
    plain = {} if normed else {"crop": 0, "flip": False, "lesson": None}
    batches = recipe(**plain)
    if die != "never":
        rank, step = map(int, die.split(":"))
        batches = Dying(
            batches.dataset,
            batches.batch_size,
            seed=batches.seed,
            crop=batches.crop,
            lesson=batches.lesson,
            rank=rank,
            step=step,
            mark=folder.with_suffix(".died"),
        )
    net = network(normed=normed, dropout=0.2 if normed else 0)
    return train(net, batches, config(**options), folder=folder, evaluate=score)


if __name__ == "__main__":
    torch.set_num_threads(1)
    where = Path(sys.argv[1])
    found = run(where, sys.argv[2], normed=sys.argv[3:] != ["plain"])
    if os.environ.get("RANK", "0") == "0":
        where.with_suffix(".resumed").write_text(str(found.resumed_from))
