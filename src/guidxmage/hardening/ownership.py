"""Whose a folder is: one experiment's, with its settings, data, code and versions."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from guidxmage.errors import InputError
from guidxmage.files.atomic import HIDDEN, alone, others_present, present, read_sealed, write_sealed
from guidxmage.files.result_folder import sweep
from guidxmage.files.untrusted import entry, listed
from guidxmage.hardening.data.splits import Splits
from guidxmage.hardening.training import networks
from guidxmage.hardening.training.checkpoint import clear_checkpoints
from guidxmage.hardening.units import EVALUATION, TRAINING, Experiment
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


@contextmanager
def claimed(out: Path, experiment: Experiment, data: Splits) -> Iterator[None]:
    """Make a folder this experiment's own; networks, arms and seeds may be added to it.

    What killed runs left there is cleared away. What an earlier run stated and nothing came of may
    be stated anew, unless a run is at work there. Raises InputError, naming what differs, for the
    folder of an experiment with other settings, data, code or versions, and for anything else.
    """
    file = out / FILE
    own = _stated(experiment, data)
    with ExitStack() as stack:
        with alone(file):
            if file.exists():
                own = _agreed(out, _read(file), own)
            elif any(not path.name.startswith(HIDDEN) for path in out.iterdir()):
                raise InputError(
                    f"{out} holds something other than an experiment; choose another folder"
                )
            sweep(out, below=True)
            write_sealed(file, own)
            stack.enter_context(present(out))
        yield


def _agreed(out: Path, theirs: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """What two experiments that share a folder ask for together. Raises InputError."""
    differing = list(_differences(theirs, own))
    if not others_present(out):
        if not any(out.glob(f"*/*/{TRAINING}")):
            for folder in out.glob("*/*") if differing else ():
                clear_checkpoints(folder)
            return own
        if not any(out.glob(f"*/*/{EVALUATION}")):
            differing = [one for one in differing if one[0] != "effort"]
    for _, words in differing:
        raise InputError(f"{out} holds an experiment {words}; choose another folder")
    return _together(theirs, own)


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
        found = read_sealed(file)
        for name in ("networks", "arms", "seeds"):
            listed(found, name, int if name == "seeds" else str, str(file))
        for name in ("data", "code", "versions"):
            entry(found, name, dict, str(file))
        entry(found, "transfer", bool, str(file))
    except InputError as error:
        raise InputError(f"{error}; choose another folder") from error
    return found


def _differences(theirs: Mapping[str, Any], own: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """In what two experiments may not differ that stand in one folder, and how they do."""
    for name in (name for name in own if name not in {*GROWING, "data", "code", "versions"}):
        if theirs.get(name) != own[name]:
            yield name, f"with {name} {theirs.get(name)}, not {own[name]}"
    for name, words in _SPLITS.items():
        if theirs["data"].get(name) != own["data"][name]:
            yield "data", f"with other {words}"
    for name, digest in own["code"].items():
        if theirs["code"].get(name, digest) != digest:
            yield "code", f"with other code of {name}"
    for name, version in own["versions"].items():
        if theirs["versions"].get(name) != version:
            yield "versions", f"run with {name} {theirs['versions'].get(name)}, not {version}"


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
