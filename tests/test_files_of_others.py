"""Annotations, images, data sets, labels and saved folders of others: read right, or refused.

Every refusal is the package's own error, of one sentence that names the file.
"""

from __future__ import annotations

import gzip
import io
import json
import math
import pickle
import random
import re
import shutil
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from guidxmage.errors import GuidXmageError
from tests import samples
from tests.reading import READERS, peak
from tests.samples import COCO, STRANGE, VOC, damaged, deep, idx, spoiled
from tests.test_untrusted import archive, lying, npy
from tests.test_weight_files import safetensors, saved, tensor

LONGEST, MOST_MEMORY = 700, 512
linux = pytest.mark.skipif(sys.platform != "linux", reason="the process's size is told by Linux")


# --- what was read, or what was said -------------------------------------------------------------


def _sound_weights(found: Any) -> bool:
    return all(
        isinstance(t, torch.Tensor) and bool(torch.isfinite(t).all()) for t in found.values()
    )


def _sound_data(found: Any) -> bool:
    many = len(found.images)
    return many == len(found.labels) == len(found.masks) and bool((found.labels < 10).all())


def _sound_series(found: Any) -> bool:
    return found.samples.shape[:2] == (len(found), len(found.strengths)) == found.kept.shape


def _text_is_text(names: Any) -> bool:
    return all(isinstance(name, str) and name.encode() is not None for name in names)


SOUND: dict[str, Callable[[Any], bool]] = {
    "regions": lambda found: found.labels.min() >= 0 and _text_is_text(found.names.values()),
    "sized regions": lambda found: found.size == (4, 6) and _text_is_text(found.names.values()),
    "weights": _sound_weights,
    "checkpoint": lambda found: found is None or isinstance(found, dict),
    "image": lambda found: found.mode == "RGB" and min(found.size) > 0,
    "labels": lambda found: _text_is_text(found) and all(found),
    "idx": lambda found: found.dtype == np.uint8,
    "masks": lambda found: found.dtype == torch.bool,
    "cifar": _sound_data,
    "garments": _sound_data,
    "series": _sound_series,
    "trained": lambda found: found.model(torch.rand(1, 3, 32, 32)).ndim == 2,
    "huggingface": lambda found: found.model(torch.rand(1, 3, 32, 32)).ndim == 2,
    "settings": lambda found: len(found.seeds) > 0,
    "rows": lambda found: _text_is_text(row.network for row in found),
    "records": lambda found: all(0 <= view < 3 for _, view, _ in found.found),
    "photos": lambda found: len(found) >= 2,
}
assert SOUND.keys() == READERS.keys()


def said(name: str, path: Path) -> str | None:
    """The sentence that a file was refused with, None where it was read and makes sense."""
    try:
        found = READERS[name](path)
    except GuidXmageError as error:
        sentence = str(error)
        assert sentence
        assert len(sentence.splitlines()) == 1, sentence
        assert len(sentence) < LONGEST + 3 * len(str(path)), sentence
        return sentence
    assert SOUND[name](found)
    return None


# --- by hand -------------------------------------------------------------------------------------


def coco(**changed: Any) -> str:
    return json.dumps({**COCO, **changed})


def segment(value: Any) -> str:
    return coco(annotations=[{"image_id": 3, "category_id": 1, "segmentation": value}])


def sized(height: Any, width: Any) -> str:
    return coco(images=[{"id": 3, "file_name": "photo.jpg", "height": height, "width": width}])


def runs(counts: Any) -> str:
    return segment({"size": [4, 6], "counts": counts})


def objects(inside: str) -> str:
    return f"<a><size><width>6</width><height>4</height></size>{inside}</a>"


def box(left: str, top: str = "1", right: str = "3", bottom: str = "3") -> str:
    return objects(
        f"<object><bndbox><xmin>{left}</xmin><ymin>{top}</ymin><xmax>{right}</xmax>"
        f"<ymax>{bottom}</ymax></bndbox></object>"
    )


