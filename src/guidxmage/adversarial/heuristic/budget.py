"""How a budget of gradients is spent: which classes are tried, for how long, and the restarts."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from guidxmage.adversarial.heuristic.problem import Problem, norms, spread
from guidxmage.adversarial.heuristic.projection import project
from guidxmage.adversarial.heuristic.refine import force
from guidxmage.adversarial.heuristic.search import Found, Schedule, search, stroll, thin_out
from guidxmage.adversarial.heuristic.target_model import Local, TargetModel

# Sizes of the jumps from the best point, in units of its own distance; one after the other.
_JUMPS = (0.3, 1.5, 4.0, 0.7)
_JUMP_STEPS = 20
_STROLL = 8
# Gradients for the two halves of a search for l1.
_LEAST_L1, _MOST_L1 = 8, 50


@dataclass(frozen=True)
class Plan:
    """Gradients per image.

    `ranked` classes are compared at X, from one trail; `kept` of them are searched for `sweep`
    steps each, the first of which the ranking has paid for; `stroll` short steps from X give
    another start; `settle` steps go on from it, or from the best where there is none, and the rest
    is spent on `jumps` from the best so far.
    """

    ranked: int
    kept: int
    sweep: int
    settle: int
    jumps: int
    stroll: int = 0

    @classmethod
    def of(cls, budget: int, rivals: int, masked: bool = False) -> Plan:
        """Spend `budget` gradients an image on a network with that many rival classes."""
        if masked and 12 <= budget < 60:
            return cls(0, 0, 0, budget - _STROLL, 0, _STROLL)
        if budget < 12 or rivals < 2:
            settle = budget // 4
            return cls(0, 1, budget - settle, settle, 0)
        ranked = min(rivals, 3 if budget < 24 else 5 if budget < 60 else 9)
        kept = 1 if budget < 24 else min(ranked, max(3, budget // 25))
        left = budget - ranked
        sweep = max(4, min(40, int(left * 0.77 / kept) + 1))
        left -= kept * (sweep - 1)
        settle = min(left, 30)
        jumps = max(0, left - settle) // _JUMP_STEPS
        walked = _STROLL if masked else 0
        return cls(ranked, kept, sweep, settle - walked, jumps, walked)


def spend(
    target_model: TargetModel, problem: Problem, budget: int, rivals: int, seed: int
) -> Found:
    """The best points for a convex norm within `budget` gradients an image.

    For l1 half of a small budget goes into a search for l2, whose result is then thinned out; what
    is left of a large one goes into closest points for l1 themselves.
    """
    masked = problem.mask is not None and not bool(problem.mask.all())
    if problem.norm != "l1" or budget < _LEAST_L1:
        return carry_out(target_model, problem, Plan.of(budget, rivals, masked), seed)
    dense = min(budget // 2, _MOST_L1)
    thinning = min(budget - dense, _MOST_L1)
    easier = replace(problem, norm="l2")
    found = carry_out(target_model, easier, Plan.of(dense - 1, rivals, masked), seed)
    found = thin_out(target_model, problem, force(target_model, easier, found, 1), thinning)
    left = budget - dense - thinning
    if left >= 2 * _JUMP_STEPS:
        fresh = carry_out(target_model, problem, Plan.of(left // 2, rivals, masked), seed)
        found, left = found.better(fresh), left - left // 2
    settle = left if left < 2 * _JUMP_STEPS else left % _JUMP_STEPS
    later = Plan(0, 0, 0, settle, (left - settle) // _JUMP_STEPS)
    return improve(target_model, problem, found, later, seed) if left else found


def carry_out(target_model: TargetModel, problem: Problem, plan: Plan, seed: int) -> Found:
    """The best points found by a plan, for convex norms."""
    if not plan.sweep:
        return improve(target_model, problem, Found.nothing(problem), plan, seed)
    via, first = candidates(target_model, problem, plan.ranked, plan.kept)
    copies = torch.arange(len(via), device=via.device).repeat_interleave(via.shape[1])
    many = problem.rows(copies)
    found = search(target_model, many, Schedule(plan.sweep), many.X, via.flatten(), first)
    return improve(target_model, problem, found.best_of(via.shape[1]), plan, seed)


def improve(
    target_model: TargetModel, problem: Problem, found: Found, plan: Plan, seed: int
) -> Found:
    """Go on from the best points: the plan's steps from there, then its jumps nearby."""
    rival = torch.full_like(problem.goal.classes, -1)
    start = found.Z
    if plan.stroll:
        start, passed = stroll(target_model, problem, plan.stroll)
        found = found.better(passed)
    found = found.better(search(target_model, problem, Schedule(plan.settle, 0.5), start, rival))
    generator = torch.Generator(device=found.Z.device).manual_seed(seed)
    for number in range(plan.jumps):
        start = _jump(problem, found, _JUMPS[number % len(_JUMPS)], generator)
        found = found.better(search(target_model, problem, Schedule(_JUMP_STEPS), start, rival))
    return found


def candidates(
    target_model: TargetModel, problem: Problem, ranked: int, kept: int
) -> tuple[Tensor, Local | None]:
    """The `kept` classes to go through, (n, kept), and their models at X, row after row.

    They are those that come closest among the `ranked` best, by the models of X's own region. For a
    targeted goal and where nothing is ranked there is one way only, −1: the best rival.
    """
    count = len(problem.X)
    if problem.goal.targeted or ranked < 2:
        return torch.full((count, 1), -1, device=problem.X.device), None
    logits = target_model.logits(problem.X)
    others = logits.scatter(1, problem.goal.classes[:, None], -torch.inf)
    classes = others.topk(ranked, 1).indices
    many = problem.rows(torch.arange(count, device=classes.device).repeat_interleave(ranked))
    local = target_model.rivals(problem.X, problem.goal, classes)
    closest = project(
        many.X,
        local.normal,
        local.value - (local.normal * many.X).flatten(1).sum(1),
        problem.norm,
        low=problem.low,
        high=problem.high,
        mask=many.mask,
    )
    distance = torch.where(closest.feasible, norms(closest.delta, problem.norm), torch.inf)
    order = distance.view(count, -1).argsort(dim=1, stable=True)[:, :kept]
    rows = (order + torch.arange(count, device=order.device)[:, None] * ranked).flatten()
    return classes.gather(1, order), local.rows(rows)


def _jump(problem: Problem, found: Found, size: float, generator: torch.Generator) -> Tensor:
    """Points at `size` times the best distance from the best point, in a random direction."""
    noise = torch.randn(
        found.Z.shape, generator=generator, dtype=found.Z.dtype, device=found.Z.device
    )
    if problem.mask is not None:
        noise = noise * problem.mask
    reach = torch.where(torch.isfinite(found.size), found.size, norms(problem.X, problem.norm))
    length = size * reach / norms(noise, problem.norm).clamp_min(1e-30)
    return (found.Z + spread(length, noise) * noise).clamp(problem.low, problem.high)
