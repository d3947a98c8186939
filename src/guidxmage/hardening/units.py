"""What an experiment consists of: its settings, and one unit for each network that is trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from guidxmage.errors import InputError
from guidxmage.hardening.robustness.measure import Effort
from guidxmage.hardening.samples.arms import ARMS, WRONG_MASKS, ArmConfig
from guidxmage.hardening.samples.suppression import STRENGTHS, Scheme
from guidxmage.hardening.training import networks
from guidxmage.hardening.training.schedule import TrainingConfig


@dataclass(frozen=True)
class Experiment:
    """What is run; see docs/hardening.md for the file that states it.

    networks: names or "module:function"; width: of the named ones, a factor for all or one by name;
    size: of photos in folders, which are scaled to it. plain_steps, retrain_steps:
    optimiser steps of the first training and of each arm; plain_lr, retrain_lr: peak learning
    rates. transfer: also retrain each network with the series of each other one; on these only the
    background is attacked, by PGD.
    """

    networks: tuple[str, ...] = ("alexnet", "resnet20", "densenet22")
    arms: tuple[str, ...] = tuple(arm for arm in ARMS if arm not in WRONG_MASKS)
    seeds: tuple[int, ...] = (0, 1, 2)
    width: float | Mapping[str, float] = 1.0
    size: int = 32
    batch: int = 128
    crop: int = 2
    flip: bool = True
    plain_steps: int = 3000
    retrain_steps: int = 1000
    plain_lr: float = 0.1
    retrain_lr: float = 0.05
    transfer: bool = True
    arm: ArmConfig = field(default_factory=ArmConfig)
    series: Scheme = field(default_factory=lambda: Scheme(STRENGTHS, guide="contrast"))
    effort: Effort = field(default_factory=Effort)

    def __post_init__(self) -> None:
        for arm in self.arms:
            if arm not in ARMS:
                raise InputError(f"arm {arm!r} is unknown; choose from {', '.join(ARMS)}")
        if not self.networks or not self.seeds:
            raise InputError("an experiment needs at least one network and one seed")
        if isinstance(self.width, Mapping):
            for name in self.width:
                if name not in networks.names():
                    raise InputError(
                        f"width names {name!r}; choose from {', '.join(networks.names())}"
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
