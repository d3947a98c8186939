"""Loops over decisions that are compiled where numba is installed (the extra `fast`).

Each returns None, or False, where it cannot run, and the caller does the same in whole-array
operations. The results are the same: decisions and gated values bit for bit, sums up to rounding.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

Array = np.ndarray[Any, Any]

_DTYPES = (torch.float32, torch.float64)

# Each position of a window is looked at for every number.
_FEW_POSITIONS = 16


@cache
def compiled() -> ModuleType | None:
    """The compiled loops; None without numba, or where GUIDXMAGE_COMPILED is 0."""
    if os.environ.get("GUIDXMAGE_COMPILED") == "0" or sys.byteorder != "little":
        return None
    try:
        from guidxmage.engine.kernels import compiled as loops
    except ImportError:  # not there, or too old for this NumPy
        return None
    return loops


def pack_above(values: Tensor, limit: float, *, closed: bool) -> Tensor | None:
    """`bits.pack_above` of values (B, …)."""
    loops = compiled() if _is_plain(values) else None
    if loops is None:
        return None
    flat, packed = _flat(values)
    loops.pack_above(flat, flat.dtype.type(limit), closed, False, packed)
    return torch.from_numpy(packed)


def pack_interval(values: Tensor, low: float, high: float) -> tuple[Tensor, Tensor] | None:
    """`bits.pack_interval` of values (B, …)."""
    found = decide(values, low, high, clamp=False)
    return None if found is None else (found[0], found[1])


def decide(
    values: Tensor, low: float, high: float | None, *, clamp: bool
) -> tuple[Tensor, ...] | None:
    """The plane of `pack_above`, or with high the two of `pack_interval`.

    clamp: values, which must then be contiguous, are brought between the limits at once.
    """
    loops = compiled() if _is_plain(values) else None
    if loops is None:
        return None
    flat, first = _flat(values)
    kind, planes = flat.dtype.type, [first]
    if high is None:
        loops.pack_above(flat, kind(low), False, clamp, first)
    else:
        planes.append(np.empty_like(first))
        loops.pack_interval(flat, (kind(low), kind(high)), clamp, *planes)
    return tuple(map(torch.from_numpy, planes))


def pack_positions(
    taken: Tensor, base: Tensor, positions: Tensor, count: int
) -> tuple[Tensor, ...] | None:
    """Packed binary digits, (B, bytes) each, of numbers below `count` (at most 256).

    taken (B, channels, *windows) are flat positions; a number is that of taken − base in
    `positions`.
    """
    loops = compiled() if taken.is_cpu and type(taken) is Tensor and taken.numel() > 0 else None
    if loops is None or positions.dtype != torch.uint8 or taken.dtype != torch.int64:
        return None
    flat = taken.reshape(taken.shape[0], -1, base.numel()).contiguous().numpy()
    bytes_ = -(-flat.shape[1] * flat.shape[2] // 8)
    digits = np.empty((max(1, (count - 1).bit_length()), len(flat), bytes_), np.uint8)
    loops.pack_positions(flat, base.flatten().numpy(), positions.numpy(), digits)
    return tuple(map(torch.from_numpy, digits))


def _flat(values: Tensor) -> tuple[Array, Array]:
    """Values (B, …) as (B, n), and room for a bit for each of them."""
    dense: Array = (values if values.is_contiguous() else values.contiguous()).numpy()
    flat = dense.reshape(dense.shape[0], -1)
    return flat, np.empty((flat.shape[0], -(-flat.shape[1] // 8)), np.uint8)


def secants(x: Tensor, value: Tensor, at_zero: float, near: float, slope: float) -> Tensor | None:
    """(value − at_zero) / x where |x| > near, and the slope elsewhere."""
    loops = _loops_for(x)
    plain = x.is_contiguous() and value.is_contiguous() and value.dtype == x.dtype
    if loops is None or not plain or value.shape != x.shape:
        return None
    out = torch.empty_like(x)
    kind = out.numpy().dtype.type
    arrays = [tensor.detach().numpy().reshape(-1) for tensor in (x, value, out)]
    loops.secants(*arrays[:2], (kind(at_zero), kind(near), kind(slope)), arrays[2])
    return out


def norms(values: Tensor) -> Tensor | None:
    """2-norms (R,) of values (R, …), float64."""
    loops = _loops_for(values)
    lines = None if loops is None else _dense(values)
    if loops is None or lines is None:
        return None
    out = np.empty(lines.shape[0])
    loops.norms(lines.reshape(lines.shape[0], -1), out)
    return torch.from_numpy(out)


def gate(g: Tensor, packed: Tensor) -> bool:
    """Set g (K·B, …) to 0 where its image's bits (B, bytes) are not set; whether it was done."""
    loops = _loops_for(g)
    lines = None if loops is None else _lines(g, packed)
    if loops is None or lines is None:
        return False
    (loops.gate if lines.ndim == 2 else loops.gate_channels_last)(lines, packed.numpy())
    return True


def sums_where(g: Tensor, packed: Tensor) -> Tensor | None:
    """`reductions.sums_where`: float64 (R,)."""
    loops = _loops_for(g)
    lines = None if loops is None else _lines(g, packed)
    if loops is None or lines is None:
        return None
    sums = np.empty(lines.shape[0])
    loop = loops.sums_where if lines.ndim == 2 else loops.sums_where_channels_last
    loop(lines, packed.numpy(), sums)
    return torch.from_numpy(sums)


