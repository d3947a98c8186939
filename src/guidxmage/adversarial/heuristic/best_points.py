"""The best points of a search so far."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from guidxmage.adversarial.heuristic.problem import Problem, spread


@dataclass(frozen=True)
class Found:
    """The best point of each row so far: Z (n, C, H, W) and its norm (n,).

    Where none is beyond the boundary the norm is inf, and Z where the search got to.
    """

    Z: Tensor
    size: Tensor

    @classmethod
    def nothing(cls, problem: Problem) -> Found:
        """Before the search."""
        return cls(problem.X.clone(), torch.full_like(problem.X[:, 0, 0, 0], torch.inf))

    def better(self, other: Found) -> Found:
        """Row by row the smaller of two."""
        wins = (other.size < self.size) | ~torch.isfinite(self.size)
        return Found(
            torch.where(spread(wins, self.Z), other.Z, self.Z),
            torch.where(wins, other.size, self.size),
        )
