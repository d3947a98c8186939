"""Contribution values as bars: the parts of the pixels' sum, then how the score comes about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from guidxmage.view.canvas import FAINT_INK, INK, RULE, Canvas
from guidxmage.view.colors import BLUE, RED
from guidxmage.view.diverging import ADDS, SUBTRACTS
from guidxmage.view.panel import (
    Panel,
    Part,
    balance,
    decimals,
    number,
    parts,
    whole_balance,
    whole_parts,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BAR_HEIGHT = 28
NAME_SHARE, SPACE = 0.45, 14
"""The largest share of the width for the names on the left, and pixels beside names and values."""

SIZE = 9
LITERAL: dict[str, Any] = {
    "fontsize": SIZE,
    "color": INK,
    "va": "center",
    "usetex": False,
    "parse_math": False,
}
MAGNIFICATIONS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


@dataclass(frozen=True)
class Bars:
    """Bars above and below a rule, each group on its own scale.

    The bias carries most of many scores, and positive and negative pixels nearly cancel: one
    group may be far smaller than the other. It is then drawn `magnification` times longer.
    """

    above: list[Part]
    below: list[Part]
    adds: str = "#{:02x}{:02x}{:02x}".format(*RED)
    subtracts: str = "#{:02x}{:02x}{:02x}".format(*BLUE)

    @classmethod
    def of(cls, panel: Panel) -> Bars:
        """The bars of a panel's contributions."""
        return cls(parts(panel), balance(panel))

    @classmethod
    def of_whole(cls, panel: Panel) -> Bars:
        """The bars of its whole map."""
        return cls(whole_parts(panel), whole_balance(panel), ADDS, SUBTRACTS)

    @property
    def lines(self) -> int:
        """Lines taken: the bars, half a line on each side of the rule, and the note."""
        return len(self.above) + len(self.below) + 2

    def magnification(self) -> tuple[int, int]:
        """How many times longer the bars above and those below are drawn; one of them is 1."""
        longest_above, longest_below = _longest(self.above), _longest(self.below)
        return _times(longest_above, longest_below), _times(longest_below, longest_above)

    def note(self) -> str:
        """What the reader must know of the lengths."""
        above, below = self.magnification()
        if above == below:
            return "all bars on one scale"
        side = "above" if above > below else "below"
        return f"bars {side} the line are drawn {max(above, below)}× longer"


def _longest(group: list[Part]) -> float:
    return max((abs(part.value) for part in group), default=0.0)


def _times(small: float, large: float) -> int:
    if small == 0:
        return 1
    return max((times for times in MAGNIFICATIONS if small * times <= large), default=1)


def draw_bars(canvas: Canvas, bars: Bars, left: int, top: int, *, width: int) -> None:
    """Draw bars with their names and values."""
    times_above, times_below = bars.magnification()
    lengths = [part.value * times_above for part in bars.above]
    lengths += [part.value * times_below for part in bars.below]
    lowest, highest = min(0.0, *lengths), max(0.0, *lengths)
    names, values = _widths(canvas, bars, width)
    unit = (1 - names - values) / ((highest - lowest) or 1.0)
    zero = names - lowest * unit

    axes = canvas.axes(left, top, width, bars.lines * BAR_HEIGHT)
    axes.set_xlim(0, 1)
    axes.set_ylim(bars.lines, 0)
    drawing = _Drawing(canvas, axes, bars, zero, names * width - SPACE)
    drawing.group(bars.above, 0.5, times_above * unit)
    drawing.group(bars.below, len(bars.above) + 1.5, times_below * unit)
    axes.plot((0, 1), (len(bars.above) + 0.5,) * 2, color=RULE, linewidth=0.8)
    axes.plot((zero, zero), (0, bars.lines - 1), color=INK, linewidth=0.6)
    note_style = LITERAL | {"fontsize": 8, "color": FAINT_INK}
    axes.text(0, bars.lines - 0.5, bars.note(), **note_style)


def _widths(canvas: Canvas, bars: Bars, width: int) -> tuple[float, float]:
    """Shares of the width that names and values take."""
    names = max(canvas.width_of(part.name, SIZE) for part in (*bars.above, *bars.below))
    texts = [text for group in (bars.above, bars.below) for text in _values(group) if group]
    values = max(canvas.width_of(text, SIZE) for text in texts)
    return min((names + SPACE) / width, NAME_SHARE), (values + SPACE) / width


def _values(group: list[Part]) -> list[str]:
    digits = decimals(*(part.value for part in group))
    return [number(part.value, digits, sign=True) for part in group]


@dataclass(frozen=True)
class _Drawing:
    """Where bars start, and how wide a name may be, in pixels."""

    canvas: Canvas
    axes: Axes
    bars: Bars
    zero: float
    widest: float

    def group(self, parts: list[Part], middle: float, unit: float) -> None:
        """The bars of one group, the first one around `middle`."""
        for line, (part, value) in enumerate(zip(parts, _values(parts), strict=True)):
            y = middle + line
            length, color = part.value * unit, self._color(part)
            self.axes.barh(y, length, left=self.zero, height=0.62, color=color, linewidth=0)
            self.axes.text(0, y, self.canvas.shortened(part.name, self.widest, SIZE), **LITERAL)
            self.axes.text(1, y, value, ha="right", **LITERAL)

    def _color(self, part: Part) -> str:
        if part.whole:
            return FAINT_INK
        return self.bars.adds if part.value >= 0 else self.bars.subtracts
