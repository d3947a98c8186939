"""What happens to a photo before the network sees it: resize, centre crop, normalise."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from guidxmage.errors import InputError

Interpolation = Literal["bilinear", "bicubic", "nearest"]
Size = tuple[int, int]

_RESAMPLING = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "nearest": Image.Resampling.NEAREST,
}
# A 1 × 5000 photo whose shorter side is enlarged to 256 would need a gigabyte.
_MAX_RESIZED_PIXELS = 200_000_000
_LONGEST_SIDE = 2**14


@dataclass(frozen=True)
class Preprocessing:
    """Resize, centre crop and normalisation of a photo, as torchvision's presets do them.

    ``resize``: int (shorter side; the aspect ratio is kept) or (height, width), or None.
    ``crop``: int (square) or (height, width) of the centre crop, or None; a photo that is smaller
    is padded with black. ``mean`` and ``std``: one value per channel, for pixels in [0, 1].
    Bilinear and bicubic resizing is antialiased (Pillow). ``crop_starts``: where an odd number of
    pixels is cut off, half of it is rounded to "even" (torchvision) or "down" (transformers).
    Invalid values raise InputError.
    """

    resize: int | Size | None = None
    crop: int | Size | None = None
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    interpolation: Interpolation = "bilinear"
    name: str = ""
    crop_starts: Literal["even", "down"] = "even"

    def __post_init__(self) -> None:
        for field in ("resize", "crop"):
            object.__setattr__(self, field, _checked_size(field, getattr(self, field)))
        for field in ("mean", "std"):
            object.__setattr__(self, field, _checked_numbers(field, getattr(self, field)))
        if len(self.mean) != len(self.std) or not self.mean:
            raise InputError(
                f"mean has {len(self.mean)} and std {len(self.std)} values; give 3 of each for "
                "colour, 1 of each for grey images, one of each for every channel of others"
            )
        if min(self.std) <= 0:
            raise InputError(f"std is {self.std}; every value must be above 0")
        if self.interpolation not in _RESAMPLING:
            raise InputError(
                f"interpolation is {self.interpolation!r}; choose one of {', '.join(_RESAMPLING)}"
            )
        if self.crop_starts not in ("even", "down"):
            raise InputError(f"crop_starts is {self.crop_starts!r}; choose 'even' or 'down'")

    @property
    def mode(self) -> Literal["RGB", "L"]:
        """Pillow mode of the images that the network takes: "RGB" or "L" (grey).

        Raises InputError for other numbers of channels, which no photo has.
        """
        if len(self.mean) not in (1, 3):
            raise InputError(
                f"the network takes images of {len(self.mean)} channels and photos have 1 or 3; "
                "give a tensor (channels, height, width)"
            )
        return "RGB" if len(self.mean) == 3 else "L"

    @property
    def output_size(self) -> Size | None:
        """(Height, width) of what the network sees; None where that is the photo's own."""
        size = self.resize if self.crop is None else self.crop
        if isinstance(size, int):
            return None if self.crop is None else (size, size)
        return size

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """Network input of a photo: float32 (C, H, W), (pixels − mean) / std."""
        pixels = np.array(self.crop_image(image))
        planes = torch.from_numpy(pixels).reshape(*pixels.shape[:2], -1).permute(2, 0, 1)
        return self.from_pixels(planes.contiguous().to(torch.float32).div(255))

    def crop_image(self, image: Image.Image) -> Image.Image:
        """The part of the photo that the network sees, at the network's size, in ``mode``."""
        if image.mode not in ("RGB", "L"):
            raise InputError(
                f"the image has Pillow mode {image.mode!r}; read it with read_image first, "
                "which makes it 8-bit colour or grey"
            )
        width, height = image.size
        new_height, new_width = self._resized((height, width))
        image = image.convert(self.mode)
        if (new_height, new_width) != (height, width):
            image = image.resize((new_width, new_height), _RESAMPLING[self.interpolation])
        top, left, crop_height, crop_width = self._crop_box((new_height, new_width))
        # Pillow fills what lies outside of the image with 0.
        return image.crop((left, top, left + crop_width, top + crop_height))

    def crop_labels(self, labels: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Label map (H, W) of the photo's own size → of the network's size, geometry as the photo.

        Nearest neighbour, so no label is invented; where the crop is padded the label is 0.
        """
        labels = np.asarray(labels)
        if labels.ndim != 2 or labels.size == 0:
            raise InputError(f"a label map is height×width, but this one has shape {labels.shape}")
        height, width = self._resized(labels.shape)
        rows = _nearest(labels.shape[0], height)
        columns = _nearest(labels.shape[1], width)
        top, left, crop_height, crop_width = self._crop_box((height, width))
        cropped = np.zeros((crop_height, crop_width), dtype=labels.dtype)
        inside_y = slice(max(top, 0), min(top + crop_height, height))
        inside_x = slice(max(left, 0), min(left + crop_width, width))
        visible = labels[np.ix_(rows[inside_y], columns[inside_x])]
        y, x = inside_y.start - top, inside_x.start - left
        cropped[y : y + visible.shape[0], x : x + visible.shape[1]] = visible
        return cropped

    def geometry(self, size: Size) -> tuple[Size, tuple[int, int, int, int]]:
        """Of a photo (height, width): the size it is resized to, and top, left, height and width
        of the crop of that, negative where it is padded.
        """
        resized = self._resized(size)
        return resized, self._crop_box(resized)

    def resize_matrices(self, size: Size) -> tuple[torch.Tensor, torch.Tensor]:
        """Resize and crop of a photo P (height, width) = ``size`` as matrices: seen = V P Hᵀ.

        V (crop height, height) and H (crop width, width), float64; rows of the padding are 0. What
        Pillow computes differs from this by the rounding to whole grey levels, and by the clipping
        to 0–255 where a bicubic overshoots.
        """
        resized = self._resized(size)
        top, left, crop_height, crop_width = self._crop_box(resized)
        sides = zip(size, resized, (top, left), (crop_height, crop_width), strict=True)
        vertical, horizontal = (self._side_matrix(*side) for side in sides)
        return vertical, horizontal

    def _side_matrix(self, size: int, new_size: int, start: int, length: int) -> torch.Tensor:
        inside = torch.arange(max(start, 0), min(start + length, new_size))
        matrix = torch.zeros(length, size, dtype=torch.float64)
        matrix[inside - start] = self._resize_matrix(size, new_size)[inside]
        return matrix

    def _resize_matrix(self, size: int, new_size: int) -> torch.Tensor:
        """(New size, size); torch's antialiased resize follows Pillow's."""
        eye = torch.eye(size, dtype=torch.float64)
        if new_size == size:
            return eye
        if self.interpolation == "nearest":
            return eye[torch.from_numpy(_nearest(size, new_size)).long()]
        resized = torch.nn.functional.interpolate(
            eye[None, None], (new_size, size), mode=self.interpolation, antialias=True
        )
        return resized[0, 0]

    def to_pixels(self, x: torch.Tensor) -> torch.Tensor:
        """Network input (…, C, H, W) → pixels in [0, 1], same shape and dtype."""
        return x * self._per_channel(self.std, x) + self._per_channel(self.mean, x)

    def from_pixels(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixels in [0, 1] (…, C, H, W) → network input, same shape and dtype."""
        shifted = pixels - self._per_channel(self.mean, pixels)
        return shifted / self._per_channel(self.std, pixels)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a JSON manifest."""
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in asdict(self).items()
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocessing:
        """The inverse of ``to_dict``; unknown keys raise InputError."""
        unknown = sorted(set(values) - {field.name for field in fields(cls)})
        if unknown:
            raise InputError(f"Preprocessing has no setting called {', '.join(unknown)}")
        return cls(**values)

    @classmethod
    def from_torchvision(cls, preset: Any) -> Preprocessing:
        """From torchvision's preset for image classification (``weights.transforms()``)."""
        described = describe_preprocessing(preset)
        if described is None or type(preset).__name__ != "ImageClassification":
            raise InputError(
                f"{type(preset).__name__} is not a torchvision preset for image classification "
                "that can be reproduced; give a Preprocessing with its values instead"
            )
        return described

    def _resized(self, size: Size) -> Size:
        """(Height, width) of a photo after ``resize``."""
        if self.resize is None:
            return size
        if isinstance(self.resize, tuple):
            return self.resize
        height, width = size
        longer = int(self.resize * max(size) / min(size))
        if longer * self.resize > _MAX_RESIZED_PIXELS:
            raise InputError(
                f"the image is {width}×{height} pixels: too elongated to enlarge its shorter "
                f"side to {self.resize}; crop it first"
            )
        return (longer, self.resize) if width <= height else (self.resize, longer)

    def _crop_box(self, size: Size) -> tuple[int, int, int, int]:
        """Top, left (negative where padded), height and width of the crop."""
        if self.crop is None:
            return 0, 0, *size
        height, width = (self.crop, self.crop) if isinstance(self.crop, int) else self.crop
        down = self.crop_starts == "down"
        top, left = (_crop_start(n, m, down) for n, m in zip(size, (height, width), strict=True))
        return top, left, height, width

    def _per_channel(self, values: tuple[float, ...], like: torch.Tensor) -> torch.Tensor:
        """Values as a (C, 1, 1) tensor that fits ``like``."""
        if like.ndim < 3 or like.shape[-3] != len(values):
            raise InputError(
                f"expected images of shape (…, {len(values)}, height, width) "
                f"but got {tuple(like.shape)}"
            )
        return torch.tensor(values, dtype=like.dtype, device=like.device).view(-1, 1, 1)


def describe_preprocessing(transform: Any, channels: int = 3) -> Preprocessing | None:
    """A Preprocessing that does what ``transform`` does to 8-bit Pillow images, or None.

    Understood are a Preprocessing, torchvision's preset for image classification, and a ``Compose``
    (v1 or v2) of Resize, CenterCrop, ToTensor (or PILToTensor/ToImage and ConvertImageDtype/
    ToDtype) and Normalize in this order. ``channels``: of the images that ``transform`` is given.
    Anything that could differ by more than float32 rounding gives None: the caller then has to
    treat it as a closed box.
    """
    if isinstance(transform, Preprocessing):
        return transform
    name = _torchvision_name(transform)
    try:
        if name == "ImageClassification":
            return _describe_preset(transform, channels)
        if name == "Compose":
            return _describe_steps(transform.transforms, channels)
    except (AttributeError, TypeError, ValueError):
        # Settings that torchvision may accept and Preprocessing cannot express.
        return None
    return None


# Place of each step in a pipeline that Preprocessing can reproduce.
_ORDER = {
    "Resize": 0,
    "CenterCrop": 1,
    "ToTensor": 2,
    "PILToTensor": 2,
    "ToImage": 2,
    "ConvertImageDtype": 3,
    "ToDtype": 3,
    "Normalize": 4,
}


def _describe_preset(preset: Any, channels: int) -> Preprocessing | None:
    if preset.antialias is False:
        return None
    return Preprocessing(
        resize=_plain_size(preset.resize_size),
        crop=_plain_size(preset.crop_size),
        mean=_broadcast(preset.mean, channels),
        std=_broadcast(preset.std, channels),
        interpolation=preset.interpolation.value,
        name="torchvision preset",
    )


def _describe_steps(steps: Sequence[Any], channels: int) -> Preprocessing | None:
    names = [_torchvision_name(step) for step in steps]
    places = [_ORDER.get(name, -1) for name in names]
    if -1 in places or places != sorted(set(places)):
        return None
    by_name = dict(zip(names, steps, strict=True))
    if not _gives_unit_floats(by_name):
        return None
    settings: dict[str, Any] = {"mean": (0.0,), "std": (1.0,)}
    if resize := by_name.get("Resize"):
        if resize.antialias is False or resize.max_size is not None:
            return None
        settings["resize"] = _plain_size(resize.size)
        settings["interpolation"] = resize.interpolation.value
    if crop := by_name.get("CenterCrop"):
        settings["crop"] = _plain_size(crop.size)
    if normalize := by_name.get("Normalize"):
        settings.update(mean=normalize.mean, std=normalize.std)
    for key in ("mean", "std"):
        settings[key] = _broadcast(settings[key], channels)
    return Preprocessing(**settings, name="torchvision transforms")


def _gives_unit_floats(steps: Mapping[str, Any]) -> bool:
    """Whether the steps turn an 8-bit image into a float32 tensor in [0, 1]."""
    if convert := steps.get("ConvertImageDtype"):
        scaled = convert.dtype is torch.float32
    elif convert := steps.get("ToDtype"):
        scaled = convert.dtype is torch.float32 and convert.scale is True
    else:
        return "ToTensor" in steps
    return scaled and not steps.keys().isdisjoint({"ToTensor", "PILToTensor", "ToImage"})


def _torchvision_name(obj: object) -> str:
    """Class name if the class is torchvision's own, else ""; torchvision is never imported."""
    kind = type(obj)
    return kind.__name__ if kind.__module__.startswith("torchvision.transforms.") else ""


def _plain_size(size: int | Sequence[int]) -> int | Size:
    """Torchvision's int, [n] or (h, w) as int or (h, w)."""
    if isinstance(size, int):
        return size
    if len(size) == 1:
        return int(size[0])
    height, width = size
    return int(height), int(width)


def _broadcast(values: Iterable[float], channels: int) -> tuple[float, ...]:
    """One value serves all channels, as in torchvision's Normalize."""
    numbers = tuple(float(value) for value in values)
    if len(numbers) not in (1, channels):
        raise ValueError(f"{len(numbers)} values for {channels} channels")
    return numbers * channels if len(numbers) == 1 else numbers


def _nearest(size: int, new_size: int) -> npt.NDArray[np.int32]:
    """For each of ``new_size`` cells the index of the pixel at its centre."""
    # Pillow resizes the indices themselves, so that ties fall as they do in a photo.
    indices = Image.fromarray(np.arange(size, dtype=np.int32)[None])
    resized = np.array(indices.resize((new_size, 1), Image.Resampling.NEAREST), dtype=np.int32)
    return resized.reshape(-1)


def _crop_start(size: int, crop: int, down: bool) -> int:
    # Both libraries round half down when padding.
    if crop > size:
        return -((crop - size) // 2)
    return (size - crop) // 2 if down else round((size - crop) / 2)


def _checked_size(field: str, value: Any) -> int | Size | None:
    if value is None:
        return None
    numbers = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    whole = all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in numbers)
    if not whole or len(numbers) > 2:
        raise InputError(f"{field} is {value!r}; give a positive whole number or (height, width)")
    side = max(numbers, default=0)
    if side > _LONGEST_SIDE:
        raise InputError(f"{field} is {value!r}; give at most {_LONGEST_SIDE} pixels a side")
    return numbers[0] if not isinstance(value, (tuple, list)) else _plain_size(numbers)


def _checked_numbers(field: str, values: Any) -> tuple[float, ...]:
    try:
        numbers = tuple(float(value) for value in values)
    except (TypeError, ValueError):
        raise InputError(f"{field} is {values!r}; give one number per channel") from None
    if not all(math.isfinite(number) for number in numbers):
        raise InputError(f"{field} is {values!r}; every value must be finite")
    return numbers


PIXELS = Preprocessing(name="pixels")
"""No preprocessing: the network takes colour pixels in [0, 1] at the photo's own size."""
