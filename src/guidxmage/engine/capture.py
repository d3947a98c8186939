"""From an nn.Module and images to a Program: the run on these images as a flat list of calls."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload

from guidxmage.engine.call import BatchSize, Branch, Call, Ref
from guidxmage.engine.fold import fold
from guidxmage.engine.gates import Conventions, conventions
from guidxmage.engine.memory import Held
from guidxmage.engine.merging import Differ, Merger, Repeated, same_numbers
from guidxmage.engine.program import OtherBranchError, Program
from guidxmage.engine.rows import rows_stay_apart
from guidxmage.engine.rules import rule_of
from guidxmage.engine.tape import Operation, Tape, plain_run, taped
from guidxmage.errors import InputError, UnsupportedOperatorError

aten = torch.ops.aten

# What gates the values it is multiplied with, and what hands it on unchanged.
_GATES = frozenset(
    f"aten.{name}"
    for name in ("sigmoid.default", "hardsigmoid.default", "softmax.int", "_softmax.default")
)
_CARRYING = frozenset(
    f"aten.{name}"
    for name in (
        "clone.default", "view.default", "reshape.default", "expand.default", "permute.default",
        "transpose.int", "unsqueeze.default", "squeeze.dim", "squeeze.dims", "dropout.default",
        "contiguous.default", "slice.Tensor", "select.int", "split.Tensor", "unbind.int",
        "flatten.using_ints", "unflatten.int", "_unsafe_view.default", "mean.dim", "chunk.default",
    )
)  # fmt: skip
# The place of `training` among the arguments of a batch-norm.
_TRAINING = 5


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
    more = torch.cat([images, other])
    together = _of_any_number(model, images, more, chosen) if batched else None
    return _of_one(model, images[:1], other, chosen) if together is None else together


def check_model(model: nn.Module) -> tuple[torch.dtype, torch.device]:
    """The single dtype and device of a model that is fit to be explained."""
    for name, module in model.named_modules():
        if module.training:
            where = f"its module {name!r} is" if name else "it is"
            raise InputError(
                f"the model cannot be explained because {where} in training mode; "
                "call model.eval() first"
            )
    tensors = dict([*model.named_parameters(), *model.named_buffers()])
    floating = {name: t for name, t in tensors.items() if t.is_floating_point()}
    kinds = {(t.dtype, t.device) for t in floating.values()} or {
        (torch.get_default_dtype(), torch.device("cpu"))
    }
    if len(kinds) > 1:
        listed = " and ".join(sorted(f"{dtype} on {device}" for dtype, device in kinds))
        raise InputError(f"the model mixes {listed}; bring it to one dtype and one device")
    dtype, device = kinds.pop()
    if dtype not in (torch.float32, torch.float64):
        raise InputError(
            f"the model computes in {dtype}, too coarse for an exact explanation; "
            "pass dtype=torch.float32 to explain a float32 copy of it"
        )
    for name, tensor in floating.items():
        if not torch.isfinite(tensor).all():
            raise InputError(f"the model's weights hold NaN or Inf in {name!r}")
    return dtype, device


def _of_any_number(
    model: nn.Module, images: Tensor, more: Tensor, chosen: Conventions
) -> Program | None:
    """The program for any number of images, None where there is none."""
    try:
        first = taped(model, images)
        second = taped(model, more)
        operations = _merged(first, second)
    except (Differ, InputError):  # a model may insist on one image
        return None
    order = _Builder(model).built(operations)
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
    order = _Builder(model).built(_needed(tape))
    program = _program(order, tape, image, chosen, batched=False)
    with torch.no_grad():
        try:
            found = program.record(other, norms=False).logits
        except OtherBranchError:
            return program
    expected = plain_run(model, other, tape.written)
    if not same_numbers(found, expected):
        raise UnsupportedOperatorError(
            "this network cannot be explained: its run on an image does not tell what it does with "
            "another one; part of its result is computed outside PyTorch's operators, at random or "
            "from what an earlier run has left"
        )
    return program


def _result_id(tape: Tape) -> int:
    if not isinstance(tape.output, Tensor):
        kind = type(tape.output).__name__
        if isinstance(tape.output, list | tuple):
            kind = f"{len(tape.output)} values"
        raise InputError(
            f"the model returns {kind} where one tensor of class scores is expected; wrap it in a "
            "module that returns the scores alone"
        )
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
            _refuse_stale((operation.args, operation.kwargs))
            needed |= set(_refs((operation.args, operation.kwargs)))
            kept.append(operation)
    return kept[::-1]


def _refs(given: Any) -> list[int]:
    if isinstance(given, Ref):
        return [given.id]
    parts = given.values() if isinstance(given, dict) else given
    return [i for one in parts for i in _refs(one)] if _is_nested(given) else []


def _is_nested(given: Any) -> bool:
    return isinstance(given, dict | list | tuple)


def _refuse_stale(given: Any) -> None:
    if isinstance(given, Held) and given.stale:
        raise UnsupportedOperatorError(
            "this network cannot be explained: it changes one of its buffers while running, and its "
            "result depends on that buffer; freeze it"
        )
    for one in (given.values() if isinstance(given, dict) else given) if _is_nested(given) else ():
        _refuse_stale(one)


class _Builder:
    """Operations as calls: constants stand in their places, sites have names."""

    def __init__(self, model: nn.Module) -> None:
        self._leaves = {name for name, m in model.named_modules() if not any(m.children())}
        self._sites: Counter[str] = Counter()
        self._order: list[Call | Branch] = []
        self._gating: set[int] = set()  # values that scale others and are frozen then
        self._constant: set[int] = set()  # those that depend on the number of images alone
        self._next = 1

    def built(self, operations: Sequence[Operation]) -> tuple[Call | Branch, ...]:
        """Calls and branches in order; a call's id is that of the value it computes."""
        used = {i for one in operations for i in _refs((one.args, one.kwargs))}
        # Numbers of values that no operation has: for constants that are repeated, and branches.
        self._next = 1 + max((n or 0 for one in operations for n in one.outputs), default=0)
        for operation in operations:
            args = self._filled(operation.args, operation)
            kwargs = {n: self._filled(arg, operation) for n, arg in operation.kwargs.items()}
            if operation.told is not None:
                call = self._call(operation, args, kwargs, self._new(), None)
                self._order.append(Branch(call, operation.told))
            for number, id_ in enumerate(operation.outputs):
                if id_ is None or (operation.several and id_ not in used):
                    continue
                place = number if operation.several else None
                self._order.append(self._call(operation, args, kwargs, id_, place))
        return tuple(self._order)

    def _new(self) -> int:
        self._next += 1
        return self._next - 1

    def _call(
        self, operation: Operation, args: Any, kwargs: Any, id_: int, number: int | None
    ) -> Call:
        target, args, kwargs, output = _translated(operation.target, args, kwargs)
        number = output if number is None else number
        call = Call(
            id=id_,
            op=str(target) if isinstance(target, OpOverload) else target.__name__,
            target=target,
            args=args,
            site=self._site(operation),
            shape=operation.shapes[number or 0] if operation.shapes else (),
            kwargs=kwargs,
            output=number,
        )
        call = replace(call, gating=frozenset(self._gating.intersection(call.inputs)))
        constant = all(i in self._constant for i in call.inputs)
        carries = call.gating and call.op in _CARRYING and len(call.inputs) == 1
        if constant:
            self._constant.add(call.id)
        if constant or call.op in _GATES or carries:
            self._gating.add(call.id)
        return call

    def _filled(self, arg: Any, operation: Operation) -> Any:
        if isinstance(arg, Held):
            return arg.tensor
        if isinstance(arg, Repeated):
            return self._source(arg, operation)
        if isinstance(arg, list | tuple):
            return type(arg)(self._filled(one, operation) for one in arg)
        return arg

    def _source(self, repeated: Repeated, operation: Operation) -> Ref:
        """A constant that is the same for every image, as a value that grows with the images."""
        block = repeated.block
        parts, *rest = block.shape
        id_ = self._new()
        call = Call(
            id=id_,
            op="aten.repeat.default",
            target=aten.repeat.default,
            args=(block, [BatchSize(1, 0), *[1] * len(rest)]),
            site=self._site(replace(operation, target=aten.repeat.default)),
            shape=(BatchSize(parts, 0), *rest),
        )
        self._order.append(call)
        self._constant.add(id_)
        self._gating.add(id_)
        return Ref(id_)

    def _site(self, operation: Operation) -> str:
        """The module's path, plus the operator where the module is not a leaf; unique."""
        path, target = operation.path, operation.target
        name = getattr(target, "_opname", getattr(target, "__name__", "")).removeprefix("_native_")
        own = path if path in self._leaves and path else f"{path}.{name.strip('_')}".lstrip(".")
        self._sites[own] += 1
        return own if self._sites[own] == 1 else f"{own}#{self._sites[own]}"


