"""Bits in bytes: decisions packed eight to a byte, as `numpy.packbits` does, and unpacked again."""

from __future__ import annotations

from math import prod

import numpy as np
import torch
from torch import Tensor

_BIT_WEIGHTS = (128, 64, 32, 16, 8, 4, 2, 1)


def pack_bits(bits: Tensor) -> Tensor:
    """Pack a boolean tensor (B, …) into bytes (B, ⌈n/8⌉), first decision in the highest bit."""
    flat = bits.reshape(len(bits), -1)
    if flat.device.type == "cpu":
        return torch.from_numpy(np.packbits(flat.numpy(), axis=1))
    padded = torch.nn.functional.pad(flat.to(torch.uint8), (0, -flat.shape[1] % 8))
    weights = torch.tensor(_BIT_WEIGHTS, dtype=torch.uint8, device=flat.device)
    return (padded.view(len(flat), -1, 8) * weights).sum(-1, dtype=torch.uint8)


def pack_positive(values: Tensor) -> Tensor:
    """`pack_bits(values > 0)`, without a boolean tensor of all images in between."""
    if values.device.type != "cpu":
        return pack_bits(values > 0)
    flat = values.detach().reshape(len(values), -1).numpy()
    rows = [np.packbits(row > 0) for row in flat]
    return torch.from_numpy(rows[0][None] if len(rows) == 1 else np.stack(rows))


def unpack_bits(packed: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Inverse of `pack_bits`: uint8 zeros and ones of shape (B, *shape)."""
    count = prod(shape)
    if packed.device.type == "cpu":
        flat = torch.from_numpy(np.unpackbits(packed.numpy(), axis=1, count=count))
    else:
        weights = torch.tensor(_BIT_WEIGHTS, dtype=torch.uint8, device=packed.device)
        flat = packed[:, :, None].bitwise_and(weights).ne(0).to(torch.uint8)
        flat = flat.reshape(len(packed), -1)[:, :count]
    return flat.reshape(len(packed), *shape)


def unpack_channels_last(packed: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """`unpack_bits` for images, laid out channels last: uint8 of shape (B, C, H, W).

    Whole bytes are moved before they are spread, an eighth of the traffic; that needs H·W to be a
    multiple of eight.
    """
    channels, height, width = shape
    if height * width % 8:
        return unpack_bits(packed, shape).contiguous(memory_format=torch.channels_last)
    bytes_last = packed.view(len(packed), channels, -1).transpose(1, 2).contiguous()
    shifts = torch.arange(7, -1, -1, dtype=torch.uint8, device=packed.device)[:, None]
    bits = packed.new_empty(*bytes_last.shape[:2], 8, channels)
    torch.bitwise_right_shift(bytes_last[:, :, None, :], shifts, out=bits).bitwise_and_(1)
    return bits.view(len(packed), height, width, channels).permute(0, 3, 1, 2)
