"""Closest points beyond the decision boundary, by traversing regions with their exact models."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from guidxmage.adversarial.heuristic.best_points import Found
from guidxmage.adversarial.heuristic.gradient_budget import Account
from guidxmage.adversarial.heuristic.problem import Problem, dot, spread
from guidxmage.adversarial.heuristic.rescue import ask_for_more
from guidxmage.adversarial.heuristic.target_model import Local


@dataclass(frozen=True)
class Schedule:
    """How far an iteration goes: fractions from `first` down to `last`, geometrically."""

    steps: int
    first: float = 1.0
    last: float = 0.02

    def fraction(self, number: int) -> float:
        """The fraction of iteration `number`."""
        done = number / max(1, self.steps - 1)
        return self.first * float((self.last / self.first) ** done)


# The push beyond the boundary grows while a row has not crossed it and shrinks while it has.
PUSH_START, _PUSH_AGAIN, _PUSH_LEAST, _PUSH_MOST = 0.02, 0.1, 1e-4, 3.0
_PUSH_UP, _PUSH_DOWN = 1.6, 0.6


def pushed(push: Tensor, beyond: Tensor) -> Tensor:
    """The next push of each row, (n,)."""
    push = torch.where(beyond, push * _PUSH_DOWN, push * _PUSH_UP)
    return push.clamp(_PUSH_LEAST, _PUSH_MOST)


# So many steps later, rows without a sample are asked for more than the models say.
_PATIENCE = 5


def search(  # noqa: PLR0917
    account: Account,
    problem: Problem,
    schedule: Schedule,
    start: Tensor,
    via: Tensor,
    first: Local | None = None,
) -> Found:
    """Move each row to the point of its present region's boundary model that is closest to X.

    Every iteration takes the exact model of the region it is in, finds the closest point of the
    half-space beyond the boundary (within box and mask), and goes a fraction of the way, so that
    late iterations average over neighbouring regions. `via` (n,) is the class to go through until
    the boundary is crossed, −1 for the best rival; `first` the models at `start` where they are
    known already. The fixed-point iteration is that of Hasofer &
    Lind (1974) and Rackwitz & Fiessler (1978) for the nearest point of a limit state; DeepFool and
    FAB (Croce & Hein 2020) are its relatives.
    """
    Z, found = start, Found.nothing(problem)
    push = torch.full_like(found.size, PUSH_START)
    # Where an earlier search got stuck on the near side, a stronger push is due.
    push = torch.where((start != problem.X).flatten(1).any(1), _PUSH_AGAIN, push)
    for number in range(schedule.steps):
        known = first if number == 0 else None
        local = known or account.local(Z, problem.goal, via)
        beyond = problem.goal.margin(local.logits) > 0
        found = tighten(account, problem, found, Z, local)
        account.offer(problem, found)
        push = pushed(push, beyond)
        need = dot(local.normal, Z - problem.X) - local.value
        if number == _PATIENCE:
            _force(account, problem, found, local.normal, need)
        goal = problem.X + problem.step(local.normal, -need - push * need.abs(), problem.X)
        Z = (Z + schedule.fraction(number) * (goal - Z)).clamp(problem.low, problem.high)
    reached = spread(torch.isfinite(found.size), Z)
    return Found(torch.where(reached, found.Z, Z), found.size)


def _force(account: Account, problem: Problem, found: Found, normal: Tensor, need: Tensor) -> None:
    """Offer samples at any price for rows of which nobody has one; the search goes on without."""
    lacking = ~torch.isfinite(account.sizes(problem)) & ~torch.isfinite(found.size)
    rows = lacking.nonzero()[:, 0]
    if len(rows):
        part = problem.rows(rows)
        account.offer(part, ask_for_more(account, part, normal[rows], need[rows]))


# The first steps of a stroll, in units of the first region's own distance to the boundary.
_STRIDE = 0.35


def stroll(account: Account, problem: Problem, steps: int) -> tuple[Tensor, Found]:
    """Short steps from X along each region's normal until the boundary is crossed.

    Where box and mask leave little room, the closest point of X's own boundary model is a far
    corner; a search that begins there ends in a poor basin. Returns where the steps ended, and the
    best points on the way.
    """
    Z, found = problem.X, Found.nothing(problem)
    rival = torch.full_like(problem.goal.classes, -1)
    stride = torch.zeros_like(found.size)
    for number in range(steps):
        local = account.local(Z, problem.goal, rival)
        found = tighten(account, problem, found, Z, local)
        account.offer(problem, found)
        margin = problem.goal.margin(local.logits)
        uphill = problem.free(local.normal)
        stays = ((problem.low >= Z) & (uphill < 0)) | ((problem.high <= Z) & (uphill > 0))
        uphill = uphill.masked_fill(stays, 0)
        length = dot(uphill, uphill).sqrt().clamp_min(1e-30)
        stride = stride if number else -margin / length * _STRIDE
        still = (margin > 0) | (length <= 1e-30)  # where nothing moves the scores, neither do we
        step = torch.where(still, 0, stride) / length
        Z = (Z + spread(step, Z) * uphill).clamp(problem.low, problem.high)
    return Z, found


def tighten(account: Account, problem: Problem, found: Found, Z: Tensor, local: Local) -> Found:
    """Draw points beyond the boundary back towards X, as far as their region's model says."""
    slope = dot(local.normal, Z - problem.X).clamp_min(1e-30)
    share = (1 - local.value / slope).clamp(0, 1)
    beyond = problem.goal.margin(local.logits) > 0
    size = problem.size(Z)
    open_ = beyond & (size * share < found.size)
    for trust in (1.0, 0.5, 0.0):
        rows = open_.nonzero()[:, 0]
        if not len(rows):
            break
        part = problem.rows(rows)
        kept = 1 - trust * (1 - share[rows])
        P = part.X + spread(kept, part.X) * (Z[rows] - part.X)
        ok = part.goal.margin(account.logits(P)) > 0 if trust else torch.ones_like(rows).bool()
        best = torch.where(ok, part.size(P), torch.inf)
        improved = best < found.size[rows]
        where = rows[improved]
        found = Found(
            found.Z.index_copy(0, where, P[improved]),
            found.size.index_copy(0, where, best[improved]),
        )
        open_ = open_.index_fill(0, rows[ok], False)
    return found
