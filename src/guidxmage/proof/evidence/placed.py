"""The whole score on the picture, judged: every map is made again in float64 and compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from guidxmage.attribution.attribution import Attribution
from guidxmage.attribution.later import placed_by
from guidxmage.attribution.placement import Placement
from guidxmage.engine.program.program import Program
from guidxmage.engine.trail.trail import Trail

# How many times what our own run is off by, beside float64, others may be; and beyond that part of
# the largest value nothing is rounding.
_SLACK, _NO_ROUNDING = 8.0, 1e-3
# Of sums in float64, relative to the sum of absolute values.
_SUMS = 64 * 2.0**-53
# What the bound on the residual is computed from are norms, in the network's precision.
_BOUND = 1e-4

Verdict = tuple[bool | None, str]


@dataclass(frozen=True)
class PlacedAgain:
    """The placements of an explanation made again: in its own precision, and in float64."""

    own: tuple[Placement, ...]
    exact: tuple[Placement, ...]

    @classmethod
    def of(
        cls,
        image: Attribution,
        own: tuple[Program, Tensor, Trail],
        exact: tuple[Program, Trail],
    ) -> PlacedAgain:
        """Of a single image: each program with its trail, the first with its input."""
        program, X, along = own
        wide, trail = exact
        depths = [one.depth for one in image.placements]
        return cls(
            placed_by(image, program, X, depths, along),
            placed_by(image, wide, X.double(), depths, trail),
        )

    def of_target(self, part: Attribution, number: int) -> PlacedAgain:
        """The same for one target."""
        own, exact = (
            tuple(one.part(number) if one.leading > part.several else one for one in placements)
            for placements in (self.own, self.exact)
        )
        return PlacedAgain(own, exact)


def judged_placements(part: Attribution, again: PlacedAgain | None) -> Verdict:
    """Whether all placements of one image and target are what they must be."""
    if not part.placements:
        return True, "none"
    if again is None or len(again.exact) != len(part.placements):
        return False, "they could not be made again"
    for printed, own, exact in zip(part.placements, again.own, again.exact, strict=True):
        fault = _fault(printed, own, exact, float(part.score))
        if fault is not None:
            return False, f"{printed.depth.site}: {fault}"
    return True, f"{len(part.placements)} depths, each map within what rounding explains"


def _fault(printed: Placement, own: Placement, exact: Placement, score: float) -> str | None:
    if printed.depth != own.depth or printed.sigma != own.sigma or printed.leading:
        return "grid, stride or sigma are others"
    for name in ("whole", "placed_bias"):
        values = [getattr(one, name) for one in (printed, own, exact)]
        if not _near(*values):
            return f"{name} is another"
    if not _same_shares(printed.unplaced_by_layer, own, exact):
        return "unplaced_by_layer is another"
    return _sums_fault(printed, own, score)


def _near(printed: Tensor, own: Tensor, exact: Tensor) -> bool:
    if printed.shape != exact.shape or not bool(torch.isfinite(printed).all()):
        return False
    largest = float(exact.abs().max())
    off = _SLACK * float((own - exact).abs().max())
    allowed = min(off, _NO_ROUNDING * largest) + _SUMS * largest
    return bool(((printed - exact).abs() <= allowed).all())


def _same_shares(printed: Mapping[str, Tensor], own: Placement, exact: Placement) -> bool:
    wanted = exact.unplaced_by_layer
    if printed.keys() != wanted.keys():
        return False
    if not wanted:
        return True
    stacked = [
        torch.stack([shares[site] for site in wanted])
        for shares in (printed, own.unplaced_by_layer, wanted)
    ]
    return _near(*stacked)


def _sums_fault(printed: Placement, own: Placement, score: float) -> str | None:
    unplaced = sum(float(share) for share in printed.unplaced_by_layer.values())
    size = sum(abs(float(share)) for share in printed.unplaced_by_layer.values())
    if not abs(float(printed.unplaced) - unplaced) <= _SUMS * size:
        return "unplaced is not the sum of its parts"
    left = score - float(printed.whole.sum()) - float(printed.unplaced)
    size = abs(score) + float(printed.whole.abs().sum()) + abs(float(printed.unplaced))
    if not abs(float(printed.residual) - left) <= _SUMS * size:
        return "the residual is not what is left of the score"
    bound = float(own.residual_bound)
    if not abs(float(printed.residual_bound) - bound) <= _BOUND * bound:
        return "the bound on the residual is another"
    if not abs(left) <= float(printed.residual_bound):
        return "more is left of the score than rounding explains"
    return None
