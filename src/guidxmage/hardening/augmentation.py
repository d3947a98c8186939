"""Random crops and mirroring of images together with their masks."""

from __future__ import annotations

import torch
from torch import Tensor

from guidxmage.hardening.dataset import Batch


def augmented(batch: Batch, crop: int, flip: bool, draw: torch.Generator) -> Batch:
    """Shift each image by up to `crop` pixels both ways, what comes in being mirrored at the edge.

    With `flip` half of them are mirrored from left to right. Masks move along.
    """
    count, _, height, width = batch.images.shape
    rows = _places(height, crop, draw, count)
    columns = _places(width, crop, draw, count)
    if flip:
        turned = torch.rand(count, generator=draw) < 0.5
        columns = torch.where(turned[:, None], columns.flip(1), columns)
    number = torch.arange(count)[:, None, None]
    images = batch.images.permute(0, 2, 3, 1)[number, rows[:, :, None], columns[:, None, :]]
    masks = batch.masks[number, rows[:, :, None], columns[:, None, :]]
    return batch._replace(images=images.permute(0, 3, 1, 2).contiguous(), masks=masks)


def _places(size: int, crop: int, draw: torch.Generator, count: int) -> Tensor:
    """Where each pixel of a line comes from, (count, size)."""
    shift = torch.randint(-crop, crop + 1, (count, 1), generator=draw)
    at = (torch.arange(size) + shift).abs()
    return torch.where(at >= size, 2 * (size - 1) - at, at)
