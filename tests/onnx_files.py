"""Small ONNX files, whole and broken, for the tests."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import NodeProto, TensorProto, helper, numpy_helper
from torch import nn

FLOAT = TensorProto.FLOAT


class Small(nn.Module):
    """Convolutions, batch norm, a clip, both pools and a linear layer; piecewise linear."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 6, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(6),
            nn.ReLU6(),
            nn.Conv2d(6, 6, 3, groups=2),
            nn.LeakyReLU(0.1),
            nn.MaxPool2d(3, 2, 1, ceil_mode=True),
            nn.AvgPool2d(2, 1, 1, count_include_pad=False),
        )
        self.head = nn.Linear(6, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, classes)."""
        y = self.features(x)
        return self.head(torch.flatten(nn.functional.adaptive_avg_pool2d(y, 1), 1))


def seeded(net: nn.Module, seed: int = 0) -> nn.Module:
    """A network in evaluation mode with weights and statistics that matter."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in net.state_dict().items():
            if tensor.is_floating_point():
                drawn = torch.randn(tensor.shape, generator=generator)
                tensor.copy_(drawn.abs() + 0.5 if "var" in name else 0.5 * drawn)
    return net.eval()


def exported(net: nn.Module, path: Path, *, opset: int = 18, **options: Any) -> Path:
    """A network as torch.onnx writes it, for images 3 × 12 × 12 in a dynamic batch."""
    image = options.pop("image", torch.zeros(1, 3, 12, 12))
    options.setdefault("dynamic_axes", {"image": {0: "batch"}})
    options.setdefault("output_names", ["scores"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net,
            (image,),
            str(path),
            opset_version=opset,
            dynamo=False,
            input_names=["image"],
            **options,
        )
    return path


def weight(name: str, *shape: int, seed: int = 0) -> TensorProto:
    """Drawn numbers."""
    drawn = np.random.default_rng(seed).standard_normal(shape)
    return numpy_helper.from_array(drawn.astype(np.float32), name)


def numbers(name: str, values: Any, kind: type = np.int64) -> TensorProto:
    """These numbers."""
    return numpy_helper.from_array(np.array(values, dtype=kind), name)


def written(path: Path, nodes: list[NodeProto], weights: list[TensorProto], **options: Any) -> Path:
    """A file of these nodes, which take "image" and give "scores"."""
    shape = options.pop("shape", ["batch", 3, 8, 8])
    kind = options.pop("kind", FLOAT)
    outputs = options.pop("outputs", ["scores"])
    notes = options.pop("notes", {})
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("image", kind, shape)],
        [helper.make_tensor_value_info(name, FLOAT, None) for name in outputs],
        weights,
    )
    domains = [helper.make_opsetid("", options.pop("opset", 18))]
    domains += [helper.make_opsetid(one, 1) for one in options.pop("domains", [])]
    model = helper.make_model(graph, opset_imports=domains)
    model.ir_version = options.pop("ir_version", 10)
    if notes:
        helper.set_model_props(model, notes)
    assert not options, options
    path.write_bytes(model.SerializeToString())
    return path


def head(classes: int = 4, channels: int = 5, last: str = "scores") -> list[NodeProto]:
    """Convolution, ReLU, average over the image, linear layer."""
    del classes, channels
    return [
        helper.make_node("Conv", ["image", "w"], ["c"], name="first/Conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["p"], name="pool"),
        helper.make_node("Flatten", ["p"], ["f"], name="flat"),
        helper.make_node("Gemm", ["f", "v"], [last], name="fc", transB=1),
    ]


def head_weights(inputs: int = 3) -> list[TensorProto]:
    """Those of `head`."""
    return [weight("w", 5, inputs, 3, 3), weight("v", 4, 5, seed=1)]


def plain(path: Path, **options: Any) -> Path:
    """The file of `head`."""
    return written(path, head(), head_weights(), **options)


def changed(path: Path, change: Any) -> Path:
    """A file after `change(model)`."""
    model = onnx.ModelProto()
    model.ParseFromString(path.read_bytes())
    change(model)
    path.write_bytes(model.SerializeToString())
    return path
