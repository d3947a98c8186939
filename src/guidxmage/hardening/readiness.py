"""Whether an experiment can be run at all, found out before anything is written or trained."""

from __future__ import annotations

import os
from importlib import util

import torch
from torch import nn

from guidxmage.errors import InputError, MissingExtraError, SettingError
from guidxmage.hardening.data.dataset import ImageDataset, LabelledBatch
from guidxmage.hardening.data.splits import Splits
from guidxmage.hardening.training import networks
from guidxmage.hardening.units import Experiment
from guidxmage.models.python_models import check_factory

# What attacks and measurements need, which come after hours of training: module, package, extra.
_NEEDED = (
    ("safetensors", "safetensors", "train"),
    ("foolbox", "foolbox", "robust"),
    ("pyautoattack", "pyautoattack", "robust"),
    ("captum", "captum", "robust"),
)
# Among so many test images there has to be one with an object and a background.
_TRIED = 256


def check_code(experiment: Experiment) -> None:
    """Whether packages are installed and the user's own networks can be imported.

    Raises MissingExtraError or InputError. Done before the data are read.
    """
    for module, package, extra in _NEEDED:
        if util.find_spec(module) is None:
            raise MissingExtraError(package, extra)
    for number, name in enumerate(experiment.networks):
        if ":" in name:
            try:
                check_factory(name)
            except InputError as error:
                raise SettingError(f"networks[{number}]", f"cannot be used: {error}") from error


def check_fit(experiment: Experiment, data: Splits) -> None:
    """Whether the data go with the settings and with every network. Raises InputError."""
    images, together = len(data.train), int(os.environ.get("WORLD_SIZE", "1"))
    if experiment.batch > images:
        raise SettingError(
            "batch", f"is {experiment.batch}, but there are {images} training images; give fewer"
        )
    if experiment.batch % together:
        raise SettingError(
            "batch",
            f"is {experiment.batch}, which {together} processes cannot share evenly; give a "
            f"multiple of {together}",
        )
    if len(data.train.classes) < 2:
        raise InputError("the data have one class only; a network needs at least two to tell apart")
    if not _has_parts(data.test):
        raise InputError(
            "no test image has both an object and a background; correct the masks of the data"
        )
    batch = data.train.__getitems__(range(min(2, images)))
    for number, name in enumerate(experiment.networks):
        _check_network(f"networks[{number}]", name, experiment, batch, len(data.train.classes))


def _has_parts(data: ImageDataset) -> bool:
    """Whether some image has an object and a background."""
    draw = torch.Generator().manual_seed(0)
    for rows in torch.randperm(len(data), generator=draw)[:_TRIED].split(32):
        share = data.__getitems__(rows.tolist()).masks.flatten(1).float().mean(1)
        if bool(((share > 0) & (share < 1)).any()):
            return True
    return False


def _check_network(
    key: str, name: str, experiment: Experiment, batch: LabelledBatch, classes: int
) -> None:
    """Whether an untrained network turns some images into one score for each class."""
    network = networks.build(name, classes, width=experiment.width_of(name), seed=0).eval()
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise SettingError(key, f"is {name!r}, which has no parameters to train")
    shape = "×".join(map(str, batch.images.shape[1:]))
    try:
        scores = _scores(network, batch)
    except Exception as error:  # the user's own network raises what it likes
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise SettingError(
            key,
            f"is {name!r}, which cannot take images of {shape} pixels ({reason}); change size or "
            "name another network",
        ) from error
    expected = (len(batch.images), classes)
    if not isinstance(scores, torch.Tensor) or tuple(scores.shape) != expected:
        found = list(scores.shape) if isinstance(scores, torch.Tensor) else type(scores).__name__
        raise SettingError(
            key, f"is {name!r}, which returns {found} where scores {list(expected)} are expected"
        )


def _scores(network: nn.Module, batch: LabelledBatch) -> object:
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        return network(batch.images)
