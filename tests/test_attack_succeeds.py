"""On tiny networks the attack finds a sample wherever one is certified to exist."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from guidxmage.adversarial import attack, certify

# With these the search alone ends on the near side: samples are rare, or every unit is off.
RARE = (29, 47, 56, 60, 75, 109, 115, 160, 165, 166, 180, 190)


def tiny(seed: int) -> tuple[nn.Module, Tensor]:
    """A random network of some ReLUs in float64, not trained, and an image."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers: list[list[nn.Module]] = [
            [nn.Conv2d(1, 2, 3), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3)],
            [
                nn.Flatten(),
                nn.Linear(36, 6),
                nn.ReLU(),
                nn.Linear(6, 5),
                nn.ReLU(),
                nn.Linear(5, 3),
            ],
            [
                *(nn.Conv2d(1, 2, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 6)),
                *(nn.ReLU(), nn.Linear(6, 2)),
            ],
            [nn.Conv2d(1, 2, 3, 2), nn.ReLU6(), nn.Flatten(), nn.Linear(8, 4)],
            [
                *(nn.Conv2d(1, 1, 3), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(4, 4)),
                *(nn.ReLU(), nn.Linear(4, 3)),
            ],
        ]
        # All are drawn, so that a seed gives the same network whatever its kind.
        torch.manual_seed(seed)
        network = nn.Sequential(*_drawn(layers[seed % len(layers)])).double().eval()
        return network, torch.rand(1, 1, 6, 6, dtype=torch.float64)


def _drawn(layers: list[nn.Module]) -> list[nn.Module]:
    for layer in layers:
        if hasattr(layer, "reset_parameters"):
            layer.reset_parameters()
    return layers


@pytest.mark.parametrize("seed", [*RARE, *range(0, 40, 3)])
def test_a_sample_is_found_where_one_exists(seed: int) -> None:
    network, x = tiny(seed)
    result = attack(network, x, budget=100)
    if not bool(result.success[0]):
        exact = certify(network, x, seconds=20)
        assert exact.proved
        assert exact.adversarial is None
    else:
        assert int(network(result.adversarial).argmax()) != int(network(x).argmax())
