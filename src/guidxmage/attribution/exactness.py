"""Where a symbolic model is exact, as explanations state it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

# How far the residual may lie from zero, in standard deviations of the modelled rounding error.
ROUNDING_DEVIATIONS = 6.0
ON_REGION, AT_INPUT, NOT_EXACT = "on region", "at input", "not exact"


def exactness_of(*, smooth: bool, residual: Tensor, bound: Tensor) -> str:
    """Where the symbolic model is exact.

    "on region" where it is followed, "at input" where operators are smooth, and "not exact" where
    some residual, of any image and target, is more than rounding explains, or no number at all.
    """
    if not bool((residual.abs() <= bound).all()):
        return NOT_EXACT
    return AT_INPUT if smooth else ON_REGION


def in_words(exactness: str) -> str:
    """For a sentence: "exact on region", or what is wrong."""
    if exactness == NOT_EXACT:
        return "NOT exact: more is left of the score than rounding explains"
    return f"exact {exactness}"
