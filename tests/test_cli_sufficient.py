"""guid-xmage sufficient and its verification as a user types them, and what they write."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result
from PIL import Image
from torch import Tensor, nn
from typer.testing import CliRunner

from guidxmage.adversarial import certify
from guidxmage.cli import app
from guidxmage.cli.sufficient import radius_of
from guidxmage.errors import InputError
from guidxmage.files.atomic import read_sealed
from guidxmage.files.result_folder import write_mark
from guidxmage.jobs import verify_sufficient
from guidxmage.proof.rational.vnnlib import decimal
from guidxmage.view.sufficient import (
    COLORS,
    IRRELEVANT,
    NEEDED,
    UNKNOWN,
    Counterexample,
    Decided,
    marked_picture,
    percent,
    sufficient_figure,
)

MODEL = """
import torch
from torch import nn

def build(seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 3)
    )
    for layer in (model[0], model[3], model[5]):
        nn.init.kaiming_normal_(layer.weight)
        nn.init.zeros_(layer.bias)
    return model.eval()

def other():
    return build(1)
"""
NET, RESULT, EPS = "net.py:build", "sufficient/photo", 16 / 255


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def network() -> nn.Module:
    """The network of the file, built here once more, in float64."""
    names: dict[str, Any] = {}
    exec(MODEL, names)
    model: nn.Module = names["build"]().double()
    return model.requires_grad_(False)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a network, a photo, and its sufficient pixels with queries."""
    pytest.importorskip("matplotlib")
    pytest.importorskip("onnxscript")
    folder = tmp_path_factory.mktemp("sufficient")
    (folder / "net.py").write_text(MODEL, encoding="utf-8")
    pixels = np.random.default_rng(31).integers(0, 256, (6, 6), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "photo.png")
    mask = np.zeros((6, 6), np.uint8)
    mask[2:, 2:] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        result = run("sufficient", "photo.png", "--model", NET, "--eps", "16/255", "--queries")
    assert result.exit_code == 0, result.stderr
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def loaded(folder: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    with np.load(folder / RESULT / "arrays.npz") as stored:
        return read_sealed(folder / RESULT / "manifest.json"), dict(stored.items())


def test_what_is_written_is_so(folder: Path) -> None:
    """Judged by the network built here, not by any of our code."""
    manifest, arrays = loaded(folder)
    result, model = manifest["result"], network()
    with Image.open("photo.png") as photo:
        X = torch.from_numpy(np.asarray(photo, dtype=np.float64)[None] / 255)
    assert np.array_equal(arrays["image"], X.numpy())
    own = int(model(X[None]).argmax())
    assert (result["from_class"], result["epsilon"], result["reason"]) == (own, EPS, "")
    verdicts = arrays["verdicts"]
    assert set(np.unique(verdicts)) == {NEEDED, IRRELEVANT}, "the example shows both"
    kinds = {"unknown": UNKNOWN, "needed": NEEDED, "irrelevant": IRRELEVANT}
    counts = {word: int((verdicts == kind).sum()) for word, kind in kinds.items()}
    assert result["counts"] == counts == result["pixels"]
    assert result["size"] == counts["needed"]
    assert result["minimal"]
    free = torch.from_numpy(verdicts == IRRELEVANT)
    torch.manual_seed(0)
    for scale in (1.0, 0.0):  # inside of the box, and on its corners
        noise = torch.rand(1000, 1, 6, 6).double() * 2 - 1
        noise = (noise if scale else noise.sign()) * EPS * free
        assert bool((model((X + noise).clamp(0, 1)).argmax(1) == own).all())
    assert len(arrays["counterexamples"]) == counts["needed"]
    for Z, unit in zip(arrays["counterexamples"], arrays["counterexample_of"], strict=True):
        allowed = free.clone().flatten()
        allowed[unit] = True
        assert verdicts.flatten()[unit] == NEEDED
        assert not (X.numpy() != Z)[0].flatten()[~allowed.numpy()].any()
        assert np.abs(Z - X.numpy()).max() <= EPS + 1e-15
        assert int(model(torch.from_numpy(Z)[None]).argmax()) != own


def test_the_pngs_are_counterexamples_as_they_are_read_back(folder: Path) -> None:
    manifest, _ = loaded(folder)
    model, own = network(), manifest["result"]["from_class"]
    with Image.open("photo.png") as photo:
        before = np.asarray(photo).astype(int)
    written = [one for one in manifest["counterexamples"] if one["png"] is not None]
    assert written, "16/255 is a whole number of levels"
    for one in written:
        with Image.open(folder / RESULT / one["png"]) as picture:
            after = np.asarray(picture).astype(int)
        assert np.abs(after - before).max() <= 16
        Z = torch.from_numpy(after[None, None] / 255)
        assert int(model(Z).argmax()) == one["class"] != own
    for one in manifest["counterexamples"]:
        assert (one["png"] is None) == ("not in 8 bits" in one["note"])


def test_a_radius_between_two_levels_is_rounded_inwards(folder: Path) -> None:
    result = run("sufficient", "photo.png", "--model", NET, "--eps", "0.0645", "--json")
    assert result.exit_code == 0, result.stderr
    (manifest,) = json.loads(result.stdout)
    with Image.open("photo.png") as photo:
        before = np.asarray(photo).astype(int)
    for one in manifest["counterexamples"]:
        if one["png"]:
            with Image.open(Path(manifest["folder"]) / one["png"]) as picture:
                assert np.abs(np.asarray(picture).astype(int) - before).max() <= 16


def test_a_result_is_kept_while_nothing_changed(folder: Path) -> None:
    again = run("sufficient", "photo.png", "--model", NET, "--eps", "16/255", "--queries")
    assert "kept from an earlier run" in again.stdout
    other = run("sufficient", "photo.png", "--model", NET, "--eps", "0.05", "--json")
    assert "made anew" not in other.stderr
    assert json.loads(other.stdout)[0]["result"]["epsilon"] == 0.05
    assert "queries" not in json.loads(other.stdout)[0]
    assert not (folder / RESULT / "queries").exists()
    (folder / RESULT / "note.txt").write_text("mine")
    refused = run("sufficient", "photo.png", "--model", NET, "--eps", "0.04", "--overwrite")
    assert refused.exit_code == 2
    assert "note.txt" in refused.stderr


def test_objects_contrast_and_l2(folder: Path) -> None:
    options = ("--model", NET, "--eps", "0.02", "--objects", "mask.png", "--json")
    result = run("sufficient", "photo.png", *options)
    assert result.exit_code == 0, result.stderr
    (manifest,) = json.loads(result.stdout)
    found = manifest["result"]
    assert [one["name"] for one in found["objects"]] == found["names"]
    assert len(found["names"]) == found["units"] == 2
    assert {one["suffices"] for one in found["objects"]} <= {"proved", "refuted", "unknown"}
    verified = run("verify", RESULT, "--model", NET, "--json")
    assert verified.exit_code == 0, verified.stdout
    assert f"{found['names'][0]} suffices" in checks(verified)
    own = found["from_class"]
    rival = str((own + 1) % 3)
    extra = ("--rather-than", rival, "--norm", "l2", "--eps", "0.3", "--model", NET)
    result = run("sufficient", "photo.png", *extra, "--json", "--out", "contrast")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)[0]["result"]["rather_than"] == int(rival)
    verified = run("verify", "contrast/photo", "--model", NET, "--json")
    assert verified.exit_code == 0, verified.stdout
    assert checks(verified)["claim"] is True


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("photo.png", "--eps", "8/0"), "--eps 8/0 is no radius"),
        (("photo.png", "--eps", "eight"), "--eps eight is no radius"),
        (("photo.png", "--eps", "0"), "give a fraction like 8/255"),
        (("nothing.png", "--eps", "0.1"), "nothing.png does not exist"),
        (("photo.png", "--eps", "0.1", "--label", "9"), "class 9 is out of range"),
        (("photo.png", "--eps", "0.1", "--rather-than", "coat"), "no names are known"),
        (("photo.png", "--eps", "0.1", "--order", "1,2"), "order"),
        (("photo.png", "--eps", "0.1", "--objects", "no.png"), "no.png"),
        (("photo.png", "--eps", "0.1", "--norm", "l2", "--queries"), "--queries are boxes"),
    ],
)
def test_mistakes(folder: Path, arguments: tuple[str, ...], sentence: str) -> None:
    result = run("sufficient", *arguments, "--model", NET, "--out", "bad")
    assert result.exit_code == 2, result.stdout
    assert sentence in result.stderr
    assert "Traceback" not in result.stderr
    assert not (folder / "bad").exists() or not any((folder / "bad").iterdir())


