"""Five colours for what adds to a score and what subtracts from it, on a symmetric scale."""

from __future__ import annotations

from collections.abc import Iterable
from math import isfinite
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from guidxmage.errors import InputError

FloatMap = npt.NDArray[np.float64]
RGB = npt.NDArray[np.uint8]
Style = Literal["bands", "continuous"]

RED = (206, 24, 30)
YELLOW = (255, 214, 40)
GREEN = (142, 203, 140)
CYAN = (52, 206, 232)
BLUE = (27, 58, 178)

ASCENDING = np.array([BLUE, CYAN, GREEN, YELLOW, RED], dtype=np.uint8)
"""The palette from the most negative contribution to the most positive, (5, 3)."""

SMALL_SHARE, LARGE_SHARE = 0.1, 0.5
"""Bands change colour at these shares of the scale: green within, then yellow or cyan, then
red or blue."""

PERCENTILE = 99.5
"""The default scale covers this percentage of every map's non-zero values."""


def pixel_contributions(contributions: npt.ArrayLike) -> FloatMap:
    """What each pixel contributes, (H, W) float64: contributions (C, H, W) summed over channels.

    A map (H, W) is returned as it is. Raises InputError for other shapes, for empty maps and
    for values that are not finite.
    """
    values = np.asarray(contributions)
    if values.ndim not in {2, 3} or values.size == 0:
        raise InputError(
            f"contributions must be a non-empty array (H, W) or (C, H, W), not one of shape "
            f"{values.shape}; pass one image at a time."
        )
    if values.dtype.kind not in "fiub":
        raise InputError(f"contributions must be real numbers, not {values.dtype}; convert them.")
    values = values.astype(np.float64)
    if not np.isfinite(values).all():
        raise InputError(
            "contributions hold NaN or infinite values; explain an image whose score is finite."
        )
    return values.sum(axis=0) if values.ndim == 3 else values


def shared_scale(maps: Iterable[npt.ArrayLike]) -> float:
    """One colour scale for several maps, each (H, W) or (C, H, W).

    It is the largest of the maps' own scales, so that none of them saturates: a map's scale is
    the 99.5th percentile of its non-zero absolute pixel contributions, 0.0 if all are zero.
    """
    scales = [_own_scale(values) for values in map(pixel_contributions, maps)]
    if not scales:
        raise InputError("a shared scale needs at least one map; none was given.")
    return max(scales)


def _own_scale(values: FloatMap) -> float:
    magnitudes = np.abs(values[values != 0])
    return float(np.percentile(magnitudes, PERCENTILE)) if magnitudes.size else 0.0


def check_scale(scale: float) -> float:
    """The scale as a float; InputError unless it is finite and not negative."""
    if not (isfinite(scale) and scale >= 0):
        raise InputError(f"the colour scale must be a finite number ≥ 0, not {scale}.")
    return float(scale)


def thresholds(scale: float) -> tuple[float, float]:
    """The two magnitudes at which bands change colour."""
    return SMALL_SHARE * scale, LARGE_SHARE * scale


def color_index(values: FloatMap, scale: float) -> npt.NDArray[Any]:
    """The band of every value as an index into ASCENDING; a threshold itself is still calm."""
    band = np.digitize(np.abs(values), thresholds(scale), right=True)
    return np.where(values < 0, 2 - band, 2 + band)


def colorize(values: FloatMap, scale: float, style: Style = "bands") -> RGB:
    """Colours of values of any shape, (…, 3); zero is exactly green.

    "continuous" passes through the five colours at −s, −s/2, 0, s/2 and s and saturates beyond.
    """
    if style == "bands":
        return np.take(ASCENDING, color_index(values, scale), axis=0)
    if style != "continuous":
        raise InputError(f'style must be "bands" or "continuous", not {style!r}.')
    # A scale of zero stands for a map without contributions: only the sign of a value is left.
    relative = np.clip(values / scale, -1, 1) if scale > 0 else np.sign(values)
    anchors = (-1, -0.5, 0, 0.5, 1)
    channels = [np.interp(relative, anchors, ASCENDING[:, channel]) for channel in range(3)]
    colors: RGB = np.rint(np.stack(channels, axis=-1)).astype(np.uint8)
    return colors
