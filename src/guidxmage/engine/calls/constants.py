"""What calls add whatever their input."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from guidxmage.engine.kernels import loops
from guidxmage.engine.kernels.bits import is_sparse
from guidxmage.engine.kernels.reductions import sums_where


@dataclass(frozen=True)
class Constant:
    """What a call adds whatever its input, and the call site it comes from.

    bounded: no value is infinite, as the padding of a max-pool may be.
    """

    site: str
    value: Tensor
    bounded: bool = True

    @cached_property
    def weighed(self) -> Tensor:
        """The values to be multiplied by cotangents: 0 where they are infinite, and never taken."""
        return self.value if self.bounded else self.value.masked_fill(self.value.isinf(), 0)

    def at_positions(self, g: Tensor) -> Tensor:
        """What it adds at each position, summed over channels: g (R, C, …) → float64 (R, …)."""
        vector = self.channels
        if vector is None or self.value.ndim != g.ndim or len(vector) != g.shape[1]:
            return (g * self.weighed).sum(1, dtype=torch.float64)
        lines = g.movedim(1, -1)
        return (lines @ vector.to(g.dtype)).double()

    @cached_property
    def channels(self) -> Tensor | None:
        """The values as a float64 vector where there is one per channel, else None."""
        shape = self.value.shape
        if len(shape) < 2 or self.value.numel() != shape[1]:
            return None
        return self.value.flatten().double()


class Switched(Constant):
    """A constant that is `factor` where a decision says so and 0 elsewhere.

    `packed` (B, bytes) has the decisions, `gated` gives g where they say so and 0 elsewhere; the
    constant itself is made when it is read.
    """

    def __init__(
        self,
        site: str,
        factor: float,
        packed: Tensor,
        *,
        gated: Callable[[Tensor], Tensor],
        make: Callable[[], Tensor],
    ) -> None:
        vars(self).update(site=site, factor=factor, packed=packed, gated=gated, make=make)

    def __getattr__(self, name: str) -> Tensor:
        if name != "value":
            raise AttributeError(name)
        vars(self)["value"] = made = vars(self)["make"]()
        return made

    def at_positions(self, g: Tensor) -> Tensor:
        """`Constant.at_positions`, reading what is picked."""
        factor: float = vars(self)["factor"]
        done = loops.position_sums_where(g, vars(self)["packed"])
        if done is None:
            done = vars(self)["gated"](g).sum(1, dtype=torch.float64)
        return done * factor

    def inner(self, g: Tensor) -> Tensor:
        """⟨g, constant⟩ for each row (R, …), float64 (R,); few are picked, many multiplied."""
        factor: float = vars(self)["factor"]
        packed: Tensor = vars(self)["packed"]
        done = loops.sums_where(g, packed)
        if done is not None:
            return done * factor
        if is_sparse(packed):
            return sums_where(g, packed) * factor
        gated = vars(self)["gated"](g)
        summed = gated.sum(list(range(2, g.ndim))) if g.ndim > 2 else gated
        return summed.double().sum(1) * factor
