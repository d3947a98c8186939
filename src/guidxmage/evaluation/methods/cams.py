"""Class activation maps through pytorch-grad-cam, at the last feature map."""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from typing import Any

import torch
from torch import Tensor

from guidxmage.errors import InputError
from guidxmage.evaluation.subject import Subject
from guidxmage.models.torchvision_import import import_torchvision

_BATCH = 32


def cam(name: str) -> Callable[[Subject, Tensor, int, int], Tensor]:
    """The method that pytorch-grad-cam calls `name`; its maps (H, W) lie in 0–1."""
    return partial(_cam, name)


def _cam(name: str, subject: Subject, image: Tensor, target: int, seed: int) -> Tensor:
    import_torchvision()  # grad-cam's own import of it fails where it cannot be loaded plainly
    import pytorch_grad_cam
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    if not subject.layer:
        raise InputError("the network has no convolution whose maps could be shown")
    network = subject.whole.network
    layer = network.get_submodule(subject.layer)
    make: Any = getattr(pytorch_grad_cam, name)
    # Score-CAM draws a progress bar of its own, FullGrad says that it looks at every layer.
    silent = io.StringIO()
    with (
        redirect_stderr(silent),
        redirect_stdout(silent),
        make(model=network, target_layers=[layer]) as method,
        torch.enable_grad(),
    ):
        method.batch_size = _BATCH
        # Nothing but the input needs a gradient for one to flow through the layer.
        given = subject.whole.to_input(image).requires_grad_()
        found = method(given, [ClassifierOutputTarget(target)])
    return torch.from_numpy(found[0])
