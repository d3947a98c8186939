"""One chunk of images: recorded, its targets chosen, pulled, and put on the picture at cuts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from guidxmage.attribution.depths import ProgramCut
from guidxmage.attribution.placement import Activations, Found, Placing, place
from guidxmage.attribution.targets import Targets
from guidxmage.engine.cuda.graphs import Graphed
from guidxmage.engine.program.program import Program
from guidxmage.engine.program.steps import Pulled, Recording
from guidxmage.engine.symbolic import pull_targets
from guidxmage.errors import InputError


@dataclass(frozen=True)
class Run:
    """What a run of B images leaves; placed: for each cut, in their order."""

    recording: Recording
    targets: Targets
    pulled: Pulled
    placed: tuple[Found, ...]


def check_rows(rows: Any) -> None:
    """Raises InputError for what is no number of rows."""
    if not isinstance(rows, int) or rows < 1:
        raise InputError(f"batch_rows is {rows!r}; give a whole number, 1 or more")


def chunks(X: Tensor, size: int) -> list[tuple[int, Tensor]]:
    """Images some at a time, each with the number of the first."""
    return [(first, X[first : first + size]) for first in range(0, len(X), size)]


def run_chunk(
    runner: Program | Graphed,
    given: Tensor,
    choose: Callable[[Tensor], Targets],
    rows: int,
    cuts: Sequence[ProgramCut] = (),
) -> Run:
    """Run network inputs (B, C, …); `choose` makes targets of the logits.

    Cuts of the runner's own program cost no run of their own.
    """
    along = [one for one in cuts if one.program is runner]
    activations = Activations(along, given) if along else None
    if isinstance(runner, Program):
        recording = runner.record(given, visit=activations)
    else:
        recording = runner.record(given)
    targets = choose(recording.logits)
    watch = None if activations is None else Placing(tuple(along), activations.values)
    pulled = pull_targets(
        runner, recording.trail, targets.cotangent, recording.norms, rows=rows, watch=watch
    )
    found = {} if watch is None else {one.depth: one for one in watch.read(pulled.watched)}
    others = [one for one in cuts if one.program is not runner]
    for one in place(others, given, targets.cotangent, rows):
        found[one.depth] = one
    return Run(recording, targets, pulled, tuple(found[one.depth] for one in cuts))
