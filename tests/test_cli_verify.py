"""guid-xmage explain --certify and guid-xmage verify, end to end."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

from guidxmage.cli import app
from tests.results import forge, sign

MODEL = """
import torch
from torch import nn

def build(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4 * 49, 5)
    ).eval()

def other():
    return build(1)
"""


def run(*args: str) -> Result:
    return CliRunner().invoke(app, list(args))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a network, a photo and its certified explanation."""
    folder = tmp_path_factory.mktemp("verify")
    (folder / "net.py").write_text(MODEL, encoding="utf-8")
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "photo.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        result = run("explain", "photo.png", "--model", "net.py:build", "--certify")
    assert result.exit_code == 0, result.stderr
    assert "certified: identity holds modulo 3 primes" in result.stdout
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


RESULT, NET = "explanations/photo", "net.py:build"


def checks(result: Result) -> dict[str, Any]:
    found = json.loads(result.stdout)
    return {check["name"]: check["passed"] for check in found["checks"]}


def test_a_result_is_verified(folder: Path) -> None:
    result = run("verify", RESULT, "--model", NET)
    assert result.exit_code == 0, result.stdout + result.stderr
    assert result.stdout.splitlines()[-1] == "verified"
    found = checks(run("verify", RESULT, "--model", NET, "--json"))
    assert set(found.values()) == {True}
    assert set(found) >= {"files", "model", "image", "trail", "weights", "bias", "certificate"}


def test_the_certificate_is_on_the_disk(folder: Path) -> None:
    (found,) = json.loads((folder / RESULT / "certificate.json").read_text())
    assert found["holds"]
    assert len(found["identity"]["primes"]) == 3
    manifest = json.loads((folder / RESULT / "manifest.json").read_text())
    assert manifest["certificate"] == [found["line"]]
    assert set(manifest["files"]) == {p.name for p in (folder / RESULT).iterdir()} - {
        "manifest.json"
    }


@pytest.mark.parametrize("place", [0.001, 0.3, 0.77, 0.999])
@pytest.mark.parametrize(
    "name", ["arrays.npz", "manifest.json", "figure.png", "saliency.png", "certificate.json"]
)
def test_a_single_changed_byte_fails(name: str, place: float, folder: Path) -> None:
    path = folder / RESULT / name
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1
    path.write_bytes(bytes(content))
    result = run("verify", RESULT, "--model", "net.py:build")
    assert result.exit_code in ((1, 2) if name == "manifest.json" else (1,)), result.stdout
    if result.exit_code == 1:
        assert f"FAIL files: {name} was changed" in result.stdout


def test_other_weights_fail(folder: Path) -> None:
    result = run("verify", RESULT, "--model", "net.py:other", "--json")
    assert result.exit_code == 1
    assert checks(result)["model"] is False


def test_another_photo_fails(folder: Path) -> None:
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(folder / "black.png")
    result = run("verify", RESULT, "--model", NET, "--photo", "black.png", "--json")
    assert result.exit_code == 1
    assert checks(result)["image"] is False


def test_without_the_photo_the_stored_image_is_used(folder: Path) -> None:
    (folder / "photo.png").unlink()
    result = run("verify", RESULT, "--model", NET, "--json")
    assert result.exit_code == 0
    assert checks(result)["image"] is None


def test_numbers_that_were_forged_with_their_fingerprints_fail(folder: Path) -> None:
    """Whoever changes the weights and all hashes is still caught: the numbers are made again."""
    from guidxmage.attribution.archive import read_explanation, write_explanation
    from guidxmage.jobs.verify_result import read_manifest

    manifest = read_manifest(folder / RESULT)
    explanation = read_explanation(folder / RESULT)
    explanation.weights[0, 3, 3] += 0.01
    extra = {"fingerprints": manifest["fingerprints"], "source": manifest["source"]}
    (folder / "forged").mkdir()
    write_explanation(explanation, folder / "forged", extra)
    result = run("verify", "forged", "--model", NET, "--json")
    assert result.exit_code == 1
    found = checks(result)
    assert found["files"] is True
    assert found["weights"] is False


