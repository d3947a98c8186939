"""Small valid files of every kind that is read, and ways to spoil them."""

from __future__ import annotations

import copy
import gzip
import hashlib
import json
import pickle
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

COCO: dict[str, Any] = {
    "images": [
        {"id": 3, "file_name": "photo.jpg", "height": 4, "width": 6},
        {"id": 4, "file_name": "x/other.jpg", "height": 9, "width": 9},
    ],
    "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    "annotations": [
        {"image_id": 3, "category_id": 1, "segmentation": [[0, 0, 3.5, 0, 3.5, 4, 0, 4]]},
        {
            "image_id": 3,
            "category_id": 2,
            "segmentation": {"size": [4, 6], "counts": [12, 4, 8]},
        },
        {"image_id": 3, "category_id": 2, "segmentation": {"size": [4, 6], "counts": "<48"}},
        {"image_id": 4, "category_id": 1, "segmentation": []},
    ],
}
VOC = """<annotation><size><width>6</width><height>4</height><depth>3</depth></size>
<object><name>cat</name><bndbox><xmin>2</xmin><ymin>1</ymin><xmax>3</xmax><ymax>2.4</ymax></bndbox>
</object><object><name>sofa</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>5</xmax><ymax>9</ymax>
</bndbox></object></annotation>"""

STRANGE: list[Any] = [
    None, True, False, -1, 0, 1, 2, 10**9, 2**31, 2**62, 2**70, 0.5, -0.5, 1e308, float("nan"),
    float("inf"), "", "a", "x" * 3000, "../..", "\n", "\0", "\ud800", "os:system", [], [[]], [None],
    [-1], [10**6, 10**6], [10**6] * 20, {}, {"a": {}}, {"size": [4, 6]},
]  # fmt: skip


def deep(levels: int) -> Any:
    found: Any = 1
    for _ in range(levels):
        found = [found]
    return found


def spoiled(document: Any, values: list[Any]) -> Iterator[tuple[str, Any]]:
    """Copies of a JSON document in which one part is another value, left out or there twice."""
    for place in _places(document):
        for value in values:
            yield f"{place} = {repr(value)[:40]}", _changed(document, place, value)
        yield f"{place} is left out", _changed(document, place, _changed)
        if place and isinstance(place[-1], int):
            yield f"{place} is there twice", _changed(document, place, _places)


