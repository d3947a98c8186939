"""Damaged and malicious ONNX files: one sentence each, and no memory that a file only states."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

if not all(map(importlib.util.find_spec, ("onnx", "onnxruntime", "onnx2pytorch"))):
    pytest.skip("the extra onnx is not installed", allow_module_level=True)

import onnx
from onnx import ModelProto, TensorProto, helper

from guidxmage import Explainer
from guidxmage.errors import InputError, UnsupportedOperatorError
from guidxmage.models import load_model, load_onnx
from tests.onnx_files import changed, head, head_weights, numbers, plain, weight, written

node = helper.make_node
Change = Callable[[ModelProto], Any]


def _explained(path: Path) -> None:
    image = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    Explainer.load(str(path)).explain(image)


def _refused(path: Path, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        _explained(path)
    assert len(str(caught.value).splitlines()) == 1
    assert str(path) in str(caught.value)


def _at(operator: str, *inputs: str, **attributes: Any) -> list[Any]:
    """`head` with an operator before it."""
    nodes = [node(operator, ["image", *inputs], ["x"], name="odd one", **attributes), *head()]
    nodes[1].input[0] = "x"
    return nodes


# --- no ONNX file, or not all of one -------------------------------------------------------------


def test_no_file(tmp_path: Path) -> None:
    _refused(tmp_path / "none.onnx", "does not exist")
    (tmp_path / "folder.onnx").mkdir()
    _refused(tmp_path / "folder.onnx", "is a folder")
    for content in (b"", b"nothing", b"\x80\x02}q\x00.", bytes(64)):
        (tmp_path / "net.onnx").write_bytes(content)
        _refused(tmp_path / "net.onnx", "is no ONNX file")


def test_cut_off_or_overwritten_anywhere(tmp_path: Path) -> None:
    """A sentence, or the network."""
    path = plain(tmp_path / "net.onnx")
    whole = path.read_bytes()
    generator = np.random.default_rng(0)
    for trial in range(80):
        content = bytearray(whole)
        if trial % 2:
            content = content[: int(generator.integers(len(whole)))]
        else:
            for place in generator.integers(len(whole), size=3):
                content[place] = generator.integers(256)
        path.write_bytes(content)
        with suppress(InputError, UnsupportedOperatorError):
            _explained(path)


def _opset(version: int) -> Change:
    return lambda model: setattr(model.opset_import[0], "version", version)


def _no_opset(model: ModelProto) -> None:
    del model.opset_import[:]


def _function(model: ModelProto) -> None:
    model.functions.add(name="own function", domain="here")


def _twice(model: ModelProto) -> None:
    model.graph.initializer.add().CopyFrom(model.graph.initializer[0])


def _again(model: ModelProto) -> None:
    model.graph.node[1].output[0] = "c"


def _from_nowhere(model: ModelProto) -> None:
    model.graph.node[1].input[0] = "nothing"


def _no_output(model: ModelProto) -> None:
    model.graph.output[0].name = "nothing"


def _second_input(model: ModelProto) -> None:
    value = helper.make_tensor_value_info("other", TensorProto.FLOAT, [1])
    model.graph.input.add().CopyFrom(value)


def _huge(model: ModelProto) -> None:
    model.graph.initializer[0].dims[0] = 2**40


def _negative(model: ModelProto) -> None:
    model.graph.initializer[0].dims[0] = -5


def _texts(model: ModelProto) -> None:
    model.graph.initializer[1].data_type = TensorProto.STRING


def _int4(model: ModelProto) -> None:
    model.graph.initializer[1].data_type = TensorProto.INT4


def _sparse(model: ModelProto) -> None:
    model.graph.sparse_initializer.add()


def _nested(model: ModelProto) -> None:
    one = model.graph.node[1].attribute.add(name="body", type=onnx.AttributeProto.GRAPH)
    one.g.name = "inner"


def _kernel(model: ModelProto) -> None:
    model.graph.node[0].attribute.add().CopyFrom(
        helper.make_attribute("kernel_shape", [2**15, 2**15])
    )


def _text_input(model: ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.STRING


CHANGES: dict[str, tuple[Change, str]] = {
    "old": (_opset(3), "version 3 of ONNX's operators"),
    "of the future": (_opset(99), "version 99 of ONNX's operators"),
    "no opset": (_no_opset, "does not say which version"),
    "functions": (_function, "functions of its own"),
    "weights twice": (_twice, "same name twice"),
    "values twice": (_again, "'relu' gives what is there already"),
    "from nowhere": (_from_nowhere, "'relu' takes 'nothing'"),
    "no output": (_no_output, "nothing gives the output"),
    "two inputs": (_second_input, "2 inputs .image and other."),
    "huge": (_huge, "'w' promises .* where 540 bytes are"),
    "negative": (_negative, "states the shape"),
    "texts": (_texts, "holds texts"),
    "four bits": (_int4, "int4 numbers; quantised networks"),
    "sparse": (_sparse, "sparse weights"),
    "a graph in a node": (_nested, "'relu' holds a graph of its own"),
    "a kernel of another size": (_kernel, "weights do not fit it"),
    "no image": (_text_input, "takes no images"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_refused(tmp_path: Path, name: str) -> None:
    change, words = CHANGES[name]
    _refused(changed(plain(tmp_path / "net.onnx"), change), words)


def test_input_of_another_kind(tmp_path: Path) -> None:
    _refused(plain(tmp_path / "net.onnx", shape=["n", 20]), "n?…×20, which is no image")


# --- operators -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operator", "words"),
    [
        ("RandomUniformLike", "'odd one' is RandomUniformLike, an operator that is not run"),
        ("ImageDecoder", "'odd one' is ImageDecoder"),
        ("DynamicQuantizeLinear", "'odd one' is DynamicQuantizeLinear: quantised"),
        ("Loop", "'odd one' is Loop"),
        ("Load", "'odd one' is Load"),
    ],
)
def test_operators_that_are_not_run(tmp_path: Path, operator: str, words: str) -> None:
    _refused(written(tmp_path / "net.onnx", _at(operator), head_weights()), words)


def test_operators_of_others(tmp_path: Path) -> None:
    nodes = _at("FusedConv", domain="com.microsoft")
    path = written(tmp_path / "net.onnx", nodes, head_weights(), domains=["com.microsoft"])
    _refused(path, "'odd one' is com.microsoft's FusedConv; only ONNX's own")
    # That another domain is named does no harm.
    _explained(plain(tmp_path / "plain.onnx", domains=["ai.onnx.ml"]))


def test_what_the_converter_does_not_have(tmp_path: Path) -> None:
    nodes = _at("BatchNormalization", "s", "s", "s", "s", training_mode=1)
    path = written(tmp_path / "net.onnx", nodes, [*head_weights(), weight("s", 3)])
    _refused(path, "'odd one' .BatchNormalization. cannot be converted: it is in training mode")
    nodes = _at("Pad", "n", mode="sideways")
    path = written(tmp_path / "net.onnx", nodes, [*head_weights(), numbers("n", [0] * 8)])
    _refused(path, "'odd one' .Pad. cannot be converted: Pad mode sideways not implemented")


def test_computed_weights(tmp_path: Path) -> None:
    nodes = [node("Neg", ["w"], ["u"]), *head()]
    nodes[1].input[1] = "u"
    path = written(tmp_path / "net.onnx", nodes, head_weights())
    _refused(path, "'first/Conv' is a convolution whose weights are computed")


# --- memory --------------------------------------------------------------------------------------


@pytest.mark.parametrize("operator", ["Expand", "Tile", "Resize", "Pad", "ConstantOfShape"])
def test_values_larger_than_any_layers(tmp_path: Path, operator: str) -> None:
    """A few bytes that ask for a terabyte."""
    side = 2**18
    given: dict[str, tuple[list[str], Any]] = {
        "Expand": (["image", "n"], numbers("n", [2**36, 3, 8, 8])),
        "Tile": (["image", "n"], numbers("n", [1, 1, side, side])),
        "Resize": (["image", "", "", "n"], numbers("n", [1, 3, side, side])),
        "Pad": (["image", "n"], numbers("n", [0, 0, side, side, 0, 0, side, side])),
        "ConstantOfShape": (["n"], numbers("n", [1, 3, side, side])),
    }
    inputs, sizes = given[operator]
    nodes = [node(operator, inputs, ["x"], name="odd one"), *head()]
    nodes[1].input[0] = "x"
    path = written(tmp_path / "net.onnx", nodes, [*head_weights(), sizes])
    _refused(path, "more than any layer needs|cannot be run on an image")


# --- data files ----------------------------------------------------------------------------------


def _outside(path: Path, location: str, **stated: str) -> Path:
    """A file whose first weights lie in another one."""

    def moved(model: ModelProto) -> None:
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in {"location": location, **stated}.items():
            tensor.external_data.add(key=key, value=value)

    return changed(plain(path), moved)


def test_weights_beside_the_file(tmp_path: Path) -> None:
    whole = load_model(str(plain(tmp_path / "whole.onnx")))
    raw = bytes(head_weights()[0].raw_data)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "w.bin").write_bytes(b"12345678" + raw)
    path = _outside(tmp_path / "net.onnx", "data/w.bin", offset="8", length=str(len(raw)))
    loaded = load_model(str(path))
    image = torch.rand(1, 3, 8, 8)
    assert torch.equal(loaded.model(image), whole.model(image))
    # The data file is part of what the network is known by.
    (tmp_path / "data" / "w.bin").write_bytes(b"12345678" + raw[::-1])
    sha = re.findall(r"SHA-256 (\w+)", loaded.weights)
    assert sha != re.findall(r"SHA-256 (\w+)", load_model(str(path)).weights)


@pytest.mark.parametrize("where", ["../w.bin", "/etc/hostname", "a/../../w.bin", "", "link", "\0"])
def test_data_outside_of_the_folder(tmp_path: Path, where: str) -> None:
    raw = bytes(head_weights()[0].raw_data)
    folder = tmp_path / "inner"
    folder.mkdir()
    (tmp_path / "w.bin").write_bytes(raw)
    (folder / "link").symlink_to(tmp_path / "w.bin")
    _refused(_outside(folder / "net.onnx", where), "data files lie in the model's own folder")


def test_data_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        load_onnx(_outside(tmp_path / "net.onnx", "w.bin"))
    (tmp_path / "w.bin").write_bytes(bytes(100))
    _refused(_outside(tmp_path / "net.onnx", "w.bin"), "does not hold there")
    (tmp_path / "w.bin").write_bytes(bytes(2000))
    _refused(_outside(tmp_path / "net.onnx", "w.bin", offset="1999"), "does not hold there")
    _refused(_outside(tmp_path / "net.onnx", "w.bin", offset="-4"), "does not hold there")
    _refused(_outside(tmp_path / "net.onnx", "w.bin", length="9" * 19), "does not hold there")
