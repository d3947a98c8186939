"""The masks of one photo among those of many: beside it, in a mirror folder, in one big file."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from guidxmage.dataset.items import InFile, InMemory, InParquet, Item
from guidxmage.errors import InputError
from guidxmage.files.names import brief, shown
from guidxmage.inputs.photos import load_image_bytes
from guidxmage.objects.annotations import CocoFile, find_annotation
from guidxmage.objects.label_map import LabelMap, read_regions

Size = tuple[int, int]
_ENDINGS = (".png", ".bmp", ".gif", ".tif", ".tiff", ".xml", ".json")
_JPEG = b"\xff\xd8\xff"


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
            return read_regions(given, photo=size)
        if isinstance(item.mask, InFile):
            return read_regions(item.mask.path, image=item.path, photo=size)
        content = own_mask(item)
        if content is not None:
            return _drawn(content, f"the mask of {item.name}")
        if self._coco is not None:
            if item.sought not in self._coco:
                return None
            stated, masks = self._coco.masks(item.sought, size, anywhere=False)
            return LabelMap.from_masks(masks, overlap="smallest", size=stated)
        if self.objects is None:
            return None
        found = masks_of(self.objects, item.sought, item.path)
        return None if found is None else read_regions(found, image=Path(item.sought), photo=size)

    def unmatched(self, items: Iterable[Item]) -> tuple[str, ...]:
        """A sentence where no photo has masks in `objects`; looks no further than the first.

        Photos that bring their own masks count as having none there.
        """
        if self.objects is None or any(map(self._has, items)):
            return ()
        how = (
            "it names none of them as the source does"
            if self._coco is not None
            else f"masks have the photos' names but for the ending ({', '.join(_ENDINGS)}), in the "
            "same folders or in none"
        )
        return (f"no photo has a mask in {shown(self.objects)}: {how}",)

    def _has(self, item: Item) -> bool:
        if item.mask is not None and not isinstance(item.mask, InParquet):
            return False
        if self._coco is not None:
            return item.sought in self._coco
        assert self.objects is not None
        return masks_of(self.objects, item.sought, item.path) is not None


def own_mask(item: Item) -> bytes | None:
    """The mask that a tar or Parquet file has in itself; None also where a row has none.

    Raises InputError where it cannot be read.
    """
    mask = item.mask
    if mask is None or isinstance(mask, InMemory | InFile):
        return None
    return mask.found() if isinstance(mask, InParquet) else mask.read()


def _drawn(content: bytes, name: str) -> LabelMap:
    """A label image as bytes, read as one in a file is."""
    if content.startswith(_JPEG):
        raise InputError(
            f"{brief(name)} is a JPEG, which does not keep labels exact; save masks as PNG"
        )
    return read_regions(load_image_bytes(content, name))


def masks_of(objects: Path, name: str, photo: Path | None) -> Path | None:
    """The masks of a photo, in a mirror of the photos' folders, else by the photo's stem.

    name: of the photo in its source; photo: its file, which is no mask of its own.
    """
    inside = PurePosixPath(name)
    if inside.name and objects.is_dir() and not inside.is_absolute() and ".." not in inside.parts:
        for ending in _ENDINGS:
            mirrored = objects / inside.with_suffix(ending)
            # Of a name that no file can have, pathlib's own test raises.
            if os.path.isfile(mirrored) and not (photo and _is_same(mirrored, photo)):
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
    # A row of a Parquet file may have no mask of its own, which is not known before it is read.
    elsewhere = item.mask is None or isinstance(item.mask, InParquet)
    if isinstance(item.mask, InFile):
        found = Path(item.mask.path)
    elif elsewhere and objects is not None and objects.is_dir():
        found = masks_of(objects, item.sought, item.path)
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
