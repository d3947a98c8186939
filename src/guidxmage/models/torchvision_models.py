"""torchvision's image classifiers by name, with their published weights."""

from __future__ import annotations

import http.client
import re
import sys
from collections import OrderedDict
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlparse

import torch
from torch import nn

from guidxmage.errors import InputError
from guidxmage.inputs.preprocessing import Preprocessing
from guidxmage.models.architecture import Architecture, Published
from guidxmage.models.torchvision_import import import_torchvision
from guidxmage.models.weights import StateDict, read_weights, with_version

# Families of convolutions, ReLU or ReLU6, max- and average-pools, without gates.
_PIECEWISE_LINEAR = (
    "alexnet", "densenet", "googlenet", "inception_v3", "mnasnet", "mobilenet_v2", "regnet_x",
    "resnet", "resnext", "shufflenet_v2", "squeezenet", "vgg", "wide_resnet",
)  # fmt: skip

# Published weights of these two expect the normalisation of the Inception papers, which the
# networks apply themselves to images normalised as for every other network.
_SETTINGS: dict[str, dict[str, Any]] = {
    name: {"aux_logits": False, "init_weights": False, "transform_input": True}
    for name in ("googlenet", "inception_v3")
}
# Their auxiliary classifiers serve training only.
_TRAINING_HEADS = re.compile(r"(aux1|aux2|AuxLogits)\.")
# DenseNet's published files are older than the ban on dots in module names.
_DOTTED = re.compile(r"(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\..*)")


def torchvision_names() -> list[str]:
    """Names of torchvision's image classifiers; MissingExtraError where it is not installed."""
    models = import_torchvision().models
    return list(models.list_models(module=models))


def torchvision_architecture(name: str) -> Architecture:
    """The network called ``name``, one of ``torchvision_names()``."""
    weights = import_torchvision().models.get_model_weights(name).DEFAULT
    preset = weights.transforms()
    size = int(preset.crop_size[0])
    return Architecture(
        name=name,
        source="torchvision",
        piecewise_linear=name.startswith(_PIECEWISE_LINEAR),
        input_size=size,
        preprocessing=Preprocessing.from_torchvision(preset),
        build=partial(_build, name, size),
        adapt=_adapt,
        published=Published(
            description=f"torchvision {weights.name}",
            parameters=weights.meta["num_params"],
            read=partial(_read, name, weights.url),
            available_offline=_cached(weights.url).is_file(),
        ),
    )


def _build(name: str, size: int, num_classes: int) -> nn.Module:
    settings = dict(_SETTINGS.get(name, {}))
    if name.startswith("vit_"):
        settings["image_size"] = size
    model: nn.Module = import_torchvision().models.get_model(
        name, weights=None, num_classes=num_classes, **settings
    )
    return model


def _adapt(weights: StateDict) -> StateDict:
    kept = (item for item in weights.items() if not _TRAINING_HEADS.match(item[0]))
    return with_version(OrderedDict((_undotted(name), tensor) for name, tensor in kept), weights)


def _undotted(name: str) -> str:
    match = _DOTTED.fullmatch(name)
    return match[1] + match[2] if match else name


# --- published weights ---------------------------------------------------------------------------


def _cached(url: str) -> Path:
    """Where torch.hub keeps a file."""
    return Path(torch.hub.get_dir(), "checkpoints", PurePosixPath(urlparse(url).path).name)


def _read(name: str, url: str) -> StateDict:
    file = _cached(url)
    if not file.is_file():
        _download(name, url, file)
    return read_weights(file)


def _download(name: str, url: str, file: Path) -> None:
    """Download to a temporary name, check the hash that the file's name ends in, rename."""
    digest = re.search(r"-([a-f0-9]+)$", file.stem)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(
            url, str(file), hash_prefix=digest[1] if digest else None, progress=sys.stderr.isatty()
        )
    # torch.hub reports a wrong hash as RuntimeError.
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise InputError(
            f"the weights of {name} could not be downloaded from {url} ({reason}); "
            "give a local weight file (--weights FILE), or weights='none' for random ones "
            "(--weights none)"
        ) from None
