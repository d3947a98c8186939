"""Explanations by CUDA graphs: everything but CUDA itself, on a device that is pretended."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Iterator, Sequence
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
from torch import Tensor, nn

from guidxmage import Contrast, Explainer, Explanation, InputError
from guidxmage.engine.capture import programs
from guidxmage.engine.capture.capture import capture
from guidxmage.engine.cuda import cuda_graphs
from guidxmage.engine.cuda.cuda_graphs import Captured, CudaGraphs, Work
from guidxmage.engine.cuda.flat_buffers import Parcel
from guidxmage.engine.cuda.graphed_program import Graphed, Graphs
from guidxmage.engine.program.program import Program
from tests.networks import SMALL_NETWORKS, photo_batch
from tests.pretend_cuda import (
    CUDA,
    EmulatedGraphs,
    here,
    model_here,
    model_there,
    pretended,
    there,
)
from tests.test_pretended_cuda import NETWORKS, modelled, seeded

KIND = "batch_norm_before"


@pytest.fixture(autouse=True)
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A pretended GPU on which models are captured, and graphs are emulated."""

    def captured(model: nn.Module, images: Tensor, *about: Any, **options: Any) -> Program:
        with torch.utils._python_dispatch._disable_current_modes():
            return there(capture(model_here(model), here(images), *about, **options))

    monkeypatch.setattr(programs, "capture", captured)
    monkeypatch.setattr(programs._OwnScores, "are_those_of", lambda own, program: True)
    EmulatedGraphs.captures = 0
    with pretended():
        yield


def pair(model: nn.Module, **options: Any) -> tuple[Explainer, Explainer]:
    """Explainers of a model on the GPU, without graphs and with them."""
    moved = model_there(model)
    graphed = Explainer(moved, cuda_graphs=True, **options)
    graphed._graphs = Graphs(EmulatedGraphs)
    return Explainer(moved, **options), graphed


