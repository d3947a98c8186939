"""Lines through networks, searched with the network alone: recordings, bisection, no formulas."""

from __future__ import annotations

import torch
from torch import Tensor

from guidxmage.engine.linear_regions.walk import Lines, Stretch, record, walk
from guidxmage.engine.program.program import Program
from guidxmage.engine.trail.trail import Trail
from tests.laws import random_like

FINEST = 1e-11
"""Width down to which changes of a trail are narrowed down."""


def line(shape: tuple[int, ...], seed: int, rows: int = 1) -> Lines:
    """Random lines in float64."""
    return Lines(random_like((rows, *shape), seed), random_like((rows, *shape), seed + 500))


def recorded(program: Program, lines: Lines, s: Tensor) -> tuple[Tensor, Trail]:
    """Logits and trail of the network itself at points s (n,) of a single line."""
    return record(program, lines.take(torch.zeros(len(s), dtype=torch.long)), s.double(), rows=64)


def follows(program: Program, lines: Lines, s: float) -> bool:
    """Whether the point at s of a single line takes the decisions of the one at 0."""
    _, trail = recorded(program, lines, torch.tensor([0.0, s], dtype=torch.float64))
    return bool(trail.image(0).same(trail.image(1)))


def first_change(program: Program, lines: Lines, far: float = 1e4) -> float:
    """Where a single line leaves the region of its start, by bisection; inf where `far` is in it.

    Regions are convex: a point that follows the trail has nothing but such points before it.
    """
    low, high = 0.0, 1e-9
    while follows(program, lines, high):
        low, high = high, high * 8
        if high > far:
            return float("inf")
    for _ in range(60):
        middle = (low + high) / 2
        if follows(program, lines, middle):
            low = middle
        else:
            high = middle
    return high


def changes(program: Program, lines: Lines, low: float = 0.0, high: float = 1.0) -> Tensor:
    """All places in [low, high] where the trail of a single line changes, by bisection.

    Where both ends of an interval take the same decisions, so does all of it (regions are convex);
    any other interval is halved. Places closer together than FINEST come out as one.
    """
    ends = torch.tensor([low, high], dtype=torch.float64)
    _, trails = recorded(program, lines, ends)
    intervals = ends[None]
    lower, upper = trails.image(0), trails.image(1)
    while len(intervals):
        differ = ~lower.same(upper)
        intervals, lower, upper = intervals[differ], lower.take(differ), upper.take(differ)
        if not len(intervals) or float(intervals[0].diff()) < FINEST:
            break
        middle = intervals.mean(1)
        _, between = recorded(program, lines, middle)
        intervals = torch.cat(
            [torch.stack([intervals[:, 0], middle], 1), torch.stack([middle, intervals[:, 1]], 1)]
        )
        lower = Trail.concatenate([lower, between])
        upper = Trail.concatenate([between, upper])
    return distinct(intervals.mean(1).sort().values)


def distinct(s: Tensor, apart: float = 100 * FINEST) -> Tensor:
    """Ascending places without those that lie within `apart` of the one before."""
    if not len(s):
        return s
    return s[torch.cat([torch.tensor([True]), s.diff() > apart])]


def walked(program: Program, lines: Lines, **options: int) -> list[Stretch]:
    """All stretches of a walk from 0 to 1."""
    zero = torch.zeros(len(lines), dtype=torch.float64)
    return list(walk(program, lines, zero, zero + 1, **options))


def check_pieces(program: Program, lines: Lines) -> tuple[Tensor, list[tuple[Stretch, Trail]]]:
    """What must hold on a single line from 0 to 1, also where decisions tie.

    The stretches cover the line without gaps, and in the middle of each that is not a point the
    network gives its scores. Returns where regions are left, and stretches with the trail that the
    network itself takes in their middle.
    """
    stretches = walked(program, lines)
    low = torch.cat([part.low for part in stretches])
    high = torch.cat([part.high for part in stretches])
    assert float(low[0]) == 0
    assert float(high[-1]) == 1
    assert torch.equal(low[1:], high[:-1])
    assert [bool(part.leaves) for part in stretches] == [True] * (len(stretches) - 1) + [False]
    assert not any(bool(part.capped) for part in stretches)

    wide = (high - low > 1e-7).nonzero()[:, 0].tolist()
    middle = ((low + high) / 2)[wide]
    logits, trails = recorded(program, lines, middle)
    size = float(logits.abs().max())
    for row, number in enumerate(wide):
        given = stretches[number].piece.logits(middle[row : row + 1])
        error = float((given - logits[row]).abs().max())
        assert error <= 1e-10 * max(size, 1), f"scores at s = {float(middle[row])}"
    return high[:-1], [(stretches[number], trails.image(row)) for row, number in enumerate(wide)]


def check_walk(program: Program, lines: Lines) -> int:
    """Everything that must hold on a single line from 0 to 1; returns how often it was left.

    Beside the scores: in the middle of each stretch the network takes the stretch's decisions, and
    the places where one is left are those where bisection finds the network's own to change.
    """
    left, middles = check_pieces(program, lines)
    for part, own in middles:
        assert bool(part.trail.same(own)), f"trail between {part.low} and {part.high}"
    # A change right at the end is not walked through.
    expected, found = (s[s < 1 - 1e-9] for s in (changes(program, lines), distinct(left)))
    assert len(expected) == len(found), (expected, found)
    assert torch.allclose(expected, found, rtol=0, atol=1e-9)
    return len(left)
