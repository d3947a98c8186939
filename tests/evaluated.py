"""What the tests of evaluation share: a network whose truth is planted, and cases of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from guidxmage.evaluation.data.photos import Photo
from guidxmage.evaluation.measures import Case, Claimed
from guidxmage.evaluation.measures.randomisation import shuffled
from guidxmage.evaluation.methods import METHODS, Method
from guidxmage.evaluation.subject import make_subject
from guidxmage.inputs.preprocessing import PIXELS
from guidxmage.models.loaded import LoadedModel

SIDE = 12
GOOD, BAD = (slice(2, 6), slice(2, 6)), (slice(7, 10), slice(7, 11))
"""Where the planted network finds evidence for its first class, and against it."""


class Planted(nn.Module):
    """Class 0 scores what is bright in GOOD, less what is bright in BAD; the rest is not used."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 1)
        self.head = nn.Linear(2 * SIDE * SIDE, 2)
        weights = torch.zeros(2, 2, SIDE, SIDE)
        weights[0, 0][GOOD] = 1.0
        weights[0, 1][BAD] = -0.5
        with torch.no_grad():
            self.conv.weight.copy_(
                torch.tensor([[1.0, 0.5, 0.25], [0.5, 1.0, 0.5]])[..., None, None]
            )
            self.conv.bias.copy_(torch.tensor([-0.1, -0.1]))
            self.head.weight.copy_(weights.flatten(1))
            self.head.bias.copy_(torch.tensor([0.3, 0.0]))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.conv(x)).flatten(1))


def truth() -> np.ndarray:
    """The mask of the pixels that support class 0."""
    mask = np.zeros((SIDE, SIDE), dtype=bool)
    mask[GOOD] = True
    return mask


def loaded(network: nn.Module | None = None) -> LoadedModel:
    return LoadedModel((network or Planted()).eval(), "planted", PIXELS, None, "by hand")


def photo(number: int = 0, label: int | None = 0) -> Photo:
    """A noisy picture whose every pixel is bright enough for the network's ReLUs."""
    draws = np.random.default_rng(number)
    levels = draws.integers(60, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    return Photo(f"photo {number}", lambda: Image.fromarray(levels), label, truth)


def case(
    network: nn.Module | None = None,
    image: Tensor | None = None,
    mask: np.ndarray | None = None,
    target: int = 0,
) -> Case:
    """A case of the planted network, or of another one."""
    if image is None:
        picture = torch.from_numpy(np.array(photo().read()))
        image = picture.permute(2, 0, 1).double() / 255
    model = loaded(network)
    exact = make_subject(model, image.shape, torch.float64)
    fast = make_subject(model, image.shape, torch.float32)
    explanation = exact.explainer.explain(image, target)
    return Case(exact, fast, shuffled(fast, 0), image, target, explanation, mask, seed=5)


def claimed(values: np.ndarray, method: str = "guid-xmage", **changes: object) -> Claimed:
    """A map as if that method had made it."""
    return Claimed(replace(METHODS[method], **changes), np.asarray(values, dtype=np.float64))


def explained(method: Method | str, of: Case) -> Claimed:
    """The map that a method makes of a case."""
    one = METHODS[method] if isinstance(method, str) else method
    return Claimed(one, one.explain(of.fast, of.image, of.target, of.seed))
