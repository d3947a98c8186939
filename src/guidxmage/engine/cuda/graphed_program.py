"""The two runs of an explanation, recording and pulling, as graphs of a device.

In between the targets are chosen as ever, so that a graph knows of none. What a user is given never
lies in a graph's memory, which the next replay overwrites.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from guidxmage.engine.calls.call import Call
from guidxmage.engine.cuda.cuda_graphs import Captured, CudaGraphs, Work
from guidxmage.engine.cuda.flat_buffers import Parcel
from guidxmage.engine.program.program import Program
from guidxmage.engine.program.steps import Pulled, Recording
from guidxmage.engine.trail.decisions import Decisions
from guidxmage.engine.trail.gates import Gates
from guidxmage.engine.trail.trail import Trail
from guidxmage.errors import InputError

# Shapes of batches, and of these numbers of rows pulled: each holds its memory.
_MOST_SHAPES = 4
_MOST_PULLS = 4


class Capturing(Protocol):
    """What captures work: `CudaGraphs`, or what stands for it in a test."""

    def capture(self, work: Work) -> Captured:
        """Captured work. Raises RuntimeError where it cannot be captured."""
        ...


class Graphs:
    """Programs on batches of the last few shapes, as graphs where they can be captured.

    A graph reads the weights where they lay when it was captured: whoever changes them calls
    `clear`. PyTorch's settings, TF32 among them, are those of the capture.
    """

    def __init__(self, capturing: Callable[[torch.device], Capturing] = CudaGraphs) -> None:
        self._capturing = capturing
        self._runners: dict[Any, Program | Graphed] = {}

    def runner(self, program: Program, images: Tensor) -> Program | Graphed:
        """What runs a program on batches like these images: itself where there is no graph."""
        # A program that is kept here keeps its id.
        key = (id(program), images.shape, images.stride())
        found = self._runners.pop(key, None)
        if found is None:
            while len(self._runners) >= _MOST_SHAPES:
                del self._runners[next(iter(self._runners))]
            found = self._made(program, images)
        self._runners[key] = found  # the last one used is the last one dropped
        return found

    def clear(self) -> None:
        """Forget all graphs, and give their memory back."""
        self._runners.clear()

    def _made(self, program: Program, images: Tensor) -> Program | Graphed:
        try:
            return Graphed(program, images, self._capturing(images.device))
        except RuntimeError as error:
            _warn(error)
            return program


class Graphed:
    """A program on batches of one shape: `record`, and `pull` of what was recorded last."""

    def __init__(self, program: Program, images: Tensor, capturing: Capturing) -> None:
        self.batched = program.batched
        self._program = program
        self._capturing = capturing
        self._reached: Call | None = None
        self._recorder = self._repeated(self._recorded, images, self._recording_at)
        self._fixed = self._outline.filled(self._recorder.fixed)
        self._latest: Callable[[], Trail | None] = lambda: None
        self._pullers: dict[int, _Repeated | None] = {}
        # What steps keep on the device is read by graphs, long after the program may have forgotten
        # these steps for those of other numbers of rows.
        self._steps: dict[int, Any] = {}

    def record(self, images: Tensor) -> Recording:
        """What `Program.record` returns for a batch like the one that was captured."""
        recording = self._outline.filled(self._recorder(images))
        self._latest = weakref.ref(recording.trail)
        return recording

    def pull(
        self,
        trail: Trail,
        cotangent: Tensor,
        norms: Mapping[int, Tensor] | None = None,
        *,
        maps: bool = False,
    ) -> Pulled:
        """What `Program.pull` returns; by a graph for the trail and the norms recorded last."""
        puller = None
        if trail is self._latest() and norms is not None and not maps:
            puller = self._puller(cotangent)
        if puller is None:
            return self._program.pull(trail, cotangent, norms, maps=maps)
        weights, variance, worst, shares = puller(cotangent)
        return Pulled(weights, self._sites, shares, variance, worst, {})

    def _puller(self, cotangent: Tensor) -> _Repeated | None:
        """The graph for that number of rows; None where it could not be captured."""
        rows = len(cotangent)
        if rows not in self._pullers:
            if len(self._pullers) >= _MOST_PULLS:
                oldest = next(iter(self._pullers))
                del self._pullers[oldest], self._steps[oldest]
            self._steps[rows] = self._program._steps(rows)
            try:
                self._pullers[rows] = self._repeated(self._pulled, cotangent, self._pulling_at)
            except RuntimeError as error:
                _warn(error)
                self._pullers[rows] = None
        return self._pullers[rows]

    def _recorded(self, images: Tensor) -> list[Tensor]:
        recording = self._program.record(images, visit=self._reach)
        self._outline = _Outline.of(recording)
        return self._outline.tensors(recording)

    def _pulled(self, cotangent: Tensor) -> list[Tensor]:
        fixed = self._fixed
        pulled = self._program.pull(fixed.trail, cotangent, fixed.norms, visit=self._reach)
        self._sites = pulled.sites
        return [pulled.weights, pulled.variance, pulled.worst, pulled.shares]

    def _reach(self, call: Call, _: Tensor) -> None:
        self._reached = call

    def _recording_at(self) -> Call:
        """The call after the one whose output was seen last."""
        calls = self._program.calls
        seen = next((n for n, call in enumerate(calls) if call is self._reached), -1)
        return calls[min(seen + 1, len(calls) - 1)]

    def _pulling_at(self) -> Call:
        """The call whose cotangent was seen last."""
        return self._reached or self._program.symbolic_calls[-1]

    def _repeated(self, function: Function, given: Tensor, at: Callable[[], Call]) -> _Repeated:
        self._reached = None
        try:
            return _Repeated(function, given, self._capturing)
        except RuntimeError as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise RuntimeError(f"{at().op} at '{at().site}': {reason}") from error


Function = Callable[[Tensor], list[Tensor]]


class _Repeated:
    """A function of one tensor as a graph, with results in memory of their own."""

    def __init__(self, function: Function, given: Tensor, capturing: Capturing) -> None:
        self._input = given.clone()

        def work() -> list[Tensor]:
            tensors = function(self._input)
            self._parcel = Parcel(tensors)
            return self._parcel.packed(tensors)

        self._captured = capturing.capture(work)

    def __call__(self, given: Tensor) -> list[Tensor]:
        self._input.copy_(given)
        self._captured.replay()
        return self._parcel.unpacked([flat.clone() for flat in self._captured.outputs])

    @property
    def fixed(self) -> list[Tensor]:
        """The results where the graph leaves them, for a graph that is replayed after it."""
        return self._parcel.unpacked(self._captured.outputs)


@dataclass(frozen=True)
class _Outline:
    """A recording without its tensors, which come in the order of `tensors`."""

    decisions: dict[str, tuple[Decisions, int]]
    gates: dict[str, tuple[Gates, int]]
    norms: tuple[int, ...]
    header: dict[str, Any]
    rows: int

    @classmethod
    def of(cls, recording: Recording) -> _Outline:
        trail = recording.trail
        return cls(
            {site: (entry.with_planes(()), len(entry.planes)) for site, entry in trail.items()},
            {site: (gate.with_planes(()), len(gate.planes)) for site, gate in trail.gates.items()},
            tuple(recording.norms),
            trail.header,
            trail.rows,
        )

    def tensors(self, recording: Recording) -> list[Tensor]:
        trail = recording.trail
        planes = [plane for entry in trail.values() for plane in entry.planes]
        planes += [plane for gate in trail.gates.values() for plane in gate.planes]
        return [recording.logits, *recording.norms.values(), *planes]

    def filled(self, tensors: Sequence[Tensor]) -> Recording:
        """A recording of these tensors."""
        waiting = iter(tensors)

        def taken(count: int) -> tuple[Tensor, ...]:
            return tuple(next(waiting) for _ in range(count))

        (logits,) = taken(1)
        norms = dict(zip(self.norms, taken(len(self.norms)), strict=True))
        decisions = {site: bare.with_planes(taken(n)) for site, (bare, n) in self.decisions.items()}
        gates = {site: bare.with_planes(taken(n)) for site, (bare, n) in self.gates.items()}
        return Recording(logits, Trail(decisions, dict(self.header), self.rows, gates), norms)


def _warn(error: RuntimeError) -> None:
    warnings.warn(f"explained without a CUDA graph: {error}", RuntimeWarning, stacklevel=2)


def refuse_other_than_cuda(device: torch.device) -> None:
    """Raise InputError where a model lies elsewhere."""
    if device.type != "cuda":
        raise InputError(
            f"cuda_graphs needs the model on a CUDA device, but it is on {device}; give "
            'device="cuda", or leave cuda_graphs out'
        )
