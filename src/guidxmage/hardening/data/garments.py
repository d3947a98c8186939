"""Fashion-MNIST garments before photographs: real images with true masks, made offline.

How much a background says about the class is chosen; so it is known what there is to unlearn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from guidxmage.errors import InputError
from guidxmage.files.atomic import MANIFEST
from guidxmage.files.names import brief, shown
from guidxmage.files.result_folder import (
    PROVENANCE,
    Kind,
    check_replaceable,
    held_folder,
    provenance_of,
    sweep,
    write_mark,
)
from guidxmage.files.schema import Count, Seed, Share, check
from guidxmage.files.untrusted import checked_array, entry, read_arrays, read_json
from guidxmage.hardening.data.backgrounds import LEFT, Part, Scenery
from guidxmage.hardening.data.dataset import InMemory
from guidxmage.hardening.data.fashion_mnist import Greys, read_fashion, sha256
from guidxmage.hardening.data.garments_datasheet import datasheet
from guidxmage.hardening.data.placing import (
    LARGEST,
    SMALLEST,
    THRESHOLD,
    Figures,
    closed_masks,
    place_figures,
)
from guidxmage.models.labels import FASHION_MNIST_LABELS
from guidxmage.provenance import fingerprint

SCHEMA = "guid-xmage/garments/1"
KIND = Kind((SCHEMA,))
DATASHEET = "DATASHEET.md"
CLASSES = FASHION_MNIST_LABELS
SPLITS = ("train", "validation", "test", "mixed_same", "mixed_random")
SIDE = 32
# Garments whose masks hold fewer or more of their picture's 784 pixels are left out.
_FEWEST, _MOST = 40, 740

Numbers = NDArray[np.int64]


class Garments(InMemory):
    """A split; backgrounds (N,) int64: the class whose photo each background was cut from."""

    def __init__(
        self, images: Tensor, labels: Tensor, masks: Tensor, backgrounds: Tensor, split: str
    ) -> None:
        super().__init__(images, labels, masks, CLASSES, prefix=split)
        self.backgrounds = backgrounds


@dataclass(frozen=True)
class _Plan:
    """What is built; `seed` together with a stream's number gives every draw."""

    correlation: Share
    train: Count
    validation: Count
    test: Count
    seed: Seed

    def __post_init__(self) -> None:
        check(self)

    def size(self, split: str) -> int:
        """How many images a split is to have."""
        count: int = getattr(self, split)
        return count

    def draw(self, *stream: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, *stream])


