"""Any sample at all, for images on which the search for a close one has not crossed a boundary."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from guidxmage.adversarial.heuristic.best_points import Found
from guidxmage.adversarial.heuristic.gradient_budget import Account
from guidxmage.adversarial.heuristic.problem import Problem, spread

# How many times what a region's model asks for is tried.
_FORCES = tuple(1.5**n for n in range(1, 26))
_POINTS, _HALVINGS = 48, 12
# Climbs for a class, one after the other; shares of the way to the corner that a model wants.
_EACH, _CLASSES = 2, 5
_CLIMB = (1.0, 0.5, 0.25, 0.1, 0.04)
# So many random entries are moved one at a time in each climb, and how often.
_ENTRIES, _PASSES = 48, 3


def ask_for_more(account: Account, part: Problem, normal: Tensor, need: Tensor) -> Found:
    """The step of a region's model, asked for more and more up to what box and mask allow.

    normal (n, C, H, W) and need (n,): what ⟨normal, Z − X⟩ has to reach. Costs no gradient.
    """
    found = Found.nothing(part)
    open_ = torch.ones_like(need).bool()
    for factor in _FORCES:
        P = part.X + part.step(normal, -factor * need.abs(), part.X)
        reached = open_ & account.reached(part, P)
        found = found.better(Found(P, torch.where(reached, part.size(P), torch.inf)))
        open_ = open_ & ~reached
        if not bool(open_.any()):
            break
    return found


def rescue(account: Account, problem: Problem, generator: Generator, climbs: int) -> None:
    """Offer samples for rows that have none: random points, and what is climbed from the best.

    Where every unit is off, no gradient leads anywhere, and only other points help. One class after
    the other is climbed for, with at most `climbs` gradients in all; the points found are drawn
    towards X.
    """
    rows = (~torch.isfinite(account.best.size)).nonzero()[:, 0]
    if not len(rows):
        return
    part = problem.rows(rows)
    classes = account.logits(part.X).argsort(1, descending=True)
    Z, reached = part.X, torch.zeros_like(rows).bool()
    tops = [Z] * _CLASSES
    values = [torch.full_like(Z[:, 0, 0, 0], -torch.inf)] * _CLASSES
    try:
        for number in range(climbs):
            if number % _EACH == 0:
                turn, which = divmod(number // _EACH, min(_CLASSES, classes.shape[1] - 1))
                via = classes[:, 1 + which]
                at, value = part.X, _value(account, part, part.X, via)
                if turn % 2:
                    at = _stirred(part, tops[which], generator)
                    value = _value(account, part, at, via)
                elif turn:
                    at, value = _random_points(account, part, via, generator)
            at, value = _climbed(account, part, via, (at, value), generator)
            higher = value > values[which]
            tops[which] = torch.where(spread(higher, Z), at, tops[which])
            values[which] = values[which].maximum(value)
            beyond = account.reached(part, at) & ~reached
            Z, reached = torch.where(spread(beyond, Z), at, Z), reached | beyond
            if bool(reached.all()):
                break
    finally:
        Z = _drawn_back(account, part, Z, reached)
        account.offer(part, Found(Z, torch.where(reached, part.size(Z), torch.inf)))


def _value(account: Account, part: Problem, Z: Tensor, via: Tensor) -> Tensor:
    """How much more a class scores at Z than the one to be left; the margin of a target."""
    logits = account.logits(Z)
    if part.goal.targeted:
        return part.goal.margin(logits)
    both = torch.stack([via, part.goal.classes], 1)
    up, down = logits.gather(1, both).unbind(1)
    return up - down


def _climbed(
    account: Account, part: Problem, via: Tensor, best: tuple[Tensor, Tensor], generator: Generator
) -> tuple[Tensor, Tensor]:
    """One step up: towards the corner that the region's model wants, and to random neighbours."""
    Z, value = best
    local = account.local(Z, part.goal, via)
    ends = torch.where(local.normal > 0, part.high, part.low)
    ends = part.on_free(torch.where(local.normal == 0, Z, ends), part.X)
    for share in _CLIMB:
        step = share * (ends - Z).sign()
        for P in (Z + share * (ends - Z), (Z + step).clamp(part.low, part.high)):
            Z, value = _higher(Z, value, P, _value(account, part, P, via))
    return _entry_by_entry(account, part, via, (Z, value), generator)


