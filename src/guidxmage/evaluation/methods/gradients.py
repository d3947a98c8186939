"""Gradient methods through Captum."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from guidxmage.evaluation.subject import Subject

STEPS = 32
"""Of integrated gradients."""


def captum(name: str, **options: object) -> Callable[[Subject, Tensor, int, int], Tensor]:
    """The method that Captum calls `name`; maps (C, H, W). The baseline, if any, is black."""
    return partial(_captum, name, options)


def _captum(  # noqa: PLR0917
    name: str,
    options: dict[str, object],
    subject: Subject,
    image: Tensor,
    target: int,
    seed: int,
) -> Tensor:
    import captum.attr

    method = getattr(captum.attr, name)(subject.whole)
    with torch.enable_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Captum announces its own hooks
        found = method.attribute(image.clone().requires_grad_(), target=target, **options)
    attributed: Tensor = found[0]
    return attributed
