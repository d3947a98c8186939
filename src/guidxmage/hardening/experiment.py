"""The whole of hardening: train, make samples, retrain in arms, attack, and write it all down.

Everything lands in one folder, and every part that is there already is not made again, so that a
run that was stopped goes on where it was. Runs at the same time share what there is to do.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from guidxmage.errors import InputError
from guidxmage.explainer import Explainer
from guidxmage.files.atomic import alone, read_sealed, sha256_of, write_sealed
from guidxmage.files.locks import BusyError, Turns
from guidxmage.files.result_folder import held_folder
from guidxmage.hardening.data.dataset import ImageDataset, LabelledBatch
from guidxmage.hardening.data.splits import Splits
from guidxmage.hardening.ownership import claimed, whole
from guidxmage.hardening.readiness import check_fit
from guidxmage.hardening.robustness.background_reliance import accuracy, reliance
from guidxmage.hardening.robustness.gradient_masking import masking_checks
from guidxmage.hardening.robustness.measure import attack_part
from guidxmage.hardening.samples.arms import lesson, with_series
from guidxmage.hardening.samples.series import KIND as SERIES
from guidxmage.hardening.samples.series import MANIFEST, Series
from guidxmage.hardening.samples.suppression import suppress
from guidxmage.hardening.training import networks
from guidxmage.hardening.training.batches import Shuffled
from guidxmage.hardening.training.loop import FINAL, train
from guidxmage.hardening.training.processes import ALONE, processes
from guidxmage.hardening.units import EVALUATION, TRAINING, Experiment, Unit, units
from guidxmage.models.weights import read_weights
from guidxmage.provenance.versions import versions

__all__ = ["Experiment", "Unit", "Work", "first_images", "run", "units"]

SCHEMA = "guid-xmage/hardening/1"
_KINDS: dict[str, dict[str, type]] = {
    TRAINING: {"steps": int, "processor_seconds": float, "validation": list},
    EVALUATION: {
        **dict.fromkeys(("unit", "versions", "training", "reliance", "masking"), dict),
        "parts": list,
        "parameters": int,
    },
}
"""What has to be in a unit's files; one that somebody made by hand may lack anything."""
LIBRARIES = ("guid-xmage", "torch", "foolbox", "pyautoattack", "captum")
Say = Callable[[str], None]


def run(experiment: Experiment, data: Splits, out: Path, say: Say = print) -> list[dict[str, Any]]:
    """Do what is missing in the folder; the evaluations that are there then. Raises InputError.

    Those of networks, arms and seeds that an earlier run asked for stand among them. Under torchrun
    all processes train together; the first one does the rest, and the others return nothing.
    """
    first = int(os.environ.get("RANK", "0")) == 0
    check_fit(experiment, data)
    work = Work(experiment, data, out, say, first)
    with claimed(out, experiment, data) if first else nullcontext():
        # One group for all trainings; the other processes leave before the attacks.
        with processes(None) as team:
            work.team = team
            _each(units(experiment), work.train, alone=team.count == 1)
        work.team = ALONE
        if not first:
            return []
        _each(units(experiment), work.evaluate, alone=True)
        found = (work.evaluation(unit) for unit in units(whole(experiment, out)))
        return [one for one in found if one is not None]


def _each(units: Iterator[Unit], work: Callable[[Unit, bool], None], *, alone: bool) -> None:
    """Work on each unit; those that another run is at come last, but for processes in step."""
    turns = Turns(units)
    for unit, wait in turns:
        try:
            work(unit, wait or not alone)
        except BusyError:
            turns.put_off(unit)


