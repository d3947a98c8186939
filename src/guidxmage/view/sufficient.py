"""The figure of sufficient pixels: which are needed, which may be anything, which are undecided."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from guidxmage.view.attack import picture
from guidxmage.view.canvas import FAINT_INK, Canvas, fitted
from guidxmage.view.colors import RGB
from guidxmage.view.outlines import draw_names, nearest

if TYPE_CHECKING:
    from matplotlib.figure import Figure

UNKNOWN, NEEDED, IRRELEVANT = 0, 1, 2
"""What a pixel of the verdict map is."""
COLORS = {NEEDED: (213, 94, 0), IRRELEVANT: (86, 180, 233), UNKNOWN: (240, 228, 66)}
"""Vermilion, sky blue and yellow: told apart by every kind of colour vision, and in grey."""
WORDS = {NEEDED: "needed", IRRELEVANT: "irrelevant", UNKNOWN: "unknown"}
MEANING = {
    NEEDED: "set free as well, an image with another answer was found",
    IRRELEVANT: "may change within ε, all together and in any way: proved",
    UNKNOWN: "not decided, so they are kept fixed",
}
BOX, MARGIN, GAP = 360, 24, 22
TITLE, CAPTION, SWATCH, LINE = 104, 66, 26, 34
_WORDS = 500
SHOWN = 2
"""Counterexamples in the figure."""
_STRENGTH, _PERIOD = 0.55, 10
_DARKEST, _GROUND, _GROUND_LINE = 90, 232, 205

Verdicts = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Counterexample:
    """An image (H, W, C) in [0, 1] that gets another answer, and which unit it shows as needed.

    unit (H, W) bool: the pixels of that unit. name: the class it gets; score: of that class.
    """

    image: npt.NDArray[np.floating[Any]]
    name: str
    score: float
    unit: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Decided:
    """What the figure shows: image (H, W, C) in [0, 1], verdicts (H, W), the answer, counts.

    counts: of units by verdict. parts (H, W), names: the units where they are objects, whose
    outlines and names are drawn; None and () for single pixels.
    """

    image: npt.NDArray[np.floating[Any]]
    verdicts: Verdicts
    name: str
    score: float
    counts: dict[int, int]
    parts: npt.NDArray[np.int64] | None = None
    names: tuple[str, ...] = ()

    @property
    def unit(self) -> str:
        """What the units are called."""
        return "pixels" if self.parts is None else "objects"


def sufficient_figure(
    decided: Decided, examples: Sequence[Counterexample], title: str, lines: Sequence[str]
) -> Figure:
    """Photo, the three kinds on it, the sufficient pixels alone, and up to two counterexamples.

    The kinds are told apart by colour and by pattern: plain, hatched, dotted. lines: below the
    title.
    """
    shown = examples[:SHOWN]
    columns = 3 + max(1, len(shown))
    width = 2 * MARGIN + columns * BOX + (columns - 1) * GAP
    height, _ = fitted(decided.image.shape[:2], BOX)
    canvas = Canvas(width, TITLE + CAPTION + height + GAP + 3 * LINE + MARGIN)
    canvas.text(MARGIN, 20, canvas.shortened(title, width - 2 * MARGIN, 13), 13, weight="bold")
    for number, line in enumerate(lines):
        said = canvas.shortened(line, width - 2 * MARGIN)
        canvas.text(MARGIN, 58 + 22 * number, said, size=9)
    answer = f"{decided.name}  {decided.score:.4g}"
    _cell(canvas, 0, ("(a)", "input", answer), picture(decided.image))
    marked = f"{_share(decided)} of the picture decided"
    _cell(canvas, 1, ("(b)", "the three kinds", marked), marked_picture(decided, BOX))
    _draw_objects(canvas, decided)
    _cell(canvas, 2, ("(c)", "what is fixed", _fixed(decided)), alone(decided, BOX))
    if not shown:
        _nothing(canvas, decided)
    for number, example in enumerate(shown):
        words = (f"({'de'[number]})", "a counterexample", f"{example.name}  {example.score:.4g}")
        _cell(canvas, 3 + number, words, picture(example.image), example.unit)
    _legend(canvas, decided, TITLE + CAPTION + height + GAP)
    if shown:
        _changes(canvas, decided, shown, TITLE + CAPTION + height + GAP)
    return canvas.figure


def marked_picture(decided: Decided, box: int) -> RGB:
    """The photo in grey, tinted and patterned by verdict, with dark lines between kinds or objects.

    It is enlarged to fill a square box, so that the patterns are as fine on every photo.
    """
    shape = fitted(decided.image.shape[:2], box)
    verdicts = nearest(decided.verdicts, shape)
    grey = nearest(picture(decided.image).mean(axis=2), shape)
    grey = _DARKEST + grey * (255 - _DARKEST) / 255  # colours would drown in black
    pixels = np.empty((*shape, 3))
    for kind, color in COLORS.items():
        here = verdicts == kind
        tinted = (1 - _STRENGTH) * grey[here, None] + _STRENGTH * np.array(color)
        pixels[here] = tinted
        drawn = here & pattern(kind, shape)
        pixels[drawn] = 0.35 * np.array(color)
    kinds = verdicts if decided.parts is None else nearest(decided.parts, shape)
    border = np.zeros(shape, dtype=bool)
    border[1:] |= kinds[1:] != kinds[:-1]
    border[:, 1:] |= kinds[:, 1:] != kinds[:, :-1]
    pixels[border] = 20
    return np.rint(pixels).astype(np.uint8)


def pattern(kind: int, shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Where a kind's pattern is drawn: none for needed, hatching for irrelevant, dots else."""
    rows, columns = np.indices(shape)
    drawn: npt.NDArray[np.bool_] = np.zeros(shape, dtype=bool)
    if kind == IRRELEVANT:
        drawn = (rows + columns) % _PERIOD == 0
    if kind == UNKNOWN:
        shifted = columns + rows // _PERIOD % 2 * _PERIOD // 2  # every other row of dots
        drawn = (rows % _PERIOD < 2) & (shifted % _PERIOD < 2)
    return drawn


