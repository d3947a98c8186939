"""A network that is ready to be explained, with all that belongs to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from torch import Tensor, nn

from guidxmage.inputs.preprocessing import Preprocessing
from guidxmage.outputs.kinds import Output
from guidxmage.reports.short_repr import short_repr


@dataclass(frozen=True)
class LoadedModel:
    """A classifier in evaluation mode, its preprocessing, class names, and where they come from.

    ``preprocessing`` is None or any callable only for networks from the user's own code.
    ``labels``: one name per class, or None where they are unknown. ``weights``: for example
    "torchvision IMAGENET1K_V2", "file resnet50.pth" or "random, seed 0". ``code``: the user's own
    files that made it. ``check``: called with inputs (B, C, …) before the first are explained;
    raises InputError where the network is not what it was loaded from. ``output``: what its output
    means, where that is not class scores.
    """

    model: nn.Module
    name: str
    preprocessing: Preprocessing | Callable[[Image.Image], Tensor] | None
    labels: tuple[str, ...] | None
    weights: str
    code: tuple[Path, ...] = ()
    check: Callable[[Tensor], None] | None = None
    output: Output | None = None

    __repr__ = short_repr