@pytest.mark.parametrize("space", ["photo", "input"])
def test_every_space(space: str, folder: Path) -> None:
    options = ["--weights", "default", "--space", space, "--out", "spaces", "--objects", "none"]
    made = run("explain", str(PHOTO), *options)
    assert made.exit_code == 0, made.stderr
    result = run("verify", f"spaces/{PHOTO.stem}", "--json")
    assert result.exit_code == 0, result.stdout
    assert checks(result)["certificate"] is True


def test_each_target_has_a_certificate(folder: Path) -> None:
    options = ["--model", "net.py:build", "--target", "0,3", "--objects", "none"]
    assert run("explain", "photo.png", *options).exit_code == 0
    found = checks(run("verify", RESULT, "--model", NET, "--json"))
    assert found["certificate 0"] is True
    assert found["certificate 1"] is True


PHOTO = Path(__file__).parent.parent / "examples" / "chelsea.png"


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["nowhere"], "holds no saved explanation"),
        ([RESULT, "--photo", "nothing.png"], "nothing.png is not a file"),
        ([RESULT, "--model", "missing.py:build"], "missing.py"),
    ],
)
def test_bad_input_is_one_sentence(args: list[str], sentence: str, folder: Path) -> None:
    result = run("verify", *args)
    assert result.exit_code == 2
    assert sentence in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_result_of_an_unnamed_network_asks_for_it(folder: Path) -> None:
    from guidxmage import Explainer
    from guidxmage.models import load_python_model

    loaded = load_python_model("net.py:build")
    Explainer(loaded.model).explain(np.zeros((16, 16, 3), np.uint8)).save(folder / "saved")
    result = run("verify", "saved")
    assert result.exit_code == 2
    assert "give it with --model" in result.stderr
    assert run("verify", "saved", "--model", "net.py:build").exit_code == 0


# --- what a result names is data -----------------------------------------------------------------


