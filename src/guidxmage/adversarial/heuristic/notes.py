"""What is said of an image whose attack found nothing, or had nothing to do."""

from __future__ import annotations

import torch
from torch import Tensor

from guidxmage.adversarial.heuristic.problem import Problem
from guidxmage.adversarial.heuristic.target_model import TargetModel

# Below this share of what is missing, whatever the box allows, the scores hardly answer.
_FLAT = 1e-3

_NOTHING = "no adversarial sample was found within the budget"
_SATURATED = (
    f"{_NOTHING}: the scores are saturated at the image, its pixels hardly move them; where the "
    "network ends in a softmax, attack the scores before the softmax"
)


def notes_for(
    target_model: TargetModel, problem: Problem, success: Tensor, already: Tensor
) -> dict[int, str]:
    """A sentence for each row that has something to say."""
    reached = "is classified as the target" if problem.goal.targeted else "is misclassified"
    nothing = f"the image {reached} already; nothing was changed"
    said = dict.fromkeys(already.nonzero()[:, 0].tolist(), nothing)
    failed = (~success & ~already).nonzero()[:, 0]
    if len(failed):
        flat = _flat(target_model, problem.rows(failed))
        for row, is_flat in zip(failed.tolist(), flat.tolist(), strict=True):
            said[row] = _SATURATED if is_flat else _NOTHING
    return said


def _flat(target_model: TargetModel, problem: Problem) -> Tensor:
    """Whether by the model at X nothing in the box comes near the boundary, (n,)."""
    local = target_model.local(problem.X, problem.goal)
    reach = problem.free(local.normal).abs().flatten(1).sum(1) * (problem.high - problem.low)
    return torch.as_tensor(reach <= _FLAT * local.value.abs())
