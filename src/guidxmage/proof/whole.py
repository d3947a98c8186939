"""The whole claim as one formula: real operators, the path condition, and the claim denied."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from guidxmage.proof.deadline import NEVER, Deadline
from guidxmage.proof.formula import Line, Names, inequality, script, term
from guidxmage.proof.layers import Choices, Rational


def whole(
    network: Rational,
    choices: Choices,
    cotangent: Sequence[Fraction],
    claim: Line,
    deadline: Deadline = NEVER,
) -> str:
    """An SMT-LIB file: is there a Z that follows the trail where f_t(Z) is not the claim?

    Every operator stands there as it is, a ReLU as (ite (> v 0) v 0); the path condition alone says
    what is decided. unsat: the claim holds on the whole region. sat: the model is a counterexample.
    """
    names = Names(network.inputs)
    commands = [f"(declare-fun {names[n]} () Real)" for n in range(network.inputs)]
    for layer in network.layers:
        terms = [term(line, names) for line in deadline.watch(layer.lines)]
        terms += [decision.term(names) for decision in deadline.watch(layer.decisions)]
        commands.append(f"; {layer.site} ({layer.op})")
        for number, text in enumerate(terms, layer.first):
            commands.append(f"(declare-fun {names[number]} () Real)")
            commands.append(f"(assert (= {names[number]} {text}))")
    commands.append("; the path condition")
    conditions = network.conditions(choices)
    commands += [
        f"(assert {inequality(condition, names)})" for condition in deadline.watch(conditions)
    ]
    score = Line({n: c for n, c in zip(network.logits, cotangent, strict=True) if c})
    commands.append("; the claim, denied")
    commands.append(f"(assert (not (= {term(score, names)} {term(claim, names)})))")
    comments = [
        "Is there an image x that follows the recorded trail, where the class score is not",
        "<Delta, x> + b? unsat: there is none, the claim is proved.",
    ]
    return script(comments, commands)
