"""What the runs of a program leave behind."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from guidxmage.engine.trail import Trail


@dataclass(frozen=True)
class Recording:
    """What a concrete run leaves: logits (B, classes), the trail, and output norms for rounding."""

    logits: Tensor
    trail: Trail
    norms: dict[int, Tensor]


@dataclass(frozen=True)
class Pulled:
    """What a transposed run gives for R = K·B rows.

    weights (R, *input shape); bias_by_site: site → (R,); variance (R,) of the rounding error, in
    units of the unit roundoff squared; maps: site → (R, *positions) when they were asked for.
    """

    weights: Tensor
    bias_by_site: dict[str, Tensor]
    variance: Tensor
    maps: dict[str, Tensor]
