"""The gradients that are left, and the samples that were found with those already spent.

An attack is one sequence of steps, whatever its budget: a larger budget takes the steps of a
smaller one first, and then goes on. Samples are offered at fixed places of the sequence, and the
smallest offered is the result, so that a larger budget never ends with a larger norm.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from guidxmage.adversarial.heuristic.best_points import Found
from guidxmage.adversarial.heuristic.problem import Problem, norms
from guidxmage.adversarial.heuristic.target_model import Goal, Local, TargetModel

# Samples kept for each image: where rounding costs the smallest its place, the next one has it.
_KEPT = 8


class SpentError(Exception):
    """The budget is spent; what was offered until now is the result."""


class Account:
    """The attacked network for those who pay for its gradients, and the best samples so far.

    best: the smallest offered for each image, in the norm of `problem`. left: gradients an image.
    """

    def __init__(self, target_model: TargetModel, problem: Problem, budget: int) -> None:
        self.target_model, self.left = target_model, budget
        self._told: Callable[[float], None] | None = None
        self._budget = budget
        self.problem = replace(problem, index=None)
        self.best = Found.nothing(problem)
        self._least = self.best.size.double()
        self._kept: list[list[tuple[float, Tensor]]] = [[] for _ in problem.X]

    def tell(self, told: Callable[[float], None] | None) -> None:
        """Tell what share of the budget is spent, before any of it is; None for nobody."""
        self._told = told

    def pay(self, gradients: int = 1) -> None:
        """Take so many gradients of each image; raises SpentError where fewer are left."""
        if self.left < gradients:
            raise SpentError
        if self._told is not None:
            self._told(1 - self.left / self._budget)
        self.left -= gradients

    def local(self, Z: Tensor, goal: Goal, via: Tensor | None = None) -> Local:
        """`TargetModel.local` of some or all images, for one gradient."""
        self.pay()
        return self.target_model.local(Z, goal, via)

    def rivals(self, X: Tensor, goal: Goal, classes: Tensor) -> Local:
        """`TargetModel.rivals`, for a gradient a class."""
        self.pay(classes.shape[1])
        return self.target_model.rivals(X, goal, classes)

    def logits(self, Z: Tensor) -> Tensor:
        """Scores, which cost no gradient."""
        return self.target_model.logits(Z)

    def reached(self, problem: Problem, Z: Tensor) -> Tensor:
        """Whether the network says that points of a problem are beyond the boundary, (n,)."""
        return problem.goal.margin(self.logits(Z)) > 0

    def sizes(self, part: Problem) -> Tensor:
        """The sizes of the best samples for the rows of a problem, (n,)."""
        return self.best.size if part.index is None else self.best.size[part.index]

    def offer(self, part: Problem, found: Found) -> None:
        """Samples for the rows of a problem; they are kept where they are smaller."""
        rows = self.problem.numbers if part.index is None else part.index
        # In float64, so that no sample is taken for smaller by rounding.
        delta = found.Z.double() - self.problem.X[rows].double()
        size = norms(delta, self.problem.norm)
        size = torch.where(torch.isfinite(found.size), size, torch.inf)
        smaller = (size < self._least[rows]).nonzero()[:, 0]
        if not len(smaller):
            return
        where, Z, sizes = rows[smaller], found.Z[smaller], size[smaller]
        self._least = self._least.index_copy(0, where, sizes)
        self.best = Found(self.best.Z.index_copy(0, where, Z), self._least.to(Z))
        for row, one, sample in zip(where.tolist(), sizes.tolist(), Z, strict=True):
            self._kept[row] = [*self._kept[row][1 - _KEPT :], (one, sample)]

    def samples(self, row: int) -> list[tuple[float, Tensor]]:
        """Sizes and samples (C, H, W) of an image, the smallest first."""
        return self._kept[row][::-1]