@pytest.mark.parametrize("named", ["net.py:build", "net:build", "os:getcwd"])
def test_code_that_a_result_names_is_not_run(
    named: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ran(*_: Any) -> None:
        raise AssertionError("code was run")

    manifest = json.loads((folder / RESULT / "manifest.json").read_text(encoding="utf-8"))
    manifest["source"]["model"] = named
    sign(folder / RESULT, manifest)
    monkeypatch.setattr("guidxmage.models.python_models.call_factory", ran)
    result = run("verify", RESULT)
    assert result.exit_code == 2
    assert f"--model {named}" in result.stderr
    assert result.stderr.count("\n") == 1


def test_damaged_files_are_found_before_a_network_is_loaded(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loaded(*_: Any, **__: Any) -> None:
        raise AssertionError("loaded")

    monkeypatch.setattr("guidxmage.cli.verify.load_explainer", loaded)
    (folder / RESULT / "note.txt").write_text("added", encoding="utf-8")
    result = run("verify", RESULT, "--model", NET)
    assert result.exit_code == 1, result.stderr
    assert "note.txt was added" in result.stdout


def test_what_is_no_evidence_is_said(folder: Path) -> None:
    result = run("verify", RESULT, "--model", NET)
    for name in ("seconds", "photo", "versions.*", "source.*", "drawing.versions.*"):
        assert any(
            line.startswith("not evidence: ") and name in line
            for line in result.stdout.splitlines()
        )
    found = json.loads(run("verify", RESULT, "--model", NET, "--json").stdout)
    assert found["not_evidence"]["seconds"] == "how long it took"


def test_class_names_from_a_file(folder: Path) -> None:
    (folder / "names.txt").write_text("a\nb\nc\nd\ne\n", encoding="utf-8")
    options = ["--model", NET, "--objects", "none", "--out", "named", "--labels", "names.txt"]
    assert run("explain", "photo.png", *options).exit_code == 0
    without = run("verify", "named/photo", "--model", NET)
    assert without.exit_code == 0
    assert (
        "model.labels[] (the class names that it was made with are not at hand)" in without.stdout
    )
    given = run("verify", "named/photo", "--model", NET, "--labels", "names.txt")
    assert given.exit_code == 0, given.stdout
    assert "model.labels" not in given.stdout
    (folder / "others.txt").write_text("v\nw\nx\ny\nz\n", encoding="utf-8")
    assert run("verify", "named/photo", "--model", NET, "--labels", "others.txt").exit_code == 1


# --- many results --------------------------------------------------------------------------------


# --- consistent forgeries -------------------------------------------------------------------------


def _alias(manifest: dict[str, Any]) -> None:
    manifest["results[0].score"] = manifest["results"][0]["score"]
    manifest["results"][0]["score"] = 99.0


def test_a_key_that_looks_like_a_way_to_another_is_none(folder: Path) -> None:
    forge(folder / RESULT, manifest=_alias)
    result = run("verify", RESULT, "--model", NET)
    assert result.exit_code == 1
    assert "results[0].score" in result.stdout


CERTIFICATES: dict[str, Callable[[dict[str, Any]], None]] = {
    "its line": lambda c: c.update(line=c["line"].replace("Δ within", "audited, Δ within")),
    "a number in its line": lambda c: c.update(
        line=re.sub(r"Δ within \S+", "Δ within 0", c["line"])
    ),
    "numbers": lambda c: c["numeric"].update(weights=0.0),
    "what is measured": lambda c: c.update(numeric={"weights": 0.0}),
    "decisions": lambda c: c["trail"].update(decisions=999_999),
    "its trail": lambda c: c.update(trail="rubbish"),
    "fractions": lambda c: c.update(rationals=None),
    "details": lambda c: [one.update(detail="perfect") for one in c["findings"]] and None,
    "its verdict": lambda c: c["findings"][0].update(passed=None),
    "its primes": lambda c: c["identity"].update(primes=[]),
}


@pytest.mark.parametrize("change", CERTIFICATES)
def test_a_forged_certificate_fails(change: str, folder: Path) -> None:
    path = folder / RESULT / "certificate.json"
    (certificate,) = json.loads(path.read_text(encoding="utf-8"))
    CERTIFICATES[change](certificate)
    path.write_text(json.dumps([certificate]), encoding="utf-8")
    forge(folder / RESULT, manifest=lambda m: m.update(certificate=[certificate["line"]]))
    result = run("verify", RESULT, "--model", NET)
    assert result.exit_code == 1, result.stdout
    assert "FAIL certificate.json" in result.stdout


def test_measured_numbers_of_another_machine_are_no_evidence(folder: Path) -> None:
    path = folder / RESULT / "certificate.json"
    (certificate,) = json.loads(path.read_text(encoding="utf-8"))
    certificate["model"]["threads"] += 3
    certificate["numeric"]["weights"] *= 100
    path.write_text(json.dumps([certificate]), encoding="utf-8")
    forge(folder / RESULT)
    result = run("verify", RESULT, "--model", NET)
    assert result.exit_code == 0, result.stdout
    assert "not evidence: certificate.json (its measured numbers are those of another" in (
        result.stdout
    )


@pytest.mark.parametrize("name", ["trail.99.0", "trail.0.7", "picture.7", "trail"])
def test_arrays_that_nobody_reads_fail(name: str, folder: Path) -> None:
    def change(arrays: dict[str, Any]) -> None:
        if name == "trail":
            text = json.loads(arrays["trail"].tobytes())
            arrays["trail"] = np.frombuffer(
                json.dumps({**text, "also": 1}).encode(), dtype=np.uint8
            )
        else:
            arrays[name] = np.zeros((1, 3), np.uint8)

    forge(folder / RESULT, change)
    result = run("verify", RESULT, "--model", NET)
    assert result.exit_code == 1, result.stdout
    assert f"{name}: judged by nothing" in result.stdout


def test_a_site_that_is_named_twice_is_refused(folder: Path) -> None:
    def change(arrays: dict[str, Any]) -> None:
        sites = json.loads(arrays["bias_sites"].tobytes())
        sites[1] = sites[0]
        arrays["bias_sites"] = np.frombuffer(json.dumps(sites).encode(), dtype=np.uint8)
        arrays["bias_values"] = arrays["bias_values"][:-1]

    forge(folder / RESULT, change)
    result = run("verify", RESULT, "--model", NET)
    assert result.exit_code == 1
    assert "has a call site of the bias twice" in result.stdout


def test_what_was_not_checked_is_said_of_each_of_many(several: Path, folder: Path) -> None:
    (folder / "photo.png").unlink()
    result = run("verify", "explanations", "--model", NET)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert all("(not checked: image: the photo is not at hand" in line for line in lines[:-1])
    assert lines[-1] == "3 of 3 verified, 3 of them not in every respect"


def test_names_of_strangers_stay_on_their_line(folder: Path) -> None:
    (folder / RESULT / "x\nverified      else").write_bytes(b"")
    result = run("verify", RESULT, "--model", NET)
    assert result.exit_code == 1
    assert not any(line.startswith("verified      ") for line in result.stdout.splitlines())


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes")
@pytest.mark.parametrize(
    "args",
    [
        ["explain", "pipe.png", "--model", NET],
        ["explain", "photo.png", "--model", NET, "--objects", "pipe.png"],
        ["attack", "pipe.png", "--model", NET],
        ["evaluate", "pipe.png", "--model", NET, "--out", "made"],
        ["explain", "photo.png", "--model", NET, "--out", "marked"],
    ],
)
def test_a_pipe_is_no_file(args: list[str], folder: Path) -> None:
    os.mkfifo(folder / "pipe.png")
    (folder / "marked" / "photo").mkdir(parents=True)
    os.mkfifo(folder / "marked" / "photo" / "manifest.json")
    result = run(*args)
    assert result.exit_code == 2, result.stdout
    assert len(result.stderr.splitlines()) <= 2


@pytest.mark.parametrize("target", ["²", "--5", "0,²", "top²"])
def test_numbers_are_written_in_plain_digits(target: str, folder: Path) -> None:
    result = run("explain", "photo.png", "--model", NET, f"--target={target}", "--overwrite")
    assert result.exit_code == 2
    assert "is a name but no class names are known" in result.stderr


@pytest.fixture
def several(folder: Path) -> Path:
    """Three results at different depths, and a folder that is none."""
    for name in ("deep/er/two", "three"):
        shutil.copytree(folder / RESULT, folder / "explanations" / name)
    (folder / "explanations" / "notes").mkdir()
    (folder / "explanations" / "notes" / "manifest.json").write_text('{"schema": "mine"}')
    return folder / "explanations"


def test_all_results_below_a_folder(several: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from guidxmage.cli import verify as command

    loaded = []
    own = command.load_explainer
    monkeypatch.setattr(command, "load_explainer", lambda *a, **k: loaded.append(a) or own(*a, **k))
    result = run("verify", "explanations", "--model", NET)
    assert result.exit_code == 0, result.stdout + result.stderr
    assert result.stderr.splitlines()[0] == "guid-xmage: 3 results in explanations"
    assert [line.split()[1] for line in result.stdout.splitlines()[:-1]] == [
        "explanations/deep/er/two",
        "explanations/photo",
        "explanations/three",
    ]
    assert result.stdout.splitlines()[-1] == "3 of 3 verified"
    assert len(loaded) == 1


def test_one_that_fails_or_is_damaged_is_named_and_the_rest_goes_on(several: Path) -> None:
    (several / "three" / "figure.png").write_bytes(b"other")
    (several / "photo" / "manifest.json").write_text("{", encoding="utf-8")
    result = run("verify", "explanations", "--model", NET)
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert lines[0] == "verified      explanations/deep/er/two"
    assert lines[1].startswith("NOT verified  explanations/photo: explanations/photo/manifest.json")
    assert lines[2] == "NOT verified  explanations/three: files: figure.png was changed"
    assert lines[3] == "1 of 3 verified"
    found = json.loads(run("verify", "explanations", "--model", NET, "--json").stdout)
    assert [one["passed"] for one in found["results"]] == [True, False, False]
    assert found["passed"] is False


def test_many_results_are_not_all_of_one_photo(several: Path) -> None:
    result = run("verify", "explanations", "--model", NET, "--photo", "photo.png")
    assert result.exit_code == 2
    assert "--photo goes with a single result; there are 3" in result.stderr
    empty = several / "notes"
    (empty / "manifest.json").unlink()
    assert run("verify", str(empty)).exit_code == 2
