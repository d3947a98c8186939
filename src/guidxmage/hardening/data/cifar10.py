"""CIFAR-10 from a local folder; it has no masks, so they are made or brought along."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from guidxmage.errors import InputError
from guidxmage.files.names import brief
from guidxmage.files.pickles import PickledCall, followed
from guidxmage.files.untrusted import read_arrays
from guidxmage.hardening.data.dataset import InMemory, MaskMaker
from guidxmage.models.labels import CIFAR10_LABELS
from guidxmage.models.torchvision_import import import_torchvision

BINARY, PYTHON = "cifar-10-batches-bin", "cifar-10-batches-py"
SIDE = 32
_RECORD = 1 + 3 * SIDE * SIDE
# CIFAR-10's files have 31 MB.
_LARGEST = 2**27
_TRAIN = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
_TEST = ("test_batch.bin",)


def load_cifar10(
    folder: str | Path,
    train: bool = True,
    masks: str | Path | Tensor | MaskMaker | None = None,
    *,
    download: bool = False,
) -> InMemory:
    """The 50 000 training or 10 000 test images, with masks.

    folder: what holds cifar-10-batches-bin or cifar-10-batches-py, or is one of them; the pickles
    of the latter are read as data, and nothing in them is run. download: let torchvision fetch
    these where neither is there.

    CIFAR-10 has no masks. masks: a file .npy, or .npz with one array, of bool (N, 32, 32), such a
    tensor, or a function that makes them, such as `contribution_masks` of a network trained before:
    `lambda images, labels: contribution_masks(explainer, images, labels.tolist())`. Without, no
    pixel is marked as object: fit to train with, while whatever needs an object refuses the images.

    Raises InputError for missing or damaged files and masks that do not fit; MissingExtraError
    where torchvision is needed to download and missing.
    """
    images, labels = read_images(Path(folder), train, download)
    prefix = "train" if train else "test"
    none = torch.zeros(len(labels), SIDE, SIDE, dtype=torch.bool)
    dataset = InMemory(images, labels, none, CIFAR10_LABELS, prefix)
    if masks is None:
        return dataset
    return dataset.with_masks(read_masks(Path(masks)) if isinstance(masks, str | Path) else masks)


def read_masks(file: Path) -> Tensor:
    """Bool masks from a .npy, or from a .npz with one array or one called "masks".

    Raises InputError for anything else.
    """
    try:
        stored = _stored(file)
    # NumPy raises whatever a malformed head makes it stumble over.
    except Exception as error:
        raise InputError(
            f"{file} holds no masks ({brief(error)}); save them with numpy.save or as masks with "
            "numpy.savez"
        ) from error
    if stored.dtype != np.bool_:
        raise InputError(f"{file} holds {stored.dtype}, not bool; save masks as bool (N, H, W)")
    return torch.from_numpy(np.array(stored))


def _stored(file: Path) -> NDArray[Any]:
    """An array whose head promises no more than the file holds."""
    with file.open("rb") as stream:
        packed = stream.read(4) == b"PK\x03\x04"
    if not packed:
        # Mapped rather than read: memory is not taken for what the head promises.
        return np.lib.format.open_memmap(file, mode="r")
    arrays = read_arrays(file)
    if "masks" not in arrays and len(arrays) != 1:
        raise ValueError(f"it has {len(arrays)} arrays, none of them called masks")
    return arrays["masks" if "masks" in arrays else next(iter(arrays))]


def read_images(folder: Path, train: bool, download: bool = False) -> tuple[Tensor, Tensor]:
    """Images (N, 3, 32, 32) uint8 and labels (N,) int64. Raises InputError as `load_cifar10`."""
    for binary in (folder / BINARY, folder):
        if (binary / _TEST[0]).is_file():
            return _joined(binary, _TRAIN if train else _TEST, _records)
    root = folder.parent if folder.name == PYTHON else folder
    if not (root / PYTHON).is_dir():
        if not download:
            raise InputError(
                f"{folder} holds neither {BINARY} nor {PYTHON}; unpack CIFAR-10 there or ask for "
                "download=True"
            )
        _download(root)
    names = (Path(name).stem for name in (_TRAIN if train else _TEST))
    return _joined(root / PYTHON, names, _pickled_records)


def _joined(
    folder: Path, names: Iterable[str], read: Callable[[Path], NDArray[np.uint8]]
) -> tuple[Tensor, Tensor]:
    records = np.concatenate([read(folder / name) for name in names])
    images = records[:, 1:].reshape(-1, 3, SIDE, SIDE)
    return torch.from_numpy(images.copy()), torch.from_numpy(records[:, 0].astype(np.int64))


def _records(file: Path) -> NDArray[np.uint8]:
    """Records (N, 3073) of a label and the pixels, channel by channel, row by row."""
    content = _content(file)
    if not content or len(content) % _RECORD:
        raise InputError(
            f"{file} holds {len(content)} bytes, no multiple of {_RECORD}; fetch it again"
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, _RECORD)
    if records[:, 0].max() >= len(CIFAR10_LABELS):
        raise InputError(f"{file} has a label {records[:, 0].max()}; it is not CIFAR-10's")
    return records


def _pickled_records(file: Path) -> NDArray[np.uint8]:
    """The same from a file of the Python version: a pickled dict of a NumPy array and a list."""

    def refuse(reason: str) -> InputError:
        return InputError(f"CIFAR-10 cannot be read from {file} ({brief(reason)}); fetch it again")

    found, _ = followed(io.BytesIO(_content(file)), refuse)
    batch = found if isinstance(found, dict) else {}
    labels, pixels = batch.get("labels"), _array_bytes(batch.get("data"))
    if not isinstance(labels, list) or not all(type(one) is int for one in labels):
        raise refuse("it has no labels")
    if not all(0 <= label < len(CIFAR10_LABELS) for label in labels):
        raise refuse("it has labels that are not CIFAR-10's")
    if pixels is None or not labels or len(pixels) != len(labels) * (_RECORD - 1):
        raise refuse("its images are not those of its labels")
    images = np.frombuffer(pixels, np.uint8).reshape(len(labels), -1)
    return np.concatenate([np.array(labels, np.uint8)[:, None], images], 1)


def _array_bytes(pickled: Any) -> bytes | None:
    """The bytes of a pickled NumPy array of unsigned bytes in C order; None for anything else."""
    match pickled:
        case PickledCall(state=(int(), tuple(), PickledCall(arguments=("u1", *_)), False, content)):
            # Python 2 wrote bytes as text, and Python 3 may write how to make them of text.
            if isinstance(content, PickledCall) and content.name == "_codecs.encode":
                content = content.arguments[0] if content.arguments else None
            if isinstance(content, str) and max(content, default="") <= "\xff":
                return content.encode("latin1")
            return content if isinstance(content, bytes) else None
    return None


def _content(file: Path) -> bytes:
    try:
        size = file.stat().st_size
        if size > _LARGEST:
            raise InputError(
                f"{file} holds {size} bytes; CIFAR-10's files have 31 MB, fetch it again"
            )
        return file.read_bytes()
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error.strerror}); fetch it again") from error


def _download(root: Path) -> None:
    """Let torchvision fetch the Python version, compare its check sum, and unpack it."""
    datasets = import_torchvision().datasets
    kind = datasets.CIFAR10
    try:
        datasets.utils.download_and_extract_archive(
            kind.url, str(root), filename=kind.filename, md5=kind.tgz_md5
        )
    except (RuntimeError, OSError) as error:
        raise InputError(f"CIFAR-10 cannot be downloaded to {root}: {error}") from error
