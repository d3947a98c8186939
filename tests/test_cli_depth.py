"""The whole score on the picture, as a user of the command line asks for it and gets it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.results import forge
from tests.test_cli import explain, folder, run, save_photo  # noqa: F401

pytestmark = pytest.mark.usefixtures("folder")


def manifest_in(where: str) -> dict:  # type: ignore[type-arg]
    return json.loads(Path(where, "photo", "manifest.json").read_text(encoding="utf-8"))


def test_the_default_depth_comes_first_and_all_are_kept() -> None:
    result = explain("photo.png", "--json")
    (manifest,) = json.loads(result.stdout)
    (entry,) = manifest["results"]
    sites = [one["site"] for one in manifest["depths"]]
    assert len(sites) == len(set(sites)) >= 2
    assert "input" in sites
    assert [one["site"] for one in entry["depths"]] == sites
    total = entry["contribution_sum"] + entry["placed"] + entry["unplaced"]
    assert total == pytest.approx(entry["score"], abs=entry["residual_bound"])
    for one in entry["depths"]:
        assert abs(one["residual"]) <= one["residual_bound"]
        assert one["whole_sum"] + one["unplaced"] == pytest.approx(entry["score"], abs=1e-5)
    (sentence,) = manifest["sentences"]
    assert sentence.startswith(f"{entry['name']} {entry['score']:.2f}"[: len(entry["name"]) + 4])
    with np.load("explanations/photo/arrays.npz") as arrays:
        assert arrays["placement.0.whole"].dtype == np.float64


def test_the_printed_line_says_what_is_placed_and_what_is_not() -> None:
    result = explain("photo.png")
    found = re.search(
        r"score (\S+) = Σ pixels (\S+) \+ placed bias (\S+) \+ no place (\S+)   \(residual",
        result.stdout,
    )
    assert found is not None, result.stdout
    score, *parts = map(float, found.groups())
    assert sum(parts) == pytest.approx(score, abs=2e-4)


def test_objects_are_printed_with_their_sentence_and_add_up() -> None:
    mask = np.zeros((30, 40), dtype=np.uint8)
    mask[5:20, 10:30], mask[:3] = 1, 255
    Image.fromarray(mask).save("mask.png")
    result = run("explain", "photo.png", "--model", "net.py:build", "--objects", "mask.png")
    assert result.exit_code == 0, result.stderr
    manifest = manifest_in("explanations")
    (table,), (sentence,) = manifest["objects"], manifest["sentences"]
    assert f"    {sentence}\n" in result.stdout
    rows = [*table["rows"], table["rest"]]
    total = sum(row["whole"] for row in rows) + table["unplaced"]
    assert total == pytest.approx(manifest["results"][0]["score"], abs=1e-5)
    printed = re.findall(r"([+-][\d.]+)   by its pixels +([+-][\d.]+) +(\d+) pixels", result.stdout)
    assert len(printed) == len(rows)
    for row, (whole, own, pixels) in zip(rows, printed, strict=True):
        assert float(whole) == pytest.approx(row["whole"], abs=1e-4)
        assert float(own) == pytest.approx(row["sum"], abs=1e-4)
        assert int(pixels) == row["pixels"]


@pytest.mark.parametrize(
    ("given", "sites"),
    [
        (["--depth", "input"], ["input"]),
        (["--depth", "layer:1,input"], ["1", "input"]),
        (["--depth", "layer:1", "--depth", "layer:0"], ["1", "0"]),
        (["--depth", "2"], None),
    ],
)
def test_depths_are_taken_as_they_are_asked_for(given: list[str], sites: list[str] | None) -> None:
    result = explain("photo.png", *given, "--json")
    assert result.exit_code == 0, result.stderr
    (manifest,) = json.loads(result.stdout)
    found = manifest["depths"]
    if sites is None:
        assert found[0]["stride"] == pytest.approx(2, rel=0.2)
    else:
        assert [one["site"] for one in found] == sites


def test_without_depths_the_result_is_as_before() -> None:
    result = explain("photo.png", "--depth", "none", "--out", "plain")
    assert result.exit_code == 0, result.stderr
    assert re.search(r"Σ pixels \S+ \+ bias \S+   \(residual", result.stdout)
    manifest = manifest_in("plain")
    assert "depths" not in manifest
    assert "placed" not in manifest["results"][0]
    assert not Path("plain/photo/whole.png").exists()
    assert run("verify", "plain/photo", "--model", "net.py:build").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--depth", "nonsense"], "a layer called 'nonsense'"),
        (["--depth", "37"], "no cut of stride 37"),
        (["--depth", "none,input"], "none by itself"),
        (["--depth", ""], "none by itself"),
        (["--depth", "layer:4"], "nothing lies on the picture any more"),
        (["--depth", "none", "--map", "whole"], "leave --depth none out"),
        (["--method", "adaptive-ig", "--depth", "1"], "no whole map"),
        (["--method", "adaptive-ig", "--map", "whole"], "no whole map"),
    ],
)
def test_what_is_no_depth_is_one_sentence(arguments: list[str], sentence: str) -> None:
    result = explain("photo.png", *arguments)
    assert result.exit_code == 2
    assert sentence in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_the_bare_maps_show_what_is_asked_for() -> None:
    for name in ("contributions", "whole"):
        assert explain("photo.png", "--map", name, "--out", name).exit_code == 0
        assert manifest_in(name)["drawing"]["map"] == name
        assert run("verify", f"{name}/photo", "--model", "net.py:build").exit_code == 0
    for picture, same in (("distribution", False), ("saliency", False), ("whole", True)):
        one, other = (
            np.asarray(Image.open(f"{name}/photo/{picture}.png"))
            for name in ("contributions", "whole")
        )
        assert np.array_equal(one, other) is same


def test_another_depth_is_made_anew() -> None:
    explain("photo.png")
    assert "kept from an earlier run" in explain("photo.png").stdout
    assert "made anew: other options" in explain("photo.png", "--depth", "layer:1").stdout


def test_shared_scales_are_of_both_kinds_of_maps(folder: Path) -> None:  # noqa: F811
    save_photo(folder / "other.png", (36, 36))
    result = explain("photo.png", "other.png", "--shared-scale", "--json")
    assert result.exit_code == 0, result.stderr
    drawings = [manifest["drawing"] for manifest in json.loads(result.stdout)]
    for key in ("scale", "whole_scale"):
        assert drawings[0][key] == drawings[1][key] > 0
    assert [drawing["photo"] for drawing in drawings] == ["photo.png", "other.png"]


@pytest.mark.parametrize("space", ["pixels", "input", "photo"])
def test_results_with_depths_verify_and_forged_ones_do_not(space: str) -> None:
    options = ["--target", "top2", "--space", space] if space != "pixels" else ["--target", "top2"]
    model = ["--model", "net.py:build"]
    if space != "pixels":
        Path("net.py").write_text(
            Path("net.py").read_text(encoding="utf-8")
            + "\nfrom guidxmage import Preprocessing\ndef known():\n    return build(), "
            "Preprocessing(resize=24, crop=24, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))\n",
            encoding="utf-8",
        )
        model = ["--model", "net.py:known"]
    done = run("explain", "photo.png", *model, "--objects", "none", *options)
    assert done.exit_code == 0, done.stderr
    found = run("verify", "explanations/photo", *model, "--json")
    assert found.exit_code == 0, found.stdout

    def moved(arrays: dict) -> None:  # type: ignore[type-arg]
        whole = arrays["placement.0.whole"]
        arrays["placement.0.whole"] = np.roll(whole, 3, -1)

    forge(Path("explanations/photo"), moved)
    found = run("verify", "explanations/photo", *model, "--json")
    assert found.exit_code == 1
    failed = {one["name"] for one in json.loads(found.stdout)["checks"] if one["passed"] is False}
    assert {"placements", "picture files"} <= failed


def test_where_a_network_can_be_cut() -> None:
    listed = run("models", "--depths", "resnet18", "--json")
    assert listed.exit_code == 0, listed.stderr
    (entries,) = json.loads(listed.stdout).values()
    assert entries[0]["site"] == "input"
    assert [one["stride"] for one in entries if one["all"]] == [1, 2, 4, 8, 16, 32]
    (default,) = [one for one in entries if one["default"]]
    assert default["grid"] == [14, 14]
    printed = run("models", "--depths", "resnet18").stdout
    assert re.search(rf"{re.escape(default['site'])} +14×14 cells +stride 16 +\*\*", printed)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--depths"], "names of networks"),
        (["--depths", "resnet5"], "no network called 'resnet5'"),
        (["--depths", "net.py:build"], "size of the network's images is not known"),
    ],
)
def test_depths_of_no_network_are_one_sentence(arguments: list[str], sentence: str) -> None:
    result = run("models", *arguments)
    assert result.exit_code == 2
    assert sentence in result.stderr
