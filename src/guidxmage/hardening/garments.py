"""Fashion-MNIST garments before photographs: a real data set with true masks, made offline.

How much a background says about the class is chosen; so it is known what there is to unlearn.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from guidxmage.errors import InputError
from guidxmage.files import MANIFEST, atomic_folder
from guidxmage.hardening.dataset import InMemory
from guidxmage.hardening.garments_sheet import datasheet

SCHEMA = "guid-xmage/garments/1"
CLASSES = (
    *("T-shirt", "trouser", "pullover", "dress", "coat"),
    *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
)
SPLITS = ("train", "validation", "test", "mixed_same", "mixed_random")
SIDE, GARMENT = 32, 28
# Where Debian's package dataset-fashion-mnist puts it.
SYSTEM_FOLDER = Path("/usr/share/datasets/fashion-mnist")
# A garment's pixels are at least this bright, of 255.
_THRESHOLD = 16
Array = NDArray[np.uint8]


@dataclass(frozen=True)
class Plan:
    """What is built.

    correlation: the chance that a background comes from a photograph of the image's own class;
    else it comes from one of the other classes, each as likely. train, validation, test: numbers of
    images. contrast: how strongly garments stand out, 1 as they are; seed: of every draw.
    """

    correlation: float = 0.95
    train: int = 20_000
    validation: int = 2_000
    test: int = 2_000
    contrast: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.correlation <= 1:
            raise InputError(f"correlation is {self.correlation}; give a value from 0 to 1")
        if not 0 < self.contrast <= 1:
            raise InputError(f"contrast is {self.contrast}; give a value above 0, up to 1")
        for name in ("train", "validation", "test"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; give at least 1 image")


def build_garments(
    out: str | Path,
    fashion: str | Path | None = None,
    photos: Sequence[str | Path] | None = None,
    plan: Plan | None = None,
) -> Path:
    """Build the data set in the folder `out`.

    fashion: the folder with Fashion-MNIST's four IDX files, compressed or not; by default where
    Debian's package puts them. photos: at least ten colour photographs, by default those that come
    with scikit-image and foolbox. Raises InputError where files are missing or are not what they
    should be, and where an earlier folder is not a result of this.
    """
    plan = plan or Plan()
    source = Path(fashion) if fashion is not None else SYSTEM_FOLDER
    train, test = _read_fashion(source, "train"), _read_fashion(source, "t10k")
    if plan.train + plan.validation > len(train[1]) or plan.test > len(test[1]):
        raise InputError(
            f"{source} holds {len(train[1])} training and {len(test[1])} test images, fewer than "
            "are asked for"
        )
    files = [Path(file) for file in photos] if photos is not None else default_photos()
    scenery = _Scenery.of(files)
    out = Path(out)
    with atomic_folder(out) as partial:
        order = np.random.default_rng(plan.seed).permutation(len(train[1]))
        parts = {
            "train": (train, order[: plan.train], 0),
            "validation": (train, order[plan.train : plan.train + plan.validation], 1),
            "test": (test, np.arange(plan.test), 1),
        }
        counts: dict[str, Any] = {}
        for name, (garments, rows, half) in parts.items():
            counts.update(
                _write_split(partial, name, garments, rows, _Painter(scenery, half, plan))
            )
        _write_manifest(partial, plan, files, counts)
    return out


def load_garments(folder: str | Path, split: str) -> InMemory:
    """A split: train, validation, test, mixed_same or mixed_random (see the data sheet).

    Raises InputError for a folder that holds no such data set.
    """
    if split not in SPLITS:
        raise InputError(f"split {split!r} is unknown; choose from {', '.join(SPLITS)}")
    folder = Path(folder)
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if manifest.get("schema") != SCHEMA:
            raise InputError(f"{folder} holds {manifest.get('schema')}, not {SCHEMA}")
        with np.load(folder / f"{split}.npz", allow_pickle=False) as arrays:
            images, labels = arrays["images"], arrays["labels"]
            masks = np.unpackbits(arrays["masks"], axis=-1, count=SIDE).astype(bool)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{folder} holds no garments: {error}; build them first") from error
    return InMemory(
        torch.from_numpy(images),
        torch.from_numpy(labels.astype(np.int64)),
        torch.from_numpy(masks),
        CLASSES,
        prefix=split,
    )


def default_photos() -> list[Path]:
    """Colour photographs that come with scikit-image and foolbox, in a fixed order."""
    found: list[Path] = []
    for package, names in (
        ("skimage", ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "ihc.png")),
        ("foolbox", ("imagenet_*.jpg",)),
    ):
        try:
            root = Path(__import__(package).__path__[0]) / "data"
        except ImportError:
            continue
        found += [file for name in names for file in sorted(root.glob(name))]
    if len(found) < len(CLASSES):
        raise InputError(
            f"{len(found)} photographs were found; install scikit-image and foolbox, or name at "
            f"least {len(CLASSES)} yourself"
        )
    return found


def _read_fashion(folder: Path, prefix: str) -> tuple[Array, Array]:
    """Images (N, 28, 28) and labels (N,)."""
    images = _read_idx(folder, f"{prefix}-images-idx3-ubyte", 3)
    labels = _read_idx(folder, f"{prefix}-labels-idx1-ubyte", 1)
    if images.shape[1:] != (GARMENT, GARMENT) or len(images) != len(labels):
        raise InputError(
            f"{folder} is not Fashion-MNIST: images of {images.shape}, {len(labels)} labels"
        )
    return images, labels


def _read_idx(folder: Path, name: str, axes: int) -> Array:
    for file, opened in ((folder / f"{name}.gz", gzip.open), (folder / name, open)):
        if not file.is_file():
            continue
        try:
            with opened(file, "rb") as stream:
                content = stream.read()
        except (OSError, EOFError) as error:
            raise InputError(f"{file} cannot be read: {error}") from error
        head = 4 + 4 * axes
        shape = tuple(np.frombuffer(content[4:head], ">u4").tolist())
        if content[:4] != bytes([0, 0, 8, axes]) or len(content) != head + int(np.prod(shape)):
            raise InputError(f"{file} is damaged, or no IDX file with {axes} axes")
        return np.frombuffer(content, np.uint8, offset=head).reshape(shape)
    raise InputError(
        f"{folder} has no {name}.gz; install the package dataset-fashion-mnist, or name the folder "
        "that holds Fashion-MNIST"
    )


@dataclass(frozen=True)
class _Scenery:
    """Photographs by class, each cut in two: training sees the left part, the rest the right one.

    halves: for each class, for each half, photographs (H, W, 3).
    """

    halves: tuple[tuple[tuple[Array, ...], tuple[Array, ...]], ...]

    @classmethod
    def of(cls, files: list[Path]) -> _Scenery:
        if len(files) < len(CLASSES):
            raise InputError(f"{len(files)} photographs are too few; give {len(CLASSES)} or more")
        photos = [_photo(file) for file in files]
        cut = []
        for number in range(len(CLASSES)):
            own = photos[number :: len(CLASSES)]
            left = tuple(photo[:, : photo.shape[1] * 3 // 5] for photo in own)
            right = tuple(photo[:, photo.shape[1] * 3 // 5 :] for photo in own)
            cut.append((left, right))
        return cls(tuple(cut))


def _photo(file: Path) -> Array:
    """A photograph, 160 pixels high, so that a crop shows a piece of the scene."""
    try:
        with Image.open(file) as image:
            rgb = image.convert("RGB")
            width = max(2 * SIDE + SIDE // 2, round(rgb.width * 160 / rgb.height))
            return np.asarray(rgb.resize((width, 160), Image.Resampling.LANCZOS))
    except (OSError, SyntaxError) as error:
        raise InputError(f"{file} is no photograph that can be read: {error}") from error


class _Painter:
    """Draws garments before crops of photographs."""

    def __init__(self, scenery: _Scenery, half: int, plan: Plan) -> None:
        self.scenery, self.half, self.plan = scenery, half, plan

    def scene(self, kind: int, draw: np.random.Generator) -> Array:
        """A crop (32, 32, 3) of a photograph of a class, perhaps mirrored."""
        photos = self.scenery.halves[kind][self.half]
        photo = photos[draw.integers(len(photos))]
        top = draw.integers(photo.shape[0] - SIDE + 1)
        left = draw.integers(photo.shape[1] - SIDE + 1)
        crop = photo[top : top + SIDE, left : left + SIDE]
        return crop[:, ::-1] if draw.random() < 0.5 else crop

    def kind(self, label: int, draw: np.random.Generator) -> int:
        """Which class's photographs a background is taken from."""
        if draw.random() < self.plan.correlation:
            return label
        return int((label + draw.integers(1, len(CLASSES))) % len(CLASSES))

    def garment(self, grey: Array, draw: np.random.Generator) -> tuple[Array, NDArray[np.bool_]]:
        """A tinted garment (32, 32, 3) at a random place and its mask; the tint tells no class."""
        top, left = draw.integers(SIDE - GARMENT + 1, size=2)
        placed = np.zeros((SIDE, SIDE), np.float64)
        placed[top : top + GARMENT, left : left + GARMENT] = grey
        mask = closed(placed >= _THRESHOLD)
        tint = 0.4 + 0.6 * draw.random(3)
        level = 127.5 + self.plan.contrast * (placed - 127.5)
        return (level[..., None] * tint).clip(0, 255).astype(np.uint8), mask


