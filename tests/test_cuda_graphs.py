"""The engine's ways on a GPU, and explanations by CUDA graphs, on a device that is pretended."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn

from guidxmage import Explainer, InputError
from guidxmage.engine.capture.capture import capture
from guidxmage.engine.cuda import graphs
from guidxmage.engine.cuda.graphs import Graphed, Graphs
from guidxmage.engine.program.program import Program
from guidxmage.engine.program.steps import Pulled, Recording
from tests.networks import SMALL_INPUTS, SMALL_NETWORKS, network, photo_batch
from tests.pretend_cuda import Cuda, Pretended, WaitingError, here, pretended, there
from tests.test_gates import CASES, IMAGE, tiny_vit

KIND = "batch_norm_before"


@pytest.fixture(autouse=True)
def device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "cuda", Cuda)
    monkeypatch.setattr(Cuda, "captures", 0)


# --- programs ------------------------------------------------------------------------------------


def numbers(recording: Recording, pulled: Pulled) -> dict[str, Tensor]:
    """All that a run leaves, as it is now."""
    found = {name: getattr(pulled, name) for name in ("weights", "shares", "variance", "worst")}
    found |= {"logits": recording.logits} | {f"norm {n}": v for n, v in recording.norms.items()}
    for own in (recording.trail, recording.trail.gates):
        for site, entry in own.items():
            found |= {f"{site} {n}": plane for n, plane in enumerate(entry.planes)}
    return {name: value.clone() for name, value in here(found).items()}


def check(program: Program, images: Tensor, relative: float) -> None:
    """Graphs give the bits that the same ways give without one, and the CPU's to rounding."""
    batches = images.split(2 if program.batched else 1)
    cotangent = torch.eye(program.classes, dtype=images.dtype)[-1:].repeat(len(batches[0]), 1)

    def run(runner: Any, X: Tensor, g: Tensor) -> tuple[Recording, Pulled]:
        recording = runner.record(X)
        return recording, runner.pull(recording.trail, g, recording.norms)

    with pretended():
        moved, g = there(program), there(cotangent)
        graphed = Graphed(moved, there(batches[0]))
        found = [run(graphed, there(X), g) for X in batches]
        assert Cuda.captures == 2
        for X, own in zip(batches, found, strict=True):  # the first ones after the last replay
            assert isinstance(own[1].weights, Pretended)
            mine, eager = numbers(*own), numbers(*run(moved, there(X), g))
            assert list(mine) == list(eager)
            assert all(torch.equal(mine[name], value) for name, value in eager.items())
    for X, own in zip(batches, found, strict=True):
        mine, theirs = numbers(*own), numbers(*run(program, X, cotangent))
        for name, other in theirs.items():
            size = float(other.abs().max()) if other.is_floating_point() and other.numel() else 0
            error = (mine[name].double() - other.double()).abs()
            assert bool((error <= max(relative * size, 1e-30)).all()), name


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_lite0", "vit"])
def test_networks(name: str) -> None:
    model, size = (tiny_vit().eval(), 32) if name == "vit" else (network(name), 64)
    check(capture(model, (3, size, size)), photo_batch(4, size), 1e-5)


