"""Regions along a line: where the next decision flips, and walking from region to region.

Under a fixed trail the network is affine, so on a line X + s·D every decision's input is
z + s·dz and every logit is c + s·dc. The path condition is linear in s; the first decision to
leave it is found in closed form. Everything is batched: one line a row, each at its own s.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from guidxmage.engine.calls.call import Frame
from guidxmage.engine.program.carry import carry
from guidxmage.engine.program.program import Program
from guidxmage.engine.rules import rule_of
from guidxmage.engine.rules.breakpoints import Crossings
from guidxmage.engine.trail.trail import Trail
from guidxmage.errors import InputError, UnsupportedOperatorError


@dataclass(frozen=True)
class Lines:
    """Lines start + s·direction in the network's own input, one a row: (B, *input shape) each."""

    start: Tensor
    direction: Tensor

    def __len__(self) -> int:
        return len(self.start)

    def at(self, s: Tensor) -> Tensor:
        """The points at s (B,), (B, *input shape)."""
        return self.start + self.direction * s.to(self.start).reshape(
            -1, *[1] * (self.start.ndim - 1)
        )

    def take(self, rows: Tensor | slice) -> Lines:
        """Some of the lines, chosen by number, mask or slice."""
        return Lines(self.start[rows], self.direction[rows])


@dataclass(frozen=True)
class Flip:
    """One decision that flips: at `s`, at `site`, its position there, and what it was and becomes.

    before and after are words ("off", "on"; "below", "inside", "above"; "first", "second") or, for
    pools and reductions, the position taken in the window.
    """

    s: float
    site: str
    position: tuple[int, ...]
    before: str | int
    after: str | int

    def __str__(self) -> str:
        where = list(self.position)
        return f"{self.site} at {where}: {self.before} → {self.after} at s = {self.s:.6g}"


@dataclass(frozen=True)
class Breakpoints:
    """The next decision of every row to flip.

    s (B,) float64, inf where none ever does; site (B,), number of the call site in `sites`, −1
    where none; position (B,), flat, and choice (B,), what the decision becomes.
    """

    s: Tensor
    site: Tensor
    position: Tensor
    choice: Tensor
    sites: tuple[str, ...]

    def take(self, rows: Tensor | slice) -> Breakpoints:
        """Those of some rows."""
        own = (self.s[rows], self.site[rows], self.position[rows], self.choice[rows])
        return Breakpoints(*own, self.sites)

    def names(self) -> list[str | None]:
        """The call site of every row, None where no decision flips."""
        return [self.sites[n] if n >= 0 else None for n in self.site.tolist()]

    def cross(self, trail: Trail) -> Trail:
        """The trail behind the breakpoints: one decision of every row is flipped."""
        return trail.flipped(self.names(), self.position, self.choice)

    def describe(self, program: Program, trail: Trail) -> list[Flip | None]:
        """In words, for every row; `trail` is the one before the flip."""
        rules = {call.site: rule_of(call) for call in program.calls}
        found: list[Flip | None] = []
        rows = zip(self.names(), self.s.tolist(), self.position, self.choice.tolist(), strict=True)
        for row, (site, s, position, after) in enumerate(rows):
            if site is None:
                found.append(None)
                continue
            decided, rule = trail[site], rules[site]
            number = torch.tensor([row], device=position.device)
            before = int(decided.choice(number, position[None])[0])
            words: Sequence[Any] = (rule.choices if rule else ()) or range(max(before, after) + 1)
            where = np.unravel_index(int(position), decided.shape or (1,))
            place = tuple(int(i) for i in where)[: len(decided.shape)]
            found.append(Flip(s, site, place, words[before], words[after]))
        return found


@dataclass(frozen=True)
class Piece:
    """The network on one region along each line: logits value + s·slope, both (B, classes).

    `ahead` is where the line leaves the region.
    """

    value: Tensor
    slope: Tensor
    ahead: Breakpoints

    def logits(self, s: Tensor) -> Tensor:
        """The logits at s (B,), by the region's own affine function, (B, classes)."""
        return self.value + self.slope * s.to(self.value)[:, None]


def piece(
    program: Program,
    trail: Trail,
    lines: Lines,
    s: Tensor,
    *,
    recorded: bool = False,
    rows: int = 8,
) -> Piece:
    """What is left of the network on the region of `trail`, along each line, ahead of s (B,).

    One run carries points and directions through all operators, `rows` lines at a time. Decisions
    that the line has already left, which rounding and ties bring about, flip at s itself: the
    earliest in order of execution first. With `recorded`, the trail is that of the points at s as
    the network took it, so that what looks like a tie on its wrong side is rounding. Raises
    UnsupportedOperatorError for a network with operators that decide nothing piecewise, or without
    a rule for where they flip.
    """
    chunk = rows if program.batched else 1
    parts = [
        _piece(program, trail.take(own), lines.take(own), s[own], not recorded)
        for own in (slice(first, first + chunk) for first in range(0, len(lines), chunk))
    ]
    return parts[0] if len(parts) == 1 else _joined(parts)


def _piece(program: Program, trail: Trail, lines: Lines, s: Tensor, ties: bool) -> Piece:
    nearest = _Nearest(s, ties)
    value, slope = carry(program, trail, lines.start, lines.direction, nearest.visit)
    return Piece(value, slope, nearest.breakpoints())


