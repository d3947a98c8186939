"""How tensors lie in memory."""

from __future__ import annotations

import torch
from torch import Tensor


def is_channels_last(tensor: Tensor) -> bool:
    """Whether a 4-d tensor lies in memory channel-last (and not also contiguous)."""
    return tensor.ndim == 4 and tensor.stride(1) == 1 and not tensor.is_contiguous()


def is_dense(tensor: Tensor) -> bool:
    """Whether a tensor fills its memory without gaps, in either layout."""
    last = torch.channels_last
    return tensor.is_contiguous() or (tensor.ndim == 4 and tensor.is_contiguous(memory_format=last))


def shares_memory(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors lie in one storage."""
    return a is b or a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()
