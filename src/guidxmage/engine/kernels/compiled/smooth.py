"""What is recorded of smooth operators."""

from __future__ import annotations

from typing import Any

from numba import prange

from guidxmage.engine.kernels.compiled.machine_code import BLOCK, Array, shared


@shared
def secants(x: Array, value: Array, numbers: Any, out: Array) -> None:
    """(value − a) / x into out (n,) where |x| > near, else the slope; numbers: a, near, slope."""
    at_zero, near, slope = numbers
    for block in prange((len(x) + BLOCK - 1) // BLOCK):
        for i in range(block * BLOCK, min((block + 1) * BLOCK, len(x))):
            quotient = (value[i] - at_zero) / x[i]
            out[i] = quotient if abs(x[i]) > near else slope
