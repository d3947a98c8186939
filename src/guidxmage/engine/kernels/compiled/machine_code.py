"""How loops become machine code, which is kept on disk.

Numba looks for changes in the file of a loop only: after a change of what it calls from another
file, remove `__pycache__`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

Array = np.ndarray[Any, Any]

BLOCK = 4096  # decisions that are spread to bytes at once: well within the first cache
# Multiplied by eight bytes of 0 or 1, it gathers them in the highest byte, the first one foremost;
# multiplied by a byte, it lays its bits out one byte apart, the highest one in the lowest byte.
SPREAD = np.uint64(0x8040201008040201)


def compiled(loop: Callable[..., Any], fastmath: Any = False) -> Callable[..., Any]:
    """The loop as machine code, compiled when it is first called with arrays of its kind."""
    options = {"nogil": True, "error_model": "numpy", "fastmath": fastmath}
    try:
        return njit(cache=True, **options)(loop)
    except RuntimeError:  # no folder to keep the machine code in can be written
        return njit(**options)(loop)


def reassociated(loop: Callable[..., Any]) -> Callable[..., Any]:
    """A sum whose order is left to the compiler, which otherwise may not vectorise it."""
    return compiled(loop, fastmath={"reassoc", "contract"})