@pytest.mark.parametrize("text", ["8/255", "0.031372549019607843", " 8 / 255 ", "16e-2/5.1"])
def test_radii(text: str) -> None:
    assert radius_of(text) == pytest.approx(8 / 255, rel=1e-15)


@pytest.mark.parametrize(
    "text", ["", "/", "1/2/3", "-1/255", "nan", "inf", "1e999", "1.5", "0/255"]
)
def test_no_radii(text: str) -> None:
    with pytest.raises(InputError, match="is no radius"):
        radius_of(text)


# --- verify --------------------------------------------------------------------------------------


def checks(result: Result) -> dict[str, Any]:
    return {check["name"]: check["passed"] for check in json.loads(result.stdout)["checks"]}


def test_a_result_is_verified(folder: Path) -> None:
    result = run("verify", RESULT, "--model", NET, "--json")
    assert result.exit_code == 0, result.stdout
    found = checks(result)
    assert set(found.values()) == {True}
    assert set(found) >= {"files", "model", "image", "counterexamples", "pictures", "queries"}
    assert "claim" in found
    several = run("verify", "sufficient", "--model", NET)
    assert several.exit_code == 0
    assert "verified" in several.stdout


Forgery = Callable[[dict[str, Any], dict[str, Any]], None]


def forge(folder: Path, change: Forgery) -> None:
    """Change manifest and arrays, and seal what comes out as a forger would."""
    manifest, arrays = loaded(folder)
    change(manifest, arrays)
    np.savez(folder / RESULT / "arrays.npz", **arrays)
    del manifest["files"], manifest["digest"]
    write_mark(folder / RESULT, manifest)


