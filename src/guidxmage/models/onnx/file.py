"""Reading an ONNX file and the data files beside it: checked before memory is taken for them.

What comes from a file is data: nothing of it is run but the operators that are listed in
`operators`, and nothing is read but the file itself and files of its own folder.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, checker

from guidxmage.errors import InputError
from guidxmage.files.names import brief
from guidxmage.files.untrusted import regular, size_in_words
from guidxmage.models.onnx.operators import DOMAINS, refuse_operator

# What protobuf holds in one message.
LARGEST = 2**31 - 1
_OLDEST_OPSET, _OLDEST_IR = 7, 3
_ITEM_BYTES: dict[int, int] = {
    TensorProto.FLOAT: 4,
    TensorProto.DOUBLE: 8,
    TensorProto.FLOAT16: 2,
    TensorProto.BFLOAT16: 2,
    TensorProto.INT8: 1,
    TensorProto.UINT8: 1,
    TensorProto.INT16: 2,
    TensorProto.UINT16: 2,
    TensorProto.INT32: 4,
    TensorProto.INT64: 8,
    TensorProto.UINT32: 4,
    TensorProto.UINT64: 8,
    TensorProto.BOOL: 1,
}
# Where numbers lie that are not packed into bytes, by their type.
_FIELDS: dict[int, str] = {
    TensorProto.FLOAT: "float_data",
    TensorProto.DOUBLE: "double_data",
    TensorProto.INT64: "int64_data",
    TensorProto.UINT32: "uint64_data",
    TensorProto.UINT64: "uint64_data",
}
_EXTERNAL = TensorProto.EXTERNAL


@dataclass(frozen=True)
class OnnxFile:
    """An ONNX file with all its numbers, and the SHA-256 of its bytes and its data files'."""

    path: Path
    model: ModelProto
    sha256: str


def read_onnx(path: Path) -> OnnxFile:
    """A network that can be converted: its graph, and its numbers of the sizes that it states.

    Raises InputError for what is no ONNX file, a damaged one, one that states sizes it does not
    hold or data outside of its folder, and, by the node's name, for operators that are not run.
    """
    content = _bytes(path)
    model = ModelProto()
    try:
        model.ParseFromString(content)
    except Exception as error:  # protobuf has several kinds of errors, by its implementation
        raise InputError(f"{path} is no ONNX file, or a damaged one") from error
    _check_texts(model, path)
    _check_model(model, path)
    digest = hashlib.sha256(content)
    del content
    reader = _Tensors(path, digest)
    for tensor in model.graph.initializer:
        reader.check(tensor)
    context = _context(model)
    for node in model.graph.node:
        _check_node(node, context, path)
        for attribute in node.attribute:
            for tensor in [attribute.t, *attribute.tensors]:
                reader.check(tensor)
    _check_links(model.graph, path)
    return OnnxFile(path, model, digest.hexdigest())


def _bytes(path: Path) -> bytes:
    size = regular(path).stat().st_size
    if size > LARGEST:
        raise InputError(
            f"{path} has {size_in_words(size)}; ONNX files of at most {size_in_words(LARGEST)} are "
            "read"
        )
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error


def _check_texts(message: Any, path: Path) -> None:
    """Raise InputError where a name is no text in UTF-8, which some readers of this format pass."""
    for field, value in message.ListFields():
        if field.type not in (field.TYPE_MESSAGE, field.TYPE_STRING):
            continue
        listed = (
            [value] if isinstance(value, str | bytes) or hasattr(value, "ListFields") else value
        )
        for one in listed:
            if isinstance(one, bytes):
                raise InputError(f"{path} is a damaged ONNX file: {field.name} is no text in UTF-8")
            if not isinstance(one, str):
                _check_texts(one, path)


def _check_model(model: ModelProto, path: Path) -> None:
    """Raise InputError for another format, another version, or more than one graph."""
    graph = model.graph
    if not model.ir_version or not graph.node or not graph.output:
        raise InputError(f"{path} is no ONNX file of a network, or a damaged one")
    versions = {one.domain: one.version for one in model.opset_import}
    opset = next((versions[domain] for domain in DOMAINS if domain in versions), None)
    newest = onnx.defs.onnx_opset_version()
    if opset is None:
        raise InputError(f"{path} does not say which version of ONNX's operators it has")
    if not _OLDEST_OPSET <= opset <= newest or model.ir_version < _OLDEST_IR:
        raise InputError(
            f"{path} has version {opset} of ONNX's operators (format {model.ir_version}); versions "
            f"{_OLDEST_OPSET} to {newest} are read: export it again with another opset"
        )
    if model.functions:
        raise InputError(
            f"{path} has functions of its own ({brief(model.functions[0].name)}); export it with "
            "them inlined"
        )
    if graph.sparse_initializer:
        raise InputError(f"{path} holds sparse weights, which are not read")


def _context(model: ModelProto) -> Any:
    """What onnx's own checker has to know to check a node."""
    found = checker.C.CheckerContext()
    found.ir_version = model.ir_version
    found.opset_imports = {one.domain: one.version for one in model.opset_import}
    return found


