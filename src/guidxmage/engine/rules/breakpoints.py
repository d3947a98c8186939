"""Where along a line a decision flips: the closed forms that the decision rules share.

Under a fixed trail every input of a decision is z(s) = z + s·dz along a line. A decision flips
where z(s) reaches its threshold *while leaving the side that the trail says*. The side is never
read off the sign of z: right at a breakpoint that sign is rounding.

A decision that stays on its limit all along a line is a tie. Behind a breakpoint it flips at once
where the trail has it on the other side than the network would (`ties`). On a trail that was
recorded no decision is on the wrong side of a tie; one that seems to be there is rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Crossings:
    """The first decision of every row to flip at one call site.

    s (B,) float64, inf where none ever flips; position (B,), flat; choice (B,), the new decision
    as the number whose binary digits are the planes of `Decisions`.
    """

    s: Tensor
    position: Tensor
    choice: Tensor


def halves(stacked: Tensor) -> tuple[Tensor, Tensor]:
    """Values and directions, which lie one above the other in a stacked argument."""
    rows = len(stacked) // 2
    return stacked[:rows], stacked[rows:]


def earliest(s: Tensor, rows: int, choice: Callable[[Tensor], Tensor]) -> Crossings:
    """The smallest s of every row; `choice` tells the new decision at positions (B,).

    s is (B, …), or has several parts of every image in its first dimension, or the whole of one.
    """
    first, position = s.reshape(rows, -1).min(1)
    return Crossings(first.double(), position, choice(position))


def never(z: Tensor, rows: int) -> Crossings:
    """No decision of any row of z flips."""
    nowhere = torch.zeros(rows, dtype=torch.long, device=z.device)
    return Crossings(torch.full_like(nowhere, inf, dtype=torch.float64), nowhere, nowhere)


def at(values: Tensor, position: Tensor) -> Tensor:
    """The entries of values at one flat position a row, (B,)."""
    return values.reshape(len(position), -1).gather(1, position[:, None])[:, 0]


def threshold(
    z: Tensor,
    dz: Tensor,
    limit: Any,
    on: Tensor,
    *,
    rows: int,
    ties: bool,
    closed: bool = False,
) -> Crossings:
    """Two pieces, on above `limit` and off below; `on` (bool) is what the trail says.

    `closed` tells whether the limit itself is on, the side that a tie takes at once, −inf.
    """
    s = (limit - z).div_(dz)
    tied = s.isnan() & (~on if closed else on)
    s.masked_fill_(torch.where(on, dz >= 0, dz <= 0), inf)
    if ties:
        s.masked_fill_(tied, -inf)
    return earliest(s, rows, lambda position: 1 - at(on, position).long())


def interval(
    z: Tensor,
    dz: Tensor,
    low: Any,
    high: Any,
    planes: tuple[Tensor, Tensor],
    *,
    rows: int,
    ties: bool,
    closed: bool,
) -> Crossings:
    """Three pieces: below `low`, inside, above `high`; planes (bool) inside and above.

    `closed` tells whether the bounds themselves are inside; for ties as in `threshold`.
    """
    inside, above = planes
    falling, level = dz < 0, dz == 0
    # The bound ahead: from inside it depends on the direction, from outside it is the near one.
    s = torch.where(above | (inside & ~falling), high - z, low - z).div_(dz)
    s.masked_fill_(~inside & (above ^ falling) | level, inf)
    low_tie, high_tie = level & (z == low), level & (z == high)
    if ties:
        s.masked_fill_((low_tie | high_tie) & (~inside if closed else inside), -inf)

    def choice(position: Tensor) -> Tensor:
        upwards = torch.where(at(level, position), at(high_tie, position), ~at(falling, position))
        return torch.where(at(inside, position), 2 * upwards.long(), 1)

    return earliest(s, rows, choice)


def overtaking(gap: Tensor, rate: Tensor, before: Tensor, *, ties: bool) -> Tensor:
    """Where a competitor that lies `gap` behind and gains `rate` per unit of s draws level.

    In a tie the first in order wins: a competitor that is equal all along the line and comes
    `before` (bool) the present winner replaces it at once, −inf.
    """
    s = gap / rate
    tied = s.isnan() & before
    s.masked_fill_(rate <= 0, inf)
    return s.masked_fill_(tied, -inf) if ties else s
