"""Fashion-MNIST from local files in its original format, plain or gzipped.

Debian has them as the package `dataset-fashion-mnist`.
"""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
_PREFIX = {"train": "train", "test": "t10k"}


def load(folder: Path, split: str) -> tuple[Tensor, Tensor]:
    """Images (n, 1, 28, 28) in [0, 1] and labels (n,) of "train" or "test"."""
    images = _read(folder, f"{_PREFIX[split]}-images-idx3-ubyte", header=16)
    labels = _read(folder, f"{_PREFIX[split]}-labels-idx1-ubyte", header=8)
    return (
        torch.from_numpy(images.reshape(-1, 1, 28, 28)).float() / 255,
        torch.from_numpy(labels).long(),
    )


def _read(folder: Path, name: str, header: int) -> np.ndarray:
    for file in (folder / name, folder / f"{name}.gz"):
        if file.is_file():
            content = file.read_bytes()
            content = gzip.decompress(content) if file.suffix == ".gz" else content
            return np.frombuffer(content, np.uint8, offset=header).copy()
    raise SystemExit(f"{folder} has no {name} nor {name}.gz; say where they are with --data")