def build_garments(
    out: str | Path,
    fashion: str | Path | None = None,
    *,
    backgrounds: str | Path | None = None,
    correlation: float = 0.95,
    train: int = 50_000,
    validation: int = 5_000,
    test: int = 5_000,
    seed: int = 0,
    overwrite: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> Path:
    """Build the data set in the folder `out`; docs/garments.md says how and what for.

    fashion: the folder of Fashion-MNIST's four IDX files, by default Debian's. backgrounds: a
    folder of at least 20 photos, by default those that come with foolbox and scikit-image.
    correlation: the chance that a background comes from a photo of the image's own class; else it
    comes from one of any class, so that 0 makes background and class independent. train,
    validation, test: numbers of images. The same seed, sources and versions give the same bytes;
    where they are in `out` already they are kept, unless told to overwrite, and `say` is told so.
    An earlier data set of another seed or of other sources is replaced.

    Raises InputError for unusable sources and values, and where `out` holds something else or files
    that were changed; MissingExtraError where the default photos are not installed.
    """
    plan = _Plan(correlation, train, validation, test, seed)
    out = Path(out)
    check_replaceable(out, KIND, overwrite=overwrite)
    scenery = Scenery.read(None if backgrounds is None else Path(backgrounds), len(CLASSES))
    folder = None if fashion is None else Path(fashion)
    greys = {part: read_fashion(folder, part) for part in ("train", "t10k")}
    chosen = _choose(plan, greys)
    sources = _sources(scenery, greys)
    wanted = {
        "options": fingerprint.of_values(plan),
        "sources": fingerprint.of_values(sources),
        "versions": fingerprint.makers("numpy", "pillow"),
    }
    sweep(out.parent)
    with held_folder(out, KIND) as there:
        if not overwrite and provenance_of(there.mark()) == wanted and there.intact():
            say(f"{out} holds this data set already; it is kept")
            return out
        with there.replaced(overwrite=overwrite) as new:
            told = {}
            for split, rows in chosen.items():
                own = greys["t10k" if split == "test" else "train"]
                told.update(_Builder(new, scenery, plan).build(split, own, rows))
            manifest = _manifest(plan, told, sources)
            sheet = datasheet(
                manifest, threshold=THRESHOLD, smallest=SMALLEST, largest=LARGEST, left=LEFT
            )
            (new / DATASHEET).write_text(sheet, encoding="utf-8")
            write_mark(new, {**manifest, PROVENANCE: wanted})
    return out


def load_garments(folder: str | Path, split: str) -> Garments:
    """A split: train, validation, test, or the test images on other backgrounds.

    mixed_same: on photos of their own class; mixed_random: on photos of any class. Raises
    InputError for an unknown split, and for a folder that holds no such data set or a damaged one.
    """
    if split not in SPLITS:
        raise InputError(f"split {split!r} is unknown; choose from {', '.join(SPLITS)}")
    folder = Path(folder)
    file = folder / f"{split}.npz"
    try:
        manifest = read_json(folder / MANIFEST)
        if (schema := entry(manifest, "schema", str, str(folder / MANIFEST))) != SCHEMA:
            raise InputError(f"it is {brief(schema)}, not {SCHEMA}")
        told = entry(entry(manifest, "splits", dict, str(folder)), split, dict, str(folder))
        changed = sha256(file) != told.get("sha256")
        own = {} if changed else read_arrays(file)
    except (InputError, OSError) as error:
        raise InputError(f"{folder} holds no garments ({error}); build them first") from error
    if changed:
        raise InputError(f"{file} was changed after it was built; build the data set again")
    return _restored(own, split, file)


def _restored(own: Mapping[str, Any], split: str, file: Path) -> Garments:
    """The arrays of a file as a split, each of the type and shape that it was built with."""
    images = checked_array(own, "images", "uint8", (None, 3, SIDE, SIDE), str(file))
    count = len(images)
    packed = checked_array(own, "masks", "uint8", (count, SIDE, SIDE // 8), str(file))
    labels, backgrounds = (
        checked_array(own, name, "uint8", (count,), str(file)) for name in ("labels", "backgrounds")
    )
    if not count or max(labels.max(), backgrounds.max()) >= len(CLASSES):
        raise InputError(f"{file} holds no garments of {len(CLASSES)} classes; build it again")
    return Garments(
        torch.from_numpy(images),
        torch.from_numpy(labels.astype(np.int64)),
        torch.from_numpy(np.unpackbits(packed, axis=-1, count=SIDE).astype(bool)),
        torch.from_numpy(backgrounds.astype(np.int64)),
        split,
    )


def _choose(plan: _Plan, greys: Mapping[str, Greys]) -> dict[str, Numbers]:
    """Which garments go into which split: numbers within their IDX file, none of them twice."""
    chosen: dict[str, Numbers] = {}
    for stream, (part, splits) in enumerate(
        (("train", ("train", "validation")), ("t10k", ("test",)))
    ):
        counts = closed_masks(greys[part].images).sum((1, 2))
        usable = np.flatnonzero((counts >= _FEWEST) & (counts <= _MOST))
        wanted = [plan.size(split) for split in splits]
        if sum(wanted) > len(usable):
            raise InputError(
                f"{' and '.join(splits)} ask for {sum(wanted)} images, but the {part} file holds "
                f"{len(usable)} usable ones; ask for fewer"
            )
        order = plan.draw(0, stream).permutation(usable)
        chosen.update(zip(splits, np.split(order, np.cumsum(wanted))[:-1], strict=True))
    return chosen


@dataclass(frozen=True, eq=False)
class _Builder:
    """Writes splits into a folder."""

    folder: Path
    scenery: Scenery
    plan: _Plan

    def build(self, split: str, greys: Greys, rows: Numbers) -> dict[str, Any]:
        """A split, and with test its two mixed versions; returns what the manifest tells."""
        number, plan = SPLITS.index(split), self.plan
        labels = greys.labels[rows].astype(np.int64)
        figures = place_figures(greys.images[rows], SIDE, plan.draw(1, number))
        kinds = {split: _kinds(labels, plan.correlation, plan.draw(2, number))}
        if split == "test":
            kinds["mixed_same"] = labels
            kinds["mixed_random"] = _kinds(labels, 0.0, plan.draw(2, SPLITS.index("mixed_random")))
        part: Part = "left" if split == "train" else "right"
        told = {}
        for version, own in kinds.items():
            arrays = {
                **self._compose(figures, own, part, plan.draw(3, SPLITS.index(version))),
                "labels": labels.astype(np.uint8),
                "sources": rows.astype(np.uint32),
            }
            file = self.folder / f"{version}.npz"
            np.savez(file, **arrays)
            told[version] = _facts(labels, own, figures, part) | {"sha256": sha256(file)}
        return told

    def _compose(
        self, figures: Figures, kinds: Numbers, part: Part, draw: np.random.Generator
    ) -> dict[str, Any]:
        photos = self.scenery.choose(kinds, draw)
        crops, corners = self.scenery.crop(photos, part, SIDE, draw)
        return {
            "images": figures.before(crops),
            "masks": np.packbits(figures.masks, axis=-1),
            "backgrounds": kinds.astype(np.uint8),
            "photos": photos.astype(np.uint16),
            "corners": corners.astype(np.uint16),
        }


def _kinds(labels: Numbers, correlation: float, draw: np.random.Generator) -> Numbers:
    """Whose class's photo is behind each image: with the chance `correlation` the image's own."""
    own = draw.random(len(labels)) < correlation
    return np.where(own, labels, draw.integers(len(CLASSES), size=len(labels)))


def _facts(labels: Numbers, kinds: Numbers, figures: Figures, part: Part) -> dict[str, Any]:
    return {
        "images": len(labels),
        "per_class": np.bincount(labels, minlength=len(CLASSES)).tolist(),
        "own_background": float((kinds == labels).mean()),
        "object_share": float(figures.masks.mean()),
        "photo_part": part,
    }


def _sources(scenery: Scenery, greys: Mapping[str, Greys]) -> dict[str, Any]:
    return {
        "fashion": {k: digest for own in greys.values() for k, digest in own.digests.items()},
        "photos": [
            {"name": shown(photo.name), "class": number % len(CLASSES), "sha256": photo.digest}
            for number, photo in enumerate(scenery.photos)
        ],
    }


def _manifest(plan: _Plan, told: Mapping[str, Any], sources: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "seed": plan.seed,
        "correlation": plan.correlation,
        "size": [3, SIDE, SIDE],
        "classes": list(CLASSES),
        "splits": dict(told),
        "sources": dict(sources),
    }
