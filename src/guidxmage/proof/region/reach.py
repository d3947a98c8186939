"""How far the region of an image reaches in a few directions that mean something: exactly."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from math import inf
from typing import Any

import torch
from torch import Tensor

from guidxmage.attribution.attribution import Attribution
from guidxmage.engine.program.precision import widened
from guidxmage.errors import InputError


@dataclass(frozen=True)
class Reach:
    """Along one direction, the distance from the image to where the first decision flips.

    l2, linf: in the explained space; inf where none ever flips. site, position: the decision's.
    """

    direction: str
    l2: float
    linf: float
    site: str
    position: tuple[int, ...]

    def __str__(self) -> str:
        if self.l2 == inf:
            return f"{self.direction}: no decision ever flips"
        where = f" ({self.site} at {list(self.position)})"
        return f"{self.direction}: L2 {self.l2:.3g}, L∞ {self.linf:.3g}{where}"

    def to_json(self) -> dict[str, Any]:
        """As JSON values; infinite distances are null."""
        return {key: None if value == inf else value for key, value in asdict(self).items()}


def directions(explanation: Attribution) -> dict[str, Tensor]:
    """Towards black and white, or zero where the explained space is no pixels; along Δ and −Δ."""
    X, weights = explanation.input.double(), explanation.weights.double()
    if explanation.space == "pixels":
        found = {"towards black": -X, "towards white": 1 - X}
    else:
        found = {"towards zero": -X}
    return {**found, "score up, along Δ": weights, "score down, along −Δ": -weights}


def reaches(explanation: Attribution, ways: dict[str, Tensor] | None = None) -> list[Reach]:
    """The reach in each direction (C, H, W), by default those of `directions`, in float64.

    Raises InputError for a batch, several targets, a photo's own space and explanations without
    their network; UnsupportedOperatorError for networks without regions.
    """
    if explanation.batched or explanation.several or explanation.space == "photo":
        raise InputError("a reach is that of one image and target, in pixels or network input")
    model = explanation.symbolic_model
    if model.network is None:
        raise InputError(
            "load the explanation with its explainer to ask how far its region reaches"
        )
    wide = replace(
        model,
        network=replace(model.network, program=widened(model.network.program)),
        input=explanation.input.double(),
    )
    chosen = directions(explanation) if ways is None else ways
    found = []
    for name, way in chosen.items():
        step = wide.step_length(way.double())
        assert not isinstance(step, tuple)
        # A decision that float64 takes otherwise lies behind the image: no reach at all.
        length = max(step.length, 0.0)
        l2, linf = (float(torch.linalg.vector_norm(way.double(), p)) for p in (2, inf))
        found.append(
            Reach(
                name,
                length * l2 if l2 else inf,
                length * linf if linf else inf,
                step.site or "",
                tuple(step.position or ()),
            )
        )
    return found
