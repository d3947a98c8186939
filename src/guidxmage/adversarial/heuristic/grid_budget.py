"""The account of an attack whose results lie on the 8-bit grid."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from guidxmage.adversarial.heuristic.best_points import Found
from guidxmage.adversarial.heuristic.gradient_budget import Account
from guidxmage.adversarial.heuristic.problem import Problem
from guidxmage.adversarial.heuristic.quantise import on_grid, quantise
from guidxmage.adversarial.heuristic.target_model import TargetModel

COUNTING = ("l0", "erase")
# Gradients of the search, then of the grid; the last pair again and again.
_TURNS = ((8, 8), (12, 12), (40, 14), (86, 14))


class GridAccount(Account):
    """An account that takes turns: after some gradients of the search come some for the grid.

    The search sees what it has found itself, as without a grid. `grid` has the gradients that are
    left, and the samples on the grid.
    """

    def __init__(self, target_model: TargetModel, problem: Problem, budget: int) -> None:
        super().__init__(target_model, problem, budget)
        self.grid = Account(target_model, problem, budget)
        self.turn, self.search_left = 0, _TURNS[0][0]

    def tell(self, told: Callable[[float], None] | None) -> None:
        """As without a grid."""
        self.grid.tell(told)

    def pay(self, gradients: int = 1) -> None:
        """Take gradients for the search; its turn may be over, which the grid's comes before."""
        if self.search_left < gradients and self.problem.norm not in COUNTING:
            quantise(self.grid, self.grid.problem, self.best, _turn(self.turn)[1])
            self.turn += 1
            self.search_left = max(gradients, _turn(self.turn)[0])
        self.grid.pay(gradients)
        self.search_left -= gradients

    def offer(self, part: Problem, found: Found) -> None:
        """As without a grid; where pixels are counted, they go to the next level at once."""
        super().offer(part, found)
        if self.problem.norm in COUNTING:
            changed = (found.Z != part.X).any(1, keepdim=True)
            Z = part.on_free(torch.where(changed, on_grid(found.Z), part.X), part.X)
            reached = torch.isfinite(found.size) & self.reached(part, Z)
            self.grid.offer(part, Found(Z, torch.where(reached, found.size, torch.inf)))

    def samples(self, row: int) -> list[tuple[float, Tensor]]:
        """Sizes and samples on the grid, the smallest first."""
        return self.grid.samples(row)


def _turn(number: int) -> tuple[int, int]:
    return _TURNS[min(number, len(_TURNS) - 1)]
