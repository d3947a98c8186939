"""Exact linear arithmetic and its SMT-LIB 2 text: lines, inequalities, rational numbers.

Variables are numbered; the numbers' names are x_0, x_1, … for the entries of the image, in order,
and v_n for every value computed from them. Text follows the SMT-LIB standard 2.6, logic QF_LRA.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

Row = dict[int, Fraction]
ZERO, ONE = Fraction(0), Fraction(1)


@dataclass(frozen=True)
class Line:
    """An affine function Σ row[n]·v_n + constant with rational coefficients."""

    row: Mapping[int, Fraction]
    constant: Fraction = ZERO

    def at(self, values: Sequence[Fraction]) -> Fraction:
        """Its value, exactly."""
        return sum((c * values[n] for n, c in self.row.items()), self.constant)

    def scaled(self, factor: Fraction) -> Line:
        """The line times a number."""
        return Line({n: c * factor for n, c in self.row.items()}, self.constant * factor)

    def minus(self, other: Line) -> Line:
        """The difference of two lines."""
        row = dict(self.row)
        for n, c in other.row.items():
            row[n] = row.get(n, ZERO) - c
        return Line({n: c for n, c in row.items() if c}, self.constant - other.constant)


@dataclass(frozen=True)
class Inequality:
    """line > 0 where `strict`, else line ≥ 0."""

    line: Line
    strict: bool

    def holds(self, values: Sequence[Fraction]) -> bool:
        """Whether it is true, exactly."""
        value = self.line.at(values)
        return value > 0 or (value == 0 and not self.strict)


@dataclass(frozen=True)
class Names:
    """The names of the variables of a network with that many inputs."""

    inputs: int

    def __getitem__(self, number: int) -> str:
        return f"x_{number}" if number < self.inputs else f"v_{number - self.inputs}"


def rational(value: Fraction) -> str:
    """A rational number as SMT-LIB writes it, exactly: 3.0, (- 3.0), (/ 1.0 3.0)."""
    size = abs(value)
    text = f"{size.numerator}.0"
    if size.denominator != 1:
        text = f"(/ {text} {size.denominator}.0)"
    return f"(- {text})" if value < 0 else text


def term(line: Line, names: Names) -> str:
    """A line as an SMT-LIB term."""
    parts = [f"(* {rational(c)} {names[n]})" if c != 1 else names[n] for n, c in line.row.items()]
    if line.constant or not parts:
        parts.append(rational(line.constant))
    return parts[0] if len(parts) == 1 else f"(+ {' '.join(parts)})"


def inequality(condition: Inequality, names: Names) -> str:
    """An inequality as an SMT-LIB formula."""
    return f"({'>' if condition.strict else '>='} {term(condition.line, names)} 0.0)"


def script(comments: Iterable[str], commands: Iterable[str]) -> str:
    """A whole file: comments, the logic, commands, and the question whether they can all hold."""
    lines = [f"; {line}" for line in comments]
    lines += ["(set-logic QF_LRA)", *commands, "(check-sat)", "(exit)"]
    return "\n".join(lines) + "\n"
