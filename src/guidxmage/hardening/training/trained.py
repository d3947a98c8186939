"""Networks that an experiment trained, ready to be explained."""

from __future__ import annotations

import json
from pathlib import Path

from guidxmage.errors import InputError
from guidxmage.hardening.training import networks
from guidxmage.hardening.training.loop import FINAL
from guidxmage.inputs.preprocessing import PIXELS
from guidxmage.models.labels import FASHION_MNIST_LABELS
from guidxmage.models.loaded import LoadedModel
from guidxmage.models.weights import load_weights, read_weights


def load_trained(folder: str | Path) -> LoadedModel:
    """The network whose final weights lie in an experiment's folder, such as out/alexnet-0/plain.

    Its class names are those of the garments where it has ten classes. Raises InputError for a
    folder without an experiment, or without weights.
    """
    folder = Path(folder)
    file = folder.parent.parent / "experiment.json"
    try:
        experiment = json.loads(file.read_text(encoding="utf-8"))
        known, width = list(experiment["networks"]), experiment["width"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise InputError(f"{folder} is no part of an experiment of guid-xmage harden") from error
    short = folder.parent.name.rpartition("-")[0]
    name = next((one for one in known if networks.file_name(one) == short), None)
    if name is None:
        raise InputError(f"{folder} holds a network that {file} does not name")
    weights = read_weights(folder / FINAL)
    own = width.get(name, 1.0) if isinstance(width, dict) else width
    own = 1.0 if ":" in name else own
    # The layer that computes the scores is defined last; files may hold it anywhere.
    head = next(reversed(networks.build(name, 2, width=own, seed=0).state_dict()))
    if head not in weights:
        raise InputError(f"{folder / FINAL} does not fit {name}: {head!r} is missing")
    classes = len(weights[head])
    network = networks.build(name, classes, width=own, seed=0)
    load_weights(network, weights, name=name, source=str(folder / FINAL))
    labels = FASHION_MNIST_LABELS if classes == len(FASHION_MNIST_LABELS) else None
    return LoadedModel(network.eval(), short, PIXELS, labels, f"trained: {FINAL} of {folder.name}")
