"""Rows of a data set: the numbers of `explain`, whatever the source and however many workers."""

from __future__ import annotations

import csv
import io
import json
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

pa = pytest.importorskip("pyarrow")
pytest.importorskip("scipy")

import pyarrow.parquet as pq  # noqa: E402

from guidxmage.dataset import DatasetOptions, explain_dataset, open_source  # noqa: E402
from guidxmage.dataset.making import Scope  # noqa: E402
from guidxmage.dataset.progress import Progress, in_time  # noqa: E402
from guidxmage.dataset.reading import content_of  # noqa: E402
from guidxmage.dataset.schema import COLUMNS, SCHEMA, arrow_schema  # noqa: E402
from guidxmage.dataset.sources import share  # noqa: E402
from guidxmage.errors import InputError  # noqa: E402
from tests.datasets import (  # noqa: E402
    digests,
    make,
    make_explainer,
    mask,
    photo,
    rows,
    save_photos,
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos, masks, and a data set of them: the two best classes, maps and previews."""
    root = tmp_path_factory.mktemp("made")
    save_photos(root / "photos", masks=root / "masks")
    (root / "photos/a/bad.png").write_bytes(b"no image")
    make(root / "photos", root / "out", **_all(root))
    return root


def _all(root: Path) -> dict[str, Any]:
    pytest.importorskip("zarr")
    return {"objects": root / "masks", "target": "top2", "maps": "summed", "previews": True}


def test_rows_have_the_numbers_of_explain(made: Path) -> None:
    explainer = make_explainer()
    found = rows(made / "out")
    assert [row["item"] for row in found] == sorted(row["item"] for row in found)
    for name in ("a/004.png", "b/007.png"):
        file = made / "photos" / name
        best = explainer.explain(file, "top2", depth=["default", "input"])
        own = [row for row in found if row["path"] == name]
        assert [row["rank"] for row in own] == [0, 1]
        for row, part in zip(own, best.split(), strict=True):
            assert row["target"] == int(part.target)
            assert row["target_name"] == part.target_name
            assert row["score"] == pytest.approx(float(part.score), abs=1e-6)
            assert row["pixels"] == pytest.approx(float(part.contributions.sum()), abs=1e-6)
            assert row["bias"] == pytest.approx(float(part.bias), abs=1e-6)
            assert row["whole"] == pytest.approx(float(part.whole.sum()), abs=1e-6)
            assert row["unplaced"] == pytest.approx(float(part.at("input").unplaced), abs=1e-6)
            assert row["probability"] == pytest.approx(part.probability, abs=1e-6)
            assert row["exactness"] == part.exactness == "on region"
            assert abs(row["residual"]) <= row["bound"]


def test_objects_are_those_of_explain(made: Path) -> None:
    explainer = make_explainer()
    file = made / "photos/a/004.png"
    part = explainer.explain(file, depth=["default", "input"])
    table = part.objects(made / "masks/a/004.png")
    row = next(row for row in rows(made / "out") if row["path"] == "a/004.png")
    by_name = {one["name"]: one for one in row["objects"]}
    assert set(by_name) == {"object 1", "object 2"}
    for name, one in by_name.items():
        assert one["area"] == table[name].pixels
        assert one["pixels"] == pytest.approx(table[name].sum, abs=1e-6)
        assert one["whole"] == pytest.approx(table[name].whole, abs=1e-6)
    for part_name, wanted in (("background", table["background"]), ("ignored", table.rest)):
        assert row[f"{part_name}_area"] == wanted.pixels > 0
        assert row[f"{part_name}_pixels"] == pytest.approx(wanted.sum, abs=1e-6)
        assert row[f"{part_name}_pixels_positive"] == pytest.approx(wanted.positive, abs=1e-6)
        assert row[f"{part_name}_whole"] == pytest.approx(wanted.whole, abs=1e-6)
        assert row[f"{part_name}_whole_negative"] == pytest.approx(wanted.whole_negative, abs=1e-6)
        assert row[f"{part_name}_bias"] == pytest.approx(wanted.bias, abs=1e-6)


def test_what_is_there_of_a_score_adds_up(made: Path) -> None:
    for row in rows(made / "out"):
        if row["error"]:
            continue
        score = row["score"]
        assert row["pixels"] + row["bias"] + row["residual"] == pytest.approx(score, abs=1e-9)
        assert row["whole"] + row["whole_unplaced"] == pytest.approx(score, abs=1e-5)
        assert row["whole_input"] + row["unplaced"] == pytest.approx(score, abs=1e-5)
        assert row["pixels"] + row["placed_bias"] == pytest.approx(row["whole_input"], abs=1e-5)
        parts = [row[f"{one}_whole"] for one in ("object", "background", "ignored")]
        if row["object_area"] is not None:
            assert sum(parts) == pytest.approx(row["whole"], abs=1e-6)
            positive = sum(row[f"{one}_whole_positive"] for one in ("object", "background"))
            positive += row["ignored_whole_positive"]
            assert positive == pytest.approx(row["whole_positive"], abs=1e-6)


def test_true_labels_and_masks_are_kept_where_there_are_any(made: Path) -> None:
    for row in rows(made / "out"):
        assert row["label"] == row["path"][0]
        assert row["label_class"] == "ab".index(row["label"])
        assert (row["object_area"] is None) == (row["label"] == "b" or bool(row["error"]))


def test_a_bad_photo_is_an_error_row(made: Path) -> None:
    bad = [row for row in rows(made / "out") if row["error"]]
    assert [row["path"] for row in bad] == ["a/bad.png"]
    assert "not an image" in bad[0]["error"]
    assert bad[0]["id"] is not None
    assert bad[0]["score"] is None


def test_workers_change_no_byte(made: Path, tmp_path: Path) -> None:
    result = make(made / "photos", tmp_path / "two", workers=2, **_all(made))
    assert (result.photos, result.explained, result.errors) == (41, 41, 1)
    assert digests(tmp_path / "two") == digests(made / "out")


def test_a_second_run_makes_nothing(made: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (made / "out").rglob("*")}
    result = make(made / "photos", made / "out", **_all(made))
    assert (result.explained, result.kept) == (0, 41)
    assert {path: path.stat().st_mtime_ns for path in (made / "out").rglob("*")} == before


def test_maps_are_those_of_explain(made: Path) -> None:
    zarr = pytest.importorskip("zarr")
    maps = zarr.open_array(made / "out/maps.zarr/contributions", mode="r")
    found = rows(made / "out")
    assert maps.shape == (41, 2, 16, 16)
    assert maps.metadata.zarr_format == 3
    row = next(row for row in found if row["path"] == "b/007.png")
    own = make_explainer().explain(made / "photos/b/007.png", "top2").contributions
    np.testing.assert_allclose(maps[row["item"]], own.sum(1).numpy(), atol=1e-6)
    bad = next(row for row in found if row["error"])
    assert np.isnan(maps[bad["item"]]).all()
    assert maps[row["item"]].sum((1, 2)) == pytest.approx(
        [one["pixels"] for one in found if one["item"] == row["item"]], abs=1e-5
    )


def test_previews_are_small_pngs(made: Path) -> None:
    table = pq.read_table(made / "out/previews/000/000000.parquet").to_pylist()
    assert len(table) == 16
    for one in table:
        for name in ("photo", "map"):
            assert max(Image.open(io.BytesIO(one[name])).size) <= 96


def test_the_schema_is_versioned_and_documented(made: Path) -> None:
    found = pq.read_schema(made / "out/rows/000/000000.parquet")
    assert found.equals(arrow_schema(), check_metadata=False)
    assert found.metadata[b"schema"] == SCHEMA.encode()
    text = (Path(__file__).parent.parent / "docs/dataset.md").read_text(encoding="utf-8")
    parts = [name.split("_", 1) for name in COLUMNS]
    undocumented = [
        name
        for name, part in zip(COLUMNS, parts, strict=True)
        if f"`{name}`" not in text and part[0] not in ("object", "background", "ignored")
    ]
    assert not undocumented


# --- what is refused, what is made anew ----------------------------------------------------------


def test_another_network_or_option_is_refused(tmp_path: Path) -> None:
    save_photos(tmp_path / "photos", 4)
    make(tmp_path / "photos", tmp_path / "out")
    with pytest.raises(InputError, match="made with target 'top1' instead of 'top2'"):
        make(tmp_path / "photos", tmp_path / "out", target="top2")
    with pytest.raises(InputError, match="made with another network"):
        explain_dataset(
            make_explainer(1), tmp_path / "photos", tmp_path / "out", DatasetOptions(block=16)
        )
    with pytest.raises(InputError, match="made with another sample"):
        make(tmp_path / "photos", tmp_path / "out", scope=Scope(sample=2))
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/mine.txt").write_text("mine")
    with pytest.raises(InputError, match="is no data set"):
        make(tmp_path / "photos", tmp_path / "notes")
    assert (tmp_path / "notes/mine.txt").read_text() == "mine"


def test_overwriting_makes_all_anew(tmp_path: Path) -> None:
    save_photos(tmp_path / "photos", 4)
    make(tmp_path / "photos", tmp_path / "out")
    options = DatasetOptions(block=16, target="top2")
    result = explain_dataset(
        make_explainer(), tmp_path / "photos", tmp_path / "out", options, overwrite=True
    )
    assert result.explained == 4
    assert len(rows(tmp_path / "out")) == 8


def test_new_and_changed_photos_are_made_and_the_rest_is_kept(tmp_path: Path) -> None:
    photos = save_photos(tmp_path / "photos", 40)
    make(photos, tmp_path / "out")
    photo(99).save(photos / "b/099.png")  # the last in order: the last block alone
    result = make(photos, tmp_path / "out")
    assert (result.kept, result.explained) == (32, 9)
    touched = photos / "a/000.png"
    touched.touch()  # another time stamp, the same bytes
    assert make(photos, tmp_path / "out").explained == 0
    photo(77).save(touched)
    assert make(photos, tmp_path / "out").explained == 16
    found = rows(tmp_path / "out")
    assert [row["item"] for row in found] == list(range(41))
    make(photos, tmp_path / "fresh")
    assert found == rows(tmp_path / "fresh")


def test_limit_sample_and_shares(tmp_path: Path) -> None:
    photos = save_photos(tmp_path / "photos", 40)
    make(photos, tmp_path / "all")
    whole = rows(tmp_path / "all")
    make(photos, tmp_path / "limited", scope=Scope(limit=20))
    assert rows(tmp_path / "limited")[:16] == whole[:16]
    assert len(rows(tmp_path / "limited")) == 20
    assert make(photos, tmp_path / "limited").kept == 16  # and goes on to all of them
    assert rows(tmp_path / "limited") == whole
    for part in range(3):
        make(photos, tmp_path / "shared", scope=Scope(shard=(part, 3)))
    assert digests(tmp_path / "shared") == digests(tmp_path / "all")
    make(photos, tmp_path / "sampled", scope=Scope(sample=10, seed=3))
    drawn = rows(tmp_path / "sampled")
    assert len({row["path"] for row in drawn}) == 10
    by_path = {row["path"]: row["score"] for row in whole}
    for row in drawn:
        assert row["score"] == pytest.approx(by_path[row["path"]], abs=1e-6)
    for wrong in ({"shard": (3, 3)}, {"limit": 0}, {"workers": 0}, {"engine": "other"}):
        with pytest.raises(InputError):
            Scope(**wrong)


def test_what_the_network_refuses_throughout_is_no_data_set(tmp_path: Path) -> None:
    photos = save_photos(tmp_path / "photos", 4)
    with pytest.raises(InputError, match=r"no photo can be explained: .*zebra"):
        make(photos, tmp_path / "out", target="zebra")
    with pytest.raises(InputError, match="one class for each image"):
        make(photos, tmp_path / "out2", target=[0, 1, 2])


# --- sources -------------------------------------------------------------------------------------


def _scores(out: Path) -> dict[str, float]:
    return {row["id"]: row["score"] for row in rows(out)}


def _png(number: int) -> bytes:
    buffer = io.BytesIO()
    photo(number).save(buffer, "PNG")
    return buffer.getvalue()


def _mask_png() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(mask()).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Rows of ten photos from a folder, with masks."""
    root = tmp_path_factory.mktemp("reference")
    (root / "photos").mkdir()
    for number in range(10):
        (root / f"photos/{number:03}.png").write_bytes(_png(number))
    (root / "masks").mkdir()
    for number in range(10):
        (root / f"masks/{number:03}.png").write_bytes(_mask_png())
    make(root / "photos", root / "out", objects=root / "masks")
    return rows(root / "out")


_FROM_SOURCE = ("path", "label", "label_class")


def _same(found: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> None:
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        for name in COLUMNS:
            if name not in _FROM_SOURCE:
                assert one[name] == other[name], name


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def test_a_tar_of_samples(tmp_path: Path, reference: list[dict[str, Any]]) -> None:
    with tarfile.open(tmp_path / "shard.tar", "w") as archive:
        for number in range(10):
            _add(archive, f"{number:03}.png", _png(number))
            _add(archive, f"{number:03}.cls", b"2")
            _add(archive, f"{number:03}.mask.png", _mask_png())
        link = tarfile.TarInfo("999.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
        _add(archive, "../../outside.txt", b"never written")
    make(tmp_path / "shard.tar", tmp_path / "out")
    found = rows(tmp_path / "out")
    _same(found, reference)
    assert {row["label_class"] for row in found} == {2}
    assert not list(tmp_path.parent.glob("outside.txt"))
    (tmp_path / "broken.tar").write_bytes(b"no tar at all" * 100)
    with pytest.raises(InputError, match=r"broken\.tar"):
        open_source(tmp_path / "broken.tar")


def test_a_tar_that_is_cut_off(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "whole.tar", "w") as archive:
        for number in range(4):
            _add(archive, f"{number}.png", _png(number))
    content = (tmp_path / "whole.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(content[: 512 * 2 + len(_png(0)) + 1024])
    try:
        made = make(tmp_path / "cut.tar", tmp_path / "out")
    except InputError as error:
        assert "cut.tar" in str(error)  # noqa: PT017
    else:
        assert made.photos >= 1


def test_a_list_and_parquet_with_bytes(tmp_path: Path, reference: list[dict[str, Any]]) -> None:
    (tmp_path / "p").mkdir()
    (tmp_path / "mask.png").write_bytes(_mask_png())
    with (tmp_path / "list.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "mask"])
        for number in range(10):
            (tmp_path / f"p/{number}.png").write_bytes(_png(number))
            writer.writerow([f"p/{number}.png", "b", "mask.png"])
    make(tmp_path / "list.csv", tmp_path / "csv")
    _same(rows(tmp_path / "csv"), reference)
    table = pq.ParquetWriter(tmp_path / "x.parquet", _BYTES)
    for first in (0, 5):  # two row groups
        table.write_table(
            pa.table(
                {
                    "image": [_png(number) for number in range(first, first + 5)],
                    "label": [1] * 5,
                    "mask": [_mask_png()] * 5,
                },
                schema=_BYTES,
            )
        )
    table.close()
    make(tmp_path / "x.parquet", tmp_path / "bytes", workers=1)
    found = rows(tmp_path / "bytes")
    _same(found, reference)
    assert {row["label"] for row in found} == {"1"}
    (tmp_path / "wrong.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="no column 'path'"):
        open_source(tmp_path / "wrong.csv")


_BYTES = pa.schema([("image", pa.binary()), ("label", pa.int64()), ("mask", pa.binary())])


class Photos:
    """A data set of Python, as torch has them."""

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> tuple[Any, Any, Any]:
        return photo(index), torch.tensor(1), mask()


class Noted(Photos):
    """One that is large."""

    def __init__(self) -> None:
        self.large = b"x" * 100_000


def test_a_data_set_of_python(tmp_path: Path, reference: list[dict[str, Any]]) -> None:
    make(Photos(), tmp_path / "out")
    found = rows(tmp_path / "out")
    for one, other in zip(found, reference, strict=True):
        assert one["score"] == other["score"]
        assert one["object_whole"] == other["object_whole"]
        assert one["label"] == "1"
    assert make(Photos(), tmp_path / "out").kept == 10
    assert len(pickle.dumps(open_source(Noted()).items[3])) < 500, "the data are not sent with it"
    sent = pickle.dumps(open_source(Noted()).items[3])
    share(Noted())
    assert content_of(pickle.loads(sent))[0] == photo(3)
    changed = [photo(number) for number in range(9)] + [photo(77)]
    make([photo(number) for number in range(10)], tmp_path / "list")
    assert make(changed, tmp_path / "list").explained == 10
    tensors = [make_explainer().read(photo(number)) for number in range(3)]
    make(tensors, tmp_path / "tensors")
    for one, other in zip(rows(tmp_path / "tensors"), reference, strict=False):
        assert one["score"] == pytest.approx(other["score"], abs=1e-6)
    with pytest.raises(InputError, match="can be indexed"):
        open_source(iter([]))
    with pytest.raises(InputError, match="no photos"):
        open_source([])


def test_masks_of_a_coco_file(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / "p").mkdir(exist_ok=True)
        (tmp_path / f"p/{number}.png").write_bytes(_png(number))
    content = {
        "images": [
            {"id": n, "file_name": f"{n}.png", "height": SIZE_H, "width": SIZE_W} for n in range(2)
        ],
        "annotations": [{"id": 5, "image_id": 0, "category_id": 1, "bbox": [4, 4, 8, 6]}],
        "categories": [{"id": 1, "name": "box"}],
    }
    (tmp_path / "coco.json").write_text(json.dumps(content))
    make(tmp_path / "p", tmp_path / "out", objects=tmp_path / "coco.json")
    found = rows(tmp_path / "out")
    assert [one["name"] for one in found[0]["objects"]] == ["box"]
    assert found[1]["objects"] == []
    assert found[2]["objects"] is None  # of which the file says nothing


SIZE_W, SIZE_H = 24, 20


def test_duplicates_rotated_and_huge_photos(tmp_path: Path) -> None:
    root = tmp_path / "p"
    root.mkdir()
    image = photo(1)
    image.save(root / "1.png")
    (root / "2.png").write_bytes((root / "1.png").read_bytes())
    exif = Image.Exif()
    exif[0x0112] = 6
    image.rotate(90, expand=True).save(root / "3.png", exif=exif)
    buffer = io.BytesIO()
    Image.new("1", (1, 1)).save(buffer, "PNG")
    head = bytearray(buffer.getvalue())
    head[16:24] = (60000).to_bytes(4, "big") * 2
    import zlib

    head[29:33] = zlib.crc32(head[12:29]).to_bytes(4, "big")
    (root / "4.png").write_bytes(head)
    (root / "5.png").write_bytes(b"")
    make(root, tmp_path / "out")
    found = rows(tmp_path / "out")
    assert found[0]["id"] == found[1]["id"]
    assert found[0]["score"] == pytest.approx(found[1]["score"], abs=1e-6)
    assert (found[2]["height"], found[2]["width"]) == (SIZE_H, SIZE_W)
    assert found[2]["score"] == pytest.approx(found[0]["score"], abs=1e-6)
    assert "too large" in found[3]["error"]
    assert "empty" in found[4]["error"]


def test_the_true_label_as_target(tmp_path: Path) -> None:
    photos = save_photos(tmp_path / "photos", 4)
    (photos / "unknown").mkdir()
    photo(9).save(photos / "unknown/9.png")
    make(photos, tmp_path / "out", target="label")
    found = rows(tmp_path / "out")
    assert [row["target"] for row in found] == [0, 0, 1, 1, None]
    assert "no class of this network" in found[4]["error"]


def test_photos_of_several_sizes(tmp_path: Path) -> None:
    from guidxmage.explainer import Explainer
    from guidxmage.inputs.preprocessing import Preprocessing

    explainer = Explainer(
        make_explainer().model, preprocessing=Preprocessing(mean=(0.5,) * 3, std=(0.2,) * 3)
    )
    (tmp_path / "p").mkdir()
    for number in range(6):
        photo(number, (20 + 4 * (number % 2), 20)).save(tmp_path / f"p/{number}.png")
    explain_dataset(explainer, tmp_path / "p", tmp_path / "out")
    for row in rows(tmp_path / "out"):
        alone = explainer.explain(tmp_path / "p" / row["path"])
        assert row["score"] == pytest.approx(float(alone.score), abs=1e-6)
    pytest.importorskip("zarr")
    with pytest.raises(InputError, match="maps of different sizes"):
        explain_dataset(explainer, tmp_path / "p", tmp_path / "maps", DatasetOptions(maps="summed"))


def test_ambiguous_decisions_are_those_of_the_certificate(tmp_path: Path) -> None:
    photos = save_photos(tmp_path / "photos", 3)
    make(photos, tmp_path / "out", ambiguous=True)
    explainer = make_explainer()
    for row in rows(tmp_path / "out"):
        (certificate,) = explainer.explain(photos / row["path"]).certificate()
        assert certificate.trail is not None
        assert row["ambiguous"] == certificate.trail.ambiguous
        assert row["decisions"] == certificate.trail.decisions


def test_progress_in_words() -> None:
    progress = Progress(100, kept=10)
    progress.add(30, 2)
    assert str(progress).startswith("40 of 100 photos (10 from earlier), ")
    assert "2 errors" in str(progress)
    assert progress.left == 60
    assert [in_time(s) for s in (40, 720, 12_000, 432_000)] == [
        "40 s",
        "12 min",
        "3 h 20 min",
        "5.0 days",
    ]


def test_an_explainer_makes_a_data_set(tmp_path: Path) -> None:
    """The same bytes as by the function; a misspelt option is told."""
    save_photos(tmp_path / "p", 6)
    options = {"target": "top2", "depth": None, "limit": 4, "block": 16}
    made = make_explainer().explain_dataset(tmp_path / "p", tmp_path / "a", **options)
    assert (made.photos, made.explained, made.errors) == (4, 4, 0)
    make(tmp_path / "p", tmp_path / "b", scope=Scope(limit=4), target="top2", depth=None)
    assert rows(tmp_path / "a") == rows(tmp_path / "b")
    with pytest.raises(InputError, match="did you mean limit"):
        make_explainer().explain_dataset(tmp_path / "p", tmp_path / "c", limti=4)
    assert not (tmp_path / "c").exists()
