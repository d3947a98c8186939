"""Any number that a network gives out as an answer that can be changed: attacked, and certified.

The number and a level that it is to pass become the two scores of a network: as long as the number
is on its side of the level, the first score is the larger.
"""

from __future__ import annotations

from math import isfinite
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from guidxmage.adversarial.heuristic.target_model import as_explainer
from guidxmage.errors import InputError
from guidxmage.explainer import Explainer
from guidxmage.inputs.input_space import Images
from guidxmage.outputs.kinds import Boxes
from guidxmage.outputs.meaning import Meaning

CHANGED = "changed"


class Margin(nn.Module):
    """Scores (B, 2) of a network's outputs (B, N): how far one number is within a level, and 0.

    cotangent: the number as a functional of the outputs, (N,); within the level it is above it,
    or below where `above` is False.
    """

    rows: Tensor
    limit: Tensor

    def __init__(self, model: nn.Module, cotangent: Tensor, level: float, *, above: bool) -> None:
        super().__init__()
        self.training = model.training
        self.model = model
        sign = 1.0 if above else -1.0
        rows = torch.stack([sign * cotangent, torch.zeros_like(cotangent)])
        self.register_buffer("rows", rows, persistent=False)
        limit = torch.tensor([-sign * level, 0.0], dtype=cotangent.dtype, device=cotangent.device)
        self.register_buffer("limit", limit, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """The two scores."""
        return nn.functional.linear(self.model(x), self.rows, self.limit)


def margin(
    model: nn.Module | Explainer, image: Images, target: Any = "top1", move: float | None = None
) -> Explainer:
    """A network of two classes, for `attack` and `certify`: what a number is, and that it changed.

    model, image, target: as `Explainer.explain` takes them, for a single image and one target; what
    is chosen for this image (the anchor of a box, the rival of each pixel) stays chosen. move: by
    how much the number is to change at least, in its own unit; negative to fall. By default the
    number is to pass where it means something else: 0 for a difference, the threshold for the score
    of a box. Raises InputError where there is no such place, as for the side of a box.

    The boundary is that of this one number: another box may take the place of one that vanishes.
    """
    if move is not None and not (_is_number(move) and isfinite(move) and move != 0):
        raise InputError(f"move is {move}; give by how much the number is to change, not 0")
    explainer = as_explainer(model)
    found = explainer.explain(image, target)
    if found.batched or found.several:
        raise InputError("one image and one target are changed at a time")
    score = float(found.score)
    level = _level(explainer, found.meaning, int(found.against)) if move is None else score + move
    if level is None:
        raise InputError(
            f"{found.target_name} is a number without a boundary ({score:.6g}); say by how much it "
            "is to change: move=−10"
        )
    above = score > level if move is None else move < 0
    cotangent = found.symbolic_model.cotangent[0, 0]
    known = explainer.preprocessing if explainer.space == "pixels" else None
    made = Explainer(
        Margin(explainer.model, cotangent, level, above=above).eval(),
        preprocessing=known,
        labels=(str(found.target_name), CHANGED),
        name=explainer.name,
        batch_rows=explainer.batch_rows,
        memory_budget=explainer.memory_budget,
        gates=explainer.gates,
    )
    made.weights_source, made.code = explainer.weights_source, explainer.code
    return made


def _is_number(given: object) -> bool:
    return isinstance(given, int | float | np.number | Tensor) and not isinstance(given, bool)


def _level(explainer: Explainer, meaning: Meaning | None, against: int) -> float | None:
    """Where a number means something else; None where there is no such place."""
    if meaning is None:
        return 0.0 if against >= 0 else None
    choice, output = meaning.choice, explainer.outputs.output
    if choice.get("kind") == "box" and "rather_than" not in choice and isinstance(output, Boxes):
        return output.threshold
    differs = "against" in choice or "rather_than" in choice
    ranks = choice.get("kind") == "similarity" and "length" not in choice
    return 0.0 if differs or ranks else None
