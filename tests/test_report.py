"""Reports as files: what is in them, what they replace, what they leave out."""

from __future__ import annotations

import base64
import csv
import gzip
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from guidxmage.attribution.archive import read_result, restored
from guidxmage.cli import app
from guidxmage.errors import InputError
from guidxmage.jobs import report_results as reporting
from guidxmage.jobs.saved_scene import saved_scene
from guidxmage.viewer.report import ReportPhoto, write_report
from tests.reported import explained, masks_for, photos_in

pytest.importorskip("matplotlib")
NAMES = ["a.png", "b.png", "c.png"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The results of three photos, with an object on each."""
    folder = tmp_path_factory.mktemp("made")
    masks = masks_for(folder / "masks", [Path(name) for name in NAMES])
    return explained(folder, NAMES, objects=masks, source={"model": "net.py:build"})


@pytest.fixture
def results(made: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of them below a working folder."""
    shutil.copytree(made[0].parent, tmp_path / "results")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "results"


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["report", *arguments])


def written(page: Path, identity: str) -> Any:
    """What is written in a page under an id."""
    text = page.read_text(encoding="utf-8")
    found = re.search(
        rf'<script type="application/json" id="{identity}">(.*?)</script>', text, re.DOTALL
    )
    assert found is not None, identity
    return json.loads(found[1])


def unpacked(packed: dict[str, Any], name: str) -> np.ndarray[Any, Any]:
    described = packed["manifest"]["arrays"][name]
    content = gzip.decompress(base64.b64decode(packed["arrays"][name]))
    return np.frombuffer(content, described["dtype"]).reshape(described["shape"])


def test_one_file_holds_everything(results: Path, tmp_path: Path) -> None:
    done = run("results")
    assert done.exit_code == 0, done.stderr
    assert done.stdout == "report.html   (3 photos)\n"
    page = tmp_path / "report.html"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "index.csv", "report.html", "results",
    ]  # fmt: skip
    lines = written(page, "gx-index")
    assert [line["name"] for line in lines] == NAMES
    for number, line in enumerate(lines, start=1):
        folder = tmp_path / line["result"]
        manifest, arrays = read_result(folder)
        explanation = restored(manifest, arrays, folder)
        assert line["score"] == float(explanation.score)
        assert line["residual"] == float(explanation.residual)
        assert line["thumbnail"].startswith("data:image/")
        table = manifest["objects"][0]["rows"]
        shares = {row["label"]: row["whole"] / line["score"] for row in table}
        assert line["object_share"] == pytest.approx(shares[1])
        assert line["background_share"] == pytest.approx(shares[0])
        packed = written(page, f"gx-photo-{number:04d}")
        assert np.array_equal(unpacked(packed, "weights.0"), arrays["weights"])
        assert np.array_equal(unpacked(packed, "input"), arrays["input"])
        assert unpacked(packed, "picture").dtype == np.uint8
        evidence = packed["manifest"]["evidence"]
        assert evidence["verify"] == f"guid-xmage verify results/{folder.name}"
        assert evidence["photo_sha256"] == manifest["photo_sha256"]
        assert evidence["digest"] == manifest["digest"]


def test_nothing_in_it_asks_for_anything(results: Path, tmp_path: Path) -> None:
    run("results", "--title", "Cats & </title><b>dogs</b>")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    assert policy is not None
    assert "default-src &#x27;none&#x27;" in policy[1]
    assert "unsafe" not in policy[1]
    assert "connect-src" not in policy[1]
    assert not re.search(r'(?:src|href)="?(?:https?:)?//', text)
    assert "<title>Cats &amp; &lt;/title&gt;" in text
    # Names out of results end no element: one of the classes is <b>owl</b>.
    data = re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', text, re.DOTALL)
    assert all("<" not in part for part in data)
    assert any("\\u003cb>owl" in part for part in data)


def test_the_same_results_make_the_same_file(results: Path, tmp_path: Path) -> None:
    run("results")
    first = (tmp_path / "report.html").read_bytes()
    assert run("results").exit_code == 0
    assert (tmp_path / "report.html").read_bytes() == first


