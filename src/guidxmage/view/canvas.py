"""A figure on which everything is placed in pixels from the upper left corner."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from guidxmage.errors import InputError, MissingExtraError
from guidxmage.view.colors import RGB, FloatMap

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 150
TALLEST = 60_000
"""The Agg renderer draws at most 2¹⁶ pixels in each direction."""

INK, FAINT_INK, RULE = "#1a1a1a", "#555555", "#d5d5d5"


class Canvas:
    """A matplotlib Figure of so many pixels, drawn without pyplot or global settings."""

    def __init__(self, width: int, height: int) -> None:
        try:
            from matplotlib.backends.backend_agg import FigureCanvasAgg

            from guidxmage.view.glyphs import DrawableFigure
        except ImportError as error:
            raise MissingExtraError("matplotlib", "view") from error
        self.width, self.height = width, _checked(height)
        size = (width / DPI, height / DPI)
        self.figure: Figure = DrawableFigure(figsize=size, dpi=DPI, facecolor="white")
        self.figure.set_layout_engine("none")
        FigureCanvasAgg(self.figure)
        self._widths: dict[Any, float] = {}

    def set_height(self, height: int) -> None:
        """Another height, as long as nothing is drawn."""
        self.height = _checked(height)
        self.figure.set_size_inches(self.width / DPI, height / DPI)

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        """Empty axes without frame or ticks."""
        box = (
            left / self.width,
            1 - (top + height) / self.height,
            width / self.width,
            height / self.height,
        )
        axes = self.figure.add_axes(box)
        axes.set_axis_off()
        return axes

    def text(self, left: float, top: float, text: str, size: float = 9, **style: Any) -> None:
        """Literal text (no mathematics markup), its upper left corner at the given place."""
        style = {"color": INK, "ha": "left", "va": "top"} | style
        self.figure.text(
            left / self.width,
            1 - top / self.height,
            text,
            fontsize=size,
            parse_math=False,
            usetex=False,
            **style,
        )

    def width_of(self, text: str, size: float = 9, **style: Any) -> float:
        """How many pixels wide a text is as it is drawn, in the fonts that have its characters."""
        from guidxmage.view.glyphs import make_drawable_text

        key = (text, size, tuple(sorted(style.items())))
        if key not in self._widths:
            made = self.figure.text(
                0, 0, text, fontsize=size, parse_math=False, usetex=False, **style
            )
            make_drawable_text(made)
            canvas: Any = self.figure.canvas
            self._widths[key] = float(made.get_window_extent(canvas.get_renderer()).width)
            made.remove()
        return self._widths[key]

    def shortened(self, text: str, width: float, size: float = 9, **style: Any) -> str:
        """A text on one line, at most so many pixels wide."""
        text = re.sub(r"[\t\r\n]+", " ", text).strip(" ")
        if self.width_of(text, size, **style) <= width:
            return text
        few, many = 0, len(text)
        while few + 1 < many:
            middle = (few + many) // 2
            fits = self.width_of(_cut(text, middle), size, **style) <= width
            few, many = (middle, many) if fits else (few, middle)
        return _cut(text, few)

    def wrapped(
        self, text: str, width: float, size: float = 9, between: str = " ", **style: Any
    ) -> list[str]:
        """Lines of at most so many pixels, broken at `between`; longer parts are shortened."""
        lines: list[str] = []
        for part in text.split(between):
            longer = f"{lines[-1]}{between}{part}" if lines else part
            if lines and self.width_of(longer, size, **style) <= width:
                lines[-1] = longer
                continue
            if lines:
                lines[-1] += between.rstrip()
            lines.append(self.shortened(part, width, size, **style))
        return lines

    def picture(self, pixels: RGB, left: float, top: float, width: int, height: int) -> Axes:
        """A picture, each of its pixels a rectangle of one colour."""
        axes = self.axes(left, top, width, height)
        axes.imshow(
            pixels, interpolation="none", aspect="auto", origin="upper", extent=(0, 1, 0, 1)
        )
        return axes

    def rule(self, left: float, top: float, width: float) -> None:
        """A thin horizontal line."""
        from matplotlib.lines import Line2D

        y = 1 - top / self.height
        ends = (left / self.width, (left + width) / self.width)
        self.figure.add_artist(Line2D(ends, (y, y), color=RULE, linewidth=0.8))


def _checked(height: int) -> int:
    if height > TALLEST:
        raise InputError("too many rows for one figure; draw fewer panels in each.")
    return height


def _cut(text: str, length: int) -> str:
    return f"{text[:length].rstrip(' ,')}…"


def fitted(shape: tuple[int, ...], box: int) -> tuple[int, int]:
    """The height and width at which an image (H, W) fills a square box, at least one pixel."""
    height, width = shape
    factor = box / max(height, width)
    return max(1, round(height * factor)), max(1, round(width * factor))


def strongest(values: FloatMap, shape: tuple[int, int]) -> FloatMap:
    """A map reduced to at most the given shape, so that a single strong pixel stays visible.

    Each value is the one of largest magnitude among those it stands for.
    """
    highest, lowest = values, values
    for axis, size in enumerate(shape):
        starts = _bin_starts(values.shape[axis], size)
        highest = np.maximum.reduceat(highest, starts, axis=axis)
        lowest = np.minimum.reduceat(lowest, starts, axis=axis)
    return np.where(highest >= -lowest, highest, lowest)


def average(values: FloatMap, shape: tuple[int, int]) -> FloatMap:
    """A map reduced to at most the given shape by averaging."""
    for axis, size in enumerate(shape):
        length = values.shape[axis]
        starts = _bin_starts(length, size)
        counts = np.diff(np.append(starts, length))
        sums = np.add.reduceat(values, starts, axis=axis)
        values = sums / (counts[:, None] if axis == 0 else counts)
    return values


def _bin_starts(length: int, size: int) -> npt.NDArray[np.intp]:
    bins = min(length, size)
    return np.arange(bins) * length // bins
