"""Random networks that behave like trained ones: batch-norm statistics from natural-like images."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from guidxmage.errors import InputError


def natural_like_images(
    count: int, size: int, generator: torch.Generator, channels: int = 3
) -> Tensor:
    """Images (count, channels, size, size), values in [0, 1], with the 1/f spectrum of photos.

    Mean and contrast are those of ImageNet (0.45 and 0.25); the channels are correlated.
    """
    white = torch.randn(count, channels, size, size, generator=generator)
    # Photos are mostly grey: what the channels share outweighs what they do not.
    white = 0.4 * white + white.mean(1, keepdim=True) * math.sqrt(channels)
    rows, columns = torch.fft.fftfreq(size)[:, None], torch.fft.rfftfreq(size)
    frequency = (rows.square() + columns.square()).sqrt()
    spectrum = torch.fft.rfft2(white) / frequency.clamp(min=1 / size)
    pixels = torch.fft.irfft2(spectrum, s=(size, size))
    pixels = (pixels - pixels.mean((1, 2, 3), keepdim=True)) / pixels.std((1, 2, 3), keepdim=True)
    images: Tensor = (0.45 + 0.25 * pixels).clamp(0, 1)
    return images


def calibrate_batch_norm(model: nn.Module, images: Tensor) -> None:
    """Set the running statistics of every batch-norm to those of these images.

    ``images``: at least two network inputs (B, C, H, W). One forward pass, in which batch-norm
    alone is in training mode (each layer sees what the calibrated layers before it give) and
    dropout is off. Weights, RNG and the modes of the model's modules stay as they were.
    Raises InputError for fewer images, which have no variance to speak of.
    """
    if len(images) < 2:
        raise InputError(f"batch-norm is calibrated with two images or more, not {len(images)}")
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if not norms:
        return
    modes = {module: module.training for module in model.modules()}
    momenta = [norm.momentum for norm in norms]
    try:
        model.eval()
        for norm in norms:
            norm.train()
            norm.reset_running_stats()
            norm.momentum = None  # the plain average of all batches seen
        with torch.no_grad():
            model(images)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, training in modes.items():
            module.training = training


def vary_weights(model: nn.Module, generator: torch.Generator) -> None:
    """Move freshly drawn weights to where the image matters as it does after training.

    Batch-norm weights are spread around 1 and biases around 0 (±10 %). In networks without any
    normalisation, whose usual initial weights let the image fade from layer to layer, convolutions
    and linear layers are drawn anew as He et al. (2015) propose. Layers, norms and layer scales
    that begin at zero or near it, and would hide what they scale, are drawn anew, too.
    """
    modules = list(model.modules())
    norms = [m for m in modules if isinstance(m, _BatchNorm) and m.affine]
    with torch.no_grad():
        for norm in norms:
            for tensor in (norm.weight, norm.bias):
                tensor.add_(0.1 * torch.randn(tensor.shape, generator=generator))
        if not any(isinstance(m, _BatchNorm | nn.LayerNorm | nn.GroupNorm) for m in modules):
            for layer in modules:
                if isinstance(layer, nn.Conv2d | nn.Linear):
                    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
        _wake(modules, generator)


# Layer scales begin at 1e-6 to 1e-2.
_INERT = 0.011


def _wake(modules: list[nn.Module], generator: torch.Generator) -> None:
    """Give weights to what lets nothing through at first."""

    def drawn(tensor: Tensor, mean: float, deviation: float) -> None:
        tensor.copy_(mean + deviation * torch.randn(tensor.shape, generator=generator))

    for module in modules:
        for name, tensor in module.named_parameters(recurse=False):
            if "bias" in name or not tensor.numel() or float(tensor.abs().max()) > _INERT:
                continue
            if isinstance(module, nn.Conv2d | nn.Linear):
                drawn(tensor, 0.0, tensor[0].numel() ** -0.5)
            elif isinstance(module, nn.LayerNorm | nn.GroupNorm):
                drawn(tensor, 1.0, 0.1)
            elif bool((tensor == tensor.flatten()[0]).all()):
                drawn(tensor, 0.3, 0.1)
