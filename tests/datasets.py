"""Photos, masks, a network and runs for the tests of data sets. As a script: one run into a folder.

`python -m tests.datasets SOURCE OUT [slow]` makes a data set with one worker; slow ones take their
time over every photo.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import nn

from guidxmage.dataset import DatasetOptions, Made, explain_dataset
from guidxmage.dataset.making import Scope
from guidxmage.explainer import Explainer
from guidxmage.inputs.preprocessing import Preprocessing

LABELS = ["a", "b", "c"]
SIZE = (24, 20)


def make_explainer(seed: int = 0) -> Explainer:
    """A small network for photos of any size."""
    torch.manual_seed(seed)
    layers = [nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten()]
    network = nn.Sequential(*layers, nn.Linear(64, 3)).eval()
    known = Preprocessing(resize=16, crop=16, mean=(0.5,) * 3, std=(0.2,) * 3)
    return Explainer(network, preprocessing=known, labels=LABELS, batch_rows=8)


def make_fatal(flag: str, times: int = 1) -> Explainer:
    """Like `make_explainer`; the first process that reads a photo with it is killed."""
    explainer = make_explainer()
    real = explainer.read_batch

    def read(image: Any) -> Any:
        for number in range(times):
            try:
                os.close(os.open(f"{flag}{number}", os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                continue
            os.kill(os.getpid(), 9)
        return real(image)

    explainer.read_batch = read  # type: ignore[method-assign]
    return explainer


def slowed(explainer: Explainer, seconds: float) -> Explainer:
    """The same, which takes its time over every photo."""
    real = explainer.read_batch

    def read(image: Any) -> Any:
        time.sleep(seconds)
        return real(image)

    explainer.read_batch = read  # type: ignore[method-assign]
    return explainer


def photo(number: int, size: tuple[int, int] = SIZE) -> Image.Image:
    """Noise that the number decides."""
    noise = np.random.default_rng(number).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    return Image.fromarray(noise)


def mask(size: tuple[int, int] = SIZE) -> np.ndarray:
    """Two objects, background, and a strip that is left out."""
    labels = np.zeros(size[::-1], np.uint8)
    labels[4:9, 5:9], labels[12:14], labels[0] = 1, 2, 255
    return labels


def save_photos(root: Path, count: int = 40, *, masks: Path | None = None) -> Path:
    """Photos in class folders a and b, those of a with masks in a mirror folder."""
    for number in range(count):
        name = "ab"[number % 2]
        (root / name).mkdir(parents=True, exist_ok=True)
        photo(number).save(root / name / f"{number:03}.png")
        if masks is not None and name == "a":
            (masks / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask()).save(masks / name / f"{number:03}.png")
    return root


def make(source: Any, out: Path, *, workers: int = 1, scope: Any = None, **options: Any) -> Made:
    """A data set with the small network, in blocks of 16."""
    asked = DatasetOptions(block=16, **options)
    chosen = Scope(workers=workers) if scope is None else scope
    return explain_dataset(make_explainer(), source, out, asked, chosen, factory=make_explainer)


def rows(out: Path) -> list[dict[str, Any]]:
    """All rows, in the source's order."""
    files = sorted((out / "rows").rglob("*.parquet"))
    return [row for file in files for row in pq.read_table(file).to_pylist()]


def digests(out: Path) -> dict[str, str]:
    """What is in a data set but for the ledgers of its runs, by name."""
    files = [path for path in sorted(out.rglob("*")) if path.is_file()]
    return {
        path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if path.suffix != ".jsonl"
    }


def main(source: str, out: str, pace: str = "") -> None:
    explainer = slowed(make_explainer(), 0.02) if pace else make_explainer()
    explain_dataset(explainer, source, out, DatasetOptions(block=16))


if __name__ == "__main__":
    main(*sys.argv[1:])
