"""Whose a folder is: one experiment's, with its settings, data, code and versions."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from guidxmage.errors import InputError
from guidxmage.files.atomic import HIDDEN, alone, read_sealed, write_sealed
from guidxmage.files.result_folder import sweep
from guidxmage.hardening.data.splits import Splits
from guidxmage.hardening.training import networks
from guidxmage.hardening.units import Experiment
from guidxmage.models.python_models import code_of
from guidxmage.provenance import fingerprint

SCHEMA = "guid-xmage/experiment/1"
FILE = "experiment.json"
GROWING = ("networks", "arms", "seeds", "transfer")
"""Settings to which later runs may add."""
_SPLITS = {
    "train": "training images",
    "validation": "validation images",
    "test": "test images",
    "same": "images before backgrounds of their own class",
    "mixed": "images before backgrounds of any class",
}


def claim(out: Path, experiment: Experiment, data: Splits) -> None:
    """Make a folder this experiment's own; networks, arms and seeds may be added to it.

    What killed runs left there is cleared away. Raises InputError, naming what differs, for the
    folder of an experiment with other settings, data, code or versions, and for anything else.
    """
    file = out / FILE
    own = _stated(experiment, data)
    with alone(file):
        if file.exists():
            theirs = _read(file)
            _compare(out, theirs, own)
            own = _together(theirs, own)
        elif any(not path.name.startswith(HIDDEN) for path in out.iterdir()):
            raise InputError(
                f"{out} holds something other than an experiment; choose another folder"
            )
        sweep(out, below=True)
        write_sealed(file, own)


def whole(experiment: Experiment, out: Path) -> Experiment:
    """The experiment with all networks, arms and seeds that runs in the folder asked for."""
    theirs = _read(out / FILE)
    return replace(
        experiment,
        networks=tuple(theirs["networks"]),
        arms=tuple(theirs["arms"]),
        seeds=tuple(theirs["seeds"]),
        transfer=bool(theirs["transfer"]),
    )


def _stated(experiment: Experiment, data: Splits) -> dict[str, Any]:
    """What the results depend on, as JSON values."""
    own = {
        "schema": SCHEMA,
        **asdict(experiment),
        "data": {name: _of_split(data, name) for name in _SPLITS},
        "code": {
            name: _of_code(name, experiment, len(data.train.classes))
            for name in experiment.networks
            if ":" in name
        },
        "versions": fingerprint.makers(),
    }
    found: dict[str, Any] = json.loads(json.dumps(own))
    return found


def _of_split(data: Splits, name: str) -> str | None:
    split = getattr(data, name)
    return None if split is None else split.fingerprint()


def _of_code(name: str, experiment: Experiment, classes: int) -> str:
    """A network of the user's own as it is before training, with the code that makes it."""
    made = [
        networks.build(name, classes, width=experiment.width_of(name), seed=0) for _ in range(2)
    ]
    code = code_of(name)
    found = [fingerprint.of_network(network, code=code) for network in made]
    if found[0] == found[1]:
        return found[0]
    with torch.no_grad():
        for parameter in made[0].parameters():  # which no seed decides, and so say nothing
            parameter.zero_()
    return fingerprint.of_network(made[0], code=code)


def _read(file: Path) -> dict[str, Any]:
    try:
        return read_sealed(file)
    except InputError as error:
        raise InputError(f"{error}; choose another folder") from error


def _compare(out: Path, theirs: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Raise InputError where two experiments may not stand in one folder."""
    for name in set(own) - {*GROWING, "data", "code", "versions"}:
        if theirs.get(name) != own[name]:
            raise InputError(
                f"{out} holds an experiment with {name} {theirs.get(name)}, not {own[name]}; "
                "choose another folder"
            )
    for name, words in _SPLITS.items():
        if theirs["data"].get(name) != own["data"][name]:
            raise InputError(f"{out} holds an experiment with other {words}; choose another folder")
    for name, digest in own["code"].items():
        if theirs["code"].get(name, digest) != digest:
            raise InputError(
                f"{out} holds an experiment with other code of {name}; choose another folder"
            )
    for name, version in own["versions"].items():
        if theirs["versions"].get(name) != version:
            raise InputError(
                f"{out} holds an experiment run with {name} {theirs['versions'].get(name)}, not "
                f"{version}; choose another folder"
            )


def _together(theirs: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """What both ask for, in this one's order where it asks for all."""
    joined = {name: _joined(theirs[name], own[name]) for name in ("networks", "arms", "seeds")}
    return {
        **own,
        **joined,
        "transfer": theirs["transfer"] or own["transfer"],
        "code": {**theirs["code"], **own["code"]},
    }


def _joined(theirs: Iterable[Any], own: Iterable[Any]) -> list[Any]:
    earlier, asked = list(theirs), list(own)
    if set(asked) >= set(earlier):
        return asked
    return [*earlier, *(one for one in asked if one not in earlier)]
