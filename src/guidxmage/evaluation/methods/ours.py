"""guid-Xmage's own contributions."""

from __future__ import annotations

from torch import Tensor

from guidxmage.evaluation.subject import Subject


def contributions(subject: Subject, image: Tensor, target: int, seed: int) -> Tensor:
    """A from black, (C, H, W)."""
    # The protocol attenuates pixels towards 0 of the explained space, so A is counted from there.
    found: Tensor = subject.explainer.explain(image[0], target, reference=0.0).contributions
    return found