def too_far(manifest: dict[str, Any], arrays: dict[str, Any]) -> None:
    Z, X = arrays["counterexamples"][0], arrays["image"]
    Z[:] = (X + 1.01 * (Z - X)).clip(0, 1)


def beside(manifest: dict[str, Any], arrays: dict[str, Any]) -> None:
    """A pixel that is neither irrelevant nor the counterexample's own."""
    needed = np.flatnonzero(arrays["unit_verdicts"] == NEEDED)
    other = next(unit for unit in needed if unit != arrays["counterexample_of"][0])
    row, column = divmod(int(other), 6)
    arrays["counterexamples"][0, 0, row, column] += 1e-6 if row else -1e-6


def unchanged(manifest: dict[str, Any], arrays: dict[str, Any]) -> None:
    arrays["counterexamples"][0] = arrays["image"]


def no_counterexample(manifest: dict[str, Any], arrays: dict[str, Any]) -> None:
    _flip(arrays, int(np.flatnonzero(arrays["unit_verdicts"] == IRRELEVANT)[0]), NEEDED)


def one_more_free(manifest: dict[str, Any], arrays: dict[str, Any]) -> None:
    """The set without its last pixel; its counterexample is taken away, and sums are made right."""
    unit = int(arrays["counterexample_of"][-1])
    _flip(arrays, unit, IRRELEVANT)
    for name in ("counterexamples", "counterexample_of", "counterexample_class"):
        arrays[name] = arrays[name][:-1]
    (Path(RESULT) / manifest["counterexamples"].pop()["png"]).unlink()
    shutil.rmtree(Path(RESULT) / "queries")
    del manifest["queries"]


