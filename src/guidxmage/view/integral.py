"""The figure of integrated gradients: the score along the line, and the slope that is summed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from guidxmage.view.canvas import FAINT_INK, INK, RULE, Canvas
from guidxmage.view.colors import BLUE, RED
from guidxmage.view.panel import brief, decimals, number, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    Values = npt.NDArray[np.float64]

WIDTH, MARGIN, TITLE = 1400, 28, 92
LEFT, PLOT_WIDTH, PLOT_HEIGHT, GAP, FOOT = 130, 1230, 290, 56, 76
CURVE, MARK = "#5c2987", "#D55E00"
RISE, FALL = ("#{:02x}{:02x}{:02x}".format(*color) for color in (RED, BLUE))


@dataclass(frozen=True, eq=False)
class Integral:
    """The score of one target at knots from 0 (baseline) to 1 (image), both (n,).

    exact: it is affine between the knots; otherwise it was sampled there. marks: places on the line
    that `words` name.
    """

    title: str
    knots: Values
    scores: Values
    exact: bool
    marks: tuple[float, ...] = ()
    words: str = ""


def draw_integral(integral: Integral) -> Figure:
    """Above the score, below its slope; the area below the slope is the sum of the attributions."""
    canvas = Canvas(WIDTH, TITLE + 2 * PLOT_HEIGHT + GAP + FOOT)
    canvas.text(MARGIN, 20, shorten(integral.title, 90), size=12, weight="bold")
    canvas.text(MARGIN, 54, _summary(integral), size=9)
    above = _axes(canvas, TITLE, "score")
    _draw_scores(above, integral)
    above.tick_params(labelbottom=False)
    below = _axes(canvas, TITLE + PLOT_HEIGHT + GAP, "slope of the score")
    _draw_slopes(below, integral)
    below.set_xlabel("s, from the baseline (0) to the image (1)", fontsize=9, color=INK)
    return canvas.figure


def _summary(integral: Integral) -> str:
    first, last = float(integral.scores[0]), float(integral.scores[-1])
    digits = decimals(first, last)
    count = len(integral.knots) - 1
    if integral.exact:
        how = f"{count:,} region{'s' if count > 1 else ''}, walked one by one: exact"
    else:
        how = f"sampled in {count:,} intervals: not exact between the knots"
    return (
        f"score at the baseline {number(first, digits)}, at the image {number(last, digits)}; "
        f"the attributions sum to {number(last - first, digits, sign=True)}  ·  {how}"
    )


def _axes(canvas: Canvas, top: int, label: str) -> Axes:
    axes = canvas.axes(LEFT, top, PLOT_WIDTH, PLOT_HEIGHT)
    axes.set_axis_on()
    axes.set_xlim(0, 1)
    axes.set_ylabel(label, fontsize=9, color=INK)
    axes.tick_params(labelsize=8, colors=FAINT_INK)
    axes.ticklabel_format(axis="y", style="plain", useOffset=False)
    axes.grid(visible=True, color=RULE, linewidth=0.5)
    axes.set_axisbelow(True)
    for side in axes.spines.values():
        side.set_color(RULE)
    return axes


def _draw_scores(axes: Axes, integral: Integral) -> None:
    marker: dict[str, Any] = (
        {"marker": ".", "markersize": 3.5} if len(integral.knots) <= 120 else {}
    )
    axes.plot(integral.knots, integral.scores, color=CURVE, linewidth=1.5, **marker)


def _draw_slopes(axes: Axes, integral: Integral) -> None:
    slopes = np.diff(integral.scores) / np.diff(integral.knots)
    axes.stairs(slopes.clip(min=0), integral.knots, fill=True, color=RISE, alpha=0.28, linewidth=0)
    axes.stairs(slopes.clip(max=0), integral.knots, fill=True, color=FALL, alpha=0.28, linewidth=0)
    axes.stairs(slopes, integral.knots, baseline=None, color=CURVE, linewidth=1.0)
    axes.axhline(0, color=INK, linewidth=0.6)
    # Slivers of regions may be steep by rounding; they carry no area.
    wide = np.diff(integral.knots) > 1e-6
    low, high = float(slopes[wide].min(initial=0)), float(slopes[wide].max(initial=0))
    room = 0.06 * ((high - low) or 1.0)
    axes.set_ylim(low - room, high + room)
    if integral.marks:
        at = np.searchsorted(integral.knots[1:-1], integral.marks, side="right")
        label = f"{integral.words} ({len(integral.marks)})"
        axes.plot(integral.marks, slopes[at], ".", color=MARK, markersize=5, label=label)
        axes.legend(loc="best", fontsize=8, frameon=True, framealpha=0.9, edgecolor=RULE)
    note = f"area: {brief(float(integral.scores[-1] - integral.scores[0]), 4)}"
    corner: dict[str, Any] = {"ha": "right", "va": "top", "fontsize": 8, "color": FAINT_INK}
    axes.text(0.995, 0.97, note, transform=axes.transAxes, **corner)
