"""On tiny networks the attack ends at the certified minimum."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from guidxmage.adversarial import attack, certify
from tests.blobs import trained_on_blobs


class _Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.inner = nn.Conv2d(1, 2, 3, 2), nn.Conv2d(2, 2, 3, padding=1)
        self.around, self.last, self.head = nn.Conv2d(2, 2, 1), nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        h = (self.around(self.inner(h).relu()) + h).relu()
        logits: Tensor = self.head(self.last(h.flatten(1)).relu())
        return logits


def _dense() -> nn.Module:
    layers = nn.Linear(36, 16), nn.ReLU(), nn.Linear(16, 14), nn.ReLU(), nn.Linear(14, 4)
    return nn.Sequential(nn.Flatten(), *layers)


def _conv() -> nn.Module:
    first = nn.Conv2d(1, 4, 3, 2), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten()
    return nn.Sequential(*first, nn.Linear(16, 14), nn.ReLU(), nn.Linear(14, 4))


def _pooled() -> nn.Module:
    first = nn.Conv2d(1, 1, 3), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten()
    return nn.Sequential(*first, nn.Linear(4, 14), nn.ReLU(), nn.Linear(14, 4))


# Each with at most 30 ReLUs, a max-pool of four counted as three.
TINY: tuple[Callable[[], nn.Module], ...] = (_dense, _conv, _pooled, _Residual)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_the_attack_finds_the_certified_optimum(norm: str) -> None:
    excess = []
    for make in TINY:
        explainer, images = trained_on_blobs(make, 6)
        X = images[:10]
        found = attack(explainer, X, norm=norm, budget=300)
        for row, one in enumerate(X):
            best = certify(explainer, one, norm=norm, upper=found.adversarial[row])
            assert best.proved
            assert best.relus <= 30
            excess.append(float(found.norm[row]) / best.size - 1)
    share = torch.tensor(excess)
    assert bool((share > -1e-6).all())  # nothing is below what is proved
    assert (share <= 1e-4).double().mean() >= 0.9, share