def position_sums_where(g: Tensor, packed: Tensor) -> Tensor | None:
    """Sums over channels of g (R, C, H, W) where the bits are set, float64 (R, H, W)."""
    loops = _loops_for(g)
    lines = None if loops is None or not _fits(g, packed) else _channels_last(g)
    if loops is None or lines is None:
        return None
    sums = np.empty(lines.shape[:2])
    loops.position_sums_where(lines, packed.numpy(), sums)
    return torch.from_numpy(sums).reshape(len(g), *g.shape[2:])


def sums_and_norms(g: Tensor) -> tuple[Tensor, Tensor] | None:
    """Sums over positions (R, C) and 2-norms (R,) of g (R, C, H, W), float64, read once.

    g lies channels last, or is some neighbouring channels of what does.
    """
    loops = _loops_for(g)
    found = None if loops is None or g.ndim != 4 else _channels_of(g)
    if loops is None or found is None:
        return None
    lines, first = found
    sums, norms = _room(lines, g.shape[1])
    loops.sums_and_norms(lines, first, sums, norms)
    return torch.from_numpy(sums), torch.from_numpy(norms)


def _room(lines: Array, channels: int) -> tuple[Array, Array]:
    return np.empty((len(lines), channels)), np.empty(len(lines))


def add_at_maxima(
    g: Tensor, digits: Sequence[Tensor], windows: tuple[Tensor, Tensor], out: Tensor
) -> bool:
    """Add g (K·B, C, H, W) to out (K·B, C, h, w) where maxima were taken; whether it was done.

    digits: packed planes (B, bytes) of positions within windows; windows: their `base` and
    `offsets`. Both tensors lie channels last.
    """
    loops, (base, offsets) = _loops_for(g), windows
    if loops is None or not _fits(g, digits[0]) or len(offsets) > _FEW_POSITIONS:
        return False
    lines, target = _channels_last(g), _channels_last(out)
    if lines is None or target is None:
        return False
    planes = np.stack([plane.numpy() for plane in digits])
    loops.add_at_maxima(lines, planes, base.flatten().numpy(), offsets.numpy(), target)
    return True


def sum_of_rows(g: Tensor, weight: Tensor) -> Tensor | None:
    """g (R, n) @ weight (n, m), reading the rows of the weight that g picks, once for each R."""
    weight = weight.detach()
    loops = _loops_for(weight)
    if loops is None or g.dtype != weight.dtype or not weight.is_contiguous():
        return None
    factors, table = g.detach().numpy(), weight.numpy()
    out = np.empty((factors.shape[0], table.shape[1]), table.dtype)
    for row, sums in zip(factors, out, strict=True):
        picked = np.flatnonzero(row)
        loops.sum_of_rows(table, picked, row[picked], sums)
    return torch.from_numpy(out)


def _loops_for(values: Tensor) -> ModuleType | None:
    return compiled() if _is_plain(values) else None


def _is_plain(values: Tensor) -> bool:
    return (
        values.dtype in _DTYPES
        and type(values) is Tensor
        and values.is_cpu
        and not values.requires_grad
        and values.ndim > 1
        and values.numel() > 0
    )


def _lines(g: Tensor, packed: Tensor) -> Array | None:
    """g as (R, n), or (R, positions, channels) where it lies channels last.

    None where it lies otherwise or the bits do not fit.
    """
    return _dense(g) if _fits(g, packed) else None


def _dense(g: Tensor) -> Array | None:
    return g.numpy().reshape(g.shape[0], -1) if g.is_contiguous() else _channels_last(g)


def _fits(g: Tensor, packed: Tensor) -> bool:
    """Whether there is a bit for each number of a row of g, and the same rows for every image."""
    rows, (images, bytes_) = g.shape[0], packed.shape
    return rows % images == 0 and -(-g.numel() // rows // 8) == bytes_ and packed.is_contiguous()


def _channels_last(g: Tensor) -> Array | None:
    """g (R, C, H, W) as (R, H·W, C) in the order of the memory, None where it lies otherwise."""
    if g.ndim != 4 or not g.is_contiguous(memory_format=torch.channels_last):
        return None
    array: Array = g.numpy().transpose(0, 2, 3, 1)
    return array.reshape(array.shape[0], -1, array.shape[3])


def _channels_of(g: Tensor) -> tuple[Array, int] | None:
    """The lines (R, H·W, C) that g (R, channels, H, W) is a part of, and its first channel."""
    whole = _channels_last(g)
    if whole is not None:
        return whole, 0
    rows, channels, height, width = g.shape
    channel, across = g.stride(1), g.stride(3)
    first = int(g.storage_offset() % across) if across else 0
    dense = (height * width * across, 1, width * across, across)
    begin = g.storage_offset() - first
    end = (begin + rows * dense[0]) * g.itemsize
    if channel != 1 or first + channels > across or g.stride() != dense:
        return None
    if end > g.untyped_storage().nbytes():
        return None
    lines = g.as_strided((rows, height * width, across), (dense[0], across, 1), begin)
    return lines.numpy(), first
