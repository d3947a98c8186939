"""Contributions as an `explain_func` for Quantus; Quantus is not needed."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from guidxmage.errors import InputError
from guidxmage.inputs.input_space import dtype_and_device
from guidxmage.interfaces.captum import ExactContributions


def explain_func(
    model: nn.Module,
    inputs: npt.NDArray[Any],
    targets: npt.NDArray[Any],
    *,
    baselines: Any = None,
    attribution: ExactContributions | None = None,
    device: Any = None,  # noqa: ARG001
) -> npt.NDArray[Any]:
    """Contributions of the inputs' shape (B, C, H, W) to the scores of targets (B,).

    baselines: the reference R. attribution: one made for `model`, to capture it only once for many
    calls (`explain_func_kwargs={"attribution": ExactContributions(model)}`); copies of the model
    that a metric makes are captured anew. device: accepted because Quantus passes it; the model is
    explained where it is. Raises InputError where `attribute` does.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"a torch.nn.Module is expected, not {type(model).__name__}")
    dtype, place = dtype_and_device(model)
    images = torch.as_tensor(np.asarray(inputs)).to(place, dtype)
    chosen = torch.as_tensor(np.asarray(targets)).to(torch.int64).reshape(-1)
    if attribution is None or attribution.model is not model:
        attribution = ExactContributions(model)
    found: npt.NDArray[Any] = (
        attribution.attribute(images, chosen, baselines=baselines).cpu().numpy()
    )
    return found
