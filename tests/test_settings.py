"""Settings are checked before anything else: one sentence, exit code 2, nothing written."""

from __future__ import annotations

import ast
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import guidxmage
from guidxmage.cli import app
from guidxmage.errors import InputError, SettingError
from guidxmage.evaluation.settings import Settings
from guidxmage.files.schema import field_hints, made, settings_class, wanted
from guidxmage.hardening.data import garments
from guidxmage.hardening.robustness.measure import Effort
from guidxmage.hardening.samples.arms import ArmConfig
from guidxmage.hardening.samples.suppression import Scheme
from guidxmage.hardening.settings import read_settings
from guidxmage.hardening.units import Experiment
from tests.malformed_settings import as_toml, wrong_values

ROOT = Path(guidxmage.__file__).parent
CLASSES: dict[str, type] = {
    "Experiment": Experiment,
    "ArmConfig": ArmConfig,
    "Scheme": Scheme,
    "Effort": Effort,
    "Settings": Settings,
    "_Plan": garments._Plan,
}
IN_FILES = list(wrong_values(Experiment))
REQUIRED: dict[str, dict[str, Any]] = {
    "_Plan": {"correlation": 0.5, "train": 1, "validation": 1, "test": 1, "seed": 0}
}


def short(case: tuple[str, Any]) -> str:
    return f"{case[0]}={repr(case[1])[:24]}"


def refused(*arguments: str) -> str:
    """The one sentence with which a command ends."""
    result = CliRunner().invoke(app, list(arguments))
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("guid-xmage: ")
    return line


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("the data were read before the settings were checked")

    monkeypatch.setattr("guidxmage.hardening.data.splits.load_splits", fail)
    monkeypatch.setattr("guidxmage.evaluation.data.photos.read_photos", fail)
    monkeypatch.setattr("guidxmage.hardening.data.fashion_mnist.read_idx", fail)


# --- every key of every schema -------------------------------------------------------------------


def test_every_class_of_settings_is_tried() -> None:
    """Those that call `check` when they are made."""
    found = set()
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and any(
                isinstance(call, ast.Call)
                and isinstance(call.func, ast.Name)
                and call.func.id == "check"
                for call in ast.walk(node)
            ):
                found.add(node.name)
    assert found == set(CLASSES)


def test_there_are_enough_of_them() -> None:
    assert len(IN_FILES) > 400
    keys = {key for key, _ in IN_FILES}
    for name, kind in (("", Experiment), ("arm.", ArmConfig), ("effort.", Effort)):
        assert keys >= {f"{name}{key}" for key in field_hints(kind)}


@pytest.mark.usefixtures("unread")
@pytest.mark.parametrize("case", IN_FILES, ids=short)
def test_wrong_settings_in_a_file(case: tuple[str, Any], tmp_path: Path) -> None:
    key, value = case
    file, out = tmp_path / "wrong.toml", tmp_path / "out"
    file.write_text(as_toml(key, value), encoding="utf-8")
    line = refused("harden", "--data", str(tmp_path), "--config", str(file), "--out", str(out))
    assert f"{file}: {key}" in line
    assert len(line) < 700
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("name", CLASSES)
def test_wrong_settings_in_python(name: str) -> None:
    kind, rest = CLASSES[name], REQUIRED.get(name, {})
    for key, value in wrong_values(kind):
        if "." in key:
            continue
        with pytest.raises(SettingError) as caught:
            kind(**{**rest, key: value})
        assert caught.value.key.startswith(key)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", CLASSES)
def test_every_field_says_what_it_takes(name: str) -> None:
    for hint in field_hints(CLASSES[name]).values():
        assert settings_class(hint) or wanted(hint)


def test_what_is_right_is_taken() -> None:
    for name in ("harden", "harden-small", "table1-networks"):
        read_settings(ROOT.parent.parent / "configs" / f"{name}.toml")
    assert made(Experiment, {"seeds": [3], "plain_lr": 1}).plain_lr == 1.0
    assert made(Experiment, {"effort": {"linf": ["3/255", 0.5]}}).effort.linf == (3 / 255, 0.5)
    lists = Effort(linf=[0.1], parts=["all"])  # type: ignore[arg-type]
    assert (lists.linf, lists.parts) == ((0.1,), ("all",))
    assert replace(Effort(), pgd_steps=0, budget=0).pgd_steps == 0
    assert Experiment(width={"alexnet": "1/4"}).width_of("alexnet") == 0.25  # type: ignore[dict-item]


# --- what no single value shows ------------------------------------------------------------------


