"""The steps of a program's runs, and what they leave behind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from guidxmage.engine.call import Call, Frame
from guidxmage.engine.ledger import Constant, Switched
from guidxmage.engine.rules.table import Rule
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


@dataclass
class Step:
    """One call of a transposed run: its rule, and its arguments with holes for active inputs."""

    call: Call
    rule: Rule
    holes: list[Any]
    constants: list[Constant] | None = None
    noise: tuple[float, float] | None = None


def switched(frame: Frame, step: Step, plane: int, factor: float) -> Switched:
    """The constant of a step that is a number times one plane of its decisions."""
    make = step.rule.constant
    assert make is not None
    return Switched(
        step.call.site,
        factor,
        frame.taken().planes[plane],
        gated=lambda g: frame.switched(g, plane),
        make=lambda: make(frame, *step.holes, **step.call.kwargs),
    )
