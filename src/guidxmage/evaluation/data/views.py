"""Crops and flips of photos: more images of the same things, though not independent ones."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from guidxmage.errors import InputError
from guidxmage.evaluation.data.photos import Mask, Photo

SMALLEST = 0.6
"""The shortest side of a crop, as a share of the photo's."""


@dataclass(frozen=True)
class View:
    """A crop of a photo at the photo's own size, perhaps mirrored; number 0 is the photo itself.

    box: left, top, right and bottom edge in pixels.
    """

    photo: Photo
    number: int
    box: tuple[int, int, int, int]
    mirrored: bool
    picture: Image.Image

    def image(self) -> Image.Image:
        """The view as a picture of the photo's size."""
        if not self.number:
            return self.picture
        cut = self.picture.resize(self.picture.size, Image.Resampling.BICUBIC, self.box)
        return cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if self.mirrored else cut

    def mask(self) -> Mask | None:
        """The object's mask in the view, (H, W); None where the photo has none."""
        if self.photo.read_mask is None:
            return None
        whole = Image.fromarray(self.photo.read_mask())
        if whole.size != self.picture.size:
            raise InputError(
                f"the mask of {self.photo.name} is {whole.size[0]}×{whole.size[1]} pixels, the "
                f"photo {self.picture.size[0]}×{self.picture.size[1]}; draw it at the photo's size"
            )
        if self.number:
            numbers = whole.convert("L").resize(whole.size, Image.Resampling.NEAREST, self.box)
            flip = Image.Transpose.FLIP_LEFT_RIGHT
            whole = numbers.transpose(flip) if self.mirrored else numbers
        return np.asarray(whole).astype(bool)


def draw_view(photo: Photo, number: int, seed: int) -> View:
    """View `number` of a photo; its name, the number and the seed decide it."""
    picture = photo.read()
    width, height = picture.size
    if not number:
        return View(photo, 0, (0, 0, width, height), False, picture)
    draws = np.random.default_rng([seed, zlib.crc32(photo.name.encode()), number])
    share = draws.uniform(SMALLEST, 1)
    wide, high = max(1, round(width * share)), max(1, round(height * share))
    left, top = (int(draws.integers(0, free + 1)) for free in (width - wide, height - high))
    mirrored = bool(draws.integers(2))
    return View(photo, number, (left, top, left + wide, top + high), mirrored, picture)


def view_numbers(photos: Sequence[Photo], views: int) -> list[tuple[Photo, int]]:
    """All (photo, number): the photos themselves first, then their first crops, and so on."""
    return [(photo, number) for number in range(views) for photo in photos]
