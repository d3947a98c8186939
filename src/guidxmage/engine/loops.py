"""Loops over decisions that are compiled where numba is installed (the extra `fast`).

Each returns None, or False, where it cannot run, and the caller does the same in whole-array
operations. The results are the same: decisions and gated values bit for bit, sums up to rounding.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

Array = np.ndarray[Any, Any]

_DTYPES = (torch.float32, torch.float64)

# Numbers that are worth another thread: a tenth of a millisecond's work.
_WORTH = 2**18


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


def pack_above(values: Tensor, limit: float, *, closed: bool) -> Tensor | None:
    """`bits.pack_above` of values (B, …)."""
    loops = _loops_for(values)
    if loops is None:
        return None
    flat = values.reshape(values.shape[0], -1).contiguous().numpy()
    packed = np.empty((flat.shape[0], -(-flat.shape[1] // 8)), np.uint8)
    bound = flat.dtype.type(limit)
    units = flat.shape[0] * -(-flat.shape[1] // loops.BLOCK)
    _share(units, flat.size, loops.pack_above, flat, bound, closed, packed)
    return torch.from_numpy(packed)


def pack_interval(values: Tensor, low: float, high: float) -> tuple[Tensor, Tensor] | None:
    """`bits.pack_interval` of values (B, …)."""
    loops = _loops_for(values)
    if loops is None:
        return None
    flat = values.reshape(values.shape[0], -1).contiguous().numpy()
    inside = np.empty((flat.shape[0], -(-flat.shape[1] // 8)), np.uint8)
    above = np.empty_like(inside)
    bounds = flat.dtype.type(low), flat.dtype.type(high)
    units = flat.shape[0] * -(-flat.shape[1] // loops.BLOCK)
    _share(units, flat.size, loops.pack_interval, flat, *bounds, inside, above)
    return torch.from_numpy(inside), torch.from_numpy(above)


def gate(g: Tensor, packed: Tensor) -> bool:
    """Set g (K·B, …) to 0 where its image's bits (B, bytes) are not set; whether it was done."""
    loops = _loops_for(g)
    lines = None if loops is None else _lines(g, packed)
    if loops is None or lines is None:
        return False
    if lines.ndim == 2:
        units, loop = lines.shape[0] * -(-lines.shape[1] // loops.BLOCK), loops.gate
    else:
        units, loop = lines.shape[0] * -(-lines.shape[1] // 8), loops.gate_channels_last
    _share(units, lines.size, loop, lines, packed.numpy())
    return True


def sums_where(g: Tensor, packed: Tensor) -> Tensor | None:
    """`ledger.sums_where`: float64 (R,)."""
    loops = _loops_for(g)
    lines = None if loops is None else _lines(g, packed)
    if loops is None or lines is None:
        return None
    sums = np.empty(lines.shape[0])
    loop = loops.sums_where if lines.ndim == 2 else loops.sums_where_channels_last
    _share(lines.shape[0], lines.size, loop, lines, packed.numpy(), sums)
    return torch.from_numpy(sums)


def sums_and_norms(g: Tensor) -> tuple[Tensor, Tensor] | None:
    """Sums over positions (R, C) and 2-norms (R,) of g (R, C, H, W), float64, read once."""
    loops = _loops_for(g)
    lines = None if loops is None else _channels_last(g)
    if loops is None or lines is None:
        return None
    sums, norms = np.empty((lines.shape[0], lines.shape[2])), np.empty(lines.shape[0])
    _share(lines.shape[0], lines.size, loops.sums_and_norms, lines, sums, norms)
    return torch.from_numpy(sums), torch.from_numpy(norms)


def sum_of_rows(g: Tensor, weight: Tensor) -> Tensor | None:
    """g (R, n) @ weight (n, m), reading the rows of the weight that g picks, once for each R."""
    weight = weight.detach()
    loops = _loops_for(weight)
    if loops is None or g.dtype != weight.dtype or not weight.is_contiguous():
        return None
    factors, table = g.detach().numpy(), weight.numpy()
    out = np.empty((factors.shape[0], table.shape[1]), table.dtype)
    units = -(-table.shape[1] // loops.COLUMNS)
    for row, sums in zip(factors, out, strict=True):
        picked = np.flatnonzero(row)
        size = picked.size * table.shape[1]
        _share(units, size, loops.sum_of_rows, table, picked, row[picked], sums)
    return torch.from_numpy(out)


def _loops_for(values: Tensor) -> ModuleType | None:
    plain = (
        values.dtype in _DTYPES
        and type(values) is Tensor
        and values.is_cpu
        and not values.requires_grad
        and values.ndim > 1
        and values.numel() > 0
    )
    return compiled() if plain else None


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


def _share(units: int, size: int, loop: Callable[..., None], *arguments: Any) -> None:
    """Run a loop over all units, in several threads where that many numbers are worth it.

    The loops let go of the interpreter's lock.
    """
    threads = torch.get_num_threads()
    parts = min(threads, units, size // _WORTH)
    if parts <= 1:
        loop(*arguments, 0, units)
        return
    edges = [units * n // parts for n in range(parts + 1)]
    pool = _pool(os.getpid(), threads - 1)
    others = [pool.submit(loop, *arguments, *edges[n : n + 2]) for n in range(1, parts)]
    loop(*arguments, *edges[:2])
    for other in others:
        other.result()


@cache
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """Threads do not live on in a forked process."""
    del process
    return ThreadPoolExecutor(threads, thread_name_prefix="guidxmage")
