"""From an nn.Module to a Program: torch.export's graph as a flat list of calls."""

from __future__ import annotations

import operator
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import sympy
import torch
from torch import nn
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import InputKind

from guidxmage.engine.call import BatchSize, Call, Ref
from guidxmage.engine.fold import fold
from guidxmage.engine.functional import is_plain, translated, written
from guidxmage.engine.gates import Conventions, conventions
from guidxmage.engine.mixing import refuse_mixing, rows_stay_apart
from guidxmage.engine.program import Program
from guidxmage.engine.rules import rule_of
from guidxmage.errors import InputError, UnsupportedOperatorError

# They take nothing but dtype and device from their first argument.
_NEW = ("aten.new_zeros.", "aten.new_ones.", "aten.new_full.", "aten.new_empty.")
_TYPED = "aten.type_as"
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


def capture(
    model: nn.Module, input_shape: Sequence[int], gates: str | Conventions = "secant"
) -> Program:
    """Capture a classifier for images of `input_shape` (without the batch dimension).

    gates: the convention for smooth operators, see `engine.gates`. A network that does not keep the
    images of a batch apart in the first dimension is captured for one image at a time.
    Raises InputError when the model is unfit (training mode, NaN weights, not a classifier) and
    UnsupportedOperatorError when an operator has no rule.
    """
    dtype, device = check_model(model)
    chosen = conventions(gates)
    exported, batched = _export(model, tuple(input_shape), dtype, device)
    reader = _GraphReader(exported, model)
    calls, result = reader.read()
    if batched and not rows_stay_apart(calls):
        batched = False
        refuse_mixing(model, (2, *input_shape), dtype, device)
        example = torch.zeros(1, *input_shape, dtype=dtype, device=device)
        exported = _exported(model, example, None)
        reader = _GraphReader(exported, model)
        calls, result = reader.read()
    _refuse_unknown(calls)
    classes = _check_output(reader.output_shape, batched)
    return Program(
        calls=tuple(calls),
        symbolic_calls=fold(calls, result),
        result=result,
        input_shape=tuple(input_shape),
        classes=classes,
        dtype=dtype,
        device=device,
        batched=batched,
        conventions=chosen,
        header={
            "dtype": str(dtype).removeprefix("torch."),
            "device": device.type,
            "input_shape": list(input_shape),
            "torch": str(torch.__version__),
            "tf32": bool(device.type == "cuda" and torch.backends.cudnn.allow_tf32),
            **_stated(calls, chosen),
        },
    )


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