def _joined(parts: list[Piece]) -> Piece:
    names = ("s", "site", "position", "choice")
    s, site, position, choice = (
        torch.cat([getattr(part.ahead, name) for part in parts]) for name in names
    )
    ahead = Breakpoints(s, site, position, choice, parts[0].ahead.sites)
    value, slope = (torch.cat([getattr(p, name) for p in parts]) for name in ("value", "slope"))
    return Piece(value, slope, ahead)


class _Nearest:
    """Keeps, over the call sites of a run, each row's first decision to flip at or after s."""

    def __init__(self, s: Tensor, ties: bool) -> None:
        self.now, self.ties = s.double(), ties
        self.sites: list[str] = []
        self.s = torch.full_like(self.now, torch.inf)
        self.site = torch.full_like(self.now, -1, dtype=torch.long)
        self.position, self.choice = torch.zeros_like(self.site), torch.zeros_like(self.site)

    def visit(self, frame: Frame, args: list[Any]) -> None:
        call = frame.call
        rule = rule_of(call)
        if rule is None or rule.crossings is None:
            raise UnsupportedOperatorError(
                f"{call.op} at '{call.site}' has no rule for where its decisions flip along a line"
            )
        frame = replace(frame, ties=self.ties)
        found: Crossings = rule.crossings(frame, *args, **call.kwargs)
        s = torch.maximum(found.s, self.now) + 0.0  # never −0
        # Strictly: of decisions that flip together, the earliest in order of execution flips first.
        sooner = s < self.s
        number = torch.full_like(self.site, len(self.sites))
        self.sites.append(call.site)
        self.s = torch.where(sooner, s, self.s)
        self.site = torch.where(sooner, number, self.site)
        self.position = torch.where(sooner, found.position, self.position)
        self.choice = torch.where(sooner, found.choice, self.choice)

    def breakpoints(self) -> Breakpoints:
        return Breakpoints(self.s, self.site, self.position, self.choice, tuple(self.sites))


# --- walking -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stretch:
    """The part of some lines that lies in one region each.

    rows (n,): which lines. They are in the region of `trail` from low to high (n,), where the
    logits are `piece.logits(s)`. `leaves` (n,): whether the line goes on into another region, by
    the flip `piece.ahead`, rather than ending here. Zero-length stretches occur where several
    decisions flip at once. `capped` (n,): the line goes on but the walk stops, its cap reached.
    """

    rows: Tensor
    low: Tensor
    high: Tensor
    piece: Piece
    trail: Trail
    leaves: Tensor
    capped: Tensor


class Walker:
    """Lines on their way from low to high, each in its own region; `stretch`, then `advance`."""

    def __init__(
        self, program: Program, lines: Lines, ends: tuple[Tensor, Tensor], trail: Trail, rows: int
    ) -> None:
        _refuse_jumps(program)
        self.program, self.lines, self.trail, self.chunk = program, lines, trail, rows
        self.s, self.end = ends[0].double(), ends[1].double()
        self.rows = torch.arange(len(lines), device=self.s.device)

    def stretch(self) -> Stretch:
        """The regions in which the lines are now, up to where they leave them or end."""
        here = piece(self.program, self.trail, self.lines, self.s, rows=self.chunk)
        leaves = here.ahead.s < self.end
        high = torch.minimum(here.ahead.s, self.end)
        capped = torch.zeros_like(leaves)
        return Stretch(self.rows, self.s, high, here, self.trail, leaves, capped)

    def advance(self, stretch: Stretch, onwards: Tensor) -> None:
        """Into the next region, for the lines where `onwards` (n,) is set; the others are left."""
        if not bool(onwards.any()):
            self.rows = self.rows[:0]
            return
        self.trail = stretch.piece.ahead.take(onwards).cross(self.trail.take(onwards))
        self.lines, self.s = self.lines.take(onwards), stretch.high[onwards]
        self.rows, self.end = self.rows[onwards], self.end[onwards]


def _refuse_jumps(program: Program) -> None:
    for call in program.calls:
        rule = rule_of(call)
        if rule is not None and rule.jumps is not None and rule.jumps(call):
            raise UnsupportedOperatorError(
                f"{call.op} at '{call.site}' jumps at its threshold, which may carry later "
                "decisions past theirs: a line cannot be walked from region to region"
            )


def walk(
    program: Program,
    lines: Lines,
    low: Tensor,
    high: Tensor,
    *,
    trail: Trail | None = None,
    cap: int = 10_000,
    rows: int = 8,
) -> Iterator[Stretch]:
    """Walk lines from s = low to s = high, (B,) each, and yield stretch after stretch.

    Every round takes one affine run of the lines still under way. `trail` is that of the points at
    low, recorded where it is not given. At most `cap` regions are entered on a line; the last
    stretch of a line that was stopped so has `capped` set.
    """
    if cap < 1:
        raise InputError(f"a walk enters at least one region; the cap is {cap}")
    if trail is None:
        trail = record(program, lines, low)[1]
    walker = Walker(program, lines, (low, high), trail, rows)
    for taken in range(1, cap + 1):
        stretch = walker.stretch()
        yield replace(stretch, capped=stretch.leaves & (taken == cap))
        walker.advance(stretch, stretch.leaves)
        if not len(walker.rows):
            return


def record(program: Program, lines: Lines, s: Tensor, *, rows: int = 16) -> tuple[Tensor, Trail]:
    """The network itself at s (B,) on each line: logits (B, classes) and trail."""
    chunk = rows if program.batched else 1
    parts = [program.record(part) for part in lines.at(s).split(chunk)]
    logits = torch.cat([part.logits for part in parts])
    return logits, Trail.concatenate([part.trail for part in parts])