def test_many_photos_have_their_data_beside(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reporting, "MOST_PHOTOS", 2)
    done = run("results", "--out", "out/pets.html")
    assert done.exit_code == 0, done.stderr
    assert done.stdout == "out/pets.html   (3 photos, data in out/pets_data/)\n"
    data = tmp_path / "out" / "pets_data"
    names = ["0001.js", "0002.js", "0003.js", "manifest.json"]
    assert sorted(path.name for path in data.iterdir()) == names
    lines = written(tmp_path / "out" / "pets.html", "gx-index")
    assert written(tmp_path / "out" / "pets.html", "gx-about")["data"] == "pets_data"
    for line in lines:
        script = (data / f"{line['id']}.js").read_text(encoding="ascii")
        start = f'guidXmageData("{line["id"]}", "{line["key"]}", '
        assert script.startswith(start)
        assert json.loads(script[len(start) : -3])["manifest"]["name"] == line["name"]
    assert "gx-photo-0001" not in (tmp_path / "out" / "pets.html").read_text()
    # Made again it replaces its own, and in one file it says what is left over.
    assert run("results/a", "results/b", "results/c", "--out", "out/pets.html").exit_code == 0
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    again = run("results", "--out", "out/pets.html")
    assert again.exit_code == 0
    assert "pets_data belongs to no report any more" in again.stderr


def test_many_bytes_have_their_data_beside(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reporting, "MOST_BYTES", 1000)
    assert "data in report_data/" in run("results/a").stdout


def test_a_table_lies_beside(results: Path, tmp_path: Path) -> None:
    run("results/a", "results/c", "--out", "out/report.html")
    with (tmp_path / "out" / "index.csv").open(newline="", encoding="utf-8") as file:
        found = {line["result"] for line in csv.DictReader(file)}
    assert found == {"../results/a", "../results/c"}
    run("results/b", "--out", "out/other.html")  # of the same folder: one table for both
    with (tmp_path / "out" / "index.csv").open(newline="", encoding="utf-8") as file:
        found = {line["result"] for line in csv.DictReader(file)}
    assert found == {"../results/a", "../results/b", "../results/c"}


def test_what_cannot_be_shown_is_told_and_left_out(results: Path, tmp_path: Path) -> None:
    (results / "a" / "arrays.npz").write_bytes(b"none")
    (results / "c" / "arrays.npz").unlink()
    joint = results / "joint"
    joint.mkdir()
    mark = {"schema": "guid-xmage/joint-explanation/1", "files": {}}
    (joint / "manifest.json").write_text(json.dumps(mark))
    done = run("results", "results/joint", "missing")
    assert done.exit_code == 0
    assert done.stdout == "report.html   (1 photo, 3 left out)\n"
    said = done.stderr.splitlines()
    assert len(said) == 4
    assert sum("left out" in line for line in said) == 3
    assert any("joint explanation of several inputs" in line for line in said)
    assert any("missing holds no saved explanation" in line for line in said)
    assert [line["name"] for line in written(tmp_path / "report.html", "gx-index")] == ["b.png"]


