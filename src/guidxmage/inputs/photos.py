"""Photos from files, folders, Pillow images and arrays, always 8-bit and upright."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from guidxmage.errors import InputError
from guidxmage.files.names import brief

ImageSource = str | os.PathLike[str] | Image.Image | npt.NDArray[Any]

IMAGE_SUFFIXES = frozenset(
    {".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)
"""File name endings (lower case) that ``find_images`` looks for in folders."""


# Drawn by programs that Pillow starts, or not drawn at all.
_PROGRAMS = frozenset({"EPS", "WMF", "BUFR", "GRIB", "HDF5"})
_TOO_LARGE = "is too large to be a photo; scale it down first"


def read_image(source: ImageSource, mode: Literal["RGB", "L"] = "RGB") -> Image.Image:
    """A new 8-bit image in ``mode``, turned upright by its EXIF orientation.

    ``source``: a path, a Pillow image, or an array (H, W) or (H, W, 1, 3 or 4) of uint8 in 0–255,
    uint16 in 0–65535 or floats in 0–1. Transparent pixels are laid over white; animations give
    their first frame; deeper images are scaled to 8 bits, never clipped (see ``_from_deep``).
    Raises InputError when there is no file, or it is no image, damaged, or huge.
    """
    if mode not in ("RGB", "L"):
        raise InputError(f"image mode {mode!r} is not known; choose 'RGB' or 'L'")
    if isinstance(source, np.ndarray):
        return _flatten(_from_array(source), mode)
    if isinstance(source, Image.Image):
        return _to_8_bit(_upright(source, "the image"), "the image", mode)
    if isinstance(source, (str, os.PathLike)):
        return _to_8_bit(load_image(Path(source)), str(source), mode)
    raise InputError(
        f"cannot read an image from {type(source).__name__}; "
        "give a path, a Pillow image or a NumPy array"
    )


def find_images(
    paths: Iterable[str | os.PathLike[str]], problems: list[str] | None = None
) -> list[Path]:
    """Files as given, and for each folder the images in it and below it, sorted by path.

    Hidden files and folders are skipped, repeated files are listed once. Raises InputError for a
    path that does not exist, a folder without images, and one that cannot be read; with `problems`
    its sentence is added there instead, and the rest is found.
    """
    found: dict[str, Path] = {}
    told: list[str] = []
    for path in map(Path, paths):
        if not path.exists():
            told.append(f"{path} does not exist")
            continue
        for file in _images_below(path, told) if path.is_dir() else [path]:
            found.setdefault(os.path.abspath(file), file)
    if problems is None and told:
        raise InputError(told[0])
    if problems is not None:
        problems += told
    return list(found.values())


def _images_below(folder: Path, told: list[str]) -> Sequence[Path]:
    """The images, sorted; what cannot be looked into, or holds none, is told."""
    images: list[Path] = []
    failed: list[str] = []

    def fail(error: OSError) -> None:
        failed.append(f"the folder {error.filename} cannot be read: {error.strerror}")

    for parent, folders, files in os.walk(folder, onerror=fail):
        folders[:] = [name for name in folders if not name.startswith(".")]
        images += [
            Path(parent, name)
            for name in files
            if not name.startswith(".") and Path(name).suffix.lower() in IMAGE_SUFFIXES
        ]
    if not images and not failed:
        endings = ", ".join(sorted(IMAGE_SUFFIXES))
        failed.append(f"{folder} holds no images; looked for files ending in {endings}")
    told += failed
    return sorted(images)


def load_image(path: Path) -> Image.Image:
    """The file's image in its own Pillow mode, upright; see ``read_image`` for what is refused."""
    with open_image(path) as opened:
        return _upright(opened, str(path))


def upright_size(path: Path) -> tuple[int, int]:
    """(Height, width) of the file's image as `load_image` gives it; only the head is read.

    Raises InputError as `open_image` does.
    """
    with open_image(path) as opened:
        width, height = opened.size
        on_its_side = opened.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
        return (width, height) if on_its_side else (height, width)


@contextmanager
def open_image(path: Path) -> Iterator[Image.Image]:
    """The file's image, of which only the head was read.

    Raises InputError for what is missing, no image, damaged, or has more pixels than Pillow allows,
    and in place of what the block stumbles over.
    """
    with _told(str(path)):
        if path.is_dir():
            raise InputError(f"{path} is a folder; give an image file")
        if not path.is_file():
            raise InputError(f"{path} does not exist or is not a file")
        if path.stat().st_size == 0:
            raise InputError(f"{path} is empty")
        with _File(path) as file, _opened(file, str(path)) as opened:
            yield opened


@contextmanager
def open_image_bytes(
    content: bytes, name: str, formats: tuple[str, ...] | None = None
) -> Iterator[Image.Image]:
    """`open_image` for a file's content; `name` is what an InputError calls it.

    formats: those that are tried, by Pillow's names; by default all.
    """
    with _told(name):
        if not content:
            raise InputError(f"{name} is empty")
        with _opened(io.BytesIO(content), name, formats) as opened:
            yield opened


def read_image_bytes(
    content: bytes, name: str, formats: tuple[str, ...] | None = None
) -> Image.Image:
    """`read_image` in RGB for a file's content; the rest as for `open_image_bytes`."""
    with open_image_bytes(content, name, formats) as opened:
        return _to_8_bit(_upright(opened, name), name, "RGB")


def load_image_bytes(content: bytes, name: str) -> Image.Image:
    """`load_image` for a file's content; the rest as for `open_image_bytes`."""
    with open_image_bytes(content, name) as opened:
        return _upright(opened, name)


