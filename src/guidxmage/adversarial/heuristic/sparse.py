"""Fewest pixels: change or erase as few pixels as possible, guided by the region models."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from guidxmage.adversarial.heuristic.budget import candidates, spend
from guidxmage.adversarial.heuristic.problem import Problem
from guidxmage.adversarial.heuristic.quantise import take_back
from guidxmage.adversarial.heuristic.found import Found
from guidxmage.adversarial.heuristic.target_model import TargetModel

# Gradients of one round: the model at the new point, and two rounds of putting pixels back.
_ROUND = 3
# Rounds from the best image itself; later ones start from parts of it.
_SETTLED = 2


def search_pixels(
    target_model: TargetModel, problem: Problem, budget: int, rivals: int, seed: int
) -> Found:
    """The fewest pixels that reach the goal, (n, C, H, W).

    A region model says how much every pixel gains when it goes to the end of the box (for "erase":
    to 0, which is exactly −A). The pixels that gain most are changed, as few as the network itself
    needs, and those that turn out not to be needed are put back; then the model of the region this
    leads to, averaged with those before, ranks the pixels anew; later, the models of regions where
    a random part of the changed pixels is put back. Ranks start from X's own region,
    for the class that it reaches with fewest pixels, and from the smallest l1 perturbation, which
    is sparse too.
    """
    ranked = max(1, min(rivals, (budget - _ROUND) // 4, 9))
    _, local = candidates(target_model, problem, ranked, 1)
    normal = (local or target_model.local(problem.X, problem.goal)).normal
    found = _fewest(target_model, problem, normal)
    left = budget - ranked - _ROUND
    if problem.norm == "l0" and left > 2 * _ROUND:
        dense = replace(problem, norm="l1")
        nearby = spend(target_model, dense, left // 2, rivals, seed)
        normal = target_model.local(nearby.Z, problem.goal).normal
        left -= left // 2 + 1
        found = found.better(_fewest(target_model, problem, normal))
    generator = torch.Generator(device=problem.X.device).manual_seed(seed)
    for number in range(left // _ROUND):
        at = found.Z if number < _SETTLED else _partly_back(problem, found, generator)
        normal = (normal + target_model.local(at, problem.goal).normal) / 2
        found = found.better(_fewest(target_model, problem, normal))
    return found


def _partly_back(problem: Problem, found: Found, generator: torch.Generator) -> Tensor:
    """The best images with a random part of their changed pixels put back."""
    count, _, *sides = found.Z.shape
    draw = torch.rand(count, 1, *sides, generator=generator, device=found.Z.device)
    share = torch.rand(count, 1, 1, 1, generator=generator, device=found.Z.device)
    return torch.where(draw < share, problem.X, found.Z)


def _fewest(target_model: TargetModel, problem: Problem, normal: Tensor) -> Found:
    """The shortest prefix of the ranking by gain that reaches the goal, less what is not needed."""
    w = normal if problem.mask is None else normal * problem.mask
    ends = torch.where(w > 0, problem.high, torch.where(w < 0, problem.low, problem.X))
    if problem.norm == "erase":
        free = torch.ones_like(problem.X) if problem.mask is None else problem.mask
        ends = torch.where(free.bool(), 0.0, problem.X)
    gain = (w * (ends - problem.X)).sum(1).flatten(1)
    rank = gain.argsort(1, descending=True).argsort(1)
    useful = (gain > 0).sum(1)
    count = _shortest_prefix(target_model, problem, ends, rank, useful)
    Z = _prefix(problem.X, ends, rank, count)
    reached = problem.goal.margin(target_model.logits(Z)) > 0
    found = Found(Z, torch.where(reached, problem.size(Z), torch.inf))
    return take_back(target_model, problem, found, problem.X, rounds=2)


def _shortest_prefix(
    target_model: TargetModel, problem: Problem, ends: Tensor, rank: Tensor, most: Tensor
) -> Tensor:
    """How many of the first pixels reach the goal: doubled until they do, then bisected."""
    low, high = torch.zeros_like(most), torch.ones_like(most)
    settled = torch.zeros_like(most).bool()
    for _ in range(40):
        tried = torch.where(settled, (low + high) // 2, torch.minimum(high, most))
        Z = _prefix(problem.X, ends, rank, tried)
        reached = problem.goal.margin(target_model.logits(Z)) > 0
        high = torch.where(reached, tried, high)
        low = torch.where(reached, low, tried)
        settled = settled | reached | (tried >= most)
        high = torch.where(settled, high, torch.minimum(2 * high, most))
        if bool((settled & (high - low <= 1)).all()):
            break
    return high


def _prefix(X: Tensor, ends: Tensor, rank: Tensor, count: Tensor) -> Tensor:
    """X with the first `count` (n,) pixels of the ranking (n, H·W) moved to `ends`."""
    chosen = (rank < count[:, None]).view(len(X), 1, *X.shape[2:])
    return torch.where(chosen, ends, X)
