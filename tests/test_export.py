"""Exported explanations: the same numbers without this package, on images the export never saw."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from guidxmage import Explainer, InputError, UnsupportedOperatorError
from guidxmage.cli import app
from guidxmage.engine.program.precision import widened
from guidxmage.engine.trail.trail import Trail
from guidxmage.export import OUTPUTS, check, explaining, export, read_trail, trail_hash
from guidxmage.export.formats import METADATA, traced
from guidxmage.export.module import USUAL
from guidxmage.export.targets import graph_target
from guidxmage.export.writing import SCHEMA
from guidxmage.inputs.preprocessing import Preprocessing
from guidxmage.proof.rounding.fidelity import Runs, unexplained
from guidxmage.provenance import fingerprint
from tests.laws import random_like
from tests.npm_packages import onnxruntime_web
from tests.viewer_tools import program

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
LABELS = ["a", "b", "c", "d", "e"]
SIZE = (3, 16, 16)


class Branches(nn.Module):
    """Two paths of convolutions, joined and added: what the networks in use are made of."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, 1),
        )
        self.wide = nn.Sequential(nn.Conv2d(8, 4, 3, padding=1), nn.ReLU6())
        self.deep = nn.Sequential(
            nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Hardtanh(-1, 2), nn.Conv2d(8, 4, 1)
        )
        self.last = nn.Sequential(
            nn.AvgPool2d(3, 1, 1), nn.Conv2d(8, 6, 2, stride=2), nn.LeakyReLU(0.1), nn.Dropout(0.5)
        )
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = torch.cat([self.wide(x), self.deep(x)], 1) + x
        left, right = x.chunk(2, 1)
        x = self.last(torch.cat([right, left], 1))
        return self.head(torch.flatten(x.mean([2, 3], keepdim=True), 1))


def branches(dtype: torch.dtype = torch.float64) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = Branches().to(dtype).eval()
        model.wide[0].weight.data.mul_(8)  # so that some values are above 6
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.3, 2)
                module.weight.data.normal_(1, 0.3)
                module.bias.data.normal_(0, 0.3)
    return model


def explainer_of(dtype: torch.dtype = torch.float64, *, pixels: bool = True) -> Explainer:
    known = Preprocessing(resize=SIZE[1:], mean=MEAN, std=STD) if pixels else None
    return Explainer(branches(dtype), preprocessing=known, labels=LABELS)


def images(count: int, dtype: torch.dtype = torch.float64, seed: int = 5) -> Tensor:
    """Pixels in [0, 1]; the last has large flat areas, full of ties."""
    generator = torch.Generator().manual_seed(seed)
    found = torch.rand(count, *SIZE, dtype=torch.float64, generator=generator)
    found[-1] = (found[-1] * 3).round() / 3
    found[-1, :, 4:12] = 0.5
    return found.to(dtype)


def same(found: dict[str, Any], explained: Any, relative: float) -> None:
    """Every output against the explanation's field of that name."""
    for name, given in found.items():
        values = torch.as_tensor(given)
        if name == "residual":
            assert bool((values.abs() <= explained.residual_bound).all()), "residual"
            own = torch.as_tensor(found.get("bound", explained.residual_bound))
            assert bool((values.abs() <= own).all()), "beyond the graph's own bound"
            continue
        if name == "bound":
            ratio = values / explained.residual_bound
            assert values.shape == explained.residual_bound.shape
            assert 0.5 < float(ratio.min()) <= float(ratio.max()) < 4, ratio
            continue
        if name == "trail":
            assert values.tolist() == packed(explained.trail).tolist()
            continue
        expected = getattr(explained, name)
        assert values.shape == expected.shape, name
        if name == "target":
            assert torch.equal(values, expected)
            continue
        size = float(expected.abs().max()) + float(explained.logits.abs().max())
        apart = float((values.double() - expected.double()).abs().max())
        assert apart <= relative * size, f"{name} differs by {apart / size:.1e}"


def packed(trail: Trail) -> Tensor:
    """All planes of a trail, one after the other, (B, bytes)."""
    return torch.cat([plane for entry in trail.values() for plane in entry.planes], 1)


