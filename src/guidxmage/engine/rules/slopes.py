"""Derivatives of smooth functions of one number, written out: what a tangent is exported with.

In Python autograd knows them; a graph that leaves it needs them as formulas.
"""

from __future__ import annotations

from collections.abc import Callable
from math import log, pi, sqrt
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from guidxmage.engine.calls.call import Call, Frame, Hole, is_active
from guidxmage.engine.rules.smooth import scaled
from guidxmage.engine.rules.table import BY_AUTOGRAD, Plain
from guidxmage.engine.trail.gates import Gates

Slope = Callable[..., Tensor]
_SELU = (1.6732632423543772848170429916717, 1.0507009873554804934193349852946)


def _silu(x: Tensor) -> Tensor:
    s = x.sigmoid()
    return s * (1 + x * (1 - s))


def _gelu(x: Tensor, *, approximate: str = "none") -> Tensor:
    if approximate == "none":
        return (1 + (x / sqrt(2)).erf()) / 2 + x * (-x * x / 2).exp() / sqrt(2 * pi)
    inner = sqrt(2 / pi) * (x + 0.044715 * x * x * x)
    t = inner.tanh()
    return (1 + t) / 2 + x * (1 - t * t) / 2 * sqrt(2 / pi) * (1 + 3 * 0.044715 * x * x)


def _hardswish(x: Tensor) -> Tensor:
    inside = torch.where(x <= 3, x / 3 + 0.5, 1)
    return torch.where(x < -3, 0, inside)


def _mish(x: Tensor) -> Tensor:
    t = functional.softplus(x).tanh()
    return t + x * (1 - t * t) * x.sigmoid()


def _elu(x: Tensor, alpha: float = 1, scale: float = 1, rate: float = 1) -> Tensor:
    # What grows without end is cut off before: where x > 0 it is not taken.
    return torch.where(x > 0, scale, alpha * scale * rate * (rate * x).clamp_max(0).exp())


def _celu(x: Tensor, alpha: float = 1) -> Tensor:
    # PyTorch's own derivative has this number in single precision.
    return _elu(x, alpha, 1, 1 / float(np.float32(alpha)))


def _softplus(x: Tensor, beta: float = 1, threshold: float = 20) -> Tensor:
    return torch.where(x * beta > threshold, 1, (beta * x).sigmoid())


def _power(x: Tensor, exponent: float) -> Tensor:
    slope = exponent * x ** (exponent - 1) if exponent else torch.zeros_like(x)
    # A root has no slope at 0: nothing flows there.
    return slope.masked_fill(x == 0, 0) if 0 < exponent < 1 else slope


SLOPES: dict[str, Slope] = {
    "silu": _silu,
    "gelu": _gelu,
    "hardswish": _hardswish,
    "mish": _mish,
    "elu": _elu,
    "selu": lambda x: _elu(x, *_SELU),
    "celu": _celu,
    "softplus": _softplus,
    "tanh": lambda x: 1 - x.tanh().square(),
    "sigmoid": lambda x: x.sigmoid() * (1 - x.sigmoid()),
    "log_sigmoid": lambda x: (-x).sigmoid(),
    "exp": torch.exp,
    "expm1": torch.exp,
    "exp2": lambda x: torch.exp2(x) * log(2),
    "sin": torch.cos,
    "cos": lambda x: -x.sin(),
    "tan": lambda x: 1 + x.tan().square(),
    "sinh": torch.cosh,
    "cosh": torch.sinh,
    "erf": lambda x: (-x * x).exp() * (2 / sqrt(pi)),
    "erfc": lambda x: (-x * x).exp() * (-2 / sqrt(pi)),
    "atan": lambda x: 1 / (1 + x * x),
    "asin": lambda x: (1 - x * x).rsqrt(),
    "acos": lambda x: -(1 - x * x).rsqrt(),
    "asinh": lambda x: (1 + x * x).rsqrt(),
    "acosh": lambda x: (x * x - 1).rsqrt(),
    "atanh": lambda x: 1 / (1 - x * x),
    "square": lambda x: 2 * x,
    "sqrt": lambda x: x.rsqrt() / 2,
    "rsqrt": lambda x: -x.rsqrt() / (2 * x),
    "reciprocal": lambda x: -1 / (x * x),
    "log": lambda x: 1 / x,
    "log1p": lambda x: 1 / (1 + x),
    "log2": lambda x: 1 / (x * log(2)),
    "log10": lambda x: 1 / (x * log(10)),
    "pow": _power,
}  # fmt: skip


def name_of(operator: str) -> str:
    """The function's name in an operator's: "aten.gelu.default" is gelu."""
    return operator.split(".")[1]


def recorded_slope(f: Frame, x: Tensor, *args: Any, **kw: Any) -> tuple[Tensor, Gates]:
    """The value, and the tangent: its slope, and what it has at 0."""
    value = f.call.run(x, *args)
    slope = SLOPES[name_of(f.call.op)](x, *args, **kw)
    return value, Gates("tangent", (slope, value - slope * x))


def _pull(f: Frame, g: Tensor, x: Hole, *args: Any, **kw: Any) -> list[Tensor]:
    return [scaled(f, g, f.numbers()[0])]


def _unknown(call: Call, convention: str) -> str | None:
    alone = len(call.inputs) == 1 and is_active(call.args[0])
    return None if alone and name_of(call.op) in SLOPES else BY_AUTOGRAD


# For rules that are a tangent whatever the convention.
BY_SLOPE = Plain(record=recorded_slope, pull=_pull, refuse=_unknown)
