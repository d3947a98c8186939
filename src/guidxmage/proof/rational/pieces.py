"""What one entry of an operator's output is: a line, or a choice between lines."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from guidxmage.proof.rational.formula import ONE, ZERO, Inequality, Line, Names, rational, term


@dataclass(frozen=True)
class Hinge:
    """v where v > 0, else slope·v: ReLU, leaky ReLU, PReLU, abs. Choices: 0 off, 1 on."""

    v: int
    slope: Fraction

    def decided(self, choice: int) -> Line:
        """The line that is left when the choice is made."""
        factor = ONE if choice else self.slope
        return Line({self.v: factor} if factor else {})

    def conditions(self, choice: int) -> list[Inequality]:
        """When the operator makes that choice."""
        side = Line({self.v: ONE if choice else -ONE})
        return [Inequality(side, strict=bool(choice))]

    def choose(self, values: list[Fraction]) -> int:
        """What the operator chooses."""
        return int(values[self.v] > 0)

    def term(self, names: Names) -> str:
        """The operator itself, with both choices."""
        name = names[self.v]
        return f"(ite (> {name} 0.0) {name} {term(self.decided(0), names)})"


@dataclass(frozen=True)
class Clamp:
    """v between two bounds, None for no bound. Choices: 0 below, 1 inside, 2 above.

    `closed`: a value on a bound counts as inside, otherwise as outside.
    """

    v: int
    low: Fraction | None
    high: Fraction | None
    closed: bool

    def decided(self, choice: int) -> Line:
        """The line that is left when the choice is made."""
        if choice == 1:
            return Line({self.v: ONE})
        return Line({}, (self.low if choice == 0 else self.high) or ZERO)

    def conditions(self, choice: int) -> list[Inequality]:
        """When the operator makes that choice."""
        v, found = Line({self.v: ONE}), []
        if self.low is not None and choice < 2:
            above = v.minus(Line({}, self.low))
            inside = choice == 1
            line = above if inside else above.scaled(-ONE)
            found.append(Inequality(line, strict=self.closed != inside))
        if self.high is not None and choice > 0:
            below = Line({}, self.high).minus(v)
            inside = choice == 1
            line = below if inside else below.scaled(-ONE)
            found.append(Inequality(line, strict=self.closed != inside))
        return found

    def choose(self, values: list[Fraction]) -> int:
        """What the operator chooses."""
        v = values[self.v]
        if self.high is not None and (v > self.high or (v == self.high and not self.closed)):
            return 2
        if self.low is not None and (v < self.low or (v == self.low and not self.closed)):
            return 0
        return 1

    def term(self, names: Names) -> str:
        """The operator itself, with all choices."""
        text = name = names[self.v]
        if self.low is not None:
            low = rational(self.low)
            text = f"(ite (< {name} {low}) {low} {text})"
        if self.high is not None:
            high = rational(self.high)
            text = f"(ite (> {name} {high}) {high} {text})"
        return text


@dataclass(frozen=True)
class Largest:
    """The largest (sign 1) or smallest (−1) of some lines. Choices: their `positions`.

    On a tie any of the largest may be chosen: the condition is closed.
    """

    lines: tuple[Line, ...]
    positions: tuple[int, ...]
    sign: int = 1

    def decided(self, choice: int) -> Line:
        """The line that is left when the choice is made."""
        return self.lines[self.positions.index(choice)]

    def conditions(self, choice: int) -> list[Inequality]:
        """When the operator may make that choice."""
        best = self.decided(choice)
        return [
            Inequality(best.minus(line).scaled(Fraction(self.sign)), strict=False)
            for line in self.lines
            if line is not best
        ]

    def choose(self, values: list[Fraction]) -> int:
        """What the operator chooses: the first of the largest."""
        found = [self.sign * line.at(values) for line in self.lines]
        return self.positions[found.index(max(found))]

    def term(self, names: Names) -> str:
        """The operator itself, with all choices."""
        relation = ">=" if self.sign > 0 else "<="
        best, opened = term(self.lines[0], names), []
        for number, line in enumerate(self.lines[1:]):
            other = term(line, names)
            choice = f"(ite ({relation} {best} {other}) {best} {other})"
            opened.append(f"(let ((m{number} {choice})) ")
            best = f"m{number}"
        return "".join(opened) + best + ")" * len(opened)


Decision = Hinge | Clamp | Largest
