"""Object annotations of photos: COCO instances and Pascal VOC boxes, as named masks."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt

from guidxmage.errors import InputError

Mask = npt.NDArray[np.bool_]
Size = tuple[int, int]

# Label images first: where a photo has several annotations, pixels say more than boxes.
_ANNOTATION_SUFFIXES = (".png", ".bmp", ".gif", ".tif", ".tiff", ".xml", ".json")


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
        if candidate.is_file() and not _same_file(candidate, photo):
            return candidate
    folder = source / photo.stem
    return folder if folder.is_dir() else None


def coco_masks(path: Path, image: Path | str | None) -> tuple[Size, Iterator[tuple[str, Mask]]]:
    """Size (height, width) and the named masks (H, W) of one image of a COCO instances file.

    ``image``: the photo, found by its file name; may be None if the file describes one image.
    Polygons and run lengths, plain or compressed, are understood. Raises InputError.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        entry = _coco_image(content["images"], image, path)
        size = int(entry["height"]), int(entry["width"])
        categories = {c["id"]: str(c["name"]) for c in content.get("categories", ())}
        chosen = [a for a in content["annotations"] if a["image_id"] == entry["id"]]
        segments = [
            (categories.get(a["category_id"], f"category {a['category_id']}"), a["segmentation"])
            for a in chosen
        ]
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is not a COCO instances file ({error!r})") from error
    return size, ((name, _coco_mask(segment, size, path)) for name, segment in segments)


def voc_masks(path: Path, size: Size | None) -> tuple[Size, Iterator[tuple[str, Mask]]]:
    """Size (height, width) and the named boxes, filled, of a Pascal VOC annotation file.

    VOC counts pixels from 1 and includes both ends; boxes are cut at the photo's border.
    ``size`` is used where the file does not say the photo's. Raises InputError.
    """
    try:
        root = ElementTree.fromstring(path.read_bytes())
        size = _voc_size(root) or size
        boxes = [_voc_box(element) for element in root.iter("object")]
    except (OSError, ElementTree.ParseError, ValueError) as error:
        raise InputError(f"{path} is not a Pascal VOC annotation ({error})") from error
    if size is None:
        raise InputError(f"{path} does not state the size of its photo; give size=(height, width)")
    return size, ((name, _filled(box, size, path)) for name, box in boxes)


def _same_file(a: Path, b: Path) -> bool:
    return b.exists() and a.samefile(b)


# --- COCO --------------------------------------------------------------------------------------


def _coco_image(
    images: Sequence[Mapping[str, Any]], image: Path | str | None, path: Path
) -> Mapping[str, Any]:
    if image is None:
        if len(images) != 1:
            raise InputError(f"{path} describes {len(images)} images; say which one with image=")
        return images[0]
    name = Path(image).name
    matches = [entry for entry in images if Path(entry["file_name"]).name == name]
    if len(matches) != 1:
        many = "no image" if not matches else f"{len(matches)} images"
        raise InputError(f"{path} describes {many} with the file name {name}")
    return matches[0]


def _coco_mask(segment: Any, size: Size, path: Path) -> Mask:
    try:
        if isinstance(segment, Mapping):
            if tuple(segment["size"]) != size:
                raise ValueError(f"run lengths for {segment['size']} in an image of {list(size)}")
            counts = segment["counts"]
            return decode_runs(_decompress(counts) if isinstance(counts, str) else counts, size)
        mask = np.zeros(size, dtype=np.bool_)
        for polygon in segment:
            mask |= fill_polygon(np.asarray(polygon, dtype=np.float64).reshape(-1, 2), size)
        return mask
    except (ValueError, LookupError, TypeError) as error:
        raise InputError(f"{path} holds a segmentation that cannot be drawn ({error})") from error


def fill_polygon(corners: npt.NDArray[np.float64], size: Size) -> Mask:
    """Pixels (H, W) whose centre lies inside the polygon with corners (N, 2) in x, y.

    Even-odd rule, as in COCO; pixel (row, column) covers the unit square with its upper left
    corner at x = column, y = row. Polygons that share an edge neither overlap nor leave a gap.
    """
    if not np.isfinite(corners).all():
        raise ValueError("a corner is not a finite number")
    mask = np.zeros(size, dtype=np.bool_)
    centres_x = np.arange(size[1]) + 0.5
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        # Rows whose centre the edge crosses: to the right of the crossing, inside ⇄ outside.
        top, bottom = np.clip(np.ceil(np.array(sorted((y0, y1))) - 0.5), 0, size[0]).astype(int)
        centres_y = np.arange(top, bottom)[:, None] + 0.5
        if top < bottom:
            crossing = x0 + (centres_y - y0) * ((x1 - x0) / (y1 - y0))
            mask[top:bottom] ^= centres_x >= crossing
    return mask


def decode_runs(counts: Sequence[int], size: Size) -> Mask:
    """COCO's run lengths, of 0s first, down the columns → mask (H, W)."""
    runs = np.asarray(counts, dtype=np.int64)
    if (runs < 0).any() or runs.sum() != size[0] * size[1]:
        raise ValueError(f"run lengths add up to {runs.sum()}, not {size[0]}·{size[1]}")
    mask: Mask = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(size[::-1]).T
    return mask


def _decompress(text: str) -> list[int]:
    """COCO's compressed run lengths: base 32 digits, lowest first, from the character '0' on.

    The bit 32 says that more digits follow, the bit 16 of the last digit is the sign; from the
    fourth number on the difference to the number two before is stored.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        digit = ord(character) - ord("0")
        value |= (digit & 31) << shift
        shift += 5
        if digit & 32:
            continue
        if digit & 16:
            value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
        value = shift = 0
    if shift:
        raise ValueError("compressed run lengths end in the middle of a number")
    return counts


# --- Pascal VOC --------------------------------------------------------------------------------


def _voc_size(root: ElementTree.Element) -> Size | None:
    stated = root.find("size")
    if stated is None:
        return None
    size = _number(stated, "height"), _number(stated, "width")
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
    return round(float(text))


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
