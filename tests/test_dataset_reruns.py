"""Runs into a data set that is there: what was changed is made anew, and nothing is lost."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch import nn

pytest.importorskip("pyarrow")

from guidxmage.dataset import DatasetOptions, explain_dataset
from guidxmage.dataset.making import Scope
from guidxmage.errors import InputError
from guidxmage.explainer import Explainer
from tests.datasets import make, make_explainer, mask, photo, rows, save_photos


def same_as_afresh(source: Any, out: Path, **options: Any) -> None:
    """A rerun, against a data set that is made of the same source in a new folder."""
    make(source, out, **options)
    make(source, out.with_name("afresh"), **options)
    assert rows(out) == rows(out.with_name("afresh"))


def at(path: Path, seconds: int) -> None:
    os.utime(path, (seconds, seconds))


def test_photos_of_one_size_that_change_places(tmp_path: Path) -> None:
    (folder := tmp_path / "p").mkdir()
    for number, name in enumerate("ab"):
        photo(number).save(folder / f"{name}.bmp")
        at(folder / f"{name}.bmp", 1000 * (number + 1))
    make(folder, tmp_path / "out")
    (folder / "a.bmp").rename(folder / "c")
    (folder / "b.bmp").rename(folder / "a.bmp")
    (folder / "c").rename(folder / "b.bmp")
    same_as_afresh(folder, tmp_path / "out")


def test_an_older_photo_in_the_place_of_one(tmp_path: Path) -> None:
    (folder := tmp_path / "p").mkdir()
    for number, name in enumerate("ab"):
        photo(number).save(folder / f"{name}.bmp")
        at(folder / f"{name}.bmp", 1000 * (number + 1))
    make(folder, tmp_path / "out")
    photo(9).save(folder / "a.bmp")
    at(folder / "a.bmp", 500)
    same_as_afresh(folder, tmp_path / "out")


def test_other_labels_and_masks_of_a_data_set_in_python(tmp_path: Path) -> None:
    first, second = mask(), np.roll(mask(), 2, 0)
    make([(photo(1), "a", first)], tmp_path / "out")
    assert make([(photo(1), "a", first)], tmp_path / "out").kept == 1
    same_as_afresh([(photo(1), "b", first)], tmp_path / "out")
    make([(photo(1), "b", second)], tmp_path / "again")
    (own,) = rows(tmp_path / "again")
    make([(photo(1), "b", second)], tmp_path / "out")
    assert rows(tmp_path / "out") == [own]


def test_another_mask_of_as_many_bytes_in_a_tar(tmp_path: Path) -> None:
    def save(labels: np.ndarray) -> None:
        with tarfile.open(tmp_path / "p.tar", "w") as archive:
            for name, values in (("x.png", np.asarray(photo(1))), ("x.seg.png", labels)):
                buffer = io.BytesIO()
                Image.fromarray(values).save(buffer, "PNG")
                content = buffer.getvalue().ljust(4096, b"\0")
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))

    save(mask())
    make(tmp_path / "p.tar", tmp_path / "out")
    save(np.roll(mask(), 3, 0))
    at(tmp_path / "p.tar", 4_000_000_000)
    same_as_afresh(tmp_path / "p.tar", tmp_path / "out")


def labelled(names: list[str] | None) -> Explainer:
    known = make_explainer()
    return Explainer(known.model, preprocessing=known.preprocessing, labels=names)


@pytest.mark.parametrize(
    ("names", "label", "expected"),
    [
        (["0", "1", "10"], "10", 2),
        (["0", "1", "10"], "2", None),
        (["tennis_ball", "b", "c"], "tennis_ball", 0),
        (["tennis_ball", "b", "c"], "Tennis ball", 0),
        ([" b", "x ", "c"], "x", 1),
        (["crane", "crane", "c"], "crane", None),
        (["a", "b", "c"], "2", 2),
        (["a", "b", "c"], "3", None),
        (None, "2", 2),
        (None, "999", None),
    ],
)
def test_classes_of_labels(
    names: list[str] | None, label: str, expected: int | None, tmp_path: Path
) -> None:
    explain_dataset(labelled(names), [(photo(1), label)], tmp_path / "out")
    (row,) = rows(tmp_path / "out")
    assert row["label_class"] == expected


def test_copies_with_other_masks_or_labels_count(tmp_path: Path) -> None:
    pytest.importorskip("duckdb")
    from guidxmage.dataset.query import Dataset

    one, other = mask(), np.roll(mask(), 3, 0)
    entries = [("a", None), ("a", None), ("b", one), ("b", other), ("b", one)]
    make([(photo(1), *entry) for entry in entries], tmp_path / "out")
    dataset = Dataset(tmp_path / "out")
    (found,) = dataset.query("SELECT list(item ORDER BY item) FROM explained").rows
    assert found == ([0, 2, 3],)
    assert dataset.query("background").to_json()[0]["photos"] == 2


def test_a_run_over_other_photos_takes_no_rows_away(tmp_path: Path) -> None:
    first = save_photos(tmp_path / "p", 20)
    second = save_photos(tmp_path / "q", 30)
    make(first, tmp_path / "out")
    (tmp_path / "q/a/000.png").write_bytes((tmp_path / "q/a/002.png").read_bytes())
    with pytest.raises(InputError, match="these are other photos"):
        make(second, tmp_path / "out")
    with pytest.raises(InputError, match="limit of 3"):
        make(first, tmp_path / "out", scope=Scope(limit=3))
    with pytest.raises(InputError, match="blocks of 16 photos"):
        explain_dataset(make_explainer(), first, tmp_path / "out", DatasetOptions(block=8))
    assert len(rows(tmp_path / "out")) == 20
    first.rename(tmp_path / "moved")
    assert make(tmp_path / "moved", tmp_path / "out").kept == 20


def test_options_of_a_run_without_a_block_bind_nobody(tmp_path: Path) -> None:
    photos = save_photos(tmp_path / "p", 4)
    with pytest.raises(InputError):
        make(photos, tmp_path / "out", depth="nonsense")
    assert make(photos, tmp_path / "out", depth=None).explained == 4
    with pytest.raises(InputError, match="depth"):
        make(photos, tmp_path / "out", depth="input")


def test_what_others_wrote_stays(tmp_path: Path) -> None:
    photos = save_photos(tmp_path / "p", 20)
    options: dict[str, Any] = {"maps": "summed", "previews": True}
    make(photos, tmp_path / "out", **options)
    theirs = [tmp_path / "out" / name for name in ("rows/notes.txt", "maps.zarr/x/notes.txt")]
    theirs += [tmp_path / "out/previews/my.png", tmp_path / "out/notes.md"]
    for path in theirs:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    (tmp_path / "out/REPORT.md").write_text("of the rows before")
    explain_dataset(
        make_explainer(1), photos, tmp_path / "out", DatasetOptions(block=16), overwrite=True
    )
    assert all(path.read_text() == "mine" for path in theirs)
    left = {path.name for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert not {"zarr.json", "REPORT.md"} & left
    assert len(rows(tmp_path / "out")) == 20


def test_maps_are_as_many_as_photos(tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr")
    photos = save_photos(tmp_path / "p", 20)
    make(photos, tmp_path / "out", maps="summed")
    for path in sorted((photos / "b").iterdir()):
        path.unlink()
    make(photos, tmp_path / "out", maps="summed")
    assert zarr.open_group(tmp_path / "out/maps.zarr")["contributions"].shape[0] == 10


def test_a_block_of_unknown_labels_is_a_block_of_errors(tmp_path: Path) -> None:
    for number in range(6):
        (tmp_path / "p/other").mkdir(parents=True, exist_ok=True)
        photo(number).save(tmp_path / f"p/other/{number}.png")
    made = make(tmp_path / "p", tmp_path / "out", target="label")
    assert made.errors == 6
    assert all("no class of this network" in row["error"] for row in rows(tmp_path / "out"))

    class Broken(nn.Module):
        def forward(self, x: Any) -> Any:
            raise RuntimeError("it never works")

    with pytest.raises(InputError, match="no photo can be explained"):
        explain_dataset(Explainer(Broken().eval()), tmp_path / "p", tmp_path / "broken")
