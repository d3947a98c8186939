"""A captured network as exact rational arithmetic: every operator's coefficients, one by one.

The weights are floats, and every float is a rational number. An affine operator's coefficients are
read off by its own rule, applied to one unit vector at a time in float64: each output is then a
single weight times one, so that nothing is rounded. Averages are the exception: their 1/k is taken
as the fraction. The scale and shift of batch-norm hold a square root; they are taken as the float64
numbers that `batch_norm_affine` computes (the network that is proved about has those).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from math import prod
from typing import Any

import torch
from torch import Tensor

from guidxmage.engine.calls.call import Call, Frame, Hole
from guidxmage.engine.program.program import Program
from guidxmage.engine.rules import rule_of, traits_of
from guidxmage.engine.rules.table import fill, holes
from guidxmage.engine.trail.trail import Trail
from guidxmage.errors import InputError, UnsupportedOperatorError
from guidxmage.proof.rational.deadline import NEVER, Deadline
from guidxmage.proof.rational.formula import ZERO, Inequality, Line, Row
from guidxmage.proof.rational.operators import decisions_of
from guidxmage.proof.rational.pieces import Decision

_UNITS = 256


@dataclass(frozen=True)
class Layer:
    """One call: its outputs are the variables `first`, `first` + 1, … in order of the tensor.

    Either `lines` or `decisions` has one entry for each of them.
    """

    site: str
    op: str
    first: int
    lines: tuple[Line, ...] = ()
    decisions: tuple[Decision, ...] = ()


@dataclass(frozen=True)
class Rational:
    """A network over the rationals: layers in order, the image's entries are variables 0 … n − 1.

    `logits` are the variables of the class scores.
    """

    layers: tuple[Layer, ...]
    inputs: int
    logits: range

    @cached_property
    def relus(self) -> int:
        """How many decisions are taken."""
        return sum(len(layer.decisions) for layer in self.layers)

    def run(self, image: Sequence[Fraction], deadline: Deadline = NEVER) -> list[Fraction]:
        """All variables' values on an image, exactly, with the network's own decisions."""
        values = list(image)
        for layer in self.layers:
            lines = layer.lines or tuple(d.decided(d.choose(values)) for d in layer.decisions)
            values += [line.at(values) for line in deadline.watch(lines)]
        return values

    def conditions(self, choices: Choices) -> list[Inequality]:
        """The path condition: when every decision is the one recorded."""
        return [
            condition
            for layer in self.layers
            for decision, choice in zip(layer.decisions, choices.get(layer.first, ()), strict=True)
            for condition in decision.conditions(choice)
        ]

    def decided(self, layer: Layer, choices: Choices) -> tuple[Line, ...]:
        """A layer's lines when every decision is the one recorded."""
        if not layer.decisions:
            return layer.lines
        pairs = zip(layer.decisions, choices[layer.first], strict=True)
        return tuple(decision.decided(choice) for decision, choice in pairs)


# The recorded choices of each layer, by the number of its first variable.
Choices = dict[int, list[int]]


@torch.no_grad()
def rational_network(program: Program, most: int = 100_000, deadline: Deadline = NEVER) -> Rational:
    """The exact network of a captured program in float64.

    Raises InputError for another dtype or more than `most` values, UnsupportedOperatorError for
    operators whose coefficients are not exact or that are not piecewise linear, and for networks
    that branch on what they compute; OutOfTimeError.
    """
    if program.dtype != torch.float64 or program.device.type != "cpu":
        raise InputError("proofs are made on the CPU in float64; use Explainer(…, dtype=float64)")
    program.refuse_branches()
    first = {0: 0}
    number = inputs = prod(program.input_shape)
    shapes = program.shapes(1)
    layers = []
    for call in program.calls:
        deadline.check()
        rule = rule_of(call)
        # Of one image; its own first dimension counts, since images may be stacked along it.
        count = prod(shapes[call.id])
        if number + count > most:
            raise InputError(f"the network has more than {most} values: too large for this proof")
        first[call.id] = number
        if rule is not None and rule.kind == "decision":
            offsets = [first[id_] for id_ in call.inputs]
            decisions = decisions_of(call, program, offsets)
            layers.append(Layer(call.site, call.op, number, decisions=decisions))
        else:
            lines = _lines(call, program, first, deadline)
            layers.append(Layer(call.site, call.op, number, lines=lines))
        number += count
    logits = range(first[program.result], first[program.result] + program.classes)
    return Rational(tuple(layers), inputs, logits)


