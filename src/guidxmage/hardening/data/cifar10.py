"""CIFAR-10 from a local folder; it has no masks, so they are made or brought along."""

from __future__ import annotations

from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from guidxmage.errors import InputError
from guidxmage.hardening.data.dataset import InMemory, MaskMaker
from guidxmage.models.labels import CIFAR10_LABELS
from guidxmage.models.torchvision_import import import_torchvision

BINARY, PYTHON = "cifar-10-batches-bin", "cifar-10-batches-py"
SIDE = 32
_RECORD = 1 + 3 * SIDE * SIDE
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

    folder: what holds cifar-10-batches-bin (read here) or cifar-10-batches-py (read by torchvision,
    which unpickles it after comparing its check sums), or is one of them. download: let torchvision
    fetch the latter where neither is there.

    CIFAR-10 has no masks. masks: a file .npy, or .npz with one array, of bool (N, 32, 32), such a
    tensor, or a function that makes them, such as `contribution_masks` of a network trained before:
    `lambda images, labels: contribution_masks(explainer, images, labels.tolist())`. Without, no
    pixel is marked as object: fit to train with, while whatever needs an object refuses the images.

    Raises InputError for missing or damaged files and masks that do not fit; MissingExtraError
    where torchvision is needed and missing.
    """
    folder = Path(folder)
    images, labels = _read(folder, train, download)
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
        stored = np.load(file, allow_pickle=False)
        if isinstance(stored, np.lib.npyio.NpzFile):
            with stored:
                names = stored.files
                stored = stored["masks" if "masks" in names or len(names) != 1 else names[0]]
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise InputError(
            f"{file} holds no masks ({error}); save them with numpy.save or as masks with "
            "numpy.savez"
        ) from error
    if stored.dtype != np.bool_:
        raise InputError(f"{file} holds {stored.dtype}, not bool; save masks as bool (N, H, W)")
    return torch.from_numpy(stored)


def _read(folder: Path, train: bool, download: bool) -> tuple[Tensor, Tensor]:
    """Images (N, 3, 32, 32) uint8 and labels (N,) int64."""
    for binary in (folder / BINARY, folder):
        if (binary / _TEST[0]).is_file():
            return _read_binary([binary / name for name in (_TRAIN if train else _TEST)])
    root = folder.parent if folder.name == PYTHON else folder
    if not (root / PYTHON).is_dir() and not download:
        raise InputError(
            f"{folder} holds neither {BINARY} nor {PYTHON}; unpack CIFAR-10 there or ask for "
            "download=True"
        )
    return _read_with_torchvision(root, train, download)


def _read_binary(files: list[Path]) -> tuple[Tensor, Tensor]:
    records = np.concatenate([_records(file) for file in files])
    images = records[:, 1:].reshape(-1, 3, SIDE, SIDE)
    return torch.from_numpy(images.copy()), torch.from_numpy(records[:, 0].astype(np.int64))


def _records(file: Path) -> NDArray[np.uint8]:
    """Records (N, 3073) of a label and the pixels, channel by channel, row by row."""
    try:
        content = np.fromfile(file, np.uint8)
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error.strerror}); fetch it again") from error
    if not len(content) or len(content) % _RECORD:
        raise InputError(
            f"{file} holds {len(content)} bytes, no multiple of {_RECORD}; fetch it again"
        )
    records = content.reshape(-1, _RECORD)
    if records[:, 0].max() >= len(CIFAR10_LABELS):
        raise InputError(f"{file} has a label {records[:, 0].max()}; it is not CIFAR-10's")
    return records


def _read_with_torchvision(root: Path, train: bool, download: bool) -> tuple[Tensor, Tensor]:
    datasets = import_torchvision().datasets
    try:
        stored = datasets.CIFAR10(str(root), train=train, download=download)
    except (RuntimeError, OSError) as error:
        raise InputError(f"CIFAR-10 cannot be read from {root}: {error}") from error
    images = torch.from_numpy(np.asarray(stored.data)).permute(0, 3, 1, 2).contiguous()
    return images, torch.tensor(stored.targets)
