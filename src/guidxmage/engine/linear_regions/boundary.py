"""The exact point of a line at which one class gives way to another."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from guidxmage.engine.linear_regions.walk import Lines, Stretch, Walker, record
from guidxmage.engine.program.program import Program
from guidxmage.engine.trail.trail import Trail
from guidxmage.errors import InputError


@dataclass(frozen=True)
class Crossed:
    """Where a contrast becomes 0 on each of B lines.

    s (B,) float64: the point; nan where the bracket shows no change of sign (`found` is False).
    logits (B, classes) there, and trail: of the region that the line is in just before s, or at the
    bracket's low end where nothing was found. bracket (2, B): what bisection left to be walked.
    regions (B,): how many of them were walked. exact (B,): s solves the region's own affine
    equation; where False, too many regions were left and s is the bracket's upper end.
    forward_passes (B,): recordings, and affine runs counted as two.
    """

    s: Tensor
    found: Tensor
    exact: Tensor
    logits: Tensor
    trail: Trail
    bracket: Tensor
    regions: Tensor
    forward_passes: Tensor


def cross_boundary(
    program: Program,
    lines: Lines,
    contrast: Tensor,
    low: Tensor,
    high: Tensor,
    *,
    few: int = 6,
    cap: int = 200,
    rows: int = 8,
) -> Crossed:
    """Find, on each line, the exact s in [low, high] at which a contrast of the logits becomes 0.

    contrast (B, classes) is the weighted sum of logits that is positive while the old class still
    wins; low and high (B,) bracket the change: positive at low, not at high. Plain recordings
    narrow the bracket until at most `few` decisions differ between its ends; the regions that are
    left are walked from the low end, and the zero is solved for in closed form. It is the first one
    in what was left; an earlier pair of changes inside the first bracket may have been stepped
    over. Raises InputError for shapes that do not fit, UnsupportedOperatorError as `piece` does.
    """
    _check(program, lines, contrast, low, high)
    bracket = _Bracket(program, lines, contrast, low.double(), high.double())
    bracket.narrow(few)
    return _walk(bracket, program, lines, cap, rows)


class _Bracket:
    """Ends of an interval on every line, with the contrast's value and the trail at both."""

    def __init__(
        self, program: Program, lines: Lines, contrast: Tensor, low: Tensor, high: Tensor
    ) -> None:
        self.program, self.lines, self.contrast = program, lines, contrast.to(lines.start)
        self.ends = [low.clone(), high.clone()]
        recorded = [record(program, lines, end) for end in self.ends]
        self.values = [self._value(logits, slice(None)) for logits, _ in recorded]
        self.logits = [logits for logits, _ in recorded]
        self.trails = [trail for _, trail in recorded]
        self.passes = torch.full_like(low, 2, dtype=torch.long)
        self.found = (self.values[0] > 0) & (self.values[1] <= 0)

    def _value(self, logits: Tensor, rows: Tensor | slice) -> Tensor:
        return (self.contrast[rows] * logits).sum(1).double()

    def narrow(self, few: int) -> None:
        """Shrink until few decisions differ, or the ends are one number in the network's dtype."""
        width = self.ends[1] - self.ends[0]
        resolution = torch.finfo(self.lines.start.dtype).eps
        for step in range(_MOST_STEPS):
            middle = _interpolated(self.ends, self.values, width, step)
            size = torch.maximum(self.ends[0].abs(), self.ends[1].abs())
            apart = self.ends[1] - self.ends[0] > 2 * resolution * size
            rows = (self.found & apart & (self._distance() > few)).nonzero()[:, 0]
            if not len(rows):
                return
            logits, trail = record(self.program, self.lines.take(rows), middle[rows])
            value = self._value(logits, rows)
            self.passes[rows] += 1
            for end, moved in enumerate((value > 0, value <= 0)):
                self.ends[end][rows[moved]] = middle[rows[moved]]
                self.values[end][rows[moved]] = value[moved]
                self.logits[end][rows[moved]] = logits[moved]
                self.trails[end] = self.trails[end].replaced(rows[moved], trail.take(moved))

    def _distance(self) -> Tensor:
        counts = self.trails[0].hamming(self.trails[1]).values()
        total = torch.zeros(len(self.lines), dtype=torch.long)
        return sum(counts, total).to(self.found.device)


