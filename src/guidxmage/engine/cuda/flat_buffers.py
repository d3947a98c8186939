"""Many tensors laid end to end in a few, and taken apart again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor


@dataclass(frozen=True)
class _Piece:
    """One tensor: its number among all, its dimensions from slowest to fastest, their sizes."""

    number: int
    order: tuple[int, ...]
    shape: tuple[int, ...]

    @classmethod
    def of(cls, number: int, tensor: Tensor) -> _Piece:
        order = sorted(range(tensor.ndim), key=tensor.stride, reverse=True)
        if not tensor.permute(order).is_contiguous():  # expanded, or with gaps
            order = list(range(tensor.ndim))
        return cls(number, tuple(order), tuple(tensor.shape[d] for d in order))

    def flat(self, tensor: Tensor) -> Tensor:
        return tensor.permute(self.order).reshape(-1)

    def whole(self, flat: Tensor) -> Tensor:
        laid_out = flat.view(self.shape)
        if self.order == tuple(range(len(self.order))):
            return laid_out
        return laid_out.permute([self.order.index(d) for d in range(len(self.order))])


class Parcel:
    """How tensors of some shapes, dtypes and layouts become one flat tensor for each dtype."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._count = len(tensors)
        self._pieces: dict[torch.dtype, list[_Piece]] = {}
        for number, tensor in enumerate(tensors):
            self._pieces.setdefault(tensor.dtype, []).append(_Piece.of(number, tensor))

    def packed(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The flat tensors, always in memory of their own."""
        return [
            torch.cat([piece.flat(tensors[piece.number]) for piece in pieces])
            for pieces in self._pieces.values()
        ]

    def unpacked(self, flats: Sequence[Tensor]) -> list[Tensor]:
        """The tensors as views of the flat ones, with the memory layout they had."""
        found: dict[int, Tensor] = {}
        for flat, pieces in zip(flats, self._pieces.values(), strict=True):
            parts = flat.split([prod(piece.shape) for piece in pieces])
            found.update(
                (piece.number, piece.whole(part)) for piece, part in zip(pieces, parts, strict=True)
            )
        return [found[number] for number in range(self._count)]