def test_where_nothing_is_left_nothing_is_written(results: Path, tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (results / name / "arrays.npz").write_bytes(b"")
    done = run("results")
    assert done.exit_code == 2
    assert done.stderr.splitlines()[-1] == (
        "guid-xmage: there is no result that a report could show"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["results"]
    assert run("missing").exit_code == 2


def test_nothing_of_others_is_replaced(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "report.html"
    page.write_text("<!doctype html>\n<html>my own")
    done = run("results")
    assert done.exit_code == 2
    assert "something other than an earlier report" in done.stderr
    assert page.read_text() == "<!doctype html>\n<html>my own"
    page.unlink()
    page.mkdir()
    assert run("results").exit_code == 2
    page.rmdir()
    monkeypatch.setattr(reporting, "MOST_PHOTOS", 0)
    (tmp_path / "report_data").mkdir()
    (tmp_path / "report_data" / "mine.txt").write_text("mine")
    done = run("results")
    assert done.exit_code == 2
    assert "report_data" in done.stderr
    assert not page.exists()
    assert (tmp_path / "report_data" / "mine.txt").read_text() == "mine"
    shutil.rmtree(tmp_path / "report_data")
    assert run("results").exit_code == 0
    (tmp_path / "report_data" / "0001.js").write_text("changed")
    before = page.read_bytes()
    assert "was changed" in run("results").stderr
    assert page.read_bytes() == before
    assert run("results", "--overwrite").exit_code == 0


def test_places_and_titles_of_every_kind(results: Path) -> None:
    if hasattr(os, "mkfifo"):
        os.mkfifo("pipe.html")
        done = run("results", "--out", "pipe.html")
        assert done.exit_code == 2
        assert "is something other than an earlier report" in done.stderr
    done = run("results", "--out", "odd.html", "--title", "a\udcffb\u202ec")
    assert done.exit_code == 0, done.output
    assert written(Path("odd.html"), "gx-about")["title"] == "a\\udcffb\\u202ec"
    (results / "a").rename("-a")
    scene, _ = saved_scene(Path("-a"))
    assert scene.manifest["evidence"]["verify"] == "guid-xmage verify ./-a"


def test_a_report_that_fails_leaves_the_earlier_one(results: Path, tmp_path: Path) -> None:
    run("results")
    before = (tmp_path / "report.html").read_bytes()
    scene, summary = saved_scene(results / "a")
    good = ReportPhoto.of(scene, summary, "results/a")

    def photos() -> Any:
        yield good
        raise InputError("the disk broke")

    for beside in (False, True):
        with pytest.raises(InputError, match="the disk broke"):
            write_report(tmp_path / "report.html", photos(), title="x", beside=beside)
        assert (tmp_path / "report.html").read_bytes() == before
        names = sorted(path.name for path in tmp_path.iterdir())
        assert names == ["index.csv", "report.html", "results"]


def test_photos_are_written_one_by_one(results: Path, tmp_path: Path) -> None:
    """The next is read when the last is on its way to the disk: the memory does not grow."""
    scene, summary = saved_scene(results / "a")
    alive: list[int] = []

    def photos() -> Any:
        for number in range(5):
            data = tmp_path.glob(".guid-xmage-*/*.js")
            alive.append(len([path for path in data if path.stat().st_size]))
            yield ReportPhoto.of(scene, summary, f"results/{number}")

    assert write_report(tmp_path / "r.html", photos(), title="x", beside=True) == 5
    assert alive == [0, 1, 2, 3, 4]


def test_regions_by_colour_are_no_objects(tmp_path: Path) -> None:
    pytest.importorskip("skimage")
    [folder] = explained(tmp_path, ["a.png"], objects="auto")
    _, summary = saved_scene(folder)
    assert summary["object_share"] is None
    assert summary["background_share"] is None


def test_explain_reports_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(
        "import torch\nfrom torch import nn\n\ndef build():\n    torch.manual_seed(0)\n"
        "    return nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1),\n"
        "                         nn.Flatten(), nn.Linear(4, 3)).eval()\n",
        encoding="utf-8",
    )
    photos_in(tmp_path / "photos", ["a.png", "b.png"])
    (tmp_path / "photos" / "bad.png").write_text("no photo")
    options = ["--model", "net.py:build", "--objects", "none", "--out", "out", "--report"]
    done = CliRunner().invoke(app, ["explain", "photos", *options])
    assert done.exit_code == 2, "one photo failed"
    assert done.stdout.splitlines()[-1] == "out/report.html   (2 photos)"
    assert len(written(tmp_path / "out" / "report.html", "gx-index")) == 2
    done = CliRunner().invoke(app, ["explain", "photos/a.png", "--json", *options])
    assert done.exit_code == 0, done.stderr
    assert len(json.loads(done.stdout)) == 1
    assert "out/report.html   (2 photos)" in done.stderr
    done = CliRunner().invoke(app, ["explain", "photos/a.png", "--no-arrays", *options])
    assert done.exit_code == 2
    assert "--report shows the arrays" in done.stderr
    nothing = ["explain", "photos/bad.png", *options[:-3], "--out", "none", "--report"]
    assert CliRunner().invoke(app, nothing).exit_code == 2
    assert not (tmp_path / "none").exists()
