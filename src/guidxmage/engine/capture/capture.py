"""From an nn.Module and images to a Program: the run on these images as a flat list of calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload

from guidxmage.engine.calls.call import BatchSize, Branch, Call, Ref, leaves
from guidxmage.engine.capture.batch_independence import rows_stay_apart
from guidxmage.engine.capture.builder import Builder, read_by
from guidxmage.engine.capture.checks import check_model, scores_of, with_way_out
from guidxmage.engine.capture.execution import plain_run, runs_in_a_row, taped
from guidxmage.engine.capture.folding import fold
from guidxmage.engine.capture.memory import Held
from guidxmage.engine.capture.merging import Differ, Merger, same_numbers
from guidxmage.engine.capture.stepwise import linear_calls, with_kept
from guidxmage.engine.capture.tape import Operation, Tape
from guidxmage.engine.program.program import Program
from guidxmage.engine.program.steps import OtherBranchError
from guidxmage.engine.rules import is_stepwise, rule_of
from guidxmage.engine.trail.gates import Conventions, conventions
from guidxmage.errors import InputError, UnsupportedOperatorError

# A branch on a fair coin is the same in so many runs once in a thousand times.
_MANY = 10


def capture(
    model: nn.Module,
    images: Tensor | Sequence[int],
    gates: str | Conventions = "secant",
    *,
    batched: bool = True,
) -> Program:
    """Capture a classifier as it runs on images (B, …), of the network's own input.

    Instead of images their shape, without the batch, may be given: they are random then. gates: the
    convention for smooth operators, see `engine.gates`. A program for any number of images is made
    where runs on two numbers of them are the same and every operator is known to keep images
    apart, if `batched`; else it is that of one image at a time, the first. Where the run took a
    branch that depends on the image, `branches` says which.
    Raises InputError when the model is unfit (training mode, NaN weights, not a classifier) and
    UnsupportedOperatorError when an operator has no rule, or when the result depends on the image
    in a way that no operator shows.
    """
    dtype, device = check_model(model)
    if not isinstance(images, Tensor):
        generator = torch.Generator().manual_seed(0)
        images = torch.rand(2, *images, generator=generator, dtype=dtype).to(device)
    chosen = conventions(gates)
    # Another picture besides, so that what hangs on the picture in a hidden way comes to light.
    other = images[:1].flip(-1)
    more = torch.cat([other, images])
    try:
        together = _of_any_number(model, images, more, chosen) if batched else None
        return _of_one(model, images[:1], other, chosen) if together is None else together
    except UnsupportedOperatorError as error:
        raise with_way_out(model, error) from error


def _refuse_random(model: nn.Module, tape: Tape, image: Tensor) -> None:
    """Where NumPy or Python drew random numbers, runs in a row must be the same.

    No operator shows them. Other threads may have drawn them. Every run goes on from where the
    last one ended, as those of the user do.
    """
    if not tape.drawn:
        return
    writes = tuple(tensor for tensor, _ in tape.written)
    first, *others = runs_in_a_row(model, image, writes, 1 + _MANY)
    if not all(same_numbers(first, other) for other in others):
        raise UnsupportedOperatorError(
            "this network cannot be explained: it draws random numbers from NumPy or Python, in "
            "evaluation mode too; every run gives another answer"
        )


def _of_any_number(
    model: nn.Module, images: Tensor, more: Tensor, chosen: Conventions
) -> Program | None:
    """The program for any number of images, None where there is none."""
    try:
        first = taped(model, images)
        second = taped(model, more)
        operations = _merged(first, second)
        _refuse_random(model, first, images[:1])
    except (Differ, InputError):  # a model may insist on one image
        return None
    order = with_kept(Builder(model).built(operations, _result_id(first)))
    calls = [one for one in order if isinstance(one, Call)]
    if len(calls) < len(order) or not rows_stay_apart(calls, images.shape[1:]):
        return None
    program = _program(order, first, images, chosen, batched=True)
    try:
        found = program.record(more, norms=False).logits
    except RuntimeError:  # sizes that do not grow evenly with the images
        return None
    return program if same_numbers(found, second.output) else None


def _merged(first: Tape, second: Tape) -> list[Operation]:
    pruned = [_needed(tape) for tape in (first, second)]
    if len(pruned[0]) != len(pruned[1]):
        raise Differ("runs of other lengths")
    merger = Merger(first, second)
    operations = [merger.operation(a, b) for a, b in zip(*pruned, strict=True)]
    merger.argument(first.result, second.result)
    return operations


def _of_one(model: nn.Module, image: Tensor, other: Tensor, chosen: Conventions) -> Program:
    """The program of one image; `other` is one on which it is tried as well."""
    tape = taped(model, image)
    _refuse_random(model, tape, image)
    order = with_kept(Builder(model).built(_needed(tape), _result_id(tape)))
    program = _program(order, tape, image, chosen, batched=False)
    with torch.no_grad():
        try:
            found = program.record(other, norms=False).logits
        except OtherBranchError:
            return program
    expected = plain_run(model, other, program.writes)
    if not same_numbers(found, expected):
        raise UnsupportedOperatorError(
            "this network cannot be explained: its run on an image does not tell what it does with "
            "another one; part of its result is computed outside PyTorch's operators, at random or "
            "from what an earlier run has left"
        )
    return program


def _result_id(tape: Tape) -> int:
    scores = scores_of(tape.output)
    if not scores.is_floating_point():
        raise InputError(f"the model returns {scores.dtype} where real scores are expected")
    if not isinstance(tape.result, Ref) or tape.result.id == 0:
        raise InputError("the model's output does not depend on the image")
    return tape.result.id


def _needed(tape: Tape) -> list[Operation]:
    """The operations that the result depends on, and those that told Python something."""
    result = _result_id(tape)
    needed, kept = {result}, []
    for operation in reversed(tape.operations):
        made = {number for number in operation.outputs if number is not None}
        if operation.told is not None or made & needed:
            _refuse_stale(operation)
            needed.update(read_by(operation))
            kept.append(operation)
    return kept[::-1]


def _refuse_stale(operation: Operation) -> None:
    given = leaves((operation.args, operation.kwargs))
    if any(isinstance(one, Held) and one.stale for one in given):
        raise UnsupportedOperatorError(
            "this network cannot be explained: it changes its own buffers while running, and its "
            f"result depends on one of them, at '{operation.path}'; freeze it"
        )


def _program(
    order: Sequence[Call | Branch],
    tape: Tape,
    images: Tensor,
    chosen: Conventions,
    *,
    batched: bool,
) -> Program:
    result = _result_id(tape)
    calls = _leading_to(order, result)
    classes = _check_output(calls, batched)
    _refuse_unknown(calls)
    branches = [one for one in order if isinstance(one, Branch)]
    return Program(
        calls=calls,
        symbolic_calls=fold(linear_calls(calls, result), result),
        result=result,
        input_shape=tuple(images.shape[1:]),
        classes=classes,
        dtype=images.dtype,
        device=images.device,
        batched=batched,
        conventions=chosen,
        order=tuple(order) if branches else (),
        writes=tuple(tensor for tensor, _ in tape.written),
        header={
            "dtype": str(images.dtype).removeprefix("torch."),
            "device": images.device.type,
            "input_shape": list(images.shape[1:]),
            "torch": str(torch.__version__),
            "tf32": bool(images.device.type == "cuda" and torch.backends.cudnn.allow_tf32),
            **_stated(calls, chosen),
            **({"branches": [_stated_branch(one) for one in branches]} if branches else {}),
        },
    )


def _leading_to(order: Sequence[Call | Branch], result: int) -> tuple[Call, ...]:
    """The calls that the result is computed from, in order."""
    needed, kept = {result}, []
    for one in reversed(order):
        if isinstance(one, Call) and one.id in needed:
            needed.update(one.reads)
            kept.append(one)
    return tuple(reversed(kept))


def _stated(calls: Sequence[Call], chosen: Conventions) -> dict[str, Any]:
    """The conventions in use, where there are smooth operators that follow one."""
    rules = [rule for rule in map(rule_of, calls) if rule is not None]
    families = [rule.family for rule in rules if rule.kind == "gate" and rule.family]
    return {"gates": {family: chosen[family] for family in families}} if families else {}


def _stated_branch(branch: Branch) -> str:
    told = branch.told
    said = str(told)
    if isinstance(told, tuple):
        shape = isinstance(branch.call.target, OpOverload)
        said = f"shape {'×'.join(map(str, told))}" if shape else f"{len(told)} values"
    return f"{branch.call.op} at '{branch.site}': {said}"


def _refuse_unknown(calls: Sequence[Call]) -> None:
    """Refuse the whole network by the names and places of what has no rule."""
    refused: list[str] = []
    for call in calls:
        rule = rule_of(call)
        if rule is None:
            refused.append(f"{call.op} at '{call.site}' has no rule")
        elif reason := (rule.refuse(call) if rule.refuse else None):
            refused.append(f"{call.op} at '{call.site}': {reason}")
        elif tuple(call.sizes(2))[:1] == (0,):
            refused.append(f"{call.op} at '{call.site}' is empty for some numbers of images")
        elif rule.kind == "decision" and call.shape == () and not is_stepwise(call):
            refused.append(f"{call.op} at '{call.site}' decides on a number without dimensions")
    if refused:
        more = f" (and {len(refused) - 1} more call sites)" if len(refused) > 1 else ""
        raise UnsupportedOperatorError(f"this network cannot be explained: {refused[0]}{more}")


def _check_output(calls: Sequence[Call], batched: bool) -> int:
    shape = calls[-1].shape
    rows = BatchSize(1, 0) if batched else 1
    if len(shape) != 2 or shape[0] != rows or not isinstance(shape[1], int):
        sizes = ", ".join("batch" if n == BatchSize(1, 0) else str(n) for n in shape)
        raise InputError(
            f"the model's output has shape [{sizes}] where class scores [batch, classes] are "
            "expected; say what the output is with output=… (docs/outputs.md), as "
            "output=Segmentation()"
        )
    if shape[1] == 0:
        raise InputError(
            "the model's output is empty for this image; of a detector explain what its head gives "
            "before any box is dropped (docs/outputs.md)"
        )
    return int(shape[1])