def _higher(Z: Tensor, value: Tensor, P: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
    return torch.where(spread(there > value, Z), P, Z), value.maximum(there)


def _entry_by_entry(
    account: Account, part: Problem, via: Tensor, best: tuple[Tensor, Tensor], generator: Generator
) -> tuple[Tensor, Tensor]:
    """Entries moved one at a time to an end of the box or between, and all that gain together."""
    Z, value = best
    count, size = len(Z), Z[0].numel()
    chosen = torch.rand(size, generator=generator, device=Z.device).argsort()[:_ENTRIES]
    rows = part.numbers.repeat_interleave(len(chosen))
    many, entries = part.rows(rows), chosen.repeat(count)[:, None]
    for level in (part.low, part.high, None) * _PASSES:
        before = Z.flatten(1)[rows]
        draw = torch.rand(entries.shape, generator=generator, dtype=Z.dtype, device=Z.device)
        moved = before.scatter(1, entries, draw if level is None else torch.full_like(draw, level))
        P = part.rows(rows).on_free(moved.view_as(many.X), many.X)
        gain = _value(account, many, P, via[rows]).view(count, -1) - value[:, None]
        P = P.view(count, len(chosen), -1)
        together = Z.flatten(1).clone()
        taken = P[:, torch.arange(len(chosen)), chosen]
        kept = together[:, chosen]
        together[:, chosen] = torch.where(gain > 0, taken, kept)
        top = gain.argmax(1)
        for Q in (P[part.numbers, top], together):
            points = Q.view_as(Z)
            Z, value = _higher(Z, value, points, _value(account, part, points, via))
    return Z, value


def _stirred(part: Problem, Z: Tensor, generator: Generator) -> Tensor:
    """A point with some of its entries drawn anew, more often few of them than many."""
    drawn = part.low + (part.high - part.low) * _uniform(Z, generator)
    share = spread(_uniform(Z[:, 0, 0, 0], generator).square(), Z)
    return part.on_free(torch.where(_uniform(Z, generator) < share, drawn, Z), part.X)


def _random_points(
    account: Account, part: Problem, via: Tensor, generator: Generator
) -> tuple[Tensor, Tensor]:
    """The points of largest value among some within box and mask; also their values, (n,)."""
    Z, value = part.X, torch.full_like(part.X[:, 0, 0, 0], -torch.inf)
    for number in range(_POINTS):
        draw = _uniform(Z, generator)
        share = spread(_uniform(value, generator), Z)
        if number % 3 == 0:
            P = (draw < share).to(Z)  # corners of the box
        elif number % 3 == 1:
            P = draw
        else:  # one grey, and the image turned over
            P = share.expand_as(draw) if number % 2 else 1 - part.X
        P = part.on_free(part.low + (part.high - part.low) * P, part.X)
        there = _value(account, part, P, via)
        Z = torch.where(spread(there > value, Z), P, Z)
        value = value.maximum(there)
    return Z, value


def _uniform(like: Tensor, generator: Generator) -> Tensor:
    return torch.rand(like.shape, generator=generator, dtype=like.dtype, device=like.device)


def _drawn_back(account: Account, part: Problem, Z: Tensor, found: Tensor) -> Tensor:
    """Points of the line from X that are as near to it as bisection finds."""
    low, high = torch.zeros_like(part.X[:, 0, 0, 0]), torch.ones_like(part.X[:, 0, 0, 0])
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        reached = account.reached(part, part.X + spread(middle, Z) * (Z - part.X)) & found
        high, low = torch.where(reached, middle, high), torch.where(reached, low, middle)
    return torch.where(spread(high < 1, Z), part.X + spread(high, Z) * (Z - part.X), Z)
