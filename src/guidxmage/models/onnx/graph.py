"""An ONNX graph made plain: in float32, scores before their softmax, without what does nothing.

Done on the file's own form, before anything is converted: `reference` is what onnxruntime runs,
`prepared` what is converted, and both have the same outputs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import (
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    ValueInfoProto,
    helper,
    numpy_helper,
)

from guidxmage.errors import InputError
from guidxmage.files.names import brief
from guidxmage.models.onnx.file import OnnxFile
from guidxmage.models.onnx.fused import fuse_gelu
from guidxmage.models.onnx.operators import OWN, Attributes, attributes_of

FLOAT = TensorProto.FLOAT
_FLOATS: dict[int, str] = {
    TensorProto.FLOAT: "float32",
    TensorProto.DOUBLE: "float64",
    TensorProto.FLOAT16: "float16",
    TensorProto.BFLOAT16: "bfloat16",
}
# What may stand last, and is taken off so that the scores are logits.
_LAST = {"Softmax": "softmax", "LogSoftmax": "log-softmax", "Sigmoid": "sigmoid"}
_PASSING = ("Identity", "Dropout")


@dataclass(frozen=True)
class Prepared:
    """A graph that can be converted, and what was changed in it.

    reference: the file's own graph in float32 with the same outputs, for onnxruntime. names: the
    outputs, as the file calls them. own: the nodes that are made here, by their first output.
    modules: what each node's module is to be called, by its first output. words: what was changed.
    """

    model: ModelProto
    reference: ModelProto
    names: tuple[str, ...]
    own: dict[str, NodeProto]
    modules: dict[str, str]
    words: tuple[str, ...]


def prepare(file: OnnxFile, *, keep_last: bool = False) -> Prepared:
    """Make a file's graph plain; keep_last: leave a last softmax or sigmoid where it is.

    Raises InputError where it does not take one image, or weights are no constants.
    """
    model = ModelProto()
    model.CopyFrom(file.model)
    graph = model.graph
    words = _to_float32(graph)
    image = the_input(graph, file)
    names = tuple(one.name for one in graph.output)
    if not keep_last:
        words += _without_last(graph)
    _used_only(graph)
    for one in list(graph.input):  # weights, which older files list as inputs
        if one.name != image.name:
            graph.input.remove(one)
    reference = ModelProto()
    reference.CopyFrom(model)
    _without_passing(graph)
    _constants_as_weights(graph)
    _bounds_as_numbers(graph)
    fuse_gelu(graph)
    _used_only(graph)
    _check_weights(graph, file)
    modules = _renamed(graph)
    own = {}
    for node in graph.node:
        if node.op_type in OWN:
            own[node.output[0]] = _placed(node)
    return Prepared(model, reference, names, own, modules, tuple(words))


def the_input(graph: GraphProto, file: OnnxFile) -> ValueInfoProto:
    """The one input that is no weight. Raises InputError where there are none or several."""
    weights = {tensor.name for tensor in graph.initializer}
    found = [one for one in graph.input if one.name not in weights]
    if len(found) != 1:
        there = " and ".join(brief(one.name) for one in found) or "none"
        raise InputError(
            f"{file.path} has {len(found)} inputs ({there}); networks of one image are explained"
        )
    image: ValueInfoProto = found[0]
    return image


# --- one precision -------------------------------------------------------------------------------


def _to_float32(graph: GraphProto) -> list[str]:
    """Turn all floating-point numbers into float32; the words for it where there were others."""
    found: set[int] = set()

    def taken(kind: int) -> bool:
        other = kind in _FLOATS and kind != TensorProto.FLOAT
        if other:
            found.add(kind)
        return other

    for tensor in _tensors(graph):
        if taken(tensor.data_type):
            array = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    for node in graph.node:
        for one in node.attribute:
            if one.name in ("to", "dtype", "stash_type") and taken(one.i):
                one.i = TensorProto.FLOAT
    for value in [*graph.input, *graph.output]:
        if taken(value.type.tensor_type.elem_type):
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    del graph.value_info[:]  # stated types, which are others now
    kinds = " and ".join(sorted(_FLOATS[kind] for kind in found))
    return [f"{kinds} computed in float32"] if kinds else []


def _tensors(graph: GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for one in node.attribute:
            if one.HasField("t"):
                yield one.t
            yield from one.tensors


# --- what is taken out ---------------------------------------------------------------------------


def _without_last(graph: GraphProto) -> list[str]:
    """Let outputs be what goes into a last softmax or sigmoid."""
    made_by = {name: node for node in graph.node for name in node.output}
    gone = set()
    for one in graph.output:
        node = made_by.get(one.name)
        while node is not None and node.op_type in (*_PASSING, "Cast"):
            node = made_by.get(node.input[0])
        if node is None or node.op_type not in _LAST or node.input[0] not in made_by:
            continue
        gone.add(_LAST[node.op_type])
        one.CopyFrom(ValueInfoProto(name=node.input[0]))
    if len({one.name for one in graph.output}) < len(graph.output):
        # Scores and probabilities of them: both are given, and both are the scores now.
        _distinct_outputs(graph)
    return [f"its {word} taken off, so that scores are logits" for word in sorted(gone)]


def _distinct_outputs(graph: GraphProto) -> None:
    """Give an output that stands twice a name of its own the second time."""
    seen: set[str] = set()
    taken = {name for node in graph.node for name in node.output}
    for one in graph.output:
        if one.name in seen:
            name = _free(f"{one.name}_again", taken)
            graph.node.append(NodeProto(op_type="Identity", input=[one.name], output=[name]))
            one.name = name
        seen.add(one.name)


def _used_only(graph: GraphProto) -> None:
    """Drop nodes and weights that no output depends on."""
    needed = {one.name for one in graph.output}
    kept = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
            kept.append(node)
    copies = [_copied(node) for node in reversed(kept)]
    del graph.node[:]
    graph.node.extend(copies)
    for tensor in [one for one in graph.initializer if one.name not in needed]:
        graph.initializer.remove(tensor)


def _without_passing(graph: GraphProto) -> None:
    """Drop nodes that give what they are given, and casts of weights to the type they have."""
    weights = {tensor.name: tensor.data_type for tensor in graph.initializer}
    kept_names = {one.name for one in graph.output}
    same: dict[str, str] = {}
    kept = []
    for node in graph.node:
        inputs = [same.get(name, name) for name in node.input]
        node.ClearField("input")
        node.input.extend(inputs)
        passes = node.op_type in _PASSING
        if node.op_type == "Cast":
            passes = weights.get(inputs[0]) == attributes_of(node)["to"]
        if passes and node.output[0] not in kept_names:
            same[node.output[0]] = inputs[0]
            continue
        if passes:
            del node.output[1:], node.input[1:], node.attribute[:]
            node.op_type = "Identity"
        kept.append(_copied(node))
    del graph.node[:]
    graph.node.extend(kept)


def _constants_as_weights(graph: GraphProto) -> None:
    """Let constants in the graph be weights, which layers may be made of."""
    kept = []
    for node in graph.node:
        if node.op_type != "Constant":
            kept.append(_copied(node))
            continue
        graph.initializer.append(_constant(node))
    del graph.node[:]
    graph.node.extend(kept)


def _constant(node: NodeProto) -> TensorProto:
    name = node.output[0]
    for key, value in attributes_of(node).items():
        if key == "value":
            found = TensorProto()
            found.CopyFrom(value)
            found.name = name
            return found
        if key in ("value_float", "value_floats"):
            return numpy_helper.from_array(np.array(value, dtype=np.float32), name)
        if key in ("value_int", "value_ints"):
            return numpy_helper.from_array(np.array(value, dtype=np.int64), name)
    raise InputError(f"the node {brief(node.name or name)!r} is a constant without numbers")


def _bounds_as_numbers(graph: GraphProto) -> None:
    """Let constant bounds of a Clip be its attributes, as they once were: numbers, not tensors."""
    weights = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        bounds = list(zip(("min", "max"), node.input[1:], strict=False))
        known = all(name in weights for _, name in bounds if name)
        of_floats = all(weights[name].data_type == FLOAT for _, name in bounds if name in weights)
        if node.op_type != "Clip" or not known or not of_floats:
            continue
        for key, name in bounds:
            if name and math.prod(weights[name].dims) == 1:
                value = float(numpy_helper.to_array(weights[name]).item())
                node.attribute.append(helper.make_attribute(key, value))
        del node.input[1:]


def _check_weights(graph: GraphProto, file: OnnxFile) -> None:
    """The weights of convolutions are constants, of the shape that the convolution states."""
    weights = {tensor.name: tensor.dims for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type not in ("Conv", "ConvTranspose"):
            continue
        reason = ""
        if not all(name in weights for name in node.input[1:] if name):
            reason = "are computed, which is not read"
        elif len(node.input) < 2 or not _fits(weights[node.input[1]], attributes_of(node)):
            reason = "do not fit it"
        if reason:
            raise InputError(
                f"{file.path}: the node {brief(node.name)!r} is a convolution whose weights "
                f"{reason}"
            )


def _fits(shape: Sequence[int], attributes: Attributes) -> bool:
    """Whether weights of a shape are those that a convolution's attributes state."""
    kernel, groups = list(shape[2:]), attributes.get("group", 1)
    stated = list(attributes.get("kernel_shape", kernel))
    return 1 <= len(kernel) <= 3 and stated == kernel and groups >= 1 and shape[0] % groups == 0


