"""The page of a data set, its questions on hard rows, and photos that are explained again."""

from __future__ import annotations

import hashlib
import math
import os
import signal
import threading
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from guidxmage.cli import app
from guidxmage.dataset import Scope
from guidxmage.dataset.ledger import Head, Ledger, Line
from guidxmage.dataset.local import Pool, _Process
from guidxmage.dataset.progress import Progress
from guidxmage.dataset.schema import COLUMNS, arrow_schema
from guidxmage.dataset.working import Work
from guidxmage.errors import InputError
from tests.datasets import make, make_explainer, mask, photo, rows, save_photos

pytest.importorskip("duckdb")

from guidxmage.dataset.notable import Found, Places, found_again, notable
from guidxmage.dataset.query import Dataset
from guidxmage.dataset.summary import write_summary
from guidxmage.jobs.explain_notable import differs, explain_notable, masks_for


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
    made_with = ledger.head().digest
    ledger.add(Line(0, digest, "", "", "", made_with, photos=len(given), errors=0, seconds=1.0))
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
    # Whoever runs the tests in the background has the signal ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer = threading.Timer(1.5, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    try:
        result = CliRunner().invoke(app, ["query", str(tmp_path), ENDLESS, "--seconds", "30"])
    finally:
        timer.cancel()
        signal.signal(signal.SIGINT, before)
    assert result.exit_code == 130
    assert "interrupted" in result.stderr


def test_a_source_that_cannot_be_sent_is_refused_in_a_sentence(tmp_path: Path) -> None:
    class Own(list[Any]):
        """Known to nobody but this function."""

    with pytest.raises(InputError, match=r"top of a module, or give workers=1 \(.*Own"):
        make(Own([photo(1), photo(2)]), tmp_path / "d", scope=Scope(workers=2))


class _Ended:
    """A process that ended by an error of Python's, and its pipe."""

    exitcode = 1

    def join(self, _: float) -> None:
        pass

    def close(self) -> None:
        pass


