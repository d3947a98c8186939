"""What a transposed run carries: the cotangents that wait for their call."""

from __future__ import annotations

import torch
from torch import Tensor


def shares_memory(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors lie in one storage."""
    return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()


def is_dense(tensor: Tensor) -> bool:
    """Whether a tensor fills its memory without gaps, in either layout."""
    last = torch.channels_last
    return tensor.is_contiguous() or (tensor.ndim == 4 and tensor.is_contiguous(memory_format=last))


class Cotangents:
    """Cotangents waiting for their call, summed where a value was used more than once.

    An owned one shares its memory with nothing else and may be overwritten.
    """

    def __init__(self, id_: int, g: Tensor) -> None:
        self._waiting: dict[int, tuple[Tensor, bool]] = {id_: (g, False)}

    def pop(self, id_: int) -> tuple[Tensor | None, bool]:
        """What has arrived at a value, None where nothing has, and whether it is owned."""
        return self._waiting.pop(id_, (None, False))

    def add(self, id_: int, g: Tensor, owned: bool) -> None:
        """Add what one use of a value sends back to it."""
        if id_ not in self._waiting:
            self._waiting[id_] = (g, owned)
            return
        other, other_owned = self._waiting[id_]
        target, addend = (g, other) if owned and not other_owned else (other, g)
        total = target.add_(addend) if owned or other_owned else target + addend
        self._waiting[id_] = (total, True)
