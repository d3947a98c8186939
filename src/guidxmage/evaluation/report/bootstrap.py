"""Means over photos with their confidence intervals.

Views of one photo resemble each other, so photos are drawn, each with all of its views.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from guidxmage.errors import MissingExtraError

DRAWS = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean over views with the 95 % interval of the bootstrap over photos.

    Where all photos agree no resampling can show a width. Shares of 0 and of 1 then have the
    interval of Wilson (1927), for as many independent cases as there are photos; of other means low
    and high are equal.
    """

    mean: float
    low: float
    high: float
    views: int
    photos: int


def estimate(
    by_photo: Mapping[str, Sequence[float]], seed: int, name: str, *, share: bool = False
) -> Estimate | None:
    """The mean over all views and its interval; None without values. `name` picks the draws.

    share: the values are from 0 to 1 and say how often something is so.
    """
    try:
        from scipy.stats import binomtest, bootstrap
    except ImportError as error:
        raise MissingExtraError("scipy", "eval") from error
    groups = [values for values in by_photo.values() if len(values)]
    if not groups:
        return None
    sums = np.array([float(np.sum(values)) for values in groups])
    counts = np.array([len(values) for values in groups])
    mean = low = high = float(sums.sum() / counts.sum())
    if share and all(value == low for values in groups for value in values) and low in (0, 1):
        cases = binomtest(len(groups) * int(low), len(groups))
        low, high = cases.proportion_ci(LEVEL, method="wilson")
    elif len(groups) > 1:  # else there is no other photo to draw
        low, high = bootstrap(
            (sums, counts),
            lambda sums, counts, axis: sums.sum(axis) / counts.sum(axis),
            paired=True,
            vectorized=True,
            n_resamples=DRAWS,
            confidence_level=LEVEL,
            method="percentile",
            rng=np.random.default_rng([seed, zlib.crc32(name.encode())]),
        ).confidence_interval
    # Rounding may put a quantile of equal numbers beside them.
    low, high = min(float(low), mean), max(float(high), mean)
    return Estimate(mean, low, high, int(counts.sum()), len(groups))
