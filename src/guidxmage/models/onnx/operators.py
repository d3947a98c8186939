"""The operators of ONNX that are run, and those of them that are made here.

The rest is refused by name: what runs code or draws numbers, what has no slope, what is of no use
to a network that is explained.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from onnx import NodeProto, TensorProto, helper
from torch import Tensor, nn
from torch.nn import functional

from guidxmage.errors import InputError
from guidxmage.files.names import brief

DOMAINS = ("", "ai.onnx")
# Converted by onnx2pytorch.
_CONVERTED = """
    Abs Add And ArgMax ArgMin Atan AveragePool Ceil Celu Clip Concat ConstantOfShape Conv
    ConvTranspose Cos CumSum DepthToSpace Div Einsum Elu Equal Erf Exp Expand Flatten Floor
    GatherElements GatherND Gelu GlobalAveragePool GlobalMaxPool Greater
    GreaterOrEqual GridSample HardSigmoid HardSwish LRN LeakyRelu Less LessOrEqual Log
    LogSoftmax LpNormalization Max MaxPool Mean Min Mish Mod Mul Neg NonZero Not Or PRelu
    Pad Pow Range Reciprocal ReduceL1 ReduceL2 ReduceLogSumExp ReduceMax ReduceMean
    ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize Round ScatterElements
    ScatterND Selu Shape Sigmoid Sign Sin Size Softmax Softplus Softsign SpaceToDepth
    Split Sqrt Squeeze Sub Sum Tanh ThresholdedRelu Tile TopK Transpose Trilu Unsqueeze
    Upsample Where Xor
"""
CONVERTED = frozenset(_CONVERTED.split())
# Gone before anything is converted.
_FOLDED = frozenset(["Constant", "Dropout", "Identity"])
_QUANTISED = ("QuantizeLinear", "QLinear", "Integer")
_FLOATS = frozenset(
    [TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16]
)

Attributes = dict[str, Any]


def refuse_operator(node: NodeProto, path: Path) -> None:
    """Raise InputError, with the node's name, for an operator that is not run."""
    name, kind = brief(node.name or node.output[0] if node.output else node.name), node.op_type
    if node.domain not in DOMAINS:
        raise InputError(
            f"{path}: the node {name!r} is {brief(node.domain)}'s {brief(kind)}; only ONNX's own "
            "operators are run"
        )
    if kind in CONVERTED or kind in OWN or kind in _FOLDED:
        return
    if any(word in kind for word in _QUANTISED):
        raise InputError(
            f"{path}: the node {name!r} is {brief(kind)}: quantised networks are not read; export "
            "it in float32"
        )
    raise InputError(f"{path}: the node {name!r} is {brief(kind)}, an operator that is not run")


def attributes_of(node: NodeProto) -> Attributes:
    """A node's attributes as Python values."""
    return {one.name: helper.get_attribute_value(one) for one in node.attribute}


# --- made here -----------------------------------------------------------------------------------


class Kept(nn.Module):
    """Cast: floating-point numbers stay in the precision in which the network is run."""

    def __init__(self, attributes: Attributes) -> None:
        super().__init__()
        self.to_float = attributes["to"] in _FLOATS
        kind = "float32" if self.to_float else _numpy_name(attributes["to"])
        self.kind: torch.dtype = getattr(torch, kind)
        self.like: Tensor  # tells in which precision, wherever the network is brought
        self.register_buffer("like", torch.empty(0))

    def forward(self, x: Tensor) -> Tensor:
        """The same numbers, (…)."""
        if not self.to_float:
            return x.to(self.kind)
        return x if x.is_floating_point() else x.to(self.like.dtype)


