"""The figure of an attack: before, the perturbation, after, and the contributions of both."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from guidxmage.view.canvas import FAINT_INK, Canvas, fitted, strongest
from guidxmage.view.colors import RGB, FloatMap, colorize, shared_scale
from guidxmage.view.legend import LEGEND_HEIGHT, Legend
from guidxmage.view.panel import brief, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BOX, MARGIN, GAP = 360, 24, 22
TITLE, CAPTION = 104, 66
COLUMNS = [MARGIN + column * (BOX + GAP) for column in range(5)]
MOST_RINGS = 60


@dataclass(frozen=True)
class Side:
    """One side of an attack: an image (H, W, C) in [0, 1], the network's answer and its score.

    contributions (H, W): what each pixel adds to the new class's score minus the old one's, None
    for a network that cannot be explained; `difference` is the difference of these two scores.
    """

    image: npt.NDArray[np.floating]
    name: str
    score: float
    contributions: FloatMap | None
    difference: float


def attack_figure(before: Side, after: Side, title: str, lines: list[str]) -> Figure:
    """Original, perturbation, adversarial image, and both contribution maps on one scale.

    The perturbation is drawn as mid-grey plus what was added, amplified by the factor that makes
    its largest entry visible; the factor is stated. A few changed pixels are ringed. The maps are
    left out where there are none.
    """
    maps = [side.contributions for side in (before, after) if side.contributions is not None]
    columns = COLUMNS[: 3 + len(maps)]
    foot = LEGEND_HEIGHT if maps else MARGIN
    canvas = Canvas(columns[-1] + BOX + MARGIN, TITLE + CAPTION + BOX + foot)
    canvas.text(MARGIN, 20, shorten(title, 120), size=13, weight="bold")
    for number, line in enumerate(lines):
        canvas.text(MARGIN, 62 + 22 * number, line, size=9)
    delta = after.image - before.image
    factor = amplification(delta)
    scale = shared_scale(maps) if maps else 0.0
    pictures = [picture(before.image), picture(0.5 + factor * delta), picture(after.image)]
    pictures += [_map(values, scale) for values in maps]
    for letter, left, words in zip(
        "abcde", columns, _captions(before, after, factor), strict=False
    ):
        canvas.text(left, TITLE + 8, f"({letter})", weight="bold")
        canvas.text(left + 40, TITLE + 8, words[0])
        canvas.text(left, TITLE + 34, words[1], color=FAINT_INK)
    height, width = fitted(before.image.shape[:2], BOX)
    for number, (left, pixels) in enumerate(zip(columns, pictures, strict=True)):
        axes = canvas.picture(pixels, left + (BOX - width) // 2, TITLE + CAPTION, width, height)
        if number in (1, 2):
            _ring(axes, delta)
    if maps:
        legend = Legend(canvas, columns[3], TITLE + CAPTION + BOX + 8, 2 * BOX + GAP, scale)
        legend.draw_distribution("bands", "(d), (e) each pixel")
    return canvas.figure


def _captions(before: Side, after: Side, factor: float) -> list[tuple[str, str]]:
    """Two lines above each picture."""
    largest = float(np.abs(after.image - before.image).max()) * 255
    contrast = "new class minus old class"
    return [
        ("input", f"{shorten(before.name, 30)}  {brief(before.score, 4)}"),
        (f"perturbation × {factor:g}", f"largest change {brief(largest, 3)} of 255"),
        ("adversarial", f"{shorten(after.name, 30)}  {brief(after.score, 4)}"),
        (f"before: {contrast}", f"sum and bias {brief(before.difference, 4)}"),
        (f"after: {contrast}", f"sum and bias {brief(after.difference, 4)}"),
    ]


def _ring(axes: Axes, delta: npt.NDArray[np.floating]) -> None:
    """Rings around changed pixels that are too few to be seen."""
    rows, columns = np.nonzero((delta != 0).any(axis=2))
    if not 0 < len(rows) <= MOST_RINGS:
        return
    height, width = delta.shape[:2]
    place = ((columns + 0.5) / width, 1 - (rows + 0.5) / height)
    for color, line in (("white", 2.4), ("black", 1.0)):
        axes.scatter(*place, s=60, facecolors="none", edgecolors=color, linewidths=line)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)


def amplification(delta: npt.NDArray[np.floating]) -> float:
    """The factor 1, 2, 5, 10, … at which a perturbation's 99.9th percentile fills the range."""
    largest = float(np.quantile(np.abs(delta), 0.999)) or float(np.abs(delta).max())
    if largest == 0:
        return 1.0
    wanted = 0.5 / largest
    power = 10.0 ** np.floor(np.log10(wanted)) if wanted > 1 else 1.0
    return float(max(step * power for step in (1, 2, 5) if step * power <= max(wanted, 1)))


def picture(image: npt.NDArray[np.floating]) -> RGB:
    """An image (H, W, C) in [0, 1] as colours; grey ones as three equal channels."""
    grey = image.repeat(3, axis=2) if image.shape[2] == 1 else image
    pixels: RGB = np.rint(np.clip(grey, 0, 1) * 255).astype(np.uint8)
    return pixels


def _map(values: FloatMap, scale: float) -> RGB:
    block = ceil(max(values.shape) / BOX)
    reduced = strongest(values, fitted(values.shape, BOX)) if block > 1 else values
    return colorize(reduced, scale, "bands")
