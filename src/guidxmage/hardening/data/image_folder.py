"""A folder of photos, one folder for each class, with masks of their objects."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from guidxmage.errors import InputError
from guidxmage.hardening.data.dataset import ImageDataset, LabelledBatch
from guidxmage.inputs.photos import IMAGE_SUFFIXES, load_image, open_image, read_image
from guidxmage.inputs.preprocessing import Preprocessing
from guidxmage.objects.annotations import annotation_of, find_annotation
from guidxmage.objects.label_map import BACKGROUND, IGNORED, read_regions
from guidxmage.objects.raster import Mask
from guidxmage.provenance import fingerprint

FEWEST = 2
"""Images that a class needs, one to learn from and one to be tested with."""
# Alpha from which a pixel belongs to the object.
_OPAQUE = 128


class ImageFolder(ImageDataset):
    """Photos in root/<class>, read when they are asked for; classes in alphabetical order.

    masks: a folder with <class>/<stem of the photo>.png, or another annotation that `read_regions`
    understands. In a label image 0 is background and 255 ignored, which counts as background; one
    that holds only 0 and 255 is a mask of the object. Without `masks` the object is where the
    photo's alpha channel is at least half opaque; its colours are taken as they are stored. size:
    the shorter side is scaled to it and the centre cropped, photo and mask alike, to (size, size).

    Raises InputError for missing, damaged or too few photos and for missing masks, at once; and
    when they are read, for what only then shows: see `check`.
    """

    def __init__(self, root: str | Path, masks: str | Path | None = None, size: int = 224) -> None:
        self.root, self.size = Path(root), size
        self._crop = Preprocessing(resize=size, crop=size)
        self._mask_root = None if masks is None else Path(masks)
        folders = _class_folders(self.root)
        self.classes = tuple(folder.name for folder in folders)
        self.files = [(file, k) for k, folder in enumerate(folders) for file in _photos(folder)]
        self._annotations = [self._annotation(file) for file, _ in self.files]
        for file, _ in self.files:
            _verify(file)

    def __len__(self) -> int:
        return len(self.files)

    def __getitems__(self, indices: Sequence[int]) -> LabelledBatch:
        rows = torch.as_tensor(indices, dtype=torch.long)
        images, masks = zip(*(self._read(int(row)) for row in rows), strict=True)
        labels = torch.tensor([self.files[int(row)][1] for row in rows])
        pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous().float() / 255
        return LabelledBatch(pixels, labels, torch.from_numpy(np.stack(masks)), rows)

    def name(self, index: int) -> str:
        """The file below the root."""
        return self._below(self.files[index][0])

    def check(self) -> None:
        """Read every photo and mask once; raises InputError, naming the file, at the first flaw.

        A flaw is a photo damaged within, a mask of another size, and a mask that shows no object
        in the part of the photo that is used.
        """
        for index in range(len(self)):
            self._read(index)

    def _digests(self) -> Iterator[str]:
        """Of the files as they are, which is faster than what they show."""
        yield fingerprint.of_values(self.size)
        for (file, label), annotation in zip(self.files, self._annotations, strict=True):
            own = None if annotation is None else annotation_of(file, annotation)
            masks = None if own is None else fingerprint.of_masks(own)
            photo = fingerprint.of_photo(file)
            yield fingerprint.of_values([self._below(file), label, photo, masks])

    def _below(self, file: Path) -> str:
        return file.relative_to(self.root).as_posix()

    def _annotation(self, file: Path) -> Path | None:
        if self._mask_root is None:
            return None
        folder = self._mask_root / file.parent.name
        found = find_annotation(file, folder) if folder.is_dir() else None
        if found is None:
            raise InputError(
                f"{file} has no mask; {folder / (file.stem + '.png')} does not exist, draw one"
            )
        return found

    def _read(self, index: int) -> tuple[NDArray[np.uint8], Mask]:
        """The photo (size, size, 3) and its mask (size, size)."""
        file, annotation = self.files[index][0], self._annotations[index]
        if annotation is None:
            photo, whole = _with_alpha(file)
        else:
            photo = read_image(file)
            whole = _object(annotation, file, photo)
        mask = self._crop.crop_labels(whole)
        if not mask.any():
            what = "shows no object" if not whole.any() else "has its object outside of the crop"
            raise InputError(f"the mask of {file} {what}; correct it or leave the photo out")
        return np.array(self._crop.crop_image(photo)), mask


def _class_folders(root: Path) -> list[Path]:
    if not root.is_dir():
        raise InputError(f"{root} is no folder; give one with a folder of photos for each class")
    folders = [path for path in root.iterdir() if path.is_dir() and path.name[0] != "."]
    if not folders:
        raise InputError(f"{root} holds no folders; put the photos of each class into one")
    return sorted(folders)


def _photos(folder: Path) -> list[Path]:
    files = sorted(
        path
        for path in folder.iterdir()
        if path.name[0] != "." and path.suffix.lower() in IMAGE_SUFFIXES
    )
    if not files:
        raise InputError(f"{folder} holds no images; add some or remove the folder")
    if len(files) < FEWEST:
        raise InputError(f"{folder} holds one image only; a class needs {FEWEST} or more")
    known: dict[str, Path] = {}
    for file in files:
        if known.setdefault(file.stem, file) is not file:
            raise InputError(
                f"{known[file.stem]} and {file.name} would share a mask; give them different names"
            )
    return files


def _verify(file: Path) -> None:
    """Raise InputError where the file's head or check sums are wrong, without decoding it."""
    with open_image(file) as image:
        image.verify()


def _object(annotation: Path, file: Path, photo: Image.Image) -> Mask:
    try:
        labels = read_regions(annotation, size=(photo.height, photo.width), image=file).labels
    except InputError as error:
        raise InputError(f"the mask {annotation} cannot be used: {error}") from error
    return np.asarray((labels != BACKGROUND) & (labels != IGNORED))


def _with_alpha(file: Path) -> tuple[Image.Image, Mask]:
    image = load_image(file)
    if not image.has_transparency_data:
        raise InputError(f"{file} has no alpha channel to show its object; name a folder of masks")
    image = image.convert("RGBA")
    return image.convert("RGB"), np.asarray(image.getchannel("A")) >= _OPAQUE
