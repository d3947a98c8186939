"""Max-pools in operators that can be exported."""

from __future__ import annotations

import torch
from torch import Tensor

from guidxmage.engine.calls.call import Frame, Hole

aten = torch.ops.aten
_WITH_INDICES = {
    1: aten.max_pool1d_with_indices.default,
    2: aten.max_pool2d_with_indices.default,
    3: aten.max_pool3d_with_indices.default,
}


def evenly(f: Frame, x: Tensor, dims: int) -> tuple[Tensor, Tensor] | None:
    """An adaptive max-pool whose windows are all of one size, as a plain one: ONNX has that."""
    sides = list(zip(x.shape[-dims:], f.shape[-dims:], strict=True))
    if "adaptive" not in f.call.op or any(n % m for n, m in sides):
        return None
    kernel = [n // m for n, m in sides]
    found: tuple[Tensor, Tensor] = _WITH_INDICES[dims](x, kernel, kernel)
    return found


def added_at(index: Tensor, g: Tensor, x: Hole, dims: int) -> Tensor:
    """Cotangents added up at the flat places of their maxima in planes of `dims` dimensions."""
    zeros = x.zeros().flatten(-dims)
    return zeros.scatter_add(-1, index.flatten(-dims), g.flatten(-dims)).reshape(x.shape)
