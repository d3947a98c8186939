"""Queries for neural-network verifiers in the VNN-LIB format (vnnlib.org, version 1).

X_i are the entries of the network's input, Y_k its class scores; the network itself is an ONNX file
that the user exports. Many readers accept decimal numbers only: every number is printed in 17
digits, so that it is right to float64, not exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from torch import Tensor

from guidxmage.errors import InputError
from guidxmage.proof.rational.deadline import NEVER, Deadline
from guidxmage.proof.rational.formula import Inequality, Line
from guidxmage.proof.rational.smt import Claim

Box = tuple[Tensor, Tensor]

# Coefficients of a path condition over the image; beyond this the file is of no use to anybody.
_MOST = 2_000_000


def queries(
    claim: Claim, eps: float, deadline: Deadline = NEVER, box: Box | None = None
) -> dict[str, str]:
    """Two files: the region of the image's trail, and a search for another class nearby."""
    near = adversarial(claim, eps, deadline, box)
    return {"region.vnnlib": region(claim, deadline), "adversarial.vnnlib": near}


def region(claim: Claim, deadline: Deadline = NEVER) -> str:
    """The path condition as inequalities over the image: sat exactly inside the region.

    Strict inequalities are written as ≥, the closure of the region.
    Raises InputError for networks with too many decisions for their size.
    """
    lines = [_declaration("X", n) for n in range(claim.network.inputs)]
    conditions = path_condition(claim, deadline)
    lines += [_at_least_zero(condition.line) for condition in deadline.watch(conditions)]
    return _file("The image X follows the recorded execution trail.", lines)


def adversarial(
    claim: Claim, eps: float, deadline: Deadline = NEVER, box: Box | None = None
) -> str:
    """Is there an input within eps of the image whose best class is another? unsat: robust.

    The class in question is the image's own: the one with the highest exact score. box: the least
    and the greatest inputs in question, in the image's shape; by default all within eps.
    """
    if not eps >= 0:
        raise InputError(f"eps must not be negative, {eps} is")
    image = [Fraction(v) for v in claim.image.flatten().tolist()]
    values = claim.network.run(image, deadline)
    scores = [values[n] for n in claim.network.logits]
    own = scores.index(max(scores))
    low = [value - Fraction(eps) for value in image]
    high = [value + Fraction(eps) for value in image]
    if box is not None:
        low, high = ([Fraction(v) for v in end.flatten().tolist()] for end in box)
    said = f"Another class than {own} scores at least as high within {eps:g}."
    return overtaken((low, high), own, len(scores), said=said)


def overtaken(
    ends: tuple[Sequence[Fraction], Sequence[Fraction]],
    own: int,
    classes: int,
    *,
    rivals: Sequence[int] | None = None,
    said: str,
) -> str:
    """Does one of the rivals score at least as high as the class `own` somewhere in a box?

    ends: the least and the greatest inputs, in order. rivals: classes, by default all others. said:
    the comment at the top; each of its lines becomes one.
    """
    lines = [_declaration("X", n) for n in range(len(ends[0]))]
    lines += [_declaration("Y", k) for k in range(classes)]
    for n, (least, most) in enumerate(zip(*ends, strict=True)):
        lines.append(f"(assert (>= X_{n} {decimal(least)}))")
        lines.append(f"(assert (<= X_{n} {decimal(most)}))")
    above = [k for k in range(classes) if k != own] if rivals is None else rivals
    others = [f"(and (>= Y_{k} Y_{own}))" for k in above]
    lines.append(f"(assert (or {' '.join(others)}))")
    return _file(said, lines)


def path_condition(claim: Claim, deadline: Deadline = NEVER) -> list[Inequality]:
    """The path condition over the image's entries alone, exactly; constants are left out."""
    network = claim.network
    if network.relus * network.inputs > _MOST:
        raise InputError("the network is too large for its path condition to be written out")
    known = [Line({n: Fraction(1)}) for n in range(network.inputs)]
    for layer in network.layers:
        lines = network.decided(layer, claim.choices)
        known += [_composed(line, known) for line in deadline.watch(lines)]
    found = [
        Inequality(_composed(condition.line, known), condition.strict)
        for condition in deadline.watch(network.conditions(claim.choices))
    ]
    return [condition for condition in found if condition.line.row]


def _composed(line: Line, known: list[Line]) -> Line:
    row: dict[int, Fraction] = {}
    constant = line.constant
    for n, c in line.row.items():
        constant += c * known[n].constant
        for m, d in known[n].row.items():
            row[m] = row.get(m, Fraction(0)) + c * d
    return Line({m: d for m, d in row.items() if d}, constant)


def decimal(value: Fraction) -> str:
    """A number in plain decimals, right to float64."""
    text = format(float(value), ".17f")
    if abs(value) < Fraction(1, 1000):
        text = format(float(value), ".40f")
    whole, _, part = text.partition(".")
    return f"{whole}.{part.rstrip('0') or '0'}"


def _at_least_zero(line: Line) -> str:
    parts = [f"(* {decimal(c)} X_{n})" for n, c in line.row.items()]
    summed = parts[0] if len(parts) == 1 else f"(+ {' '.join(parts)})"
    return f"(assert (>= {summed} {decimal(-line.constant)}))"


def _declaration(letter: str, number: int) -> str:
    return f"(declare-const {letter}_{number} Real)"


def _file(comment: str, lines: list[str]) -> str:
    told = [f"; {line}" for line in comment.splitlines()]
    return "\n".join([*told, *lines]) + "\n"
