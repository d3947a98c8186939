"""Photographs by class, cut in two parts that share no pixel, and crops of them."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from PIL import Image

from guidxmage.errors import InputError, MissingExtraError
from guidxmage.hardening.data.fashion_mnist import sha256
from guidxmage.inputs.photos import find_images, read_image

Part = Literal["left", "right"]
Array = NDArray[np.uint8]
Numbers = NDArray[np.int64]

HEIGHT = 128
"""The shorter side of a photo from which crops are cut, so that a crop shows a piece of a scene."""
LEFT = 0.6
"""The share of a photo's width that makes its left part."""
PER_CLASS = 2

# Photos that other packages bring along: module, package, the extra that installs it, file names.
_FOOLBOX = ("foolbox", "foolbox", "robust", ("imagenet_*.jpg",))
_SKIMAGE = (
    *("skimage", "scikit-image", "view"),
    ("astronaut.png", "chelsea.png", "coffee.png", "ihc.png", "motorcycle_left.png", "rocket.jpg"),
)


@dataclass(frozen=True, eq=False)
class Backdrop:
    """A photo (its two parts, each (H, W, 3)) and its file, told by name and SHA-256."""

    name: str
    digest: str
    left: Array
    right: Array


class Scenery:
    """Photos, dealt out to the classes in turn: photo k belongs to class k modulo `classes`."""

    def __init__(self, photos: Sequence[Backdrop], classes: int) -> None:
        if len(photos) < PER_CLASS * classes:
            raise InputError(
                f"{len(photos)} photos are too few for {classes} classes; give "
                f"{PER_CLASS * classes} or more"
            )
        self.photos, self.classes = tuple(photos), classes

    @classmethod
    def read(cls, folder: Path | None, classes: int) -> Scenery:
        """From the images in and below a folder, by default those of `default_photos`.

        Raises InputError for damaged, small and too few photos.
        """
        files = default_photos() if folder is None else find_images([folder])
        return cls([read_photo(file) for file in files], classes)

    def choose(self, kinds: Numbers, draw: np.random.Generator) -> Numbers:
        """For each class in `kinds` (N,) the number of one of its photos, all as likely."""
        own = (len(self.photos) - 1 - kinds) // self.classes + 1
        return kinds + self.classes * draw.integers(own)

    def crop(
        self, numbers: Numbers, part: Part, side: int, draw: np.random.Generator
    ) -> tuple[Array, Numbers]:
        """Crops (N, side, side, 3) of photos at random, and their top left corners (N, 2)."""
        sizes = np.array([getattr(photo, part).shape[:2] for photo in self.photos])
        corners = draw.integers(sizes[numbers] - side + 1)
        crops = np.empty((len(numbers), side, side, 3), np.uint8)
        for number in np.unique(numbers):
            rows = np.flatnonzero(numbers == number)
            pixels = getattr(self.photos[number], part)
            windows = sliding_window_view(pixels, (side, side), axis=(0, 1))
            chosen = windows[corners[rows, 0], corners[rows, 1]]
            crops[rows] = chosen.transpose(0, 2, 3, 1)
        return crops, corners


def read_photo(file: Path) -> Backdrop:
    """A photo cut in two, then scaled; InputError for one of less than 128 pixels a side.

    It is cut first because scaling mixes neighbouring pixels.
    """
    image = read_image(file)
    if min(image.size) < HEIGHT:
        raise InputError(
            f"{file} has {image.width}×{image.height} pixels; give photos of {HEIGHT} or more a "
            "side"
        )
    middle = round(image.width * LEFT)
    left = _scaled(image, (0, middle))
    right = _scaled(image, (middle, image.width))
    return Backdrop(file.name, sha256(file), left, right)


def _scaled(image: Image.Image, columns: tuple[int, int]) -> Array:
    part = image.crop((columns[0], 0, columns[1], image.height))
    factor = HEIGHT / min(image.size)
    size = round(part.width * factor), round(part.height * factor)
    return np.asarray(part.resize(size, Image.Resampling.BICUBIC))


def default_photos() -> list[Path]:
    """Colour photos that come with foolbox and scikit-image, always in the same order.

    Raises MissingExtraError where one of them is not installed.
    """
    found: list[Path] = []
    for module, package, extra, patterns in (_FOOLBOX, _SKIMAGE):
        spec = importlib.util.find_spec(module)
        if spec is None or not spec.submodule_search_locations:
            raise MissingExtraError(package, extra)
        data = Path(spec.submodule_search_locations[0]) / "data"
        found += [file for pattern in patterns for file in sorted(data.glob(pattern))]
    return found
