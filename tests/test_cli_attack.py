"""guid-xmage attack as a user types it: what it finds, what it writes, what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from guidxmage.cli.common import load_explainer
from guidxmage.jobs.attack_photos import AttackJob, attack_photos
from guidxmage.view.attack import Side, amplification, attack_figure
from tests.test_cli import folder, run, save_photo  # noqa: F401, the fixture of its name


def attack(*arguments: str) -> Any:
    return run("attack", *arguments, "--model", "net.py:build", "--budget", "24")


def answers(pixels: np.ndarray) -> int:
    """What the network says of 8-bit pixels, without any of our reading."""
    from net import build

    x = torch.from_numpy(np.array(pixels, dtype=np.float32) / np.float32(255)).permute(2, 0, 1)
    return int(build()(x[None]).argmax())


@pytest.fixture
def network(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(__import__("sys").modules, "net", raising=False)


@pytest.mark.parametrize("norm", ["l2", "linf", "l0"])
def test_the_png_is_adversarial_when_it_is_read_back(
    folder: Path,  # noqa: F811
    network: None,
    norm: str,
) -> None:
    result = attack("photo.png", "--norm", norm, "--out", "results", "--json")
    assert result.exit_code == 0, result.stderr
    (manifest,) = json.loads(result.stdout)
    written = folder / "results" / "photo"
    assert sorted(file.name for file in written.iterdir()) == [
        "adversarial.png",
        "figure.png",
        "manifest.json",
    ]
    with Image.open(written / "adversarial.png") as picture, Image.open("photo.png") as photo:
        after, before = np.asarray(picture), np.asarray(photo)
    found = manifest["result"]
    assert found["success"]
    assert found["quantised"]
    assert answers(before) == found["from_class"] != found["to_class"] == answers(after)
    assert found["reloaded"]["class"] == found["to_class"]
    delta = (after.astype(float) - before) / 255
    size = {
        "l2": np.sqrt((delta**2).sum()),
        "linf": np.abs(delta).max(),
        "l0": (delta != 0).any(2).sum(),
    }
    assert found["size"] == pytest.approx(size[norm], rel=1e-4)
    assert json.loads((written / "manifest.json").read_text()) == {
        key: value for key, value in manifest.items() if key != "folder"
    }
    with Image.open(written / "figure.png") as figure:
        assert figure.size[0] > 5 * 300


def test_floats_targets_and_counted_regions(folder: Path) -> None:  # noqa: F811
    wanted = json.loads(attack("photo.png", "--json").stdout)[0]["result"]["from_class"]
    other = str((wanted + 1) % 4)
    result = attack(
        *("photo.png", "--target", other, "--no-quantize", "--out", "floats", "--json"),
        *("--count-regions", "50", "--dtype", "float64"),
    )
    (manifest,) = json.loads(result.stdout)
    found = manifest["result"]
    assert found["to_class"] == int(other)
    assert 1 <= found["regions_crossed"] <= 50
    assert found["optimality"]["alignment"] <= 1 + 1e-9
    array = np.load(folder / "floats" / "photo" / "adversarial.npy", allow_pickle=False)
    assert array.shape == (3, 30, 40)
    same = attack("photo.png", "--target", str(wanted), "--out", "same")
    assert same.exit_code == 0
    assert "classified as the target already" in same.stdout


def test_masks(folder: Path) -> None:  # noqa: F811
    mask = np.zeros((30, 40), dtype=np.uint8)
    mask[:, 25:] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    original = np.asarray(Image.open("photo.png")).astype(int)
    for extra, inside in (((), True), (("--outside",), False)):
        result = attack("photo.png", "--mask", "mask.png", *extra, "--out", f"m{inside}")
        assert result.exit_code == 0, result.stderr
        after = np.asarray(Image.open(folder / f"m{inside}" / "photo" / "adversarial.png"))
        changed = (after != original).any(2)
        assert changed.any()
        assert not changed[(mask > 0) != inside].any()


def test_folders_resume_and_go_on_after_bad_photos(folder: Path) -> None:  # noqa: F811
    (folder / "many").mkdir()
    for name in ("one.png", "two.png"):
        save_photo(folder / "many" / name, (36 + len(name), 30))
    (folder / "many" / "bad.png").write_bytes(b"no picture")
    first = attack("many")
    assert first.exit_code == 2
    assert "bad.png" in first.stderr
    assert "1 of 3 photos failed" in first.stderr
    kept = folder / "attacks" / "one" / "figure.png"
    stamp = kept.stat().st_mtime_ns
    second = attack("many")
    assert second.stdout.count("kept from an earlier run") == 2
    assert kept.stat().st_mtime_ns == stamp
    assert attack("many/one.png", "--seed", "1").stdout.count("kept") == 0
    save_photo(folder / "many" / "one.png", (50, 30))
    assert attack("many/one.png", "--seed", "1").stdout.count("kept") == 0
    assert not list((folder / "attacks").glob(".*"))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("photo.png", "--outside"), "--outside needs a --mask"),
        (("photo.png", "--target", "9"), "target 9 is out of range"),
        (("photo.png", "--target", "cat"), "no class names are known"),
        (("photo.png", "--label", "1", "--target", "1"), "nothing to change"),
        (("nothing.png",), "nothing.png does not exist"),
        (("photo.png", "--mask", "nothing.png"), "nothing.png"),
    ],
)
def test_bad_input(folder: Path, arguments: tuple[str, ...], sentence: str) -> None:  # noqa: F811
    result = attack(*arguments)
    assert result.exit_code == 2
    assert sentence in result.stderr
    assert "Traceback" not in result.stderr
    assert not (folder / "attacks").exists() or not any((folder / "attacks").iterdir())


def test_a_label_that_the_network_does_not_give(folder: Path) -> None:  # noqa: F811
    found = json.loads(attack("photo.png", "--json").stdout)[0]["result"]["from_class"]
    result = attack("photo.png", "--label", str((found + 1) % 4), "--out", "wrong")
    assert result.exit_code == 0
    assert "misclassified already" in result.stdout


def test_smooth_gates_are_attacked_without_evidence(folder: Path) -> None:  # noqa: F811
    result = run("attack", "photo.png", "--model", "net.py:smooth", "--budget", "16")
    assert result.exit_code == 0, result.stderr
    assert "region evidence not available" in result.stdout
    assert (folder / "attacks" / "photo" / "figure.png").exists()


def test_photos_without_an_adversarial_sample_leave_a_manifest_only(
    folder: Path,  # noqa: F811
) -> None:
    (folder / "flat.py").write_text(
        "from torch import nn\nimport torch\n"
        "def build():\n"
        "    last = nn.Linear(3, 2)\n"
        "    last.weight.data.zero_(); last.bias.data = torch.tensor([1., 0.])\n"
        "    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), last).eval()\n"
    )
    explainer = load_explainer("flat.py:build", "default", None, "float32")
    (outcome,) = attack_photos(explainer, [Path("photo.png")], Path("out"), AttackJob(budget=8))
    assert outcome.error is None
    assert not outcome.manifest["result"]["success"]
    assert outcome.manifest["result"]["size"] is None
    assert [file.name for file in Path("out/photo").iterdir()] == ["manifest.json"]


@pytest.mark.parametrize(
    ("largest", "factor"), [(0.5, 1), (0.9, 1), (0.1, 5), (1 / 255, 100), (1e-4, 5000), (0.0, 1)]
)
def test_the_perturbation_is_amplified_by_a_round_number(largest: float, factor: float) -> None:
    assert amplification(np.full((4, 4, 3), largest)) == factor


def test_few_changed_pixels_are_ringed() -> None:
    grey = np.full((20, 30, 1), 0.5)
    dotted = grey.copy()
    dotted[4, 7] = 1.0
    values = np.zeros((20, 30))
    for image, rings in ((dotted, 2), (1 - grey * 1.5, 0)):
        after = Side(image, "b", 1.0, values, 0.1)
        figure = attack_figure(Side(grey, "a", 1.0, values, -0.1), after, "a → b", ["l2 0.5"])
        ringed = [axes for axes in figure.axes if axes.collections and axes.images]
        assert len(ringed) == rings
    text = " ".join(text.get_text() for text in figure.texts)
    assert "a → b" in text
    assert "perturbation ×" in text
