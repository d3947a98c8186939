"""Tiny classifiers trained on noisy blobs, so that their minima mean something."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from guidxmage import Explainer


def trained_on_blobs(make: Callable[[], nn.Module], side: int) -> tuple[Explainer, Tensor]:
    """What `make` builds for (1, side, side) and 4 classes, trained; images that it gets right.

    Both in float64, the images in [0, 1].
    """
    generator = torch.Generator().manual_seed(0)
    centres = torch.rand(4, 1, side, side, generator=generator)
    y = torch.randint(0, 4, (400,), generator=generator)
    noise = torch.randn(400, 1, side, side, generator=generator)
    x = (centres[y] * 0.5 + 0.25 + 0.25 * noise).clamp(0, 1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make()
        optimiser = torch.optim.Adam(model.parameters(), 1e-2)
        for _ in range(150):
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimiser.step()
    model = model.eval().requires_grad_(False)
    return Explainer(model, dtype=torch.float64), x[model(x).argmax(1) == y].double()
