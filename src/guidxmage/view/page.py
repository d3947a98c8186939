"""The page of an explanation whose whole score lies on the picture.

For each target: the input, the whole map over it with a sentence, and what lies on each object; the
same score at every depth, from pixels to the last layer; and the pixels' contributions alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from guidxmage.view.bars import BAR_HEIGHT, Bars, draw_bars
from guidxmage.view.canvas import FAINT_INK, Canvas, fitted
from guidxmage.view.colors import FloatMap
from guidxmage.view.diverging import over_photo
from guidxmage.view.legend import LEGEND_HEIGHT, Legend
from guidxmage.view.outlines import draw_names, outlined
from guidxmage.view.panel import brief, decimals, number, shorten, whole_parts
from guidxmage.view.placed import common_scale
from guidxmage.view.rows import (
    AFTER_ROW,
    BARS_WIDTH,
    BOX,
    CAPTION,
    COLUMNS,
    GAP,
    MARGIN,
    WIDTH,
    FigureRow,
    Scales,
    caption,
)
from guidxmage.view.strip import Strip

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDE = 672
"""Side of the square that holds the whole map: three times the usual input."""

SIDE = COLUMNS[1] + WIDE + GAP
SIDE_WIDTH = WIDTH - MARGIN - SIDE
TITLE, ABOUT, HEADING, LINE, BLOCK = 56, 34, 52, 25, 30
SENTENCE_SIZES, SENTENCE_LINES, SENTENCE_LINE = (12.5, 10.5, 9.0), 3, 2.75
NAMES, INPUT_NAMES, READING = 9.0, 8.5, 20
OUTLINE, LONGEST = 90, 22
_VALUE = re.compile(r" (?=[+−]?\d[\d.]*(?:[,:]|$))")
CONVENTION = (
    "The shares add up to the score exactly. Where they lie is a convention: each is spread evenly "
    "over its cell of the picture. What subtracts is not evidence against the class, and a share "
    "is not what would change if its part were removed."
)


@dataclass(frozen=True)
class PageRow:
    """One target on the page. first: of its image, so that the input is drawn."""

    row: FigureRow
    first: bool
    canvas: Canvas

    @cached_property
    def main(self) -> FloatMap:
        """The whole map at the chosen depth, smoothed, as large as it is drawn."""
        return self.row.panel.depths[0].drawn(WIDE)

    @cached_property
    def strip(self) -> Strip:
        """The maps of all depths."""
        return Strip.of(self.row, self.canvas)

    @cached_property
    def display(self) -> tuple[int, int]:
        """Height and width of the whole map on the figure."""
        return fitted(self.row.values.shape, WIDE)

    @cached_property
    def said(self) -> list[str]:
        """How the score is made up, where that is exact, and what else there is to say."""
        panel = self.row.panel
        words = "  ·  ".join(filter(None, (panel.equation(), panel.exactness, panel.note)))
        return self.canvas.wrapped(words, WIDTH - 2 * MARGIN, 9.5, "  ·  ")

    @cached_property
    def sentence(self) -> tuple[list[str], float]:
        """The sentence in lines as wide as the map, and their size: smaller for many."""
        # A name and its value stay together.
        said, lines = _VALUE.sub("\N{NO-BREAK SPACE}", self.row.panel.sentence), []
        for size in SENTENCE_SIZES:
            lines = self.canvas.wrapped(said, WIDE, size, weight="bold") if said else []
            if len(lines) <= SENTENCE_LINES:
                return lines, size
        return lines, SENTENCE_SIZES[-1]

    @cached_property
    def words(self) -> list[str]:
        """What the pixels alone are, beside them."""
        panel = self.row.panel
        placed, unplaced = panel.placed()
        digits = decimals(panel.score, placed)
        said = (
            f"Of the score {number(panel.score, digits)} the pixels' own contributions sum to "
            f"{number(panel.pixel_sum(), digits)}. The bias carries the rest: "
            f"{number(placed, digits)} of it lies at positions of feature maps and is part of the "
            f"whole map above, {number(unplaced, digits)} has no place."
        )
        return self.canvas.wrapped(said, BOX, 8.5)

    @cached_property
    def reading(self) -> list[str]:
        """How the whole map is to be read, once for each image."""
        return self.canvas.wrapped(CONVENTION, SIDE_WIDTH, 8.5) if self.first else []

    # --- heights -----------------------------------------------------------------------------

    @cached_property
    def heading(self) -> int:
        """Of what stands above the pictures."""
        return HEADING + LINE * len(self.said) + 8

    @cached_property
    def answer(self) -> int:
        """Of the input, the whole map with its sentence, and the bars."""
        left = LEGEND_HEIGHT + (self.row.display[0] + 8 if self.first else 0)
        lines, size = self.sentence
        middle = self.display[0] + 14 + round(SENTENCE_LINE * size * len(lines))
        right = self._bars + (READING + LINE * len(self.reading)) * bool(self.reading)
        return max(left, middle, right)

    @property
    def _bars(self) -> int:
        return Bars.of_whole(self.row.panel).lines * BAR_HEIGHT

    @cached_property
    def pixels(self) -> int:
        """Of the pixels' maps and bars, and the words beside them."""
        return max(self.row.height, LINE * len(self.words))

    @property
    def height(self) -> int:
        """Of all of it."""
        blocks = self.heading + CAPTION + self.answer + BLOCK
        blocks += self.strip.height + BLOCK if self.strip else 0
        return blocks + CAPTION + self.pixels + AFTER_ROW

    # --- drawing -----------------------------------------------------------------------------

    def draw(self, top: int, scales: Scales, scale: float, given: bool) -> None:
        """All of it; scale: of the whole maps, and whether it was given."""
        canvas, row = self.canvas, self.row
        canvas.rule(MARGIN, top, WIDTH - 2 * MARGIN)
        self._draw_heading(top)
        top += self.heading
        if self.first:
            caption(canvas, COLUMNS[0], top, "a", row.input_words())
        chosen = row.panel.depths[0]
        words = f"the whole score, cut at {chosen.name()}"
        title = canvas.shortened(words, WIDE, weight="bold")
        canvas.text(COLUMNS[1], top + 6, title, weight="bold")
        side = "what lies on each object" if row.panel.objects is not None else "what adds up"
        canvas.text(SIDE, top + 6, side, weight="bold")
        self._draw_answer(top + CAPTION, scale, given)
        top += CAPTION + self.answer + BLOCK
        if self.strip:
            self.strip.draw(top, scale)
            top += self.strip.height + BLOCK
        self._draw_pixels(top, scales)

    def _draw_heading(self, top: int) -> None:
        panel, canvas = self.row.panel, self.canvas
        digits = decimals(panel.score)
        words = f"{panel.heading()}:  score {number(panel.score, digits)} {panel.unit}".rstrip()
        canvas.text(MARGIN, top + 14, words, size=12.5, weight="bold")
        if panel.probability is not None:
            left = MARGIN + canvas.width_of(words, 12.5, weight="bold") + 24
            canvas.text(left, top + 17, _probable(panel.probability), size=10.5)
        for line, words in enumerate(self.said):
            canvas.text(MARGIN, top + HEADING + LINE * line, words, size=9.5)

    def _draw_answer(self, top: int, scale: float, given: bool) -> None:
        canvas, row = self.canvas, self.row
        height, width = self.display
        below = top
        if self.first:
            row.draw_input(canvas, COLUMNS[0], top, middle=False, size=INPUT_NAMES)
            below += row.display[0] + 8
        sigma = brief(row.panel.depths[0].sigma, 2)
        Legend(canvas, COLUMNS[0], below, BOX, scale, given).draw_whole(f"σ = {sigma} px")
        drawn = over_photo(row.photo(self.main.shape), self.main, scale)
        labels = row.panel.labels if row.names() else None
        drawn = outlined(drawn, labels, self.display, OUTLINE)
        canvas.picture(drawn, COLUMNS[1], top, width, height)
        box = (COLUMNS[1], top, height, width)
        names, values = self._valued_names()
        draw_names(canvas, labels, names, box, instead=values, size=NAMES, dark=True)
        lines, size = self.sentence
        for line, words in enumerate(lines):
            place = top + height + 14 + SENTENCE_LINE * size * line
            canvas.text(COLUMNS[1], place, words, size=size, weight="bold")
        draw_bars(canvas, Bars.of_whole(row.panel), SIDE, top, width=SIDE_WIDTH)
        place = top + self._bars + READING
        for line, words in enumerate(self.reading):
            canvas.text(SIDE, place + LINE * line, words, size=8.5, color=FAINT_INK)

    def _valued_names(self) -> tuple[dict[int, str], dict[int, str]]:
        """The objects' names with what lies on them, and that alone: the sign is told in text."""
        bars = [part for part in whole_parts(self.row.panel) if part.label is not None]
        digits = max(0, decimals(*(part.value for part in bars)) - 1) if bars else 0
        values = {
            part.label: number(part.value, digits, sign=True)
            for part in bars
            if part.label is not None
        }
        names = {part.label: shorten(part.name, LONGEST) for part in bars}
        return {label: f"{names[label]} {value}" for label, value in values.items()}, values

    def _draw_pixels(self, top: int, scales: Scales) -> None:
        canvas, row = self.canvas, self.row
        canvas.text(COLUMNS[0], top + 6, "the pixels alone", weight="bold")
        for letter, left, words in zip("bcd", COLUMNS[1:], row.captions()[1:], strict=True):
            caption(canvas, left, top, letter, words)
        top += CAPTION
        for line, words in enumerate(self.words):
            canvas.text(COLUMNS[0], top + LINE * line, words, size=8.5, color=FAINT_INK)
        row.draw_maps(canvas, top, scales)
        draw_bars(canvas, Bars.of(row.panel), COLUMNS[3], top, width=BARS_WIDTH)