# --- names ---------------------------------------------------------------------------------------


def _renamed(graph: GraphProto) -> dict[str, str]:
    """Give values names of their own, and choose what each node's module is called.

    The file's names may be any text, and the converter turns some into the same one.
    """
    taken: set[str] = set()
    modules, new = {}, {"": ""}
    for number, one in enumerate([*graph.input, *graph.initializer]):
        new[one.name] = f"given{number}"
        one.name = new[one.name]
    for number, node in enumerate(graph.node):
        for place, name in enumerate(node.output):
            if name:
                new[name] = f"value{number}_{place}"
        for field in ("input", "output"):
            names = [new[name] for name in getattr(node, field)]
            node.ClearField(field)
            getattr(node, field).extend(names)
        called = re.sub(r"\W+", "_", node.name, flags=re.ASCII).strip("_")[-80:] or node.op_type
        called = called if called[0].isalpha() else f"node_{called}"
        modules[node.output[0]] = _free(called, taken)
    for one in graph.output:
        one.name = new[one.name]
    return modules


def _free(name: str, taken: set[str]) -> str:
    found, number = name, 1
    while found in taken:
        number += 1
        found = f"{name}_{number}"
    taken.add(found)
    return found


def _placed(node: NodeProto) -> NodeProto:
    """A copy of a node that is made here; what it leaves is a place for the converter to keep."""
    own = _copied(node)
    node.op_type = "Identity"
    del node.output[1:], node.attribute[:]
    return own


def _copied(node: NodeProto) -> NodeProto:
    copy = NodeProto()
    copy.CopyFrom(node)
    return copy


def outputs_used(graph: GraphProto) -> Iterable[str]:
    """The names of all values that are taken by a node or given out."""
    for node in graph.node:
        yield from node.input
    for one in graph.output:
        yield one.name
