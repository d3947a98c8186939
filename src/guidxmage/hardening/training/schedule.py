"""How a network is trained, and the learning rate as a function of the step."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from guidxmage.errors import InputError

# As torch's OneCycleLR has them.
_ONE_CYCLE_START, _ONE_CYCLE_END = 1 / 25, 1 / 250_000

# What may change between two runs that continue each other: nothing learnt depends on it.
_INCIDENTAL = ("checkpoint_every", "log_every", "device", "tensorboard")


@dataclass(frozen=True)
class TrainingConfig:
    """Stochastic gradient descent with momentum.

    steps: optimiser steps. schedule: "cosine" falls from learning_rate to 0; "one-cycle" rises from
    a 25th of it during the share `rise` of the steps, then falls. precision: "bf16" and "fp16" are
    mixed precision, on a GPU only. checkpoint_every, log_every, evaluate_every: in steps; the
    network is evaluated once per epoch by default. device: by default the GPU if there is one.
    Raises InputError for a value that makes no sense.
    """

    steps: int
    learning_rate: float = 0.1
    schedule: Literal["cosine", "one-cycle"] = "cosine"
    rise: float = 0.3
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    label_smoothing: float = 0.0
    precision: Literal["float32", "bf16", "fp16"] = "float32"
    channels_last: bool = False
    seed: int = 0
    checkpoint_every: int = 1000
    log_every: int = 50
    evaluate_every: int | None = None
    device: str | None = None
    tensorboard: bool = False

    def __post_init__(self) -> None:
        for name in ("steps", "checkpoint_every", "log_every", "evaluate_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} is a number of steps from 1 on, not {value}")
        if not 0 < self.learning_rate < math.inf:
            raise InputError(f"the learning rate is a positive number, not {self.learning_rate}")
        if not 0 <= self.weight_decay < math.inf:
            raise InputError(f"the weight decay is a number from 0 on, not {self.weight_decay}")
        for name in ("momentum", "label_smoothing", "rise"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"{name} lies from 0 to below 1, not at {getattr(self, name)}")
        if self.nesterov and self.momentum == 0:
            raise InputError("Nesterov's method needs a momentum; set nesterov=False without one")
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                raise InputError(
                    f"{name} {getattr(self, name)!r} is unknown; choose one of {', '.join(known)}"
                )

    def describe(self) -> dict[str, Any]:
        """What the weights depend on, as JSON values."""
        return {name: value for name, value in asdict(self).items() if name not in _INCIDENTAL}


_CHOICES = {"schedule": ("cosine", "one-cycle"), "precision": ("float32", "bf16", "fp16")}


def learning_rate(config: TrainingConfig, step: int) -> float:
    """The learning rate of a step, counted from 0."""
    if config.schedule == "cosine":
        return config.learning_rate * _cosine(step / config.steps, 1, 0)
    # Where the rise is shorter than a step, the run starts at the top.
    place, top = step / max(config.steps - 1, 1), config.rise
    if place < top:
        return config.learning_rate * _cosine(place / top, _ONE_CYCLE_START, 1)
    return config.learning_rate * _cosine((place - top) / (1 - top), 1, _ONE_CYCLE_END)


def _cosine(place: float, start: float, end: float) -> float:
    """Half a cosine wave from start (place 0) to end (place 1)."""
    return end + (start - end) * (1 + math.cos(math.pi * place)) / 2
