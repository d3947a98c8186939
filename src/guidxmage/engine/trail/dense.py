"""Decisions as they are taken, not packed: for runs that leave Python."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from guidxmage.engine.trail.decisions import Decisions


@dataclass(frozen=True)
class Dense(Decisions):
    """Decisions of B images as tensors: planes are bool (B, …), or one is of numbers."""

    def plane(self, number: int = 0, *, channels_last: bool = False) -> Tensor:  # noqa: ARG002
        """One plane as uint8 zeros and ones."""
        return self.planes[number].to(torch.uint8)

    def index(self) -> Tensor:
        """The chosen operands as int64."""
        return self.planes[0]

    def numbers(self) -> Tensor:
        """The chosen numbers as they are."""
        return self.planes[0]

    @classmethod
    def of(cls, *planes: Tensor) -> Dense:
        """From planes of one shape."""
        kind = "bits" if planes[0].dtype == torch.bool else "index"
        return cls(kind, tuple(planes[0].shape[1:]), planes)