@contextmanager
def _opened(
    file: IO[bytes], name: str, formats: tuple[str, ...] | None = None
) -> Iterator[Image.Image]:
    with Image.open(file) if formats is None else Image.open(file, formats=formats) as opened:
        if opened.format in _PROGRAMS:
            raise InputError(f"{name} is {opened.format}, which is no photo; save it as PNG")
        check_pixels(opened.size[::-1], name)
        yield opened


@contextmanager
def _told(name: str) -> Iterator[None]:
    """Whatever Pillow stumbles over, as an InputError."""
    try:
        yield
    except InputError:
        raise
    except UnidentifiedImageError:
        raise InputError(f"{name} is not an image in a format that Pillow can read") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise InputError(f"{name} {_TOO_LARGE}") from None
    # Pillow's plugins let struct, index, syntax and zlib errors through on malformed headers.
    except Exception as error:
        raise InputError(f"{name} cannot be read as an image ({_first_line(error)})") from error


class _File(io.BufferedReader):
    """Of which no more is read at once than it holds; Pillow asks for what a head promises."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path))
        self._size = path.stat().st_size

    def read(self, size: int | None = -1, /) -> bytes:
        """At most so many bytes, by default all that are left."""
        left = max(self._size - self.tell(), 0)
        return super().read(left if size is None or size < 0 else min(size, left))


def check_pixels(size: tuple[int, int], what: str) -> None:
    """Raise InputError, about `what`, where (height, width) are more than a photo may have.

    The limit is Pillow's, `Image.MAX_IMAGE_PIXELS`.
    """
    most = Image.MAX_IMAGE_PIXELS
    if most is not None and size[0] * size[1] > most:
        raise InputError(f"{what} {_TOO_LARGE}: {size[1]}×{size[0]} pixels, and at most {most}")


def _first_line(error: Exception) -> str:
    return brief((str(error).splitlines() or [type(error).__name__])[0])


def _upright(image: Image.Image, name: str) -> Image.Image:
    """A decoded, upright copy; errors say ``name``."""
    try:
        image.load()
        upright = ImageOps.exif_transpose(image)
    except Exception as error:
        raise InputError(f"{name} is damaged or incomplete ({_first_line(error)})") from error
    if 0 in upright.size:
        width, height = upright.size
        raise InputError(f"{name} has no pixels (its size is {width}×{height})")
    return upright


def _to_8_bit(image: Image.Image, name: str, mode: Literal["RGB", "L"]) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        image = _from_deep(np.asarray(image), name)
    return _flatten(image, mode)


def _flatten(image: Image.Image, mode: Literal["RGB", "L"]) -> Image.Image:
    """8-bit image of any Pillow mode → ``mode``; transparency over white."""
    if image.has_transparency_data:
        if image.mode == "La":
            image = image.convert("LA")
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    if image.mode not in ("RGB", "L"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    return image.convert(mode)


def _from_deep(values: npt.NDArray[Any], name: str) -> Image.Image:
    """16- or 32-bit grey values (H, W) → 8-bit grey.

    The range is 0–65535 for 16-bit images. 32-bit images do not say theirs: it is the first of
    0–1 (floats), 0–255 and 0–65535 that holds all values, else the image's own.
    """
    if not np.isfinite(values).all():
        raise InputError(f"{name} has NaN or infinite pixels; replace them first")
    numbers = values.astype(np.float64)
    low, high = float(numbers.min()), float(numbers.max())
    if values.dtype.itemsize == 2:
        tops = [65535.0]
    else:
        tops = [1.0, 255.0, 65535.0] if values.dtype.kind == "f" else [255.0, 65535.0]
    fitting = [top for top in tops if low >= 0 and high <= top]
    if fitting:
        low, high = 0.0, fitting[0]
    # A constant image outside of every known range has no contrast: black.
    scaled = (numbers - low) / (high - low) * 255 if high > low else np.zeros_like(numbers)
    return Image.fromarray(np.rint(scaled).astype(np.uint8))


def _from_array(array: npt.NDArray[Any]) -> Image.Image:
    _check_array_shape(array.shape)
    if array.dtype == np.uint8:
        pixels = array
    elif array.dtype == np.uint16:
        pixels = np.rint(array / 257.0).astype(np.uint8)
    elif array.dtype.kind == "f":
        # Written so that NaN fails too.
        if not ((array >= 0) & (array <= 1)).all():
            raise InputError(
                "float image arrays hold values in 0–1, but this one holds values outside "
                "(or NaN); divide by its maximum, or convert to uint8"
            )
        pixels = np.rint(array.astype(np.float64) * 255).astype(np.uint8)
    else:
        raise InputError(
            f"image arrays are uint8, uint16 or float in 0–1, not {array.dtype}; "
            "convert with array.astype(np.uint8)"
        )
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    return Image.fromarray(np.ascontiguousarray(pixels))


def _check_array_shape(shape: tuple[int, ...]) -> None:
    order = f"image arrays are height×width×channels, but this one has shape {shape}"
    if 0 in shape:
        raise InputError(f"{order}, which holds no pixels")
    if len(shape) == 4:
        raise InputError(f"{order}, which looks like a batch; give one image at a time")
    if len(shape) not in (2, 3):
        raise InputError(f"{order}; give two or three dimensions")
    if len(shape) == 3 and shape[2] not in (1, 3, 4):
        if shape[0] in (1, 3, 4):
            raise InputError(f"{order}, which looks channels-first; use array.transpose(1, 2, 0)")
        raise InputError(f"{order}; give 1, 3 or 4 channels, or a tensor for any other number")
