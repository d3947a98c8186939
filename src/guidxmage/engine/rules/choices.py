"""What a decision operator chooses between: said once, beside its rule.

From it follow how near a decision is to another one (`proof.rounding.margins`), the operator as
ReLUs (`linear_regions.relu_form`) and over the rationals (`proof.rational`). Only the certificate's
own forward run knows each operator by itself: it is the evidence.

What is a function here takes the operator's arguments after the input, as its rule does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Numbers = Callable[..., Any]


@dataclass(frozen=True)
class TwoSlopes:
    """x where x > 0, slope·x elsewhere: ReLU and its kin. The slope may be a tensor."""

    slope: Numbers


@dataclass(frozen=True)
class AboveLimit:
    """x where x > limit, a constant elsewhere; numbers gives (limit, constant)."""

    numbers: Numbers


@dataclass(frozen=True)
class BetweenBounds:
    """x, but at least the lower and at most the upper bound, divided by a number and shifted.

    bounds gives both, ±∞ where there is none; the upper one wins. closed: whether a value on a
    bound counts as inside.
    """

    bounds: Numbers
    closed: bool
    divisor: int = 1
    shift: float = 0.0


@dataclass(frozen=True)
class OfTwo:
    """The larger (+1) or smaller (−1) of two operands, of which one may be constant."""

    sign: int


@dataclass(frozen=True)
class AlongDimensions:
    """The largest (+1) or smallest (−1) along the dimensions that the second argument names."""

    sign: int


@dataclass(frozen=True)
class OfWindows:
    """The largest of each window over the last `dims` dimensions.

    geometry makes `rules.pooling.Windows` from the sizes of input and output planes and arguments.
    """

    dims: int
    geometry: Callable[..., Any]


Choice = TwoSlopes | AboveLimit | BetweenBounds | OfTwo | AlongDimensions | OfWindows
