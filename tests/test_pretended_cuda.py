"""The ways that the engine takes on a GPU: the same numbers, and nothing that waits for it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from guidxmage.engine.capture.capture import capture
from guidxmage.engine.program.program import Program
from guidxmage.engine.program.steps import Pulled, Recording
from guidxmage.engine.symbolic import pull_targets
from guidxmage.models.torchvision_import import import_torchvision
from tests.networks import SMALL_INPUTS, SMALL_NETWORKS, network, photo_batch
from tests.pretend_cuda import (
    CUDA,
    Pretended,
    WaitingError,
    here,
    no_waiting,
    pretended,
    there,
    waits,
)
from tests.test_gates import CASES, IMAGE, tiny_vit

# --- the device that is not there ----------------------------------------------------------------


WAITING: dict[str, Callable[[Tensor], Any]] = {
    "item": lambda x: x.sum().item(),
    "float": lambda x: float(x[0, 0]),
    "int": lambda x: int(x.long()[0, 0]),
    "if": lambda x: bool((x > 0).any()),
    "tolist": lambda x: x.tolist(),
    "cpu": lambda x: x.cpu(),
    "to": lambda x: x.to("cpu", torch.float64),
    "copy from here": lambda x: x.copy_(torch.ones(2, 3)),
    "copy to here": lambda x: torch.ones(2, 3).copy_(x),
    "tensor": lambda x: torch.tensor([1.0, 2.0], device=x.device),
    "as_tensor": lambda x: torch.as_tensor(2.0, device=x.device),
    "new_tensor": lambda x: x.new_tensor([1.0, 2.0]),
    "nonzero": lambda x: x.nonzero(),
    "where": lambda x: torch.where(x > 0),
    "masked_select": lambda x: x.masked_select(x > 0),
    "by a mask": lambda x: x[x > 0],
    "to a mask": lambda x: x.__setitem__(x > 0, x[0, 0]),
    "by numbers of the host": lambda x: x[torch.tensor([0, 1])],
    "unique": lambda x: x.unique(),
    "bincount": lambda x: x.abs().long().flatten().bincount(),
    "equal": lambda x: torch.equal(x, x + 1),
    "repeated by numbers": lambda x: x[:, 0].repeat_interleave(x[:, 0].long()),
}


@pytest.mark.parametrize("name", WAITING)
def test_what_waits_is_seen(name: str) -> None:
    x = there(torch.tensor([[1.0, -2.0, 3.0], [2.0, 5.0, 0.5]]))
    with pretended():
        WAITING[name](x)
        with no_waiting(), pytest.raises(WaitingError):
            WAITING[name](x)


def test_what_does_not_wait() -> None:
    host = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    x = there(host)
    with pretended(), no_waiting():
        assert (x.device, x.is_cpu, x.is_cuda, x.device.type) == (CUDA, False, True, "cuda")
        made = [
            (x * 2.0 + 1, host * 2.0 + 1),
            (x.new_zeros(3), torch.zeros(3)),
            (torch.full((2,), 1.5, device=x.device), torch.full((2,), 1.5)),
            (torch.where(x > 0.5, x, 0.0), torch.where(host > 0.5, host, 0.0)),
            (
                torch.cat([x, x], 1).sum((2, 3)).double(),
                torch.cat([host] * 2, 1).sum((2, 3)).double(),
            ),
        ]
        last = x.contiguous(memory_format=torch.channels_last)
        assert last.is_contiguous(memory_format=torch.channels_last)
        assert not last.is_contiguous()
        view = last[:, 1:]
        assert view.untyped_storage().data_ptr() == last.untyped_storage().data_ptr()
        assert view.mul_(0) is view
        kept = x[0]
        assert torch.add(x[0], 1, out=kept) is kept
    assert all(torch.equal(here(one), other) for one, other in made)
    assert not bool(here(last)[:, 1:].any())
    assert isinstance(kept, Pretended)
    assert not torch.equal(here(kept), host[0] - 1)


# --- the engine there ----------------------------------------------------------------------------


def dense() -> nn.Module:
    return import_torchvision().models.DenseNet(8, (2, 3, 2), 16, num_classes=10)


def block() -> nn.Module:
    """A block of ConvNeXt in miniature: GELU, layer-norm, depthwise convolution."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.depthwise = (
                nn.Conv2d(3, 8, 4, 4),
                nn.Conv2d(8, 8, 3, padding=1, groups=8),
            )
            self.norm, self.wide, self.narrow = nn.LayerNorm(8), nn.Linear(8, 32), nn.Linear(32, 8)
            self.head = nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
            y = self.narrow(nn.functional.gelu(self.wide(y))).permute(0, 3, 1, 2)
            return self.head((x + y).mean((2, 3)))

    return Block()


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return make().eval()


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    # With dropout, overlapping pools, and an adaptive pool that is transposed by autograd.
    "alexnet": (lambda: network("alexnet"), 96),
    "resnet18": (lambda: network("resnet18"), 64),
    "densenet": (lambda: seeded(dense), 64),
    "efficientnet_lite0": (lambda: network("efficientnet_lite0"), 64),  # ReLU6
    "squeezenet1_0": (lambda: network("squeezenet1_0"), 96),  # pools with ceil_mode
    "vit": (lambda: seeded(tiny_vit), 32),
    "block": (lambda: seeded(block), 32),
}


