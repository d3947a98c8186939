"""Averages transposed in operators that can be exported; PyTorch's backward kernels cannot."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from guidxmage.engine.calls.call import Frame, Hole

aten = torch.ops.aten


def adaptive_pull(f: Frame, g: Tensor, x: Hole, size: Sequence[int]) -> list[Tensor]:
    """The transpose of adaptive_avg_pool: averages over one dimension after the other."""
    dims = len(size)
    if all(n == 1 for n in size):
        return [(g / prod(x.shape[-dims:])).expand(x.shape)]
    for place in range(dims):
        inputs, outputs = x.shape[place - dims], f.shape[place - dims]
        if inputs != outputs:
            weights = f.prepare(f"averages{place}", lambda: _adaptive(inputs, outputs))  # noqa: B023
            moved = g.movedim(place - dims, -1) @ weights.to(g)
            g = moved.movedim(-1, place - dims)
    return [g]


def _adaptive(inputs: int, outputs: int) -> Tensor:
    """Window o covers ⌊o·n/m⌋ … ⌈(o+1)·n/m⌉ − 1: float64 (outputs, inputs)."""
    weights = torch.zeros(outputs, inputs, dtype=torch.float64)
    for o in range(outputs):
        start, end = o * inputs // outputs, -(-(o + 1) * inputs // outputs)
        weights[o, start:end] = 1 / (end - start)
    return weights


def windows_pull(
    f: Frame,
    g: Tensor,
    x: Hole,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    ceil_mode: bool = False,
    *_: Any,
) -> list[Tensor]:
    """The transpose of avg_pool: every share is spread over its window."""
    dims, plane = len(kernel) if len(kernel) > 1 else len(x.shape) - 2, x.shape[2:]
    sizes, steps, pads = (
        list(one) * dims if len(one) == 1 else list(one)
        for one in (kernel, stride or kernel, padding)
    )
    divisor = f.prepare("divisor", lambda: _divisors(f, plane, (sizes, steps, pads, ceil_mode)))
    shares = (g / divisor.to(g)).reshape(-1, 1, *f.shape[2:])
    ones = f.prepare("ones", lambda: torch.ones(1, 1, *sizes)).to(g)
    none = [0] * dims
    spread = aten.convolution(shares, ones, None, steps, none, [1] * dims, True, none, 1)
    reached = [(n - 1) * s + k for n, s, k in zip(f.shape[2:], steps, sizes, strict=True)]
    sides = [(-p, n + p - r) for p, n, r in zip(pads, plane, reached, strict=True)]
    spread = functional.pad(spread, [n for side in reversed(sides) for n in side])
    return [spread.reshape(x.shape)]


def _divisors(f: Frame, plane: Sequence[int], geometry: Any) -> Tensor:
    """What the sum of each window is divided by, float64 (1, 1, *outputs).

    The average of ones is how many of them the window has, divided by it.
    """
    ones = torch.ones(1, 1, *plane, dtype=torch.float64)
    sizes, steps, pads, ceil_mode = geometry
    averages = f.call.run(ones, *f.call.args[1:])
    while ones.ndim < 4:  # the count has an operator for planes only
        ones = ones.unsqueeze(2)
        sizes, steps, pads = [1, *sizes], [1, *steps], [0, *pads]
    count = functional.avg_pool3d if ones.ndim == 5 else functional.avg_pool2d
    counted = count(ones, sizes, steps, pads, ceil_mode, divisor_override=1)
    divisor = counted.reshape(averages.shape) / averages
    return divisor.round() if bool((divisor.round() - divisor).abs().max() < 1e-9) else divisor