def larger(manifest: dict[str, Any], arrays: dict[str, Any]) -> None:
    manifest["result"]["epsilon"] *= 1.5


def _flip(arrays: dict[str, Any], unit: int, verdict: int) -> None:
    arrays["unit_verdicts"][unit] = verdict
    arrays["verdicts"].flat[unit] = verdict


@pytest.mark.parametrize(
    ("change", "failing"),
    [
        (too_far, "counterexamples"),
        (beside, "counterexamples"),
        (unchanged, "counterexamples"),
        (no_counterexample, "counterexamples"),
        (one_more_free, "claim"),
        (larger, "claim"),
    ],
)
def test_a_forged_result_fails(folder: Path, change: Forgery, failing: str) -> None:
    """Also where every hash was made anew."""
    forge(folder, change)
    result = run("verify", RESULT, "--model", NET, "--json")
    assert result.exit_code == 1, result.stdout
    assert checks(result)["files"] is True
    assert checks(result)[failing] is False


def test_a_mask_bit_in_the_map_alone_fails(folder: Path) -> None:
    def change(manifest: dict[str, Any], arrays: dict[str, Any]) -> None:
        arrays["verdicts"].flat[0] = (arrays["verdicts"].flat[0] + 1) % 3

    forge(folder, change)
    result = run("verify", RESULT, "--model", NET, "--json")
    assert checks(result)["manifest"] is False


@pytest.mark.parametrize("name", ["counterexample_class", "parts", "image", "more"])
def test_an_array_that_was_changed_fails(folder: Path, name: str) -> None:
    def change(manifest: dict[str, Any], arrays: dict[str, Any]) -> None:
        if name == "more":
            arrays["more"] = np.zeros(1)
        else:
            arrays[name].flat[0] = 1 - arrays[name].flat[0]

    forge(folder, change)
    result = run("verify", RESULT, "--model", NET)
    assert result.exit_code == 1, result.stdout


@pytest.mark.parametrize("key", ["size", "claim", "score", "minimal", "pixels", "from_class"])
def test_a_statement_that_was_changed_fails(folder: Path, key: str) -> None:
    def change(manifest: dict[str, Any], arrays: dict[str, Any]) -> None:
        old = manifest["result"][key]
        new = {**old, "needed": 0} if isinstance(old, dict) else "all" if key == "claim" else 0
        manifest["result"][key] = False if key == "minimal" else new
        if old == new:
            manifest["result"][key] = 1

    forge(folder, change)
    result = run("verify", RESULT, "--model", NET)
    assert result.exit_code == 1, result.stdout


def more_examples(manifest: dict[str, Any], arrays: dict[str, Any]) -> None:
    manifest["counterexamples"].append(dict(manifest["counterexamples"][0]))


def no_picture(manifest: dict[str, Any], arrays: dict[str, Any]) -> None:
    (Path(RESULT) / manifest["counterexamples"][0]["png"]).write_bytes(b"no picture")


def names_without_objects(manifest: dict[str, Any], arrays: dict[str, Any]) -> None:
    manifest["result"]["names"] = [str(n) for n in range(len(arrays["unit_verdicts"]))]
    manifest["result"]["objects"] = []


def endless(manifest: dict[str, Any], arrays: dict[str, Any]) -> None:
    manifest["result"]["epsilon"] = 1e308 * 10


def unit_nine(manifest: dict[str, Any], arrays: dict[str, Any]) -> None:
    arrays["counterexample_of"][0] = 10**6


@pytest.mark.parametrize(
    "change", [more_examples, no_picture, names_without_objects, endless, unit_nine]
)
def test_damaged_results_are_no_traceback(folder: Path, change: Forgery) -> None:
    forge(folder, change)
    result = run("verify", RESULT, "--model", NET)
    assert result.exit_code in (1, 2), result.stdout
    assert result.exception is None or isinstance(result.exception, SystemExit)


