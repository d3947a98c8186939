"""Which object each pixel of an image belongs to: masks, label maps and annotation files."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from guidxmage.errors import InputError
from guidxmage.files.names import shown
from guidxmage.inputs.photos import load_image
from guidxmage.inputs.preprocessing import Preprocessing
from guidxmage.objects.annotations import (
    annotation_of,
    coco_masks,
    voc_masks,
)
from guidxmage.objects.raster import Mask, Size
from guidxmage.reports.short_repr import short_repr

BACKGROUND = 0
"""Label of the pixels that belong to no object; they have a row of their own."""
IGNORED = 255
"""Label of the pixels that are left out of every object, as in Pascal VOC."""
UNSEEN = "unseen"
"""Before the name of an object of which the crop and the resizing leave no pixel."""

# As many as 16 bits can tell apart; each gets a name.
_MOST_LABELS = 2**16

Overlap = Literal["refuse", "first", "smallest"]


@dataclass(frozen=True, eq=False)
class LabelMap:
    """A label for each pixel and a name for each label.

    ``labels``: (H, W) of integers ≥ 0; 0 is the background, 255 is ignored. ``names``: by label;
    labels without a name become "object 7", 0 becomes "background". ``seen``: these are the pixels
    that the network sees, after resizing and crop, and not the photo's. Raises InputError.
    """

    labels: npt.NDArray[np.int32]
    names: Mapping[int, str] = field(default_factory=dict)
    seen: bool = field(default=False, repr=False)

    __repr__ = short_repr

    def __post_init__(self) -> None:
        given = np.asarray(self.labels)
        if given.ndim != 2 or given.size == 0 or given.dtype.kind not in "iu":
            raise InputError(
                "a label map holds one integer for each pixel, height×width, but this one has "
                f"shape {given.shape} and type {given.dtype}"
            )
        if given.min() < 0 or given.max() > np.iinfo(np.int32).max:
            raise InputError(
                f"labels are 0 or more, but this map holds {given.min()} to {given.max()}"
            )
        labels = given.astype(np.int32)
        labels.flags.writeable = False
        there = np.unique(labels)
        if len(there) > _MOST_LABELS:
            raise InputError(
                f"this label map holds {len(there)} different labels; give one to each object, "
                f"{_MOST_LABELS} at most"
            )
        found = {label: _default_name(label) for label in there.tolist()}
        # Names of files may hold bytes that are no text, which no table can be written with.
        names = {**found, **{int(label): shown(name) for label, name in self.names.items()}}
        names.pop(IGNORED, None)
        object.__setattr__(self, "labels", labels)
        object.__setattr__(self, "names", dict(sorted(names.items())))

    @classmethod
    def from_masks(
        cls,
        masks: Mapping[str, Any] | Iterable[tuple[str, Any]],
        *,
        overlap: Overlap = "refuse",
        size: Size | None = None,
    ) -> LabelMap:
        """Objects from named masks (H, W), labelled 1, 2, … in order; repeated names get numbers.

        ``overlap``: "refuse" raises InputError when two masks share pixels, "first" gives these to
        the earlier, "smallest" to the smaller mask. ``size`` (height, width) of an image without
        objects. Masks are bool, or integers that are 0 and either 1 or 255.
        """
        if overlap not in ("refuse", "first", "smallest"):
            raise InputError(f"overlap is {overlap!r}; choose 'refuse', 'first' or 'smallest'")
        canvas = None if size is None else _Canvas(size)
        for name, values in masks.items() if isinstance(masks, Mapping) else masks:
            mask = _as_mask(values, f"the mask {name}")
            canvas = canvas or _Canvas(mask.shape)
            canvas.paint(str(name), mask, overlap)
        if canvas is None:
            raise InputError("there are no masks; give at least one")
        names = {BACKGROUND: _default_name(BACKGROUND), **_numbered(canvas.names)}
        return cls(canvas.labels, names)

    @property
    def size(self) -> Size:
        """(Height, width)."""
        height, width = self.labels.shape
        return height, width

    def check_size(self, size: Size, what: str) -> None:
        """Raise InputError unless the regions are of ``size`` (height, width); ``what`` has it."""
        _check_size(self.size, size, "the regions", what)

    def cropped(self, preprocessing: Preprocessing) -> LabelMap:
        """A label map of the original photo → of the part that the network sees, at its size.

        The name of an object that has no pixel there says so.
        """
        cropped = preprocessing.crop_labels(self.labels)
        lost = set(np.unique(self.labels).tolist()) - set(np.unique(cropped).tolist())
        names = {
            label: f"{UNSEEN} {name}" if label in lost - {BACKGROUND} else name
            for label, name in self.names.items()
        }
        return LabelMap(cropped, names, seen=True)

    def as_seen(self, photo: Size, network: Size, preprocessing: Preprocessing | None) -> LabelMap:
        """As the network sees it, at its size (height, width), or InputError.

        A map of the photo's size lies on the photo and is cropped like it, also where the network's
        images have that very size; any other one is of the network's size. preprocessing: None
        where the photo is seen as it is, or nobody knows how.
        """
        if self.seen or preprocessing is None:
            self.check_size(network, "what the network sees")
        elif self.size == photo:
            return self.cropped(preprocessing)
        elif self.size != network:
            self.check_size(photo, "the photo")
        return replace(self, seen=True)


class _Canvas:
    """A label map on which masks are painted one after the other."""

    def __init__(self, size: tuple[int, ...]) -> None:
        self.labels = np.zeros(size, dtype=np.int32)
        self.names: dict[int, str] = {}
        # How many pixels the mask has that owns a pixel; a smaller one may take it.
        self._owner_pixels = np.full(size, np.iinfo(np.int32).max, dtype=np.int32)

    def paint(self, name: str, mask: Mask, overlap: Overlap) -> None:
        _check_size(mask.shape, self.labels.shape, f"the mask {name}")
        pixels = np.count_nonzero(mask)
        if overlap == "smallest":
            free = mask & (self._owner_pixels > pixels)
        else:
            free = mask & (self.labels == BACKGROUND)
        if overlap == "refuse" and (shared := pixels - np.count_nonzero(free)):
            other = self.names[int(self.labels[mask & ~free][0])]
            raise InputError(
                f"the masks {other} and {name} overlap in {shared} pixels; "
                "with overlap='first' the earlier one wins"
            )
        # 255 is no object's label.
        label = len(self.names) + 1 + (len(self.names) + 1 >= IGNORED)
        self.labels[free] = label
        self._owner_pixels[free] = pixels
        self.names[label] = name


def read_regions(
    source: Any,
    *,
    size: Size | None = None,
    image: Path | str | None = None,
    overlap: Overlap = "refuse",
    photo: Size | None = None,
) -> LabelMap:
    """A label map from what people keep masks in.

    ``source``: a label image (palette or grey; one that holds only 0 and 1, or only 0 and 255, is
    the mask of a single object, called after the file unless that is called after the photo), a
    folder of mask images named after their objects, a folder of annotations named after their
    photos, a COCO instances JSON, a Pascal VOC XML (boxes), an array or tensor (H, W) or (H, W, 1)
    of labels or (K, H, W) of masks, or a dict of masks by name. ``size``: (height, width) that the
    regions must have. ``image``: the photo that they are wanted for; ``photo``: its (height,
    width), where a file does not say it; by default ``image`` is asked. ``overlap``: see
    ``LabelMap.from_masks``; in COCO and VOC files the smaller object always lies on top. Raises
    InputError.
    """
    if isinstance(source, LabelMap):
        regions = source
    elif isinstance(source, (str, os.PathLike)):
        regions = _from_path(Path(source), (size, photo), image, overlap)
    elif isinstance(source, Mapping):
        regions = LabelMap.from_masks(
            {str(name): _pixels_of(mask) for name, mask in source.items()},
            overlap=overlap,
            size=size,
        )
    else:
        regions = _from_array(_pixels_of(source), overlap)
    if size is not None:
        regions.check_size(size, "the image")
    return regions


def _from_path(
    path: Path,
    sizes: tuple[Size | None, Size | None],
    image: Path | str | None,
    overlap: Overlap,
) -> LabelMap:
    size, photo = sizes[0], sizes[0] or sizes[1]
    if path.is_dir() and image is not None:
        path = annotation_of(Path(image), path)
    if path.is_dir():
        return _from_folder(path, overlap)
    if path.suffix.lower() in (".json", ".xml") and not path.is_file():
        raise InputError(f"{path} does not exist or is not a file")
    if path.suffix.lower() == ".json":
        return _painted(*coco_masks(path, image, photo), size)
    if path.suffix.lower() == ".xml":
        return _painted(*voc_masks(path, photo, image), size)
    return _from_label_map(_label_image(path), _object_name(path, image))


def _object_name(path: Path, image: Path | str | None) -> str:
    """What the only object of a mask file is called: cat_mask.png has a cat."""
    name = re.sub(r"^masks?[_. -]+|(^|[_. -]+)masks?$", "", path.stem, flags=re.IGNORECASE)
    photo = "" if image is None else Path(image).stem
    return name if name not in ("", photo) else "object"


def _painted(stated: Size, masks: Iterable[tuple[str, Mask]], wanted: Size | None) -> LabelMap:
    if wanted is not None:  # before memory is taken for a size that is only stated
        _check_size(stated, wanted, "the regions", "the image")
    return LabelMap.from_masks(masks, overlap="smallest", size=stated)


def _from_folder(folder: Path, overlap: Overlap) -> LabelMap:
    files = sorted(p for p in folder.glob("*.png") if not p.name.startswith("."))
    if not files:
        raise InputError(f"{folder} holds no mask images; each object is a PNG named after it")
    masks: list[tuple[str, Mask]] = []
    for file in files:
        mask = _as_mask(_label_image(file), str(file))
        if masks:
            _check_size(mask.shape, masks[0][1].shape, str(file), str(files[0]))
        masks.append((file.stem, mask))
    return LabelMap.from_masks(masks, overlap=overlap)


def _from_array(array: npt.NDArray[Any], overlap: Overlap) -> LabelMap:
    array = _without_channel(array)
    if array.ndim == 3:
        many = len(array) > 1
        masks = ((f"object {k}" if many else "object", mask) for k, mask in enumerate(array, 1))
        return LabelMap.from_masks(masks, overlap=overlap)
    if array.dtype == np.bool_:
        return LabelMap.from_masks({"object": array})
    return _from_label_map(array)


def _from_label_map(labels: npt.NDArray[Any], name: str = "object") -> LabelMap:
    if labels.dtype == np.bool_ or _is_binary(labels):
        return LabelMap.from_masks({name: labels})
    return LabelMap(labels)


def _is_binary(values: npt.NDArray[Any]) -> bool:
    """Whether an integer map can only be the mask of one object: 0 and 1, or 0 and 255."""
    return bool(values.any()) and any(np.isin(values, (0, top)).all() for top in (1, 255))


def _pixels_of(source: Any) -> npt.NDArray[Any]:
    """The array in an array, tensor, Pillow image or mask file."""
    if isinstance(source, torch.Tensor):
        array: npt.NDArray[Any] = source.detach().cpu().numpy()
        return array
    if isinstance(source, np.ndarray):
        return source
    if isinstance(source, Image.Image):
        return _label_values(source, "the mask")
    if isinstance(source, (str, os.PathLike)):
        return _label_image(Path(source))
    raise InputError(
        f"cannot read regions from {type(source).__name__}; give a label map, masks by name, "
        "or the path of a mask or annotation file"
    )


def _label_image(path: Path) -> npt.NDArray[Any]:
    if path.suffix.lower() in (".jpg", ".jpeg"):
        raise InputError(f"{path} is a JPEG, which does not keep labels exact; save masks as PNG")
    return _label_values(load_image(path), str(path))


def _label_values(image: Image.Image, name: str) -> npt.NDArray[Any]:
    """Palette indices or grey values (H, W); colours are no labels."""
    values = np.array(image)
    if values.ndim == 2 and values.dtype.kind in "iub":
        return values
    grey: npt.NDArray[Any] = values[..., 0] if values.ndim == 3 else values
    if image.mode != "RGB" or (values != grey[..., None]).any():
        raise InputError(
            f"{name} is a picture of mode {image.mode}, not a label image; "
            "save labels as palette or grey PNG, without transparency"
        )
    return grey


def _without_channel(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """(H, W, 1), as many libraries have masks and labels, as (H, W)."""
    return array[..., 0] if array.ndim == 3 and array.shape[-1] == 1 else array


def _as_mask(values: Any, what: str) -> Mask:
    array = _without_channel(np.asarray(values))
    if array.ndim != 2 or array.size == 0:
        raise InputError(f"{what} is not height×width: its shape is {array.shape}")
    if array.dtype != np.bool_ and not (
        array.dtype.kind in "iu" and (_is_binary(array) or not array.any())
    ):
        raise InputError(
            f"{what} is not binary; give booleans or integers that are 0 and 1, or 0 "
            "and 255 (label maps are integers of shape height×width)"
        )
    return array.astype(np.bool_)


def _numbered(names: Mapping[int, str]) -> dict[int, str]:
    """Two objects called "person" become "person 1" and "person 2"."""
    total = Counter(names.values())
    seen: Counter[str] = Counter()
    numbered = {}
    for label, name in names.items():
        seen[name] += 1
        numbered[label] = f"{name} {seen[name]}" if total[name] > 1 else name
    return numbered


def _default_name(label: int) -> str:
    return "background" if label == BACKGROUND else f"object {label}"


def _check_size(
    size: tuple[int, ...], wanted: tuple[int, ...], what: str, whose: str = "the others"
) -> None:
    if tuple(size) != tuple(wanted):
        raise InputError(
            f"{what} and {whose} differ in size: {size[1]}×{size[0]} against "
            f"{wanted[1]}×{wanted[0]} pixels (width×height)"
        )
