"""Object annotations of photos: COCO instances and Pascal VOC boxes, as named masks.

These files are read as data of others: sizes are compared before masks are made, and whatever is
malformed is an InputError of one sentence.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any
from xml.etree import ElementTree
from xml.parsers import expat

import numpy as np

from guidxmage.errors import InputError
from guidxmage.files.names import brief
from guidxmage.files.untrusted import read_text
from guidxmage.inputs.photos import check_pixels, upright_size
from guidxmage.objects.raster import (
    Mask,
    Size,
    box_corners,
    decode_runs,
    fill_polygon,
    polygon_corners,
)

# Label images first: where a photo has several annotations, pixels say more than boxes.
_ANNOTATION_SUFFIXES = (".png", ".bmp", ".gif", ".tif", ".tiff", ".xml", ".json")
# COCO's own instances of 118 000 photos are in a file of 449 MB.
_LARGEST_JSON, _LARGEST_XML = 2**29, 2**24
_MOST_OBJECTS = 10_000
_DEEPEST = 64
# What stands in the place of a segmentation where there is none.
_EMPTY: tuple[Any, ...] = (None, [], [[]], {})
# In either direction; the photo's own size is smaller, and boxes are cut at it.
_FARTHEST = 2**31


def annotation_of(photo: Path, source: Path) -> Path:
    """The annotation of ``photo`` in the folder ``source``; where it has none, the folder."""
    return find_annotation(photo, source) or source


def find_annotation(photo: Path, source: Path) -> Path | None:
    """The annotation of ``photo`` in the folder ``source``, or None.

    It has the photo's stem and is a label image, a VOC XML, a COCO JSON, or a folder of masks.
    A ``source`` that is a file (a COCO JSON for many photos) is returned as it is.
    """
    if not source.exists():
        raise InputError(f"{source} does not exist; give an annotation file or a folder of them")
    if not source.is_dir():
        return source
    for suffix in _ANNOTATION_SUFFIXES:
        candidate = source / f"{photo.stem}{suffix}"
        # Of a name that no file can have, pathlib's own tests raise.
        if os.path.isfile(candidate) and not _same_file(candidate, photo):
            return candidate
    folder = source / photo.stem
    return folder if os.path.isdir(folder) else None


def coco_masks(
    path: Path, image: Path | str | None, size: Size | None = None
) -> tuple[Size, Iterator[tuple[str, Mask]]]:
    """Size (height, width) and the named masks (H, W) of one image of a COCO instances file.

    ``image``: the photo, found by its file name; may be None if the file describes one image.
    ``size`` (height, width) is used where the file does not say the photo's, else the photo's own
    is. Numbers and texts of digits are the same as ids. Polygons and run lengths, plain or
    compressed, are understood; of an object that has neither the box is the mask. Raises
    InputError.
    """
    return CocoFile.read(path).masks(image, size)


@dataclass(frozen=True, eq=False, repr=False)
class CocoFile:
    """A COCO instances file that was read: its images, what is drawn in them, and the names.

    All of it is as the file has it, and is looked at only for the image that is asked for.
    """

    path: Path
    images: Any
    of_image: Mapping[str, list[Any]]
    categories: Mapping[str, str]

    @classmethod
    def read(cls, path: Path) -> CocoFile:
        """Read the file, once for all of its images. Raises InputError."""
        with _coco_told(path):
            content = json.loads(read_text(path, _LARGEST_JSON))
            categories = {_id(c["id"]): _text(c["name"]) for c in content.get("categories", ())}
            of_image: dict[str, list[Any]] = {}
            for one in content["annotations"]:
                of_image.setdefault(_id(one["image_id"]), []).append(one)
            return cls(path, content["images"], of_image, categories)

    @cached_property
    def _by_name(self) -> dict[str, list[Any]]:
        found: dict[str, list[Any]] = {}
        for entry in self.images:
            found.setdefault(PurePosixPath(entry["file_name"]).name, []).append(entry)
        return found

    def _named(self, image: Path | str, *, anywhere: bool) -> list[Any]:
        """The entries of a photo: those that share most folders with its path.

        A path that only begins later than the other is the same photo's; one in another folder is
        not, unless photos may lie anywhere and the name is the only one of its kind.
        """
        name = PurePosixPath(image)
        named = self._by_name.get(name.name, [])
        shared = [_shared(name, PurePosixPath(entry["file_name"])) for entry in named]
        most = max(shared, default=0)
        if not most:
            return named if anywhere else []
        return [entry for entry, parts in zip(named, shared, strict=True) if parts == most]

    def __contains__(self, name: str) -> bool:
        """Whether a photo of that path, as seen from its source, is described."""
        with _coco_told(self.path):
            return bool(self._named(name, anywhere=False))

    def masks(
        self, image: Path | str | None, size: Size | None = None, *, anywhere: bool = True
    ) -> tuple[Size, Iterator[tuple[str, Mask]]]:
        """Size and named masks of one image, as `coco_masks` has them.

        anywhere: the image's folder says nothing, as that of a photo that was given by itself.
        """
        path = self.path
        with _coco_told(path):
            found = None if image is None else self._named(image, anywhere=anywhere)
            entry = _coco_image(self.images if found is None else found, image, path)
            shapes = [
                (_category(self.categories, a["category_id"]), a.get("segmentation"), a.get("bbox"))
                for a in self.of_image.get(_id(entry["id"]), ())
            ]
        sides = _coco_size(entry, image, size, path)
        check_pixels(sides, f"{path} states a photo that")
        _check_number(shapes, path)
        return sides, ((n, _coco_mask(segment, box, sides, path)) for n, segment, box in shapes)


@contextmanager
def _coco_told(path: Path) -> Iterator[None]:
    """Whatever a malformed file makes us stumble over, as an InputError."""
    try:
        yield
    except InputError:
        raise
    except RecursionError:
        raise InputError(f"{path} is not a COCO instances file (nested too deeply)") from None
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is not a COCO instances file ({brief(repr(error))})") from error


def voc_masks(
    path: Path, size: Size | None, image: Path | str | None = None
) -> tuple[Size, Iterator[tuple[str, Mask]]]:
    """Size (height, width) and the named boxes, filled, of a Pascal VOC annotation file.

    VOC counts pixels from 1 and includes both ends; boxes are cut at the photo's border.
    ``size`` is used where the file does not say the photo's, else what ``image``, the photo, has.
    Raises InputError.
    """
    try:
        if path.stat().st_size > _LARGEST_XML:
            raise ValueError(f"it has more than {_LARGEST_XML // 2**20} MiB")
        root = _xml(path.read_bytes())
        size = _voc_size(root) or size
        boxes = [_voc_box(element) for element in root.iter("object")]
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    # An unknown encoding is answered with whatever Python's codecs raise.
    except Exception as error:
        reason = brief(str(error))
        raise InputError(f"{path} is not a Pascal VOC annotation ({reason})") from error
    if size is None and image is not None and Path(image).is_file():
        size = upright_size(Path(image))
    if size is None:
        raise InputError(f"{path} does not state the size of its photo; give size=(height, width)")
    check_pixels(size, f"{path} states a photo that")
    _check_number(boxes, path)
    found = size
    return found, ((name, _filled(box, found, path)) for name, box in boxes)


def _same_file(a: Path, b: Path) -> bool:
    return b.exists() and a.samefile(b)


def _check_number(objects: Sequence[Any], path: Path) -> None:
    if len(objects) > _MOST_OBJECTS:
        raise InputError(
            f"{path} has {len(objects)} objects for one photo; leave {_MOST_OBJECTS} at most"
        )


# --- COCO --------------------------------------------------------------------------------------


def _coco_image(
    images: Sequence[Mapping[str, Any]], image: Path | str | None, path: Path
) -> Mapping[str, Any]:
    if image is None:
        if len(images) != 1:
            raise InputError(f"{path} describes {len(images)} images; say which one with image=")
        return images[0]
    if len(images) != 1:
        many = "no image" if not images else f"{len(images)} images"
        raise InputError(f"{path} describes {many} with the file name {Path(image).name}")
    return images[0]


def _shared(one: PurePosixPath, other: PurePosixPath) -> int:
    """How many last parts two paths share, where one is the whole end of the other; else 0."""
    pairs = zip(reversed(one.parts), reversed(other.parts), strict=False)
    return 0 if any(a != b for a, b in pairs) else min(len(one.parts), len(other.parts))


def _id(given: Any) -> str:
    """An id as text: one part of a file may have 7 where another has "7"."""
    if isinstance(given, bool) or not isinstance(given, str | int):
        raise TypeError("an id is neither a number nor a text")
    return str(given)


def _category(names: Mapping[str, str], number: Any) -> str:
    """The name of a category; one that the file does not name is called by its number."""
    return names.get(_id(number)) or _text(f"category {number}")


def _text(name: Any) -> str:
    """The name of a category; a number is one, a list is not."""
    if isinstance(name, bool) or not isinstance(name, str | int | float):
        raise TypeError("a category's name is no text")
    str(name).encode()  # half a character has no bytes, and stands in no file
    return str(name)


def _coco_size(
    entry: Mapping[str, Any], image: Path | str | None, size: Size | None, path: Path
) -> Size:
    """(Height, width) of the photo: what is stated, else `size`, else what its file has."""
    sides = [entry.get(key) for key in ("height", "width")]
    if None in sides and size is None and image is not None and Path(image).is_file():
        size = upright_size(Path(image))
    if size is not None:
        sides = [known if side is None else side for side, known in zip(sides, size, strict=True)]
    height, width = sides
    return _coco_side(height, "height", path), _coco_side(width, "width", path)


def _coco_side(value: Any, key: str, path: Path) -> int:
    """The height or width of the photo, as the file states it."""
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    if not plain or not 1 <= value < _FARTHEST or value != math.floor(value):
        said = "no" if value is None else f"{_said(value)} as the"
        way = ", or image= with the photo's file" if value is None else ""
        raise InputError(
            f"{path} states {said} {key} of the photo; give whole pixels from 1 on{way}"
        )
    return int(value)


def _said(value: Any) -> str:
    """A plain value as JSON has it; of others, which may be nested deeply, only what they are."""
    plain = value is None or isinstance(value, str | int | float)
    return brief(json.dumps(value)) if plain else f"a {type(value).__name__}"


def _coco_mask(segment: Any, box: Any, size: Size, path: Path) -> Mask:
    try:
        if isinstance(segment, Mapping) and segment:
            if tuple(segment["size"]) != size:
                stated = ", ".join(map(_said, segment["size"][:3]))
                raise ValueError(f"run lengths for [{stated}] in an image of {list(size)}")
            return decode_runs(segment["counts"], size)
        if segment in _EMPTY:
            if box is None:
                raise ValueError("it has neither polygons nor run lengths, nor is there a box")
            return fill_polygon(box_corners(box), size)
        if len(segment) > _MOST_OBJECTS and isinstance(segment[0], Sequence):
            raise ValueError(f"it has {len(segment)} polygons")
        # A single polygon is often written without the list around it.
        single = isinstance(segment[0], int | float)
        mask = np.zeros(size, dtype=np.bool_)
        for polygon in [segment] if single else segment:
            mask |= fill_polygon(polygon_corners(polygon), size)
        return mask
    except (ValueError, LookupError, TypeError) as error:
        reason = brief(str(error))
        raise InputError(f"{path} holds a segmentation that cannot be drawn ({reason})") from error


# --- Pascal VOC --------------------------------------------------------------------------------


def _xml(content: bytes) -> ElementTree.Element:
    """The root of a document. Raises for entities, which may stand for gigabytes or other files."""
    builder, parser = ElementTree.TreeBuilder(), expat.ParserCreate()
    depth = 0

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > _DEEPEST:
            raise ValueError("its elements are nested too deeply")
        builder.start(tag, attributes)

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(tag)

    def refuse(*_: object) -> None:
        raise ValueError("it defines entities, which no annotation needs")

    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = builder.data
    parser.EntityDeclHandler = refuse
    parser.Parse(content, True)
    return builder.close()


def _voc_size(root: ElementTree.Element) -> Size | None:
    stated = root.find("size")
    if stated is None:
        return None
    size = _number(stated, "height"), _number(stated, "width")
    if min(size) < 0:
        raise ValueError(f"the photo cannot have {size[1]}×{size[0]} pixels")
    # Some drawing programs write 0×0 where they did not look.
    return size if min(size) > 0 else None


def _voc_box(element: ElementTree.Element) -> tuple[str, tuple[int, int, int, int]]:
    """Name and (top, left, bottom, right), the ends excluded, counted from 0."""
    name = (element.findtext("name") or "").strip() or "object"
    box = element.find("bndbox")
    if box is None:
        raise ValueError(f"the object {name} has no bndbox")
    left, top, right, bottom = (_number(box, key) for key in ("xmin", "ymin", "xmax", "ymax"))
    return name, (top - 1, left - 1, bottom, right)


def _number(parent: ElementTree.Element, key: str) -> int:
    text = parent.findtext(key)
    if text is None:
        raise ValueError(f"{parent.tag} has no {key}")
    value = float(text)
    # Written so that NaN fails too.
    if not abs(value) < _FARTHEST:
        raise ValueError(f"{key} is {brief(text)}, which is no number of pixels")
    return round(value)


def _filled(box: tuple[int, int, int, int], size: Size, path: Path) -> Mask:
    top, left, bottom, right = box
    mask = np.zeros(size, dtype=np.bool_)
    mask[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)] = True
    if not mask.any():
        raise InputError(
            f"{path} holds a box without pixels in its photo: columns {left + 1} to {right}, "
            f"rows {top + 1} to {bottom}"
        )
    return mask
