"""Questions about a data set: answers, and what a query or a data set of others cannot do."""

from __future__ import annotations

import json
import re
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from guidxmage.cli import app
from guidxmage.dataset import DatasetOptions, explain_dataset
from guidxmage.errors import InputError
from guidxmage.explanation import Explanation
from tests.datasets import make, make_explainer, photo, rows, save_photos

pytest.importorskip("duckdb")

from guidxmage.dataset.notable import notable
from guidxmage.dataset.query import Dataset
from guidxmage.dataset.questions import QUESTIONS
from guidxmage.dataset.summary import write_summary
from guidxmage.jobs.verify_result import find_results

DOCS = Path(__file__).parent.parent / "docs/dataset.md"


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set with masks, an error and a copy, and one of another network beside it."""
    root = tmp_path_factory.mktemp("asked")
    photos = save_photos(root / "photos", masks=root / "masks")
    (photos / "a/bad.png").write_bytes(b"no image")
    (photos / "b/copy.png").write_bytes((photos / "b/001.png").read_bytes())
    make(photos, root / "out", objects=root / "masks", ambiguous=True)
    options = DatasetOptions(block=16, objects=root / "masks")
    explain_dataset(make_explainer(1), photos, root / "other", options)
    return root / "out"


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, [*arguments])


def test_every_ready_question_is_answered(out: Path) -> None:
    dataset, other = Dataset(out), Dataset(out.parent / "other")
    for name in QUESTIONS:
        answer = dataset.query(name, other)
        assert answer.columns, name
    (row,) = dataset.query("background").to_json()
    assert row["class"] == "a"
    assert row["photos"] == 20
    own = [r for r in rows(out) if r["label"] == "a" and not r["error"]]
    shares = [r["background_whole_positive"] / r["whole_positive"] for r in own]
    assert row["background"] == pytest.approx(sum(shares) / len(shares))
    assert row["from"] < row["background"] < row["to"]
    decided = {path for path, *_ in dataset.query("decides")}
    assert decided == {r["path"] for r in own if r["object_whole"] < r["background_whole"]}
    assert [path for path, *_ in dataset.query("errors")] == ["a/bad.png"]
    (copies,) = dataset.query("copies").to_json()
    assert copies["paths"] == ["b/001.png", "b/copy.png"]
    assert len(dataset.query("ambiguity")) == 40
    assert len(dataset.query("drift", other)) > 0
    with pytest.raises(InputError, match="about two data sets"):
        dataset.query("drift")


def test_copies_count_once(out: Path) -> None:
    dataset = Dataset(out)
    assert dataset.query("SELECT count(*) FROM rows").rows == ((42,),)
    assert dataset.query("SELECT count(*) FROM explained").rows == ((40,),)
    (spent,) = dataset.query("SELECT sum(seconds) FROM rows").rows
    assert spent[0] == pytest.approx(dataset.seconds, rel=1e-3)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM read_text('/etc/passwd')",
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM read_parquet('*.parquet')",
        "SELECT * FROM glob('/*')",
        "COPY rows TO 'stolen.csv'",
        "EXPORT DATABASE 'stolen'",
        "ATTACH 'stolen.db'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET enable_external_access = true",
        "SET temp_directory = '.'",
        "SELECT * FROM dataset",
        "SELECT * FROM connection",
        "no SQL at all",
    ],
)
def test_a_query_reads_and_writes_nothing_else(
    out: Path, sql: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="cannot be answered"):
        Dataset(out).query(sql)
    assert not list(tmp_path.iterdir())


def test_a_data_set_of_others_is_data(tmp_path: Path) -> None:
    save_photos(tmp_path / "p", 4)
    make(tmp_path / "p", tmp_path / "out")
    shard = tmp_path / "out/rows/000/000000.parquet"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-10])
    with pytest.raises(InputError, match="no finished block"):
        Dataset(tmp_path / "out")
    pq.write_table(pa.table({"a": [1]}), shard)
    _state(tmp_path / "out", shard)
    with pytest.raises(InputError, match="other columns"):
        Dataset(tmp_path / "out").query("SELECT 1 + 1")
    shard.write_bytes(b"PAR1 and no more")
    _state(tmp_path / "out", shard)
    with pytest.raises(InputError, match="damaged"):
        Dataset(tmp_path / "out").query("SELECT 1 + 1")


def _state(out: Path, shard: Path) -> None:
    """Let the ledger state what is there now."""
    import hashlib

    ledger = next(out.glob("ledger/*.jsonl"))
    digest = hashlib.sha256(shard.read_bytes()).hexdigest()
    ledger.write_text(re.sub(r'"shard": "\w+"', f'"shard": "{digest}"', ledger.read_text()))


def test_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    network = (
        "import torch\nfrom torch import nn\ndef build():\n    torch.manual_seed(0)\n"
        "    return nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(2),"
        " nn.Flatten(), nn.Linear(16, 3)).eval()\n"
    )
    (tmp_path / "net.py").write_text(network)
    save_photos(tmp_path / "p", 4, masks=tmp_path / "m")
    given = ("batch", "p", "--model", "net.py:build", "--out", "d", "--workers", "1")
    result = run(*given, "--objects", "m", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["explained"] == 4
    result = run(*given, "--objects", "m")
    assert "4 photos, 4 kept from earlier" in result.stdout
    assert run(*given, "--target", "top2").exit_code == 2
    assert run(*given, "--objects", "m", "--shard", "x").exit_code == 2
    assert run("batch", "missing", "--model", "net.py:build", "--out", "e").exit_code == 2
    assert "Which classes lean" in run("query", "d").stdout
    assert json.loads(run("query", "d", "background", "--json").stdout)[0]["class"] == "a"
    result = run("query", "d", "SELECT path FROM rows ORDER BY item", "--most", "2")
    assert result.stdout.split() == ["path", "a/000.png", "a/002.png"]
    assert "more than 2 rows" in result.stderr
    assert run("query", "d", "backgroud").exit_code == 2
    assert run("query", "p").exit_code == 2
    assert "SELECT" in run("query", "d", "labels", "--sql").stdout
    result = run("summary", "d")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "d/report.html").is_file()


def _tarred(photos: Path, out: Path) -> None:
    with tarfile.open(out, "w") as archive:
        for path in sorted(photos.glob("*/*.png")):
            archive.add(path, path.relative_to(photos).as_posix())


@pytest.mark.parametrize("kind", ["a folder with masks", "a tar"])
def test_photos_that_stand_out_are_explained_again(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    masks = None if kind == "a tar" else tmp_path / "m"
    save_photos(tmp_path / "p", 6, masks=masks)
    _tarred(tmp_path / "p", tmp_path / "p.tar")
    source = "p.tar" if kind == "a tar" else "p"
    given = ("--model", "squeezenet1_1", "--weights", "none", "--workers", "1", "--limit", "6")
    also = ("--objects", "m", "--depth", "input") if masks else ("--depth", "none")
    result = run("batch", source, *given, *also, "--out", "d")
    assert result.exit_code == 0, result.output
    worst = notable(Dataset(tmp_path / "d")).table.to_json()[0]
    if masks:  # a photo that was changed since is not what the data set is about
        photo(99).save(tmp_path / "p" / worst["path"])
    result = run("summary", "d", "--explain", "3")
    assert result.exit_code == 0, result.output
    assert ("it was changed since" in result.stderr) == (masks is not None)
    folders = find_results(tmp_path / "d/photos")
    assert len(folders) == (1 if masks else 2)
    for folder in folders:
        found = Explanation.load(folder)
        (row,) = [r for r in rows(tmp_path / "d") if abs(r["score"] - float(found.score)) < 1e-4]
        assert row["target"] == int(found.target)
        assert row["pixels"] == pytest.approx(float(found.contributions.double().sum()), abs=1e-4)
    page = (tmp_path / "d/report.html").read_text(encoding="utf-8")
    assert "photos/report.html" in page
    words = "ahead of its objects by most" if masks else "with the lowest score"
    assert words in page


def test_an_unfinished_data_set_says_so(tmp_path: Path) -> None:
    save_photos(tmp_path / "p", 20)
    make(tmp_path / "p", tmp_path / "out")
    photo(50).save(tmp_path / "p/b/050.png")
    (tmp_path / "out/rows/000/000001.parquet").unlink()
    assert Dataset(tmp_path / "out").missing == 4


def test_the_summary(out: Path) -> None:
    text = write_summary(Dataset(out)).read_text(encoding="utf-8")
    for words in ("## Classes", "## Photos", "42 photos", "1 photo could not", "a/bad.png"):
        assert words in text
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "<table>" in page
    assert "data:image/png" in page
    assert "<script" not in page


def test_names_in_a_summary_stay_text(tmp_path: Path) -> None:
    folder = tmp_path / "p" / "<b>x](y)|`"
    folder.mkdir(parents=True)
    photo(1).save(folder / "1.png")
    photo(2).save(folder / "2.png")
    make(tmp_path / "p", tmp_path / "out")
    write_summary(Dataset(tmp_path / "out"))
    page = (tmp_path / "out/report.html").read_text(encoding="utf-8")
    assert "<b>" not in page
    assert "href" not in page.split("<body", 1)[1]


def _examples() -> list[str]:
    if not DOCS.is_file():
        return []
    return re.findall(r"```sql\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.S)


def test_the_sql_of_the_docs_is_executed(out: Path) -> None:
    dataset, other = Dataset(out), Dataset(out.parent / "other")
    examples = _examples()
    assert len(examples) > 3
    for sql in examples:
        assert dataset.query(sql, other).columns
