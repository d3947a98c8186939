"""Deletion and insertion: the class's probability as pixels go or come, the highest first."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from guidxmage.evaluation.measures.case import Case, Claimed, Figures

STEPS = 10
_BLUR = 11


def curves(case: Case, claimed: Claimed) -> Figures:
    """Pixels in the order of the map; equal values in a random order.

    deletion_curve: probabilities with 0, 1/10, …, all pixels black (0 in the explained space);
    insertion_curve: with so many pixels of the image, the rest blurred. deletion and insertion are
    the areas under them (Petsiuk et al. 2018): low and high are good.
    """
    order = ranking(claimed.values, case.generator(2))
    image, black = case.image, torch.zeros_like(case.image)
    deletion = case.probabilities(mixtures(image, black, order))
    insertion = case.probabilities(mixtures(blurred(image), image, order))
    return {
        "deletion": area(deletion),
        "insertion": area(insertion),
        "deletion_curve": [float(value) for value in deletion],
        "insertion_curve": [float(value) for value in insertion],
    }


def ranking(
    values: npt.NDArray[np.floating], generator: np.random.Generator
) -> npt.NDArray[np.intp]:
    """Flat positions from the highest value to the lowest."""
    return np.lexsort((generator.random(values.size), -values.ravel()))


def mixtures(before: Tensor, after: Tensor, order: npt.NDArray[np.intp]) -> Tensor:
    """Images (11, C, H, W): the first 0/10, 1/10, …, 10/10 of the pixels in order replaced."""
    counts = [round(step * len(order) / STEPS) for step in range(STEPS + 1)]
    replaced = torch.zeros(len(counts), len(order), dtype=torch.bool)
    for row, count in enumerate(counts):
        replaced[row, torch.from_numpy(order[:count])] = True
    masks = replaced.reshape(-1, 1, *before.shape[1:])
    return torch.where(masks, after, before)


def blurred(image: Tensor) -> Tensor:
    """The image (C, H, W) without detail: three box blurs, of a twentieth of the side or more."""
    side = max(_BLUR, 2 * (min(image.shape[1:]) // 20) + 1)
    side = min(side, 2 * ((min(image.shape[1:]) - 1) // 2) + 1)
    border = (side // 2,) * 4
    smooth = image[None]
    for _ in range(3):
        smooth = F.avg_pool2d(F.pad(smooth, border, mode="replicate"), side, stride=1)
    return smooth[0]


def area(curve: npt.NDArray[np.floating]) -> float:
    """Under a curve over 0–1, by trapezoids."""
    return float((curve[1:] + curve[:-1]).mean() / 2)
