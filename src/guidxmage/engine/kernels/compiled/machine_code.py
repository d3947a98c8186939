"""How loops become machine code, which is kept on disk.

Numba looks for changes in the file of a loop only: after a change of what it calls from another
file, remove `__pycache__`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import torch
from numba import njit
from numba.core import config

Array = np.ndarray[Any, Any]

BLOCK = 4096  # decisions that are spread to bytes at once: well within the first cache
# Multiplied by eight bytes of 0 or 1, it gathers them in the highest byte, the first one foremost;
# multiplied by a byte, it lays its bits out one byte apart, the highest one in the lowest byte.
SPREAD = np.uint64(0x8040201008040201)
# Numbers from which on it is worth waking other threads; below, it takes as long as it saves.
_WORTH_WAKING = 1 << 18
_PARALLEL = dict.fromkeys(
    ("reduction", "fusion", "inplace_binop", "comprehension", "setitem", "stencil", "numpy"), False
) | {"prange": True}


def compiled(loop: Callable[..., Any], fastmath: Any = False, **more: Any) -> Callable[..., Any]:
    """The loop as machine code, compiled when it is first called with arrays of its kind."""
    options = {"nogil": True, "error_model": "numpy", "fastmath": fastmath, **more}
    try:
        return njit(cache=True, **options)(loop)
    except RuntimeError:  # no folder to keep the machine code in can be written
        return njit(**options)(loop)


def reassociated(loop: Callable[..., Any]) -> Callable[..., Any]:
    """A sum whose order is left to the compiler, which otherwise may not vectorise it."""
    return compiled(loop, fastmath={"reassoc", "contract"})


def shared(loop: Callable[..., Any]) -> Callable[..., Any]:
    """A loop with `prange` on as many threads as PyTorch has, where that is worth it.

    Every unit of such a loop writes to places of its own, and sums are put together in one order:
    the result is the same to the bit on any number of threads.
    """
    alone, together = compiled(loop), compiled(loop, parallel=_PARALLEL)

    def run(first: Array, *rest: Any) -> None:
        threads = _threads() if first.size >= _WORTH_WAKING else 1
        if threads == 1:
            alone(first, *rest)
            return
        before = numba.get_num_threads()
        if before == threads:  # most often: numba, too, has all cores
            together(first, *rest)
            return
        numba.set_num_threads(threads)
        try:
            together(first, *rest)
        finally:
            numba.set_num_threads(before)

    return run


class _Threading:
    """Whether loops may run on several threads in this process."""

    safe: bool | None = None


def _threads() -> int:
    threads = torch.get_num_threads()
    if threads == 1 or _Threading.safe is False:
        return 1
    if _Threading.safe is None:
        _Threading.safe = _is_safe()
    most = int(config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]
    return min(threads, most) if _Threading.safe else 1


def _is_safe() -> bool:
    """Numba's last resort among threading layers ends the process if two threads call it at once.

    The one of OpenMP shares PyTorch's own threads.
    """
    try:
        from numba.np.ufunc.parallel import _launch_threads

        _launch_threads()  # type: ignore[no-untyped-call]
        return bool(numba.threading_layer() != "workqueue")  # type: ignore[attr-defined]
    except (ImportError, ValueError):
        return False


def _forbid() -> None:
    _Threading.safe = False


# Threads of OpenMP do not outlive a fork: a child that woke them would end.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forbid)
