"""guid-Xmage's whole map, the network cut at a depth: all but nothing of the score is on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from guidxmage.attribution.depths import Depth, chosen, every_stride
from guidxmage.engine.program.program import Program
from guidxmage.evaluation.methods.method import Attribute
from guidxmage.evaluation.subject import Subject

LAST = "last"


def whole_map(depth: Any) -> Attribute:
    """The whole map (H, W) as it is, not drawn through a Gaussian; "last" is the last cut."""

    def attribute(subject: Subject, image: Tensor, target: int, seed: int) -> Tensor:
        cut = _depth(_program(subject, image.shape[1:]), depth)
        found: Tensor = subject.explainer.explain(image[0], target, depth=cut.site).whole
        return found

    return attribute


def sigma_of(depth: Any) -> Callable[[Subject, tuple[int, ...]], float]:
    """Of the Gaussian that the map is drawn through, in pixels, for images (C, H, W)."""

    def sigma(subject: Subject, shape: tuple[int, ...]) -> float:
        return _depth(_program(subject, shape), depth).sigma

    return sigma


def _program(subject: Subject, shape: tuple[int, ...]) -> Program:
    return subject.explainer.network(shape).program


def _depth(program: Program, depth: Any) -> Depth:
    cut = every_stride(program)[-1] if depth == LAST else chosen(program, depth)[0]
    return cut.depth