def _translated(
    target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Any, tuple[Any, ...], dict[str, Any], int | None]:
    """A call by the operator that has the rule: operator, arguments, and which output is meant."""
    if not isinstance(target, OpOverload):
        return target, args, kwargs, None
    args, kwargs = _positional(target, args, kwargs)
    if target is aten.batch_norm.default:
        # What it calls on a CPU; without `training` and the wish for cuDNN.
        own = (*args[:_TRAINING], *args[_TRAINING + 1 : _TRAINING + 3])
        return aten._native_batch_norm_legit_no_training.default, own, kwargs, 0
    return target, args, kwargs, None


def _positional(
    target: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Keyword arguments moved to their position in the schema where they have one."""
    remaining = dict(kwargs)
    ordered = list(args)
    schema = [a for a in target._schema.arguments if not a.kwarg_only]
    for argument in schema[len(args) :]:
        if not any(a.name in remaining for a in schema[len(ordered) :]):
            break
        ordered.append(remaining.pop(argument.name, argument.default_value))
    return tuple(ordered), remaining


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
        symbolic_calls=fold(calls, result),
        result=result,
        input_shape=tuple(images.shape[1:]),
        classes=classes,
        dtype=images.dtype,
        device=images.device,
        batched=batched,
        conventions=chosen,
        order=tuple(order) if branches else (),
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
            needed.update(one.inputs)
            kept.append(one)
    return tuple(reversed(kept))


def _stated(calls: Sequence[Call], chosen: Conventions) -> dict[str, Any]:
    """The conventions in use, where there are smooth operators."""
    rules = [rule for rule in map(rule_of, calls) if rule is not None]
    if not any(rule.kind == "gate" for rule in rules):
        return {}
    return {"gates": {rule.family: chosen[rule.family] for rule in rules if rule.family}}


def _stated_branch(branch: Branch) -> str:
    told = branch.told
    said = f"shape {'×'.join(map(str, told))}" if isinstance(told, tuple) else str(told)
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
        elif rule.kind == "decision" and call.shape == ():
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
            "expected; wrap it in a module that returns them"
        )
    return int(shape[1])