# Interpolation needs about eight steps, bisection at most this many for any float64.
_MOST_STEPS = 60


def _interpolated(ends: list[Tensor], values: list[Tensor], width: Tensor, step: int) -> Tensor:
    """The next point to try: the ITP method (Oliveira and Takahashi, 2020).

    Between the secant's zero and the middle, never farther from the middle than keeps the number
    of steps within that of bisection down to 2⁻⁵⁰ of the first width, plus one.
    """
    (low, high), (above, below) = ends, values
    middle = (low + high) / 2
    secant = (above * high - below * low) / (above - below)
    side = torch.sign(middle - secant)
    nudge = 0.2 * (high - low).square() / width
    tried = torch.where(nudge <= (middle - secant).abs(), secant + side * nudge, middle)
    slack = width * 2.0**-step - (high - low) / 2
    near = (tried - middle).abs() <= slack
    return torch.where(near, tried, middle - side * slack)


def _walk(bracket: _Bracket, program: Program, lines: Lines, cap: int, rows: int) -> Crossed:
    """Region after region from the low ends, until the contrast is 0."""
    low, high = bracket.ends
    s = torch.where(bracket.found, high, torch.nan)
    exact = torch.zeros_like(bracket.found)
    regions, passes = torch.zeros_like(bracket.passes), bracket.passes
    logits, trail = bracket.logits[1].clone(), bracket.trails[0]
    own = bracket.found.nonzero()[:, 0]
    walker = Walker(program, lines.take(own), (low[own], high[own]), trail.take(own), rows)
    for _ in range(cap if len(own) else 0):
        stretch = walker.stretch()
        row = own[stretch.rows]
        zero, here = _zero(stretch, bracket.contrast[row])
        # Where rounding leaves a trace of the old class at the end, the network's own word counts.
        ended = here | ~stretch.leaves
        regions[row] += 1
        passes[row] += 2
        done = row[ended]
        s[done], exact[done] = zero[ended], True
        logits[done] = stretch.piece.logits(zero)[ended]
        trail = trail.replaced(row, stretch.trail)
        walker.advance(stretch, ~ended)
        if not len(walker.rows):
            break
    limits = torch.stack([low, high])
    return Crossed(s, bracket.found, exact, logits, trail, limits, regions, passes)


def _zero(stretch: Stretch, contrast: Tensor) -> tuple[Tensor, Tensor]:
    """Where the contrast becomes 0 in a stretch, or its end; and whether it does, (n,) each."""
    value = (contrast * stretch.piece.value).sum(1).double()
    slope = (contrast * stretch.piece.slope).sum(1).double()
    zero = torch.where(slope < 0, -value / slope, torch.inf)
    zero = torch.where(value + slope * stretch.low <= 0, stretch.low, zero)
    here = zero <= stretch.high
    return torch.minimum(torch.maximum(zero, stretch.low), stretch.high), here


def _check(program: Program, lines: Lines, contrast: Tensor, low: Tensor, high: Tensor) -> None:
    rows = len(lines)
    wanted = (rows, program.classes)
    if tuple(contrast.shape) != wanted or low.shape != (rows,) or high.shape != (rows,):
        raise InputError(
            f"for {rows} lines a contrast {wanted} and ends ({rows},) are expected, not "
            f"{tuple(contrast.shape)}, {tuple(low.shape)} and {tuple(high.shape)}"
        )
    if not bool((low < high).all()):
        raise InputError("every bracket must have its low end below its high end")
