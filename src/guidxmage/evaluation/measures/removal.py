"""What a map says of parts of the picture, and what their removal does to the score."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from guidxmage.evaluation.measures.case import Case, Claimed, Figures
from guidxmage.evaluation.measures.magnitude import rank_correlation
from guidxmage.evaluation.measures.smoothing import SIGMAS, at_sigma
from guidxmage.evaluation.methods.method import Map


def removal(case: Case, claimed: Claimed) -> Figures:
    """Superpixels are replaced by even colour, one at a time; the same for every method.

    removal_…: rank correlation of the map's sums over them with the falls of the score, the map
    drawn through the same Gaussian as all others; removal: as the method draws it. removal_error:
    the mean of |predicted − measured| as a share of the score, for maps in units of the score.
    """
    parts, falls = case.superpixels, case.superpixel_falls
    figures: Figures = {"removal": rank_correlation(_sums(claimed.values, parts), falls)}
    for sigma in SIGMAS:
        sums = _sums(at_sigma(claimed, sigma, case.image), parts)
        figures[f"removal_{sigma}"] = rank_correlation(sums, falls)
    if claimed.method.total is not None and case.score:
        off = np.abs(_sums(claimed.values, parts) - falls).mean()
        figures["removal_error"] = float(off / abs(case.score))
    return figures


def _sums(values: Map, parts: npt.NDArray[np.intp]) -> npt.NDArray[np.float64]:
    """The map's sum over each part."""
    return np.bincount(parts.ravel(), values.ravel()).astype(np.float64)
