"""A Gaussian with a reflecting border, which keeps the sum of what it smooths."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from guidxmage.errors import MissingExtraError

Values = npt.NDArray[np.float64]

TRUNCATED = 4.0
"""The Gaussian ends at so many sigmas."""
_WIDE = 24.0
"""From this sigma on, in pixels, the same is faster by a cosine transform."""


def reflecting(values: Values, sigmas: Sequence[float], axes: Sequence[int]) -> Values:
    """Values through a Gaussian of so many pixels along each of some axes, float64.

    Whichever way it is computed, the result is that of `scipy.ndimage.gaussian_filter` with the
    mode "reflect", up to rounding.
    """
    try:
        from scipy.ndimage import gaussian_filter
    except ImportError as error:
        raise MissingExtraError("scipy", "view") from error
    if max(sigmas, default=0.0) < _WIDE:
        smooth: Values = gaussian_filter(
            values, tuple(sigmas), mode="reflect", axes=tuple(axes), truncate=TRUNCATED
        )
        return smooth
    for sigma, axis in zip(sigmas, axes, strict=True):
        values = _by_cosines(values, sigma, axis)
    return values


def _by_cosines(values: Values, sigma: float, axis: int) -> Values:
    """Along one axis: reflected values are a sum of cosines, and each of them is only scaled."""
    from scipy.fft import dct, idct

    size = values.shape[axis]
    reach = int(TRUNCATED * sigma + 0.5)
    steps = np.arange(1, reach + 1)
    weights = np.exp(-0.5 * (steps / sigma) ** 2)
    waves = np.cos(np.pi * np.outer(np.arange(size), steps) / size)
    factors = (1 + 2 * waves @ weights) / (1 + 2 * weights.sum())
    factors[0] = 1.0
    shape = [1] * values.ndim
    shape[axis] = size
    smooth: Values = idct(dct(values, axis=axis) * factors.reshape(shape), axis=axis)
    return smooth
