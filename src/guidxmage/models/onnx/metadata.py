"""What an ONNX file says beside its graph: the form of its images, class names, normalisation."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from onnx import ModelProto, TensorProto, ValueInfoProto

from guidxmage.errors import InputError
from guidxmage.files.untrusted import parsed_json
from guidxmage.models.onnx.file import OnnxFile

_LABELS = ("names", "labels", "classes", "class_names", "id2label")
_MEANS = ("mean", "image_mean", "input_mean", "norm_mean")
_LONGEST_TEXT, _MOST_LABELS = 2**22, 2**17
LAYOUTS = ("nchw", "nhwc")


@dataclass(frozen=True)
class ImageForm:
    """The images that a network takes.

    size: (height, width), None where it takes any. channels: None where that is not said. scale:
    what white is, 255 for those that take bytes.
    """

    channels_last: bool
    channels: int | None
    size: tuple[int, int] | None
    scale: float


def metadata_of(model: ModelProto) -> dict[str, str]:
    """The file's own notes, by their keys in lower case."""
    return {one.key.lower(): one.value for one in model.metadata_props}


def image_form(
    image: ValueInfoProto, notes: Mapping[str, str], layout: str | None, file: OnnxFile
) -> ImageForm:
    """The form of a file's input; layout: "nchw" or "nhwc" where it is told.

    Raises InputError for inputs that are no images of numbers, or come in batches of a fixed size.
    """
    if layout is not None and layout not in LAYOUTS:
        raise InputError(f"layout is {layout!r}; choose 'nchw' or 'nhwc'")
    kind = image.type.tensor_type
    if kind.elem_type not in (TensorProto.FLOAT, TensorProto.UINT8):
        raise InputError(f"{file.path}: its input {image.name!r} takes no images of numbers")
    sizes = [one.dim_value if one.dim_value > 0 else None for one in kind.shape.dim]
    if not kind.HasField("shape"):
        sizes = [None] * 4
    if sizes and sizes[0] not in (None, 1):
        raise InputError(
            f"{file.path} takes batches of {sizes[0]} images; export it with one image, or with a "
            "dynamic batch"
        )
    if len(sizes) < 3:
        stated = "×".join("…" if size is None else str(size) for size in sizes)
        raise InputError(f"{file.path}: its input {image.name!r} is {stated}, which is no image")
    last = len(sizes) == 4 and _channels_last(sizes, layout or notes.get("layout", "").lower())
    channels, spatial = (sizes[-1], sizes[1:-1]) if last else (sizes[1], sizes[2:])
    size = None if len(spatial) != 2 or None in spatial else (spatial[0], spatial[1])
    scale = 255.0 if kind.elem_type == TensorProto.UINT8 else 1.0
    return ImageForm(last, channels, size, scale)  # type: ignore[arg-type]


def _channels_last(sizes: list[int | None], layout: str) -> bool:
    """By what is told; else channels are where there are 3 or 1 of them, first before last."""
    if layout in LAYOUTS:
        return layout == "nhwc"
    return sizes[1] not in (1, 3) and sizes[3] in (1, 3)


def labels_of(notes: Mapping[str, str]) -> tuple[str, ...] | None:
    """Class names: a list, or indices with names, as Python or JSON writes them; None if none."""
    for key in _LABELS:
        found = _value(notes.get(key, ""))
        if isinstance(found, Mapping):
            found = _in_order(found)
        if isinstance(found, list | tuple) and 0 < len(found) <= _MOST_LABELS:
            names = tuple(" ".join(str(name).split()) for name in found)
            if all(names) and not any(isinstance(name, list | dict | tuple) for name in found):
                return names
    return None


def _in_order(by_index: Mapping[Any, Any]) -> list[Any] | None:
    named = {str(key): value for key, value in by_index.items()}
    indices = [str(number) for number in range(len(named))]
    return [named[index] for index in indices] if set(indices) == set(named) else None


def normalisation_of(
    notes: Mapping[str, str], channels: int
) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and standard deviation of pixels in [0, 1], where the file states them."""
    for key in _MEANS:
        mean = _numbers(notes.get(key, ""), channels)
        std = _numbers(notes.get(key.replace("mean", "std"), ""), channels)
        if mean is None or std is None or min(std) <= 0:
            continue
        if max(*map(abs, mean), *std) > 1:  # of pixels from 0 to 255
            mean, std = [n / 255 for n in mean], [n / 255 for n in std]
        return tuple(mean), tuple(std)
    return None


def _numbers(text: str, channels: int) -> list[float] | None:
    """One number for each channel, or one for all of them."""
    value = _value(f"[{text}]" if re.fullmatch(r"[\d.eE+\-,\s]+", text) else text)
    listed = list(value) if isinstance(value, list | tuple) else [value]
    if not all(isinstance(n, int | float) and not isinstance(n, bool) for n in listed):
        return None
    numbers = [float(n) for n in listed if abs(n) < 2**31]
    if len(numbers) not in (1, channels) or not all(map(math.isfinite, numbers)):
        return None
    return numbers * channels if len(numbers) == 1 else numbers


def _value(text: str) -> Any:
    """A list, dict or number in a text, as JSON or as Python writes it; None for anything else."""
    if not text or len(text) > _LONGEST_TEXT:
        return None
    try:
        return parsed_json(text, "metadata")
    except InputError:
        pass
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