@pytest.mark.parametrize("name", SMALL_NETWORKS)
def test_small_networks(name: str) -> None:
    shape = SMALL_INPUTS.get(name, (3, 16, 16))
    X = torch.rand(4, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    check(capture(SMALL_NETWORKS[name]().double(), shape), X, 1e-12)


@pytest.mark.parametrize(
    "name", ["gelu", "sigmoid", "exp", "layer_norm", "product", "attention masked", "windows"]
)
def test_smooth_operators(name: str) -> None:
    X = torch.randn(4, *IMAGE, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    check(capture(CASES[name].double().eval(), IMAGE), X, 1e-12)


def test_another_trail_and_what_the_program_forgets() -> None:
    """A pull of an earlier trail needs no graph; a graph holds the constants that it reads."""
    with pretended():
        program = there(capture(SMALL_NETWORKS["constants"](), (3, 16, 16)))
        X, g = there(torch.rand(3, 1, 3, 16, 16)), there(torch.eye(5)[:1])
        graphed = Graphed(program, X[0])
        earlier, latest = graphed.record(X[1]), graphed.record(X[2])
        for one in (latest, earlier, latest):
            pulled = graphed.pull(one.trail, g, one.norms)
            expected = program.pull(one.trail, g, one.norms)
            assert torch.equal(here(pulled.weights), here(expected.weights))
        held = list(map(weakref.ref, program.steps(1)))
        for rows in range(2, 40):
            program.steps(rows)
        assert program.steps(1)[0] is not held[0]() is not None
    assert Cuda.captures == 2


# --- explanations --------------------------------------------------------------------------------


class MovedGraphs(Graphs):
    """Graphs of programs that are moved to the pretended device when they are run."""

    def __init__(self) -> None:
        super().__init__()
        self.moved: dict[int, tuple[Program, Program]] = {}

    def runner(self, program: Program, images: Tensor) -> Program | Graphed:
        _, moved = self.moved.setdefault(id(program), (program, there(program)))
        return super().runner(moved, there(images))


def with_graphs(model: nn.Module) -> Explainer:
    with patch("guidxmage.explainer.Graphs", MovedGraphs):
        explainer = Explainer(model)
    explainer.cuda_graphs = True
    return explainer


@pytest.fixture
def graphed() -> Iterator[Explainer]:
    with pretended():
        yield with_graphs(SMALL_NETWORKS[KIND]())


def same(explainer: Explainer, images: Tensor, target: Any = "top1") -> None:
    """It gives what one without graphs gives."""
    eager = Explainer(explainer.model, batch_rows=explainer.batch_rows)
    one, other = explainer.explain(images, target), eager.explain(images, target)
    assert torch.equal(here(one.logits), other.logits)
    assert bool(one.trail.same(other.trail).all())
    for name in ("weights", "contributions", "bias", "residual_bound"):
        assert torch.allclose(here(getattr(one, name)), getattr(other, name), 1e-4, 1e-5), name


def images(count: int) -> Tensor:
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(count))


def test_every_number_of_targets_and_shape(graphed: Explainer) -> None:
    for target in ("top1", 3, ("top", 3), "all", ("classes", [4, 0])):
        same(graphed, images(2), target)
    assert Cuda.captures == 5  # one record; a pull for one, two, three and five targets
    graphed.batch_rows = 3
    same(graphed, images(7))  # what is left of a batch runs without a graph
    assert Cuda.captures == 7


def test_changed_weights_are_captured_anew(graphed: Explainer) -> None:
    same(graphed, images(2))
    graphed.model.get_parameter("conv1.weight").data = torch.randn(6, 3, 3, 3)
    same(graphed, images(2))
    assert Cuda.captures == 4
    assert len(graphed._graphs._runners) == 1


class ByMask(nn.Module):
    """Channels are chosen by a mask, whose count a GPU has to tell the host."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(2 * 14 * 14, 5)
        self.register_buffer("kept", torch.tensor([True, False, True, False]))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).relu()[:, self.kept].flatten(1))


def test_what_cannot_be_captured_runs_without_a_graph() -> None:
    graphed = with_graphs(ByMask().eval())
    with pretended():
        with pytest.warns(RuntimeWarning, match="without a CUDA graph: index by a mask waits"):
            same(graphed, images(2))
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # said once
            same(graphed, images(2))
    assert Cuda.captures == 0


def test_a_pull_that_cannot_be_captured(
    graphed: Explainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(Cuda):
        @staticmethod
        def graph(graph: Any) -> Any:
            if Cuda.captures:
                raise torch.OutOfMemoryError("CUDA out of memory\nof 80 GiB")
            return Cuda.graph(graph)

    monkeypatch.setattr(graphs, "cuda", Full)
    with pytest.warns(RuntimeWarning, match="without a CUDA graph: CUDA out of memory$"):
        same(graphed, images(2))
    assert Cuda.captures == 1


def test_graphs_need_a_gpu() -> None:
    words = 'cuda_graphs needs the model on a CUDA device, but it is on cpu; give device="cuda"'
    with pytest.raises(InputError, match=words):
        Explainer(SMALL_NETWORKS[KIND](), cuda_graphs=True)


# --- the device that is not there ----------------------------------------------------------------


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.sum().item(), lambda x: bool((x > 0).any()), lambda x: x.tolist(),
        lambda x: x.to(torch.device("cpu")), lambda x: x.cpu(), lambda x: x.nonzero(),
        lambda x: torch.tensor([1.0], device=x.device), lambda x: torch.where(x > 0),
        lambda x: x[x > 0], lambda x: x.__setitem__(x > 0, x[0]), lambda x: x.unique(),
    ],
)  # fmt: skip
def test_what_waits_is_seen(wait: Callable[[Tensor], Any]) -> None:
    with pretended():
        x = there(torch.tensor([1.0, -2.0, 3.0]))
        wait(x)
        with pytest.raises(WaitingError), Cuda.graph(Cuda.CUDAGraph()):
            wait(x)
