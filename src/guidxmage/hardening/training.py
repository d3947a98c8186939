"""Training in plain PyTorch: one process, or many under torchrun; resumed exactly after a kill.

Every random draw belongs to a (seed, step, process), and none depends on what was drawn before. So
a run that goes on from a checkpoint ends with the same weights, bit for bit, as one never stopped.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from guidxmage.errors import InputError
from guidxmage.hardening.augmentation import augmented
from guidxmage.hardening.checkpoint import load_checkpoint, save_checkpoint
from guidxmage.hardening.dataset import Batch, ImageDataset
from guidxmage.hardening.metrics import Metrics
from guidxmage.hardening.processes import Processes

# What a training step learns from: (network in eval mode, clean batch, generator, progress 0–1).
Lesson = Callable[[nn.Module, Batch, torch.Generator, float], tuple[Tensor, Tensor]]
Score = Callable[[nn.Module], float]
_PRIME = 1_000_003


@dataclass(frozen=True)
class Course:
    """How a network is trained: SGD with Nesterov momentum, one learning-rate cycle.

    steps: optimiser steps; batch: images of a step over all processes; lr: the peak, reached after
    the share `warm_up` of all steps, then falling to 0 along a cosine; crop: pixels of padding
    before random crops; flip: mirror at random; mixed: bfloat16 on a GPU; score_every,
    save_every: steps between scores on the held-out split and between checkpoints, 0 for at the end
    only.
    """

    steps: int
    batch: int = 128
    lr: float = 0.1
    warm_up: float = 0.2
    momentum: float = 0.9
    weight_decay: float = 5e-4
    label_smoothing: float = 0.0
    crop: int = 2
    flip: bool = True
    mixed: bool = False
    score_every: int = 0
    save_every: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; give at least 1")
        if not self.lr > 0:
            raise InputError(f"lr is {self.lr}; give a learning rate above 0")

    def rate(self, step: int) -> float:
        """The learning rate of a step, 0 ≤ step < steps."""
        rise = max(1, round(self.warm_up * self.steps))
        if step < rise:
            return self.lr * (step + 1) / rise
        return self.lr * 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, self.steps - rise)))


@dataclass(frozen=True)
class Outcome:
    """What training ended with; the network holds the weights of the best step, in eval mode.

    scores: (step, score) on the held-out split; images: shown to the network, over all processes.
    """

    best_step: int
    best_score: float
    scores: list[tuple[int, float]] = field(default_factory=list)
    steps: int = 0
    images: int = 0
    seconds: float = 0.0


def plain(_: nn.Module, batch: Batch, __: torch.Generator, ___: float) -> tuple[Tensor, Tensor]:
    """The lesson of plain training: the images as they are."""
    return batch.images, batch.labels


def train(
    network: nn.Module,
    data: ImageDataset,
    course: Course,
    *,
    lesson: Lesson = plain,
    score: Score | None = None,
    folder: Path | None = None,
    about: str = "",
    tensorboard: bool = False,
) -> Outcome:
    """Train a network in place; under torchrun, together with the other processes.

    lesson: turns a clean batch into what is learned from it. score: of the network on a held-out
    split, the higher the better; the best weights are kept. folder: checkpoints and metrics.jsonl,
    from which the same call goes on. about: what else tells this training from others (the lesson,
    the data). Raises InputError for a loss that is not finite, a folder of another training, a
    disk that is full, and images that cannot be read. The global random state is left untouched.
    """
    digest = _digest(course, data, about)
    with Processes.joined(network) as processes:
        run = _Run(network, data, course, lesson, processes)
        if folder is not None:
            found = load_checkpoint(folder, digest) if processes.first else None
            if (state := processes.shared(found)) is not None:
                run.restore(state)
        writes = folder is not None and processes.first
        metrics = Metrics.open(folder, run.step, tensorboard) if writes and folder else None
        began = time.perf_counter()
        run.network.train()
        while run.step < course.steps:
            loss = run.advance()
            _report(run, course, score, metrics, loss)
            if folder is not None and _due(run.step, course.save_every, course.steps):
                if processes.first:
                    save_checkpoint(folder, {**run.state(), "digest": digest})
                processes.wait()
        run.finish()
        if metrics is not None:
            metrics.close()
    return Outcome(
        best_step=run.best_step,
        best_score=run.best_score,
        scores=run.scores,
        steps=course.steps,
        images=course.steps * course.batch,
        seconds=time.perf_counter() - began,
    )


def _digest(course: Course, data: ImageDataset, about: str) -> str:
    told = json.dumps([asdict(course), len(data), data.classes, about], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()


def _due(step: int, every: int, last: int) -> bool:
    return step == last or (every > 0 and step % every == 0)


def _report(
    run: _Run, course: Course, score: Score | None, metrics: Metrics | None, loss: float
) -> None:
    """Score the network where it is due, the same in all processes, and write it down."""
    values = {"loss": loss, "lr": course.rate(run.step - 1)}
    if score is not None and _due(run.step, course.score_every, course.steps):
        values["score"] = run.keep_best(score)
    if metrics is not None:
        metrics.write(run.step, values)


class _Run:
    """A training under way."""

    def __init__(
        self,
        network: nn.Module,
        data: ImageDataset,
        course: Course,
        lesson: Lesson,
        processes: Processes,
    ) -> None:
        if course.batch % processes.world:
            raise InputError(
                f"a batch of {course.batch} cannot be split among {processes.world} processes"
            )
        if not len(data):
            raise InputError("there are no images to train on")
        self.network, self.data, self.course, self.lesson = network, data, course, lesson
        self.processes = processes
        self.device = next(network.parameters()).device
        self.wrapped: nn.Module = network
        if processes.world > 1:
            self.wrapped = DistributedDataParallel(network)
        self.optimizer = torch.optim.SGD(
            network.parameters(),
            course.lr,
            momentum=course.momentum,
            weight_decay=course.weight_decay,
            nesterov=course.momentum > 0,
        )
        self.step, self.best_step, self.best_score = 0, 0, -math.inf
        self.best: dict[str, Tensor] = {}
        self.scores: list[tuple[int, float]] = []

    def advance(self) -> float:
        """One optimiser step; returns this process's loss."""
        course = self.course
        draw = self._generator()
        batch = self._batch(draw)
        self.network.eval()
        images, labels = self.lesson(self.network, batch, draw, self.step / course.steps)
        self.network.train()
        for group in self.optimizer.param_groups:
            group["lr"] = course.rate(self.step)
        self.optimizer.zero_grad(set_to_none=True)
        with _seeded(draw), self._precision():
            scores = self.wrapped(images)
            loss = nn.functional.cross_entropy(
                scores.float(), labels, label_smoothing=course.label_smoothing
            )
        loss.backward()
        value = float(loss.detach())
        if not math.isfinite(value):
            raise InputError(
                f"the loss of step {self.step + 1} is {value}; lower the learning rate "
                f"({course.lr:g}) or look for bad images"
            )
        self.optimizer.step()
        self.step += 1
        return value

    def _generator(self) -> torch.Generator:
        """The random numbers of this step and process."""
        key = (self.course.seed * _PRIME + self.step) * _PRIME + self.processes.rank
        return torch.Generator().manual_seed(key % (2**63 - 1))

    def _batch(self, draw: torch.Generator) -> Batch:
        """The part of the step's batch that is ours: epochs follow each other without a gap."""
        share = self.course.batch // self.processes.world
        start = self.step * self.course.batch + self.processes.rank * share
        rows = [self._image(number) for number in range(start, start + share)]
        batch = self.data.__getitems__(rows)
        batch = augmented(batch, self.course.crop, self.course.flip, draw)
        return Batch(*(part.to(self.device) for part in batch))

    def _image(self, number: int) -> int:
        """Which image is the number-th one shown, counted from the start of training."""
        epoch, place = divmod(number, len(self.data))
        if getattr(self, "_epoch", None) != epoch:
            generator = torch.Generator().manual_seed(self.course.seed * _PRIME + epoch)
            self._epoch = epoch
            self._order = torch.randperm(len(self.data), generator=generator)
        return int(self._order[place])

    def _precision(self) -> Any:
        if self.course.mixed and self.device.type == "cuda":
            return torch.autocast("cuda", dtype=torch.bfloat16)
        return nullcontext()

    def keep_best(self, score: Score) -> float:
        """Score the network and keep a copy of its weights if it is the best so far."""
        self.processes.align(self.network)
        self.network.eval()
        value = score(self.network)
        self.network.train()
        self.scores.append((self.step, value))
        if value > self.best_score:
            self.best_step, self.best_score = self.step, value
            self.best = {k: v.detach().clone() for k, v in self.network.state_dict().items()}
        return value

    def finish(self) -> None:
        """Leave the best weights in the network."""
        if self.best:
            self.network.load_state_dict(self.best)
        else:
            self.best_step = self.step
        self.network.eval()

    def state(self) -> dict[str, Any]:
        """All that the rest of the training depends on."""
        return {
            "step": self.step,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "best": self.best,
            "best_step": self.best_step,
            "best_score": self.best_score,
            "scores": self.scores,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.best = state["step"], state["best"]
        self.best_step, self.best_score = state["best_step"], state["best_score"]
        self.scores = [(int(step), float(value)) for step, value in state["scores"]]


@contextmanager
def _seeded(draw: torch.Generator) -> Iterator[None]:
    """Dropout's random numbers from the step's own; the global state is put back afterwards."""
    with torch.random.fork_rng():
        torch.manual_seed(int(torch.randint(2**62, (1,), generator=draw)))
        yield
