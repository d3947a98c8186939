"""What every measure is given: one view, one class, and the network in float64 and float32."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from guidxmage.evaluation.methods.method import Map, Method
from guidxmage.evaluation.subject import Subject
from guidxmage.explanation import Explanation

REGIONS, REGION_EPS = 24, 0.1
Falls = npt.NDArray[np.float64]
Figures = dict[str, float | int | bool | list[float] | None]
"""What a measure finds, ready for JSON; None where there is nothing to say."""


@dataclass(frozen=True)
class Case:
    """One view of a photo and the class that is explained.

    exact: the network in float64; fast: in the precision that methods run in; untrained: that with
    its parameters shuffled. image (C, H, W) is in the explained space, float64. explanation: the
    project's own, in float64, for the region that the image lies in. mask (H, W): the object, where
    it is known. seed: for whatever is drawn.
    """

    exact: Subject
    fast: Subject
    untrained: Subject
    image: Tensor
    target: int
    explanation: Explanation
    mask: npt.NDArray[np.bool_] | None
    seed: int

    @property
    def score(self) -> float:
        """The network's score of the class, in float64."""
        return float(self.explanation.score)

    def generator(self, stream: int) -> np.random.Generator:
        """Draws that are the same for every method."""
        return np.random.default_rng([self.seed, stream])

    def falls(self, regions: Sequence[npt.NDArray[np.bool_]], eps: float) -> Falls:
        """How much the score falls when each region (H, W) is attenuated by ε, float64 (n,)."""
        images = torch.stack([attenuated(self.image, region, eps) for region in regions])
        found: Falls = self.score - self.exact.scores(images)[:, self.target].cpu().numpy()
        return found

    @cached_property
    def rectangles(self) -> list[npt.NDArray[np.bool_]]:
        """Some regions that are the same for every method."""
        return draw_rectangles(self.image.shape[1:], REGIONS, self.generator(1))

    @cached_property
    def rectangle_falls(self) -> Falls:
        """What they do to the score when they are attenuated by `REGION_EPS`."""
        return self.falls(self.rectangles, REGION_EPS)

    def probabilities(self, images: Tensor) -> npt.NDArray[np.float64]:
        """The class's softmax probability, (n,), in the fast precision."""
        found = self.fast.scores(images).double().softmax(1)[:, self.target]
        return np.asarray(found.cpu().numpy())


@dataclass(frozen=True)
class Claimed:
    """A method's map (H, W) for a case, and how long it took."""

    method: Method
    values: Map
    seconds: float = 0.0

    def positive(self) -> npt.NDArray[np.bool_]:
        """The pixels said to support the class: above 0, or above half the maximum of a CAM."""
        if self.method.signed:
            return np.asarray(self.values > 0)
        return np.asarray(self.values > self.values.max() / 2)

    def negative(self) -> npt.NDArray[np.bool_] | None:
        """The pixels said to oppose the class; None where a method makes no such claim."""
        return np.asarray(self.values < 0) if self.method.signed else None


def attenuated(image: Tensor, pixels: npt.NDArray[np.bool_], eps: float) -> Tensor:
    """The image (C, H, W) with the pixels (H, W) scaled by 1 − ε."""
    scale = 1 - eps * torch.from_numpy(pixels).to(image)
    return image * scale


def draw_rectangles(
    shape: tuple[int, ...], count: int, generator: np.random.Generator
) -> list[npt.NDArray[np.bool_]]:
    """Masks (H, W) of rectangles with sides of a quarter to half of the image's."""
    found = []
    for _ in range(count):
        mask = np.zeros(shape, dtype=bool)
        tall, wide = (int(generator.integers(max(1, n // 4), n // 2 + 1)) for n in shape)
        top, left = (
            int(generator.integers(0, n - size + 1))
            for n, size in zip(shape, (tall, wide), strict=True)
        )
        mask[top : top + tall, left : left + wide] = True
        found.append(mask)
    return found
