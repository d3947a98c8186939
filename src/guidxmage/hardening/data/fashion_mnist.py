"""Fashion-MNIST from its four IDX files."""

from __future__ import annotations

import gzip
import hashlib
import math
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from guidxmage.errors import InputError

# Where Debian's package dataset-fashion-mnist puts it.
SYSTEM_FOLDER = Path("/usr/share/datasets/fashion-mnist")
SIDE, CLASSES = 28, 10
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
        content = file.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{file} cannot be read ({error}); fetch it again") from error
    if len(content) < 4 or content[:3] != b"\x00\x00\x08":
        raise InputError(f"{file} is no IDX file of unsigned bytes; fetch it again")
    head = 4 + 4 * content[3]
    shape = tuple(np.frombuffer(content[4:head], ">u4").tolist()) if len(content) >= head else ()
    if len(content) != head + math.prod(shape):
        raise InputError(
            f"{file} holds {len(content)} bytes, not the {head + math.prod(shape)} that its head "
            "announces; fetch it again"
        )
    return np.frombuffer(content, np.uint8, offset=head).reshape(shape)


def sha256(file: Path) -> str:
    """A file's SHA-256 in hexadecimal digits."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _find(root: Path, name: str) -> Path:
    for folder in (root, root / "raw", root / "FashionMNIST" / "raw"):
        for file in (folder / f"{name}.gz", folder / name):
            if file.is_file():
                return file
    raise InputError(
        f"{root} has no {name}.gz; install the Debian package dataset-fashion-mnist, or name the "
        "folder that holds Fashion-MNIST"
    )