class Work:
    """Trainings and evaluations, each from the files of those it needs.

    first: whether this process writes files. team: those that train together.
    """

    def __init__(
        self, experiment: Experiment, data: Splits, out: Path, say: Say, first: bool
    ) -> None:
        self.experiment, self.data, self.out, self.say = experiment, data, out, say
        self.first, self.team = first, ALONE
        self.done: set[Unit] = set()

    def evaluate(self, unit: Unit, wait: bool = True) -> None:
        """Attack a unit's network if that was not done yet. Raises BusyError unless to wait."""
        if self.evaluation(unit) is not None:
            return
        network = self.trained(unit)
        with self._held(unit, wait):
            if self.evaluation(unit) is None:
                write_sealed(self._file(unit, EVALUATION), self._evaluate(unit, network), nan=False)

    def evaluation(self, unit: Unit) -> dict[str, Any] | None:
        """All figures of a unit as they were written, of the weights that are there now."""
        found = _read(self._file(unit, EVALUATION))
        if found is None or found.get("weights") != _weights(self.out / unit.folder):
            return None
        return {key: value for key, value in found.items() if key not in ("weights", "digest")}

    def _evaluate(self, unit: Unit, network: nn.Module) -> dict[str, Any]:
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
            "weights": _weights(self.out / unit.folder),
            "training": self._training(unit),
            "reliance": leaning.to_json(),
            "parts": [result.to_json() for result in results],
            "masking": checks.to_json(),
            "seconds": time.perf_counter() - began,
        }

    def train(self, unit: Unit, wait: bool = True) -> None:
        """Train the network of a unit if its weights are not there yet, all processes together.

        Raises BusyError where another run is at it, unless to wait.
        """
        if unit in self.done:
            return
        with self._held(unit, wait):
            # The first process decides for all: the others may look before it has written a file.
            missing = self.first and self._training(unit) is None
            if self.team.total(float(missing))[0]:
                folder = self.out / unit.folder
                told = self._train(unit, self.start(unit), folder)
                if self.first:
                    told["weights"] = _weights(folder)
                    write_sealed(self._file(unit, TRAINING), told)
        self.done.add(unit)

    def _training(self, unit: Unit) -> dict[str, Any] | None:
        """What was told of a finished training, where its weights are as they were written."""
        found = _read(self._file(unit, TRAINING))
        if found is None or found.get("weights") != _weights(self.out / unit.folder):
            return None
        return {key: value for key, value in found.items() if key not in ("weights", "digest")}

    def _file(self, unit: Unit, name: str) -> Path:
        return self.out / unit.folder / name

    def _held(self, unit: Unit, wait: bool) -> AbstractContextManager[object]:
        """Keep other runs off a unit; the first process does so for all."""
        if not self.first:
            return nullcontext()
        waiting = f"{unit.folder}: waiting for another run"
        return alone(self.out / unit.folder, wait=wait, told=lambda: self.say(waiting))

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
        self.train(source)
        self.team.first_does(lambda: self._make_series(source, folder))
        return Series.load(folder)

    def _make_series(self, source: Unit, folder: Path) -> None:
        """Make the samples, unless they are there as they were written."""
        told = f"{source.folder}: waiting for another run that makes its samples"
        with held_folder(folder, SERIES, told=lambda: self.say(told)) as held:
            weights = _weights(self.out / source.folder)
            about = (held.mark() or {}).get("about")
            if isinstance(about, dict) and about.get("weights") == weights and held.intact():
                return
            self.say(f"{source.folder}: samples of {len(self.data.train)} images")
            began = time.process_time()
            made = self._samples(self.trained(source))
            seconds = time.process_time() - began
            own = {"network": source.network, "seed": source.seed, "weights": weights}
            with held.replaced(overwrite=True) as new:
                made.write_into(new, {**own, "processor_seconds": seconds})

    def _source(self, unit: Unit) -> tuple[Unit, Path]:
        """The network that makes a unit's samples, and the folder they are in."""
        source = Unit(unit.source or unit.network, unit.seed, "plain")
        return source, self.out / source.folder / "series"

    def _seconds_of_samples(self, unit: Unit) -> float | None:
        about = read_sealed(self._source(unit)[1] / MANIFEST)["about"]
        seconds: float | None = about.get("processor_seconds")
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


def _read(file: Path) -> dict[str, Any] | None:
    """What was written; None where it is not there or damaged, and so has to be made again."""
    try:
        found = read_sealed(file)
    except InputError:
        return None
    kinds = _KINDS[file.name]
    return found if all(isinstance(found.get(key), kinds[key]) for key in kinds) else None


def _weights(folder: Path) -> str | None:
    """The fingerprint of a unit's final weights; None where there are none."""
    try:
        return sha256_of(folder / FINAL)
    except OSError:
        return None


def first_images(data: ImageDataset, count: int, seed: int) -> LabelledBatch:
    """Some images, drawn once and for all; those without an object or a background are left out."""
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))
    batch = data.__getitems__(order[: 2 * count].tolist())
    share = batch.masks.flatten(1).float().mean(1)
    rows = ((share > 0) & (share < 1)).nonzero()[:count, 0]
    return LabelledBatch(*(part[rows] for part in batch))
