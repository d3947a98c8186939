"""The sequence of steps for l1: closest points for l2 that are thinned out, class by class."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch

from guidxmage.adversarial.heuristic.best_points import Found
from guidxmage.adversarial.heuristic.gradient_budget import Account
from guidxmage.adversarial.heuristic.l2_linf import Dense
from guidxmage.adversarial.heuristic.problem import Problem
from guidxmage.adversarial.heuristic.proximal import descend_l1, thin_out
from guidxmage.adversarial.heuristic.refine import polish
from guidxmage.adversarial.heuristic.search import Schedule, search

# Samples of different classes or basins that are kept for each image.
_KEPT = 4


class Slim:
    """A search for small l1 norms, from which parts are taken one after the other.

    The class that is closest for l2 is often not the one for l1, so that several are thinned out a
    little, and those that come out best some more. `tried` are the samples of this search alone,
    each image's smallest first; the account sees every point on the way.
    """

    def __init__(self, account: Account, problem: Problem, seed: int) -> None:
        self.account, self.problem = account, replace(problem, norm="l1")
        self.dense = Dense(account, replace(problem, norm="l2"), seed)
        self.tried: list[Found] = []

    @property
    def found(self) -> Found:
        """The best of this search alone."""
        return self.tried[0] if self.tried else Found.nothing(self.problem)

    def through(self, steps: int, thinning: int) -> None:
        """Search for l2 through the next class, or near the best, and thin out what is found."""
        dense, before = self.dense, self.dense.found
        dense.found = Found.nothing(dense.problem)
        if dense.ways.only and bool(torch.isfinite(before.size).any()):
            dense.found = before
            dense.jump(steps)
        else:
            dense.sweep(steps)
        self.add(thin_out(self.account, self.problem, dense.found, thinning))
        dense.found = before.better(dense.found)

    def thin(self, steps: int, place: int = 0) -> None:
        """Thin out the sample in some place, by default the best."""
        place = min(place, len(self.tried) - 1)
        self.take(thin_out(self.account, self.problem, self.tried[place], steps), place)

    def walk(self, steps: int) -> None:
        """Search from region to region for l1 itself, from the best point."""
        schedule, start = Schedule(steps, 0.5), self.found.Z
        self.take(search(self.account, self.problem, schedule, start, self.dense.rival))

    def jump(self, steps: int, thinning: int) -> None:
        """Search near the best point for l1, and thin out."""
        start = self.dense.near(self.found)
        found = search(self.account, self.problem, Schedule(steps), start, self.dense.rival)
        self.add(thin_out(self.account, self.problem, found, thinning))

    def descend(self, steps: int) -> None:
        """Go down along the boundary as far as the network confirms it."""
        self.take(descend_l1(self.account, self.problem, self.found, steps))

    def add(self, found: Found) -> None:
        """One more sample of each image; the largest of too many is left."""
        self._sort([*self.tried, found])

    def take(self, found: Found, place: int = 0) -> None:
        """What was found from the sample in some place, where it is smaller."""
        self.tried[place] = self.tried[place].better(found)
        self._sort(self.tried)

    def _sort(self, tried: list[Found]) -> None:
        sizes, points = (
            torch.stack(p, 1) for p in zip(*((f.size, f.Z) for f in tried), strict=True)
        )
        order, rows = sizes.argsort(dim=1, stable=True), self.problem.numbers
        chosen = order.unbind(1)[:_KEPT]
        self.tried = [Found(points[rows, one], sizes[rows, one]) for one in chosen]

    def recall(self) -> None:
        """Go on from what others have found where this search has nothing."""
        best = self.account.best
        size = torch.where(torch.isfinite(best.size), self.problem.size(best.Z), torch.inf)
        self.take(Found(best.Z, size))

    def parts(self, sparser: Callable[[Found], Found] | None = None) -> Iterator[None]:
        """Parts of 16, 24, 60 and then about 100 gradients; `sparser` looks for l0 samples."""
        masked = self.problem.mask is not None and not bool(self.problem.mask.all())
        if masked:
            self.dense.stroll(8, 3)
            self.add(thin_out(self.account, self.problem, self.dense.found, 5))
        else:
            self.dense.ways.rank(3)
            self.through(6, 7)
        self.take(polish(self.account, self.problem, self.found, 1))
        self.dense.rescue(12)
        yield
        self.dense.ways.rank(1)
        for _ in range(2):
            self.through(3, 5)
        self.thin(9)
        self.dense.rescue(60)
        self.recall()
        yield
        self.dense.ways.rank(2)
        for _ in range(3):
            self.through(4, 6)
        self.thin(9, 1)
        self.thin(13)
        self.descend(9)
        yield
        self.dense.ways.rank(4)
        while True:
            if sparser is not None:
                self.add(sparser(self.found))
                self.thin(8)
            for _ in range(2):
                self.through(8, 12)
            self.thin(20, 1)
            self.thin(30)
            self.walk(10)
            self.descend(8)
            yield
            for _ in range(3):
                self.jump(12, 12)
            self.thin(10)
            self.walk(10)
            self.descend(12)
            yield
