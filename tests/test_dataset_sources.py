"""Sources of data sets: what people have, said otherwise, or refused; no photo is lost unsaid."""

from __future__ import annotations

import gzip
import io
import json
import os
import signal
import tarfile
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

pa = pytest.importorskip("pyarrow")
pytest.importorskip("scipy")

import pyarrow.parquet as pq  # noqa: E402

from guidxmage.dataset import Dataset, explain_dataset, open_source  # noqa: E402
from guidxmage.dataset.items import label_of  # noqa: E402
from guidxmage.dataset.notable import Places, found_again  # noqa: E402
from guidxmage.dataset.reading import content_of  # noqa: E402
from guidxmage.errors import InputError  # noqa: E402
from guidxmage.explainer import Explainer  # noqa: E402
from guidxmage.inputs.preprocessing import Preprocessing  # noqa: E402
from guidxmage.objects.label_map import LabelMap, read_regions  # noqa: E402
from tests.datasets import make, make_explainer, mask, photo, rows, save_photos  # noqa: E402


def png(image: Any, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(buffer, kind)
    return buffer.getvalue()


def save_tar(path: Path, members: dict[str, bytes] | list[tuple[str, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members.items() if isinstance(members, dict) else members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def save_table(file: Path, **columns: Any) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), file)
    return file


def save_text(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def told(source: Any) -> list[tuple[str, str | None]]:
    return [(item.name, item.label) for item in open_source(source).items]


def areas(source: Any, out: Path, **options: Any) -> list[Any]:
    """Of each photo the area of its objects, or the error."""
    make(source, out, depth=None, **options)
    return [row["error"] or row["object_area"] for row in rows(out)]


# --- masks ---------------------------------------------------------------------------------------


def corner(size: int) -> np.ndarray:
    found = np.zeros((size, size), np.uint8)
    found[: size // 4, : size // 4] = 1
    return found


@pytest.mark.parametrize("kind", ["array", "file", "explain", "figure"])
def test_a_photo_of_the_networks_size_has_its_mask_cropped(tmp_path: Path, kind: str) -> None:
    """The same corner of a photo twice the size is the same area."""
    known = Preprocessing(resize=48, crop=32, mean=(0.5,) * 3, std=(0.2,) * 3)
    explainer = Explainer(make_explainer().model, preprocessing=known)
    (tmp_path / "p").mkdir()
    found = []
    for size in (32, 64):
        given = photo(1, (size, size))
        given.save(tmp_path / f"p/{size}.png")
        Image.fromarray(corner(size)).save(tmp_path / f"{size}.png")
        if kind in ("explain", "figure"):
            result = explainer.explain(given)
            seen = result.regions(corner(size))
            if kind == "figure":  # regions that were found once are taken as they are
                assert np.array_equal(result.regions(seen).labels, seen.labels)
                auto = result._segmented()
                assert np.array_equal(result.regions(auto).labels, auto.labels)
            found.append(int((seen.labels == 1).sum()))
        else:
            source = [(given, None, corner(size))] if kind == "array" else [(given,)]
            folder = save_text(tmp_path / f"l{size}.csv", f"path,mask\np/{size}.png,{size}.png\n")
            out = tmp_path / str(size)
            explain_dataset(explainer, source if kind == "array" else folder, out)
            found += [row["object_area"] for row in rows(out)]
    assert found == [16, 16], "4 × 4 of the 12 × 12 that the corner has after resizing"


def test_a_mask_of_what_the_network_sees_stays_possible() -> None:
    known = Preprocessing(resize=48, crop=32, mean=(0.5,) * 3, std=(0.2,) * 3)
    explainer = Explainer(make_explainer().model, preprocessing=known)
    given = photo(1, (32, 32))
    for image, regions in (
        (photo(1, (64, 50)), corner(32)),  # of another size than the photo
        (explainer.read(given), corner(32)),  # a tensor is what the network sees
        (given, LabelMap(corner(32), seen=True)),
    ):
        found = explainer.explain(image).regions(regions)
        assert np.array_equal(found.labels, corner(32))
    with pytest.raises(InputError, match="the photo differ in size"):
        explainer.explain(photo(1, (64, 50))).regions(corner(20))


def test_coco_tells_photos_of_one_name_by_their_folders(tmp_path: Path) -> None:
    for name in ("a/1.png", "b/1.png", "b/2.png"):
        (tmp_path / "p" / name).parent.mkdir(parents=True, exist_ok=True)
        photo(1).save(tmp_path / "p" / name)

    def file(*names: str) -> Path:
        content = {
            "images": [{"id": n, "file_name": one} for n, one in enumerate(names)],
            "annotations": [
                {"image_id": n, "category_id": 1, "bbox": [0, 0, 6 * (n + 1), 20]}
                for n in range(len(names))
            ],
            "categories": [{"id": 1, "name": "cat"}],
        }
        return save_text(tmp_path / "coco.json", json.dumps(content))

    def found(*names: str) -> list[Any]:
        out = tmp_path / f"out{len(list(tmp_path.iterdir()))}"
        return areas(tmp_path / "p", out, objects=file(*names))

    one, two = found("a/1.png", "b/1.png")[:2]
    assert isinstance(one, int)
    assert isinstance(two, int)
    assert one < two
    assert found("a/1.png") == [one, None, None], "b's photo is another one"
    assert found("data/a/1.png") == [one, None, None], "the file begins further up"
    assert found("2.png") == [None, None, one]
    assert "2 images" in found("x/a/1.png", "y/a/1.png")[0]
    # A photo that is given by itself may lie anywhere, if its name is the only one.
    file("a/1.png", "b/1.png")
    for name, width in (("a/1.png", 6), ("b/1.png", 12)):
        regions = read_regions(tmp_path / "coco.json", image=tmp_path / "p" / name)
        assert int((regions.labels == 1).sum()) == width * 20
    elsewhere = read_regions(file("images/2.png"), image=tmp_path / "p/b/2.png")
    assert elsewhere.size == (20, 24)


def test_a_voc_file_without_a_size_takes_the_photos(tmp_path: Path) -> None:
    box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>12</xmax><ymax>20</ymax></bndbox>"
    text = f"<annotation><object><name>cat</name>{box}</object></annotation>"
    save_photos(tmp_path / "p", 1)
    save_text(tmp_path / "m/a/000.xml", text)
    save_tar(tmp_path / "t.tar", {"000.png": png(photo(0))})
    (folder,) = areas(tmp_path / "p", tmp_path / "out", objects=tmp_path / "m")
    (tar,) = areas(tmp_path / "t.tar", tmp_path / "out2", objects=tmp_path / "m/a")
    half = np.zeros((20, 24), np.uint8)
    half[:, :12] = 1
    known = make_explainer().preprocessing
    assert known is not None
    assert folder == tar == known.crop_labels(half).sum()
    own = make_explainer().explain(tmp_path / "p/a/000.png").regions(tmp_path / "m/a/000.xml")
    assert int((own.labels == 1).sum()) == folder


def test_masks_in_tars_and_parquet_are_read_as_those_in_files(tmp_path: Path) -> None:
    grey = np.where(mask() == 1, 255, 0).astype(np.uint8)
    colour = np.stack([grey] * 3, -1)
    turned = Image.fromarray(np.rot90(grey).copy())
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = io.BytesIO()
    turned.save(upright, "PNG", exif=exif)
    given = [png(grey), png(colour), png(Image.fromarray(grey > 0)), upright.getvalue()]
    members = {f"{n}.png": png(photo(n)) for n in range(5)}
    members |= {f"{n}.mask.png": content for n, content in enumerate(given)}
    members["4.seg.jpg"] = png(grey, "JPEG")
    found = areas(save_tar(tmp_path / "t.tar", members), tmp_path / "tar")
    (tmp_path / "p").mkdir()
    (tmp_path / "m").mkdir()
    for n, content in enumerate(given):
        (tmp_path / f"p/{n}.png").write_bytes(members[f"{n}.png"])
        (tmp_path / f"m/{n}.png").write_bytes(content)
    assert found[:4] == areas(tmp_path / "p", tmp_path / "files", objects=tmp_path / "m")
    assert len(set(found[:4])) == 1
    assert "JPEG" in found[4]
    assert len(found) == 5, "no mask is a photo"


def test_a_parquet_file_may_have_masks_for_some_photos(tmp_path: Path) -> None:
    one = png(mask())
    (tmp_path / "m.png").write_bytes(one)
    images = [png(photo(n)) for n in range(4)]
    wanted, *_ = areas([(photo(0), None, mask())], tmp_path / "alone")
    table = save_table(tmp_path / "a.parquet", image=images[:3], mask=[one, None, one])
    assert areas(table, tmp_path / "a") == [wanted, None, wanted]
    records = [{"bytes": one, "path": None}, None, {"bytes": None, "path": None}]
    records.append({"bytes": None, "path": "m.png"})
    table = save_table(tmp_path / "b.parquet", image=images, mask=records)
    assert areas(table, tmp_path / "b") == [wanted, None, None, wanted]
    again = found_again(Dataset(tmp_path / "b"), rows(tmp_path / "b"), tmp_path / "again", Places())
    assert [one.masks is not None for one in again] == [True, False, False, True]
    table = save_table(tmp_path / "c.parquet", image=images[:2], mask=["m.png", None])
    assert areas(table, tmp_path / "c") == [wanted, None]
    photo(0).save(tmp_path / "0.png")
    table = save_table(tmp_path / "d.parquet", path=["0.png"] * 2, mask=[one, None])
    assert areas(table, tmp_path / "d") == [wanted, None]


def test_masks_that_belong_to_no_photo_are_told(tmp_path: Path) -> None:
    save_photos(tmp_path / "p", 2)
    (tmp_path / "m").mkdir()
    Image.fromarray(mask()).save(tmp_path / "m/000.jpg")
    made = make(tmp_path / "p", tmp_path / "out", objects=tmp_path / "m")
    assert len(made.notes) == 1
    assert "no photo has a mask in" in made.notes[0]
    Image.fromarray(mask()).save(tmp_path / "m/000.png")
    assert make(tmp_path / "p", tmp_path / "out", objects=tmp_path / "m").notes == ()
    coco = save_text(tmp_path / "c.json", '{"images": [], "annotations": []}')
    assert "names none of them" in make(tmp_path / "p", tmp_path / "o", objects=coco).notes[0]


def test_names_that_are_no_text(tmp_path: Path) -> None:
    """Of photos, of masks in a mirror of their folders, and of objects."""
    for root, image in (("p", photo(1)), ("m", Image.fromarray(mask()))):
        folder = tmp_path / root / "a"
        folder.mkdir(parents=True)
        image.save(folder / "x.png")
        os.rename(folder / "x.png", os.fsencode(folder) + b"/b\xff\n.png")
    photo(2).save(tmp_path / "p/a/c.png")
    objects = tmp_path / "m/c"
    objects.mkdir()
    Image.fromarray((mask() == 1).astype(np.uint8)).save(objects / "x.png")
    os.rename(objects / "x.png", os.fsencode(objects) + b"/cup\xff.png")
    make(tmp_path / "p", tmp_path / "out", objects=tmp_path / "m")
    found = rows(tmp_path / "out")
    assert [row["path"] for row in found] == ["a/b\\udcff\\n.png", "a/c.png"]
    assert [[one["name"] for one in row["objects"]] for row in found] == [
        ["object 1", "object 2"],
        ["cup\\udcff"],
    ]
    table = save_table(tmp_path / "x.parquet", image=[png(photo(1))])
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.parquet"))
    table.rename(odd)
    make(odd, tmp_path / "parquet")
    assert rows(tmp_path / "parquet")[0]["error"] is None
    make([(photo(1), "a\udcff")], tmp_path / "python")
    assert rows(tmp_path / "python")[0]["label"] == "a\\udcff"


# --- tars ----------------------------------------------------------------------------------------


def test_no_photo_of_a_tar_is_lost(tmp_path: Path) -> None:
    bytes_ = [png(photo(n)) for n in range(12)]
    members = [
        ("img_0.5.jpg", bytes_[0]),
        ("img_0.7.png", bytes_[1]),
        ("d/K.JPG", bytes_[2]),
        ("d/K.CLS", b"2\n"),
        ("dup.png", bytes_[3]),
        ("dup.cls", b"0"),
        ("dup.png", bytes_[4]),
        ("dup.cls", b"1"),
        ("x.y.png", bytes_[5]),
        ("x.y.cls", b"1"),
        ("x.y.seg.png", png(mask())),
        ("t.png", bytes_[6]),
        ("t.jpg", bytes_[7]),
        ("t.cls", b"0"),
        ("q.cls", b"4"),
        ("v.json", b"{}"),
        (".hidden.png", bytes_[8]),
    ]
    source = save_tar(tmp_path / "a.tar", members)
    assert told(source) == [
        ("img_0.5.jpg", None),
        ("img_0.7.png", None),
        ("d/K.JPG", "2"),
        ("dup.png", "0"),
        ("dup.png", "1"),
        ("x.y.png", "1"),
        ("t.png", "0"),
        ("t.jpg", "0"),
    ]
    make(source, tmp_path / "out", depth=None)
    found = rows(tmp_path / "out")
    assert [row["path"] for row in found] == [name for name, _ in told(source)]
    assert [row["path"] for row in found if row["object_area"]] == ["x.y.png"]
    assert len({row["id"] for row in found}) == 8


# --- Parquet -------------------------------------------------------------------------------------


def test_columns_of_other_types(tmp_path: Path) -> None:
    for n in range(3):
        photo(n).save(tmp_path / f"{n}.png")
    names = [f"{n}.png" for n in range(3)]
    images = [png(photo(n)) for n in range(3)]
    labels = {
        "categories": (pa.array(["b", "c", None]).dictionary_encode(), ["b", "c", None]),
        "numbers": (pa.array([1, 2, 0]).dictionary_encode(), ["1", "2", "0"]),
        "floats": ([0.0, None, 2.5], ["0", None, "2.5"]),
        "nan": ([0.0, float("nan"), 2.0], ["0", None, "2"]),
        "truths": ([True, False, None], ["True", "False", None]),
        "large": (pa.array(["a", "b", "c"], pa.large_string()), ["a", "b", "c"]),
    }
    for kind, (column, wanted) in labels.items():
        table = save_table(tmp_path / f"{kind}.parquet", image=images, label=column)
        assert [label for _, label in told(table)] == wanted, kind
        paths = pa.array(names).dictionary_encode()
        table = save_table(tmp_path / f"{kind}.parquet", path=paths, label=column)
        assert told(table) == list(zip(names, wanted, strict=True)), kind
    table = save_table(tmp_path / "lists.parquet", image=images, label=[[1], [2], [3]])
    with pytest.raises(InputError, match=r"labels of type list.*texts or numbers"):
        open_source(table)


def test_images_of_a_parquet_file_may_be_paths(tmp_path: Path) -> None:
    photo(1).save(tmp_path / "p.png")
    wanted = make_explainer().explain(photo(1)).score
    record = {"bytes": None, "path": "p.png"}
    for number, columns in enumerate(
        (
            {"image": ["p.png"]},
            {"image": ["p.png"], "path": ["p.png"]},
            {"image": [record]},
            {"image": [{"bytes": png(photo(1)), "path": None}]},
            {"image": pa.array([None], pa.binary()), "path": ["p.png"]},
        )
    ):
        table = save_table(tmp_path / f"{number}.parquet", **columns)
        make(table, tmp_path / f"out{number}", depth=None)
        (row,) = rows(tmp_path / f"out{number}")
        assert row["error"] is None, columns
        assert row["score"] == pytest.approx(float(wanted), abs=1e-6)
    table = save_table(tmp_path / "none.parquet", image=pa.array([None], pa.binary()))
    make(table, tmp_path / "none")
    assert "has no image in row 0" in rows(tmp_path / "none")[0]["error"]


# --- lists and folders ---------------------------------------------------------------------------


def test_lists_as_people_write_them(tmp_path: Path) -> None:
    for name in ("c.png", " lead.png", "a, b.png"):
        photo(1).save(tmp_path / name)
    text = 'path, label,mask\n c.png , b,\n" lead.png",c,\n "a, b.png",a,\n,,\n,a,\n\nd.png,1,\n'
    source = save_text(tmp_path / "l.csv", text)
    place = "l.csv: line 6"
    assert told(source) == [
        ("c.png", "b"),
        (" lead.png", "c"),
        ("a, b.png", "a"),
        (place, "a"),
        ("d.png", "1"),
    ]
    make(source, tmp_path / "out", depth=None)
    errors = {row["path"]: row["error"] for row in rows(tmp_path / "out")}
    assert [name for name, error in errors.items() if error] == [place, "d.png"]
    assert "has no path in line 6" in errors[place]
    table = save_table(tmp_path / "l.parquet", path=["c.png", None])
    assert told(table)[1][0] == "l.parquet: row 1 of row group 0"
    for name, content, sentence in (
        ("a.csv", "path;label\nc.png;1\n", "has semicolons .* save it with commas"),
        ("b.csv", "path\tlabel\nc.png\t1\n", r"has tabs .*or call it \.tsv"),
        ("c.tsv", "path,label\nc.png,1\n", "has commas .* save it with tabs"),
        ("d.csv", "a;b\n1;2\n", "no column 'path'"),
    ):
        with pytest.raises(InputError, match=sentence):
            open_source(save_text(tmp_path / name, content))


def test_folders_of_files_with_photos(tmp_path: Path) -> None:
    save_photos(tmp_path / "p", 2)
    root = tmp_path / "lists"
    for name in ("a", "b"):
        photo(1).save(save_text(root / name / "l.csv", "path,label\n1.png,c\n").parent / "1.png")
    for file in root.rglob("*.png"):
        file.rename(file.with_suffix(".PNG~"))
    assert told(root) == [("a/1.png", "c"), ("b/1.png", "c")]
    save_text(tmp_path / "one/l.csv", "path\n../p/a/000.png\n")
    assert told(tmp_path / "one") == [("../p/a/000.png", None)]
    save_table(tmp_path / "np/data/x.parquet", image=[png(photo(1))])
    assert told(tmp_path / "np") == [("0/0", None)]
    save_table(tmp_path / "np/more/x.parquet", image=[png(photo(2))])
    assert told(tmp_path / "np") == [("data/x.parquet/0/0", None), ("more/x.parquet/0/0", None)]
    save_text(tmp_path / "empty/README.md", "")
    with pytest.raises(InputError, match="holds no photos; looked for"):
        open_source(tmp_path / "empty")


def test_a_folder_that_mixes_kinds_is_refused(tmp_path: Path) -> None:
    photos = save_photos(tmp_path / "p", 2)
    save_text(photos / "labels.csv", "path,label\n")
    made = make(photos, tmp_path / "p/out")
    assert made.photos == 2
    assert "labels.csv was not read" in made.notes[0]
    assert make(photos, tmp_path / "p/out").kept == 2, "the data set below it is none of its photos"
    tar = save_tar(photos / "a/z.tar", {"k.png": png(photo(1))})
    with pytest.raises(InputError, match=r"photos and tars, such as a/000\.png and a/z\.tar"):
        open_source(photos)
    tar.unlink()
    save_table(photos / "z.parquet", image=[png(photo(1))])
    with pytest.raises(InputError, match=r"photos and Parquet files, .*give one of them"):
        open_source(photos)


def test_a_file_that_is_no_source_is_refused(tmp_path: Path) -> None:
    tar = save_tar(tmp_path / "a.tar", {"k.png": png(photo(1))})
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(tar.read_bytes()))
    save_text(tmp_path / "list.txt", "path\nc.png\n")
    for name in ("a.tar.gz", "list.txt"):
        with pytest.raises(InputError, match=r"is no source: give a folder, a photo, a list"):
            open_source(tmp_path / name)
    (tmp_path / "photo").write_bytes(png(photo(1)))
    assert told(tmp_path / "photo") == [("photo", None)], "a photo by its content"


def test_pipes_are_no_photos(tmp_path: Path) -> None:
    """Nobody writes into them: a read would last for ever."""
    (tmp_path / "p").mkdir()
    photo(1).save(tmp_path / "p/a.png")
    os.mkfifo(tmp_path / "p/p.png")
    save_text(tmp_path / "l.csv", "path\np/p.png\n")
    for name in ("x.tar", "x.csv", "x.parquet", "x.png"):
        os.mkfifo(tmp_path / name)

    def late(*_: Any) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, late)
    try:
        for name in ("p", "l.csv", "x.tar", "x.csv", "x.parquet", "x.png"):
            signal.alarm(5)
            with pytest.raises(InputError, match=r"no file|not a file"):
                [content_of(item) for item in open_source(tmp_path / name).items]
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


# --- data sets in Python -------------------------------------------------------------------------


class Kind(Enum):
    """Labels as some data sets have them."""

    cat = 7


def test_entries_of_python(tmp_path: Path) -> None:
    """A picture in the second place is a mask; what is no label is said."""
    given = photo(0)
    picture = Image.fromarray(mask())
    one_hot = torch.zeros(3)
    data = [
        (given, picture),
        (given, mask()),
        (given, torch.from_numpy(mask())[None]),
        (given, "b", picture),
        (given, one_hot),
        (given, {"boxes": []}),
        (given, [1, 2]),
        (given, 1, mask(), 3),
        (given, torch.tensor([2])),
        (given, None),
    ]
    make(data, tmp_path / "out", depth=None)
    found = rows(tmp_path / "out")
    area = found[0]["object_area"]
    assert area
    assert [row["object_area"] for row in found[:4]] == [area] * 4
    assert [row["label"] for row in found[:4]] == [None, None, None, "b"]
    for row, words in zip(
        found[4:8], ("Tensor of shape (3,)", "dict", "list", "4 parts"), strict=True
    ):
        assert words in row["error"]
        assert row["score"] is None
    assert [row["label"] for row in found[8:]] == ["2", None]


@pytest.mark.parametrize(
    ("value", "label"),
    [
        (2.0, "2"),
        (2.5, "2.5"),
        (float("nan"), None),
        (np.int64(3), "3"),
        (np.array([4]), "4"),
        (torch.tensor(1.0), "1"),
        (True, "True"),
        (" a ", "a"),
        ("", None),
        (b"cat", "cat"),
        (Kind.cat, "cat"),
        (None, None),
    ],
)
def test_labels_as_text(value: Any, label: str | None) -> None:
    assert label_of(value) == label
