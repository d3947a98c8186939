"""guid-Xmage's own contributions."""

from __future__ import annotations

from torch import Tensor

from guidxmage.evaluation.subject import Subject


def contributions(subject: Subject, image: Tensor, target: int, seed: int) -> Tensor:
    """A, (C, H, W)."""
    found: Tensor = subject.explainer.explain(image[0], target).contributions
    return found
