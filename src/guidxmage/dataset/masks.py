"""The masks of one photo among those of many: beside it, in a mirror folder, in one big file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from guidxmage.dataset.items import InFile, InMemory, Item
from guidxmage.errors import InputError
from guidxmage.inputs.photos import open_image_bytes
from guidxmage.objects.annotations import CocoFile, find_annotation
from guidxmage.objects.label_map import LabelMap, read_regions

Size = tuple[int, int]
_ENDINGS = (".png", ".bmp", ".gif", ".tif", ".tiff", ".xml", ".json")


@dataclass
class Masks:
    """Finds and reads the masks of photos. objects: as `DatasetOptions` has it."""

    objects: Path | None = None
    _coco: CocoFile | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.objects is not None and not self.objects.exists():
            raise InputError(f"{self.objects} does not exist; give masks or a folder of them")
        if self.objects is not None and self.objects.suffix.lower() == ".json":
            self._coco = CocoFile.read(self.objects)

    def of(self, item: Item, given: Any, size: Size) -> LabelMap | None:
        """The label map of a photo of this size (height, width); None where it has no masks.

        given: the mask that a data set in Python gave with it. Raises InputError for a damaged one.
        """
        if given is not None:
            return read_regions(given)
        if isinstance(item.mask, InFile):
            return read_regions(item.mask.path, image=item.path)
        if item.mask is not None and not isinstance(item.mask, InMemory):
            name = f"the mask of {item.name}"
            with open_image_bytes(item.mask.read(), name) as opened:
                opened.load()
                return read_regions(np.asarray(opened))
        if self._coco is not None:
            name = PurePosixPath(item.name).name
            if name not in self._coco:
                return None
            stated, masks = self._coco.masks(item.path or name, size)
            return LabelMap.from_masks(masks, overlap="smallest", size=stated)
        if self.objects is None:
            return None
        found = masks_of(self.objects, item.name, item.path)
        return None if found is None else read_regions(found, image=Path(item.name))


def masks_of(objects: Path, name: str, photo: Path | None) -> Path | None:
    """The masks of a photo, in a mirror of the photos' folders, else by the photo's stem.

    name: of the photo in its source; photo: its file, which is no mask of its own.
    """
    inside = PurePosixPath(name)
    if objects.is_dir() and not inside.is_absolute() and ".." not in inside.parts:
        for ending in _ENDINGS:
            mirrored = objects / inside.with_suffix(ending)
            if mirrored.is_file() and not (photo and _is_same(mirrored, photo)):
                return mirrored
    return find_annotation(photo or Path(name), objects)


def stamps_of(items: Sequence[Item], objects: Path | None) -> list[str]:
    """Of each photo's mask file its name, size and time of change; empty where it has none.

    So a mask that was changed, added or taken away is noticed without reading any. objects: as
    `DatasetOptions` has it; one file with the masks of many photos is told by its own hash.
    """
    return [_stamp(item, objects) for item in items]


def _stamp(item: Item, objects: Path | None) -> str:
    found: Path | None = None
    if isinstance(item.mask, InFile):
        found = Path(item.mask.path)
    elif item.mask is None and objects is not None and objects.is_dir():
        found = masks_of(objects, item.name, item.path)
    if found is None:
        return ""
    files = sorted(found.iterdir()) if found.is_dir() else [found]
    try:
        known = [(file.name, file.stat()) for file in files]
    except OSError:  # it is told, with the photo, when it is read
        return "missing"
    return repr([(name, of.st_size, of.st_mtime_ns) for name, of in known])


def _is_same(one: Path, other: Path) -> bool:
    return other.exists() and one.samefile(other)


def seen(regions: LabelMap, size: Size, network: Size, explainer: Any) -> LabelMap:
    """The label map as the network sees it. size: of the photo; network: (H, W). InputError."""
    if regions.size == network:
        return regions
    known = explainer.preprocessing
    if known is not None:
        regions.check_size(size, "the photo")
        regions = regions.cropped(known)
    regions.check_size(network, "what the network sees")
    return regions
