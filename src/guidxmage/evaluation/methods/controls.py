"""Maps that know nothing of the network, which every measure has to tell from the others."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from guidxmage.evaluation.subject import Subject

_SOBEL = ((-1.0, 0.0, 1.0), (-2.0, 0.0, 2.0), (-1.0, 0.0, 1.0))


def random_map(subject: Subject, image: Tensor, target: int, seed: int) -> Tensor:
    """Independent normal values, (H, W)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(image.shape[2:], generator=generator, dtype=torch.float64)


def centre(subject: Subject, image: Tensor, target: int, seed: int) -> Tensor:
    """High in the middle: a Gaussian of a quarter of each side, 0–1, (H, W)."""
    lines = [torch.linspace(-2, 2, n, dtype=torch.float64) for n in image.shape[2:]]
    tall, wide = (torch.exp(-line.square() / 2) for line in lines)
    return tall[:, None] * wide


def edges(subject: Subject, image: Tensor, target: int, seed: int) -> Tensor:
    """The magnitude of Sobel's gradient of the grey image, 0–1, (H, W)."""
    grey = image.double().mean(1, keepdim=True)
    across = torch.tensor(_SOBEL, dtype=torch.float64)
    kernels = torch.stack([across, across.t()])[:, None]
    padded = F.pad(grey, (1, 1, 1, 1), mode="replicate")
    strength: Tensor = F.conv2d(padded, kernels).norm(dim=1)[0]
    return strength / strength.max().clamp_min(1e-30)
