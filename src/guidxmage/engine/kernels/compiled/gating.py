"""Cotangents gated by packed decisions, and their sums and norms.

Arrays lie densely. Row k·B + b belongs to image b of B.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from guidxmage.engine.kernels.compiled.machine_code import (
    BLOCK,
    SPREAD,
    Array,
    compiled,
    shared,
)

_ONES = np.uint64(0x0101010101010101)
_LAST = np.uint64(7)
_FEW = 16  # one byte in so many has a bit set
_GROUPS = 16  # of eight positions: what one thread gates at once
_POSITIONS = 512  # that one thread measures at once
_ROWS = 32  # summed in the values' own precision before they are added to a total in float64


@shared
def gate(g: Array, packed: Array) -> None:
    """Set g (R, n) to 0 where the bits (B, bytes) are not set."""
    blocks = (g.shape[1] + BLOCK - 1) // BLOCK
    for unit in prange(len(g) * blocks):
        row, start = unit // blocks, unit % blocks * BLOCK
        kept = np.empty(BLOCK, np.uint8)
        words = kept.view(np.uint64)
        own = packed[row % len(packed)]
        part, bits = g[row, start : start + BLOCK], own[start // 8 : (start + BLOCK) // 8]
        for i in range(len(bits)):
            words[i] = ((np.uint64(bits[i]) * SPREAD) >> _LAST) & _ONES
        for i in range(len(part)):
            value = part[i]  # read in any case, or the loop is not vectorised
            part[i] = value if kept[i] != 0 else np.float32(0)


@compiled
def _gate_channels(g: Array, kept: Array, bit: Any) -> None:
    for channel in range(len(kept)):
        value = g[channel]
        g[channel] = value if (kept[channel] & bit) != 0 else np.float32(0)


@compiled
def spread_group(bits: Array, positions: int, group: int, kept: Array, first: int = 0) -> None:
    """The bits of eight positions as a byte for each of the channels from `first` on."""
    # Unsigned numbers need no check for indices below zero, which count from the end.
    eight, seven, three = np.uint64(8), np.uint64(7), np.uint64(3)
    step, end = np.uint64(positions), np.uint64(len(bits) - 1)
    start = np.uint64(8 * group + first * positions)
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


@compiled
def _gate_group(g: Array, bits: Array, group: int, kept: Array) -> None:
    """Gate the positions of one group of eight of g (positions, channels)."""
    positions, place = len(g), 8 * group
    spread_group(bits, positions, group, kept)
    if place + 8 <= positions:
        for n in range(8):
            _gate_channels(g[place + n], kept, np.uint8(128 >> n))
    else:
        for n in range(positions - place):
            _gate_channels(g[place + n], kept, np.uint8(128 >> n))


@shared
def gate_channels_last(g: Array, packed: Array) -> None:
    """`gate` for g (R, positions, channels)."""
    positions, channels = g.shape[1:]
    groups = (positions + 7) // 8
    units = (groups + _GROUPS - 1) // _GROUPS
    for unit in prange(len(g) * units):
        row, first = unit // units, unit % units * _GROUPS
        kept = np.empty(channels, np.uint8)
        for group in range(first, min(first + _GROUPS, groups)):
            _gate_group(g[row], packed[row % len(packed)], group, kept)


@compiled
def _sum_of_bits(g: Array, bits: Array) -> float:
    total = 0.0
    for byte in range(len(bits)):
        if bits[byte] != 0:
            for n in range(8):
                if bits[byte] & (128 >> n):
                    total += g[8 * byte + n]
    return total


@shared
def sums_where(g: Array, packed: Array, sums: Array) -> None:
    """Sum g (R, n) where the bits (B, bytes) are set into sums (R,) float64."""
    for row in prange(len(g)):
        sums[row] = _sum_of_bits(g[row], packed[row % len(packed)])


@compiled
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


@compiled
def _pick_eight(g: Array, bits: Array, part: Array) -> None:
    """Add g (8 positions, channels) to part where the bits are set."""
    for channel in range(len(bits)):
        own, added = bits[channel], 0.0
        for n in range(8):
            added += g[n, channel] if (own & np.uint8(128 >> n)) != 0 else 0.0
        part[channel] += added


@compiled
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


@compiled
def _sum_of_many(g: Array, bits: Array) -> float:
    """`_sum_of_few` in the order of the memory."""
    positions, channels = g.shape
    picks, chosen = np.empty(channels, np.uint8), np.zeros(channels, np.float64)
    for place in range(0, positions, 8):
        spread_group(bits, positions, place // 8, picks)
        _pick(g[place : place + 8], picks, chosen)
    return chosen.sum()


@compiled
def _are_few(bits: Array) -> bool:
    taken = 0
    for byte in range(len(bits)):
        taken += bits[byte] != 0
    return taken * _FEW <= len(bits)


@shared
def sums_where_channels_last(g: Array, packed: Array, sums: Array) -> None:
    """`sums_where` for g (R, positions, channels)."""
    for row in prange(len(g)):
        bits = packed[row % len(packed)]
        sums[row] = _sum_of_few(g[row], bits) if _are_few(bits) else _sum_of_many(g[row], bits)


@compiled
def _measure_channels(values: Array, part: Array, squares: Array) -> None:
    for channel in range(len(part)):
        part[channel] += values[channel]
        squares[channel] += values[channel] * values[channel]


@compiled
def _add_up(part: Array, squares: Array, sums: Array) -> float:
    """Move part (channels,) to sums in float64, and return the sum of squares; both start anew."""
    total = 0.0
    for channel in range(len(part)):
        sums[channel] += part[channel]
        total += squares[channel]
        part[channel] = 0
        squares[channel] = 0
    return total


@shared
def sums_and_norms(g: Array, first: int, sums: Array, norms: Array) -> None:
    """Float64 sums over positions (R, n) and 2-norms (R,) of n channels of g from `first` on.

    g is (R, positions, channels).
    """
    positions, count = g.shape[1], sums.shape[1]
    units = (positions + _POSITIONS - 1) // _POSITIONS
    parts, totals = np.zeros((len(g) * units, count)), np.zeros(len(g) * units)
    for unit in prange(len(g) * units):
        row, start = unit // units, unit % units * _POSITIONS
        part, squares = np.zeros(count, g.dtype), np.zeros(count, g.dtype)
        for block in range(start, min(start + _POSITIONS, positions), _ROWS):
            for place in range(block, min(block + _ROWS, positions)):
                _measure_channels(g[row, place, first : first + count], part, squares)
            totals[unit] += _add_up(part, squares, parts[unit])
    for row in range(len(g)):
        total = 0.0
        sums[row] = 0
        for unit in range(row * units, (row + 1) * units):
            sums[row] += parts[unit]
            total += totals[unit]
        norms[row] = np.sqrt(total)


@compiled
def _few_places(g: Array, bits: Array, sums: Array) -> None:
    """Add g (positions, channels) to sums (positions,), looking at set bits only."""
    positions = len(g)
    for byte in range(len(bits)):
        if bits[byte] != 0:
            for n in range(8):
                if bits[byte] & (128 >> n):
                    channel, place = divmod(8 * byte + n, positions)
                    sums[place] += g[place, channel]


@compiled
def _pick_places(g: Array, kept: Array, first: int, sums: Array) -> None:
    """Add what is picked of up to eight positions g (n, channels) to their sums."""
    for n in range(len(g)):
        bit, total = np.uint8(128 >> n), 0.0
        for channel in range(len(kept)):
            total += g[n, channel] if (kept[channel] & bit) != 0 else 0.0
        sums[first + n] = total


@shared
def position_sums_where(g: Array, packed: Array, sums: Array) -> None:
    """Sum g (R, positions, channels) over channels where the bits are set, (R, positions)."""
    positions, channels = g.shape[1:]
    groups = (positions + 7) // 8
    units = (groups + _GROUPS - 1) // _GROUPS
    few = np.zeros(len(packed), np.bool_)
    for image in range(len(packed)):
        few[image] = _are_few(packed[image])
    for row in prange(len(g)):
        if few[row % len(packed)]:
            sums[row] = 0
            _few_places(g[row], packed[row % len(packed)], sums[row])
    for unit in prange(len(g) * units):
        row, first = unit // units, unit % units * _GROUPS
        if few[row % len(packed)]:
            continue
        kept = np.empty(channels, np.uint8)
        for group in range(first, min(first + _GROUPS, groups)):
            spread_group(packed[row % len(packed)], positions, group, kept)
            start = 8 * group
            _pick_places(g[row, start : start + 8], kept, start, sums[row])
