"""The figure of a ray: score profiles along a line, class changes, and where regions end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from guidxmage.view.canvas import FAINT_INK, INK, RULE, Canvas
from guidxmage.view.panel import brief, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    Values = npt.NDArray[np.float64]

WIDTH, MARGIN, TITLE = 1500, 24, 92
LEFT, PLOT_WIDTH, PLOT_HEIGHT = 140, 1080, 420
CAPTION, BAND, STRIP_GAP, STRIP, GAP = 56, 14, 10, 44, 78
LEGEND_ROW, CHANGE_ROWS = 26, 42
BINS, MOST_TICKS = 200, 150

# Okabe and Ito's colours, told apart by most eyes.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F", "#000000")
SMALL: dict[str, Any] = {"fontsize": 8, "color": FAINT_INK, "parse_math": False}


class Leader(NamedTuple):
    """From s on the best class is the one called `name`; `curve` is its number among the drawn."""

    s: float
    name: str
    curve: int | None


@dataclass(frozen=True, eq=False)
class Profile:
    """What the figure of a ray shows.

    scores (n + 2, k) at knots (n + 2,) of the walked part, affine between them; `names` of the k
    classes, at most 8; `leaders` the best classes one after the other, the first at s = 0;
    `regions` on the walked part. Where the walk stopped early, `capped_at` says where; `sampled`
    (m, k) at `samples` (m,) shows the whole line, and `differing` how many decisions must flip
    on it.
    """

    title: str
    names: list[str]
    knots: Values
    scores: Values
    leaders: list[Leader]
    regions: int
    capped_at: float | None
    differing: int
    samples: Values
    sampled: Values


def draw_profile(profile: Profile) -> Figure:
    """The walked part exactly and, where that is not the whole line, the whole line in samples."""
    panels = 1 if profile.capped_at is None else 2
    block = CAPTION + PLOT_HEIGHT + GAP
    canvas = Canvas(WIDTH, TITLE + panels * block + STRIP + 12 * panels)
    canvas.text(MARGIN, 20, shorten(profile.title, 90), size=11.5, weight="bold")
    canvas.text(MARGIN, 54, _summary(profile), size=9.5)
    _draw_exact(canvas, profile, TITLE)
    if profile.capped_at is not None:
        _draw_whole(canvas, profile, TITLE + block + STRIP + 12, profile.capped_at)
    return canvas.figure


def _summary(profile: Profile) -> str:
    regions = f"{profile.regions:,} region{'s' if profile.regions > 1 else ''}"
    if profile.capped_at is None:
        return f"walked from s = 0 to 1 through {regions}; exact everywhere"
    return (
        f"walk capped at s = {brief(profile.capped_at, 4)} after {regions}; "
        f"{profile.differing:,} decisions differ between the two ends, so at least as many flip"
    )


def _draw_exact(canvas: Canvas, profile: Profile, top: int) -> None:
    """The affine pieces; of a capped walk, which is short, as changes since s = 0."""
    short = profile.capped_at is not None
    caption = "change of each score since s = 0, on the walked part" if short else "scores"
    canvas.text(MARGIN, top, f"{'(a) ' if short else ''}{caption}: exact, affine in each region")
    scores = profile.scores - profile.scores[0] if short else profile.scores
    # Said in the label: the band above the plot takes the place of matplotlib's own factor.
    power = _power(scores)
    unit = f" (× 1e{power})" if power else ""
    axes = _plot(canvas, top + CAPTION, ("score − score at s = 0" if short else "score") + unit)
    scores = scores / 10.0**power
    marker = "." if len(profile.knots) <= 60 else ""
    for number in range(len(profile.names)):
        axes.plot(
            profile.knots,
            scores[:, number],
            color=COLORS[number],
            linewidth=1.4,
            marker=marker,
            markersize=3,
        )
    end = float(profile.knots[-1]) or 1.0
    axes.set_xlim(0, end)
    for change in profile.leaders[1:]:
        axes.axvline(change.s, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
    _legend(axes, profile.names)
    _draw_leaders(canvas, profile.leaders, end, top + CAPTION)
    _list_leaders(canvas, profile, top + CAPTION)
    strip = _axes(canvas, top + CAPTION + PLOT_HEIGHT + STRIP_GAP, STRIP)
    _draw_boundaries(strip, profile, end)


def _power(scores: Values) -> int:
    """The power of ten to draw very small or very large scores in, else 0."""
    largest = float(np.abs(scores).max())
    power = int(np.floor(np.log10(largest))) if largest > 0 else 0
    return power if abs(power) > 3 else 0


def _draw_leaders(canvas: Canvas, leaders: list[Leader], end: float, top: int) -> None:
    """A band above the plot in the colour of the class that is best there."""
    band = canvas.axes(LEFT, top - BAND - 2, PLOT_WIDTH, BAND)
    band.set_xlim(0, end)
    ends = [*(leader.s for leader in leaders[1:]), end]
    for leader, until in zip(leaders, ends, strict=True):
        color = RULE if leader.curve is None else COLORS[leader.curve]
        band.axvspan(leader.s, until, color=color, linewidth=0)


def _list_leaders(canvas: Canvas, profile: Profile, top: int) -> None:
    """Below the legend: which class is best from where on, as many as there is room for."""
    left, row = LEFT + PLOT_WIDTH + 20, top + LEGEND_ROW * len(profile.names) + 18
    canvas.text(left, row, "best class (band above)", size=8, weight="bold")
    room = (top + PLOT_HEIGHT + STRIP - row - LEGEND_ROW) // CHANGE_ROWS
    shown = profile.leaders if len(profile.leaders) <= room else profile.leaders[: room - 1]
    for number, leader in enumerate(shown):
        text = f"from s = {brief(leader.s, 6)}\n    {shorten(leader.name, 22)}"
        canvas.text(left, row + LEGEND_ROW + number * CHANGE_ROWS, text, size=8)
    if left_out := len(profile.leaders) - len(shown):
        place = row + LEGEND_ROW + len(shown) * CHANGE_ROWS
        canvas.text(left, place, f"and {left_out:,} more changes", size=8)


def _draw_boundaries(strip: Axes, profile: Profile, end: float) -> None:
    """Where regions end: a tick each, or how many there are in each part of the line."""
    boundaries = profile.knots[1:-1]
    strip.set_xlim(0, end)
    strip.set_yticks([])
    if len(boundaries) <= MOST_TICKS:
        strip.vlines(boundaries, 0, 1, color=INK, linewidth=0.6)
        strip.set_ylim(0, 1)
        words = "region\nboundaries"
    else:
        counts, edges = np.histogram(boundaries, bins=BINS, range=(0, end))
        strip.stairs(counts, edges, fill=True, color=FAINT_INK)
        strip.set_ylim(0, max(1, counts.max()) * 1.05)
        words = f"boundaries,\nup to {counts.max():,}\nper {brief(end / BINS, 2)}"
    strip.set_ylabel(words, rotation=0, ha="right", va="center", labelpad=8, y=0.3, **SMALL)
    strip.xaxis.get_offset_text().set(fontsize=8, color=FAINT_INK)
    strip.set_xlabel("s, from the first image (0) to the second (1)", fontsize=9, color=INK)


def _draw_whole(canvas: Canvas, profile: Profile, top: int, capped_at: float) -> None:
    """The whole line as the network answers at even steps; not exact between them."""
    count = len(profile.samples)
    words = f"(b) scores on the whole line: sampled at the {count} dots, not exact between them"
    canvas.text(MARGIN, top, words)
    axes = _plot(canvas, top + CAPTION, "score")
    for number in range(len(profile.names)):
        axes.plot(
            profile.samples,
            profile.sampled[:, number],
            color=COLORS[number],
            linewidth=0.9,
            linestyle=(0, (2, 2)),
            marker="o",
            markersize=3,
        )
    axes.axvspan(0, capped_at, color=INK, alpha=0.15, linewidth=0)
    axes.axvline(capped_at, color=INK, linewidth=0.8)
    note = f"capped at s = {brief(capped_at, 4)}"
    late = capped_at > 0.8
    axes.text(
        capped_at + (-0.006 if late else 0.006),
        0.02,
        note,
        transform=axes.get_xaxis_transform(),
        ha="right" if late else "left",
        va="bottom",
        **(SMALL | {"color": INK}),
    )
    axes.set_xlim(0, 1)
    axes.tick_params(labelbottom=True)
    axes.set_xlabel("s, from the first image (0) to the second (1)", fontsize=9, color=INK)
    _legend(axes, profile.names)


def _plot(canvas: Canvas, top: int, label: str) -> Axes:
    axes = _axes(canvas, top, PLOT_HEIGHT)
    axes.set_ylabel(label, fontsize=9, color=INK)
    axes.tick_params(labelbottom=False)
    axes.ticklabel_format(axis="y", style="plain", useOffset=False)
    axes.grid(visible=True, color=RULE, linewidth=0.5)
    return axes


def _axes(canvas: Canvas, top: int, height: int) -> Axes:
    axes = canvas.axes(LEFT, top, PLOT_WIDTH, height)
    axes.set_axis_on()
    axes.tick_params(labelsize=8, colors=FAINT_INK)
    for side in axes.spines.values():
        side.set_color(RULE)
    return axes


def _legend(axes: Axes, names: list[str]) -> None:
    legend = axes.legend(
        axes.get_lines()[: len(names)],
        list(map(str, range(len(names)))),
        loc="upper left",
        bbox_to_anchor=(1.01, 1),
        frameon=False,
        fontsize=8,
        borderaxespad=0,
    )
    # Set afterwards: matplotlib leaves out labels that begin with an underscore.
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_parse_math(False)
        text.set_text(shorten(name, 22))
