"""Rows of numbers moved to where decisions say, or picked by them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from guidxmage.engine.kernels.compiled.gating import spread_group
from guidxmage.engine.kernels.compiled.machine_code import Array, compiled, shared

_COLUMNS = 2048  # of a weight that are summed at once
_CHANNELS = 32  # that one thread looks at


@compiled
def _add_where(values: Array, chosen: Array, number: Any, target: Array) -> None:
    for channel in range(len(values)):
        value = values[channel]
        target[channel] += value if chosen[channel] == number else np.float32(0)


@compiled
def _numbers(kept: Array, shift: Any, numbers: Array) -> None:
    """Numbers (channels,) from their binary digits (digits, channels), the bits `shift` of them."""
    numbers[:] = 0
    for digit in range(len(kept)):
        for channel in range(len(numbers)):
            bit = (kept[digit, channel] >> shift) & np.uint8(1)
            numbers[channel] |= bit << np.uint8(digit)


@compiled
def _add_row(g: Array, digits: Array, places: Any, channels: Any, out: Array) -> None:
    """`add_at_maxima` of some channels, from the first to the last, of one image."""
    (base, offsets), (first, last) = places, channels
    windows = len(g)
    kept = np.empty((len(digits), last - first), np.uint8)
    numbers = np.empty(last - first, np.uint8)
    for window in range(windows):
        shift = 7 - window % 8
        if shift == 7:
            for digit in range(len(digits)):
                spread_group(digits[digit], windows, window // 8, kept[digit], first)
        _numbers(kept, np.uint8(shift), numbers)
        for n in range(len(offsets)):
            place = base[window] + offsets[n]
            if 0 <= place < len(out):
                _add_where(g[window, first:last], numbers, np.uint8(n), out[place, first:last])


@shared
def add_at_maxima(g: Array, digits: Array, base: Array, offsets: Array, out: Array) -> None:
    """Add g (R, windows, channels) to out (R, positions, channels) where the maxima were.

    digits (digits, B, bytes) number the position within the window: number n of window w is
    base[w] + offsets[n] of the plane, where that is in the plane.
    """
    units = (g.shape[2] + _CHANNELS - 1) // _CHANNELS
    for unit in prange(len(g) * units):  # windows overlap, channels do not
        row, first = unit // units, unit % units * _CHANNELS
        channels = (first, min(first + _CHANNELS, g.shape[2]))
        own = digits[:, row % digits.shape[1]]
        _add_row(g[row], own, (base, offsets), channels, out[row])


@shared
def sum_of_rows(weight: Array, picked: Array, factors: Array, out: Array) -> None:
    """Sum the picked rows of a weight (n, m), each times its factor, into out (m,)."""
    whole = len(picked) // 4 * 4
    for block in prange((len(out) + _COLUMNS - 1) // _COLUMNS):
        start = block * _COLUMNS
        part = out[start : start + _COLUMNS]
        stop = start + len(part)
        part[:] = 0
        for i in range(0, whole, 4):  # so that a sum is read and written once for four rows
            f0, f1, f2, f3 = factors[i], factors[i + 1], factors[i + 2], factors[i + 3]
            row0, row1 = weight[picked[i], start:stop], weight[picked[i + 1], start:stop]
            row2, row3 = weight[picked[i + 2], start:stop], weight[picked[i + 3], start:stop]
            for j in range(len(part)):
                part[j] += (f0 * row0[j] + f1 * row1[j]) + (f2 * row2[j] + f3 * row3[j])
        for i in range(whole, len(picked)):
            factor, row = factors[i], weight[picked[i], start:stop]
            for j in range(len(part)):
                part[j] += factor * row[j]
