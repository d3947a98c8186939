"""What is recorded of smooth operators."""

from __future__ import annotations

from typing import Any

from guidxmage.engine.kernels.compiled.machine_code import Array, compiled


@compiled
def secants(x: Array, value: Array, numbers: Any, out: Array) -> None:
    """(value − a) / x into out (n,) where |x| > near, else the slope; numbers: a, near, slope."""
    at_zero, near, slope = numbers
    for i in range(len(x)):
        quotient = (value[i] - at_zero) / x[i]
        out[i] = quotient if abs(x[i]) > near else slope
