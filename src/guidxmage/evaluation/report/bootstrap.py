"""Means over photos with their confidence intervals.

Views of one photo resemble each other, so photos are drawn, each with all of its views.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

DRAWS = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean over views with the 95 % interval of the bootstrap over photos.

    low and high are equal where all photos agree: no resampling can then show a width.
    """

    mean: float
    low: float
    high: float
    views: int
    photos: int


def estimate(by_photo: Mapping[str, Sequence[float]], seed: int, name: str) -> Estimate | None:
    """The mean over all views and its interval; None without values. `name` picks the draws."""
    groups = [values for values in by_photo.values() if len(values)]
    if not groups:
        return None
    sums = np.array([float(np.sum(values)) for values in groups])
    counts = np.array([len(values) for values in groups])
    generator = np.random.default_rng([seed, zlib.crc32(name.encode())])
    drawn = generator.integers(len(groups), size=(DRAWS, len(groups)))
    means = sums[drawn].sum(1) / counts[drawn].sum(1)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    mean = float(sums.sum() / counts.sum())
    # Rounding may put a quantile of equal numbers beside them.
    low, high = min(float(low), mean), max(float(high), mean)
    return Estimate(mean, low, high, int(counts.sum()), len(groups))
