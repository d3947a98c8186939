"""The sequence of steps for l2 and linf: which classes are tried, how long, and the restarts."""

from __future__ import annotations

import torch
from torch import Tensor

from guidxmage.adversarial.heuristic.best_points import Found
from guidxmage.adversarial.heuristic.exit_classes import Ways
from guidxmage.adversarial.heuristic.gradient_budget import Account
from guidxmage.adversarial.heuristic.problem import Problem, norms, spread
from guidxmage.adversarial.heuristic.refine import polish, shorten
from guidxmage.adversarial.heuristic.rescue import rescue
from guidxmage.adversarial.heuristic.search import Schedule, search, stroll
from guidxmage.adversarial.heuristic.target_model import Local

# Sizes of the jumps from the best point, in units of its own distance; one after the other.
_JUMPS = (0.3, 1.5, 4.0, 0.7)
_JUMP_STEPS = 20
_STROLL = 8


class Dense:
    """A search for the closest point of a convex norm, from which steps are taken one by one.

    `found` is the best of this search alone; the account sees every point on the way.
    """

    def __init__(self, account: Account, problem: Problem, seed: int) -> None:
        self.account, self.problem = account, problem
        self.ways = Ways(account, problem)
        self.found = Found.nothing(problem)
        self.rival = torch.full_like(problem.goal.classes, -1)
        self.generator = torch.Generator(device=problem.X.device).manual_seed(seed)
        self.jumps = 0

    def sweep(self, steps: int, way: tuple[Tensor, Local | None] | None = None) -> None:
        """Search from X through a class, by default the closest that was not tried."""
        classes, first = way or self.ways.next()
        schedule = Schedule(steps)
        X = self.problem.X
        found = search(self.account, self.problem, schedule, X, classes, first)
        self.ways.note(classes, found.size)
        self.found = self.found.better(found)

    def settle(self, steps: int) -> None:
        """Search on from the best point by smaller steps."""
        schedule = Schedule(steps, 0.5)
        found = search(self.account, self.problem, schedule, self.found.Z, self.rival)
        self.found = self.found.better(found)

    def stroll(self, steps: int, after: int) -> None:
        """Short steps from X, and a search from where they end."""
        start, passed = stroll(self.account, self.problem, steps)
        self.found = self.found.better(passed)
        found = search(self.account, self.problem, Schedule(after, 0.5), start, self.rival)
        self.found = self.found.better(found)

    def finish(self, steps: int) -> None:
        """Cross the boundary exactly, and move along it to the closest point nearby."""
        self.found = shorten(self.account, self.problem, self.found)
        self.account.offer(self.problem, self.found)
        self.found = polish(self.account, self.problem, self.found, steps)

    def jump(self, steps: int = _JUMP_STEPS) -> None:
        """Search from a random point near the best."""
        start = self.near(self.found)
        found = search(self.account, self.problem, Schedule(steps), start, self.rival)
        self.found = self.found.better(found)

    def sweep_best(self, places: int, steps: int, *, settling: int) -> None:
        """A sweep through each of the best classes, and what it takes to settle their samples."""
        for place in range(places):
            self.sweep(steps, self.ways.best(place))
        self.settle(settling)

    def rescue(self, climbs: int) -> None:
        """Any sample for images that have none."""
        rescue(self.account, self.problem, self.generator, climbs)

    def recall(self) -> None:
        """Go on from what others have found where this search has nothing."""
        lost = ~torch.isfinite(self.found.size)
        best = self.account.best
        size = self.problem.size(best.Z).where(torch.isfinite(best.size) & lost, torch.inf)
        self.found = self.found.better(Found(best.Z.where(spread(lost, best.Z), best.Z), size))

    def near(self, found: Found) -> Tensor:
        """Random points near those found, at the next of a few distances."""
        problem, size = self.problem, _JUMPS[self.jumps % len(_JUMPS)]
        self.jumps += 1
        noise = torch.randn(
            found.Z.shape, generator=self.generator, dtype=found.Z.dtype, device=found.Z.device
        )
        noise = problem.free(noise)
        far = norms(problem.X, problem.norm)
        reach = torch.where(torch.isfinite(found.size), problem.size(found.Z), far)
        length = size * reach / norms(noise, problem.norm).clamp_min(1e-30)
        return (found.Z + spread(length, noise) * noise).clamp(problem.low, problem.high)


def search_dense(account: Account, problem: Problem, seed: int) -> None:
    """Offer ever smaller samples in l2 or linf until the budget is spent.

    The first steps are worth most: the numbers add up to 16, 40, 100 and 300 gradients at the end
    of the first parts. Then sweeps for the best classes and jumps take turns.
    """
    one = Dense(account, problem, seed)
    masked = problem.mask is not None and not bool(problem.mask.all())
    if masked:
        one.stroll(_STROLL, 5)
    else:
        one.ways.rank(3)
        one.sweep(8 if not one.ways.only else 10)
        one.settle(3)
    one.finish(3)
    one.rescue(12)
    if masked:
        one.settle(8)
        one.ways.rank(3)
        one.sweep(8)
    elif one.ways.only:
        one.jump(16)
    else:
        one.ways.rank(2)
        one.sweep(7)
        one.sweep(6)
    one.settle(8)
    one.finish(3)
    one.rescue(60)
    one.recall()
    one.ways.rank(4)
    one.sweep_best(2, 16, settling=22)
    one.finish(4)
    for _ in range(6):
        one.sweep(12)
    one.sweep_best(2, 24, settling=30)
    for _ in range(2):
        one.jump()
    one.finish(12)
    while True:
        one.rescue(40)
        one.sweep_best(3, 40, settling=30)
        for _ in range(8):
            one.jump()
            one.finish(4)