def alone(decided: Decided, box: int) -> RGB:
    """The pixels that fix the answer, needed and undecided ones, on a pale hatched ground."""
    shape = fitted(decided.image.shape[:2], box)
    pixels: RGB = nearest(picture(decided.image), shape)
    free = nearest(decided.verdicts, shape) == IRRELEVANT
    pixels[free] = _GROUND
    pixels[free & pattern(IRRELEVANT, shape)] = _GROUND_LINE
    return pixels


def _cell(
    canvas: Canvas,
    column: int,
    words: tuple[str, str, str],
    pixels: RGB,
    ringed: npt.NDArray[np.bool_] | None = None,
) -> None:
    """One picture with two lines above it; a unit is framed, or outlined where it is an object."""
    left = MARGIN + column * (BOX + GAP)
    letter, caption, said = words
    canvas.text(left, TITLE + 8, letter, weight="bold")
    canvas.text(left + 40, TITLE + 8, canvas.shortened(caption, BOX - 40))
    canvas.text(left, TITLE + 34, canvas.shortened(said, BOX), color=FAINT_INK)
    height, width = fitted(pixels.shape[:2], BOX)
    if ringed is not None and np.count_nonzero(ringed) > 1:
        pixels, ringed = _ringed(pixels, ringed, (height, width)), None
    axes = canvas.picture(pixels, left + (BOX - width) // 2, TITLE + CAPTION, width, height)
    if ringed is not None and ringed.any():
        rows, columns = np.nonzero(ringed)
        tall, wide = ringed.shape
        corner = (columns.min() / wide, 1 - (rows.max() + 1) / tall)
        across = (columns.max() + 1 - columns.min()) / wide
        down = (rows.max() + 1 - rows.min()) / tall
        _frame(axes, corner, across, down)


def _ringed(pixels: RGB, unit: npt.NDArray[np.bool_], shape: tuple[int, int]) -> RGB:
    """A picture enlarged to a shape, with a white and black line around an object."""
    inside = nearest(unit, shape)
    edge = np.zeros(shape, dtype=bool)
    edge[1:] |= inside[1:] != inside[:-1]
    edge[:, 1:] |= inside[:, 1:] != inside[:, :-1]
    large: RGB = nearest(pixels, shape)
    wide = np.zeros(shape, dtype=bool)
    for down in (-1, 0, 1):
        for across in (-1, 0, 1):
            wide |= np.roll(edge, (down, across), axis=(0, 1))
    large[wide] = 255
    large[edge] = 0
    return large


def _draw_objects(canvas: Canvas, decided: Decided) -> None:
    """The names of objects on the picture of the kinds."""
    if decided.parts is None:
        return
    height, width = fitted(decided.image.shape[:2], BOX)
    left = MARGIN + BOX + GAP + (BOX - width) // 2
    box = (left, TITLE + CAPTION, height, width)
    draw_names(canvas, decided.parts, dict(enumerate(decided.names)), box, dark=True)


def _frame(axes: Any, corner: tuple[float, float], width: float, height: float) -> None:
    from matplotlib.patches import Rectangle

    for color, line in (("white", 2.6), ("black", 1.1)):
        box = Rectangle(corner, width, height, fill=False, edgecolor=color, linewidth=line)
        box.set_clip_on(False)
        axes.add_patch(box)


def _fixed(decided: Decided) -> str:
    """How many pixels the answer hangs on."""
    fixed, total = int((decided.verdicts != IRRELEVANT).sum()), decided.verdicts.size
    if fixed == total:
        return "all of it: nothing is irrelevant"
    if not fixed:
        return "no pixel has to be fixed"
    return f"{fixed:,} of {total:,} pixels fix the answer"


def _share(decided: Decided) -> str:
    return percent(int((decided.verdicts != UNKNOWN).sum()), decided.verdicts.size)


def percent(part: int, whole: int) -> str:
    """A share that says 0 % and 100 % only where it is so."""
    share = 100 * part / whole
    if part in (0, whole):
        return f"{share:.0f} %"
    return f"{min(max(share, 0.1), 99.9):.3g} %"


def _nothing(canvas: Canvas, decided: Decided) -> None:
    left = MARGIN + 3 * (BOX + GAP)
    canvas.text(left, TITLE + 8, "no counterexamples", weight="bold")
    words = (
        "No pixel was shown to be needed: every one that was decided is irrelevant."
        if decided.counts[IRRELEVANT]
        else "Nothing was decided, so nothing is claimed: see above why the search stopped. That "
        "says nothing about the network or the picture."
    )
    for number, line in enumerate(canvas.wrapped(words, BOX)):
        canvas.text(left, TITLE + CAPTION + 24 * number, line, color=FAINT_INK)


def _legend(canvas: Canvas, decided: Decided, top: int) -> None:
    total = sum(decided.counts.values())
    for number, kind in enumerate((NEEDED, IRRELEVANT, UNKNOWN)):
        flat = Decided(
            np.full((SWATCH, SWATCH, 1), 0.75),
            np.full((SWATCH, SWATCH), kind, dtype=np.uint8),
            "",
            0.0,
            {},
        )
        down = top + number * LINE
        canvas.picture(marked_picture(flat, SWATCH), MARGIN, down, SWATCH, SWATCH)
        count = decided.counts[kind]
        words = f"{WORDS[kind]}: {count:,} of {total:,} {decided.unit} ({percent(count, total)})"
        left = MARGIN + SWATCH + 12
        canvas.text(left, down + 2, words, weight="bold")
        said = canvas.shortened(MEANING[kind], 3 * BOX + 2 * GAP - SWATCH - 12 - _WORDS)
        canvas.text(left + _WORDS, down + 2, said, color=FAINT_INK)


def _changes(canvas: Canvas, decided: Decided, shown: Sequence[Counterexample], top: int) -> None:
    """How strongly each counterexample differs from the photo."""
    for number, example in enumerate(shown):
        delta = example.image - decided.image
        changed = int((delta != 0).any(axis=2).sum())
        left = MARGIN + (3 + number) * (BOX + GAP)
        largest = float(np.abs(delta).max()) * 255
        said = f"outlined: the needed {decided.unit[:-1]}"
        canvas.text(left, top + 2, canvas.shortened(said, BOX), color=FAINT_INK)
        said = f"{changed:,} pixels differ, by {largest:.3g}/255 at most"
        canvas.text(left, top + 26, canvas.shortened(said, BOX), color=FAINT_INK)
