"""Decisions packed: in the order (channels, positions), the first one in the highest bit."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from guidxmage.engine.kernels.compiled.machine_code import (
    BLOCK,
    SPREAD,
    Array,
    compiled,
    reassociated,
    shared,
)

_TOP = np.uint64(56)


@reassociated
def _sum_of_squares(part: Array) -> Any:
    total = part.dtype.type(0)
    for i in range(len(part)):
        total += part[i] * part[i]
    return total


@shared
def norms(values: Array, out: Array) -> None:
    """The 2-norms (R,) of values (R, n)."""
    blocks = (values.shape[1] + BLOCK - 1) // BLOCK
    parts = np.empty((len(values), blocks))
    for unit in prange(len(values) * blocks):
        row, block = unit // blocks, unit % blocks
        parts[row, block] = _sum_of_squares(values[row, block * BLOCK : (block + 1) * BLOCK])
    for row in range(len(values)):
        total = 0.0
        for block in range(blocks):
            total += parts[row, block]
        out[row] = np.sqrt(total)


@compiled
def _clamp(part: Array, low: Any, high: Any) -> None:
    """As PyTorch does it, to the bit: NaN and the sign of zero stay."""
    for i in range(len(part)):
        value = part[i]
        value = low if value < low else value
        part[i] = high if value > high else value


@compiled
def _pack(kept: Array, size: int, out: Array) -> None:
    """Pack bytes of 0 or 1 into out; the bits behind the first `size` are 0."""
    words = kept.view(np.uint64)
    for i in range(size, 8 * len(out)):
        kept[i] = 0
    for i in range(len(out)):
        out[i] = (words[i] * SPREAD) >> _TOP


@shared
def pack_above(values: Array, limit: Any, closed: bool, clamp: bool, packed: Array) -> None:
    """Pack values (B, n) > limit, or ≥, into (B, bytes).

    With `clamp` values are then raised to the limit.
    """
    blocks = (values.shape[1] + BLOCK - 1) // BLOCK
    for unit in prange(len(values) * blocks):
        row, start = unit // blocks, unit % blocks * BLOCK
        kept = np.empty(BLOCK, np.uint8)
        part = values[row, start : start + BLOCK]
        if closed:
            for i in range(len(part)):
                kept[i] = np.uint8(part[i] >= limit)
        else:
            for i in range(len(part)):
                kept[i] = np.uint8(part[i] > limit)
        if clamp:
            _clamp(part, limit, part.dtype.type(np.inf))
        _pack(kept, len(part), packed[row, start // 8 : (start + BLOCK) // 8])


@shared
def pack_interval(values: Array, bounds: Any, clamp: bool, inside: Array, above: Array) -> None:
    """Pack low < values (B, n) < high, and values ≥ high; the rest as in `pack_above`."""
    low, high = bounds
    blocks = (values.shape[1] + BLOCK - 1) // BLOCK
    for unit in prange(len(values) * blocks):
        row, start = unit // blocks, unit % blocks * BLOCK
        between, beyond = np.empty(BLOCK, np.uint8), np.empty(BLOCK, np.uint8)
        part = values[row, start : start + BLOCK]
        for i in range(len(part)):
            between[i] = np.uint8((part[i] > low) & (part[i] < high))
            beyond[i] = np.uint8(part[i] >= high)
        if clamp:
            _clamp(part, low, high)
        bytes_ = slice(start // 8, (start + BLOCK) // 8)
        _pack(between, len(part), inside[row, bytes_])
        _pack(beyond, len(part), above[row, bytes_])


@shared
def pack_positions(taken: Array, base: Array, positions: Array, digits: Array) -> None:
    """Pack the binary digits (digits, B, bytes) of where in its window each maximum was taken.

    taken (B, channels, windows) are flat positions, base (windows,) those of the windows' starts,
    positions the number in the window of each distance from there.
    """
    channels, windows = taken.shape[1:]
    count = channels * windows
    numbers = np.empty((len(taken), count), np.uint8)
    for unit in prange(len(taken) * channels):
        row, channel = unit // channels, unit % channels
        own = numbers[row, channel * windows : (channel + 1) * windows]
        for window in range(windows):
            own[window] = positions[np.uint64(taken[row, channel, window] - base[window])]
    blocks = (count + BLOCK - 1) // BLOCK
    for unit in prange(len(taken) * blocks):
        row, start = unit // blocks, unit % blocks * BLOCK
        kept = np.empty(BLOCK, np.uint8)
        part = numbers[row, start : start + BLOCK]
        for digit in range(len(digits)):
            for i in range(len(part)):
                kept[i] = (part[i] >> np.uint8(digit)) & np.uint8(1)
            _pack(kept, len(part), digits[digit, row, start // 8 : (start + BLOCK) // 8])
