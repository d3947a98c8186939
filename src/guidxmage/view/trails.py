"""The figure of compared trails: the matrix of all pairs, shares by layer, maps of two images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from guidxmage.view.canvas import FAINT_INK, INK, RULE, Canvas, fitted
from guidxmage.view.colors import RGB, FloatMap
from guidxmage.view.maps import BACKDROP
from guidxmage.view.panel import shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BOX, GAP, MARGIN = 216, 18, 28
COLUMNS = 7
WIDTH = 2 * MARGIN + COLUMNS * BOX + (COLUMNS - 1) * GAP
TITLE, HEAD, CAPTION, FOOT = 78, 66, 52, 84
CHART, CHART_LABELS, AXIS = 250, 230, 84
LONGEST_SITE = 30
CELL, MATRIX, NAMES, STAGE = 84, 560, 190, 208
MOST_TICKS = 60

PALE = np.array([(255, 255, 255), (222, 211, 236), (152, 117, 190), (92, 41, 135), (38, 6, 64)])
"""From no difference to the largest."""
CURVE, BAND = "#5c2987", "#ded3ec"
SMALL: dict[str, Any] = {"fontsize": 7, "color": FAINT_INK, "parse_math": False}


@dataclass(frozen=True, eq=False)
class Crowd:
    """All n images: their pictures (H, W, 3) where there are any, and the pairs' shares.

    matrix (n, n): share of all decisions that differ; stages: the same of some of the layers, by
    what these are; apart (layers, pairs): the same by layer;
    varying (layers,): share of the decisions that not all images take alike.
    """

    title: str
    names: Sequence[str]
    images: Sequence[RGB | None]
    matrix: FloatMap
    stages: Mapping[str, FloatMap]
    layers: Sequence[str]
    apart: FloatMap
    varying: FloatMap


@dataclass(frozen=True, eq=False)
class Apart:
    """Two images and, by layer, the share of channels that decide differently there, (H, W)."""

    heading: str
    line: str
    names: tuple[str, str]
    images: tuple[RGB | None, RGB | None]
    maps: Mapping[str, FloatMap]


def draw_trails(crowd: Crowd, aparts: Sequence[Apart]) -> Figure:
    """Of two images the pair and its layers; of more also the matrix of all pairs.

    All maps share one scale, from 0 to their largest value.
    """
    cell = min(CELL, MATRIX // len(crowd.names))
    several = len(crowd.names) > 2
    above = NAMES + len(crowd.names) * cell + 20 if several else 0
    row = HEAD + CAPTION + BOX + 26
    below = HEAD + CHART + CHART_LABELS
    canvas = Canvas(WIDTH, TITLE + above + len(aparts) * row + FOOT + below)
    canvas.text(MARGIN, 20, shorten(crowd.title, 90), size=13, weight="bold")
    top = TITLE
    if several:
        _draw_matrix(canvas, crowd, top, cell)
        top += above
    scale = max((float(m.max()) for one in aparts for m in one.maps.values()), default=0.0)
    for one in aparts:
        _draw_apart(canvas, one, top, scale or 1.0)
        top += row
    if any(one.maps for one in aparts):
        _draw_scale(canvas, scale or 1.0, top)
    _draw_layers(canvas, crowd, top + FOOT)
    return canvas.figure


def shaded(values: FloatMap, scale: float) -> RGB:
    """Values of any shape from 0 (white) to the scale (dark), (…, 3)."""
    at = np.linspace(0, 1, len(PALE))
    relative = np.clip(values / scale, 0, 1)
    channels = [np.interp(relative, at, PALE[:, channel]) for channel in range(3)]
    colors: RGB = np.rint(np.stack(channels, axis=-1)).astype(np.uint8)
    return colors


# --- two images ----------------------------------------------------------------------------------


def _draw_apart(canvas: Canvas, one: Apart, top: int, scale: float) -> None:
    canvas.rule(MARGIN, top, WIDTH - 2 * MARGIN)
    canvas.text(MARGIN, top + 12, shorten(one.heading, 100), size=10.5, weight="bold")
    canvas.text(MARGIN, top + 40, one.line, size=8.5, color=FAINT_INK)
    shape = next((i.shape[:2] for i in one.images if i is not None), (1, 1))
    tall, wide = fitted(shape, BOX)
    place = top + HEAD + CAPTION
    lefts = [MARGIN + column * (BOX + GAP) for column in range(COLUMNS)]
    for left, name, image in zip(lefts, one.names, one.images, strict=False):
        title, _, best = name.partition("\n")
        canvas.text(left, place - 44, f"{shorten(title, 26)}\n{shorten(best, 26)}", size=7.5)
        canvas.picture(_shown(image), left, place, wide, tall)
    for left, (site, values) in zip(lefts[2:], one.maps.items(), strict=False):
        size = f"{values.shape[0]}×{values.shape[1]}, {values.mean():.1%} differ"
        canvas.text(left, place - 44, f"{shorten(site, 26)}\n{size}", size=7.5)
        axes = canvas.picture(shaded(values, scale), left, place, wide, tall)
        _frame(axes)


def _shown(image: RGB | None) -> RGB:
    return np.full((1, 1, 3), BACKDROP, dtype=np.uint8) if image is None else image


def _frame(axes: Axes) -> None:
    axes.set_axis_on()
    axes.set_xticks([])
    axes.set_yticks([])
    for side in axes.spines.values():
        side.set(color=RULE, linewidth=0.8)


def _draw_scale(canvas: Canvas, scale: float, top: int) -> None:
    """The colours of the maps, right of the photos."""
    left, width = MARGIN + 2 * (BOX + GAP), 2 * BOX + GAP
    ramp = np.linspace(0, scale, 200)[None]
    _frame(canvas.picture(shaded(ramp, scale), left, top, width, 12))
    canvas.text(left, top + 16, "0", size=7, color=FAINT_INK)
    canvas.text(left + width, top + 16, f"{scale:.0%}", size=7, color=FAINT_INK, ha="right")
    words = "share of the channels that decide differently at a position"
    canvas.text(left + width + GAP, top - 3, words, size=7.5, color=FAINT_INK)


# --- all images ----------------------------------------------------------------------------------


def _draw_matrix(canvas: Canvas, crowd: Crowd, top: int, cell: int) -> None:
    """Which images share which decisions: a row and a column for each."""
    count = len(crowd.names)
    left, start = MARGIN + NAMES + cell + 8, top + HEAD + cell - 8
    canvas.text(MARGIN, top, "share of all decisions that differ", size=10.5, weight="bold")
    words = "each matrix has its own colours, from its nearest pair (white) to its farthest (dark)"
    canvas.text(MARGIN + 380, top + 4, words, size=8, color=FAINT_INK)
    side = count * cell
    axes = _draw_shares(canvas, crowd.matrix, (left, start, side))
    for number in range(count):
        place = start + number * cell
        thumb = _thumbnail(crowd.images[number], cell - 4)
        canvas.text(
            MARGIN + NAMES - 6,
            place + cell / 2,
            shorten(crowd.names[number], 22),
            size=min(8, 0.42 * cell),
            ha="right",
            va="center",
        )
        if thumb is not None and cell >= 16:
            tall, wide = thumb.shape[:2]
            canvas.picture(thumb, MARGIN + NAMES + 2, place + 2, wide, tall)
            canvas.picture(thumb, left + number * cell + 2, start - cell + 2, wide, tall)
        if cell >= 44:
            _write_row(axes, crowd.matrix, number)
    _draw_stages(canvas, crowd.stages, top, left + side)


def _draw_shares(canvas: Canvas, matrix: FloatMap, place: tuple[int, int, int]) -> Axes:
    """A square of shares, its colours from the smallest pair's to the largest's; place: left, top,
    side.
    """
    left, top, side = place
    low, high = _range(matrix)
    pixels = shaded(matrix - low, (high - low) or 1.0)
    pixels[np.diag_indices(len(matrix))] = 235
    axes = canvas.picture(pixels, left, top, side, side)
    _frame(axes)
    return axes


def _range(matrix: FloatMap) -> tuple[float, float]:
    """The smallest and the largest share of two different images."""
    pairs = matrix[np.triu_indices(len(matrix), 1)]
    return float(pairs.min()), float(pairs.max())


def _write_row(axes: Axes, matrix: FloatMap, number: int) -> None:
    count = len(matrix)
    low, high = _range(matrix)
    for column, share in enumerate(matrix[number]):
        dark = column != number and share - low > 0.45 * (high - low)
        axes.text(
            (column + 0.5) / count,
            1 - (number + 0.5) / count,
            "0" if column == number else f"{100 * share:.1f}%",
            ha="center",
            va="center",
            fontsize=7.5,
            color="white" if dark else INK,
            parse_math=False,
        )


def _draw_stages(canvas: Canvas, stages: Mapping[str, FloatMap], top: int, left: int) -> None:
    """The same matrix for parts of the network, right of the whole."""
    gap = (WIDTH - MARGIN - left - len(stages) * STAGE) / (len(stages) + 1)
    start = top + HEAD + CELL - 8
    for number, (words, matrix) in enumerate(stages.items()):
        place = round(left + gap + number * (STAGE + gap))
        low, high = _range(matrix)
        canvas.text(place, start - 46, f"{words}\n{low:.1%} to {high:.1%}", size=7.5)
        _draw_shares(canvas, matrix, (place, start, STAGE))


def _thumbnail(image: RGB | None, box: int) -> RGB | None:
    if image is None:
        return None
    tall, wide = fitted(image.shape[:2], max(1, box))
    return np.asarray(Image.fromarray(image).resize((wide, tall)))


def _draw_layers(canvas: Canvas, crowd: Crowd, top: int) -> None:
    """In order of execution the share of each layer's decisions that differ."""
    canvas.rule(MARGIN, top, WIDTH - 2 * MARGIN)
    words = "share of each layer's decisions that differ, layers in order of execution"
    canvas.text(MARGIN, top + 12, words, size=10.5, weight="bold")
    axes = canvas.axes(MARGIN + AXIS, top + HEAD, WIDTH - 2 * MARGIN - AXIS, CHART)
    axes.set_axis_on()
    at = np.arange(len(crowd.layers))
    shares = 100 * crowd.apart
    if shares.shape[1] == 1:
        axes.bar(at, shares[:, 0], width=0.72, color=CURVE, linewidth=0)
    else:
        low, middle, high = shares.min(1), np.median(shares, axis=1), shares.max(1)
        axes.bar(at, high - low, bottom=low, width=0.72, color=BAND, label="all pairs")
        axes.hlines(middle, at - 0.36, at + 0.36, color=CURVE, linewidth=1.8, label="median pair")
        axes.plot(
            at, 100 * crowd.varying, ".", color=INK, markersize=4, label="not shared by all images"
        )
        place: dict[str, Any] = {
            "loc": "lower right",
            "bbox_to_anchor": (1, 1.02),
            "borderaxespad": 0,
        }
        axes.legend(ncols=3, fontsize=7.5, frameon=False, **place)
    axes.set_xlim(-0.6, len(at) - 0.4)
    axes.set_ylim(bottom=0)
    _label_layers(axes, crowd.layers)


def _label_layers(axes: Axes, layers: Sequence[str]) -> None:
    step = ceil(len(layers) / MOST_TICKS)
    shown = range(0, len(layers), step)
    axes.set_xticks(list(shown), [shorten(layers[n], LONGEST_SITE) for n in shown], rotation=90)
    axes.tick_params(labelsize=6.5, colors=FAINT_INK, length=2)
    axes.tick_params(axis="y", labelsize=7.5)
    axes.set_ylabel("differing (%)", fontsize=8, color=INK)
    axes.grid(visible=True, axis="y", color=RULE, linewidth=0.5)
    axes.set_axisbelow(True)
    for name, side in axes.spines.items():
        side.set_color(RULE)
        side.set_visible(name in ("left", "bottom"))