def images(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return there(torch.rand(count, 3, 16, 16, generator=generator))


def numbers(explained: Explanation) -> dict[str, Tensor]:
    """Every number of an explanation, as it is now."""
    names = ("logits", "score", "weights", "contributions", "bias", "residual", "residual_bound")
    found = {name: getattr(explained, name) for name in names}
    found |= {f"bias {site}": value for site, value in explained.bias_by_layer.items()}
    for site, entry in explained.trail.items():
        found |= {f"trail {site} {n}": plane for n, plane in enumerate(entry.planes)}
    for site, gate in explained.trail.gates.items():
        found |= {f"gate {site} {n}": plane for n, plane in enumerate(gate.planes)}
    return {name: here(value).clone() for name, value in found.items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert list(one) == list(other)
    for name, value in one.items():
        assert value.dtype == other[name].dtype
        assert torch.equal(value, other[name]), name


# --- the same explanations -----------------------------------------------------------------------


def check(name: str, batches: Sequence[Tensor], target: Any) -> None:
    model, program = modelled(name)
    eager, graphed = pair(model)
    for one in (eager, graphed):
        one.adopt(there(program))
    found = [graphed.explain(X, target) for X in batches]
    assert EmulatedGraphs.captures == 2
    for X, one in zip(batches, found, strict=True):  # the first ones after the last replay
        same(numbers(one), numbers(eager.explain(X, target)))
    assert not torch.equal(here(found[0].weights), here(found[1].weights))


@pytest.mark.parametrize("name", NETWORKS)
def test_networks(name: str) -> None:
    photos = photo_batch(6, NETWORKS[name][1])
    # The tiny transformer is run one image at a time.
    batches = [there(photos[n : n + 1 if name == "vit" else n + 2]) for n in (0, 2, 4)]
    check(name, batches, ("top", 2))


def test_single_photos() -> None:
    check("resnet18", list(there(photo_batch(3, 64))), "top1")


TARGETS = ["top1", 3, Contrast(0, "top1"), ("top", 3), "all", ("classes", [4, 0])]


def test_every_target_and_number_of_targets() -> None:
    eager, graphed = pair(SMALL_NETWORKS[KIND]())
    found = [
        (graphed.explain(images(2, seed), target), eager.explain(images(2, seed), target))
        for seed in (0, 1)
        for target in [*TARGETS, torch.linspace(-1, 1, 5), [1, 2]]
    ]
    for one, other in found:
        same(numbers(one), numbers(other))
    # One record; a pull for one, two, three and five targets.
    assert EmulatedGraphs.captures == 5


def test_targets_in_parts() -> None:
    """Five targets of two images, four rows at once: two parts of four rows, and one of two."""
    eager, graphed = pair(SMALL_NETWORKS[KIND](), batch_rows=4)
    for seed in (0, 1):
        same(*(numbers(one.explain(images(2, seed), "all")) for one in (graphed, eager)))
    assert EmulatedGraphs.captures == 3


def test_what_is_left_of_a_batch_runs_without_a_graph() -> None:
    eager, graphed = pair(SMALL_NETWORKS[KIND](), batch_rows=3)
    for seed in (0, 1):
        same(*(numbers(one.explain(images(7, seed))) for one in (graphed, eager)))
    assert EmulatedGraphs.captures == 2
    graphed.explain(images(1))
    assert EmulatedGraphs.captures == 4  # a batch of that size is worth one


def test_another_layout_is_another_graph() -> None:
    eager, graphed = pair(SMALL_NETWORKS[KIND]())
    last = images(2).contiguous(memory_format=torch.channels_last)
    for X in (images(2), last, images(2, 1)):
        same(*(numbers(one.explain(X)) for one in (graphed, eager)))
    assert EmulatedGraphs.captures == 4


def test_other_questions_are_answered_as_ever() -> None:
    eager, graphed = pair(SMALL_NETWORKS["residual"]())
    X = images(2)
    one, other = graphed.explain(X), eager.explain(X)
    assert bool(graphed.trail(X).same(other.trail).all())
    graphed.explain(images(2, 1))
    assert torch.equal(here(one.symbolic_model(X)), here(other.symbolic_model(X)))
    assert one.symbolic_model.replay(X).follows.tolist() == [True, True]
    maps = (here(own.symbolic_model.bias_maps()) for own in (one, other))
    for mine, theirs in zip(*(own.values() for own in maps), strict=True):
        assert torch.equal(mine, theirs)


# --- what a graph holds --------------------------------------------------------------------------


def test_graphs_go_with_the_weights() -> None:
    eager, graphed = pair(SMALL_NETWORKS[KIND]())
    graphed.model = graphed._programs.model = eager.model
    X = images(2)
    before = numbers(graphed.explain(X))
    (earlier,) = map(weakref.ref, graphed._graphs._runners.values())
    with torch.no_grad():
        eager.model.get_parameter("conv1.weight").mul_(1.5)
    same(numbers(graphed.explain(X)), numbers(eager.explain(X)))
    assert EmulatedGraphs.captures == 4
    eager.model.conv2.weight = nn.Parameter(there(torch.randn(4, 6, 3, 3)), requires_grad=False)
    after = numbers(graphed.explain(X))
    same(after, numbers(eager.explain(X)))
    assert not torch.equal(before["weights"], after["weights"])
    assert EmulatedGraphs.captures == 6
    assert len(graphed._graphs._runners) == 1
    assert earlier() is None  # nor do the graphs of other weights hold memory any longer
    graphed.explain(X)
    assert EmulatedGraphs.captures == 6


def test_only_the_last_few_graphs_are_kept() -> None:
    eager, graphed = pair(SMALL_NETWORKS[KIND]())
    for count in (1, 2, 3, 4, 1, 5):  # the fifth in place of the one of two images
        graphed.explain(images(count))
    assert EmulatedGraphs.captures == 10
    graphed.explain(images(1))
    assert EmulatedGraphs.captures == 10
    graphed.explain(images(2))
    assert EmulatedGraphs.captures == 12
    for count in range(1, 6):
        graphed.explain(images(3), ("top", count))
    (runner,) = [one for one in graphed._graphs._runners.values() if len(one._pullers) > 1]
    assert list(runner._pullers) == [6, 9, 12, 15] == list(runner._steps)
    same(*(numbers(one.explain(images(3), ("top", 1))) for one in (graphed, eager)))


def test_a_graph_holds_what_it_reads() -> None:
    """A program forgets what it keeps for a number of rows when there are many."""
    eager, graphed = pair(SMALL_NETWORKS["constants"]())
    graphed.explain(images(2))
    program = graphed.network((3, 16, 16)).program
    recording = program.record(images(1))
    for rows in range(1, 40):
        program.pull(recording.trail, there(torch.ones(rows, 5)), recording.norms)
    same(*(numbers(one.explain(images(2, 1))) for one in (graphed, eager)))
    assert EmulatedGraphs.captures == 2


def test_a_pull_of_another_trail_needs_no_graph() -> None:
    program = there(capture(SMALL_NETWORKS[KIND](), (3, 16, 16)))
    graphed = Graphed(program, images(1), EmulatedGraphs(CUDA))
    earlier, latest = graphed.record(images(1, 1)), graphed.record(images(1, 2))
    cotangent = there(torch.eye(5)[:1])
    for one in (earlier, latest):
        pulled = graphed.pull(one.trail, cotangent, one.norms)
        expected = program.pull(one.trail, cotangent, one.norms)
        assert torch.equal(here(pulled.weights), here(expected.weights))
    assert EmulatedGraphs.captures == 2


# --- what cannot be captured ---------------------------------------------------------------------


class ByMask(nn.Module):
    """Channels are chosen by a mask, whose count a GPU has to tell the host."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(2 * 14 * 14, 5)
        self.register_buffer("kept", torch.tensor([True, False, True, False]))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).relu()[:, self.kept].flatten(1))


def test_operators_that_wait_are_named_and_run_without_a_graph() -> None:
    eager, graphed = pair(seeded(ByMask))
    with pytest.warns(RuntimeWarning, match=r"aten\.index\.Tensor at '.*index.*': .*by a mask"):
        one = graphed.explain(images(2))
    same(numbers(one), numbers(eager.explain(images(2))))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # said once
        same(*(numbers(one.explain(images(2, 1))) for one in (graphed, eager)))
    assert EmulatedGraphs.captures == 0


def test_a_pull_that_cannot_be_captured_is_run_without_a_graph() -> None:
    class Recordings(EmulatedGraphs):
        def capture(self, work: Work) -> Captured:
            if EmulatedGraphs.captures == 1:
                work()
                raise torch.OutOfMemoryError("CUDA out of memory\nof 80 GiB")
            return super().capture(work)

    eager, graphed = pair(SMALL_NETWORKS[KIND]())
    graphed._graphs = Graphs(Recordings)
    with pytest.warns(
        RuntimeWarning, match="without a CUDA graph: .* at 'norm1': CUDA out of memory$"
    ):
        one = graphed.explain(images(2))
    same(numbers(one), numbers(eager.explain(images(2))))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        same(*(numbers(one.explain(images(2, 1))) for one in (graphed, eager)))
    assert EmulatedGraphs.captures == 1


def test_errors_of_the_network_are_those_without_graphs() -> None:
    model = SMALL_NETWORKS[KIND]()
    _, graphed = pair(model)
    bad = torch.full((1, 3, 16, 16), 1e30)
    model.get_parameter("conv1.weight").data.mul_(1e30)
    with pytest.raises(InputError, match="NaN or Inf"):
        graphed.explain(there(bad))


def test_graphs_need_a_gpu() -> None:
    words = 'cuda_graphs needs the model on a CUDA device, but it is on cpu; give device="cuda"'
    with pytest.raises(InputError, match=words):
        Explainer(SMALL_NETWORKS[KIND](), cuda_graphs=True)
    with pytest.raises(InputError, match=words):
        Explainer.load("alexnet", weights="none", cuda_graphs=True)


# --- flat tensors --------------------------------------------------------------------------------


def test_a_parcel_keeps_shapes_dtypes_and_layouts() -> None:
    base = torch.arange(120.0).reshape(2, 3, 4, 5)
    tensors = [
        base,
        base.contiguous(memory_format=torch.channels_last),
        torch.arange(7, dtype=torch.uint8).reshape(7, 1),
        base.double().permute(3, 0, 2, 1),
        torch.tensor(2.5),
        base[:, :, 1:],
        torch.ones(1, dtype=torch.float64).expand(3),
        torch.empty(2, 0),
    ]
    parcel = Parcel(tensors)
    flats = parcel.packed(tensors)
    assert [(flat.dtype, flat.ndim) for flat in flats] == [
        (torch.float32, 1), (torch.uint8, 1), (torch.float64, 1),
    ]  # fmt: skip
    found = parcel.unpacked(flats)
    for one, other in zip(found, tensors, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
    assert [one.stride() for one in found[:4]] == [one.stride() for one in tensors[:4]]
    flats[0].zero_()
    assert not bool(found[0].any())
    assert float(base.sum()) > 0


# --- the part that needs CUDA --------------------------------------------------------------------


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> MagicMock:
    """Notes what `CudaGraphs` calls of torch.cuda, in order."""
    fake = MagicMock()
    for context in (fake.device, fake.stream, fake.graph):
        context.return_value.__exit__.return_value = False
    fake.get_sync_debug_mode.return_value = 1
    fake.default_generators.__getitem__.return_value = fake.generator
    monkeypatch.setattr(cuda_graphs, "cuda", fake)
    return fake


NOTED = ("work", "stream().__enter__", "stream().__exit__", "graph().__enter__", "graph().__exit__",
         "set_sync_debug_mode", "generator.graphsafe_set_state", "CUDAGraph().replay",
         "Stream().wait_stream", "current_stream().wait_stream")  # fmt: skip


def noted(cuda: MagicMock) -> list[str]:
    return [name for name, _, _ in cuda.mock_calls if name in NOTED]


def test_work_is_warmed_up_on_a_side_stream_and_captured_there(cuda: MagicMock) -> None:
    captured = CudaGraphs(CUDA).capture(cuda.work)
    on_the_side = ["stream().__enter__", "work", "set_sync_debug_mode", "work",
                   "set_sync_debug_mode", "stream().__exit__"]  # fmt: skip
    assert noted(cuda) == [
        "stream().__enter__",
        "Stream().wait_stream",
        *on_the_side,
        "current_stream().wait_stream",
        "graph().__enter__",
        "work",
        "graph().__exit__",
        "stream().__exit__",
    ]
    assert [one.args for one in cuda.set_sync_debug_mode.call_args_list] == [("error",), (1,)]
    pool, side = cuda.graph_pool_handle(), cuda.Stream()
    cuda.graph.assert_called_once_with(cuda.CUDAGraph(), pool=pool, stream=side)
    assert captured.outputs is cuda.work()
    captured.replay()
    cuda.CUDAGraph().replay.assert_called_once_with()


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_capture_that_breaks_off_leaves_things_as_they_were(cuda: MagicMock, number: int) -> None:
    cuda.work.side_effect = [None] * (number - 1) + [RuntimeError("not permitted")]
    with pytest.raises(RuntimeError, match="not permitted"):
        CudaGraphs(CUDA).capture(cuda.work)
    names = noted(cuda)
    assert names.count("stream().__enter__") == names.count("stream().__exit__")
    modes = [one.args for one in cuda.set_sync_debug_mode.call_args_list]
    assert modes == ([("error",), (1,)] if number > 1 else [])
    cuda.generator.graphsafe_set_state.assert_called_once_with(cuda.generator.clone_state())
