"""Fashion-MNIST from its four IDX files."""

from __future__ import annotations

import gzip
import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from guidxmage.errors import InputError
from guidxmage.files.atomic import sha256_of
from guidxmage.files.names import brief

# Where Debian's package dataset-fashion-mnist puts it.
SYSTEM_FOLDER = Path("/usr/share/datasets/fashion-mnist")
SIDE, CLASSES = 28, 10
# Fashion-MNIST's largest file has 47 MB and three dimensions.
_LARGEST, _MOST_DIMENSIONS = 2**27, 3
Array = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Greys:
    """Grey images (N, 28, 28) and labels (N,) of 0–9; digests: SHA-256 of the files by name."""

    images: Array
    labels: Array
    digests: dict[str, str]


def read_fashion(folder: Path | None, part: str) -> Greys:
    """The "train" or "t10k" images of Fashion-MNIST.

    folder: what holds the IDX files, compressed or not, or the root that torchvision keeps them
    below; None for Debian's. Raises InputError where they are missing or damaged.
    """
    root = SYSTEM_FOLDER if folder is None else folder
    digests: dict[str, str] = {}
    arrays = []
    for name in (f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte"):
        file = _find(root, name)
        arrays.append(read_idx(file))
        digests[file.name] = sha256(file)
    images, labels = arrays
    if images.shape[1:] != (SIDE, SIDE) or images.shape[:1] != labels.shape:
        raise InputError(
            f"{root} does not hold Fashion-MNIST: its {part} images have the shape "
            f"{list(images.shape)}, its labels {list(labels.shape)}"
        )
    if labels.max(initial=0) >= CLASSES:
        raise InputError(f"{root} does not hold Fashion-MNIST: it has a label {labels.max()}")
    return Greys(images, labels, digests)


def read_idx(file: Path) -> Array:
    """The array of unsigned bytes in an IDX file, which may be compressed by gzip.

    Raises InputError for anything else, and for files with bytes missing or to spare.
    """
    try:
        with file.open("rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
        with gzip.open(file) if packed else file.open("rb") as stream:
            return _array(stream, file)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{file} cannot be read ({brief(error)}); fetch it again") from error


def _array(stream: IO[bytes] | gzip.GzipFile, file: Path) -> Array:
    """What the head announces, of which no more is read: a little may unpack to very much."""
    head = stream.read(4)
    if len(head) < 4 or head[:3] != b"\x00\x00\x08" or head[3] > _MOST_DIMENSIONS:
        raise InputError(f"{file} is no IDX file of unsigned bytes; fetch it again")
    sides = stream.read(4 * head[3])
    shape = tuple(np.frombuffer(sides[: len(sides) // 4 * 4], ">u4").tolist())
    announced = 4 + 4 * head[3] + math.prod(shape)
    if math.prod(shape) > _LARGEST:
        raise InputError(
            f"{file} announces {announced} bytes, which Fashion-MNIST does not have; fetch it again"
        )
    content = stream.read(math.prod(shape) + 1) if len(shape) == head[3] else b""
    held = len(head) + len(sides) + len(content)
    if held != announced or len(shape) != head[3]:
        found = f"{held}, not" if held < announced else "more than"
        raise InputError(
            f"{file} holds {found} the {announced} bytes that its head announces; fetch it again"
        )
    return np.frombuffer(content, np.uint8).reshape(shape)


def sha256(file: Path) -> str:
    """A file's SHA-256 in hexadecimal digits. Raises OSError."""
    return sha256_of(file)


def _find(root: Path, name: str) -> Path:
    for folder in (root, root / "raw", root / "FashionMNIST" / "raw"):
        for file in (folder / f"{name}.gz", folder / name):
            if file.is_file():
                return file
    raise InputError(
        f"{root} has no {name}.gz; install the Debian package dataset-fashion-mnist, or name the "
        "folder that holds Fashion-MNIST"
    )
