"""The page of a data set, its questions on hard rows, and photos that are explained again."""

from __future__ import annotations

import hashlib
import math
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from guidxmage.cli import app
from guidxmage.dataset import Scope
from guidxmage.dataset.ledger import Head, Ledger, Line
from guidxmage.dataset.schema import COLUMNS, arrow_schema
from guidxmage.errors import InputError
from tests.datasets import make, photo, rows, save_photos

pytest.importorskip("duckdb")

from guidxmage.dataset.notable import notable
from guidxmage.dataset.query import Dataset
from guidxmage.dataset.summary import write_summary


def written(out: Path, given: list[dict[str, Any]], **head: Any) -> Dataset:
    """A data set of one block whose rows are given; what they leave out is plain."""
    plain = {"label": "a", "target": 0, "target_name": "a", "rank": 0, "score": 1.0}
    own = [
        {"item": n, "id": hashlib.sha256(b"%d" % n).hexdigest(), "path": f"{n}.png", **plain, **row}
        for n, row in enumerate(given)
    ]
    told = {"options": {"target": "top1"}, "source": {"kind": "folder", "name": "p"}} | head
    ledger = Ledger(out)
    ledger.begin(Head("f" * 64, "net", photos=len(given), block=16, versions={}, **told))
    shard = ledger.shard(0)
    shard.parent.mkdir(parents=True)
    full = [{name: row.get(name) for name in COLUMNS} for row in own]
    pq.write_table(pa.Table.from_pylist(full, schema=arrow_schema()), shard)
    digest = hashlib.sha256(shard.read_bytes()).hexdigest()
    ledger.add(Line(0, digest, "", 0, "", photos=len(given), errors=0, seconds=1.0))
    return Dataset(out)


def sums(background: float, objects: float = 0.0, *, area: tuple[int, int] = (6, 4)) -> Any:
    """What a row says of a photo with a mask; area: of the background and of the objects."""
    return {
        "background_area": area[0],
        "object_area": area[1],
        "background_whole": background,
        "object_whole": objects,
        "background_whole_positive": max(background, 0.0),
        "whole_positive": max(background, 0.0) + max(objects, 0.0),
    }


def test_photos_without_a_share_are_not_counted_in_its_mean(tmp_path: Path) -> None:
    dataset = written(tmp_path, [sums(1, 3), sums(1, 1), sums(-5, -4), sums(-5, -4)])
    (row,) = dataset.query("background").to_json()
    half = 1.96 * math.sqrt(((0.25 - 0.375) ** 2 + (0.5 - 0.375) ** 2) / 1) / math.sqrt(2)
    assert row["photos"] == 2
    assert row["background"] == pytest.approx(0.375)
    assert row["to"] - row["background"] == pytest.approx(half)
    assert row["background"] - row["from"] == pytest.approx(half)
    assert (row["background_sum"], row["object_sum"]) == (1, 2)


def test_a_mask_over_all_or_nothing_decides_nothing(tmp_path: Path) -> None:
    dataset = written(
        tmp_path,
        [
            sums(0, -9, area=(0, 10)),
            sums(7, 0, area=(10, 0)),
            sums(2, 1),
            sums(1, 2),
        ],
    )
    assert [path for path, *_ in dataset.query("decides")] == ["2.png"]
    assert {row["path"] for row in notable(dataset).table.to_json()} == {"2.png"}
    page = write_summary(dataset).read_text(encoding="utf-8")
    assert "In 1 of 2 photos" in page


@pytest.mark.parametrize(
    ("told", "words"),
    [
        (["contrast", 3, "top2"], "targets: `3 rather than top2`"),
        (["classes", [1, 2]], "targets: `classes 1, 2`"),
        (["top", 5], "targets: `top5`"),
        ({"of": "others"}, "targets: `"),
        (7, "targets: `7`"),
    ],
)
def test_every_target_has_a_page(tmp_path: Path, told: Any, words: str) -> None:
    dataset = written(tmp_path, [{}], options={"target": told}, source={})
    assert words in write_summary(dataset).read_text(encoding="utf-8")


ENDLESS = "SELECT sum(a.range * b.range) FROM range(10000000000) a, range(1000) b"


@pytest.mark.parametrize(
    "sql", [ENDLESS, "SELECT * FROM range(10000000000)"], ids=["one row", "many rows"]
)
def test_a_query_ends_when_its_time_is_over(tmp_path: Path, sql: str) -> None:
    dataset = written(tmp_path, [{}])
    with pytest.raises(InputError, match=r"longer than 0\.3 seconds"):
        dataset.query(sql, seconds=0.3)
    assert dataset.query("SELECT path FROM rows", seconds=60).rows == (("0.png",),)


def test_a_query_can_be_interrupted(tmp_path: Path) -> None:
    """As by Ctrl-C; the command then ends like every other."""
    written(tmp_path, [{}])
    timer = threading.Timer(1.5, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    try:
        result = CliRunner().invoke(app, ["query", str(tmp_path), ENDLESS])
    finally:
        timer.cancel()
    assert result.exit_code == 130
    assert "interrupted" in result.stderr


def test_a_source_that_cannot_be_sent_is_refused_in_a_sentence(tmp_path: Path) -> None:
    class Own(list[Any]):
        """Known to nobody but this function."""

    with pytest.raises(InputError, match=r"top of a module, or give workers=1 \(.*Own"):
        make(Own([photo(1), photo(2)]), tmp_path / "d", scope=Scope(workers=2))


def test_a_worker_that_cannot_begin_is_not_a_lack_of_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("guidxmage.dataset.local._MOST_DEATHS", 1)
    source = Unknown([photo(1), photo(2)])
    with pytest.raises(InputError, match=r"before it began .* put classes and functions into"):
        make(source, tmp_path / "d", scope=Scope(workers=2))


class Unknown(list[Any]):
    """Sent to another process it is not known there, like what a notebook defines."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _there, (os.getpid(),)


def _there(sender: int) -> list[Any]:
    if os.getpid() != sender:
        raise AttributeError("Can't get attribute 'Unknown'")
    return []


def test_items_count_the_drawn_photos(tmp_path: Path) -> None:
    from guidxmage.dataset import Scope as exported

    assert exported is Scope
    save_photos(tmp_path / "p", 20)
    make(tmp_path / "p", tmp_path / "d", scope=Scope(sample=3))
    made = rows(tmp_path / "d")
    assert [row["item"] for row in made] == [0, 1, 2]
    assert [row["path"] for row in made] == sorted(row["path"] for row in made)
    assert "drawn" in COLUMNS["item"][1]
