"""From the operations of a run to calls."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch._ops import OpOverload

from guidxmage.engine.calls.call import BatchSize, Branch, Call, Ref, leaves
from guidxmage.engine.capture.memory import Held
from guidxmage.engine.capture.merging import Repeated
from guidxmage.engine.capture.tape import Operation
from guidxmage.engine.rules import traits_of

aten = torch.ops.aten

# The place of `training` among the arguments of a batch-norm.
_TRAINING = 5


def read_by(operation: Operation) -> list[int]:
    """The values that an operation reads."""
    given = leaves((operation.args, operation.kwargs))
    return [one.id for one in given if isinstance(one, Ref)]


class Builder:
    """Operations as calls: constants stand in their places, sites have names."""

    def __init__(self, model: nn.Module) -> None:
        self._leaves = {name for name, m in model.named_modules() if not any(m.children())}
        self._sites: Counter[str] = Counter()
        self._order: list[Call | Branch] = []
        self._gating: set[int] = set()  # values that scale others and are frozen then
        self._constant: set[int] = set()  # those that depend on the number of images alone
        self._next = 1

    def built(self, operations: Sequence[Operation], result: int) -> tuple[Call | Branch, ...]:
        """Calls and branches in order; a call's id is that of the value it computes."""
        used = {result, *(i for one in operations for i in read_by(one))}
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
        self, operation: Operation, args: Any, kwargs: Any, id_: int, place: int | None
    ) -> Call:
        target, args, kwargs, number = _translated(operation.target, args, kwargs, place)
        shape = operation.shapes[place or 0] if operation.shapes else ()
        call = Call(
            id=id_,
            op=str(target) if isinstance(target, OpOverload) else target.__name__,
            target=target,
            args=args,
            site=self._site(operation),
            shape=shape,
            kwargs=kwargs,
            output=number,
        )
        call = replace(call, gating=frozenset(self._gating.intersection(call.inputs)))
        constant = all(i in self._constant for i in call.inputs)
        traits = traits_of(call)
        carries = call.gating and traits.carries and len(call.inputs) == 1
        if constant:
            self._constant.add(call.id)
        if constant or traits.scales or carries:
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
    target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], number: int | None
) -> tuple[Any, tuple[Any, ...], dict[str, Any], int | None]:
    """A call by the operator that has the rule: operator, arguments, and which output is meant."""
    if not isinstance(target, OpOverload):
        return target, args, kwargs, number
    args, kwargs = _positional(target, args, kwargs)
    running = target is aten.instance_norm.default and not args[_TRAINING]
    if target is aten.batch_norm.default or running:
        # What they call on a CPU; without `training` and the wish for cuDNN.
        own = (*args[:_TRAINING], *args[_TRAINING + 1 : _TRAINING + 3])
        return aten._native_batch_norm_legit_no_training.default, own, kwargs, 0
    if target is aten._convolution.default and not args[6]:  # as TorchScript calls it
        of_dims = {1: aten.conv1d, 2: aten.conv2d, 3: aten.conv3d}[len(args[3])]
        return of_dims.default, (*args[:6], args[8]), {}, None
    if target is aten.aminmax.default and kwargs.get("dim") is not None:
        single = aten.amax.default if number else aten.amin.default
        return single, (*args, [kwargs["dim"]], kwargs.get("keepdim", False)), {}, None
    return target, args, kwargs, number


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
