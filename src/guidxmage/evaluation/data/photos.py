"""The images of an evaluation: bundled photos, folders, garments, CIFAR-10; with labels and masks.

Photos are read when they are asked for, so that a large folder costs nothing until then.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib import resources
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from guidxmage.errors import InputError, MissingExtraError
from guidxmage.files.atomic import MANIFEST
from guidxmage.files.names import shown
from guidxmage.files.untrusted import read_json
from guidxmage.hardening.data.cifar10 import read_images
from guidxmage.hardening.data.garments import load_garments
from guidxmage.inputs.photos import find_images, read_image
from guidxmage.objects.annotations import annotation_of, find_annotation
from guidxmage.objects.label_map import BACKGROUND, IGNORED, read_regions
from guidxmage.provenance import fingerprint

Mask = npt.NDArray[np.bool_]

BUNDLED = {"imagenet": "imagenet", "cifar10": "cifar10"}
"""Words for the labelled photos that come with foolbox, and how their files' names begin."""
GARMENTS = "guid-xmage/garments/"


@dataclass(frozen=True)
class Photo:
    """One photo: its class index where it is known, and what reads it and its object's mask.

    file, annotation: where these lie, if they have files of their own.
    """

    name: str
    read: Callable[[], Image.Image]
    label: int | None = None
    read_mask: Callable[[], Mask] | None = None
    file: Path | None = None
    annotation: Path | None = None

    def fingerprint(self) -> str:
        """SHA-256 of the photo, its mask and its label. Raises InputError if they can't be read."""
        if self.file is None:
            photo = fingerprint.of_values(self.read())
        else:
            photo = fingerprint.of_photo(self.file)
        mask = None
        if self.annotation is not None:
            mask = fingerprint.of_masks(annotation_of(Path(self.name), self.annotation))
        elif self.read_mask is not None:
            mask = fingerprint.of_values(self.read_mask())
        return fingerprint.of_values([photo, mask, self.label])


def read_photos(data: str, limit: int | None = None, masks: Path | None = None) -> list[Photo]:
    """The photos that `data` names, at most `limit`, in a fixed order.

    data: "imagenet" or "cifar10" for the 20 labelled photos of each that come with foolbox; a
    folder that `guid-xmage garments` made (its test images, with masks); a folder with CIFAR-10 in
    torchvision's form (its test images); a photo; or a folder of photos. Where all subfolders hold
    photos and their names are numbers, those are the labels. masks: a folder of masks as
    `read_regions` takes them, named after the photos. Raises InputError for anything else.
    """
    if limit is not None and limit < 1:
        raise InputError(f"the number of photos is {limit}; give at least 1")
    if data in BUNDLED:
        found = _bundled(BUNDLED[data])
    elif not Path(data).exists():
        raise InputError(
            f"{data} is neither a file nor a folder nor one of {', '.join(BUNDLED)}; name one"
        )
    elif _is_garments(Path(data)):
        found = _garments(Path(data))
    elif any(Path(data).glob("cifar-10-batches-*")):
        found = _cifar10(Path(data))
    else:
        found = _folder(Path(data))
    found = found[:limit]
    return found if masks is None else [_with_mask(photo, masks) for photo in found]


def _bundled(prefix: str) -> list[Photo]:
    try:
        folder = Path(str(resources.files("foolbox"))) / "data"
    except ModuleNotFoundError as error:
        raise MissingExtraError("foolbox", "eval") from error
    photos = []
    for file in sorted(folder.glob(f"{prefix}_*")):
        label = re.fullmatch(rf"{prefix}_\d+_(\d+)", file.stem)
        number = int(label[1]) if label else None
        photos.append(Photo(file.stem, partial(read_image, file), number, file=file))
    if not photos:
        raise InputError(f"foolbox holds no {prefix} photos; install foolbox 3.3.4")
    return photos


def _folder(root: Path) -> list[Photo]:
    photos = []
    for file in find_images([root]):
        name = file.relative_to(root).as_posix() if root.is_dir() else file.name
        parent = file.parent.name if root.is_dir() and file.parent != root else ""
        label = int(parent) if parent.isdecimal() else None
        photos.append(Photo(shown(name), partial(read_image, file), label, file=file))
    return photos


def _is_garments(folder: Path) -> bool:
    try:
        manifest = read_json(folder / MANIFEST)
    except InputError:
        return False
    return isinstance(manifest, dict) and str(manifest.get("schema", "")).startswith(GARMENTS)


def _garments(folder: Path) -> list[Photo]:
    found = load_garments(folder, "test")
    pixels = found.images.permute(0, 2, 3, 1).contiguous().numpy()
    return [
        Photo(f"test {number}", partial(Image.fromarray, image), label, partial(np.array, mask))
        for number, (image, label, mask) in enumerate(
            zip(pixels, found.labels.tolist(), found.masks.numpy(), strict=True)
        )
    ]


def _cifar10(folder: Path) -> list[Photo]:
    images, labels = read_images(folder, train=False)
    pixels = images.permute(0, 2, 3, 1).contiguous().numpy()
    return [
        Photo(f"test {number}", partial(Image.fromarray, image), label)
        for number, (image, label) in enumerate(zip(pixels, labels.tolist(), strict=True))
    ]


def _with_mask(photo: Photo, masks: Path) -> Photo:
    annotation = find_annotation(Path(photo.name), masks)
    if annotation is None:
        raise InputError(f"{photo.name} has no mask in {masks}; draw one, or leave --masks out")
    read_mask = partial(_read_mask, photo, annotation)
    return replace(photo, read_mask=read_mask, annotation=annotation)


def _read_mask(photo: Photo, annotation: Path) -> Mask:
    labels = read_regions(annotation, size=photo.read().size[::-1]).labels
    return np.asarray((labels != BACKGROUND) & (labels != IGNORED))


def names(photos: Sequence[Photo]) -> list[str]:
    """The photos' names, each of which must be there once."""
    found = [photo.name for photo in photos]
    if len(set(found)) != len(found):
        raise InputError("two photos have the same name; rename one")
    return found
