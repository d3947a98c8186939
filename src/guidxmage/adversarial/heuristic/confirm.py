"""Samples as the network confirms them: one image at a time, and once more in float64."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from math import inf

import torch
from torch import Tensor, nn

from guidxmage.adversarial.heuristic.best_points import Found
from guidxmage.adversarial.heuristic.problem import Problem, norms
from guidxmage.adversarial.heuristic.target_model import TargetModel

# Shares of its perturbation by which a sample on the boundary is moved beyond it.
_BEYOND = (0.0, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2)

# Sizes and samples of an image, the smallest first.
Samples = Sequence[tuple[float, Tensor]]


def confirm(
    target_model: TargetModel, problem: Problem, samples: Sequence[Samples], fixed: Tensor
) -> tuple[Found, Tensor]:
    """What the network confirms for each image alone, and in float64; also the margins, float64.

    A sample on the boundary to the last bit is moved beyond it by the least of a few shares of its
    perturbation that both confirm, unless it is `fixed` (n,). The smallest of each image's samples
    is taken as it is then. Others are lost: size inf.
    """
    exact = copy.deepcopy(target_model.model).double()
    points, sizes, margins = [], [], []
    for row, known in enumerate(samples):  # one image at a time is the point here
        one = problem.rows(torch.tensor([row], device=problem.X.device))
        best, size, margin = one.X, inf, float("nan")
        shares = _BEYOND[:1] if bool(fixed[row]) else _BEYOND
        for least, sample in known:
            if least >= size:
                break
            found = _confirmed(target_model, exact, one, sample[None], shares)
            if found is None:
                continue
            delta = found[0].double() - one.X.double()
            if float(norms(delta, one.norm)) < size:
                (best, margin), size = found, float(norms(delta, one.norm))
        points.append(best)
        margins.append(margin)
        sizes.append(size)
    return Found(torch.cat(points), problem.X.new_tensor(sizes)), torch.tensor(margins).double()


def _confirmed(
    target_model: TargetModel, exact: nn.Module, one: Problem, Z: Tensor, shares: tuple[float, ...]
) -> tuple[Tensor, float] | None:
    for share in shares:
        moved = (one.X + (1 + share) * (Z - one.X)).clamp(one.low, one.high) if share else Z
        plain = float(one.goal.margin(target_model.logits(moved)))
        with torch.no_grad():
            margin = float(one.goal.margin(exact(target_model.to_input(moved.double()))))
        if plain > 0 and margin > 0:
            return moved, margin
    return None
