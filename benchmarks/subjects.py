"""The networks of the attack benchmark and the images they are attacked on."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from train_small import IMAGES, NETS, architecture

from guidxmage import Explainer

NAMES = ("plain", "robust", "lenet", "residual", "efficientnet_lite0")
PHOTOS = 8


@dataclass(frozen=True)
class Subject:
    """`network` maps images in [0, 1] to scores; `ours` is what our attack is given for it.

    Every image is classified as its label says. `large`: attacks run fewer steps.
    """

    name: str
    network: nn.Module
    ours: nn.Module | Explainer
    images: Tensor
    labels: Tensor
    large: bool

    @property
    def digest(self) -> str:
        """Changes with the weights and with the images."""
        whole = hashlib.sha256()
        for tensor in (*self.network.state_dict().values(), self.images, self.labels):
            whole.update(tensor.detach().contiguous().numpy().tobytes())
        return whole.hexdigest()[:16]


class _OnPixels(nn.Module):
    """An explainer's network with its preprocessing inside."""

    def __init__(self, explainer: Explainer) -> None:
        super().__init__()
        self.model = explainer.model
        self.explainer = explainer

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(self.explainer.to_input(x))
        return logits


def subject(name: str, count: int | None = None) -> Subject:
    """A network with its images, the first `count` of them."""
    if name not in NAMES:
        raise SystemExit(f"network {name!r} is unknown; choose from {', '.join(NAMES)}")
    made = _photos() if name == "efficientnet_lite0" else _small(name)
    if count is None or count >= len(made.images):
        return made
    return Subject(
        name, made.network, made.ours, made.images[:count], made.labels[:count], made.large
    )


def _small(name: str) -> Subject:
    from safetensors.torch import load_file

    network = architecture(name)
    network.load_state_dict(load_file(NETS / f"{name}.safetensors"))
    network.eval().requires_grad_(False)
    file = next(file for file, (_, names) in IMAGES.items() if name in names)
    with np.load(NETS / file) as stored:
        images = torch.from_numpy(stored["images"]).float()[:, None] / 255
        labels = torch.from_numpy(stored["labels"]).long()
    return Subject(name, network, network, images, labels, large=False)


def _photos() -> Subject:
    """The first of foolbox's ImageNet photos that the network classifies correctly."""
    import foolbox

    explainer = Explainer.load()
    network = _OnPixels(explainer).eval().requires_grad_(False)
    files = sorted((Path(os.path.dirname(foolbox.__file__)) / "data").glob("imagenet_*.jpg"))
    images, labels = [], []
    for file in files:
        image, label = explainer.read(file), int(file.stem.split("_")[-1])
        with torch.no_grad():
            right = int(network(image[None]).argmax()) == label
        if right and len(images) < PHOTOS:
            images.append(image)
            labels.append(label)
    return Subject(
        "efficientnet_lite0",
        network,
        explainer,
        torch.stack(images),
        torch.tensor(labels),
        large=True,
    )
