"""How far apart trails are: the decisions that differ, layer by layer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Distance:
    """Hamming distance of B pairs of trails.

    by_layer: how many decisions differ at each call site, int64 (B,); decisions: how many are taken
    there per image. `str()` is a table of the layers in which something differs.
    """

    by_layer: dict[str, Tensor]
    decisions: dict[str, int]
    rows: int = 1

    @property
    def total(self) -> Tensor:
        """Decisions that differ, int64 (B,)."""
        return sum(self.by_layer.values(), torch.zeros(self.rows, dtype=torch.long))

    @property
    def share(self) -> Tensor:
        """The same as a share of all decisions, float64 (B,)."""
        return self.total.double() / max(1, sum(self.decisions.values()))

    def __str__(self) -> str:
        total, count = int(self.total.sum()), self.rows * sum(self.decisions.values())
        lines = [f"{total:,} of {count:,} decisions differ ({total / max(1, count):.2%})"]
        width = max(map(len, self.by_layer), default=0)
        for site, differing in self.by_layer.items():
            if number := int(differing.sum()):
                share = number / (self.rows * self.decisions[site])
                lines.append(f"  {site:<{width}} {number:>12,}  {share:7.2%}")
        return "\n".join(lines)