TARGETS = {
    "best": ("top1", {}, "top1"),
    "three best": (("top", 3), {}, ("top", 3)),
    "all": ("all", {}, "all"),
    "a class": ("c", {}, 2),
    "classes": (("classes", [4, 1]), {}, ("classes", [4, 1])),
    "given": ("given", {"class_index": 3}, 3),
    "contrast": (("contrast", "top1", "top2"), {}, ("contrast", "top1", "top2")),
    "contrast with a given class": (
        ("contrast", "top1", "given"),
        {"against_index": 4},
        ("contrast", "top1", 4),
    ),
}


# Where no map is placed the bias is added up in another way.
@pytest.mark.parametrize("outputs", [OUTPUTS, USUAL], ids=["all outputs", "the usual ones"])
@pytest.mark.parametrize("name", TARGETS)
def test_the_module_gives_what_explain_gives(name: str, outputs: tuple[str, ...]) -> None:
    target, given, asked = TARGETS[name]
    explainer = explainer_of()
    module, _ = explaining(explainer, target, outputs=outputs)
    for count in (1, 5):
        X = images(count)
        more = {key: torch.full((count,), value) for key, value in given.items()}
        for laid_out in (X, X.contiguous(memory_format=torch.channels_last)):
            with torch.no_grad():
                found = module(laid_out, **more)
            assert set(found) == set(outputs)
            same(found, explainer.explain(laid_out, asked), 1e-13)


@pytest.mark.parametrize("reference", [None, "black", 0.25, "an image"])
@pytest.mark.parametrize("pixels", [True, False])
def test_spaces_and_references(reference: Any, pixels: bool) -> None:
    if reference == "an image":
        reference = images(1, seed=8)[0]
    if reference == "black" and not pixels:
        return
    explainer = explainer_of(pixels=pixels)
    shape = None if pixels else SIZE
    module, said = explaining(explainer, reference=reference, shape=shape, outputs=OUTPUTS)
    X = images(2)
    with torch.no_grad():
        same(module(X), explainer.explain(X, reference=reference), 1e-13)
    assert said["space"] == ("pixels" if pixels else "input")


def test_bytes_are_normalised_inside() -> None:
    explainer = explainer_of()
    module, said = explaining(explainer, from_bytes=True)
    X = (images(3) * 255).round().to(torch.uint8)
    with torch.no_grad():
        same(module(X), explainer.explain(X.double() / 255), 1e-13)
    assert said["inputs"][0] == {"name": "images", "dtype": "uint8", "shape": ["batch", *SIZE]}


@pytest.mark.parametrize("depth", ["default", "input", 8, "wide", "first.0"])
def test_the_whole_score_on_the_picture(depth: Any) -> None:
    """At every depth, one value or several crossing it, as `explain` has it, with its sum."""
    explainer = explainer_of()
    asked = ("top", 2)
    module, said = explaining(explainer, asked, depth=depth)
    X = images(3)
    with torch.no_grad():
        found = module(X)
    explained = explainer.explain(X, asked, depth=depth)
    same(found, explained, 1e-12)
    total = found["whole"].flatten(2).sum(2) + found["unplaced"]
    assert bool(((found["score"] - total).abs() <= explained.at().residual_bound).all())
    assert float(found["unplaced"].abs().min()) > 0, "the last layer's bias has no place"
    assert said["depth"]["site"] == explained.at().depth.site
    assert said["outputs"][-2:] == ["whole", "unplaced"]


def test_a_bound_that_is_of_both_sums() -> None:
    """With a whole map asked for it covers what is left of either sum, and is no smaller."""
    explainer, X = explainer_of(torch.float32), images(3, torch.float32)
    bounds = []
    for depth in (None, "default"):
        module, _ = explaining(explainer, depth=depth, outputs=["score", "residual", "bound"])
        with torch.no_grad():
            found = module(X)
        bounds.append(found["bound"])
        assert bool((found["residual"].abs() <= found["bound"]).all())
        if depth is not None:
            left = found["score"] - found["whole"].flatten(1).sum(1) - found["unplaced"]
            assert bool((left.abs() <= found["bound"]).all())
    assert bool((bounds[1] >= bounds[0]).all())


