"""Directional agreement, the "interpretive accuracy" of the paper's Table 1.

A method claims that some pixels support the class. They are attenuated, X′ = (1 − ε)·X there; the
claim is right if the score falls. On the path, ε is the largest power of two for which X′ takes all
of X's decisions; beside it the same test for finite ε. Pixels said to oppose the class are tested
in the same way: attenuated, they have to raise the score.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from guidxmage.engine.symbolic import StepLength
from guidxmage.evaluation.measures.case import Case, Claimed, Figures, attenuated

FINITE = (1e-3, 1e-2, 0.1, 1.0)
FINEST = 48
"""ε is not made smaller than 2^−48: at 2^−52 float64 can no longer tell X′ from X."""

Pixels = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class OnPath:
    """The change of the score at the largest ε = 2^−k on the path.

    exponent: k, None where no X′ was found to follow the trail. change: what the network says in
    float64; predicted: what the symbolic model says.
    """

    exponent: int | None
    change: float = 0.0
    predicted: float = 0.0


def directional(case: Case, claimed: Claimed) -> Figures:
    """Whether the claims of a map are right.

    path, finite_…: for the pixels that support; path_negative, finite_negative_…: for those that
    oppose. True or False; None on the path where it stays undecided, and where nothing is claimed
    to oppose. A map that claims no supporting pixel at all is wrong.
    """
    figures: Figures = {}
    sides = [("", claimed.positive(), -1.0), ("_negative", claimed.negative(), 1.0)]
    for suffix, pixels, sign in sides:
        if pixels is None or (suffix and not pixels.any()):
            continue
        figures[f"pixels{suffix}"] = int(pixels.sum())
        found = on_path(case, pixels)
        figures[f"path{suffix}"] = verdict(case, found, sign, claims=bool(pixels.any()))
        figures[f"exponent{suffix}"] = found.exponent
        figures[f"change{suffix}"] = found.change
        figures[f"predicted{suffix}"] = found.predicted
        for eps, change in zip(FINITE, finite(case, pixels), strict=True):
            figures[f"finite{suffix}_{eps:g}"] = bool(sign * change > 0)
    return figures


def on_path(case: Case, pixels: Pixels) -> OnPath:
    """Attenuate the pixels (H, W) as far as the trail is followed."""
    model, X = case.explanation.symbolic_model, case.image
    if not pixels.any():
        return OnPath(0)
    direction = attenuated(X, pixels, 1) - X
    step = model.step_length(direction)
    assert isinstance(step, StepLength)
    assert model.network is not None
    # A decision that flips at a length of 0 may be a tie that X′ leaves on the right side.
    first = int(np.ceil(-np.log2(step.length))) if 0 < step.length < 1 else 0
    weights = case.explanation.weights.double()
    for exponent in range(first, FINEST + 1):
        Z = attenuated(X, pixels, 2.0**-exponent)
        logits, trail = model.network.record(Z[None])
        if bool(trail.same(model.trail)):
            change = float(logits[0, case.target]) - case.score
            return OnPath(exponent, change, float((weights * (Z - X)).sum()))
    return OnPath(None)


def verdict(case: Case, found: OnPath, sign: float, *, claims: bool) -> bool | None:
    """Right, wrong, or None: undecided, as the change is no larger than float64's rounding.

    Pixels that change nothing at all, as the symbolic model says, are wrong.
    """
    if not claims or (found.exponent is not None and found.predicted == 0):
        return False
    if found.exponent is None or abs(found.change) <= float(case.explanation.residual_bound):
        return None
    return sign * found.change > 0


def finite(case: Case, pixels: Pixels) -> list[float]:
    """The change of the score in float64 for every ε of FINITE."""
    images = torch.stack([attenuated(case.image, pixels, eps) for eps in FINITE])
    changes = case.exact.scores(images)[:, case.target] - case.score
    return [float(change) for change in changes]
