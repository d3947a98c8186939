"""Decisions as bits: eight to the byte, and back, in either memory layout."""

from __future__ import annotations

from functools import cache
from math import prod

import numpy as np
import torch
from torch import Tensor

from guidxmage.engine.kernels import loops


@cache
def _bit_weights(device: torch.device) -> Tensor:
    """Kept, since every copy to a GPU would wait for it."""
    return torch.tensor((128, 64, 32, 16, 8, 4, 2, 1), dtype=torch.uint8, device=device)


def pack_bits(bits: Tensor) -> Tensor:
    """Pack a boolean tensor (B, …) into bytes (B, ⌈n/8⌉), first decision in the highest bit."""
    flat = bits.flatten(1) if bits.ndim > 1 else bits[:, None]
    if flat.device.type == "cpu":
        return torch.from_numpy(np.packbits(flat.numpy(), axis=1))
    padded = torch.nn.functional.pad(flat.to(torch.uint8), (0, -flat.shape[1] % 8))
    weights = _bit_weights(flat.device)
    return (padded.view(len(flat), -1, 8) * weights).sum(-1, dtype=torch.uint8)


def pack_above(values: Tensor, limit: float = 0, *, closed: bool = False) -> Tensor:
    """`pack_bits(values > limit)`, or ≥, without a boolean tensor of all images in between."""
    done = loops.pack_above(values, limit, closed=closed)
    if done is not None:
        return done
    if values.device.type != "cpu":
        return pack_bits(values >= limit if closed else values > limit)
    flat = values.detach().reshape(len(values), prod(values.shape[1:])).numpy()
    rows = [np.packbits(row >= limit if closed else row > limit) for row in flat]
    if not rows:
        return torch.zeros(0, -(-flat.shape[1] // 8), dtype=torch.uint8)
    return torch.from_numpy(rows[0][None] if len(rows) == 1 else np.stack(rows))


def pack_interval(values: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    """Where values (B, …) are inside (low, high), and where they are at or above high."""
    done = loops.pack_interval(values, low, high)
    if done is not None:
        return done
    above = pack_above(values, high, closed=True)
    return pack_above(values, low) & ~above, above


def unpack_bits(packed: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Inverse of `pack_bits`: uint8 zeros and ones of shape (B, *shape)."""
    count = prod(shape)
    if packed.device.type == "cpu":
        flat = torch.from_numpy(np.unpackbits(packed.numpy(), axis=1, count=count))
    else:
        weights = _bit_weights(packed.device)
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
    weights = _bit_weights(packed.device)[:, None]
    bits = packed.new_empty(*bytes_last.shape[:2], 8, channels)
    # Both are vectorised for bytes, which a shift is not.
    torch.bitwise_and(bytes_last[:, :, None, :], weights, out=bits).clamp_max_(1)
    return bits.view(len(packed), height, width, channels).permute(0, 3, 1, 2)


def is_sparse(packed: Tensor) -> bool:
    """Whether at most every fourth byte of bits (B, n) has any set; on a GPU nobody looks."""
    if packed.device.type != "cpu":
        return False
    return 4 * int(np.count_nonzero(packed.numpy())) <= packed.numel()


def set_positions(packed: np.ndarray) -> np.ndarray:
    """Flat positions, int64 ascending, of the bits that are set in one image's bytes (n,)."""
    taken = np.flatnonzero(packed != 0)  # of booleans it is many times as fast
    byte, bit = np.divmod(np.flatnonzero(np.unpackbits(packed[taken]).view(bool)), 8)
    return (taken * 8)[byte] + bit
