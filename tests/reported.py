"""Saved results of a small network, for reports of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from guidxmage.explainer import Explainer
from guidxmage.inputs.preprocessing import Preprocessing
from guidxmage.jobs.explain_photos import Job, explain_photos

SIZE = (36, 44)
"""Height and width of the photos, and of the network's input."""


def small_explainer(resize: tuple[int, int] | None = None) -> Explainer:
    """A convolutional network with normalisation, several depths and four classes.

    resize: of photos, where they are not of its size already.
    """
    torch.manual_seed(3)
    network = nn.Sequential(
        nn.Conv2d(3, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.ReLU(),
        nn.Conv2d(6, 8, 3, 2, 1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
    )  # fmt: skip
    described = Preprocessing(
        resize=resize,
        crop=None,
        mean=(0.4, 0.5, 0.6),
        std=(0.2, 0.3, 0.25),
        interpolation="bilinear",
    )
    labels = ["cat", "dog", "<b>owl</b>", "=1+1"]
    return Explainer(network.eval(), preprocessing=described, labels=labels, name="small")


def photos_in(folder: Path, names: list[str]) -> list[Path]:
    """Photos of noise and a ramp, each its own."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        rng = np.random.default_rng(list(name.encode()))
        ramp = np.linspace(0, 200, SIZE[1])[None, :, None] * np.array([1, 0.5, 0.2])
        noise = rng.integers(0, 56, (*SIZE, 3))
        Image.fromarray((ramp + noise).astype(np.uint8)).save(folder / name)
    return [folder / name for name in names]


def masks_for(folder: Path, photos: list[Path]) -> Path:
    """A label PNG for each photo: one object in the middle."""
    folder.mkdir(parents=True, exist_ok=True)
    for photo in photos:
        labels = np.zeros(SIZE, np.uint8)
        labels[8:28, 10:32] = 1
        Image.fromarray(labels).save(folder / f"{photo.stem}.png")
    return folder


def explained(
    folder: Path, names: list[str], explainer: Explainer | None = None, **options: object
) -> list[Path]:
    """The folders of the results of some photos, which are made."""
    photos = photos_in(folder / "photos", names)
    by = small_explainer() if explainer is None else explainer
    job = Job(**{"objects": "none", "target": "top1", **options})  # type: ignore[arg-type]
    outcomes = list(explain_photos(by, photos, folder / "results", job))
    assert [outcome.error for outcome in outcomes] == [None] * len(photos)
    return [outcome.folder for outcome in outcomes if outcome.folder is not None]