def test_a_packed_trail_is_the_trail() -> None:
    """Two images' trails are compared, and have the hash that explanations and data sets state."""
    explainer, X = explainer_of(), images(3)
    module, said = explaining(explainer, outputs=["trail"])
    with torch.no_grad():
        packed_trails = module(X)["trail"].numpy()
    explained = explainer.explain(X)
    trail = read_trail(packed_trails, said)
    assert trail.same(explained.trail).all()
    first = explainer.trail(X[:1])
    assert torch.equal(trail.distance(first).total, explained.trail.distance(first).total)
    for own, one in zip(packed_trails, explained, strict=True):
        assert trail_hash(own, said) == fingerprint.of_planes(one.trail, one.trail.gates)
    for wrong, sentence in (
        (packed_trails[:, 1:], "bytes for an image"),
        (packed_trails.astype(np.int64), "array of bytes"),
    ):
        with pytest.raises(InputError, match=sentence):
            read_trail(wrong, said)
    with pytest.raises(InputError, match="one by one"):
        trail_hash(packed_trails, said)
    with pytest.raises(InputError, match="no packed site"):
        read_trail(packed_trails, {"trail": [{**said["trail"][0], "planes": 10**9}]})


def test_the_hash_in_javascript(tmp_path: Path) -> None:
    """What the page shows gives the hash that Python gives."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs node")
    page = (Path(__file__).parent.parent / "docs/export.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"    // JavaScript, Node;.*?\n\n", page, re.DOTALL)
    module, said = explaining(explainer_of(), outputs=["trail"])
    with torch.no_grad():
        row = module(images(1))["trail"][0].numpy()
    given = f"const row = Buffer.from({row.tolist()}), sites = {json.dumps(said['trail'])};\n"
    script = tmp_path / "hash.mjs"
    script.write_text(f'import {{ createHash }} from "node:crypto";\n{given}{code}')
    told = subprocess.run([node, str(script)], capture_output=True, check=True, timeout=60)
    assert told.stdout.decode().strip() == trail_hash(row, said)


def test_an_explainer_exports_itself(tmp_path: Path) -> None:
    explainer = explainer_of()
    written = explainer.export(tmp_path / "graph", format="pt2", target=2, depth="input")
    assert (written.format, written.metadata["target"]) == ("pt2", "2")
    graph = torch.export.load(written.path).module()
    same(graph(images(2)), explainer.explain(images(2), 2, depth="input"), 1e-12)


def test_the_model_is_left_as_it_was_and_lends_its_weights() -> None:
    model = branches()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    explainer = Explainer(model, preprocessing=Preprocessing(resize=16, crop=16))
    module, _ = explaining(explainer)
    assert {one.data_ptr() for one in model.parameters()} <= {
        one.data_ptr() for one in module.buffers()
    }
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_graph_takes_any_number_of_images(tmp_path: Path) -> None:
    explainer = explainer_of()
    path = tmp_path / "graph.pt2"
    written = export(explainer, path, target=("top", 2), outputs=OUTPUTS)
    assert written.format == "pt2"
    said = {METADATA: ""}
    graph = torch.export.load(path, extra_files=said)
    assert json.loads(said[METADATA]) == written.metadata
    operators = {str(n.target) for n in graph.graph.nodes if n.op == "call_function"}
    assert not any("backward" in one or "mkldnn" in one or "guidxmage" in one for one in operators)
    for count in (1, 4, 7):
        X = images(count, seed=count)
        same(graph.module()(X), explainer.explain(X, ("top", 2)), 1e-13)


def test_nothing_of_one_image_is_in_the_graph() -> None:
    """Traced on two images that differ, the graph is the same."""
    module, _ = explaining(explainer_of())
    graphs = [traced(module, images(2, seed=seed)) for seed in (1, 2)]
    first, second = ([n.format_node() for n in one.graph.nodes] for one in graphs)
    assert first == second
    for name, value in graphs[0].constants.items():
        assert torch.equal(value, graphs[1].constants[name])


# --- ONNX ----------------------------------------------------------------------------------------


def run_onnx(path: Path, X: Tensor, **given: int) -> dict[str, Any]:
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    feed = {"images": X.numpy(), **{k: np.full(len(X), v) for k, v in given.items()}}
    names = [one.name for one in session.get_outputs()]
    return dict(zip(names, session.run(None, feed), strict=True))


@pytest.fixture(scope="module")
def small_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("onnxscript")
    path = tmp_path_factory.mktemp("onnx") / "small.onnx"
    export(explainer_of(torch.float32), path, target="given", from_bytes=True, outputs=OUTPUTS)
    return path


def test_onnxruntime_in_float64_gives_what_explain_gives(tmp_path: Path) -> None:
    """It has no convolutions in float64; with one, `check` says so in a sentence."""
    pytest.importorskip("onnxscript")
    with torch.random.fork_rng():
        torch.manual_seed(1)
        dense = nn.Sequential(nn.Flatten(), nn.Linear(768, 20), nn.ReLU(), nn.Linear(20, 5))
    explainer = Explainer(dense.double().eval())
    path = tmp_path / "dense.onnx"
    export(explainer, path, target=("top", 2), outputs=OUTPUTS, shape=SIZE)
    for count in (1, 5):
        X = images(count, seed=20 + count)
        same(run_onnx(path, X), explainer.explain(X, ("top", 2)), 1e-12)
    assert check(path).holds
    export(explainer_of(), tmp_path / "conv.onnx")
    with pytest.raises(InputError, match=r"no graph that onnxruntime takes: .*Conv"):
        check(tmp_path / "conv.onnx")


def test_onnxruntime_in_float32_on_bytes(small_onnx: Path) -> None:
    explainer = explainer_of(torch.float32)
    for count in (1, 5):
        X = (images(count, seed=count) * 255).round().to(torch.uint8)
        found = run_onnx(small_onnx, X, class_index=4)
        same(found, explainer.explain(X.float() / 255, 4), 1e-5)


def test_another_runtime_in_javascript(
    small_onnx: Path, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    """The same file in onnxruntime-web under Node: every output, on images it never saw."""
    node, folder = program("node"), onnxruntime_web(pytestconfig)
    for count in (1, 5):
        X = (images(count, seed=count) * 255).round().to(torch.uint8)
        pixels = tmp_path / "pixels.bin"
        pixels.write_bytes(X.numpy().tobytes())
        command = [node, Path(__file__).with_name("run_onnx.mjs"), folder, small_onnx, pixels]
        told = subprocess.run(
            [*map(str, command), str(count)], capture_output=True, check=True, timeout=120
        )
        found = {
            name: np.array(one["data"]).reshape(one["dims"])
            for name, one in json.loads(told.stdout).items()
        }
        assert set(found) == set(OUTPUTS)
        found["target"] = found["target"].astype(np.int64)
        same(found, explainer_of(torch.float32).explain(X.float() / 255, 3), 1e-5)


def test_a_file_says_what_it_is(small_onnx: Path) -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load(small_onnx)
    said = json.loads({one.key: one.value for one in model.metadata_props}[METADATA])
    assert said["labels"] == LABELS
    assert said["preprocessing"]["mean"] == list(MEAN)
    assert said["reference"] == "network's zero"
    assert said["exactness"] == "on region"
    assert said["made_by"]["torch"] == torch.__version__
    assert [one.name for one in model.graph.output] == said["outputs"] == list(OUTPUTS)
    assert [one.name for one in model.graph.input] == ["images", "class_index"]
    assert {one.domain for one in model.graph.node} == {""}, "only standard operators"


def test_the_self_check(small_onnx: Path) -> None:
    checked = check(small_onnx)
    assert checked.holds
    assert {one.name for one in checked.deviations} >= set(OUTPUTS)
    assert all(one.found < one.allowed or one.found == 0 for one in checked.deviations)


def test_the_self_check_notices_another_weight(small_onnx: Path, tmp_path: Path) -> None:
    """The classifier's weights are larger by a hundredth."""
    onnx = pytest.importorskip("onnx")
    model = onnx.load(small_onnx)
    tensor = next(one for one in model.graph.initializer if list(one.dims) == [5, 6])
    values = onnx.numpy_helper.to_array(tensor) * np.float32(1.01)
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    path = tmp_path / "changed.onnx"
    onnx.save(model, path)
    assert not check(path).holds


