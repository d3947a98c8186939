"""The programs of one model: for every kind of run one that is known to be the network's."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from guidxmage.engine.capture.capture import capture
from guidxmage.engine.capture.execution import plain_run
from guidxmage.engine.capture.merging import same_numbers
from guidxmage.engine.program.program import Program
from guidxmage.engine.program.steps import OtherBranchError
from guidxmage.engine.trail.gates import Conventions
from guidxmage.errors import InputError, UnsupportedOperatorError
from guidxmage.provenance.model_state import is_same_state, state_of

# Sizes of images, and for each of them runs that differ, as of networks with branches.
_MOST_SHAPES = 4
_MOST_RUNS = 32


@dataclass
class _Known:
    """A program, and the numbers of images for which it gave what the network gave, or not."""

    program: Program
    equal: set[int] = field(default_factory=set)
    other: set[int] = field(default_factory=set)


@dataclass
class _Shape:
    """What is known of images of one shape; singly: numbers of images that have no program."""

    programs: list[_Known] = field(default_factory=list)
    singly: set[int] = field(default_factory=set)


class Programs:
    """Captures a model when it is first asked about, and again where its run is another one.

    A program is used for a number of images only after its scores were compared with the network's
    own on such a batch, bit for bit. Threads may share this. changed: called when the model's
    weights have changed and everything is forgotten.
    """

    def __init__(
        self, model: nn.Module, conventions: Conventions, changed: Callable[[], None] | None = None
    ) -> None:
        self.model = model
        self._conventions = conventions
        self._changed = changed
        self._known: dict[tuple[int, ...], _Shape] = {}
        self._state: tuple[Any, ...] = ()
        self._ran = False
        self._lock = threading.RLock()

    def of(self, images: Tensor) -> Program:
        """The program for images (B, …) of the network's input.

        One of a single image at a time, where there is none for batches, is that of the first.
        Raises InputError and UnsupportedOperatorError as `capture` does.
        """
        with self._asked(images) as shape:
            rows, own = len(images), _OwnScores(self._plain_run, images)
            together = rows > 1 and rows not in shape.singly
            for one in shape.programs:
                if (one.program.batched or not together) and self._serves(one, images, own):
                    return one.program
            found = self._captured(images, own)
            if not found.program.batched:
                shape.singly.add(rows)
            while len(shape.programs) >= _MOST_RUNS:
                shape.programs.pop(0)
            shape.programs.append(found)
            return found.program

    def serves(self, program: Program, images: Tensor) -> bool:
        """Whether a program, which `of` has just given, is the network's run on images (B, …)."""
        with self._asked(images, unchanged=True) as shape:
            own = _OwnScores(self._plain_run, images)
            known = [one for one in shape.programs if one.program is program]
            return any(self._serves(one, images, own) for one in known)

    def adopt(self, program: Program) -> None:
        """Use a program that is known to be this model's, instead of capturing it again."""
        with self._lock:
            self._state = state_of(self.model)
            self._known[program.input_shape] = _Shape([_Known(program)])

    def check_together(
        self, program: Program, images: Tensor, scores: Tensor, rounding: Tensor
    ) -> None:
        """Compare scores (B, classes) that were found a few images at a time with those of a batch.

        rounding: what it may be in the scores of each image (B,); batches are summed in another
        order.
        Raises UnsupportedOperatorError where the network, run on all of them at once, gives others.
        """
        with self._asked(images) as shape:
            one = next((k for k in shape.programs if k.program is program), None)
            if one is not None and len(images) in one.equal and not program.branches:
                return
            together = self._plain_run(images, program)
            if isinstance(together, tuple) and not together:  # it takes one image only
                return
            alike = isinstance(together, Tensor) and together.shape == scores.shape
            if not alike or bool(((together - scores).abs().amax(1) > 4 * rounding).any()):
                raise UnsupportedOperatorError(
                    "this network cannot be explained for a batch: it gives other scores for "
                    f"{len(images)} images together than for few of them, because it mixes the "
                    "images of a batch or depends on their number; explain its images one by one"
                )
            if one is not None:
                one.equal.add(len(images))

    @contextmanager
    def _asked(self, images: Tensor, *, unchanged: bool = False) -> Iterator[_Shape]:
        """One thread at a time. unchanged: whether the model was just found to be as it was."""
        with self._lock:
            shape = self._of_shape(images, unchanged=unchanged)
            self._ran = False
            try:
                yield shape
            finally:
                if self._ran:  # a model that writes to itself was given back what it held
                    self._state = state_of(self.model)

    def _plain_run(self, images: Tensor, program: Program) -> Any:
        """What the model itself gives; () where it takes one image only."""
        self._ran = True
        try:
            return plain_run(self.model, images, program.writes)
        except InputError:
            return ()

    def _of_shape(self, images: Tensor, *, unchanged: bool) -> _Shape:
        state = self._state if unchanged else state_of(self.model)
        if not is_same_state(state, self._state):  # trained on, moved or otherwise changed
            self._known.clear()
            self._state = state
            if self._changed is not None:
                self._changed()
        key = tuple(images.shape[1:])
        if key not in self._known:
            while len(self._known) >= _MOST_SHAPES:
                self._known.pop(next(iter(self._known)))
            self._known[key] = _Shape()
        return self._known[key]

    def _serves(self, one: _Known, images: Tensor, own: _OwnScores) -> bool:
        """Whether a known program runs as the network does on images."""
        rows, program = len(images), one.program
        if program.batched:
            if rows not in one.equal and rows not in one.other:
                (one.equal if own.are_those_of(program) else one.other).add(rows)
            return rows in one.equal
        if not program.branches:
            return True
        try:
            program.record(images[:1], norms=False)
        except OtherBranchError:
            return False
        return True

    def _captured(self, images: Tensor, own: _OwnScores) -> _Known:
        """From a few of the images; from all, where the network runs otherwise on many."""
        self._ran = True
        for count in sorted({min(len(images), 2), len(images)}):
            program = capture(self.model, images[:count], self._conventions)
            if program.batched and own.are_those_of(program):
                return _Known(program, {len(images)})
        if program.batched:
            program = capture(self.model, images[:1], self._conventions, batched=False)
        return _Known(program)


class _OwnScores:
    """What the network itself gives for images, once it is needed."""

    def __init__(self, run: Callable[[Tensor, Program], Any], images: Tensor) -> None:
        self._run, self._images = run, images
        self._scores: Any = None

    def are_those_of(self, program: Program) -> bool:
        """Whether a program gives the same, bit for bit."""
        if self._scores is None:
            self._scores = self._run(self._images, program)
        if not isinstance(self._scores, Tensor):
            return False
        try:
            found = program.record(self._images, norms=False).logits
        except (RuntimeError, ZeroDivisionError, OtherBranchError):
            return False
        return found.shape == self._scores.shape and same_numbers(found, self._scores)
