"""The figure of an attack: before, the perturbation, after, and the maps of both."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image

from guidxmage.view.canvas import FAINT_INK, Canvas, fitted, strongest
from guidxmage.view.colors import RGB, FloatMap, colorize, shared_scale
from guidxmage.view.diverging import over_photo
from guidxmage.view.legend import LEGEND_HEIGHT, Legend
from guidxmage.view.panel import brief, shorten
from guidxmage.view.placed import PlacedMap, common_scale

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
    for a network that cannot be explained; `difference` is the difference of these two scores, and
    `whole` where on the picture it lies.
    """

    image: npt.NDArray[np.floating]
    name: str
    score: float
    contributions: FloatMap | None
    difference: float
    whole: PlacedMap | None = None


@dataclass(frozen=True)
class _Cell:
    """One picture with two lines above it."""

    pixels: RGB
    caption: str
    said: str
    ringed: bool = False


def attack_figure(before: Side, after: Side, title: str, lines: list[str]) -> Figure:
    """Original, perturbation, adversarial image, and the maps of both on one scale each.

    The perturbation is drawn as mid-grey plus what was added, amplified by the factor that makes
    its largest entry visible; the factor is stated. A few changed pixels are ringed. Below lie the
    whole maps, where there are any, and the contributions; maps that there are not are left out.
    """
    delta = after.image - before.image
    above = _images(before, after, delta)
    wholes, whole_scale = _wholes(before, after)
    maps, scale = _contributions(before, after)
    below = [*wholes, *maps] if wholes else []
    rows = [above, below] if below else [[*above, *maps]]
    foot = LEGEND_HEIGHT if maps and not below else MARGIN
    width = COLUMNS[max(map(len, rows)) - 1] + BOX + MARGIN
    height, _ = fitted(before.image.shape[:2], BOX)
    step = CAPTION + height + GAP if below else CAPTION + BOX
    # Beside the three images stand the legends of what lies below.
    step = max(step, 2 * LEGEND_HEIGHT + 2 * GAP) if below else step
    canvas = Canvas(width, TITLE + len(rows) * step + foot)
    canvas.text(MARGIN, 20, canvas.shortened(title, width - 2 * MARGIN, 13), 13, weight="bold")
    for number, line in enumerate(lines):
        canvas.text(MARGIN, 62 + 22 * number, line, size=9)
    letters = iter("abcdefg")
    for number, row in enumerate(rows):
        for left, cell in zip(COLUMNS, row, strict=False):
            _draw_cell(canvas, cell, (left, TITLE + number * step), next(letters), delta)
    if below:
        legend = Legend(canvas, COLUMNS[3], TITLE + GAP, BOX, whole_scale)
        legend.draw_whole(_smoothing(after))
        legend = Legend(canvas, COLUMNS[3], TITLE + LEGEND_HEIGHT + 2 * GAP, BOX, scale)
        legend.draw_distribution("bands", "(f), (g) each pixel")
    elif maps:
        legend = Legend(canvas, COLUMNS[3], TITLE + step + 8, 2 * BOX + GAP, scale)
        legend.draw_distribution("bands", "(d), (e) each pixel")
    return canvas.figure


def _draw_cell(
    canvas: Canvas,
    cell: _Cell,
    place: tuple[int, int],
    letter: str,
    delta: npt.NDArray[np.floating],
) -> None:
    left, top = place
    canvas.text(left, top + 8, f"({letter})", weight="bold")
    canvas.text(left + 40, top + 8, canvas.shortened(cell.caption, BOX - 40))
    said = canvas.shortened(cell.said, BOX)
    canvas.text(left, top + 34, said, color=FAINT_INK)
    height, width = fitted(delta.shape[:2], BOX)
    inset = (BOX - width) // 2
    axes = canvas.picture(cell.pixels, left + inset, top + CAPTION, width, height)
    if cell.ringed:
        _ring(axes, delta)


def _images(before: Side, after: Side, delta: npt.NDArray[np.floating]) -> list[_Cell]:
    factor, largest = amplification(delta), float(np.abs(delta).max()) * 255
    return [
        _Cell(picture(before.image), "input", _answer(before)),
        _Cell(
            picture(0.5 + factor * delta),
            f"perturbation × {factor:g}",
            f"largest change {brief(largest, 3)} of 255",
            ringed=True,
        ),
        _Cell(picture(after.image), "adversarial", _answer(after), ringed=True),
    ]


def _answer(side: Side) -> str:
    return f"{shorten(side.name, 30)}  {brief(side.score, 4)}"


def _wholes(before: Side, after: Side) -> tuple[list[_Cell], float]:
    """Where the difference of the scores lies, before and after; and the scale of both."""
    if before.whole is None or after.whole is None:
        return [], 0.0
    drawn = [one.drawn(BOX) for one in (before.whole, after.whole)]
    unplaced_of = {"before": before.whole.unplaced, "after": after.whole.unplaced}
    scale = common_scale(drawn)
    cells = []
    for when, side, values in zip(("before", "after"), (before, after), drawn, strict=True):
        photo = Image.fromarray(picture(side.image)).resize(values.shape[::-1])
        pixels = over_photo(np.asarray(photo), values, scale)
        said = f"score {brief(side.difference, 3)} (no place {brief(unplaced_of[when], 2)})"
        cells.append(_Cell(pixels, f"{when}: whole score, {_stride(side)}", said))
    return cells, scale


def _stride(side: Side) -> str:
    """The depth in a few words; without the layer, for which there is no room."""
    return "" if side.whole is None else side.whole.name().partition(" (")[0]


def _smoothing(side: Side) -> str:
    whole = side.whole
    return "" if whole is None else f"σ = {brief(whole.sigma, 2)} px"


def _contributions(before: Side, after: Side) -> tuple[list[_Cell], float]:
    """What each pixel adds by itself, before and after; and the scale of both."""
    known = [
        (when, side, side.contributions)
        for when, side in (("before", before), ("after", after))
        if side.contributions is not None
    ]
    if not known:
        return [], 0.0
    scale = shared_scale(values for _, _, values in known)
    cells = [
        _Cell(
            _map(values, scale),
            f"{when}: new minus old class" if side.whole is None else f"{when}: the pixels alone",
            f"sum and bias {brief(side.difference, 4)}"
            if side.whole is None
            else f"Σ pixels {brief(float(values.sum()), 3)}",
        )
        for when, side, values in known
    ]
    return cells, scale


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
