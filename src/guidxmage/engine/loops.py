"""Loops over decisions that are compiled where numba is installed (the extra `fast`).

Each returns None, or False, where it cannot run, and the caller does the same in whole-array
operations. The results are the same: decisions and gated values bit for bit, sums up to rounding.
"""

from __future__ import annotations

import os
import sys
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

Array = np.ndarray[Any, Any]

_DTYPES = (torch.float32, torch.float64)

# The loops run on one thread. Packing is so in NumPy too; for the rest PyTorch's own operations are
# taken where it has more threads than these.
_FEW_THREADS = 4


@cache
def compiled() -> ModuleType | None:
    """The compiled loops; None without numba, or where GUIDXMAGE_COMPILED is 0."""
    if os.environ.get("GUIDXMAGE_COMPILED") == "0" or sys.byteorder != "little":
        return None
    try:
        from guidxmage.engine import compiled as loops
    except ImportError:  # not there, or too old for this NumPy
        return None
    return loops


def available() -> ModuleType | None:
    """The compiled loops; None also where PyTorch has many threads."""
    return compiled() if torch.get_num_threads() <= _FEW_THREADS else None


def pack_above(values: Tensor, limit: float, *, closed: bool) -> Tensor | None:
    """`bits.pack_above` of values (B, …)."""
    loops = compiled() if _is_plain(values) else None
    if loops is None:
        return None
    flat = values.reshape(values.shape[0], -1).contiguous().numpy()
    packed = np.empty((flat.shape[0], -(-flat.shape[1] // 8)), np.uint8)
    bound = flat.dtype.type(limit)
    loops.pack_above(flat, bound, closed, packed)
    return torch.from_numpy(packed)


def pack_interval(values: Tensor, low: float, high: float) -> tuple[Tensor, Tensor] | None:
    """`bits.pack_interval` of values (B, …)."""
    loops = compiled() if _is_plain(values) else None
    if loops is None:
        return None
    flat = values.reshape(values.shape[0], -1).contiguous().numpy()
    inside = np.empty((flat.shape[0], -(-flat.shape[1] // 8)), np.uint8)
    above = np.empty_like(inside)
    bounds = flat.dtype.type(low), flat.dtype.type(high)
    loops.pack_interval(flat, *bounds, inside, above)
    return torch.from_numpy(inside), torch.from_numpy(above)


def gate(g: Tensor, packed: Tensor) -> bool:
    """Set g (K·B, …) to 0 where its image's bits (B, bytes) are not set; whether it was done."""
    loops = _loops_for(g)
    lines = None if loops is None else _lines(g, packed)
    if loops is None or lines is None:
        return False
    (loops.gate if lines.ndim == 2 else loops.gate_channels_last)(lines, packed.numpy())
    return True


def sums_where(g: Tensor, packed: Tensor) -> Tensor | None:
    """`ledger.sums_where`: float64 (R,)."""
    loops = _loops_for(g)
    lines = None if loops is None else _lines(g, packed)
    if loops is None or lines is None:
        return None
    sums = np.empty(lines.shape[0])
    loop = loops.sums_where if lines.ndim == 2 else loops.sums_where_channels_last
    loop(lines, packed.numpy(), sums)
    return torch.from_numpy(sums)


def sums_and_norms(g: Tensor) -> tuple[Tensor, Tensor] | None:
    """Sums over positions (R, C) and 2-norms (R,) of g (R, C, H, W), float64, read once."""
    loops = _loops_for(g)
    lines = None if loops is None else _channels_last(g)
    if loops is None or lines is None:
        return None
    sums, norms = np.empty((lines.shape[0], lines.shape[2])), np.empty(lines.shape[0])
    loops.sums_and_norms(lines, sums, norms)
    return torch.from_numpy(sums), torch.from_numpy(norms)


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
    return available() if _is_plain(values) else None


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

    None where it lies otherwise, where there is not a bit for each of the n numbers, or not the
    same number of rows for every image.
    """
    shape, (images, bytes_) = g.shape, packed.shape
    if shape[0] % images or -(-g.numel() // shape[0] // 8) != bytes_ or not packed.is_contiguous():
        return None
    if g.is_contiguous():
        return g.numpy().reshape(shape[0], -1)
    return _channels_last(g)


def _channels_last(g: Tensor) -> Array | None:
    """g (R, C, H, W) as (R, H·W, C) in the order of the memory, None where it lies otherwise."""
    if g.ndim != 4 or not g.is_contiguous(memory_format=torch.channels_last):
        return None
    array: Array = g.numpy().transpose(0, 2, 3, 1)
    return array.reshape(array.shape[0], -1, array.shape[3])
