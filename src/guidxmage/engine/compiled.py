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
_FEW = 16  # one byte in so many has a bit set
_ROWS = 32  # summed in the values' own precision before they are added to a total in float64


def _compiled(loop: Callable[..., Any], fastmath: Any = False) -> Callable[..., Any]:
    try:
        return njit(cache=True, nogil=True, fastmath=fastmath)(loop)
    except RuntimeError:  # no folder to keep the machine code in can be written
        return njit(nogil=True, fastmath=fastmath)(loop)


def _reassociated(loop: Callable[..., Any]) -> Callable[..., Any]:
    """A sum whose order is left to the compiler, which otherwise may not vectorise it."""
    return _compiled(loop, fastmath={"reassoc", "contract"})


@_reassociated
def _sum_of_squares(part: Array) -> Any:
    total = part.dtype.type(0)
    for i in range(len(part)):
        total += part[i] * part[i]
    return total


@_compiled
def pack_above(values: Array, limit: Any, closed: bool, packed: Array, squares: Array) -> None:
    """Pack values (B, n) > limit, or ≥, into (B, bytes); sum their squares into (B,), if given."""
    count = values.shape[1]
    blocks = (count + BLOCK - 1) // BLOCK
    kept = np.empty(BLOCK, np.uint8)
    words = kept.view(np.uint64)
    for unit in range(len(values) * blocks):
        row, start = unit // blocks, unit % blocks * BLOCK
        part = values[row, start : start + BLOCK]
        size = len(part)
        if len(squares) > 0:
            squares[row] += _sum_of_squares(part)
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
def pack_interval(
    values: Array, low: Any, high: Any, inside: Array, above: Array, squares: Array
) -> None:
    """Pack low < values (B, n) < high, and values ≥ high; sum their squares into (B,), if given."""
    count = values.shape[1]
    blocks = (count + BLOCK - 1) // BLOCK
    over, beyond = np.empty(BLOCK, np.uint8), np.empty(BLOCK, np.uint8)
    over_words, beyond_words = over.view(np.uint64), beyond.view(np.uint64)
    for unit in range(len(values) * blocks):
        row, start = unit // blocks, unit % blocks * BLOCK
        part = values[row, start : start + BLOCK]
        size = len(part)
        if len(squares) > 0:
            squares[row] += _sum_of_squares(part)
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
def _sum_of_few(g: Array, bits: Array) -> float:
    """Sum g (positions, channels) where bits (bytes) are set, looking at those only."""
    positions, total = len(g), 0.0
    for byte in range(len(bits)):
        if bits[byte] != 0:
            for n in range(8):
                if bits[byte] & (128 >> n):
                    channel, place = divmod(8 * byte + n, positions)
                    total += g[place, channel]
    return total