@pytest.mark.usefixtures("unread")
@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("step = 3", "step is not a setting; choose from networks"),
        ("plain_step = 3", "plain_step is not a setting; did you mean plain_steps?"),
        ("[effort]\nimage = 3", "effort.image is not a setting; did you mean images?"),
        ("effort = 3", "effort is 3, but has to be a table; write [effort]"),
        ("[[arm]]\nsteps = 3", "arm is [{'steps': 3}], but has to be a table"),
        ("[effort.images]\nmany = 1", "effort.images is {'many': 1}; give a whole number from 1"),
        ("seeds = [0, 1, 0]", "seeds holds 0 twice; give each once"),
        ('arms = ["plain", "our"]', "arms holds 'our', which is no arm; did you mean ours?"),
        ('networks = ["alexnt"]', "networks[0] is 'alexnt', which is no network; choose from"),
        ('networks = ["net.py:"]', "networks[0] is 'net.py:', which is no network"),
        ('networks = ["a/b:c", "A-b:c"]', "networks[1] is 'A-b:c', which would share a folder"),
        ('networks = ["a\\u001b:c"]', "networks[0] cannot name a folder"),
        (f'networks = ["{"a" * 300}:c"]', "networks[0] cannot name a folder"),
        ('networks = ["resnet18"]\nwidth = 0.5', "width is 0.5, but resnet18 has no width"),
        ('networks = ["resnet18"]\nwidth = { resnet18 = 0.5 }', "width.resnet18 is 0.5"),
        ("width = { resnet = 0.5 }", "width holds 'resnet', which is no network; did you mean res"),
        ("[arm]\nstrengths = [0.001]", "arm.strengths[0] is 0.001, less than one grey level"),
        ("[series]\nstrengths = [0.001]", "series.strengths[0] is 0.001, less than one grey"),
        ("[arm]\nstrengths = [0.2, 0.1]", "arm.strengths has to ascend, but is [0.2, 0.1]"),
        ("[effort]\nl2 = [0.1, 0.1000001]", "effort.l2 has to ascend"),
        ("[effort]\npgd_restarts = 0", "effort.pgd_restarts is 0; give a whole number from 1"),
        ('flip = "yes"', "flip is 'yes'; give true or false"),
        ("seeds = [0]\nseeds = [1]", "is no TOML"),
        ("= 3", "is no TOML"),
        ("width = " + "[" * 5000, "nested too deeply"),
        ("size = " + "9" * 5000, "is no TOML"),
        ("#" * (2**20 + 1), "at most 1.0 MiB are read"),
    ],
)
def test_names_tables_and_combinations(text: str, sentence: str, tmp_path: Path) -> None:
    file, out = tmp_path / "wrong.toml", tmp_path / "out"
    file.write_text(text, encoding="utf-8")
    line = refused("harden", "--data", str(tmp_path), "--config", str(file), "--out", str(out))
    assert sentence in line
    assert not out.exists()


def test_files_that_are_no_settings(tmp_path: Path) -> None:
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe\x00")
    for name, sentence in (
        ("bytes.toml", "is no text in UTF-8"),
        ("none.toml", "does not exist"),
        (".", "is a folder"),
    ):
        with pytest.raises(InputError, match=sentence):
            read_settings(tmp_path / name)


# --- the command line ----------------------------------------------------------------------------

HARDEN = ["harden", "--data", "data", "--out", "out"]
GARMENTS = ["garments", "out", "--fashion", "data", "--backgrounds", "data"]
EVALUATE = ["evaluate", "data", "--out", "out"]


@pytest.mark.usefixtures("unread")
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([*HARDEN, "--seeds", "0,0,0"], "--seeds holds 0 twice"),
        ([*HARDEN, "--seeds", "1e3"], "seeds are whole numbers"),
        ([*HARDEN, "--seeds", "-1"], "--seeds[0] is -1; give a list of whole numbers from 0"),
        ([*HARDEN, "--seeds", str(2**70)], "--seeds[0] is 1180591620717411303424"),
        ([*HARDEN, "--seeds", "9" * 5000], "seeds are whole numbers"),
        ([*HARDEN, "--arms", "plain,plain"], "--arms holds 'plain' twice"),
        ([*HARDEN, "--arms", ""], "--arms holds '', which is no arm"),
        ([*HARDEN, "--model", "alexnet,,vgg8"], "--model[1] is '', which is no network"),
        ([*HARDEN, "--model", "alexnet,alexnet"], "--model holds 'alexnet' twice"),
        ([*HARDEN, "--model", "nowhere.py:f"], "there is no Python file nowhere.py"),
        ([*GARMENTS, "--train", "0"], "--train is 0; give a whole number from 1"),
        ([*GARMENTS, "--validation", "-5"], "--validation is -5; give"),
        ([*GARMENTS, "--test", str(10**12)], "--test is 1000000000000; give"),
        ([*GARMENTS, "--correlation", "nan"], "--correlation is nan; give a number from 0 to 1"),
        ([*GARMENTS, "--correlation", "1.01"], "--correlation is 1.01; give"),
        ([*GARMENTS, "--seed", "-1"], "--seed is -1; give a whole number from 0"),
        ([*EVALUATE, "--views", "0"], "--views is 0; give"),
        ([*EVALUATE, "--deep", "-1"], "--deep is -1; give"),
        ([*EVALUATE, "--limit", "0"], "--limit is 0; give"),
        ([*EVALUATE, "--seed", "-1"], "--seed is -1; give"),
        ([*EVALUATE, "--dtype", "float16"], "--dtype is 'float16'; give one of float32, float64"),
        ([*EVALUATE, "--target", "top2"], "--target is 'top2'; give one of top1, label"),
        ([*EVALUATE, "--methods", ""], "--methods is []; give a list of some of guid-xmage"),
        ([*EVALUATE, "--measures", "cost,cost"], "--measures holds 'cost' twice"),
        ([*EVALUATE, "--model", "nowhere.py:f"], "there is no Python file nowhere.py"),
    ],
)
def test_wrong_options(
    arguments: list[str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    assert sentence in refused(*arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_json_changes_nothing_about_that(tmp_path: Path) -> None:
    arguments = ["garments", str(tmp_path / "out"), "--train", "0", "--json"]
    assert "--train is 0" in refused(*arguments)
    assert json.dumps(sorted(path.name for path in tmp_path.iterdir())) == "[]"
