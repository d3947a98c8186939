"""How much of a map there is to look at."""

from __future__ import annotations

import numpy as np

from guidxmage.evaluation.measures.case import Case, Claimed, Figures


def complexity(case: Case, claimed: Claimed) -> Figures:
    """Of the magnitudes |A|, as shares of their sum.

    entropy: Shannon's, as a share of that of a constant map, 0–1 (Bhatt et al. 2020); gini: 0 for
    a constant map, near 1 where few pixels hold everything (Chalasani et al. 2020).
    """
    magnitudes = np.sort(np.abs(claimed.values), axis=None)
    total, count = magnitudes.sum(), magnitudes.size
    if total == 0 or count < 2:
        return {"entropy": None, "gini": None}
    shares = magnitudes / total
    used = shares[shares > 0]
    places = count - np.arange(count) - 0.5
    return {
        "entropy": float(-(used * np.log(used)).sum() / np.log(count)),
        "gini": float(1 - 2 * (shares * places).sum() / count),
    }
