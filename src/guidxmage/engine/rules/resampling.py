"""Resampling transposed in operators that can be exported: dimension by dimension, by a matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from guidxmage.engine.calls.call import Frame, Hole


def resampled_pull(
    f: Frame, g: Tensor, x: Hole, sizes: Sequence[int] | None, *rest: Any
) -> list[Tensor]:
    """The transpose of interpolation, whose coefficients are products of those of dimensions.

    rest: align_corners, where the operator has it, and the factors, one for each dimension or None.
    """
    dims = len(x.shape) - 2
    for place in range(dims):
        inputs = x.shape[2 + place]
        weights = f.prepare(
            f"samples{place}",
            lambda: _coefficients(f, (inputs, place, dims), sizes, rest),  # noqa: B023
        )
        if weights is None:
            continue
        g = (g.movedim(2 + place, -1) @ weights.to(g)).movedim(-1, 2 + place)
    return [g]


def _coefficients(
    f: Frame, where: tuple[int, int, int], sizes: Sequence[int] | None, rest: Sequence[Any]
) -> Tensor | None:
    """What every input of a line gives to every output, float64 (outputs, inputs).

    None where each is handed on. The operator is run on unit vectors along one dimension; along the
    others there are two equal points: PyTorch's filters go wrong where there is one.
    """
    inputs, place, dims = where
    *options, factors = rest
    shape, others = [1] * dims, [2] * dims
    shape[place] = others[place] = inputs
    own = None if sizes is None else [n if d == place else 2 for d, n in enumerate(sizes)]
    scales = None if factors is None else [s if d == place else 1.0 for d, s in enumerate(factors)]
    units = torch.eye(inputs, dtype=torch.float64)
    spread = units.reshape(inputs, 1, *shape).expand(inputs, 1, *others).contiguous()
    weights: Tensor = f.call.run(spread, own, *options, scales).movedim(2 + place, 1)
    weights = weights.flatten(2)[..., 0]
    if weights.shape == units.shape and torch.equal(weights, units):
        return None
    return weights.t().contiguous()
