"""What the registry knows of a network: how to build it, and where its published weights are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import nn

from guidxmage.inputs.preprocessing import Preprocessing
from guidxmage.models.weights import StateDict

Source = Literal["bundled", "torchvision", "timm"]


@dataclass(frozen=True)
class Published:
    """Published weights: read on demand, and described in one line.

    ``parameters`` counts auxiliary classifiers, which serve training only, where there are any.
    """

    description: str
    parameters: int
    read: Callable[[], StateDict]
    available_offline: bool


@dataclass(frozen=True)
class Architecture:
    """A network by name, for any number of classes.

    ``input_size``: side of the square images it was made for. ``adapt`` translates the names in
    weight files to the network's own and drops what evaluation does not use.
    """

    name: str
    source: Source
    piecewise_linear: bool
    input_size: int
    preprocessing: Preprocessing
    build: Callable[[int], nn.Module]
    adapt: Callable[[StateDict], StateDict]
    published: Published
