"""The networks for 32×32 images: accepted by the explainer, decided by the seed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from guidxmage import Explainer
from guidxmage.errors import InputError
from guidxmage.hardening.training.networks import MEAN, STD, Normalise, build, names


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("name", ["alexnet", "resnet20", "resnet18", "densenet22", "densenet40"])
def test_the_explainer_takes_each(name: str) -> None:
    assert name in names()
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)).double()
    network = build(name, 7, seed=1).eval()
    found = Explainer(network, dtype=torch.float64).explain(x)
    assert found.logits.shape == (2, 7)
    assert found.score.abs().min() > 1e-3
    assert (found.residual.abs() <= found.residual_bound).all()
    assert found.residual.abs().max() < 1e-9


def test_sizes() -> None:
    # He et al. 2016, table 6: 0.27 million for 20 layers.
    assert 265_000 < parameters(build("resnet20", 10, seed=0)) < 275_000
    # Huang et al. 2017, DenseNet-BC, 40 layers, growth 12: 0.18 million.
    assert 170_000 < parameters(build("densenet40", 10, seed=0)) < 185_000
    assert 11_170_000 < parameters(build("resnet18", 10, seed=0)) < 11_180_000
    for name, layers in (("alexnet", 8), ("resnet20", 20), ("densenet22", 22), ("densenet40", 40)):
        network = build(name, 10, seed=0)
        assert sum(isinstance(m, nn.Conv2d | nn.Linear) for m in network.modules()) == layers


@pytest.mark.parametrize("name", ["alexnet", "resnet20", "densenet40"])
def test_width(name: str) -> None:
    small, usual = (build(name, 4, width=width, seed=0) for width in (0.25, 1.0))
    assert parameters(small) < parameters(usual) / 8
    assert small(torch.rand(2, 3, 32, 32)).shape == (2, 4)


def test_the_seed_decides_and_nothing_else() -> None:
    torch.manual_seed(4)
    before = torch.get_rng_state()
    one = build("resnet20", 10, seed=3).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(5)
    two, other = (build("resnet20", 10, seed=seed).state_dict() for seed in (3, 4))
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert not torch.equal(one["body.0.weight"], other["body.0.weight"])


def test_normalisation() -> None:
    x = torch.rand(2, 3, 4, 4)
    found = Normalise(MEAN, STD)(x)
    for channel in range(3):
        expected = (x[:, channel] - MEAN[channel]) / STD[channel]
        assert torch.allclose(found[:, channel], expected)
    with pytest.raises(InputError, match="positive standard deviation"):
        Normalise((0.5,), (0.0,))


def test_own_networks(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from torch import nn\n"
        "def tiny(classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(3072, classes))\n"
        "def wrong(classes):\n"
        "    return classes\n"
    )
    network = build(f"{file}:tiny", 5, seed=1)
    assert network(torch.rand(2, 3, 32, 32)).shape == (2, 5)
    again = build(f"{file}:tiny", 5, seed=1)
    assert torch.equal(network[1].weight, again[1].weight)
    with pytest.raises(InputError, match=r"returned a int where an nn\.Module is expected"):
        build(f"{file}:wrong", 5, seed=1)
    with pytest.raises(InputError, match="no width to choose"):
        build(f"{file}:tiny", 5, width=2, seed=1)
    with pytest.raises(InputError, match="there is no Python file"):
        build(f"{tmp_path / 'absent.py'}:tiny", 5, seed=1)


def test_what_there_is_not() -> None:
    with pytest.raises(InputError, match=r"there is no network 'vgg'; choose one of alexnet,"):
        build("vgg", 10, seed=0)
    with pytest.raises(InputError, match="resnet18 has no width"):
        build("resnet18", 10, width=0.5, seed=0)
    with pytest.raises(InputError, match="at least 2 classes"):
        build("alexnet", 1, seed=0)
    with pytest.raises(InputError, match="width is a positive factor"):
        build("alexnet", 10, width=0, seed=0)
