"""Sums and norms of the rows of a run."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from guidxmage.engine.kernels import loops
from guidxmage.engine.kernels.bits import set_positions
from guidxmage.engine.kernels.layout import is_channels_last


def sums_where(g: Tensor, packed: Tensor) -> Tensor:
    """The sum of every row of g (R, …) where its image's bits (B, n) are set: float64 (R,).

    Row k·B + b belongs to image b.
    """
    last, size = is_channels_last(g), g[0].numel()
    rows = (g.permute(0, 2, 3, 1) if last else g).detach().flatten(1)
    flat = rows.numpy().reshape(-1, len(packed), size)
    sums = np.empty(flat.shape[:2])
    for image, bits in enumerate(packed.numpy()):
        positions = set_positions(bits)
        if last:
            channel, place = np.divmod(positions, size // g.shape[1])
            positions = place * g.shape[1] + channel
        sums[:, image] = flat[:, image].take(positions, axis=1).sum(1, dtype=np.float64)
    return torch.from_numpy(sums).flatten()


def row_norms(values: Tensor, rows: int) -> Tensor:
    """The 2-norm of every row, (R,), whatever the memory layout."""
    if values.ndim < 2 and values.numel() == rows:
        return values.abs().reshape(rows)
    done = loops.norms(values) if values.shape[0] == rows else None
    if done is not None:
        return done
    if values.shape[0] != rows:
        values = values.reshape(rows, -1)
    return torch.linalg.vector_norm(values, dim=tuple(range(1, values.ndim)))


def sums_and_norms(values: Tensor, rows: int) -> tuple[Tensor | None, Tensor]:
    """`row_norms`, and the sums over positions (R, C) where they fall off on the way, else None."""
    whole = values.ndim > 0 and values.shape[0] == rows
    done = loops.sums_and_norms(values) if whole else None
    return (None, row_norms(values, rows)) if done is None else done
