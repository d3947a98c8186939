"""A network under evaluation: as the project explains it, and as other libraries take it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from guidxmage.errors import InputError
from guidxmage.explainer import Explainer
from guidxmage.models.loaded import LoadedModel
from guidxmage.outputs.kinds import Scores


class Whole(nn.Module):
    """From the explained space, pixels where the preprocessing is known, to class scores."""

    def __init__(self, network: nn.Module, to_input: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.network, self.to_input = network, to_input

    def forward(self, x: Tensor) -> Tensor:
        """Scores (B, classes) of images (B, C, H, W)."""
        scores: Tensor = self.network(self.to_input(x))
        return scores


@dataclass(frozen=True)
class Subject:
    """One network in one precision.

    explainer: the project's own. whole: a copy that other libraries may hook into, with the
    normalisation in front; its parameters need no gradient. layer: the name in `whole.network` of
    the module whose output CAM methods look at, and its channels; "" and 0 without convolutions.
    """

    name: str
    weights: str
    explainer: Explainer
    whole: Whole
    layer: str
    channels: int

    @property
    def dtype(self) -> torch.dtype:
        """The precision it computes in."""
        return next(self.whole.parameters()).dtype

    def scores(self, images: Tensor, rows: int = 16) -> Tensor:
        """Class scores (n, classes) of images (n, C, H, W) in the explained space."""
        with torch.no_grad():
            parts = [self.whole(part.to(self.dtype)) for part in images.split(rows)]
        return torch.cat(parts)


def make_subject(loaded: LoadedModel, image_shape: torch.Size, dtype: torch.dtype) -> Subject:
    """The network in a precision, for images of one shape (C, H, W); the model is only copied.

    Raises UnsupportedOperatorError where it cannot be explained, and InputError where its output is
    no class scores.
    """
    if loaded.output is not None and not isinstance(loaded.output, Scores):
        raise InputError(
            f"evaluation compares explanations of class scores; the output of {loaded.name} is "
            f"{type(loaded.output).__name__}, which `explain` and `attack` take"
        )
    explainer = Explainer(
        copy.deepcopy(loaded.model).eval(),
        preprocessing=loaded.preprocessing,
        labels=loaded.labels,
        name=loaded.name,
        dtype=dtype,
        output=loaded.output,
    )
    explainer.weights_source = loaded.weights
    network = copy.deepcopy(explainer.model)
    whole = Whole(network, explainer.to_input).eval()
    layer, channels = last_feature_map(whole, torch.zeros((1, *image_shape), dtype=dtype))
    return Subject(loaded.name, loaded.weights, explainer, whole, layer, channels)


def last_feature_map(whole: Whole, example: Tensor) -> tuple[str, int]:
    """Where CAM methods look: the last feature map with the resolution of the last convolution.

    That is the last module to finish whose output (B, channels, H, W) has the height and width of
    the last convolution's: behind its batch-norm, ReLU and residual sum, before any pooling.
    Returns the module's name and its channels, "" and 0 where there is no convolution.
    """
    finished: list[tuple[str, nn.Module, torch.Size]] = []

    def note(name: str) -> Callable[[nn.Module, object, object], None]:
        def hook(module: nn.Module, _inputs: object, output: object) -> None:
            if isinstance(output, Tensor) and output.ndim == 4 and output.shape[2:].numel() > 1:
                finished.append((name, module, output.shape))

        return hook

    handles = [
        module.register_forward_hook(note(name))
        for name, module in whole.network.named_modules()
        if name
    ]
    try:
        with torch.no_grad():
            whole(example)
    finally:
        for handle in handles:
            handle.remove()
    sizes = [shape[2:] for _, module, shape in finished if isinstance(module, nn.Conv2d)]
    if not sizes:
        return "", 0
    name, _, shape = next(one for one in reversed(finished) if one[2][2:] == sizes[-1])
    return name, shape[1]