ENTITIES = "".join(
    f'<!ENTITY l{k} "{f"&l{k - 1};" * 10 if k else "lol"}">' for k in range(12)
)  # a billion laughs
ANNOTATIONS: dict[str, tuple[str, str, str]] = {
    "coco: text": ("json", "no JSON", "not a COCO"),
    "coco: nothing": ("json", "", "not a COCO"),
    "coco: a number": ("json", "3", "not a COCO"),
    "coco: null": ("json", "null", "not a COCO"),
    "coco: deep": ("json", "[" * 100_000, "nested too deeply"),
    "coco: deep inside": ("json", segment(deep(900)), "cannot be drawn"),
    "coco: a number of digits": ("json", '{"images": ' + "9" * 10_000 + "}", "not a COCO"),
    "coco: no images": ("json", coco(images=[]), "no image with the file name"),
    "coco: images by name": ("json", coco(images={"photo.jpg": 3}), "not a COCO"),
    "coco: no file name": ("json", coco(images=[{"id": 3}]), "not a COCO"),
    "coco: the photo twice": ("json", coco(images=COCO["images"][:1] * 2), "2 images"),
    "coco: no annotations": ("json", coco(annotations=None), "not a COCO"),
    "coco: categories of numbers": ("json", coco(categories=[1]), "not a COCO"),
    "coco: a category of lists": ("json", coco(categories=[{"id": 1, "name": []}]), "not a COCO"),
    "coco: half a character": ("json", coco(categories=[{"id": 1, "name": "\ud800"}]), "not a C"),
    "coco: no height": ("json", sized(None, 6), "no height"),
    "coco: no pixels": ("json", sized(0, 6), "0 as the height"),
    "coco: fewer than none": ("json", sized(4, -6), "-6 as the width"),
    "coco: half pixels": ("json", sized(4.5, 6), "4.5 as the height"),
    "coco: NaN pixels": ("json", sized(math.nan, 6), "NaN as the height"),
    "coco: endless pixels": ("json", sized(math.inf, 6), "Infinity as the height"),
    "coco: a text of pixels": ("json", sized("4", 6), '"4" as the height'),
    "coco: too many pixels": ("json", sized(10**6, 10**6), "too large to be a photo"),
    "coco: far too many": ("json", sized(2**80, 6), "as the height"),
    "coco: another size": ("json", segment({"size": [6, 4], "counts": [24]}), r"\[6, 4\]"),
    "coco: a huge size": ("json", segment({"size": [2**40] * 2, "counts": []}), "run lengths for"),
    "coco: no size": ("json", segment({"counts": [24]}), "cannot be drawn"),
    "coco: runs too short": ("json", runs([4, 4]), "add up to 8"),
    "coco: runs too long": ("json", runs([20, 20]), "add up to 40"),
    "coco: huge runs": ("json", runs([2**70]), "no whole number"),
    "coco: runs below none": ("json", runs([25, -1]), "no whole number"),
    "coco: fractions of runs": ("json", runs([24.0]), "no whole number"),
    "coco: runs that are true": ("json", runs([True, 23]), "no whole number"),
    "coco: runs of runs": ("json", runs([[24]]), "no whole number"),
    "coco: a number of runs": ("json", runs(24), "list of whole numbers"),
    "coco: runs by name": ("json", runs({"a": 24}), "list of whole numbers"),
    "coco: a packed run of thousands of bits": ("json", runs("o" * 5000), "no number"),
    "coco: a packed run that is cut off": ("json", runs("<4o"), "middle of a number"),
    "coco: other characters": ("json", runs("<4é"), "no number"),
    "coco: one number": ("json", segment([[1, 2, 3]]), "not an x and a y"),
    "coco: a text as polygon": ("json", segment(["123456"]), "list of numbers"),
    "coco: texts as corners": ("json", segment([["1", "2"]]), "a corner is not a number"),
    "coco: a corner far off": ("json", segment([[0, 0, 1e30, 0, 1, 1]]), "far outside"),
    "coco: a corner of thousands of bits": (
        "json", segment([[0, 0, 2**5000, 0]]), "not a COCO|far",
    ),
    "coco: no finite corner": ("json", segment([[0, math.nan]]), "finite"),
    "coco: too many objects": (
        "json", coco(annotations=COCO["annotations"][:1] * 10_001), "leave 10000 at most",
    ),
    "voc: nothing": ("xml", "", "not a Pascal VOC"),
    "voc: text": ("xml", "no XML", "not a Pascal VOC"),
    "voc: not closed": ("xml", "<a><b></a>", "not a Pascal VOC"),
    "voc: two roots": ("xml", "<a/><a/>", "not a Pascal VOC"),
    "voc: entities of entities": (
        "xml", f"<!DOCTYPE a [{ENTITIES}]><a><object><name>&l11;</name></object></a>", "entities",
    ),
    "voc: an entity of a file": (
        "xml", '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a>&x;</a>', "entities",
    ),
    "voc: an entity for documents": (
        "xml", '<!DOCTYPE a [<!ENTITY % x SYSTEM "http://localhost/x">%x;]><a/>', "entities",
    ),
    "voc: an unknown encoding": (
        "xml", '<?xml version="1.0" encoding="none"?><a/>', "not a Pascal",
    ),
    "voc: a coding of bytes": (
        "xml", '<?xml version="1.0" encoding="base64"?><a/>', "not a Pascal",
    ),
    "voc: deep": ("xml", "<a>" * 100_000, "nested too deeply"),
    "voc: no box": ("xml", objects("<object/>"), "no bndbox"),
    "voc: no corner": ("xml", objects("<object><bndbox/></object>"), "has no xmin"),
    "voc: a corner of text": ("xml", box("left"), "not a Pascal VOC"),
    "voc: a corner that is none": ("xml", box("nan"), "no number of pixels"),
    "voc: an endless corner": ("xml", box("1", right="1e999"), "no number of pixels"),
    "voc: a far corner": ("xml", box("1", right="1e200"), "no number of pixels"),
    "voc: a box outside": ("xml", box("9", right="12"), "without pixels"),
    "voc: a box the wrong way round": ("xml", box("3", right="1"), "without pixels"),
    "voc: a photo below none": ("xml", VOC.replace(">6<", ">-6<"), "cannot have"),
    "voc: a photo of text": ("xml", VOC.replace(">6<", ">six<"), "not a Pascal VOC"),
    "voc: too many pixels": ("xml", VOC.replace(">6<", ">1e9<"), "too large to be a photo"),
    "voc: too many objects": ("xml", objects("<object><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>3"
        "</xmax><ymax>3</ymax></bndbox></object>" * 10_001), "leave 10000 at most"),
}  # fmt: skip