def test_a_changed_query_fails(folder: Path) -> None:
    path = folder / RESULT / "queries" / "claim.vnnlib"
    path.write_text(path.read_text().replace("(or ", "(and ", 1))
    plain = run("verify", RESULT, "--model", NET)
    assert "FAIL files: queries/claim.vnnlib was changed" in plain.stdout
    forge(folder, lambda manifest, arrays: None)
    result = run("verify", RESULT, "--model", NET, "--json")
    assert result.exit_code == 1
    assert checks(result) == {**checks(result), "files": True, "queries": False}


@pytest.mark.parametrize("name", ["arrays.npz", "manifest.json", "figure.png"])
def test_a_single_changed_byte_fails(folder: Path, name: str) -> None:
    path = folder / RESULT / name
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(bytes(content))
    assert run("verify", RESULT, "--model", NET).exit_code in (1, 2)


def test_another_network_or_photo_fails(folder: Path) -> None:
    result = run("verify", RESULT, "--model", "net.py:other", "--json")
    assert result.exit_code == 1
    assert checks(result)["model"] is False
    Image.fromarray(np.zeros((6, 6), np.uint8)).save("black.png")
    result = run("verify", RESULT, "--model", NET, "--photo", "black.png", "--json")
    assert checks(result)["image"] is False
    refused = run("verify", RESULT)
    assert refused.exit_code == 2
    assert "loading it would run code" in refused.stderr


