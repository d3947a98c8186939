"""Contribution values as bars: the parts of the pixels' sum, then how the score comes about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from guidxmage.view.canvas import FAINT_INK, INK, RULE, Canvas
from guidxmage.view.colors import BLUE, RED
from guidxmage.view.panel import Panel, Part, balance, decimals, number, parts, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BAR_HEIGHT = 28
NAME_SHARE, VALUE_SHARE = 0.42, 0.2
"""Shares of the width for the names on the left and the values on the right of the bars."""

LONGEST_NAME = 19
LITERAL: dict[str, Any] = {
    "fontsize": 9,
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

    @classmethod
    def of(cls, panel: Panel) -> Bars:
        """The bars of a panel."""
        return cls(parts(panel), balance(panel))

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


def draw_bars(canvas: Canvas, panel: Panel, left: int, top: int, *, width: int) -> None:
    """Draw the bars of a panel with their names and values."""
    bars = Bars.of(panel)
    times_above, times_below = bars.magnification()
    lengths = [part.value * times_above for part in bars.above]
    lengths += [part.value * times_below for part in bars.below]
    lowest, highest = min(0.0, *lengths), max(0.0, *lengths)
    unit = (1 - NAME_SHARE - VALUE_SHARE) / ((highest - lowest) or 1.0)
    zero = NAME_SHARE - lowest * unit

    axes = canvas.axes(left, top, width, bars.lines * BAR_HEIGHT)
    axes.set_xlim(0, 1)
    axes.set_ylim(bars.lines, 0)
    _draw_group(axes, bars.above, 0.5, zero, unit=times_above * unit)
    _draw_group(axes, bars.below, len(bars.above) + 1.5, zero, unit=times_below * unit)
    axes.plot((0, 1), (len(bars.above) + 0.5,) * 2, color=RULE, linewidth=0.8)
    axes.plot((zero, zero), (0, bars.lines - 1), color=INK, linewidth=0.6)
    note_style = LITERAL | {"fontsize": 8, "color": FAINT_INK}
    axes.text(0, bars.lines - 0.5, bars.note(), **note_style)


def _draw_group(axes: Axes, group: list[Part], middle: float, zero: float, *, unit: float) -> None:
    digits = decimals(*(part.value for part in group))
    for line, part in enumerate(group):
        y = middle + line
        axes.barh(y, part.value * unit, left=zero, height=0.62, color=_color(part), linewidth=0)
        axes.text(0, y, shorten(part.name, LONGEST_NAME), **LITERAL)
        axes.text(1, y, number(part.value, digits, sign=True), ha="right", **LITERAL)


def _color(part: Part) -> str:
    if part.whole:
        return FAINT_INK
    return "#{:02x}{:02x}{:02x}".format(*(RED if part.value >= 0 else BLUE))
