"""What an experiment consists of: its settings, and one unit for each network that is trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated

from pydantic import BeforeValidator, Field

from guidxmage.errors import SettingError
from guidxmage.files.names import brief, folded, shown
from guidxmage.files.schema import (
    Flag,
    Names,
    Seeds,
    check,
    from_ratio,
    known_names,
    some_of,
    unknown_name,
    whole,
)
from guidxmage.hardening.robustness.measure import Effort
from guidxmage.hardening.samples.arms import ARMS, WRONG_MASKS, ArmConfig
from guidxmage.hardening.samples.suppression import LEVELS, STRENGTHS, Scheme
from guidxmage.hardening.training import networks
from guidxmage.hardening.training.schedule import TrainingConfig

_WIDTH_WORDS = "a factor above 0, up to 8, or one for each network by name"
Width = Annotated[float, BeforeValidator(from_ratio), Field(gt=0, le=8, description=_WIDTH_WORDS)]
Widths = Annotated[Width | Mapping[str, Width], Field(description=_WIDTH_WORDS)]
Arms = Annotated[tuple[str, ...], some_of(ARMS), known_names(ARMS, "arm")]
TrainingSteps = Annotated[int, whole(1)]
LearningRate = Annotated[
    float,
    BeforeValidator(from_ratio),
    Field(gt=0, le=10, description="a number above 0, up to 10"),
]
# File systems take 255 bytes, and what the samples were made by is added.
_LONGEST_NAME = 200


@dataclass(frozen=True)
class Experiment:
    """What is run; see docs/hardening.md for the file that states it.

    networks: names or "module:function"; width: of the named ones, a factor for all or one by name;
    size: of photos in folders, which are scaled to it. plain_steps, retrain_steps:
    optimiser steps of the first training and of each arm; plain_lr, retrain_lr: peak learning
    rates. transfer: also retrain each network with the series of each other one; on these only the
    background is attacked, by PGD.
    """

    networks: Names = ("alexnet", "resnet20", "densenet22")
    arms: Arms = tuple(arm for arm in ARMS if arm not in WRONG_MASKS)
    seeds: Seeds = (0, 1, 2)
    width: Widths = 1.0
    size: Annotated[int, whole(8, 1024)] = 32
    batch: Annotated[int, whole(1, 2**20)] = 128
    crop: Annotated[int, whole(0, 1024)] = 2
    flip: Flag = True
    plain_steps: TrainingSteps = 3000
    retrain_steps: TrainingSteps = 1000
    plain_lr: LearningRate = 0.1
    retrain_lr: LearningRate = 0.05
    transfer: Flag = True
    arm: ArmConfig = field(default_factory=ArmConfig)
    series: Scheme = field(default_factory=lambda: Scheme(STRENGTHS, guide="contrast"))
    effort: Effort = field(default_factory=Effort)

    def __post_init__(self) -> None:
        check(self)
        _check_networks(self.networks)
        self._check_widths()
        for key, strengths in (("arm", self.arm.strengths), ("series", self.series.strengths)):
            if round(strengths[0] * LEVELS, 6) < 1:
                raise SettingError(
                    f"{key}.strengths[0]",
                    f"is {strengths[0]:g}, less than one grey level, so that no pixel could move; "
                    'give "1/255" or more',
                )

    def _check_widths(self) -> None:
        if isinstance(self.width, Mapping):
            for name in self.width:
                if name not in networks.names():
                    raise SettingError("width", unknown_name(name, networks.names(), "network"))
        for name in self.networks:
            if name in networks.OF_ONE_WIDTH and self.width_of(name) != 1:
                where = f"width.{name}" if isinstance(self.width, Mapping) else "width"
                raise SettingError(
                    where,
                    f"is {self.width_of(name):g}, but {name} has no width to choose; give the "
                    "others theirs by name, width = { alexnet = 0.5 }",
                )

    def width_of(self, network: str) -> float:
        """The factor of a network's numbers of channels; networks of the user's own have none."""
        if ":" in network:
            return 1.0
        return self.width.get(network, 1.0) if isinstance(self.width, Mapping) else self.width

    def config(self, seed: int, *, plain: bool) -> TrainingConfig:
        """How a network is trained first, or in an arm."""
        steps = self.plain_steps if plain else self.retrain_steps
        return TrainingConfig(
            steps,
            learning_rate=self.plain_lr if plain else self.retrain_lr,
            schedule="one-cycle",
            seed=2 * seed + (not plain),
            checkpoint_every=max(1, steps // 5),
            evaluate_every=max(1, steps // 10),
            channels_last=True,
        )


def _check_networks(names: tuple[str, ...]) -> None:
    """Raise SettingError for names that no network can have, or that would share a folder."""
    folders: dict[str, str] = {}
    for number, name in enumerate(names):
        key = f"networks[{number}]"
        file, _, function = name.rpartition(":")
        if name not in networks.names() and not (file and function):
            raise SettingError(
                key,
                f"is {brief(name)!r}, which is no network; choose from "
                f"{', '.join(networks.names())}, or name your own as file.py:function",
            )
        folder = networks.file_name(name)
        if shown(name) != name or len(folder.encode()) > _LONGEST_NAME:
            raise SettingError(
                key, f"cannot name a folder; give at most {_LONGEST_NAME} printable characters"
            )
        if other := folders.get(folded(folder)):
            raise SettingError(
                key, f"is {name!r}, which would share a folder with {other!r}; rename one of them"
            )
        folders[folded(folder)] = name


TRAINING, EVALUATION = "training.json", "evaluation.json"
"""Files in a unit's folder: what is told of its finished training, and of its attacks."""


@dataclass(frozen=True)
class Unit:
    """One trained network: its arm, and where its samples came from."""

    network: str
    seed: int
    arm: str
    source: str | None = None

    @property
    def folder(self) -> str:
        """Its folder's name."""
        name = f"{networks.file_name(self.network)}-{self.seed}"
        origin = f"-from-{networks.file_name(self.source)}" if self.source else ""
        return f"{name}/{self.arm}{origin}"


def units(experiment: Experiment) -> Iterator[Unit]:
    """All trainings, seed by seed, so that a run that is stopped has whole seeds."""
    for seed in experiment.seeds:
        for network in experiment.networks:
            yield Unit(network, seed, "plain")
            for arm in experiment.arms:
                if arm != "plain":
                    yield Unit(network, seed, arm)
        if experiment.transfer and "series" in experiment.arms:
            for network in experiment.networks:
                for source in experiment.networks:
                    if source != network:
                        yield Unit(network, seed, "series", source)