def _export(
    model: nn.Module, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> tuple[ExportedProgram, bool]:
    """Export with a free batch dimension; where the model forbids it, for single images."""
    failures: list[Exception] = []
    # A batch of 2: size 1 would be specialised.
    for rows, dims in ((2, {0: Dim.DYNAMIC}), (1, None)):
        try:
            example = torch.zeros(rows, *shape, dtype=dtype, device=device)
            return _exported(model, example, dims), rows > 1
        except Exception as error:  # torch.export raises whatever the model's code raises
            failures.append(error)
    raise InputError(_export_failure(model, shape, failures[-1])) from failures[-1]


def _exported(model: nn.Module, example: torch.Tensor, dims: Any) -> ExportedProgram:
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        exported = torch.export.export(model, (example,), dynamic_shapes=(dims,), strict=False)
        # The empty table makes the graph functional and keeps operators whole.
        return exported if is_plain(exported.graph) else exported.run_decompositions({})


def _stated(calls: Sequence[Call], chosen: Conventions) -> dict[str, Any]:
    """The conventions in use, where there are smooth operators."""
    rules = [rule for rule in map(rule_of, calls) if rule is not None]
    if not any(rule.kind == "gate" for rule in rules):
        return {}
    return {"gates": {rule.family: chosen[rule.family] for rule in rules if rule.family}}


def _export_failure(model: nn.Module, shape: tuple[int, ...], error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = lines[0] if lines else type(error).__name__
    size = "×".join(str(n) for n in shape)
    return f"{type(model).__name__} could not be captured for an image of {size}: {reason}"


class _GraphReader:
    """Translates an exported graph into calls; constants are folded on the way."""

    def __init__(self, exported: ExportedProgram, model: nn.Module) -> None:
        self.exported = exported
        self.leaves = {name for name, m in model.named_modules() if not any(m.children())}
        self.values: dict[torch.fx.Node, Any] = {}
        self.calls: list[Call] = []
        self.sites: Counter[str] = Counter()
        self.output_shape: tuple[Any, ...] = ()
        self.symbol: Any = None
        self.gating: set[int] = set()  # values that scale others and are frozen then
        self.constant: set[int] = set()  # those that depend on the number of images alone

    def read(self) -> tuple[list[Call], int]:
        """All calls in order and the id of the one that computes the logits."""
        for node in self.exported.graph.nodes:
            if node.op == "placeholder":
                self.values[node] = self._placeholder(node)
            elif node.op == "call_function":
                self.values[node] = self._call(node)
                self.values.update(dict.fromkeys(written(node), self.values[node]))
        return self.calls, self._result()

    def _placeholder(self, node: torch.fx.Node) -> Any:
        spec = next(s for s in self.exported.graph_signature.input_specs if s.arg.name == node.name)
        if spec.kind == InputKind.USER_INPUT:
            free = [d.node.expr for d in node.meta["val"].shape if isinstance(d, torch.SymInt)]
            self.symbol = free[0] if free else None
            return Ref(0)
        assert spec.target is not None
        for source in (self.exported.state_dict, self.exported.constants):
            if spec.target in source:
                # Not detached: ATen chooses some kernels by requires_grad, as in eager mode.
                return source[spec.target]
        raise UnsupportedOperatorError(f"the model's input {node.name!r} cannot be read")

    def _call(self, node: torch.fx.Node) -> Any:
        meaning = node.meta.get("val")
        if isinstance(meaning, torch.SymInt):
            return self._batch_size(meaning)
        if node.target is operator.getitem:
            return self._selected(node)
        if meaning is None and not node.users:
            return None  # an assertion that the export has written down, such as a tensor's dtype
        args = tuple(_mapped(arg, self.values) for arg in node.args)
        kwargs = {name: _mapped(arg, self.values) for name, arg in node.kwargs.items()}
        if str(node.target).startswith((*_NEW, _TYPED)) and isinstance(meaning, torch.Tensor):
            like = torch.empty(0, dtype=meaning.dtype, device=meaning.device)
            args = (args[0], like) if str(node.target).startswith(_TYPED) else (like, *args[1:])
        if not _depends_on_image_or_batch((args, kwargs)):
            with torch.no_grad():
                return node.target(*args, **kwargs)  # type: ignore[operator]
        if isinstance(meaning, list | tuple):
            return (node, args, kwargs)  # becomes one call for each output that is selected
        target, args, output = translated(node.target, args)
        return self._append(node, node, (target, args, kwargs), output)

    def _selected(self, node: torch.fx.Node) -> Any:
        source, number = node.args
        held = self.values[source]  # type: ignore[index]
        if isinstance(held, tuple) and len(held) == 3 and isinstance(held[0], torch.fx.Node):
            origin, args, kwargs = held
            whole = (origin.target, args, kwargs)
            return self._append(origin, node, whole, number)  # type: ignore[arg-type]
        return held[number]

    def _append(
        self,
        node: torch.fx.Node,
        valued: torch.fx.Node,
        called: tuple[Any, tuple[Any, ...], Mapping[str, Any]],
        output: int | None,
    ) -> Ref:
        target, args, kwargs = called
        assert isinstance(target, torch._ops.OpOverload), f"unexpected call of {target}"
        args, kwargs = _positional(target, args, kwargs)
        call = Call(
            id=len(self.calls) + 1,
            op=str(target),
            target=target,
            args=args,
            site=self._site(node, target),
            shape=tuple(self._dimension(d) for d in valued.meta["val"].shape),
            kwargs=kwargs,
            output=output,
        )
        call = replace(call, gating=frozenset(self.gating.intersection(call.inputs)))
        constant = all(id_ in self.constant for id_ in call.inputs)
        if constant:
            self.constant.add(call.id)
        if (
            constant
            or call.op in _GATES
            or (call.gating and call.op in _CARRYING and len(call.inputs) == 1)
        ):
            self.gating.add(call.id)
        self.calls.append(call)
        return Ref(call.id)

    def _site(self, node: torch.fx.Node, target: torch._ops.OpOverload) -> str:
        """The module path, plus the operator where the module is not a leaf; unique."""
        stack = list(node.meta.get("nn_module_stack", {}).values())
        path = str(stack[-1][0]).split("@")[0] if stack else ""
        name = target._opname.removeprefix("_native_").strip("_")
        site = path if path in self.leaves and path else f"{path}.{name}".lstrip(".")
        self.sites[site] += 1
        return site if self.sites[site] == 1 else f"{site}#{self.sites[site]}"

    def _dimension(self, size: int | torch.SymInt) -> int | BatchSize:
        return size if isinstance(size, int) else self._batch_size(size)

    def _batch_size(self, size: torch.SymInt) -> int | BatchSize:
        expression = size.node.expr
        if not expression.free_symbols:
            return int(expression)
        symbol = self.symbol
        return BatchSize(lambda rows: int(expression.subs(symbol, sympy.Integer(rows))))

    def _result(self) -> int:
        output = next(node for node in self.exported.graph.nodes if node.op == "output")
        signature = self.exported.graph_signature
        if signature.buffers_to_mutate:
            name = next(iter(signature.buffers_to_mutate.values()))
            raise InputError(f"the model changes its buffer {name!r} while running; freeze it")
        returned = list(output.args[0])
        if len(returned) != 1 or not isinstance(returned[0], torch.fx.Node):
            raise InputError(
                f"the model returns {len(returned)} values where one tensor of class scores is "
                "expected; wrap it in a module that returns the scores alone"
            )
        value = self.values[returned[0]]
        if not isinstance(value, Ref) or not self._depends_on_image(value.id):
            raise InputError("the model's output does not depend on the image")
        self.output_shape = tuple(returned[0].meta["val"].shape)
        return value.id

    def _depends_on_image(self, id_: int) -> bool:
        reached = {0}
        for call in self.calls:
            if reached.intersection(call.inputs):
                reached.add(call.id)
        return id_ in reached and id_ != 0


def _mapped(arg: Any, values: Mapping[torch.fx.Node, Any]) -> Any:
    if isinstance(arg, torch.fx.Node):
        return values[arg]
    if isinstance(arg, list | tuple):
        return [_mapped(item, values) for item in arg]
    return arg


def _depends_on_image_or_batch(arg: Any) -> bool:
    if isinstance(arg, Mapping):
        return any(_depends_on_image_or_batch(item) for item in arg.values())
    if isinstance(arg, list | tuple):
        return any(_depends_on_image_or_batch(item) for item in arg)
    return isinstance(arg, Ref | BatchSize)


def _positional(
    target: torch._ops.OpOverload, args: tuple[Any, ...], kwargs: Mapping[str, Any]
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


def _refuse_unknown(calls: Sequence[Call]) -> None:
    """Refuse the whole network by the names and places of what has no rule."""
    refused: list[str] = []
    for call in calls:
        rule = rule_of(call)
        if rule is None:
            refused.append(f"{call.op} at '{call.site}' has no rule")
        elif reason := (rule.refuse(call) if rule.refuse else None):
            refused.append(f"{call.op} at '{call.site}': {reason}")
    if refused:
        more = f" (and {len(refused) - 1} more call sites)" if len(refused) > 1 else ""
        raise UnsupportedOperatorError(f"this network cannot be explained: {refused[0]}{more}")


def _check_output(shape: tuple[Any, ...], batched: bool) -> int:
    first_is_batch = not isinstance(shape[0], int) if batched and shape else True
    if len(shape) != 2 or not first_is_batch or not isinstance(shape[1], int):
        sizes = ", ".join("batch" if not isinstance(n, int) else str(n) for n in shape)
        raise InputError(
            f"the model's output has shape [{sizes}] where class scores [batch, classes] are "
            "expected; wrap it in a module that returns them"
        )
    return int(shape[1])