@pytest.mark.parametrize("name", ANNOTATIONS)
def test_malformed_annotations(name: str, tmp_path: Path) -> None:
    ending, text, words = ANNOTATIONS[name]
    file = tmp_path / f"a.{ending}"
    file.write_text(text, encoding="utf-8", errors="surrogatepass")
    sentence = said("regions", file)
    assert sentence is not None
    assert str(file) in sentence
    assert re.search(words, sentence)


def bitmap(width: int, height: int) -> bytes:
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 1, 1, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + info


def png(width: int, height: int, data: bytes) -> bytes:
    def chunk(kind: bytes, part: bytes) -> bytes:
        return (
            struct.pack(">I", len(part)) + kind + part + struct.pack(">I", zlib.crc32(kind + part))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(data))
        + chunk(b"IEND", b"")
    )


WHOLE = png(2, 2, bytes(14))
LONG_CHUNK = WHOLE[:33] + b"\xf0" + WHOLE[34:]
"""All pixels, in a chunk that says it has gigabytes."""


def npz(*, packed: bool = False, **arrays: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED if packed else 0) as file:
        for name, content in arrays.items():
            file.writestr(f"{name}.npy", content)
    return stream.getvalue()


FILES: dict[str, tuple[str, str, bytes, str]] = {
    "image: PNG of terabytes": ("image", "a.png", png(10**6, 10**6, b""), "too large"),
    "image: PNG of gigabytes": ("image", "a.png", png(40_000, 40_000, b""), "too large"),
    "image: BMP of gigabytes": ("image", "a.bmp", bitmap(40_000, 40_000), "too large"),
    "image: BMP below none": ("image", "a.bmp", bitmap(-5, 5), "a.bmp"),
    "image: PNG without pixels": ("image", "a.png", png(0, 5, b""), "a.png"),
    "image: PNG too short": ("image", "a.png", png(50, 50, b"\0"), "damaged"),
    "image: PNG of text": ("image", "a.png", b"\x89PNG\r\n\x1a\nnothing", "a.png"),
    "image: EPS": (
        "image", "a.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n",
        "no photo",
    ),
    "image: SVG": ("image", "a.svg", b"<svg/>", "not an image"),
    "image: empty": ("image", "a.png", b"", "is empty"),
    "idx: text": ("idx", "a", b"text", "no IDX file"),
    "idx: empty": ("idx", "a", b"", "no IDX file"),
    "idx: floats": ("idx", "a", idx((2,), b"ab", kind=13), "no IDX file"),
    "idx: terabytes": ("idx", "a", idx((2**20, 2**20), b""), "does not have"),
    "idx: sizes that overflow": ("idx", "a", idx((2**32 - 1,) * 3, b""), "does not have"),
    "idx: many dimensions": ("idx", "a", idx((1,) * 255, b"a"), "no IDX file"),
    "idx: too short": ("idx", "a", idx((3, 2), b"abcde"), "holds 17, not the 18 bytes"),
    "idx: too long": ("idx", "a", idx((3, 2), b"abcdefg"), "more than the 18 bytes"),
    "idx: half a head": ("idx", "a", idx((3, 2), b"")[:7], "a holds"),
    "idx: packed terabytes": ("idx", "a", idx((2**32 - 1,), b"", packed=True), "does not have"),
    "idx: unpacks to more": ("idx", "a", idx((3,), bytes(2**28), packed=True), "more than the 11"),
    "idx: packed, cut off": ("idx", "a", idx((300,), bytes(300), packed=True)[:-9], "cannot be"),
    "idx: packed, damaged": ("idx", "a", b"\x1f\x8b\x08" + bytes(30), "a (cannot be|is no)"),
    "masks: terabytes": ("masks", "a.npy", lying((2**20, 2**20), "|b1"), "holds no masks"),
    "masks: objects": ("masks", "a.npy", npy(np.array([{}], object)), "holds no masks"),
    "masks: below none": ("masks", "a.npy", lying((-1, 4), "|b1"), "holds no masks"),
    "masks: fractions": (
        "masks", "a.npy", lying((1.5,), "|b1"), "holds no masks",  # type: ignore[arg-type]
    ),
    "masks: numbers": ("masks", "a.npy", npy(np.zeros((2, 3))), "float64, not bool"),
    "masks: packed gigabytes": (
        "masks", "a.npz", npz(packed=True, masks=bytes(2**28)), "would unpack",
    ),
    "masks: a lie in an archive": (
        "masks", "a.npz", npz(masks=lying((2**40,), "|b1")), "holds no masks",
    ),
    "masks: two arrays": (
        "masks", "a.npz", npz(a=npy(np.zeros(1, bool)), b=npy(np.zeros(1, bool))), "2 arrays",
    ),
    "labels: binary": ("labels", "a.txt", b"\xff\xfe\x00", "no text"),
    "labels: deep": ("labels", "a.json", b"[" * 10**5, "nested"),
    "labels: numbers": ("labels", "a.json", b"[1, 2]", "class names"),
    "labels: half a character": ("labels", "a.json", b'["\\ud800"]', "characters that are none"),
    "labels: no class 1": ("labels", "a.json", b'{"0": "a", "2": "b"}', "index 1"),
    "labels: endless": ("labels", "a.json", b"[1e999]", "no finite number"),
    "settings: binary": ("settings", "a.toml", b"\xff\xfe\x00", "no text"),
    "settings: twice": ("settings", "a.toml", b"size = 8\nsize = 9", "no TOML"),
    "settings: an endless number": ("settings", "a.toml", b"size = " + b"9" * 10**5, "a.toml"),
    "settings: a bare carriage return": ("settings", "a.toml", b"size = 8\rx = 1", "no TOML"),
    "rows: other": ("rows", "a.json", b'{"schema": "guid-xmage/series/1"}', "no coverage table"),
    "rows: rows of numbers": (
        "rows", "a.json", b'{"schema": "guid-xmage/coverage/1", "rows": [1]}', "no coverage table",
    ),
    "rows: deep": ("rows", "a.json", b"[" * 10**5, "no coverage table"),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_malformed_files(name: str, tmp_path: Path) -> None:
    reader, own, content, words = FILES[name]
    (tmp_path / own).write_bytes(content)
    sentence = said(reader, tmp_path / own)
    assert sentence is not None
    assert str(tmp_path / own) in sentence
    assert re.search(words, sentence)


def in_folder(make: Callable[[Path], Any], name: str, content: Any) -> Callable[[Path], Path]:
    """A valid folder with other content in one of its files."""

    def build(folder: Path) -> Path:
        make(folder)
        text = content if isinstance(content, bytes) else json.dumps(content).encode()
        (folder / name).write_bytes(text)
        return folder

    return build


def batch(found: Any, protocol: int = 2) -> Callable[[Path], Path]:
    """CIFAR-10's Python version with another test batch."""
    content = found if isinstance(found, bytes) else pickle.dumps(found, protocol)
    return in_folder(samples.pickled_cifar, "cifar-10-batches-py/test_batch", content)


class Calls:
    """Pickled as a call of a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def experiment(**changed: Any) -> Callable[[Path], Path]:
    told = {"networks": ["alexnet"], "width": 0.05, **changed}
    return in_folder(samples.trained, "experiment.json", told)


def last_layer(name: str, classes: int) -> Callable[[Path], Path]:
    def build(folder: Path) -> Path:
        from safetensors.torch import load_file, save_file

        file = samples.trained(folder) / "alexnet-0" / "plain" / "final.safetensors"
        weights = load_file(file)
        key = [key for key in weights if key.endswith(name)][-1]
        save_file({**weights, key: torch.zeros(classes)}, file)
        return folder

    return build


def images(name: str, content: bytes) -> Callable[[Path], Path]:
    return in_folder(samples.photos, name, content)


ONE = np.zeros((1, 3, 32, 32), np.uint8)
FOLDERS: dict[str, tuple[str, Callable[[Path], Path], str]] = {
    "cifar: code": ("cifar", batch({"labels": Calls(exit, 3), "data": 1}), "no labels"),
    "cifar: code alone": ("cifar", batch(Calls(exit, 3)), "no labels"),
    "cifar: memory by number": (
        "cifar", batch({"labels": [1], "data": Calls(bytearray, 2**40)}), "not those of its labels",
    ),
    "cifar: no pickle": ("cifar", batch(b"nothing"), "cannot be read"),
    "cifar: half a pickle": ("cifar", batch(pickle.dumps({"labels": [1] * 99})[:50]), "cannot be"),
    "cifar: a deep key": ("cifar", batch(b"\x80\x02})" + b"\x85" * 10**6 + b"K\x01s."), "plain"),
    "cifar: other labels": ("cifar", batch({"labels": [10], "data": ONE[0]}), "not CIFAR-10's"),
    "cifar: labels of text": ("cifar", batch({"labels": ["cat"], "data": ONE[0]}), "no labels"),
    "cifar: an image too few": (
        "cifar", batch({"labels": [1, 2], "data": ONE.reshape(1, -1)}), "not those of its labels",
    ),
    "cifar: floats": (
        "cifar", batch({"labels": [1], "data": ONE.reshape(1, -1) / 2}), "not those of its labels",
    ),
    "cifar: bytes too few": (
        "cifar",
        in_folder(samples.cifar, "cifar-10-batches-bin/test_batch.bin", b"abc"), "multiple",
    ),
    "garments: no archive": (
        "garments", lambda f: samples.garments(f, b"text"), "no NumPy archive",
    ),
    "garments: packed gigabytes": (
        "garments", lambda f: samples.garments(f, npz(packed=True, images=bytes(2**28))), "unpack",
    ),
    "garments: a lie": (
        "garments", lambda f: samples.garments(f, npz(images=lying((2**40,), "|u1"))), "promis",
    ),
    "garments: no masks": (
        "garments", lambda f: samples.garments(f, npz(images=npy(ONE))), "masks",
    ),
    "garments: no images": (
        "garments", lambda f: samples.garments(f, npz(images=npy(ONE[:0]), masks=npy(np.zeros(
            (0, 32, 4), np.uint8)), labels=npy(np.zeros(0, np.uint8)), backgrounds=npy(np.zeros(
            0, np.uint8)))), "holds no garments",
    ),
    "garments: changed": ("garments", in_folder(samples.garments, "test.npz", b"text"), "changed"),
    "garments: no splits": (
        "garments",
        in_folder(samples.garments, "manifest.json", {"schema": "guid-xmage/garments/1"}), "splits",
    ),
    "series: no archive": ("series", in_folder(samples.series, "series.npz", b"text"), "no NumPy"),
    "series: packed gigabytes": (
        "series", in_folder(samples.series, "series.npz", npz(packed=True, samples=bytes(2**28))),
        "would unpack",
    ),
    "series: another folder": (
        "series", in_folder(samples.series, "manifest.json", {"schema": "x\n"}), "it holds x",
    ),
    "series: a deep manifest": (
        "series", in_folder(samples.series, "manifest.json", b"[" * 10**5), "deep",
    ),
    "trained: no such network": ("trained", experiment(networks=["alexnut"]), "no part of an"),
    "trained: another network": ("trained", experiment(networks=["vgg8"]), "does not name"),
    "trained: code": ("trained", experiment(networks=["os:abort"]), "does not name|no part"),
    "trained: no width": ("trained", experiment(width=0), "width"),
    "trained: a huge width": ("trained", experiment(width=10**9), "no part of|does not fit"),
    "trained: width of text": ("trained", experiment(width="wide"), "width"),
    "trained: a million classes": ("trained", last_layer("bias", 10**6), "does not fit"),
    "trained: other weights": (
        "trained",
        in_folder(
            samples.trained, "alexnet-0/plain/final.safetensors",
            safetensors(tensor(), bytes(8)),
        ),
        "does not fit",
    ),
    "checkpoint: text": (
        "checkpoint",
        in_folder(samples.checkpoint, "checkpoint-000000009-0000000000000000.pt", b"text"), "",
    ),
    "photos: one of gigabytes": (
        "photos", images("a/1.png", png(40_000, 40_000, b"")), "too large",
    ),
    "photos: one damaged": ("photos", images("a/1.png", png(9, 9, b"\0")), "damaged|no alpha"),
    "photos: text": ("photos", images("b/2.png", b"text"), "2.png"),
}  # fmt: skip
STILL_READ = {"checkpoint: text"}
"""An older checkpoint lies beside the damaged one."""


@pytest.mark.parametrize("name", FOLDERS)
def test_malformed_folders(name: str, tmp_path: Path) -> None:
    reader, build, words = FOLDERS[name]
    pytest.importorskip("safetensors")
    folder = build(tmp_path / "own")
    sentence = said(reader, folder)
    if name in STILL_READ:
        assert sentence is None
        return
    assert sentence is not None
    assert str(folder) in sentence
    assert re.search(words, sentence)


@linux
def test_no_memory_is_taken_for_what_is_only_promised(tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    arguments = []
    for number, (ending, text, _) in enumerate(ANNOTATIONS.values()):
        file = tmp_path / f"{number}.{ending}"
        file.write_text(text, encoding="utf-8", errors="surrogatepass")
        arguments += ["regions", str(file)]
    for number, (reader, own, content, _) in enumerate(FILES.values()):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / own).write_bytes(content)
        arguments += [reader, str(tmp_path / str(number) / own)]
    for number, (name, (reader, build, _)) in enumerate(FOLDERS.items()):
        if name not in STILL_READ:
            arguments += [reader, str(build(tmp_path / f"folder {number}"))]
    done = subprocess.run(
        [sys.executable, "-m", "tests.reading", *arguments],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == len(arguments) // 2
    for path, line in zip(arguments[1::2], lines, strict=True):
        assert line["kind"] == "InputError", (path, line)
        assert line["said"], path
        assert line["grown"] < MOST_MEMORY, (path, line)


@linux
def test_no_memory_is_taken_for_what_is_said_beside_the_pixels(tmp_path: Path) -> None:
    """All pixels are there; only the length of what they lie in is wrong."""
    file = tmp_path / "a.png"
    file.write_bytes(LONG_CHUNK)
    done = subprocess.run(
        [sys.executable, "-m", "tests.reading", "image", str(file)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout)["grown"] < MOST_MEMORY


@linux
def test_the_probe_of_memory_can_fail(tmp_path: Path) -> None:
    """A photo that is as large as it says does take memory."""
    file = tmp_path / "a.bmp"
    file.write_bytes(bitmap(9000, 9000) + bytes(3 * 9000 * 9000))
    done = subprocess.run(
        [sys.executable, "-m", "tests.reading", "image", str(file)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    line = json.loads(done.stdout)
    assert line["said"] is None
    assert line["grown"] > 200


# --- every part of a document replaced -----------------------------------------------------------


def _json(document: Any) -> bytes:
    return json.dumps(document).encode()


def test_valid_files_are_read(tmp_path: Path) -> None:
    for name, (reader, make) in DOCUMENTS.items():
        path, _ = make(tmp_path / name)
        assert said(reader, path) is None, name
    for name, (reader, build) in BYTES.items():
        (tmp_path / "bytes" / name).mkdir(parents=True)
        path, _ = build(tmp_path / "bytes" / name)
        assert said(reader, path) is None, name


def alone(content: Any) -> Callable[[Path], tuple[Path, Path]]:
    def make(folder: Path) -> tuple[Path, Path]:
        folder.mkdir()
        (folder / "a.json").write_bytes(_json(content))
        return folder / "a.json", folder / "a.json"

    return make


def part_of(make: Callable[[Path], Path], name: str) -> Callable[[Path], tuple[Path, Path]]:
    def build(folder: Path) -> tuple[Path, Path]:
        made = make(folder)
        return made, made / name if name else made

    return build


def _rows(folder: Path) -> tuple[Path, Path]:
    folder.mkdir()
    return (samples.rows(folder / "a.json"),) * 2


DOCUMENTS: dict[str, tuple[str, Callable[[Path], tuple[Path, Path]]]] = {
    "coco": ("sized regions", alone(COCO)),
    "labels": ("labels", alone(["owl", "fox"])),
    "labels by index": ("labels", alone({"0": "owl", "1": "fox"})),
    "garments": ("garments", part_of(samples.garments, "manifest.json")),
    "series": ("series", part_of(samples.series, "manifest.json")),
    "trained": ("trained", part_of(samples.trained, "experiment.json")),
    "rows": ("rows", _rows),
}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_part_of_a_document_is_replaced(name: str, tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    reader, make = DOCUMENTS[name]
    path, file = make(tmp_path / "own")
    document, refused, total = json.loads(file.read_bytes()), 0, 0
    for what, changed in spoiled(document, [*STRANGE, deep(80)]):
        file.write_bytes(_json(changed))
        try:
            refused += said(reader, path) is not None
        except Exception as error:
            raise AssertionError(f"{name}: {what}") from error
        total += 1
    assert total > 60
    assert refused > total // 5


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json"])
def test_parts_of_a_saved_folder_are_replaced(name: str, seed: int, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("safetensors")
    folder = samples.huggingface(tmp_path / "own")
    document = json.loads((folder / name).read_text())
    cases = list(spoiled(document, [*STRANGE, deep(80)]))
    before, refused = peak() if sys.platform == "linux" else 0, 0
    for what, changed in random.Random(seed).sample(cases, 120):
        (folder / name).write_bytes(_json(changed))
        try:
            refused += said("huggingface", folder) is not None
        except Exception as error:
            raise AssertionError(what) from error
    assert refused > 10
    if sys.platform == "linux":
        assert peak() - before < 2 * MOST_MEMORY


@pytest.mark.parametrize(
    ("name", "changed", "words"),
    [
        ("config.json", {"hidden_sizes": [10**6, 10**6]}, "loaded|weights hold"),
        ("config.json", {"depths": [1, 10**6]}, "cannot be loaded"),
        ("config.json", {"depths": [1, 10**9]}, "more than any classifier has"),
        ("config.json", {"num_channels": 2**40}, "more than any classifier has"),
        ("config.json", {"model_type": "no such"}, "cannot be loaded"),
        ("config.json", {"auto_map": {"AutoConfig": "evil.Config"}, "model_type": "x"}, "cannot"),
        ("preprocessor_config.json", {"size": {"shortest_edge": 10**6}}, "more than any photo"),
        ("preprocessor_config.json", {"crop_size": {"height": 1e300}}, "more than any photo needs"),
    ],
)  # fmt: skip
def test_malformed_saved_folders(
    name: str, changed: dict[str, Any], words: str, tmp_path: Path
) -> None:
    pytest.importorskip("transformers")
    folder = samples.huggingface(tmp_path / "own")
    (folder / "evil.py").write_text("raise SystemExit('it was run')")
    document = json.loads((folder / name).read_text())
    (folder / name).write_bytes(_json({**document, **changed}))
    sentence = said("huggingface", folder)
    assert sentence is not None
    assert re.search(words, sentence)


# --- bytes ---------------------------------------------------------------------------------------


def file_of(name: str, write: Any) -> Callable[[Path], tuple[Path, Path]]:
    """A folder with one file, of bytes or written by a function."""

    def build(folder: Path) -> tuple[Path, Path]:
        file = folder / name
        file.write_bytes(write) if isinstance(write, bytes) else write(file)
        return file, file

    return build


def below(make: Callable[[Path], Path], name: str) -> Callable[[Path], tuple[Path, Path]]:
    return lambda folder: part_of(make, name)(folder / "own")


ALWAYS_READ = {"records", "labels", "cifar", "bmp", "ppm"}
WEIGHTS = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([1, 2])}
TOML = b"""networks = ["alexnet", "vgg8"]
seeds = [0, 1]
width = {alexnet = "1/4", vgg8 = 0.5}
[effort]
linf = ["2/255", 0.1]
"""
BYTES: dict[str, tuple[str, Callable[[Path], tuple[Path, Path]]]] = {
    "coco": ("sized regions", file_of("a.json", _json(COCO))),
    "voc": ("sized regions", file_of("a.xml", VOC.encode())),
    "label map": ("regions", file_of("a.png", samples.label_map)),
    "png": ("image", file_of("a.png", samples.picture)),
    "gif": ("image", file_of("a.gif", samples.picture)),
    "jpeg": ("image", file_of("a.jpg", samples.picture)),
    "bmp": ("image", file_of("a.bmp", samples.picture)),
    "tiff": ("image", file_of("a.tif", samples.picture)),
    "packed tiff": (
        "image", file_of("a.tif", lambda file: samples.picture(file, compression="tiff_lzw")),
    ),
    "webp": ("image", file_of("a.webp", samples.picture)),
    "ppm": ("image", file_of("a.ppm", samples.picture)),
    "pth": ("weights", file_of("a.pth", saved(WEIGHTS))),
    "old pth": ("weights", file_of("a.pth", saved(WEIGHTS, zipped=False))),
    "safetensors": ("weights", file_of("a.safetensors", safetensors(tensor(), bytes(8)))),
    "idx": ("idx", file_of("a", idx((3, 2, 2), bytes(range(12))))),
    "packed idx": ("idx", file_of("a.gz", idx((3, 2, 2), bytes(range(12)), packed=True))),
    "npy": ("masks", file_of("a.npy", npy(np.ones((2, 3, 3), bool)))),
    "npz": ("masks", file_of("a.npz", npz(packed=True, masks=npy(np.ones((2, 3, 3), bool))))),
    "labels": ("labels", file_of("a.txt", "owl\nfüchse\nelk\n".encode())),
    "toml": ("settings", file_of("a.toml", TOML)),
    "cifar": ("cifar", below(samples.cifar, "cifar-10-batches-bin/test_batch.bin")),
    "pickled cifar": ("cifar", below(samples.pickled_cifar, "cifar-10-batches-py/test_batch")),
    "cifar of protocol 5": (
        "cifar",
        below(lambda f: samples.pickled_cifar(f, 4), "cifar-10-batches-py/test_batch"),
    ),
    "series": ("series", below(samples.series, "series.npz")),
    "photos": ("photos", below(samples.photos, "a/1.png")),
    "trained": ("trained", below(samples.trained, "alexnet-0/plain/final.safetensors")),
    "records": ("records", file_of("a.jsonl", samples.records)),
}  # fmt: skip


@pytest.mark.parametrize("name", BYTES)
def test_damaged_bytes_are_read_right_or_refused(name: str, tmp_path: Path) -> None:
    """A few hundred times, from one seed: never another error, never more memory."""
    pytest.importorskip("safetensors")
    reader, build = BYTES[name]
    path, file = build(tmp_path)
    whole, draw, refused = file.read_bytes(), random.Random(name), 0
    before = peak() if sys.platform == "linux" else 0
    for number in range(300):
        content = damaged(whole, draw)
        file.write_bytes(content)
        try:
            refused += said(reader, path) is not None
        except Exception as error:
            raise AssertionError(f"{name}, number {number}: {content[:400]!r}") from error
    if sys.platform == "linux":
        assert peak() - before < MOST_MEMORY
    # Lines that are damaged are left out and counted, and a changed pixel is a pixel.
    assert refused > 20 or name in ALWAYS_READ


@pytest.mark.parametrize("seed", range(2))
def test_archives_that_belong_to_their_manifest(seed: int, tmp_path: Path) -> None:
    """Damaged garments with the digest that fits: the digest is no proof of anything."""
    whole = (samples.garments(tmp_path) / "test.npz").read_bytes()
    draw, refused = random.Random(seed), 0
    for _ in range(200):
        folder = samples.garments(tmp_path, damaged(whole, draw))
        refused += said("garments", folder) is not None
    assert refused > 50


def test_checkpoints_that_are_named_by_their_bytes(tmp_path: Path) -> None:
    from guidxmage.hardening.training.checkpoint import _digest

    (file,) = samples.checkpoint(tmp_path / "own").iterdir()
    whole, draw, refused = file.read_bytes(), random.Random(0), 0
    for _ in range(200):
        content = damaged(whole, draw)
        shutil.rmtree(tmp_path / "own")
        (tmp_path / "own").mkdir()
        (tmp_path / "own" / f"checkpoint-000000007-{_digest(content)}.pt").write_bytes(content)
        refused += said("checkpoint", tmp_path / "own") is not None
    assert refused > 50


def test_images_keep_what_they_show(tmp_path: Path) -> None:
    """What is written is what is read; so refusing all would be noticed."""
    ramp = np.asarray(Image.open(samples.picture(tmp_path / "a.png")))
    assert np.array_equal(np.asarray(READERS["image"](tmp_path / "a.png")), ramp)
    (tmp_path / "a.gz").write_bytes(idx((2, 3), b"abcdef", packed=True))
    assert READERS["idx"](tmp_path / "a.gz").tobytes() == b"abcdef"
    assert gzip.decompress((tmp_path / "a.gz").read_bytes()).endswith(b"abcdef")
    archive(tmp_path / "m.npz", [("masks.npy", npy(np.eye(3, dtype=bool)))])
    assert torch.equal(READERS["masks"](tmp_path / "m.npz"), torch.eye(3).bool())
    found = READERS["cifar"](samples.pickled_cifar(tmp_path / "c"))
    assert found.labels.tolist() == [3, 9]
    assert found.images.flatten()[:300].tolist() == [k % 256 for k in range(300)]