def _places(document: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield place
    own = document.items() if isinstance(document, dict) else ()
    for key, part in enumerate(document) if isinstance(document, list) else own:
        yield from _places(part, (*place, key))


def _changed(document: Any, place: tuple[Any, ...], value: Any) -> Any:
    if not place:
        return [document, document] if callable(value) else value
    changed = copy.deepcopy(document)
    parent = changed
    for step in place[:-1]:
        parent = parent[step]
    if value is _changed:
        del parent[place[-1]]
    elif value is _places:
        parent.append(parent[place[-1]])
    else:
        parent[place[-1]] = value
    return changed


def damaged(content: bytes, draw: random.Random) -> bytes:
    """Bytes changed, cut off, doubled, put in or exchanged."""
    found = bytearray(content)
    for _ in range(draw.choice([1, 1, 1, 2, 5])):
        if not found:
            break
        place, length = draw.randrange(len(found)), draw.choice([1, 2, 4, 8, 64])
        match draw.choice(["flip", "byte", "cut", "double", "insert", "extreme", "remove"]):
            case "flip":
                found[place] ^= 1 << draw.randrange(8)
            case "byte":
                found[place] = draw.randrange(256)
            case "cut":
                del found[place:]
            case "double":
                found[place:place] = found[place : place + length]
            case "insert":
                found[place:place] = draw.randbytes(length)
            case "extreme":
                part = len(found[place : place + length])
                found[place : place + length] = bytes([draw.choice([0, 255, 127, 128])]) * part
            case _:
                del found[place : place + length]
    return bytes(found)


# --- data sets ------------------------------------------------------------------------------------


def cifar(folder: Path) -> Path:
    """The binary version, with two test images."""
    (folder / "cifar-10-batches-bin").mkdir(parents=True)
    records = b"".join(bytes([label]) + bytes(range(256)) * 12 for label in (3, 9))
    (folder / "cifar-10-batches-bin" / "test_batch.bin").write_bytes(records)
    return folder


def pickled_cifar(folder: Path, protocol: int = 2) -> Path:
    """The Python version, with two test images."""
    (folder / "cifar-10-batches-py").mkdir(parents=True)
    images = np.arange(2 * 3072, dtype=np.uint32).astype(np.uint8).reshape(2, -1)
    batch = {"batch_label": "testing", "labels": [3, 9], "data": images, "filenames": ["a", "b"]}
    content = pickle.dumps(batch, protocol)
    (folder / "cifar-10-batches-py" / "test_batch").write_bytes(content)
    return folder


def garments(folder: Path, arrays: bytes | None = None) -> Path:
    """A test split of two garments; or other bytes with the digest that belongs to them."""
    folder.mkdir(exist_ok=True)
    file = folder / "test.npz"
    if arrays is None:
        labels = np.array([7, 1], np.uint8)
        images = np.zeros((2, 3, 32, 32), np.uint8)
        masks = np.ones((2, 32, 4), np.uint8)
        np.savez(file, images=images, masks=masks, labels=labels, backgrounds=labels)
    else:
        file.write_bytes(arrays)
    told = {"test": {"sha256": hashlib.sha256(file.read_bytes()).hexdigest()}}
    manifest = {"schema": "guid-xmage/garments/1", "splits": told}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def series(folder: Path) -> Path:
    from guidxmage.hardening.samples.series import Series

    Series(
        originals=torch.rand(2, 3, 4, 5),
        samples=torch.rand(2, 2, 3, 4, 5),
        masks=torch.rand(2, 4, 5) > 0.5,
        labels=torch.tensor([1, 0]),
        strengths=(0.1, 0.2),
        curves=torch.rand(2, 5),
        kept=torch.ones(2, 2, dtype=torch.int64),
        answers=torch.zeros(2, 2, dtype=torch.int64),
        on_grid=False,
    ).save(folder, model="alexnet", numbers=[1, 2.5, None])
    return folder


def trained(folder: Path) -> Path:
    from safetensors.torch import save_file

    from guidxmage.hardening.training import networks

    unit = folder / "alexnet-0" / "plain"
    unit.mkdir(parents=True)
    (folder / "experiment.json").write_text('{"networks": ["vgg8", "alexnet"], "width": 0.05}')
    own = networks.build("alexnet", 3, width=0.05, seed=0).state_dict()
    save_file(own, unit / "final.safetensors")
    return folder


def checkpoint(folder: Path) -> Path:
    from guidxmage.hardening.training.checkpoint import save_checkpoint

    folder.mkdir(exist_ok=True)
    save_checkpoint(folder, 7, {"network": {"a": torch.arange(5.0)}, "step": 7, "seed": [1, "a"]})
    return folder


def photos(folder: Path) -> Path:
    for name in ("a/1", "a/2", "b/1", "b/2"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.full((9, 10, 4), 255, np.uint8)
        pixels[:, :5, 1:] = 0
        Image.fromarray(pixels).save(folder / f"{name}.png")
    return folder


def idx(shape: tuple[int, ...], content: bytes, *, kind: int = 8, packed: bool = False) -> bytes:
    head = bytes([0, 0, kind, len(shape)]) + np.array(shape, ">u4").tobytes()
    return gzip.compress(head + content) if packed else head + content


def rows(file: Path) -> Path:
    from guidxmage.evaluation import coverage

    made = [coverage.CoverageRow("alexnet", 5, 32, ("decisions",), "exact", 1e-9, 1e-6, True, 0.5)]
    coverage._write(file, [*made, coverage.CoverageRow("other", error="no rule")])
    return file


def records(file: Path) -> Path:
    from guidxmage.evaluation.records import Records

    kept = Records(file)
    told = {"network": "net", "photo": "a", "method": "m", "made_from": "", "maps": {}}
    for view in range(3):
        kept.add({**told, "view": view, "figures": {"x": 0.1 * view}})
    return file


def picture(file: Path, **options: Any) -> Path:
    ramp = np.arange(13 * 17 * 3, dtype=np.uint16).reshape(13, 17, 3)
    Image.fromarray((ramp * 7 % 256).astype(np.uint8)).save(file, **options)
    return file


def label_map(file: Path) -> Path:
    image = Image.fromarray(np.arange(24, dtype=np.uint8).reshape(4, 6) % 5)
    image.putpalette([3 * k % 256 for k in range(768)])
    image.save(file)
    return file


def huggingface(folder: Path) -> Path:
    from guidxmage.models import import_torchvision

    import_torchvision()
    import transformers

    sizes: dict[str, Any] = {"embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1]}
    labels: dict[int, str] = dict(enumerate(("owl", "fox", "elk")))
    config = transformers.ResNetConfig(**sizes, layer_type="basic", num_labels=3, id2label=labels)
    transformers.AutoModelForImageClassification.from_config(config).save_pretrained(folder)
    transformers.BitImageProcessor(
        size={"shortest_edge": 36}, crop_size={"height": 32, "width": 32}
    ).save_pretrained(folder)
    return folder