def _check_node(node: NodeProto, context: Any, path: Path) -> None:
    refuse_operator(node, path)
    if not node.output or not node.output[0]:
        raise InputError(f"{path}: the node {brief(node.name)!r} has no output")
    for one in node.attribute:
        if one.HasField("g") or one.graphs or one.ref_attr_name:
            raise InputError(f"{path}: the node {brief(node.name)!r} holds a graph of its own")
    try:
        checker.check_node(node, context)
    except Exception as error:  # a kind of its own, and those of the conversion to its form
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{path}: the node {brief(node.name)!r} is no {node.op_type} as ONNX has it: "
            f"{brief(reason)}"
        ) from error


def _check_links(graph: GraphProto, path: Path) -> None:
    """Whether every node's inputs are there before it; what stands twice has two meanings."""
    weights = [tensor.name for tensor in graph.initializer]
    known = {*weights, *(one.name for one in graph.input), ""}
    if len(set(weights)) != len(weights):
        raise InputError(f"{path} has weights of the same name twice")
    for node in graph.node:
        for name in node.input:
            if name not in known:
                raise InputError(
                    f"{path}: the node {brief(node.name)!r} takes {brief(name)!r}, which nothing "
                    "before it gives"
                )
        made = [name for name in node.output if name]
        if known.intersection(made) or len(set(made)) != len(made):
            raise InputError(f"{path}: the node {brief(node.name)!r} gives what is there already")
        known.update(made)
    for one in graph.output:
        if one.name not in known:
            raise InputError(f"{path}: nothing gives the output {brief(one.name)!r}")


class _Tensors:
    """Checks tensors, and reads those that lie in files beside the model; counts their bytes."""

    def __init__(self, path: Path, digest: hashlib._Hash) -> None:
        self._path, self._digest = path, digest
        self._left = LARGEST - path.stat().st_size

    def check(self, tensor: TensorProto) -> None:
        """Raise InputError where a tensor does not hold what it states; read it where it lies."""
        if tensor.data_type == TensorProto.UNDEFINED and not tensor.dims and not tensor.name:
            return  # an attribute that is no tensor
        name = brief(tensor.name)
        if tensor.data_type == TensorProto.STRING:
            raise InputError(f"{self._path}: {name!r} holds texts, which no network computes with")
        if tensor.data_type not in _ITEM_BYTES:
            kind = _type_name(tensor.data_type)
            raise InputError(
                f"{self._path}: {name!r} holds {kind} numbers; quantised networks are not read: "
                "export it in float32"
            )
        if any(size < 0 for size in tensor.dims) or len(tensor.dims) > 16:
            raise InputError(f"{self._path}: {name!r} states the shape {list(tensor.dims)}")
        promised = math.prod(tensor.dims) * _ITEM_BYTES[tensor.data_type]
        if tensor.data_location == _EXTERNAL:
            self._read(tensor, promised)
        there = _held(tensor)
        if there != promised:
            raise InputError(
                f"{self._path}: {name!r} promises {size_in_words(promised)} where "
                f"{size_in_words(there)} are"
            )

    def _read(self, tensor: TensorProto, promised: int) -> None:
        """Take a tensor's numbers from its data file."""
        stated = {one.key: one.value for one in tensor.external_data}
        file = self._beside(stated.get("location", ""))
        offset = _whole(stated.get("offset", "0"))
        length = _whole(stated.get("length", str(promised)))
        size = file.stat().st_size
        if offset is None or length != promised or offset + promised > size:
            raise InputError(
                f"{self._path}: {brief(tensor.name)!r} promises {size_in_words(promised)}, which "
                f"{file.name} of {size_in_words(size)} does not hold there"
            )
        self._left -= promised
        if self._left < 0:
            raise InputError(
                f"{self._path} has more than {size_in_words(LARGEST)} with its data files; larger "
                "networks are not read"
            )
        with file.open("rb") as stream:
            stream.seek(offset)
            tensor.raw_data = stream.read(promised)
        self._digest.update(tensor.raw_data)
        tensor.data_location = TensorProto.DEFAULT
        del tensor.external_data[:]

    def _beside(self, location: str) -> Path:
        """A data file; only in the model's own folder, also where links are followed."""
        folder = self._path.resolve().parent
        outside = InputError(
            f"{self._path} takes its numbers from {brief(location)!r}; data files lie in the "
            "model's own folder"
        )
        try:
            wanted = Path(location)
            if not location or wanted.is_absolute() or ".." in wanted.parts or "\\" in location:
                raise outside
            file = (folder / wanted).resolve()
        except (OSError, ValueError, RuntimeError) as error:
            raise outside from error
        if folder not in file.parents:
            raise outside
        return regular(file)


def _held(tensor: TensorProto) -> int:
    """How many bytes of numbers a tensor has."""
    if tensor.HasField("raw_data"):
        return len(tensor.raw_data)
    field = _FIELDS.get(tensor.data_type, "int32_data")
    return len(getattr(tensor, field)) * _ITEM_BYTES[tensor.data_type]


def _type_name(number: int) -> str:
    known: dict[int, str] = {value: key for key, value in TensorProto.DataType.items()}
    return known.get(number, f"unknown ({number})").lower()


def _whole(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None
