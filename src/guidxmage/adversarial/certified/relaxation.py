"""Affine bounds of a network's values where some of its ReLUs are not decided.

A ReLU whose input lies between low < 0 < high is at most the chord between its ends, and at least
any line through 0 with a slope from 0 to 1. Put in one after the other, from the last level to the
first, these lines turn a function of the ReLUs into a function of the image that bounds it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from guidxmage.adversarial.certified.enclosure import Enclosure
from guidxmage.engine.linear_regions.relu_form import ReluForm

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]

# So many ReLUs are bounded at a time.
_ROWS = 512


@dataclass(frozen=True)
class Bounds:
    """low and high (N,) of the ReLUs' inputs, where better adversarial samples may lie."""

    low: Array
    high: Array

    @classmethod
    def unknown(cls, count: int) -> Bounds:
        """Nothing is known; finite, because a weight of 0 must stay without effect."""
        return cls(np.full(count, -1e100), np.full(count, 1e100))

    @property
    def on(self) -> Flags:
        """ReLUs that pass their input on."""
        return self.low >= 0

    @property
    def off(self) -> Flags:
        """ReLUs that are 0."""
        return (self.high <= 0) & ~self.on

    @property
    def open(self) -> Flags:
        """ReLUs that may be either."""
        return (self.low < 0) & (self.high > 0)

    @property
    def empty(self) -> bool:
        """Whether nothing satisfies them."""
        return bool((self.low > self.high).any())

    def take(self, kept: NDArray[np.int64]) -> Bounds:
        """Those of some ReLUs."""
        return Bounds(self.low[kept], self.high[kept])

    def split(self, number: int, on: bool) -> Bounds:
        """With one ReLU decided."""
        low, high = self.low.copy(), self.high.copy()
        if on:
            low[number] = max(low[number], 0)
        else:
            high[number] = min(high[number], 0)
        return replace(self, low=low, high=high)

    def chords(self) -> tuple[Array, Array]:
        """slope and offset (N,) of the lines above the ReLUs."""
        open_ = self.open
        slope = self.on.astype(np.float64)
        slope[open_] = self.high[open_] / (self.high[open_] - self.low[open_])
        offset = np.zeros_like(slope)
        offset[open_] = -self.low[open_] * slope[open_]
        return slope, offset


def majorants(form: ReluForm, bounds: Bounds, heads: Array, lean: Array) -> tuple[Array, Array]:
    """Affine functions of x that are nowhere below the heads (R, 1 + n + N) within the bounds.

    Heads may be cut off (R, 1 + n + M) at the end of a level, where they do not use more of it.
    lean (N,) in [0, 1]: the slopes of the lines below open ReLUs. Returns coefficients of (1, x),
    (R, 1 + n), and with which factor each ReLU came in, (R, N).
    """
    first = 1 + form.inputs
    slope, offset = bounds.chords()
    below = np.where(bounds.open, lean, slope)
    total = heads.copy()
    for level, blocks in zip(reversed(form.levels), reversed(form.blocks), strict=True):
        known = first + level.start
        if known >= total.shape[1]:
            continue
        factor = total[:, known : first + level.stop]
        up, down = factor.clip(0), factor.clip(None, 0)
        total[:, 0] += up @ offset[level]
        blocks.add(up * slope[level] + down * below[level], total[:, :known])
    return total[:, :first], total[:, first:]


def looseness(bounds: Bounds, factors: Array, z: Array, lean: Array) -> Array:
    """By how much each open ReLU's line misses it at inputs z (N,), weighted by |factor|, (N,)."""
    slope, offset = bounds.chords()
    y = z.clip(0)
    above, below = (slope * z + offset - y).clip(0), (y - lean * z).clip(0)
    missed = factors.clip(0) * above - factors.clip(None, 0) * below
    return np.asarray(np.where(bounds.open, missed, 0))


def tightened(form: ReluForm, bounds: Bounds, enclosure: Enclosure) -> Bounds:
    """Closer bounds of the open ReLUs within the enclosure, level by level; maybe empty ones."""
    bounds = Bounds(bounds.low.copy(), bounds.high.copy())
    for level, blocks in zip(form.levels, form.blocks, strict=True):
        lean = (bounds.high > -bounds.low).astype(np.float64)
        known, open_ = 1 + form.inputs + level.start, bounds.open[level]
        for rows, _, _ in blocks.blocks:  # together they use few of the ReLUs before them
            chosen = level.start + rows[open_[rows]]
            for first in range(0, len(chosen), _ROWS):
                numbers = chosen[first : first + _ROWS]
                own = form.rows[numbers, :known]
                heads = np.concatenate([own, -own])
                high, low = np.split(enclosure.ceilings(majorants(form, bounds, heads, lean)[0]), 2)
                bounds.high[numbers] = np.fmin(bounds.high[numbers], high)
                bounds.low[numbers] = np.fmax(bounds.low[numbers], -low)
        if (bounds.low[level] > bounds.high[level]).any():
            break
    return bounds
