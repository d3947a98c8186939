"""Robust accuracy against ε, a line for each network and a plot for each part of the image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from guidxmage.view.canvas import FAINT_INK, INK, RULE, Canvas
from guidxmage.view.panel import shorten

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEFT, TOP, WIDTH, HEIGHT, GAP, FOOT, NAMES = 84, 96, 380, 330, 40, 76, 250
MARKERS = "osD^vP*X<>"


@dataclass(frozen=True)
class MeanCurve:
    """Accuracies in 0–1 at rising ε, the first of them often 0; spreads: ± over seeds."""

    name: str
    eps: tuple[float, ...]
    accuracy: tuple[float, ...]
    spreads: tuple[float, ...]


def curves_figure(
    plots: Sequence[tuple[str, Sequence[MeanCurve]]], title: str, axis: str
) -> Figure:
    """Plots side by side on the same axes; `axis` says what ε is measured in."""
    width = LEFT + len(plots) * (WIDTH + GAP) + NAMES
    canvas = Canvas(width, TOP + HEIGHT + FOOT)
    canvas.text(LEFT, 18, shorten(title, 110), size=13, weight="bold")
    for number, (name, lines) in enumerate(plots):
        left = LEFT + number * (WIDTH + GAP)
        canvas.text(left, TOP - 34, name, weight="bold")
        axes = canvas.axes(left, TOP, WIDTH, HEIGHT)
        axes.set_axis_on()
        for place, line in enumerate(lines):
            axes.errorbar(
                line.eps,
                [100 * value for value in line.accuracy],
                yerr=[100 * value for value in line.spreads],
                marker=MARKERS[place % len(MARKERS)],
                markersize=4,
                linewidth=1.4,
                capsize=2,
                label=str(place),
            )
        axes.set_ylim(-3, 103)
        axes.grid(visible=True, color=RULE, linewidth=0.5)
        axes.tick_params(labelsize=8, colors=FAINT_INK, labelleft=number == 0)
        axes.set_xlabel(axis, fontsize=9, color=INK)
        if number == 0:
            axes.set_ylabel("right answers, %", fontsize=9, color=INK)
        if number == len(plots) - 1:
            found = axes.legend(
                loc="upper left", bbox_to_anchor=(1.02, 1), frameon=False, fontsize=8
            )
            # Set afterwards: matplotlib leaves out labels that begin with an underscore.
            for text, line in zip(found.get_texts(), lines, strict=True):
                text.set_parse_math(False)
                text.set_text(shorten(line.name, 26))
    return canvas.figure
