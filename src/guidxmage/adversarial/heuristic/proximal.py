"""Sparse perturbations of small l1 norm, by proximal steps."""

from __future__ import annotations

from dataclasses import replace

import torch

from guidxmage.adversarial.heuristic.best_points import Found
from guidxmage.adversarial.heuristic.cutting_planes import CuttingPlanes
from guidxmage.adversarial.heuristic.gradient_budget import Account
from guidxmage.adversarial.heuristic.problem import Problem, dot, norms, spread
from guidxmage.adversarial.heuristic.projection import nearby_l1
from guidxmage.adversarial.heuristic.refine import approach, beyond_rounding, in_place
from guidxmage.adversarial.heuristic.search import PUSH_START, Schedule, pushed, tighten

# Threshold of the proximal steps, in units of the perturbation's typical entry.
_THRESHOLD = Schedule(0, 2.0, 0.1)
# The share of the models before in the one that is stepped with.
_BEFORE = 0.4


def thin_out(account: Account, problem: Problem, found: Found, steps: int) -> Found:
    """Sparse points of small l1 norm from the dense ones of a search for l2.

    The closest point for l1 of one region puts everything into a few entries, where large networks
    have long left the region. Proximal steps (Parikh & Boyd 2014) go there little by little: each
    shrinks all entries by a threshold and makes up for it where the region's model gains most. The
    model is averaged with those before, as long as they are of the same class: the entries of one
    alone are of use in its own region only, which a step leaves.
    """
    Z, thresholds = found.Z, replace(_THRESHOLD, steps=steps)
    found = Found(Z, torch.where(torch.isfinite(found.size), problem.size(Z), torch.inf))
    rival = torch.full_like(problem.goal.classes, -1)
    push = torch.full_like(found.size, PUSH_START)
    w, need, through = torch.zeros_like(Z), torch.zeros_like(found.size), rival
    for number in range(steps):
        local = account.local(Z, problem.goal, rival)
        beyond = problem.goal.margin(local.logits) > 0
        found = tighten(account, problem, found, Z, local)
        account.offer(problem, found)
        push = pushed(push, beyond)
        delta = Z - problem.X
        before, through = through, problem.goal.rival(local.logits)
        kept = torch.where(through == before, _BEFORE, 0.0).to(Z)
        w = local.normal + spread(kept, Z) * (w - local.normal)
        need_here = dot(local.normal, delta) - local.value
        need = need_here + kept * (need - need_here)
        typical = dot(delta, delta) / norms(delta, "l1").clamp_min(1e-30)
        moved = nearby_l1(
            problem.X,
            delta,
            (problem.free(w), need + push * need.abs()),
            typical * thresholds.fraction(number),
            (problem.low, problem.high),
        )
        Z = (problem.X + moved).clamp(problem.low, problem.high)
    return found


# Half-spaces that are met together, and how far a step may go, in units of a typical entry.
_PLACES = 6
_REACH, _FARTHER, _NEARER, _LEAST = 1.0, 2.0, 0.4, 1e-3


def descend_l1(account: Account, problem: Problem, found: Found, steps: int) -> Found:
    """Go down in l1 along the boundary, by proximal steps that the network confirms.

    Each step goes to the point that is best for l1 and near the present one, among those that the
    models met since the last success put beyond the boundary. Steps grow with success; where
    nothing is gained the half-space of the point that failed is added, and steps get smaller.
    """
    rows = torch.isfinite(found.size).nonzero()[:, 0]
    if not len(rows):
        return found
    part, best = problem.rows(rows), Found(found.Z[rows], found.size[rows])
    planes = CuttingPlanes.empty(len(rows), part.X, _PLACES)
    reach, Z = torch.full_like(best.size, _REACH), best.Z
    X = part.X.double()
    low, high = ((end - X).flatten(1) for end in (part.low, part.high))
    for _ in range(steps):
        local = account.local(Z, part.goal)
        need = beyond_rounding(dot(local.normal, Z - part.X) - local.value)
        planes = planes.add(part.free(local.normal), need)
        delta = (best.Z - X).flatten(1)
        typical = delta.square().sum(1) / delta.abs().sum(1).clamp_min(1e-30)
        closest = planes.nearby_l1(low, high, delta, typical * reach).view_as(X)
        closest = (X + closest).to(part.X).clamp(part.low, part.high)
        before, (best, reached) = best, approach(account, part, best, closest)
        account.offer(part, best)
        gained = best.size < before.size * (1 - 1e-4)
        reach = torch.where(reached, reach * _FARTHER, torch.where(gained, reach, reach * _NEARER))
        # Where the newest model already fails to bound the norm, the older ones are of no use.
        again = reached | (part.size(closest) >= best.size)
        planes = planes.only_newest(again)
        Z = torch.where(spread(again, Z), best.Z, closest)
        if bool((reach < _LEAST).all()):
            break
    return found.better(in_place(found, rows, best.Z, best.size))
