"""Points and directions carried together through a program: the fourth loop, for lines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from guidxmage.engine.calls.call import Frame
from guidxmage.engine.program.program import Program
from guidxmage.engine.program.steps import Step
from guidxmage.engine.trail.trail import Trail
from guidxmage.errors import UnsupportedOperatorError

Visit = Callable[[Frame, list[Any]], None]


@torch.no_grad()
def carry(
    program: Program, trail: Trail, start: Tensor, direction: Tensor, visit: Visit
) -> tuple[Tensor, Tensor]:
    """Carry points and directions (B, *input shape) together along a trail.

    Runs the user's own operators, so that the input of every decision is at hand: `visit` gets
    each decision's frame and its arguments, active ones as values above directions.
    Returns the logits at the points and their slopes, (B, classes) each. Raises
    UnsupportedOperatorError at an operator that is neither affine nor decides.
    """
    program.refuse_branches()
    rows = len(start)
    whole = program.batched  # else points and directions are run one after the other
    both = program.bound(trail, 2 * rows if whole else rows)
    program = program.bound(trail, rows)
    values: dict[int, Tensor] = {0: torch.cat([start, direction])}
    pushed = both.own_steps(2 * rows if whole else rows)
    for step, twice, expired in zip(program.own_steps(rows), pushed, program.expired, strict=True):
        call = step.call
        frame = program.frame(call, rows, trail)
        if step.rule.kind == "decision":
            visit(frame, call.arguments(values, 2 * rows))
        elif step.rule.kind != "affine":
            raise UnsupportedOperatorError(
                f"{call.op} at '{call.site}' is not piecewise linear: the network has no "
                "regions to walk through"
            )
        value = _push_both(both, twice, trail, values, rows)
        constants = step.constants(frame)
        if constants:
            points, directions = value.chunk(2)
            points = points + sum(c.value for c in constants)
            value = torch.cat([points, directions])
        values[call.id] = value
        for id_ in expired:
            del values[id_]
    points, directions = values[program.result].chunk(2)
    return points, directions


def _push_both(
    program: Program, step: Step, trail: Trail, values: dict[int, Tensor], rows: int
) -> Tensor:
    """Points and directions through one call: at once, or singly where batches are fixed."""
    call = step.call
    if program.batched:
        args = call.arguments(values, 2 * rows)
        return step.rule.push(program.frame(call, 2 * rows, trail), *args, **call.kwargs)
    pushed = []
    for half in (0, 1):
        own = {id_: values[id_].chunk(2)[half] for id_ in call.inputs}
        args = call.arguments(own, rows)
        pushed.append(step.rule.push(program.frame(call, rows, trail), *args, **call.kwargs))
    return torch.cat(pushed)