@pytest.mark.parametrize("output", ["residual", "bound", "class_index"])
@pytest.mark.parametrize("factor", [0, -1])
def test_the_self_check_notices_a_number_that_is_made_up(
    output: str, factor: int, small_onnx: Path, tmp_path: Path
) -> None:
    """An output, or the class that is given, is multiplied by 0 or by −1."""
    onnx = pytest.importorskip("onnx")
    model = onnx.load(small_onnx)
    kind = np.int64 if output == "class_index" else np.float64
    made = onnx.numpy_helper.from_array(np.array(factor, kind), "factor")
    model.graph.initializer.append(made)
    real = f"{output}_real"
    for node in model.graph.node:
        for names in (node.input, node.output):
            for number, name in enumerate(names):
                if name == output:
                    names[number] = real
    ends = (output, real) if output == "class_index" else (real, output)
    added = onnx.helper.make_node("Mul", [ends[0], "factor"], [ends[1]], name="made_up")
    place = 0 if output == "class_index" else len(model.graph.node)
    model.graph.node.insert(place, added)
    path = tmp_path / "changed.onnx"
    onnx.save(model, path)
    assert not check(path).holds


def test_an_output_that_is_gone_is_told(small_onnx: Path, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load(small_onnx)
    gone = next(one for one in model.graph.output if one.name == "contributions")
    model.graph.output.remove(gone)
    onnx.save(model, tmp_path / "changed.onnx")
    with pytest.raises(InputError, match="has no output contributions"):
        check(tmp_path / "changed.onnx")


@pytest.mark.parametrize("side", ["class_index", "against_index"])
def test_a_contrast_with_no_class_is_nothing(side: str) -> None:
    explainer = explainer_of()
    asked = ("given", "top1") if side == "class_index" else ("top1", "given")
    module, _ = explaining(explainer, ("contrast", *asked), outputs=OUTPUTS)
    lowest = int(explainer.logits(images(3))[2].argmin())
    with torch.no_grad():
        found = module(images(3), **{side: torch.tensor([9, -1, lowest])})
    for name in ("score", "contributions", "weights", "bias", "whole"):
        assert not found[name][:2].any(), name
        assert found[name][2].any(), name


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda said: said["check"]["tolerance"].update(maps=1e308), "is no limit"),
        (lambda said: said["check"]["tolerance"].update(maps=-1.0), "is no limit"),
        (lambda said: said.update(space="foo"), "no space"),
        (lambda said: said.pop("schema"), "schema"),
        (lambda said: said.update(schema="other"), "another version"),
        (lambda said: said["check"].update(image="%%%"), "damaged"),
        (lambda said: said["check"].update(shape=[3, 16, 15]), "not of the shape"),
        (lambda said: said["check"].update(shape=[3, 10**9, 10**9]), "is no shape"),
        (lambda said: said["check"].update(score=["x"]), "no list of numbers"),
        (lambda said: said["check"].update(score=[1.0, 2.0]), "2 numbers for score"),
        (lambda said: said["check"].pop("tolerance"), "tolerance"),
        (lambda said: said["check"].update(given={}), "class_index"),
        (lambda said: said.update(inputs=[]), "does not tell of"),
        (lambda said: said["check"].update(shape=[2**16, 2**16]), "larger than any"),
        (lambda said: said["check"]["given"].update(class_index=2**64 - 1), "is no class"),
        (lambda said: said["check"].update(trail="%"), "trail of the self-check is damaged"),
        (lambda said: said["check"].update(trail=""), "not as long"),
        (lambda said: said["check"]["norms"].pop("whole"), "whole"),
        (lambda said: said["check"]["tolerance"].update(trail=None), "trail"),
    ],
)
def test_what_a_file_says_is_not_believed(
    change: Any, sentence: str, small_onnx: Path, tmp_path: Path
) -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load(small_onnx)
    said = json.loads(model.metadata_props[0].value)
    change(said)
    model.metadata_props[0].value = json.dumps(said)
    path = tmp_path / "changed.onnx"
    onnx.save(model, path)
    with pytest.raises(InputError, match=sentence):
        check(path)


