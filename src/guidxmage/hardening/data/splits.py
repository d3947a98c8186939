"""The data of an experiment: which folder holds what."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from guidxmage.errors import InputError
from guidxmage.files.atomic import MANIFEST
from guidxmage.files.untrusted import read_json
from guidxmage.hardening.data.cifar10 import load_cifar10
from guidxmage.hardening.data.dataset import ImageDataset
from guidxmage.hardening.data.garments import SCHEMA, load_garments
from guidxmage.hardening.data.image_folder import ImageFolder

# Of CIFAR-10's training images, those that are held out to choose weights by.
_HELD_OUT = 5_000
MASKS = {"train": "masks-train.npy", "test": "masks-test.npy"}


@dataclass(frozen=True)
class Splits:
    """The data: train, validation, test; same and mixed, the test objects on other backgrounds."""

    train: ImageDataset
    validation: ImageDataset
    test: ImageDataset
    same: ImageDataset | None = None
    mixed: ImageDataset | None = None


def load_splits(folder: str | Path, size: int = 32) -> Splits:
    """The splits in a folder; what kind it is shows by itself.

    Garments that `build_garments` made; CIFAR-10 with masks-train.npy and masks-test.npy beside it;
    or train/<class>/, validation/<class>/, test/<class>/ with photos, masks in masks/train/<class>/
    and so on (or the photos' alpha channels), scaled and cropped to `size`. Raises InputError for
    anything else.
    """
    folder = Path(folder)
    if _is_garments(folder):
        loaded = {name: load_garments(folder, name) for name in ("train", "validation", "test")}
        same, mixed = load_garments(folder, "mixed_same"), load_garments(folder, "mixed_random")
        return Splits(**loaded, same=same, mixed=mixed)
    if any(folder.glob("cifar-10-batches-*")):
        return _cifar(folder)
    if all((folder / name).is_dir() for name in ("train", "validation", "test")):
        return Splits(*(_photos(folder, name, size) for name in ("train", "validation", "test")))
    raise InputError(
        f"{folder} holds neither garments (guid-xmage garments {folder}) nor CIFAR-10 nor the "
        "folders train, validation and test"
    )


def _is_garments(folder: Path) -> bool:
    try:
        manifest = read_json(folder / MANIFEST)
    except InputError:
        return False
    return isinstance(manifest, dict) and manifest.get("schema") == SCHEMA


def _cifar(folder: Path) -> Splits:
    missing = [name for name in MASKS.values() if not (folder / name).is_file()]
    if missing:
        raise InputError(
            f"{folder} holds CIFAR-10, which has no masks; save them as {missing[0]} "
            "(see docs/hardening.md)"
        )
    whole = load_cifar10(folder, True, folder / MASKS["train"])
    order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(0))
    held_out, rest = order[:_HELD_OUT].sort().values, order[_HELD_OUT:].sort().values
    test = load_cifar10(folder, False, folder / MASKS["test"])
    return Splits(whole.subset(rest), whole.subset(held_out), test)


def _photos(folder: Path, name: str, size: int) -> ImageFolder:
    masks = folder / "masks" / name
    return ImageFolder(folder / name, masks if masks.is_dir() else None, size)
