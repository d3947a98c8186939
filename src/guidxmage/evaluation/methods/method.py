"""What a method is: a name, a library, and a function from an image and a class to a map."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import util
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from guidxmage.attribution.placement import smoothed
from guidxmage.errors import InputError, MissingExtraError
from guidxmage.evaluation.subject import Subject

Map = npt.NDArray[np.float64]
Attribute = Callable[[Subject, Tensor, int, int], Tensor]
SLOW = 500
Total = Literal["score", "score - bias", "score - score of black"]


@dataclass(frozen=True)
class Method:
    """One explanation method.

    attribute(subject, image (1, C, H, W) in the explained space, class, seed) → its map, (C, H, W)
    or (H, W). signed: values below 0 claim to oppose the class; else the map is 0 to 1 and claims
    what is above half its maximum. total: what its values promise to add up to, if anything.
    passes: about how many images are run through the network for one map. sigma: of the Gaussian
    that its map is drawn through for images (C, H, W), in pixels; 0 draws it as it is.
    """

    name: str
    title: str
    library: str
    attribute: Attribute
    signed: bool
    total: Total | None = None
    passes: Callable[[Subject], int] = lambda _: 2
    package: str = ""
    sigma: Callable[[Subject, tuple[int, ...]], float] = lambda *_: 0.0

    def is_slow(self, subject: Subject) -> bool:
        """Whether it takes so many passes that it is not run more often than it must."""
        return self.passes(subject) >= SLOW

    def explain(self, subject: Subject, image: Tensor, target: int, seed: int) -> Map:
        """The map (H, W) in float64, channels added. Raises whatever the library raises."""
        given = image[None].to(subject.dtype)
        values = self.attribute(subject, given, target, seed).detach().double()
        values = values.sum(0) if values.ndim == 3 else values
        found: Map = values.cpu().numpy()
        if found.shape != tuple(image.shape[1:]):
            raise InputError(f"{self.title} returned a map of shape {found.shape}")
        if not np.isfinite(found).all():
            raise InputError(f"{self.title} returned NaN or infinite values")
        return found

    def drawn(self, subject: Subject, values: Map, shape: tuple[int, ...]) -> Map:
        """A map of an image of that shape as it is shown."""
        sigma = self.sigma(subject, shape)
        if sigma == 0:
            return values
        found: Map = smoothed(torch.from_numpy(values), sigma).numpy()
        return found


def check_installed(methods: list[Method]) -> None:
    """Raise MissingExtraError for the first library that a method needs and that is not there."""
    for method in methods:
        if method.package and util.find_spec(method.package) is None:
            raise MissingExtraError(method.library, "eval")
