"""The classes through which an image may leave its own, and how near they are."""

from __future__ import annotations

import torch
from torch import Tensor

from guidxmage.adversarial.heuristic.gradient_budget import Account
from guidxmage.adversarial.heuristic.problem import Problem, norms
from guidxmage.adversarial.heuristic.projection import project
from guidxmage.adversarial.heuristic.target_model import Local


class Ways:
    """Rival classes of n images, ranked by the models of each image's own region.

    classes (n, R) and distances (n, R) of the ranked; sizes (n, R) of the best sample that a search
    for each has found, inf before. A targeted goal, and a network of two classes, has one way only,
    −1: the best rival.
    """

    def __init__(self, account: Account, problem: Problem) -> None:
        self.account, self.problem = account, problem
        self.logits = account.logits(problem.X)
        count = len(problem.X)
        self.rivals = self.logits.shape[1] - 1
        self.only = problem.goal.targeted or self.rivals < 2
        self.classes = torch.zeros(count, 0, dtype=torch.long, device=problem.X.device)
        self.distances = self.sizes = problem.X.new_zeros(count, 0)
        self.models: list[Local] = []

    @property
    def ranked(self) -> int:
        """How many classes are ranked."""
        return self.classes.shape[1]

    def rank(self, more: int) -> None:
        """Rank the next so many of the best classes at X, for a gradient each."""
        more = 0 if self.only else min(more, self.rivals - self.ranked)
        if more < 1:
            return
        problem, count = self.problem, len(self.logits)
        others = self.logits.scatter(1, problem.goal.classes[:, None], -torch.inf)
        classes = others.topk(self.ranked + more, 1).indices[:, self.ranked :]
        many = problem.rows(problem.numbers.repeat_interleave(more))
        local = self.account.rivals(problem.X, problem.goal, classes)
        value = local.value - (local.normal * many.X).flatten(1).sum(1)
        low, high = problem.low, problem.high
        closest = project(
            many.X, local.normal, value, problem.norm, low=low, high=high, mask=many.mask
        )
        distance = torch.where(closest.feasible, norms(closest.delta, problem.norm), torch.inf)
        self.models += [local.rows(problem.numbers * more + k) for k in range(more)]
        self.classes = torch.cat([self.classes, classes], 1)
        self.distances = torch.cat([self.distances, distance.view(count, more)], 1)
        self.sizes = torch.cat([self.sizes, torch.full_like(distance, -1).view(count, more)], 1)

    def next(self) -> tuple[Tensor, Local | None]:
        """The closest classes that no search was for, (n,), and their models at X.

        −1 and no model where there is one way only, or no other is left.
        """
        untried = self.sizes < 0
        if self.only or not bool(untried.any(1).all()):
            return torch.full_like(self.problem.goal.classes, -1), None
        distances = torch.where(untried, self.distances.clamp(max=1e30), torch.inf)
        return self._at(distances.argmin(1, keepdim=True))

    def best(self, place: int) -> tuple[Tensor, Local | None]:
        """The classes whose search had the place-th smallest result, and their models at X."""
        tried = self.sizes >= 0
        if self.only or place >= int(tried.sum(1).min()):
            return torch.full_like(self.problem.goal.classes, -1), None
        order = torch.where(tried, self.sizes, torch.inf).argsort(dim=1, stable=True)
        return self._at(order[:, place : place + 1])

    def _at(self, which: Tensor) -> tuple[Tensor, Local]:
        rows = self.problem.numbers
        models = Local(
            self.logits,
            torch.stack([one.value for one in self.models], 1).gather(1, which)[:, 0],
            torch.stack([one.normal for one in self.models], 1)[rows, which[:, 0]],
        )
        return self.classes.gather(1, which)[:, 0], models

    def note(self, classes: Tensor, sizes: Tensor) -> None:
        """What a search for some classes (n,) has found: sizes (n,), inf for nothing."""
        hit = self.classes == classes[:, None]
        before = torch.where(self.sizes < 0, torch.inf, self.sizes)
        self.sizes = torch.where(hit, before.minimum(sizes[:, None]), self.sizes)
