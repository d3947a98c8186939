"""Objects and background: signs, and whether a map lies on the object."""

from __future__ import annotations

import numpy as np

from guidxmage.evaluation.measures.case import Case, Claimed, Figures

OBJECT_EPS = (1e-2, 1.0)


def object_signs(case: Case, claimed: Claimed) -> Figures:
    """Whether object and background do to the score what the signs of their sums say.

    Each is attenuated by ε; a positive sum has to go with a fall of the score. signs_…: the share
    of the two that agree, 0, 0.5 or 1.
    """
    if case.mask is None or case.mask.all() or not case.mask.any():
        return {}
    parts = (case.mask, ~case.mask)
    figures: Figures = {}
    for eps in OBJECT_EPS:
        falls = case.falls(parts, eps)
        sums = np.array([claimed.values[part].sum() for part in parts])
        figures[f"signs_{eps:g}"] = float(np.mean(sums * falls > 0))
    return figures


def localisation(case: Case, claimed: Claimed) -> Figures:
    """Where the map lies, for images with a mask of the object.

    mass: the object's share of the positive values; pointing: whether the largest value is on it;
    rank: of as many largest values as it has pixels, the share on it; area: its share of the image,
    which is what a map without knowledge reaches.
    """
    if case.mask is None or case.mask.all() or not case.mask.any():
        return {}
    values, mask = claimed.values, case.mask
    positive = np.maximum(values, 0)
    largest = np.argsort(-values, axis=None, kind="stable")[: int(mask.sum())]
    total = positive.sum()
    return {
        "mass": float(positive[mask].sum() / total) if total > 0 else None,
        "pointing": bool(mask.flat[int(values.argmax())]),
        "rank": float(mask.flat[largest].mean()),
        "area": float(mask.mean()),
    }