def closed(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """A mask without its gaps of one or two pixels: dark spots of a garment, no handles of bags."""
    image = Image.fromarray(mask.astype(np.uint8) * 255)
    grown = image.filter(ImageFilter.MaxFilter(3)).filter(ImageFilter.MinFilter(3))
    return np.asarray(grown) > 0


def _write_split(
    folder: Path,
    name: str,
    fashion: tuple[Array, Array],
    rows: NDArray[np.int64],
    painter: _Painter,
) -> dict[str, Any]:
    """One split; for the test images also the two with their backgrounds exchanged."""
    images, labels = fashion[0][rows], fashion[1][rows]
    draw = np.random.default_rng((painter.plan.seed, SPLITS.index(name) + 1))
    pairs = [painter.garment(grey, draw) for grey in images]
    masks = np.stack([mask for _, mask in pairs])
    kinds = {name: [painter.kind(int(label), draw) for label in labels]}
    if name == "test":
        kinds["mixed_same"] = labels.tolist()
        kinds["mixed_random"] = draw.integers(len(CLASSES), size=len(labels)).tolist()
    counts = {}
    for version, own in kinds.items():
        scenes = np.stack([painter.scene(kind, draw) for kind in own])
        garments = np.stack([garment for garment, _ in pairs])
        painted = np.where(masks[..., None], garments, scenes).transpose(0, 3, 1, 2)
        np.savez(
            folder / f"{version}.npz",
            images=np.ascontiguousarray(painted),
            labels=labels,
            masks=np.packbits(masks, axis=-1),
            backgrounds=np.array(own, np.uint8),
            sources=rows.astype(np.int32),
        )
        counts[version] = {
            "images": len(labels),
            "per_class": np.bincount(labels, minlength=len(CLASSES)).tolist(),
            "own_background": float((np.array(own) == labels).mean()),
            "object_share": float(masks.mean()),
            "sha256": _content_digest(painted, labels, masks),
        }
    return counts


def _content_digest(*arrays: NDArray[Any]) -> str:
    whole = hashlib.sha256()
    for array in arrays:
        whole.update(np.ascontiguousarray(array).tobytes())
    return whole.hexdigest()


def _write_manifest(folder: Path, plan: Plan, files: list[Path], counts: dict[str, Any]) -> None:
    manifest = {
        "schema": SCHEMA,
        "classes": CLASSES,
        "size": [3, SIDE, SIDE],
        "plan": vars(plan),
        "photos": {
            name: [file.name for file in files[number :: len(CLASSES)]]
            for number, name in enumerate(CLASSES)
        },
        "splits": counts,
    }
    text = json.dumps(manifest, indent=1, ensure_ascii=False)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")
    (folder / "DATASHEET.md").write_text(datasheet(manifest), encoding="utf-8")