@_compiled
def _sum_of_many(g: Array, bits: Array, kept: Array) -> float:
    """`_sum_of_few` in the order of the memory."""
    positions, total = len(g), 0.0
    for group in range((positions + 7) // 8):
        _spread_group(bits, positions, group, kept)
        count = min(8, positions - 8 * group)
        for channel in range(len(kept)):
            if kept[channel] != 0:
                for n in range(count):
                    if kept[channel] & (128 >> n):
                        total += g[8 * group + n, channel]
    return total


@_compiled
def sums_where_channels_last(g: Array, packed: Array, sums: Array) -> None:
    """`sums_where` for g (R, positions, channels)."""
    kept = np.empty(g.shape[2], np.uint8)
    for row in range(len(g)):
        bits, taken = packed[row % len(packed)], 0
        for byte in range(len(bits)):
            taken += bits[byte] != 0
        few = taken * _FEW <= len(bits)
        sums[row] = _sum_of_few(g[row], bits) if few else _sum_of_many(g[row], bits, kept)


@_compiled
def _measure_channels(values: Array, part: Array, squares: Array) -> None:
    for channel in range(len(part)):
        part[channel] += values[channel]
        squares[channel] += values[channel] * values[channel]


@_compiled
def _add_up(part: Array, squares: Array, sums: Array) -> float:
    """Move part (channels,) to sums in float64, and return the sum of squares; both start anew."""
    total = 0.0
    for channel in range(len(part)):
        sums[channel] += part[channel]
        total += squares[channel]
        part[channel] = 0
        squares[channel] = 0
    return total


@_compiled
def sums_and_norms(g: Array, first: int, sums: Array, norms: Array) -> None:
    """Float64 sums over positions (R, n) and 2-norms (R,) of n channels of g from `first` on.

    g is (R, positions, channels).
    """
    positions, count = g.shape[1], sums.shape[1]
    part, squares = np.zeros(count, g.dtype), np.zeros(count, g.dtype)
    for row in range(len(g)):
        total = 0.0
        sums[row] = 0
        for start in range(0, positions, _ROWS):
            for place in range(start, min(start + _ROWS, positions)):
                _measure_channels(g[row, place, first : first + count], part, squares)
            total += _add_up(part, squares, sums[row])
        norms[row] = np.sqrt(total)


@_compiled
def _measure_eight(g: Array, kept: Array, part: Array, squares: Array) -> None:
    """Gate g (8 positions, channels), and add up what is left for each channel."""
    zero = g.dtype.type(0)
    for channel in range(len(kept)):
        bits, added, squared = kept[channel], zero, zero
        for n in range(8):  # unrolled, so that channels are vectorised
            value = g[n, channel]
            value = value if (bits & np.uint8(128 >> n)) != 0 else zero
            g[n, channel] = value
            added += value
            squared += value * value
        part[channel] += added
        squares[channel] += squared


@_compiled
def _pick_eight(g: Array, bits: Array, part: Array) -> None:
    """Add g (8 positions, channels) to part where the bits are set."""
    zero = g.dtype.type(0)
    for channel in range(len(bits)):
        own, added = bits[channel], zero
        for n in range(8):
            added += g[n, channel] if (own & np.uint8(128 >> n)) != 0 else zero
        part[channel] += added


@_compiled
def _pick(g: Array, bits: Array, part: Array) -> None:
    """`_pick_eight` for n ≤ 8 positions, of which there may be none to be picked."""
    if not bits.any():
        return
    if len(g) == 8:
        _pick_eight(g, bits, part)
        return
    for n in range(len(g)):
        for channel in range(len(bits)):
            if bits[channel] & (128 >> n):
                part[channel] += g[n, channel]


@_compiled
def _gate_and_measure(g: Array, kept: Array, part: Array, squares: Array) -> None:
    """Gate g (n ≤ 8 positions, channels), and add up what is left for each channel."""
    if len(g) == 8:
        _measure_eight(g, kept, part, squares)
        return
    for n in range(len(g)):
        _gate_channels(g[n], kept, np.uint8(128 >> n))
        _measure_channels(g[n], part, squares)


@_compiled
def gate_and_measure(
    g: Array, packed: Array, other: Array, sums: Array, norms: Array, picked: Array
) -> None:
    """`gate_channels_last`, then `sums_and_norms` of all channels, reading g once.

    If the bits `other` (B, bytes) are given, g is before that summed where they are set: (R,).
    """
    positions, channels = g.shape[1:]
    kept, picks = np.empty(channels, np.uint8), np.empty(channels, np.uint8)
    part, squares = np.zeros(channels, g.dtype), np.zeros(channels, g.dtype)
    chosen = np.zeros(channels, np.float64)
    for row in range(len(g)):
        image, total = row % len(packed), 0.0
        sums[row], chosen[:] = 0, 0
        for place in range(0, positions, 8):
            lines = g[row, place : place + 8]
            if len(other) > 0:
                _spread_group(other[image], positions, place // 8, picks)
                _pick(lines, picks, chosen)
            _spread_group(packed[image], positions, place // 8, kept)
            _gate_and_measure(lines, kept, part, squares)
            if place % _ROWS == _ROWS - 8:
                total += _add_up(part, squares, sums[row])
        norms[row] = np.sqrt(total + _add_up(part, squares, sums[row]))
        picked[row] = chosen.sum()


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
