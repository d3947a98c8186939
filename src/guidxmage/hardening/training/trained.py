"""Networks that an experiment trained, ready to be explained."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import torch

from guidxmage.errors import InputError
from guidxmage.files.names import brief
from guidxmage.files.schema import made
from guidxmage.files.untrusted import listed, read_json
from guidxmage.hardening.training import networks
from guidxmage.hardening.training.loop import FINAL
from guidxmage.hardening.units import Experiment
from guidxmage.inputs.preprocessing import PIXELS
from guidxmage.models.labels import FASHION_MNIST_LABELS
from guidxmage.models.loaded import LoadedModel
from guidxmage.models.weights import check_shapes, head_classes, load_weights, read_weights


def load_trained(folder: str | Path, code: str | None = None) -> LoadedModel:
    """The network whose final weights lie in an experiment's folder, such as out/alexnet-0/plain.

    Its class names are those of the garments where it has ten classes. code: the function
    (file.py:function or package.module:function) that makes a network of the user's own; it is run,
    and never taken from the folder. Raises InputError for a folder without an experiment, or
    without weights, and for one of a network that is code where `code` is not given.
    """
    folder = Path(folder)
    file = folder.parent.parent / "experiment.json"
    try:
        found = read_json(file)
        known = listed(found, "networks", str, str(file))
        settings = made(Experiment, {"networks": known, "width": found.get("width")})
    except InputError as error:
        raise InputError(
            f"{folder} is no part of an experiment of guid-xmage harden ({error})"
        ) from error
    short = folder.parent.name.rpartition("-")[0]
    name = next((one for one in known if networks.file_name(one) == short), None)
    if name is None:
        raise InputError(f"{folder} holds a network that {file} does not name")
    name = _allowed(name, code, folder)
    weights = read_weights(folder / FINAL)
    width = settings.width_of(name)
    # Numbers are drawn, and memory taken, for a network that the weights fit; the user's own code
    # may not know how to do without.
    with nullcontext() if ":" in name else torch.device("meta"):
        like = networks.build(name, 2, width=width, seed=0).state_dict()
    classes = head_classes(weights, like)
    if classes is None:
        head = next(reversed(like))
        raise InputError(
            f"{folder / FINAL} does not fit {name}: its last layer is not like {head!r}"
        )
    check_shapes(weights, like, name=name, source=str(folder / FINAL))
    network = networks.build(name, classes, width=width, seed=0)
    load_weights(network, weights, name=name, source=str(folder / FINAL))
    labels = FASHION_MNIST_LABELS if classes == len(FASHION_MNIST_LABELS) else None
    return LoadedModel(network.eval(), short, PIXELS, labels, f"trained: {FINAL} of {folder.name}")


def _allowed(name: str, code: str | None, folder: Path) -> str:
    """What makes the network that a folder names; of code, only what the user names."""
    own = ":" in name
    if own and code is None:
        raise InputError(
            f"{folder} holds a network that is code ({brief(name)}), which is not run because a "
            f"folder says so; if you trust it, name it: file.py:function={folder}"
        )
    if not own and code is not None:
        raise InputError(f"{folder} holds {brief(name)}, which is no code; leave out {code}")
    return name if code is None else code
