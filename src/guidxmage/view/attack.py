"""The figure of an attack: before, the perturbation, after, and the contributions of both."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from guidxmage.view.canvas import Canvas, fitted, strongest
from guidxmage.view.colors import RGB, FloatMap, colorize, shared_scale
from guidxmage.view.panel import shorten

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BOX, MARGIN, GAP = 360, 24, 22
TITLE, CAPTION, FOOT = 96, 62, 66
COLUMNS = [MARGIN + column * (BOX + GAP) for column in range(5)]
WIDTH = COLUMNS[-1] + BOX + MARGIN


@dataclass(frozen=True)
class Side:
    """One side of an attack: an image (H, W, C) in [0, 1], class, score, contributions (H, W)."""

    image: npt.NDArray[np.floating]
    name: str
    score: float
    contributions: FloatMap


def attack_figure(before: Side, after: Side, title: str, lines: list[str]) -> Figure:
    """Original, perturbation, adversarial image, and both contribution maps on one scale.

    The perturbation is drawn as mid-grey plus what was added, amplified by the factor that makes
    its largest entry visible; the factor is stated. Contributions are those of the class named
    above each map.
    """
    canvas = Canvas(WIDTH, TITLE + CAPTION + BOX + FOOT)
    canvas.text(MARGIN, 20, shorten(title, 120), size=14, weight="bold")
    for number, line in enumerate(lines):
        canvas.text(MARGIN, 50 + 20 * number, line, size=9)
    delta = after.image - before.image
    factor = amplification(delta)
    scale = shared_scale([before.contributions, after.contributions])
    captions = (
        ("input", f"{shorten(before.name, 30)}  {before.score:.2f}"),
        (f"perturbation × {factor:g}", f"largest change {np.abs(delta).max() * 255:.3g} levels"),
        ("adversarial", f"{shorten(after.name, 30)}  {after.score:.2f}"),
        ("contributions before", shorten(before.name, 34)),
        ("contributions after", shorten(after.name, 34)),
    )
    pictures = (
        _picture(before.image),
        _picture(0.5 + factor * delta),
        _picture(after.image),
        *(_map(side.contributions, scale) for side in (before, after)),
    )
    for letter, left, (caption, line) in zip("abcde", COLUMNS, captions, strict=True):
        canvas.text(left, TITLE + 8, f"({letter})", weight="bold")
        canvas.text(left + 34, TITLE + 8, caption)
        canvas.text(left, TITLE + 32, line, color="#555555")
    height, width = fitted(before.contributions.shape, BOX)
    for left, pixels in zip(COLUMNS, pictures, strict=True):
        canvas.picture(pixels, left + (BOX - width) // 2, TITLE + CAPTION, width, height)
    canvas.text(
        COLUMNS[3],
        TITLE + CAPTION + BOX + 10,
        f"per pixel: green within ±{0.1 * scale:.3g}, yellow/cyan to ±{0.5 * scale:.3g}, "
        "red adds, blue subtracts beyond",
        color="#555555",
    )
    return canvas.figure


def amplification(delta: npt.NDArray[np.floating]) -> float:
    """The factor 1, 2, 5, 10, … at which a perturbation's 99.9th percentile fills the range."""
    largest = float(np.quantile(np.abs(delta), 0.999)) or float(np.abs(delta).max())
    if largest == 0:
        return 1.0
    wanted = 0.5 / largest
    power = 10.0 ** np.floor(np.log10(wanted)) if wanted > 1 else 1.0
    return float(max(step * power for step in (1, 2, 5) if step * power <= max(wanted, 1)))


def _picture(image: npt.NDArray[np.floating]) -> RGB:
    grey = image.repeat(3, axis=2) if image.shape[2] == 1 else image
    pixels: RGB = np.rint(np.clip(grey, 0, 1) * 255).astype(np.uint8)
    return pixels


def _map(values: FloatMap, scale: float) -> RGB:
    block = ceil(max(values.shape) / BOX)
    reduced = strongest(values, fitted(values.shape, BOX)) if block > 1 else values
    return colorize(reduced, scale, "bands")
