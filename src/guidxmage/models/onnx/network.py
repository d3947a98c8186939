"""The network of an ONNX file, as PyTorch runs it."""

from __future__ import annotations

import warnings
from typing import Any

from onnx import ModelProto, NodeProto
from onnx2pytorch import ConvertModel
from onnx2pytorch.constants import STANDARD_LAYERS
from onnx2pytorch.convert.operations import convert_operations, get_buffer_name
from torch import Tensor, nn

from guidxmage.errors import InputError
from guidxmage.files.names import brief
from guidxmage.models.onnx.file import OnnxFile
from guidxmage.models.onnx.graph import Prepared, outputs_used
from guidxmage.models.onnx.operators import OWN, attributes_of


class NamedOutputs(dict[Any, Any]):
    """A network's outputs by their names, and by their numbers as well."""

    def __missing__(self, key: object) -> Any:
        if isinstance(key, int):
            return list(self.values())[key]
        raise KeyError(key)


class OnnxNetwork(nn.Module):
    """A converted network that takes images (B, C, H, W), wherever the file has its channels.

    It returns what the file's network gives out: a tensor, or several by their names.
    """

    def __init__(self, network: nn.Module, names: tuple[str, ...], *, channels_last: bool) -> None:
        super().__init__()
        self.network = network
        self.names = names
        self.channels_last = channels_last

    def forward(self, x: Tensor) -> Any:
        """Outputs (B, …) of images (B, C, H, W)."""
        found = self.network(x.permute(0, 2, 3, 1) if self.channels_last else x)
        if len(self.names) == 1:
            return found
        return NamedOutputs(zip(self.names, found, strict=True))


def converted(prepared: Prepared, file: OnnxFile) -> nn.Module:
    """The modules of a prepared graph. Raises InputError, with the node's name, where one fails."""
    spare = ModelProto()
    spare.CopyFrom(prepared.model)
    with warnings.catch_warnings():
        # What the converter is unsure of, the comparison with onnxruntime decides.
        warnings.simplefilter("ignore")
        try:
            found: Any = ConvertModel(prepared.model)
        except Exception as error:  # the converter raises whatever it stumbles over
            raise _refusal(_failing(spare, prepared), file, error) from error
    used = set(outputs_used(spare.graph))
    for node in spare.graph.node:
        own = prepared.own.get(node.output[0])
        if own is not None:
            if used.intersection(own.output[1:]):
                raise _refusal(own, file, NotImplementedError("more than its first output is used"))
            try:
                module = OWN[own.op_type](attributes_of(own))
            except Exception as error:  # attributes that are missing or of another kind
                raise _refusal(own, file, error) from error
            setattr(found, found.mapping[node.output[0]], module)
    _named_as_in_the_file(found, prepared.modules)
    _without_weights_twice(found)
    return found  # type: ignore[no-any-return]


def _failing(model: ModelProto, prepared: Prepared) -> NodeProto:
    """The node at which the conversion ends."""
    version = next(one.version for one in model.opset_import if one.domain in ("", "ai.onnx"))
    done = 0
    try:
        for _ in convert_operations(model.graph, version, 0, False):
            done += 1
    except Exception:  # as before
        pass
    node: NodeProto = model.graph.node[min(done, len(model.graph.node) - 1)]
    return prepared.own.get(node.output[0], node)


def _refusal(node: NodeProto, file: OnnxFile, error: Exception) -> InputError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return InputError(
        f"{file.path}: the node {brief(node.name or node.op_type)!r} ({node.op_type}) cannot be "
        f"converted: {brief(reason)}"
    )


def _named_as_in_the_file(network: Any, names: dict[str, str]) -> None:
    """Call modules what the file calls their nodes, so that layers are found by their names."""
    held = {output: getattr(network, old) for output, old in network.mapping.items()}
    for old in network.mapping.values():
        delattr(network, old)
    for output, module in held.items():
        name = _not_taken(network, names[output])
        setattr(network, name, module)
        network.mapping[output] = name


def _not_taken(network: nn.Module, name: str) -> str:
    """A name that hides nothing of the module's own."""
    while hasattr(network, name):
        name = f"{name}_"
    return name


def _without_weights_twice(network: Any) -> None:
    """Drop weights that are part of a layer already; the file's own form of all of them, too."""
    graph = network.onnx_model.graph
    needed: set[str] = set()
    for node in graph.node:
        module = getattr(network, network.mapping[node.output[0]])
        parts = module.modules() if isinstance(module, nn.Sequential) else [module]
        if not any(isinstance(part, STANDARD_LAYERS) for part in parts):
            needed.update(map(get_buffer_name, node.input))
    for tensor in graph.initializer:
        name = get_buffer_name(tensor.name)
        if name not in needed:
            delattr(network, name)
    del graph.initializer[:]