def choices_of(network: Rational, trail: Trail) -> Choices:
    """The recorded choices of a single image's trail."""
    found: Choices = {}
    for layer in network.layers:
        if layer.decisions:
            taken = trail[layer.site]
            index = taken.index() if taken.kind == "index" else taken.plane(0).long()
            if taken.kind == "bits" and len(taken.planes) == 2:
                index = index + 2 * taken.plane(1).long()
            found[layer.first] = index.flatten().tolist()
    return found


def _lines(
    call: Call, program: Program, first: dict[int, int], deadline: Deadline
) -> tuple[Line, ...]:
    """The rows of an affine call: coefficients from unit vectors, and what it adds by itself."""
    rule = rule_of(call)
    known = rule is not None and (rule.traits.exact or rule.traits.averages or not call.inputs)
    if rule is None or rule.kind != "affine" or not known:
        raise UnsupportedOperatorError(
            f"{call.op} at '{call.site}' has no exact rational coefficients here: no proof of this "
            "network is possible"
        )
    shapes = program.shapes(1)
    rows: list[Row] = [{} for _ in range(prod(shapes[call.id]))]
    for slot, id_ in enumerate(call.inputs):
        for column, output, value in deadline.watch(_coefficients(call, program, slot)):
            variable = first[id_] + column
            rows[output][variable] = rows[output].get(variable, ZERO) + value
    constants = _constants(call, program)
    return tuple(Line(row, c) for row, c in zip(rows, constants, strict=True))


def _coefficients(call: Call, program: Program, slot: int) -> Iterator[tuple[int, int, Fraction]]:
    """(input entry, output entry, coefficient) of one active input, where it is not zero."""
    rule = rule_of(call)
    assert rule is not None
    shapes = program.shapes(1)
    size = prod(shapes[call.inputs[slot]])
    apart = all(shapes[id_][:1] == (1,) for id_ in (call.id, *call.inputs))
    step = _UNITS if program.batched and apart else 1
    read = _Reader(call, program)
    for start in range(0, size, step):
        rows = min(step, size - start)
        blanks = _holes(call, program, rows)
        units = [hole.zeros() for hole in holes(blanks)]
        units[slot].reshape(rows, -1)[torch.arange(rows), start + torch.arange(rows)] = 1
        frame = Frame(call, rows, program.shapes(rows)[call.id], {})
        pushed = rule.push(frame, *fill(blanks, units), **call.kwargs).reshape(rows, -1)
        row, output = pushed.nonzero(as_tuple=True)
        values = pushed[row, output].tolist()
        where = zip((row + start).tolist(), output.tolist(), values, strict=True)
        yield from ((column, out, read(value, out)) for column, out, value in where)


class _Reader:
    """Turns a float64 coefficient into the rational number that it stands for."""

    def __init__(self, call: Call, program: Program) -> None:
        name = call.op.split(".")[1]
        self.call, self.average = call, traits_of(call).averages
        self.divisors: list[float] | None = None
        if name == "div":
            shape = program.shapes(1)[call.id]
            divisor = torch.as_tensor(call.args[1], dtype=torch.float64)
            self.divisors = divisor.expand(shape).flatten().tolist()
        self.known: dict[float, Fraction] = {}

    def __call__(self, value: float, output: int) -> Fraction:
        if self.divisors is not None:
            return 1 / Fraction(self.divisors[output])
        if value not in self.known:
            self.known[value] = self._average(value) if self.average else Fraction(value)
        return self.known[value]

    def _average(self, value: float) -> Fraction:
        divisor = round(1 / value)
        if divisor == 0 or abs(value * divisor - 1) > 1e-12:
            raise UnsupportedOperatorError(
                f"{self.call.op} at '{self.call.site}' does not divide by a whole number"
            )
        return Fraction(1, divisor)


def _constants(call: Call, program: Program) -> list[Fraction]:
    """What a call adds to each output, whatever its input."""
    rule = rule_of(call)
    assert rule is not None
    shape = program.shapes(1)[call.id]
    parts: list[Tensor] = [value for _, value in call.offsets]
    if rule.constant is not None:
        frame = Frame(call, 1, shape, {})
        value = rule.constant(frame, *_holes(call, program, 1), **call.kwargs)
        parts += [] if value is None else [value]
    totals = [ZERO] * prod(shape)
    for part in parts:
        flat = part.to(torch.float64).expand(shape).flatten().tolist()
        totals = [total + Fraction(value) for total, value in zip(totals, flat, strict=True)]
    return totals


def _holes(call: Call, program: Program, rows: int) -> list[Any]:
    shapes = program.shapes(rows)
    blanks = {id_: Hole(shapes[id_], torch.float64, program.device) for id_ in call.inputs}
    return call.arguments(blanks, rows)