@cache
def modelled(name: str) -> tuple[nn.Module, Program]:
    """A network, and its program on the CPU."""
    make, size = NETWORKS[name]
    model = make()
    return model, capture(model, (3, size, size))


def explained(program: Program, X: Tensor, cotangent: Tensor) -> tuple[Recording, Pulled]:
    recording = program.record(X)
    return recording, pull_targets(program, recording.trail, cotangent, recording.norms)


def agree(program: Program, X: Tensor, relative: float) -> None:
    """The pretended GPU gives what the CPU gives, and waits for nothing in its second run."""
    X = X if program.batched else X[:1]
    logits = program.record(X).logits
    best = logits.topk(min(3, logits.shape[1])).indices.t()
    cotangent = nn.functional.one_hot(best, logits.shape[1]).to(logits.dtype)
    recording, pulled = explained(program, X, cotangent)
    with pretended():
        given = there(program), there(X), there(cotangent)
        explained(*given)
        with no_waiting():
            found = explained(*given)
    assert isinstance(found[1].weights, Pretended)
    trail = found[0].trail
    assert list(trail) == list(recording.trail)
    for site, entry in recording.trail.items():
        planes = zip(entry.planes, here(trail[site].planes), strict=True)
        assert all(torch.equal(mine, theirs) for mine, theirs in planes), site
    assert list(found[1].bias_by_site) == list(pulled.bias_by_site)
    pairs = [
        (found[0].logits, recording.logits),
        (found[1].weights, pulled.weights),
        (found[1].variance, pulled.variance),
    ]
    if pulled.bias_by_site:
        both = (found[1].bias_by_site, pulled.bias_by_site)
        pairs.append(tuple(torch.stack(list(here(own).values())) for own in both))
    for site, gate in recording.trail.gates.items():
        pairs += zip(trail.gates[site].planes, gate.planes, strict=True)
    for one, other in pairs:
        size = max(float(other.abs().max()), 1e-30)
        assert float((here(one) - other).abs().max()) <= relative * size


@pytest.mark.parametrize("name", NETWORKS)
def test_networks(name: str) -> None:
    agree(modelled(name)[1], photo_batch(2, NETWORKS[name][1]), 1e-5)


@pytest.mark.parametrize("name", SMALL_NETWORKS)
def test_small_networks(name: str) -> None:
    shape = SMALL_INPUTS.get(name, (3, 16, 16))
    X = torch.rand(2, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    agree(capture(SMALL_NETWORKS[name]().double(), shape), X, 1e-12)


@pytest.mark.parametrize(
    "name",
    ["gelu", "sigmoid", "exp", "layer_norm", "group_norm", "product", "gated", "quotient",
     "matmul", "attention", "attention masked", "windows", "hardsigmoid"],
)  # fmt: skip
def test_smooth_operators(name: str) -> None:
    X = torch.randn(2, *IMAGE, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    agree(capture(CASES[name].double().eval(), IMAGE), X, 1e-12)


def test_the_first_run_waits_and_is_seen_to() -> None:
    """Constants are brought to the device, and measured there, when they are used first."""
    program = capture(SMALL_NETWORKS["batch_norm_after"](), (3, 16, 16))
    with pretended(), waits() as seen:
        moved, X = there(program), there(torch.rand(1, 3, 16, 16))
        recording = moved.record(X)
        moved.pull(recording.trail, there(torch.eye(5)[:1]), recording.norms)
        first = len(seen)
        moved.pull(recording.trail, there(torch.eye(5)[:1]), recording.norms)
    assert 0 < first == len(seen)
