"""The two runs of an explanation, recording and pulling, as CUDA graphs.

A graph is captured once and replayed without any Python, which saves the time between some hundred
short kernels. The way is that of PyTorch's documentation ("CUDA graphs" in the notes on CUDA): warm
up on a side stream, capture, and from then on copy the input in, replay, and copy the results out.

**None of this has ever run on a GPU**, which is why it is off unless `Explainer(cuda_graphs=True)`
asks for it. The tests run it on tensors that only claim to lie on one (docs/speed.md). What waits
for the device is found in warming up, and then nothing is captured. A capture that breaks off all
the same may leave PyTorch's memory and random numbers of that device unusable for the process.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, cuda

from guidxmage.engine.program.program import Program
from guidxmage.engine.program.steps import Pulled, Recording
from guidxmage.engine.program.watch import Watch
from guidxmage.engine.trail.trail import Trail
from guidxmage.errors import InputError

# Shapes of batches, and of these numbers of rows pulled: each holds its memory.
_MOST_SHAPES = 4
_MOST_PULLS = 4

Found = TypeVar("Found")
Instead = TypeVar("Instead")
Key = TypeVar("Key")


class Graphs:
    """Programs on batches of the last few shapes, as graphs where they can be captured.

    A graph reads the weights where they lay when it was captured: whoever changes them calls
    `clear`. PyTorch's settings, TF32 among them, are those of the capture.
    """

    def __init__(self) -> None:
        self._runners: dict[Any, Program | Graphed] = {}

    def runner(self, program: Program, images: Tensor) -> Program | Graphed:
        """What runs a program on batches like these images: itself where there is no graph."""
        if program.kept:  # what a trail keeps is put into the program anew for every run
            return program
        # A program that is kept here keeps its id.
        key = (id(program), images.shape, images.stride())
        made = partial(_captured_or, program, Graphed, program, images)
        return _kept(self._runners, key, _MOST_SHAPES, made)

    def clear(self) -> None:
        """Forget all graphs, and give their memory back."""
        self._runners.clear()


class Graphed:
    """A program on batches of one shape: `record`, and `pull` of what was recorded last.

    Between the two the targets are chosen as ever, so a graph knows of none. Nothing returned lies
    in a graph's memory, which the next replay overwrites. Raises RuntimeError where recording
    cannot be captured.
    """

    def __init__(self, program: Program, images: Tensor) -> None:
        self.batched = program.batched
        self.kept = program.kept
        self._program = program
        self._recorder = _Captured(program.record, images)
        self._latest: Callable[[], Trail | None] = lambda: None
        self._pullers: dict[int, _Puller | None] = {}

    def record(self, images: Tensor) -> Recording:
        """What `Program.record` returns for a batch like the one that was captured."""
        recording = _copied(self._recorder.replay(images))
        self._latest = weakref.ref(recording.trail)
        return recording

    def pull(
        self,
        trail: Trail,
        cotangent: Tensor,
        norms: Mapping[int, Tensor] | None = None,
        *,
        watch: Watch | None = None,
    ) -> Pulled:
        """What `Program.pull` returns; by a graph for the trail and the norms recorded last."""
        puller = None
        if trail is self._latest() and norms is not None and watch is None:
            made = partial(_captured_or, None, _Puller, self._program, self._recorder, cotangent)
            puller = _kept(self._pullers, len(cotangent), _MOST_PULLS, made)
        if puller is None:
            return self._program.pull(trail, cotangent, norms, watch=watch)
        return puller.pull(cotangent)


class _Puller:
    """Pulls of one number of rows along the trail that a captured recording leaves."""

    def __init__(self, program: Program, recorder: _Captured[Recording], cotangent: Tensor) -> None:
        fixed = recorder.result
        # The constants of these steps lie on the device and are read by the graph, long after the
        # program may have forgotten them for those of other numbers of rows.
        self._steps = program.steps(len(cotangent))
        self._captured = _Captured(lambda g: program.pull(fixed.trail, g, fixed.norms), cotangent)

    def pull(self, cotangent: Tensor) -> Pulled:
        fixed = self._captured.replay(cotangent)
        copies = _copies([fixed.weights, fixed.shares, fixed.variance, fixed.worst])
        weights, shares, variance, worst = copies
        return Pulled(weights, fixed.sites, shares, variance, worst, {})


class _Captured(Generic[Found]):
    """A function of one tensor as a graph; `result` lies in the graph's memory."""

    def __init__(self, function: Callable[[Tensor], Found], given: Tensor) -> None:
        self._input = given.clone()
        with cuda.device(given.device), cuda.stream(cuda.current_stream(given.device)):
            side = cuda.Stream(given.device)
            side.wait_stream(cuda.current_stream())
            with cuda.stream(side):
                function(self._input)  # fills what is kept from run to run, and waits for it
                _without_waiting(lambda: function(self._input))
            cuda.current_stream().wait_stream(side)
            self._graph = cuda.CUDAGraph()
            with cuda.graph(self._graph):
                self.result = function(self._input)

    def replay(self, given: Tensor) -> Found:
        """The result for another input, in the memory of the one before."""
        self._input.copy_(given)
        self._graph.replay()
        return self.result


def _without_waiting(run: Callable[[], object]) -> None:
    """Run what raises RuntimeError where it would wait for the device, as no capture may."""
    mode = cuda.get_sync_debug_mode()
    cuda.set_sync_debug_mode("error")
    try:
        run()
    finally:
        cuda.set_sync_debug_mode(mode)


def _copied(recording: Recording) -> Recording:
    """The same in memory of its own."""
    trail = recording.trail
    planes = [plane for entry in trail.values() for plane in entry.planes]
    planes += [plane for gate in trail.gates.values() for plane in gate.planes]
    copies = iter(_copies([recording.logits, *recording.norms.values(), *planes]))
    logits = next(copies)
    norms = {id_: next(copies) for id_ in recording.norms}
    own = trail.with_planes(lambda _: next(copies), rows=trail.rows)
    return Recording(logits, replace(own, header=dict(trail.header)), norms)


def _copies(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Copies with the memory layout they had, by one call for each dtype."""
    made = [torch.empty_like(tensor) for tensor in tensors]
    for dtype in {tensor.dtype for tensor in tensors}:
        own = [n for n, tensor in enumerate(tensors) if tensor.dtype == dtype]
        torch._foreach_copy_([made[n] for n in own], [tensors[n] for n in own])
    return made


def _kept(known: dict[Key, Found], key: Key, most: int, make: Callable[[], Found]) -> Found:
    """What is known by a key; of the last few that were asked for, the others are dropped."""
    if key not in known:
        while len(known) >= most:
            del known[next(iter(known))]
        known[key] = make()
    known[key] = known.pop(key)
    return known[key]


def _captured_or(instead: Instead, make: Callable[..., Found], *args: Any) -> Found | Instead:
    """What `make` captures; something else, and a warning, where that fails."""
    try:
        return make(*args)
    except RuntimeError as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        warnings.warn(f"explained without a CUDA graph: {reason}", RuntimeWarning, stacklevel=4)
        return instead


def refuse_other_than_cuda(device: torch.device) -> None:
    """Raise InputError where a model lies elsewhere."""
    if device.type != "cuda":
        raise InputError(
            f"cuda_graphs needs the model on a CUDA device, but it is on {device}; give "
            'device="cuda", or leave cuda_graphs out'
        )