@dataclass(frozen=True)
class Page:
    """All targets, with what stands at the top."""

    rows: list[PageRow]
    canvas: Canvas
    title: str
    about: list[str]

    @classmethod
    def of(cls, rows: Sequence[FigureRow], title: str, about: str) -> Page:
        """The page of rows, each with at least one whole map."""
        canvas = Canvas(WIDTH, TITLE)
        firsts = [n == 0 or not _same_input(rows[n - 1], row) for n, row in enumerate(rows)]
        lines = canvas.wrapped(about, WIDTH - 2 * MARGIN, 9.5, "  ·  ") if about else []
        made = [PageRow(row, first, canvas) for row, first in zip(rows, firsts, strict=True)]
        return cls(made, canvas, title, lines)

    def drawn(
        self, scales: Scales, given: tuple[float | None, float | None, float | None]
    ) -> Figure:
        """The figure; given: the scales of pixels, smoothed values and whole maps, if they were."""
        top = (TITLE if self.title else MARGIN) + LINE * len(self.about) + 10 * bool(self.about)
        rows = self.rows
        # Scores of different units have nothing to compare.
        units = {row.row.panel.unit for row in rows}
        common = {u: common_scale(r.main for r in rows if r.row.panel.unit == u) for u in units}
        self.canvas.set_height(top + sum(row.height for row in rows) + LEGEND_HEIGHT)
        if self.title:
            words = self.canvas.shortened(self.title, WIDTH - 2 * MARGIN, 14, weight="bold")
            self.canvas.text(MARGIN, 18, words, size=14, weight="bold")
        for line, words in enumerate(self.about):
            place = (TITLE if self.title else MARGIN) + LINE * line
            self.canvas.text(MARGIN, place, words, size=9.5, color=FAINT_INK)
        for row in rows:
            scale = common[row.row.panel.unit] if given[2] is None else given[2]
            row.draw(top, scales, scale, given[2] is not None)
            top += row.height
        scales.draw_legends(self.canvas, top, given[0], given[1])
        return self.canvas.figure


def _same_input(one: FigureRow, other: FigureRow) -> bool:
    first, second = one.panel.image, other.panel.image
    if first is None or second is None:
        return False
    return first is second or (
        first.size == second.size and np.array_equal(np.asarray(first), np.asarray(second))
    )


def _probable(share: float) -> str:
    """A probability as it is said."""
    percent = 100 * share
    text = f"{percent:.1f}" if percent < 99.95 or share == 1 else "> 99.9"
    return f"probability {'< 0.1' if 0 < percent < 0.05 else text} %"
