"""The same score at every depth: small maps from pixels to the last layer."""

from __future__ import annotations

from dataclasses import dataclass

from guidxmage.view.canvas import FAINT_INK, INK, Canvas, fitted
from guidxmage.view.colors import FloatMap
from guidxmage.view.diverging import over_photo
from guidxmage.view.panel import brief, decimals, number
from guidxmage.view.placed import PlacedMap, in_order
from guidxmage.view.rows import CAPTION, MARGIN, WIDTH, FigureRow

LARGEST, GAP, MOST = 300, 20, 8
WORDS, LINE, AFTER = 52, 22, 14


@dataclass(frozen=True)
class Strip:
    """The maps of a row, at most so many beside each other; false where there is one depth only."""

    row: FigureRow
    canvas: Canvas
    depths: list[PlacedMap]
    maps: list[FloatMap]

    @classmethod
    def of(cls, row: FigureRow, canvas: Canvas) -> Strip:
        """The maps of all depths of a panel, in order."""
        depths = in_order(row.panel.depths)
        box = _box(len(depths))
        return cls(row, canvas, depths, [one.drawn(box) for one in depths])

    def __bool__(self) -> bool:
        return len(self.depths) > 1

    @property
    def _display(self) -> tuple[int, int]:
        return fitted(self.row.values.shape, _box(len(self.depths)))

    @property
    def _lines(self) -> int:
        return -(-len(self.depths) // MOST)

    @property
    def height(self) -> int:
        """Of the heading and all of its maps with their captions."""
        return CAPTION + WORDS + self._lines * (self._display[0] + 2 * LINE + AFTER) - AFTER

    def draw(self, top: int, scale: float) -> None:
        """All of it, on the scale of the whole map."""
        canvas = self.canvas
        canvas.text(MARGIN, top + 6, "the same score at every depth", weight="bold")
        for line, words in enumerate((self._words(), self._scale_words(scale))):
            said = canvas.shortened(words, WIDTH - 2 * MARGIN, 8.5)
            canvas.text(MARGIN, top + CAPTION + LINE * line, said, size=8.5, color=FAINT_INK)
        top += CAPTION + WORDS
        height, width = self._display
        box = _box(len(self.depths))
        for index, (depth, values) in enumerate(zip(self.depths, self.maps, strict=True)):
            left = MARGIN + (index % MOST) * (box + GAP)
            place = top + (index // MOST) * (height + 2 * LINE + AFTER)
            drawn = over_photo(self.row.photo(values.shape), values, scale)
            canvas.picture(drawn, left, place, width, height)
            self._draw_caption(depth, left, place + height + 4, box)

    def _draw_caption(self, depth: PlacedMap, left: int, top: int, box: int) -> None:
        chosen = depth is self.row.panel.depths[0]
        weight = "bold" if chosen else "normal"
        digits = decimals(self.row.panel.score)
        sums = f"{depth.cells()}, Σ {number(depth.total, digits)}"
        for line, (words, color) in enumerate(((depth.name(), INK), (sums, FAINT_INK))):
            said = self.canvas.shortened(words, box, 8, weight=weight)
            self.canvas.text(left, top + LINE * line, said, size=8, color=color, weight=weight)

    def _words(self) -> str:
        panel = self.row.panel
        digits = decimals(panel.score)
        return (
            f"From the pixels to the last layer: wherever the network is cut, the map sums to "
            f"{number(panel.depths[0].total, digits)}, which with "
            f"{number(panel.depths[0].unplaced, digits)} that has no place is the score."
        )

    def _scale_words(self, scale: float) -> str:
        sigmas = list(dict.fromkeys(brief(one.sigma, 2) for one in self.depths))
        said = sigmas[0] if len(sigmas) == 1 else f"{', '.join(sigmas[:-1])} and {sigmas[-1]}"
        return (
            f"All have the colours of the map above, saturated beyond ±{brief(scale, 3)}, and are "
            f"smoothed, σ = {said} px: nearer to the pixels more of it cancels."
        )


def _box(count: int) -> int:
    """The side of the square that holds a small map."""
    across = min(count, MOST)
    return min(LARGEST, (WIDTH - 2 * MARGIN - (across - 1) * GAP) // across)