class Gemm(nn.Module):
    """alpha·A'B' + beta·C, matrices (n, m)."""

    def __init__(self, attributes: Attributes) -> None:
        super().__init__()
        self.alpha = float(attributes.get("alpha", 1.0))
        self.beta = float(attributes.get("beta", 1.0))
        self.turned = bool(attributes.get("transA", 0)), bool(attributes.get("transB", 0))

    def forward(self, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
        """(n, m)."""
        a = a.t() if self.turned[0] else a
        weight = b if self.turned[1] else b.t()
        c = c if c is None or self.beta == 1 else self.beta * c
        weight = weight if self.alpha == 1 else self.alpha * weight
        plain = c is None or (c.ndim == 1 and len(c) == len(weight))
        product = functional.linear(a, weight, c if plain else None)
        return product if plain or c is None else product + c


class MatMul(nn.Module):
    """Matrices, and stacks of them; it has no attributes."""

    def __init__(self, attributes: Attributes) -> None:
        super().__init__()
        del attributes

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """(…, n, m)."""
        return torch.matmul(a, b)


class BatchNorm(nn.Module):
    """With the statistics that lie in the file."""

    def __init__(self, attributes: Attributes) -> None:
        super().__init__()
        if attributes.get("training_mode", 0):
            raise NotImplementedError("it is in training mode")
        self.eps = float(attributes.get("epsilon", 1e-5))

    def forward(self, *inputs: Tensor) -> Tensor:
        """(B, C, …) of an input (B, C, …), weight, bias, mean and variance (C,)."""
        x, weight, bias, mean, variance = inputs
        return functional.batch_norm(x, mean, variance, weight, bias, False, 0.0, self.eps)


class InstanceNorm(nn.Module):
    """Each channel of each image by its own statistics."""

    def __init__(self, attributes: Attributes) -> None:
        super().__init__()
        self.eps = float(attributes.get("epsilon", 1e-5))

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """(B, C, …)."""
        return functional.instance_norm(x, weight=weight, bias=bias, eps=self.eps)


class LayerNorm(nn.Module):
    """Over the last axes, in the precision in which the network is run."""

    def __init__(self, attributes: Attributes) -> None:
        super().__init__()
        self.eps = float(attributes.get("epsilon", 1e-5))
        self.axis = int(attributes.get("axis", -1))

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """(…)."""
        shape = list(x.shape[self.axis :])
        bias = None if bias is None else bias.expand(shape)
        return functional.layer_norm(x, shape, weight.expand(shape), bias, self.eps)


class GroupNorm(nn.Module):
    """Over groups of channels."""

    def __init__(self, attributes: Attributes) -> None:
        super().__init__()
        self.groups = int(attributes["num_groups"])
        self.eps = float(attributes.get("epsilon", 1e-5))

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """(B, C, …); weight and bias are of channels or, as once was usual, of groups."""
        each = x.shape[1] // len(weight)
        if each > 1:
            weight, bias = weight.repeat_interleave(each), bias.repeat_interleave(each)
        return functional.group_norm(x, self.groups, weight, bias, self.eps)


class Gather(nn.Module):
    """Entries along an axis."""

    def __init__(self, attributes: Attributes) -> None:
        super().__init__()
        self.axis = int(attributes.get("axis", 0))

    def forward(self, x: Tensor, indices: Tensor) -> Tensor:
        """(…)."""
        return x[_along(self.axis % x.ndim, indices.long())]


class Slice(nn.Module):
    """A part along some axes; where it lies was once an attribute and is an input today."""

    def __init__(self, attributes: Attributes) -> None:
        super().__init__()
        self.stated = [attributes.get(key) for key in ("starts", "ends", "axes", "steps")]

    def forward(self, x: Tensor, *given: Tensor | None) -> Tensor:
        """(…)."""
        where = [None if one is None else one.tolist() for one in given] or self.stated
        starts, ends, axes, steps = [*where, None, None][:4]
        axes = list(range(len(starts))) if axes is None else axes
        steps = [1] * len(starts) if steps is None else steps
        for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
            part = range(x.shape[axis])[start:end:step]
            low = min(part, default=0)
            x = x[_along(axis % x.ndim, slice(low, max(part, default=-1) + 1, abs(step)))]
            x = x.flip(axis) if step < 0 else x
        return x


def _along(axis: int, index: Tensor | slice) -> Any:
    """An index of one axis, and all of those before it."""
    return (*[slice(None)] * axis, index)


def _numpy_name(kind: int) -> str:
    return str(helper.tensor_dtype_to_np_dtype(kind).name)


OWN: dict[str, Callable[[Attributes], nn.Module]] = {
    "BatchNormalization": BatchNorm,
    "Cast": Kept,
    "Gather": Gather,
    "Gemm": Gemm,
    "GroupNormalization": GroupNorm,
    "InstanceNormalization": InstanceNorm,
    "LayerNormalization": LayerNorm,
    "MatMul": MatMul,
    "Slice": Slice,
}
"""Operators that are made here, each a module of one output.

The converter's compute in float32 whatever the network is run in, need a first image before they
have weights, take the factors of a product for those of a layer, index in a way that PyTorch
is about to change, or refuse attributes that exporters write.
"""
