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
SUPERPIXELS = 30  # about so many
Falls = npt.NDArray[np.float64]
Figures = dict[str, float | int | bool | list[float] | None]
"""What a measure finds, ready for JSON; None where there is nothing to say."""


@dataclass(frozen=True, eq=False)
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

    @cached_property
    def even(self) -> Tensor:
        """An image (C, H, W) of even colour.

        That which the normalisation maps to 0, else the mean colour of the image.
        """
        known = self.exact.explainer.preprocessing
        if known is not None and len(known.mean) == len(self.image):
            mean = torch.tensor(known.mean, dtype=self.image.dtype)
        else:
            mean = self.image.flatten(1).mean(1)
        return mean[:, None, None].expand(self.image.shape).clone()

    @cached_property
    def superpixels(self) -> npt.NDArray[np.intp]:
        """Parts of similar colour, numbered from 0 on without a gap, (H, W)."""
        from skimage.segmentation import slic

        picture = self.image.permute(1, 2, 0).double().numpy()
        low, high = picture.min(), picture.max()
        scaled = (picture - low) / max(high - low, 1e-12)
        found = slic(scaled, n_segments=SUPERPIXELS, compactness=10, start_label=0, channel_axis=2)
        numbers = np.unique(found, return_inverse=True)[1]
        parts: npt.NDArray[np.intp] = numbers.reshape(found.shape)
        return parts

    @cached_property
    def superpixel_falls(self) -> Falls:
        """How much the score falls when each of them is replaced by even colour, (parts,)."""
        parts = [torch.from_numpy(self.superpixels == n) for n in range(self.superpixels.max() + 1)]
        images = torch.stack([torch.where(part, self.even, self.image) for part in parts])
        found: Falls = self.score - self.exact.scores(images)[:, self.target].cpu().numpy()
        return found

    def probabilities(self, images: Tensor) -> npt.NDArray[np.float64]:
        """The class's softmax probability, (n,), in the fast precision."""
        found = self.fast.scores(images).double().softmax(1)[:, self.target]
        return np.asarray(found.cpu().numpy())


@dataclass(frozen=True)
class Claimed:
    """A method's map (H, W) for a case as it is drawn, and how long it took.

    raw: the map before it was drawn through a Gaussian, where it was.
    """

    method: Method
    values: Map
    seconds: float = 0.0
    raw: Map | None = None

    @property
    def own(self) -> Map:
        """The map as the method computes it."""
        return self.values if self.raw is None else self.raw

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
