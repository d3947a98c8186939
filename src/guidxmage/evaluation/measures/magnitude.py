"""Magnitude agreement: is what a map says of a region what the region does to the score?"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from guidxmage.evaluation.measures.case import REGION_EPS, Case, Claimed, Figures


def magnitude(case: Case, claimed: Claimed) -> Figures:
    """Random rectangles are attenuated by ε = 0.1, one at a time.

    spearman: rank correlation of the map's sum over a rectangle with the fall of the score;
    relative_error: the median of |predicted − measured| / |measured| where the map is in units of
    the score, predicted = ε times the map's sum.
    """
    falls = case.rectangle_falls
    sums = REGION_EPS * np.array([claimed.values[region].sum() for region in case.rectangles])
    in_units = claimed.method.total is not None
    return {
        "spearman": rank_correlation(sums, falls),
        "relative_error": relative_error(sums, falls) if in_units else None,
    }


def rank_correlation(
    one: npt.NDArray[np.floating], other: npt.NDArray[np.floating]
) -> float | None:
    """Spearman's; None where one of them is constant."""
    from scipy.stats import spearmanr

    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return None
    return float(spearmanr(one, other).statistic)


def relative_error(
    predicted: npt.NDArray[np.floating], measured: npt.NDArray[np.floating]
) -> float | None:
    """The median of |predicted − measured| / |measured|, over what is measured to be non-zero."""
    used = measured != 0
    if not used.any():
        return None
    return float(np.median(np.abs(predicted - measured)[used] / np.abs(measured[used])))
