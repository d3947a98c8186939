"""The figure of a ray: score profiles along a line, class changes, and where regions end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

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
CAPTION, STRIP, GAP = 52, 44, 78
BINS, MOST_TICKS, MOST_NAMED_CHANGES = 200, 150, 8

# Okabe and Ito's colours, told apart by most eyes.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F", "#000000")
SMALL: dict[str, Any] = {"fontsize": 8, "color": FAINT_INK, "parse_math": False}


@dataclass(frozen=True, eq=False)
class Profile:
    """What the figure of a ray shows.

    scores (n + 2, k) at knots (n + 2,) of the walked part, affine between them; `names` of the k
    classes; `first` the best class at s = 0 and `changes` (s, name) the best ones after it;
    `regions` on the walked part. Where the walk stopped early, `capped_at` says where; `sampled`
    (m, k) at `samples` (m,) shows the whole line, and `differing` how many decisions must flip
    on it.
    """

    title: str
    names: list[str]
    knots: Values
    scores: Values
    changes: list[tuple[float, str]]
    first: str
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
    if profile.capped_at is None:
        return f"walked from s = 0 to 1 through {profile.regions:,} regions; exact everywhere"
    return (
        f"walk capped at s = {brief(profile.capped_at, 4)} after {profile.regions:,} regions; "
        f"{profile.differing:,} decisions differ between the two ends, so at least as many flip"
    )


def _draw_exact(canvas: Canvas, profile: Profile, top: int) -> None:
    """The affine pieces; of a capped walk, which is short, as changes since s = 0."""
    short = profile.capped_at is not None
    caption = "change of each score since s = 0, on the walked part" if short else "scores"
    canvas.text(MARGIN, top, f"{'(a) ' if short else ''}{caption}: exact, affine in each region")
    axes = _plot(canvas, top + CAPTION, "score − score at s = 0" if short else "score")
    scores = profile.scores - profile.scores[0] if short else profile.scores
    marker = "." if len(profile.knots) <= 60 else ""
    for number, name in enumerate(profile.names):
        axes.plot(
            profile.knots,
            scores[:, number],
            color=COLORS[number % len(COLORS)],
            linewidth=1.4,
            marker=marker,
            markersize=3,
            label=shorten(name, 24),
        )
    end = float(profile.knots[-1]) or 1.0
    axes.set_xlim(0, end)
    _mark_changes(axes, profile, end)
    _legend(axes)
    strip = _axes(canvas, top + CAPTION + PLOT_HEIGHT, STRIP)
    _draw_boundaries(strip, profile, end)


def _mark_changes(axes: Axes, profile: Profile, end: float) -> None:
    """A line where the best class changes; the first few say which class it becomes."""
    for s, _ in profile.changes:
        axes.axvline(s, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
    named = [(0.0, profile.first), *profile.changes][: MOST_NAMED_CHANGES + 1]
    upwards = axes.get_xaxis_transform()
    for number, (s, name) in enumerate(named):
        text = shorten(name, 22) if number == 0 else f"{shorten(name, 22)}\ns = {brief(s, 6)}"
        late = s > 0.8 * end
        place: dict[str, Any] = {
            "ha": "right" if late else "left",
            "va": "top",
            "transform": upwards,
        }
        shift = (-0.006 if late else 0.006) * end
        height = 0.985 - 0.09 * (number % 4)
        box = {"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1.0}
        axes.text(s + shift, height, text, bbox=box, **place, **(SMALL | {"color": INK}))


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
    strip.set_ylabel(words, rotation=0, ha="right", va="center", labelpad=8, **SMALL)
    strip.xaxis.get_offset_text().set(fontsize=8, color=FAINT_INK)
    strip.set_xlabel("s, from the first image (0) to the second (1)", fontsize=9, color=INK)


def _draw_whole(canvas: Canvas, profile: Profile, top: int, capped_at: float) -> None:
    """The whole line as the network answers at even steps; not exact between them."""
    count = len(profile.samples)
    words = f"(b) scores on the whole line: sampled at the {count} dots, not exact between them"
    canvas.text(MARGIN, top, words)
    axes = _plot(canvas, top + CAPTION, "score")
    for number, name in enumerate(profile.names):
        axes.plot(
            profile.samples,
            profile.sampled[:, number],
            color=COLORS[number % len(COLORS)],
            linewidth=0.9,
            linestyle=(0, (2, 2)),
            marker="o",
            markersize=3,
            label=shorten(name, 24),
        )
    axes.axvspan(0, capped_at, color=INK, alpha=0.15, linewidth=0)
    axes.axvline(capped_at, color=INK, linewidth=0.8)
    note = f"capped at s = {brief(capped_at, 4)}"
    place: dict[str, Any] = {"transform": axes.get_xaxis_transform(), "va": "bottom"}
    axes.text(capped_at + 0.006, 0.02, note, **place, **(SMALL | {"color": INK}))
    axes.set_xlim(0, 1)
    axes.tick_params(labelbottom=True)
    axes.set_xlabel("s, from the first image (0) to the second (1)", fontsize=9, color=INK)
    _legend(axes)


def _plot(canvas: Canvas, top: int, label: str) -> Axes:
    axes = _axes(canvas, top, PLOT_HEIGHT)
    axes.set_ylabel(label, fontsize=9, color=INK)
    axes.tick_params(labelbottom=False)
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-3, 5))
    axes.yaxis.get_offset_text().set(fontsize=8, color=FAINT_INK)
    axes.grid(visible=True, color=RULE, linewidth=0.5)
    return axes


def _axes(canvas: Canvas, top: int, height: int) -> Axes:
    axes = canvas.axes(LEFT, top, PLOT_WIDTH, height)
    axes.set_axis_on()
    axes.tick_params(labelsize=8, colors=FAINT_INK)
    for side in axes.spines.values():
        side.set_color(RULE)
    return axes


def _legend(axes: Axes) -> None:
    legend = axes.legend(
        loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False, fontsize=8, borderaxespad=0
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
