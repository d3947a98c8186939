"""The whole of hardening: train, make samples, retrain in arms, attack, and write it all down.

Everything lands in one folder, and every part that is there already is not made again, so that a
run that was stopped goes on where it was.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from guidxmage.errors import InputError
from guidxmage.explainer import Explainer
from guidxmage.files import MANIFEST, write_atomically
from guidxmage.hardening import networks
from guidxmage.hardening.arms import ARMS, WRONG_MASKS, ArmConfig, lesson, with_series
from guidxmage.hardening.dataset import Batch, ImageDataset
from guidxmage.hardening.masking import masking_checks
from guidxmage.hardening.processes import processes
from guidxmage.hardening.recipe import Shuffled
from guidxmage.hardening.reliance import accuracy, reliance
from guidxmage.hardening.robustness import Effort, attack_part
from guidxmage.hardening.schedule import TrainingConfig
from guidxmage.hardening.series import Series
from guidxmage.hardening.splits import Splits
from guidxmage.hardening.suppression import STRENGTHS, Scheme, suppress
from guidxmage.hardening.training import FINAL, train
from guidxmage.models.weights import read_weights
from guidxmage.versions import versions

SCHEMA = "guid-xmage/hardening/1"
EVALUATION, TRAINING = "evaluation.json", "training.json"
LIBRARIES = ("guid-xmage", "torch", "foolbox", "pyautoattack", "captum")
Say = Callable[[str], None]


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


def run(experiment: Experiment, data: Splits, out: Path, say: Say = print) -> list[dict[str, Any]]:
    """Do what is missing in the folder; the evaluations of all units. Raises InputError.

    Under torchrun all processes train together; the first one does the rest, and the others return
    nothing.
    """
    first = int(os.environ.get("RANK", "0")) == 0
    if first:
        _claim(out, experiment)
    work = Work(experiment, data, out, say, first)
    with processes(None):  # one group for all trainings; the others leave before the attacks
        for unit in units(experiment):
            work.train(unit)
    if not first:
        return []
    found = []
    for unit in units(experiment):
        file = out / unit.folder / EVALUATION
        if not file.is_file():
            _write(file, work.evaluate(unit))
        found.append(_read(file))
    return found


def _write(file: Path, content: Any) -> None:
    """JSON, whole or not at all."""
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    write_atomically(file, f"{text}\n".encode())


def _claim(out: Path, experiment: Experiment) -> None:
    """The folder belongs to one experiment; arms, networks and seeds may be added to it."""
    own = json.loads(json.dumps(asdict(experiment)))
    file = out / "experiment.json"
    if file.is_file():
        theirs = _read(file)
        for name in set(own) - {"networks", "arms", "seeds", "transfer"}:
            if theirs.get(name) != own[name]:
                raise InputError(
                    f"{out} holds an experiment with {name} {theirs.get(name)}, not {own[name]}; "
                    "choose another folder"
                )
    elif out.exists() and any(out.iterdir()):
        raise InputError(f"{out} holds something other than an experiment; choose another folder")
    _write(file, own)


class Work:
    """Trainings and evaluations, each from the files of those it needs."""

    def __init__(
        self, experiment: Experiment, data: Splits, out: Path, say: Say, first: bool
    ) -> None:
        self.experiment, self.data, self.out, self.say = experiment, data, out, say
        self.first = first
        self.done: set[Unit] = set()

    def evaluate(self, unit: Unit) -> dict[str, Any]:
        """All figures of one unit."""
        network = self.trained(unit)
        self.say(f"{unit.folder}: attacks")
        began = time.perf_counter()
        effort = self.experiment.effort
        if unit.source is not None:
            effort = effort.least()
        batch = first_images(self.data.test, effort.images, effort.seed)
        results = tuple(attack_part(network, batch, part, effort) for part in effort.parts)
        checks = masking_checks(network, batch, results, effort)
        leaning = reliance(network, self.data.test, self.data.same, self.data.mixed, batch)
        return {
            "schema": SCHEMA,
            "unit": asdict(unit),
            "versions": versions(LIBRARIES),
            "parameters": sum(p.numel() for p in network.parameters()),
            "training": _read(self.out / unit.folder / TRAINING),
            "reliance": leaning.to_json(),
            "parts": [result.to_json() for result in results],
            "masking": checks.to_json(),
            "seconds": time.perf_counter() - began,
        }

    def train(self, unit: Unit) -> None:
        """Train the network of a unit if its weights are not there yet."""
        folder = self.out / unit.folder
        # The first process may not have written the file yet when another one looks for it.
        if unit in self.done or (folder / TRAINING).is_file():
            return
        told = self._train(unit, self.start(unit), folder)
        if self.first:
            _write(folder / TRAINING, told)
        self.done.add(unit)

    def trained(self, unit: Unit) -> nn.Module:
        """The network of a unit, in eval mode."""
        self.train(unit)
        network = self.untrained(unit)
        network.load_state_dict(read_weights(self.out / unit.folder / FINAL))
        # As in training: gradients take a half to three quarters of the time.
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return network.eval()

    def start(self, unit: Unit) -> nn.Module:
        """What training begins with: a new network, or the plainly trained one."""
        if unit.arm != "plain":
            return self.trained(Unit(unit.network, unit.seed, "plain"))
        return self.untrained(unit)

    def untrained(self, unit: Unit) -> nn.Module:
        """A new network of the unit's kind."""
        width = self.experiment.width_of(unit.network)
        classes = len(self.data.train.classes)
        return networks.build(unit.network, classes, width=width, seed=unit.seed)

    def _train(self, unit: Unit, network: nn.Module, folder: Path) -> dict[str, Any]:
        own = self.experiment
        data: ImageDataset = self.data.train
        samples_seconds: float | None = 0.0
        if unit.arm == "series":
            data = with_series(data, self.series(unit))
            samples_seconds = self._seconds_of_samples(unit)
        self.say(f"{unit.folder}: training")
        config = own.config(unit.seed, plain=unit.arm == "plain")
        shuffled = Shuffled(
            data,
            own.batch,
            seed=config.seed,
            crop=own.crop,
            flip=own.flip,
            lesson=lesson(unit.arm, own.arm),
        )
        result = train(
            network,
            shuffled,
            config,
            folder=folder,
            evaluate=lambda trained: accuracy(trained, self.data.validation),
        )
        return {
            "steps": result.steps,
            "seconds": result.seconds,
            "processor_seconds": result.processor_seconds,
            "samples_processor_seconds": samples_seconds,
            "validation": result.curves.get("score", []),
        }

    def series(self, unit: Unit) -> Series:
        """The samples of the plainly trained source network, for all training images."""
        source, folder = self._source(unit)
        if not (folder / MANIFEST).is_file() and self.first:
            network = self.trained(source)
            self.say(f"{source.folder}: samples of {len(self.data.train)} images")
            began = time.process_time()
            made = self._samples(network)
            seconds = time.process_time() - began
            about = {"network": source.network, "seed": source.seed, "processor_seconds": seconds}
            made.save(folder, **about)
        while not (folder / MANIFEST).is_file():  # the first process is making them
            time.sleep(1)
        return Series.load(folder)

    def _source(self, unit: Unit) -> tuple[Unit, Path]:
        """The network that makes a unit's samples, and the folder they are in."""
        source = Unit(unit.source or unit.network, unit.seed, "plain")
        return source, self.out / source.folder / "series"

    def _seconds_of_samples(self, unit: Unit) -> float | None:
        seconds: float | None = _read(self._source(unit)[1] / MANIFEST)["about"].get(
            "processor_seconds"
        )
        return seconds

    def _samples(self, network: nn.Module) -> Series:
        explainer, scheme = Explainer(network, batch_rows=256), self.experiment.series
        parts = []
        for rows in torch.arange(len(self.data.train)).split(2048):
            batch = self.data.train.__getitems__(rows.tolist())
            parts.append(
                suppress(explainer, batch.images, batch.masks, batch.labels, scheme=scheme)
            )
        return Series.concatenate(parts)


def _read(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return content


def first_images(data: ImageDataset, count: int, seed: int) -> Batch:
    """Some images, drawn once and for all; those without an object or a background are left out."""
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))
    batch = data.__getitems__(order[: 2 * count].tolist())
    share = batch.masks.flatten(1).float().mean(1)
    rows = ((share > 0) & (share < 1)).nonzero()[:count, 0]
    return Batch(*(part[rows] for part in batch))