def test_a_worker_that_cannot_begin_is_not_a_lack_of_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Such as one that does not know a class of a notebook; each was at another block."""
    pool = Pool(None, 2, Progress(16), lambda: None)  # type: ignore[arg-type]
    monkeypatch.setattr(Pool, "_started", lambda self: None)

    def die(block: int) -> None:
        one = _Process(_Ended(), _Ended(), Work(block, 16, ()), began=False)  # type: ignore[arg-type]
        pool._replaced(one, deque())

    die(0)
    die(1)
    with pytest.raises(InputError, match=r"3 times before it began .*: its own error .* a module"):
        die(2)


def test_items_count_the_drawn_photos(tmp_path: Path) -> None:
    save_photos(tmp_path / "p", 9)
    make(tmp_path / "p", tmp_path / "d", scope=Scope(sample=3), depth=None)
    made = rows(tmp_path / "d")
    assert [row["item"] for row in made] == [0, 1, 2]
    assert [row["path"] for row in made] == sorted(row["path"] for row in made)
    assert "drawn" in COLUMNS["item"][1]


def _told(dataset: Dataset, most: int = 9, seed: int = 0) -> list[str]:
    said: list[str] = []
    explain_notable(dataset, make_explainer(seed), most, say=said.append)
    return said


def _shown(out: Path) -> set[str]:
    """The photos of the table beside the report."""
    lines = (out / "photos/index.csv").read_text(encoding="utf-8").splitlines()[1:]
    return {Path(line.split(",")[1]).name for line in lines}


def test_another_network_is_refused(tmp_path: Path) -> None:
    save_photos(tmp_path / "p", 2)
    make(tmp_path / "p", tmp_path / "d", depth=None)
    with pytest.raises(InputError, match="not the network"):
        _told(Dataset(tmp_path / "d"), seed=1)
    assert not (tmp_path / "d/photos").exists()


def test_only_what_is_as_in_its_row_is_explained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("guidxmage.jobs.explain_photos.draw", lambda *_: None)
    photos, masks, out = save_photos(tmp_path / "p", 2), tmp_path / "m", tmp_path / "d"
    for name in ("a/000.png", "b/001.png"):
        (masks / name).parent.mkdir(parents=True)
        Image.fromarray(mask()).save(masks / name)
    make(photos, out, objects=masks)
    assert _told(Dataset(out)) == []
    assert _shown(out) == {"000.png", "001.png"}
    assert "[2 of them in the viewer]" in write_summary(Dataset(out)).read_text(encoding="utf-8")

    Image.fromarray(np.ascontiguousarray(mask()[:, ::-1])).save(masks / "a/000.png")
    (said,) = _told(Dataset(out))
    assert "a/000.png is left out: its masks were changed since" in said
    assert _shown(out) == {"001.png"}
    assert "[1 of them in the viewer]" in write_summary(Dataset(out)).read_text(encoding="utf-8")

    photo(7).save(photos / "b/001.png")
    make(photos, out, objects=masks)
    page = write_summary(Dataset(out)).read_text(encoding="utf-8")
    assert "is of earlier rows" in page
    assert "viewer" not in page


def test_masks_and_numbers_are_compared_with_the_row() -> None:
    row = {
        **{"score": 2.0, "pixels": 1.5, "pixels_positive": 3.0, "pixels_negative": -1.5},
        "objects": [{"name": "1", "area": 4, "pixels": 1.0}],
    }
    one = {"name": "1", "label": 1, "pixels": 4, "sum": 1.0002}
    result = {"score": 2.0001, "contribution_sum": 1.5}

    def why(objects: Any, **changed: Any) -> str:
        tables = [None if objects is None else {"rows": objects}]
        return differs(row, {"results": [result | changed], "objects": tables}) or ""

    assert not why([one])
    assert not why([one, {"name": "background", "label": 0, "pixels": 9, "sum": 0.5}])
    assert "no mask instead of 1 of 4 pixels" in why(None)
    assert "1 of 9 pixels instead" in why([one | {"pixels": 9}])
    assert "other pixels" in why([one | {"sum": 1.1}])
    assert "score is 2.1 now" in why([one], score=2.1)
    assert "score is nan now" in why([one], score=math.nan)
    assert why([one], contribution_sum=1.6)
    assert not differs(row | {"objects": None}, {"results": [result]})


def test_a_photo_that_a_file_of_many_does_not_have_has_no_masks() -> None:
    coco, own = Path("coco.json"), Path("m/a.png")
    none, some = {"object_area": None}, {"object_area": 4}
    one, other = (Found(0, "a.png", Path("a.png"), masks, 1) for masks in (coco, own))
    assert masks_for(one, none, Places(objects=coco)) == "none"
    assert masks_for(one, some, Places(objects=coco)) == coco
    assert masks_for(other, none, Places(objects=Path("m"))) == own  # one that was added is told


def test_photos_are_found_whatever_their_names(tmp_path: Path) -> None:
    """Also several of one name; of what is not found it is said which, and why."""
    folder = tmp_path / "p"
    folder.mkdir()
    names = ["x\u202ey.png", "line\nend.png", "plain.png", "gone.png", "other.png"]
    for number, name in enumerate(names):
        photo(number).save(folder / name)
    make(folder, tmp_path / "d", depth=None)
    (folder / "gone.png").unlink()
    photo(9).save(folder / "other.png")
    said: list[str] = []
    found = _found(tmp_path / "d", said)
    assert {one.photo.name for one in found} == set(names[:3])
    gone, other = sorted(said)
    assert gone.startswith("gone.png is left out: it is not in")
    assert other.startswith("other.png is left out: it was changed")

    contents = [(folder / name).read_bytes() for name in names[:3]]
    table = pa.table({"key": ["x.png", "x.png", "y"], "image": contents})
    pq.write_table(table, tmp_path / "p.parquet")
    make(tmp_path / "p.parquet", tmp_path / "e", depth=None)
    again = _found(tmp_path / "e", said)
    assert sorted(one.photo.read_bytes() for one in again) == sorted(contents)
    assert {one.photo.name for one in again} == {"x.png", "y.png"}
    assert len(said) == 2


def _found(out: Path, said: list[str]) -> list[Found]:
    """All photos of a data set, found again."""
    dataset = Dataset(out)
    sql = "SELECT item, path, id, target, against FROM rows ORDER BY item"
    into = out / "taken"
    return list(found_again(dataset, dataset.query(sql).to_json(), into, Places(), said.append))
