"""Small piecewise-linear networks drawn from a seed, and images for them at many scales."""

from __future__ import annotations

import random

import torch
from torch import Tensor, nn


class Residual(nn.Module):
    """What comes in, added to a normed convolution of it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.norm(self.conv(x)).relu()


class Difference(nn.Module):
    """Two convolutions that nearly cancel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(channels, channels, 1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.first(x) - self.second(x) * 0.9


class Cancelled(nn.Module):
    """A large number taken from itself."""

    def forward(self, x: Tensor) -> Tensor:
        return x - torch.relu(x - 0.2)


class Stacked(nn.Module):
    """Two values of one image along a dimension of their own, before all others."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(channels, channels, 1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.first(x), self.second(x)]).relu().sum(0)


def random_network(seed: int, dtype: torch.dtype) -> tuple[nn.Module, Tensor]:
    """A network and one image (C, H, W) of it."""
    draw = random.Random(seed)
    torch.manual_seed(seed)
    channels = first = draw.choice([1, 2, 3])
    size = side = draw.choice([6, 8, 11])
    layers: list[nn.Module] = []
    for _ in range(draw.randint(1, 7)):
        made, channels, size = _layer(draw, channels, size)
        layers += made
    if draw.random() < 0.4:
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 4)]
    else:
        hidden = nn.Linear(channels * size * size, 16)
        layers += [nn.Flatten(), hidden, nn.ReLU(), nn.Linear(16, 4)]
    network = nn.Sequential(*layers)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_mean, module.weight.data, module.bias.data):
                assert tensor is not None
                tensor.normal_()
            assert module.running_var is not None
            module.running_var.uniform_(0.1, 2)
    scale = draw.choice([1, 1, 1, 1e4, 1e-3, 255])
    return network.eval().to(dtype), (torch.randn(first, side, side) * scale).to(dtype)


def _layer(draw: random.Random, channels: int, size: int) -> tuple[list[nn.Module], int, int]:
    """Some layer for values of that many channels and positions, and what comes out of it."""
    kind = draw.randrange(14)
    if kind < 3 and size >= 4:
        out, kernel, stride = draw.choice([2, 4, 8]), draw.choice([1, 3]), draw.choice([1, 1, 2])
        bias = draw.random() < 0.8
        conv = nn.Conv2d(channels, out, kernel, stride, kernel // 2, bias=bias)
        return [conv], out, (size + 2 * (kernel // 2) - kernel) // stride + 1
    if kind == 3 and size >= 4:
        return [nn.MaxPool2d(3, 2, 1)], channels, (size - 1) // 2 + 1
    if kind == 4 and size >= 4:
        return [nn.AvgPool2d(3, 2, 1, count_include_pad=False)], channels, (size - 1) // 2 + 1
    others: list[nn.Module] = [
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.LeakyReLU(0.1),
        nn.Hardtanh(-0.7, 0.9),
        nn.PReLU(channels),
        Residual(channels),
        Difference(channels),
        Cancelled(),
        Stacked(channels),
        nn.Conv2d(channels, channels, 3, padding=1, groups=channels),
    ]
    return [draw.choice(others)], channels, size