def test_what_is_no_such_file_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    with pytest.raises(InputError, match="is no file"):
        check(tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_text("no graph")
    with pytest.raises(InputError, match="no graph that onnxruntime takes"):
        check(tmp_path / "text.onnx")
    helper = onnx.helper
    values = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1]) for n in "xy"]
    node = helper.make_node("Relu", ["x"], ["y"])
    graph = helper.make_graph([node], "other", values[:1], values[1:])
    other = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    other.ir_version = 10
    onnx.save(other, tmp_path / "other.onnx")
    with pytest.raises(InputError, match="not written by guid-xmage"):
        check(tmp_path / "other.onnx")


@pytest.mark.parametrize("damage", ["declared sizes", "a file elsewhere", "a sequence"])
def test_hostile_graphs_are_refused_in_a_sentence(damage: str, tmp_path: Path) -> None:
    """What the graph itself declares: terabytes, data outside its folder, no numbers."""
    pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    helper, kinds = onnx.helper, onnx.TensorProto
    weight = kinds(name="w", data_type=kinds.FLOAT, dims=[4, 4], raw_data=bytes(64))
    if damage == "declared sizes":
        weight = kinds(name="w", data_type=kinds.FLOAT, dims=[2**20, 2**20], raw_data=b"none")
    if damage == "a file elsewhere":
        weight = kinds(name="w", data_type=kinds.FLOAT, dims=[4, 4], data_location=kinds.EXTERNAL)
        weight.external_data.add(key="location", value="/etc/passwd")
    images = helper.make_tensor_value_info("images", kinds.FLOAT, ["batch", 3, 4, 4])
    logits = helper.make_tensor_value_info("logits", kinds.FLOAT, None)
    nodes = [helper.make_node("Add", ["images", "w"], ["logits"])]
    if damage == "a sequence":
        nodes = [helper.make_node("SequenceConstruct", ["images", "w"], ["logits"])]
        logits = helper.make_tensor_sequence_value_info("logits", kinds.FLOAT, None)
    graph = helper.make_graph(nodes, "other", [images], [logits], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    model.ir_version = 10
    said = {
        **{"schema": SCHEMA, "space": "input", "inputs": [{"name": "images"}]},
        "outputs": ["logits"],
        "check": {
            **{"shape": [3, 4, 4], "given": {}, "residual_bound": [1.0], "logits": [1.0]},
            "image": base64.b64encode(zlib.compress(bytes(48))).decode(),
        },
    }
    model.metadata_props.add(key=METADATA, value=json.dumps(said))
    path = tmp_path / "hostile.onnx"
    path.write_bytes(model.SerializeToString())
    found = CliRunner().invoke(app, ["export", "--check", str(path)])
    assert found.exit_code == 2, found.output
    assert found.output.count("\n") <= 3
    assert (
        "no array of numbers" in found.output or "no graph that onnxruntime takes" in found.output
    )


def test_the_triton_layout_fits_the_graph() -> None:
    """Names, types and sizes of the documented configuration are those of EfficientNet-Lite0's."""
    page = (Path(__file__).parent.parent / "docs/export.md").read_text(encoding="utf-8")
    part = page.partition("## Triton")[2].partition("\n## ")[0]
    usual, optional = re.findall(r"```text\n(.*?)```", part, re.DOTALL)
    kinds = {torch.uint8: "UINT8", torch.float32: "FP32", torch.float64: "FP64"}
    known = Preprocessing(resize=SIZE[1:], mean=MEAN, std=STD)
    module, said = explaining(
        Explainer(branches(torch.float32), preprocessing=known), from_bytes=True, outputs=OUTPUTS
    )
    X = torch.zeros(2, *SIZE, dtype=torch.uint8)
    with torch.no_grad():
        given = {"images": X, **module(X)}
    pixels = [3, 224, 224]
    sizes = {"images": pixels, "contributions": pixels, "weights": pixels, "whole": pixels[1:]}
    sizes |= {"logits": [1000], "trail": [-1]}
    for config, names in (
        (usual, ("images", *USUAL)),
        (optional, [name for name in OUTPUTS if name not in USUAL]),
    ):
        found = {
            name: (kind, [int(n) for n in dims.replace(",", " ").split()])
            for name, kind, dims in re.findall(
                r'name: "(\w+)" data_type: TYPE_(\w+) dims: \[([ \d,-]*)\]', config
            )
        }
        assert list(found) == list(names)
        for name, (kind, dims) in found.items():
            assert kind == kinds.get(given[name].dtype, "INT64")
            assert dims == sizes.get(name, [1])
            assert len(dims) == max(1, given[name].ndim - 1)
    assert said["outputs"] == list(OUTPUTS)


# --- what cannot be exported ---------------------------------------------------------------------


class Through(nn.Module):
    """A convolution, then a function."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.conv, self.function = nn.Conv2d(3, 4, 3), function

    def forward(self, x: Tensor) -> Tensor:
        return torch.flatten(self.function(self.conv(x)), 1)


@pytest.mark.parametrize(
    ("function", "named"),
    [
        (lambda x: x.cumprod(2), "aten.cumprod.default at '"),
        (torch.linalg.inv, "aten.linalg_inv_ex.default at"),
        (torch.floor, "aten.flatten.using_ints at"),
        (lambda x: x if x.sum() > 0 else -x, "branches"),
    ],
)
def test_what_has_no_such_form_is_refused_by_name(
    function: Any, named: str, tmp_path: Path
) -> None:
    path = tmp_path / "graph.pt2"
    with pytest.raises(UnsupportedOperatorError, match="cannot be exported") as refused:
        export(Explainer(Through(function).eval()), path, shape=(3, 6, 6))
    assert named in str(refused.value)
    assert not list(tmp_path.iterdir())


def test_what_onnx_lacks_is_refused_by_name(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    explainer = Explainer(Through(lambda x: x.cummax(2).values).eval())
    with pytest.raises(UnsupportedOperatorError, match=r"aten\.cummax\.default at '.*ONNX"):
        export(explainer, tmp_path / "graph.onnx", shape=(3, 6, 6))
    assert not list(tmp_path.iterdir())
    export(explainer, tmp_path / "graph.pt2", shape=(3, 6, 6))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"format": "tensorflow"}, "'tensorflow' is not known"),
        ({"outputs": ["logits", "map"]}, "'map' is not known"),
        ({"outputs": []}, "no output"),
        ({"target": [0, 1]}, "the same of every image"),
        ({"depth": ["input", 8]}, "one depth"),
        ({"depth": "nowhere"}, "nowhere"),
        ({"target": "giraffe"}, "giraffe"),
        ({"target": ("top", 9)}, "9 best"),
        ({"target": ("contrast", "a", ("top", 2))}, "two classes"),
        ({"shape": (3, 0, 4)}, "channels, height and width"),
    ],
)
def test_bad_questions_are_refused(options: Any, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=sentence):
        export(explainer_of(), tmp_path / "graph.pt2", **options)
    assert not list(tmp_path.iterdir())


def test_sizes_and_bytes_need_a_preprocessing(tmp_path: Path) -> None:
    own = explainer_of(pixels=False)
    with pytest.raises(InputError, match="give shape"):
        export(own, tmp_path / "graph.pt2")
    with pytest.raises(InputError, match="uint8"):
        export(own, tmp_path / "graph.pt2", shape=SIZE, from_bytes=True)


def test_a_file_that_is_there_stays(tmp_path: Path) -> None:
    path = tmp_path / "graph.pt2"
    path.write_text("mine")
    with pytest.raises(InputError, match="is there already"):
        export(explainer_of(), path)
    assert path.read_text() == "mine"


def test_words_for_targets() -> None:
    assert graph_target("top5", 9).count == 5
    assert graph_target("top1", 9).words == "the 1 best"
    given = graph_target(("contrast", "given", "given"), 9)
    assert given.inputs == ("class_index", "against_index")
    assert graph_target(("contrast", 3, "top2"), 9).words == "3 rather than the second best"


# --- the command ---------------------------------------------------------------------------------

MODEL = """
import torch
from tests.test_export import MEAN, SIZE, STD, branches
from guidxmage.inputs.preprocessing import Preprocessing

def build():
    model = branches(torch.float32)
    model.preprocessing = Preprocessing(resize=SIZE[1:], mean=MEAN, std=STD)
    return model
"""


def test_the_command_writes_and_checks(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    (tmp_path / "model.py").write_text(MODEL)
    made_of = ["--model", f"{tmp_path}/model.py:build", "--size", "3x16x16"]
    path = str(tmp_path / "graph.onnx")
    words = ["export", *made_of, "--target", "top1", "--rather-than", "given", "--out", path]
    words += ["--depth", "input", "--outputs", "score,residual,bound,trail"]
    written = CliRunner().invoke(app, [*words, "--json"])
    assert written.exit_code == 0, written.output
    said = json.loads(written.stdout)
    assert said["bytes"] == Path(path).stat().st_size
    assert [one["name"] for one in said["inputs"]] == ["images", "against_index"]
    assert said["outputs"] == ["score", "residual", "bound", "whole", "unplaced", "trail"]
    assert said["depth"]["site"] == "input"
    again = CliRunner().invoke(app, words)
    assert again.exit_code == 2
    assert "is there already" in again.output
    checked = CliRunner().invoke(app, ["export", "--check", path])
    assert checked.exit_code == 0, checked.output
    assert "gives the numbers in the file" in checked.stdout


def test_the_command_notices_a_changed_graph(small_onnx: Path, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load(small_onnx)
    said = json.loads(model.metadata_props[0].value)
    said["check"]["logits"][0] += 0.5
    model.metadata_props[0].value = json.dumps(said)
    path = tmp_path / "changed.onnx"
    onnx.save(model, path)
    found = CliRunner().invoke(app, ["export", "--check", str(path), "--json"])
    assert found.exit_code == 1
    told = json.loads(found.stdout)
    assert not told["holds"]
    assert [one["name"] for one in told["outputs"] if not one["holds"]] == ["logits"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["export"], "--out"),
        (["export", "--out", "x.onnx", "--size", "big"], "--size big"),
        (["export", "--check", "none.onnx"], "is no file"),
    ],
)
def test_the_command_refuses_in_a_sentence(words: list[str], sentence: str) -> None:
    found = CliRunner().invoke(app, words)
    assert found.exit_code == 2
    assert sentence in found.output


# --- smooth networks, compiled graphs ------------------------------------------------------------


def test_a_smooth_network_by_its_convention() -> None:
    """SiLU, hardswish, group-norm and squeeze-excite, their gates frozen at each image."""

    class Smooth(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4)
            self.squeeze, self.head = nn.Conv2d(4, 4, 1), nn.Linear(4, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = nn.functional.silu(self.norm(self.conv(x)))
            x = nn.functional.hardswish(x * torch.sigmoid(self.squeeze(x.mean((2, 3), True))))
            return self.head(x.mean((2, 3)))

    with torch.random.fork_rng():
        torch.manual_seed(0)
        explainer = Explainer(Smooth().double().eval())
    with pytest.raises(InputError, match="decides nothing"):
        explaining(explainer, shape=SIZE, outputs=OUTPUTS)
    outputs = [name for name in OUTPUTS if name != "trail"]
    module, said = explaining(explainer, shape=SIZE, outputs=outputs)
    assert said["exactness"] == "at input"
    graph = traced(module, torch.zeros(2, *SIZE, dtype=torch.float64)).module()
    for count in (1, 5):
        X = random_like((count, *SIZE), count)
        same(graph(X), explainer.explain(X), 1e-12)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
def test_a_compiled_graph(tmp_path: Path) -> None:
    """Also on an image full of ties: fused kernels round neighbours otherwise, so that another of
    them is the first. Then ambiguous decisions, and no others, fall otherwise."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        head = nn.Sequential(nn.ReLU6(), nn.MaxPool2d(3, 2, 1), nn.Flatten(), nn.Linear(96, 5))
        explainer = Explainer(nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), *head).eval(), name="small")
    path = tmp_path / "graph.aoti.pt2"
    written = export(explainer, path, depth="default", outputs=OUTPUTS, shape=SIZE)
    assert written.format == "aoti"
    compiled = torch._inductor.aoti_load_package(str(path))
    said = json.loads(compiled.get_metadata()[METADATA])
    assert said["model"] == "small"
    network = explainer.network(SIZE)
    for count in (1, 5):
        X = images(count + 1, torch.float32)
        found, explained = compiled(X), explainer.explain(X, depth="default")
        assert bool((found["residual"].abs() <= found["bound"]).all())
        trail = read_trail(found["trail"], said)
        alike = trail.same(explained.trail)
        assert bool(alike[:-1].all()), "without ties"
        without = {name: value[:-1] for name, value in found.items()}
        same(without, explainer.explain(X[:-1], depth="default"), 1e-5)
        runs = Runs.of(network.program, widened(network.program), network.to_input(X[-1:]))
        assert unexplained(runs, trail.image(count)) is None
