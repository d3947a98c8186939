"""Mean curves with bands of confidence, a plot for each measure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from guidxmage.view.canvas import FAINT_INK, INK, RULE, Canvas
from guidxmage.view.panel import shorten

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEFT, TOP, WIDTH, HEIGHT, GAP, FOOT, NAMES = 84, 96, 460, 380, 40, 76, 270
STYLES = ("-", "--", ":")
COLORS = ("#ce181e", "#1b3ab2", "#1a8a3c", "#b07a00", "#7a2fa0", "#00838f")


@dataclass(frozen=True)
class Band:
    """Values in 0–1 at equal steps from 0 to 1, and the interval around each."""

    name: str
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


def bands_figure(
    plots: Sequence[tuple[str, Sequence[Band]]], title: str, axis: str, value: str
) -> Figure:
    """Plots side by side on the same axes; `axis` and `value` say what is drawn against what."""
    canvas = Canvas(LEFT + len(plots) * (WIDTH + GAP) + NAMES, TOP + HEIGHT + FOOT)
    canvas.text(LEFT, 18, shorten(title, 110), size=13, weight="bold")
    for number, (name, bands) in enumerate(plots):
        left = LEFT + number * (WIDTH + GAP)
        canvas.text(left, TOP - 34, name, weight="bold")
        axes = canvas.axes(left, TOP, WIDTH, HEIGHT)
        axes.set_axis_on()
        for place, band in enumerate(bands):
            steps = [step / (len(band.mean) - 1) for step in range(len(band.mean))]
            color, style = COLORS[place % len(COLORS)], STYLES[place // len(COLORS) % len(STYLES)]
            axes.fill_between(steps, band.low, band.high, color=color, alpha=0.07, linewidth=0)
            axes.plot(
                steps, band.mean, color=color, linestyle=style, linewidth=1.4, label=str(place)
            )
        axes.set_ylim(-0.03, 1.03)
        axes.grid(visible=True, color=RULE, linewidth=0.5)
        axes.tick_params(labelsize=8, colors=FAINT_INK, labelleft=number == 0)
        axes.set_xlabel(axis, fontsize=9, color=INK)
        if number == 0:
            axes.set_ylabel(value, fontsize=9, color=INK)
        if number == len(plots) - 1:
            found = axes.legend(
                loc="upper left", bbox_to_anchor=(1.02, 1), frameon=False, fontsize=8
            )
            for text, band in zip(found.get_texts(), bands, strict=True):
                text.set_parse_math(False)
                text.set_text(shorten(band.name, 28))
    return canvas.figure
