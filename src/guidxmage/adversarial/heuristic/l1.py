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


class Slim:
    """A search for small l1 norms, from which parts are taken one after the other.

    The class that is closest for l2 is often not the one for l1, so that several are thinned out.
    `found` is the best of this search alone; the account sees every point on the way.
    """

    def __init__(self, account: Account, problem: Problem, seed: int) -> None:
        self.account, self.problem = account, replace(problem, norm="l1")
        self.dense = Dense(account, replace(problem, norm="l2"), seed)
        self.found = Found.nothing(self.problem)

    def through(self, steps: int, thinning: int) -> None:
        """Search for l2 through the next class, or near the best, and thin out what is found."""
        dense, before = self.dense, self.dense.found
        dense.found = Found.nothing(dense.problem)
        if dense.ways.only and bool(torch.isfinite(before.size).any()):
            dense.found = before
            dense.jump(steps)
        else:
            dense.sweep(steps)
        self.thin(thinning, dense.found)
        dense.found = before.better(dense.found)

    def thin(self, steps: int, start: Found | None = None) -> None:
        """Thin out a sample, by default the best for l1."""
        self.keep(thin_out(self.account, self.problem, start or self.found, steps))

    def walk(self, steps: int) -> None:
        """Search from region to region for l1 itself, from the best point."""
        schedule, start = Schedule(steps, 0.5), self.found.Z
        self.keep(search(self.account, self.problem, schedule, start, self.dense.rival))

    def jump(self, steps: int, thinning: int) -> None:
        """Search near the best point for l1, and thin out."""
        start = self.dense.near(self.found)
        found = search(self.account, self.problem, Schedule(steps), start, self.dense.rival)
        self.thin(thinning, found)

    def descend(self, steps: int) -> None:
        """Go down along the boundary as far as the network confirms it."""
        self.keep(descend_l1(self.account, self.problem, self.found, steps))

    def keep(self, found: Found) -> None:
        """Take what is better."""
        self.found = self.found.better(found)

    def recall(self) -> None:
        """Go on from what others have found where this search has nothing."""
        best = self.account.best
        size = torch.where(torch.isfinite(best.size), self.problem.size(best.Z), torch.inf)
        self.keep(Found(best.Z, size))

    def parts(self, sparser: Callable[[Found], Found] | None = None) -> Iterator[None]:
        """Parts of 16, 24, 60 and then about 100 gradients; `sparser` looks for l0 samples."""
        masked = self.problem.mask is not None and not bool(self.problem.mask.all())
        if masked:
            self.dense.stroll(8, 3)
            self.thin(5, self.dense.found)
        else:
            self.dense.ways.rank(3)
            self.through(6, 7)
        self.keep(polish(self.account, self.problem, self.found, 1))
        self.dense.rescue(12)
        yield
        self.through(5, 8)
        self.walk(8)
        self.descend(4)
        self.dense.rescue(60)
        self.recall()
        yield
        self.dense.ways.rank(2)
        for _ in range(3):
            self.through(5, 7)
        self.walk(10)
        self.thin(8)
        self.descend(7)
        yield
        self.dense.ways.rank(4)
        while True:
            if sparser is not None:
                found = sparser(self.found)
                self.keep(found)
                self.thin(8, found)
            for _ in range(2):
                self.through(8, 12)
            self.thin(30)
            self.walk(10)
            self.descend(8)
            yield
            for _ in range(3):
                self.jump(12, 12)
            self.walk(10)
            self.descend(12)
            yield
