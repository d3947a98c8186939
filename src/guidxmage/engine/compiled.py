"""Loops over packed decisions, compiled by numba; `loops` says what they do and when they run.

Arrays lie densely. Decisions are packed as in `bits`: in the order (channels, positions), the first
one in the highest bit. Row k·B + b belongs to image b of B.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

Array = np.ndarray[Any, Any]

BLOCK = 4096  # decisions that are spread to bytes at once: well within the first cache
COLUMNS = 2048  # of a weight that are summed at once
# Multiplied by eight bytes of 0 or 1, it gathers them in the highest byte, the first one foremost;
# multiplied by a byte, it lays its bits out one byte apart, the highest one in the lowest byte.
_SPREAD = np.uint64(0x8040201008040201)
_ONES = np.uint64(0x0101010101010101)
_LAST, _TOP = np.uint64(7), np.uint64(56)
_ROWS = 32  # summed in the values' own precision before they are added to a total in float64


def _compiled(loop: Callable[..., None]) -> Callable[..., None]:
    try:
        return njit(cache=True, nogil=True)(loop)
    except RuntimeError:  # no folder to keep the machine code in can be written
        return njit(nogil=True)(loop)


@_compiled
def pack_above(values: Array, limit: Any, closed: bool, packed: Array) -> None:
    """Pack values (B, n) > limit, or ≥, into (B, bytes)."""
    count = values.shape[1]
    blocks = (count + BLOCK - 1) // BLOCK
    kept = np.empty(BLOCK, np.uint8)
    words = kept.view(np.uint64)
    for unit in range(len(values) * blocks):
        row, start = unit // blocks, unit % blocks * BLOCK
        part = values[row, start : start + BLOCK]
        size = len(part)
        if closed:
            for i in range(size):
                kept[i] = np.uint8(part[i] >= limit)
        else:
            for i in range(size):
                kept[i] = np.uint8(part[i] > limit)
        whole = (size + 7) // 8
        for i in range(size, 8 * whole):
            kept[i] = 0
        out = packed[row, start // 8 : start // 8 + whole]
        for i in range(whole):
            out[i] = (words[i] * _SPREAD) >> _TOP


@_compiled
def pack_interval(values: Array, low: Any, high: Any, inside: Array, above: Array) -> None:
    """Pack low < values (B, n) < high, and values ≥ high."""
    count = values.shape[1]
    blocks = (count + BLOCK - 1) // BLOCK
    over, beyond = np.empty(BLOCK, np.uint8), np.empty(BLOCK, np.uint8)
    over_words, beyond_words = over.view(np.uint64), beyond.view(np.uint64)
    for unit in range(len(values) * blocks):
        row, start = unit // blocks, unit % blocks * BLOCK
        part = values[row, start : start + BLOCK]
        size = len(part)
        for i in range(size):
            over[i] = np.uint8(part[i] > low)
            beyond[i] = np.uint8(part[i] >= high)
        whole = (size + 7) // 8
        for i in range(size, 8 * whole):
            over[i] = 0
            beyond[i] = 0
        inner = inside[row, start // 8 : start // 8 + whole]
        outer = above[row, start // 8 : start // 8 + whole]
        for i in range(whole):
            bits = (beyond_words[i] * _SPREAD) >> _TOP
            outer[i] = bits
            inner[i] = ((over_words[i] * _SPREAD) >> _TOP) & ~bits


@_compiled
def gate(g: Array, packed: Array) -> None:
    """Set g (R, n) to 0 where the bits (B, bytes) are not set."""
    blocks = (g.shape[1] + BLOCK - 1) // BLOCK
    kept = np.empty(BLOCK, np.uint8)
    words = kept.view(np.uint64)
    for unit in range(len(g) * blocks):
        row, start = unit // blocks, unit % blocks * BLOCK
        part = g[row, start : start + BLOCK]
        size = len(part)
        bits = packed[row % len(packed), start // 8 : start // 8 + (size + 7) // 8]
        for i in range(len(bits)):
            words[i] = ((np.uint64(bits[i]) * _SPREAD) >> _LAST) & _ONES
        for i in range(size):
            value = part[i]  # read in any case, or the loop is not vectorised
            part[i] = value if kept[i] != 0 else np.float32(0)


@_compiled
def _gate_channels(g: Array, kept: Array, bit: Any) -> None:
    for channel in range(len(kept)):
        value = g[channel]
        g[channel] = value if (kept[channel] & bit) != 0 else np.float32(0)


@_compiled
def _spread_group(bits: Array, positions: int, group: int, kept: Array) -> None:
    """The bits of eight positions as a byte for each channel."""
    # Unsigned numbers need no check for indices below zero, which count from the end.
    eight, seven, three = np.uint64(8), np.uint64(7), np.uint64(3)
    step, end = np.uint64(positions), np.uint64(len(bits) - 1)
    start = np.uint64(8 * group)
    if positions % 8 == 0:
        for n in range(len(kept)):
            kept[n] = bits[start >> three]
            start += step
        return
    for n in range(len(kept)):
        byte, shift = start >> three, start & seven
        pair = (np.uint32(bits[byte]) << np.uint32(8)) | bits[min(byte + np.uint64(1), end)]
        kept[n] = (pair >> np.uint32(eight - shift)) & np.uint32(255)
        start += step


@_compiled
def gate_channels_last(g: Array, packed: Array) -> None:
    """`gate` for g (R, positions, channels)."""
    positions, channels = g.shape[1:]
    units = (positions + 7) // 8
    kept = np.empty(channels, np.uint8)
    for unit in range(len(g) * units):
        row, group = unit // units, unit % units
        _spread_group(packed[row % len(packed)], positions, group, kept)
        place = 8 * group
        if place + 8 <= positions:
            for n in range(8):
                _gate_channels(g[row, place + n], kept, np.uint8(128 >> n))
        else:
            for n in range(positions - place):
                _gate_channels(g[row, place + n], kept, np.uint8(128 >> n))


@_compiled
def sums_where(g: Array, packed: Array, sums: Array) -> None:
    """Sum g (R, n) where the bits (B, bytes) are set into sums (R,) float64."""
    for row in range(len(g)):
        bits, total = packed[row % len(packed)], 0.0
        for byte in range(len(bits)):
            if bits[byte] != 0:
                for n in range(8):
                    if bits[byte] & (128 >> n):
                        total += g[row, 8 * byte + n]
        sums[row] = total


@_compiled
def sums_where_channels_last(g: Array, packed: Array, sums: Array) -> None:
    """`sums_where` for g (R, positions, channels)."""
    positions, channels = g.shape[1:]
    kept = np.empty(channels, np.uint8)
    for row in range(len(g)):
        total = 0.0
        for group in range((positions + 7) // 8):
            _spread_group(packed[row % len(packed)], positions, group, kept)
            count = min(8, positions - 8 * group)
            for channel in range(channels):
                if kept[channel] != 0:
                    for n in range(count):
                        if kept[channel] & (128 >> n):
                            total += g[row, 8 * group + n, channel]
        sums[row] = total


@_compiled
def sums_and_norms(g: Array, sums: Array, norms: Array) -> None:
    """Float64 sums over positions (R, channels) and 2-norms (R,) of g (R, positions, channels)."""
    positions, channels = g.shape[1:]
    part, squares = np.empty(channels, g.dtype), np.empty(channels, g.dtype)
    for row in range(len(g)):
        total = 0.0
        own = sums[row]
        own[:] = 0
        for start in range(0, positions, _ROWS):
            part[:] = 0
            squares[:] = 0
            for place in range(start, min(start + _ROWS, positions)):
                values = g[row, place]
                for channel in range(channels):
                    part[channel] += values[channel]
                    squares[channel] += values[channel] * values[channel]
            for channel in range(channels):
                own[channel] += part[channel]
                total += squares[channel]
        norms[row] = np.sqrt(total)


@_compiled
def sum_of_rows(weight: Array, picked: Array, factors: Array, out: Array) -> None:
    """Sum the picked rows of a weight (n, m), each times its factor, into out (m,)."""
    whole = len(picked) // 4 * 4
    for start in range(0, len(out), COLUMNS):
        part = out[start : start + COLUMNS]
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
