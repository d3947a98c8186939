"""Adversarial images of whole grey levels: the smallest perturbation on the 8-bit grid."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from guidxmage.adversarial.heuristic.best_points import Found
from guidxmage.adversarial.heuristic.gradient_budget import Account
from guidxmage.adversarial.heuristic.problem import Problem, norms, spread
from guidxmage.adversarial.heuristic.target_model import Local

LEVELS = 255


def on_grid(X: Tensor) -> Tensor:
    """Pixels in [0, 1] rounded to the nearest of 256 grey levels."""
    return (X * LEVELS).round() / LEVELS


def quantise(account: Account, problem: Problem, found: Found, budget: int) -> Found:
    """The smallest perturbation found whose image lies on the 8-bit grid and is still adversarial.

    Rounding a perturbation below one level would undo it. Instead the integer problem of the local
    region model is solved (levels by decreasing gain for their cost, which is the optimum for a
    separable convex norm up to the last level), again at the point it leads to, until the network
    itself agrees; then levels that are not needed are taken back. Takes at most `budget` gradients
    an image.
    """
    rounds = min(3, budget // 4)
    grid = _Grid.of(problem)
    Z = found.Z
    best = _rounded(account, problem, found)
    account.offer(problem, best)
    push = torch.full_like(found.size, 0.02)
    for _ in range(budget - rounds):
        local = account.local(Z, problem.goal)
        Z = grid.closest(local, Z, push)
        beyond = problem.goal.margin(account.logits(Z)) > 0
        size = torch.where(beyond, norms(Z - problem.X, problem.norm), torch.inf)
        best = best.better(Found(Z, size))
        account.offer(problem, best)
        push = torch.where(beyond, push * 0.5, push * 1.8 + 0.01).clamp(1e-3, 30.0)
        # From the boundary the next region model is the one that matters.
        Z = torch.where(spread(torch.isfinite(best.size), Z), best.Z, Z)
    best = take_back(account, problem, best, grid.start, rounds)
    account.offer(problem, best)
    return best


def _rounded(account: Account, problem: Problem, found: Found) -> Found:
    """The perturbation lengthened as little as lets it survive rounding, by bisection."""
    low, high = torch.ones_like(found.size), torch.full_like(found.size, 3.0)
    best = Found.nothing(problem)
    for number in range(12):
        factor = (low + high) / 2 if number else low
        Z = on_grid(problem.X + spread(factor, found.Z) * (found.Z - problem.X))
        Z = problem.on_free(Z.clamp(problem.low, problem.high), problem.X)
        beyond = (problem.goal.margin(account.logits(Z)) > 0) & torch.isfinite(found.size)
        best = best.better(Found(Z, torch.where(beyond, problem.size(Z), torch.inf)))
        high = torch.where(beyond, factor, high)
        low = torch.where(beyond, low, factor)
    return best


@dataclass(frozen=True)
class _Grid:
    """The images around X whose free entries are whole grey levels; the others stay as they are."""

    problem: Problem
    start: Tensor

    @classmethod
    def of(cls, problem: Problem) -> _Grid:
        return cls(problem, problem.on_free(on_grid(problem.X), problem.X))

    def closest(self, local: Local, at: Tensor, push: Tensor) -> Tensor:
        """The closest grid image that the region model at `at` puts beyond the boundary."""
        w = self.problem.free(local.normal)
        room = torch.where(w > 0, self.problem.high - self.start, self.start - self.problem.low)
        room = (room.clamp(min=0) * LEVELS + 1e-6).floor()
        gain = w.abs() / LEVELS
        need = (w * (at - self.start)).flatten(1).sum(1) - local.value
        need = need + push * need.abs()
        low = torch.zeros_like(need)
        high = _largest_threshold(gain, self.problem.norm)
        for _ in range(40):
            middle = (low + high) / 2
            reached = (gain * self._levels(gain, room, middle)).flatten(1).sum(1) >= need
            high = torch.where(reached, high, middle)
            low = torch.where(reached, middle, low)
        levels = self._levels(gain, room, low)
        moved = on_grid(self.start + levels * w.sign() / LEVELS)
        return self.problem.on_free(moved, self.start)

    def _levels(self, gain: Tensor, room: Tensor, threshold: Tensor) -> Tensor:
        """How many levels each entry moves when a level must gain `threshold` for its cost."""
        t = spread(threshold, gain).clamp_min(1e-30)
        if self.problem.norm == "l2":  # the n-th level costs 2n − 1
            levels = ((gain / t + 1) / 2).floor()
        elif self.problem.norm == "linf":
            levels = torch.where(gain > 0, 1 / t, 0).ceil()
        else:
            levels = torch.where(gain >= t, torch.inf, 0.0)
        return torch.minimum(levels, room)


def _largest_threshold(gain: Tensor, norm: str) -> Tensor:
    """A threshold above which nothing moves (or, for "linf", everything by one level at most)."""
    if norm == "linf":
        return torch.ones_like(gain.flatten(1)[:, 0])
    return gain.flatten(1).amax(1) * 1.01 + 1e-30


def take_back(
    account: Account, problem: Problem, found: Found, start: Tensor, rounds: int
) -> Found:
    """Undo changes that are not needed, those with the least gain for their cost first.

    For each row the largest number of changed entries (whole pixels for "l0" and "erase") that can
    go back to `start` with the image still adversarial is found by bisection.
    """
    best = found
    for _ in range(rounds if problem.norm != "linf" else 0):
        local = account.local(best.Z, problem.goal)
        delta = best.Z - start
        gain = local.normal * delta
        cost = delta.square() if problem.norm == "l2" else delta.abs()
        if problem.norm in ("l0", "erase"):
            gain, cost = gain.sum(1, keepdim=True), (delta != 0).any(1, keepdim=True).to(gain)
        worth = torch.where(cost > 0, gain / cost.clamp_min(1e-30), torch.inf).flatten(1)
        order = worth.argsort(1)
        changed = (cost > 0).flatten(1).sum(1)
        rank = torch.empty_like(order).scatter_(
            1, order, torch.arange(order.shape[1], device=order.device).expand_as(order)
        )
        low, high = torch.zeros_like(changed), changed
        for _ in range(16):
            middle = (low + high + 1) // 2
            back = (rank < middle[:, None]).view(cost.shape)
            ok = problem.goal.margin(account.logits(torch.where(back, start, best.Z))) > 0
            low, high = torch.where(ok, middle, low), torch.where(ok, high, middle - 1)
            if bool((low >= high).all()):
                break
        back = (rank < low[:, None]).view(cost.shape)
        Z = torch.where(back, start, best.Z)
        reached = torch.isfinite(best.size) & (problem.goal.margin(account.logits(Z)) > 0)
        better = best.better(Found(Z, torch.where(reached, problem.size(Z), torch.inf)))
        if bool((better.size >= best.size).all()):
            return better
        best = better
    return best
