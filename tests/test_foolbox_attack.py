"""The attack in foolbox's own harness."""

from __future__ import annotations

import foolbox
import pytest
import torch
from torch import Tensor, nn

from guidxmage import InputError
from guidxmage.adversarial import attack
from guidxmage.interfaces.foolbox import RegionAttack


@pytest.fixture(scope="module")
def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 36, 4)
        ).eval()


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def test_it_gives_what_the_plain_function_gives(network: nn.Module, images: Tensor) -> None:
    model = foolbox.PyTorchModel(network, bounds=(0, 1), device="cpu")
    labels = network(images).argmax(1)
    raw, clipped, success = RegionAttack("l2", budget=20)(model, images, labels, epsilons=None)
    assert success.all()
    plain = attack(network, images, labels, budget=20)
    assert torch.allclose(raw, plain.adversarial, atol=1e-5)
    assert torch.equal(raw, clipped)
    none, _, reached = RegionAttack("l2", budget=20)(
        model, images, labels, epsilons=float(plain.norm.min()) / 2
    )
    assert not reached.any()
    assert len(none) == 4


def test_bounds_and_preprocessing_are_part_of_the_network(
    network: nn.Module, images: Tensor
) -> None:
    preprocessing = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4], "axis": -3, "flip_axis": -3}
    model = foolbox.PyTorchModel(
        network, bounds=(0, 255), device="cpu", preprocessing=preprocessing
    )
    wide = images * 255
    labels = model(wide).argmax(1)
    raw, _, success = RegionAttack("linf", budget=20)(model, wide, labels, epsilons=None)
    assert success.all()
    assert (model(raw).argmax(1) != labels).all()


def test_targets(network: nn.Module, images: Tensor) -> None:
    model = foolbox.PyTorchModel(network, bounds=(0, 1), device="cpu")
    wanted = (network(images).argmax(1) + 1) % 4
    criterion = foolbox.criteria.TargetedMisclassification(wanted)
    raw, _, success = RegionAttack(budget=60)(model, images, criterion, epsilons=None)
    assert torch.equal(network(raw).argmax(1)[success], wanted[success])
    assert success.any()


def test_what_it_cannot_attack_is_refused(network: nn.Module, images: Tensor) -> None:
    with pytest.raises(InputError, match="norm 'erase' is unknown"):
        RegionAttack("erase")
    model = foolbox.PyTorchModel(network, bounds=(0, 1), device="cpu")
    wrapped = foolbox.models.TransformBoundsWrapper(model, bounds=(0, 1))
    labels = torch.zeros(4, dtype=torch.long)
    with pytest.raises(InputError, match=r"PyTorchModel is expected, not TransformBoundsWrapper"):
        RegionAttack()(wrapped, images, labels, epsilons=None)
    with pytest.raises(InputError, match="takes no steps"):
        RegionAttack()(model, images, labels, epsilons=None, steps=3)