def test_what_is_not_proved_again_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It counts neither for the result nor against it."""

    def late(*arguments: Any, **options: Any) -> Any:
        answer = certify(*arguments, **options)
        return replace(answer, verdict="unknown", reason="the time is over")

    monkeypatch.setattr(verify_sufficient, "certify", late)
    result = run("verify", RESULT, "--model", NET)
    assert result.exit_code == 0
    assert "–    claim: not re-proved in the time (the time is over)" in result.stdout


# --- queries -------------------------------------------------------------------------------------


def test_every_query_is_answered_as_expected_by_z3(folder: Path) -> None:
    """The network is written out here in rationals; z3 reads the very files.

    Where an answer is to be sat, it is told the counterexample, which it need not look for.
    """
    z3 = pytest.importorskip("z3")
    manifest, arrays = loaded(folder)
    shown = {
        f"queries/needed-{unit:05}.vnnlib": Z.flatten().tolist()
        for unit, Z in zip(arrays["counterexample_of"], arrays["counterexamples"], strict=True)
    }
    expected = {one["file"]: one["expected"] for one in manifest["queries"]}
    assert set(expected.values()) == {"sat", "unsat"}
    formulas = as_formulas(network())
    for name, answer in expected.items():
        text = (folder / RESULT / name).read_text(encoding="utf-8")
        solver = z3.Solver()
        solver.set("timeout", 60_000)
        image = [decimal(Fraction(value)) for value in shown.get(name, ())]
        given = [f"(assert (= X_{n} {value}))" for n, value in enumerate(image)]
        solver.add(z3.parse_smt2_string(text + formulas + "".join(given)))
        assert str(solver.check()) == answer, name


def as_formulas(model: nn.Module) -> str:
    """Y_k of the small network as functions of X_n, in SMT-LIB."""

    def affine(weights: Tensor, bias: Tensor, names: list[str]) -> list[str]:
        return [
            f"(+ {number(b)} {' '.join(map(times, row, names))})"
            for row, b in zip(weights.tolist(), bias.tolist(), strict=True)
        ]

    lines: list[str] = []
    names = [f"X_{n}" for n in range(36)]
    # The convolution as a matrix: its values at unit images.
    conv, first, second = model[0], model[3], model[5]  # type: ignore[index]
    bias = conv(torch.zeros(1, 1, 6, 6).double()).flatten()
    matrix = (conv(torch.eye(36).double().reshape(36, 1, 6, 6)).flatten(1) - bias).T
    for letter, (weights, constant) in zip(
        "ab", ((matrix, bias), (first.weight, first.bias)), strict=True
    ):
        outputs = affine(weights, constant, names)
        names = [f"{letter}_{n}" for n in range(len(outputs))]
        for name, output in zip(names, outputs, strict=True):
            lines.append(f"(declare-const {name} Real)")
            lines.append(f"(assert (= {name} (ite (> {output} 0.0) {output} 0.0)))")
    for k, output in enumerate(affine(second.weight, second.bias, names)):
        lines.append(f"(assert (= Y_{k} {output}))")
    return "\n".join(lines)


def times(weight: float, name: str) -> str:
    return f"(* {number(weight)} {name})"


def number(value: float) -> str:
    text = format(abs(value), ".30f")
    return f"(- {text})" if value < 0 else text


def test_the_onnx_file_is_the_network(folder: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(str(folder / RESULT / "queries" / "network.onnx"))
    (given,) = session.get_inputs()
    assert given.type == "tensor(float)", "its weights are float32 numbers"
    X = torch.rand(5, 1, 6, 6, generator=torch.Generator().manual_seed(1))
    (logits,) = session.run(None, {given.name: X.numpy()})
    assert np.allclose(logits, network()(X.double()).numpy(), atol=1e-5)
    rows = (folder / RESULT / "queries" / "instances.csv").read_text().splitlines()
    manifest, _ = loaded(folder)
    assert len(rows) == len(manifest["queries"])
    assert rows[0] == "network.onnx,claim.vnnlib,60"


# --- the figure ----------------------------------------------------------------------------------


def decided(verdicts: np.ndarray) -> Decided:
    counts = {kind: int((verdicts == kind).sum()) for kind in (NEEDED, IRRELEVANT, UNKNOWN)}
    return Decided(np.full((*verdicts.shape, 1), 0.5), verdicts, "seven", 4.0, counts)


def words(figure: Any) -> str:
    return "\n".join(text.get_text() for text in figure.texts)


def test_the_figure_says_what_was_decided() -> None:
    pytest.importorskip("matplotlib")
    verdicts = np.array([[NEEDED, IRRELEVANT], [IRRELEVANT, UNKNOWN]], np.uint8)
    unit = np.array([[True, False], [False, False]])
    example = Counterexample(np.full((2, 2, 1), 0.6), "nine", 2.0, unit)
    said = words(sufficient_figure(decided(verdicts), [example], "title", ["line"]))
    for part in ("needed: 1 of 4 pixels (25 %)", "2 of 4 pixels fix the answer", "nine"):
        assert part in said
    assert "4 pixels differ, by 25.5/255 at most" in said


def test_a_figure_of_nothing_decided_says_so() -> None:
    pytest.importorskip("matplotlib")
    said = words(sufficient_figure(decided(np.zeros((3, 3), np.uint8)), [], "title", []))
    assert "unknown: 9 of 9 pixels (100 %)" in said
    assert "Nothing was decided" in said.replace("\n", " ")
    assert "all of it: nothing is irrelevant" in said


def test_the_kinds_differ_in_colour_and_in_pattern() -> None:
    pictures = {
        kind: marked_picture(decided(np.full((4, 4), kind, np.uint8)), 80).astype(float)
        for kind in COLORS
    }
    plain = pictures[NEEDED]
    assert (plain == plain[0, 0]).all()
    for kind in (IRRELEVANT, UNKNOWN):
        assert len(np.unique(pictures[kind].reshape(-1, 3), axis=0)) == 2
    # In grey, as somebody sees it who sees no colours at all.
    luminance = sorted(
        float(one.mean((0, 1)) @ [0.2126, 0.7152, 0.0722]) for one in pictures.values()
    )
    assert min(np.diff(luminance)) > 10


def test_shares_are_whole_only_where_they_are() -> None:
    assert [percent(*pair) for pair in ((0, 9), (9, 9), (1, 10_000), (9_999, 10_000))] == [
        "0 %",
        "100 %",
        "0.1 %",
        "99.9 %",
    ]
