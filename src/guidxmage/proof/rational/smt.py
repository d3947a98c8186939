"""Proofs by an SMT solver that a symbolic model is exact, for small networks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from time import monotonic

import torch
from torch import Tensor

from guidxmage.engine.program.program import Program
from guidxmage.engine.trail.trail import Trail
from guidxmage.errors import InputError
from guidxmage.proof.rational.chain import ChainStep, chain, exact_model
from guidxmage.proof.rational.deadline import NEVER, Deadline, OutOfTimeError
from guidxmage.proof.rational.formula import Line
from guidxmage.proof.rational.network import Choices, Rational, choices_of, rational_network
from guidxmage.proof.rational.solver import INSTALL, Solver, has_solver
from guidxmage.proof.rational.whole_formula import whole
from guidxmage.reports.short_repr import short_repr


@dataclass(frozen=True)
class Claim:
    """That f_t(Z) = `model` for every Z that follows the trail of `image`, exactly.

    network and choices are the network and the trail over the rationals. `exact` is the symbolic
    model that the rationals give; `model` is what is claimed, by default the same.
    """

    program: Program
    network: Rational
    choices: Choices
    cotangent: tuple[Fraction, ...]
    image: Tensor
    exact: Line
    model: Line

    def steps(self, deadline: Deadline = NEVER) -> list[ChainStep]:
        """The proof as a chain: one file for each layer."""
        return chain(self.network, self.choices, self.cotangent, self.model, deadline)

    def formula(self, deadline: Deadline = NEVER) -> str:
        """The proof as one file."""
        return whole(self.network, self.choices, self.cotangent, self.model, deadline)

    def score(self, Z: Sequence[Fraction]) -> Fraction:
        """The class score that the network itself gives Z, exactly."""
        values = self.network.run(Z)
        pairs = zip(self.network.logits, self.cotangent, strict=True)
        return sum((c * values[n] for n, c in pairs), Fraction(0))

    def follows(self, Z: Sequence[Fraction], deadline: Deadline = NEVER) -> bool:
        """Whether Z follows the trail, in exact arithmetic."""
        values = self.network.run(Z, deadline)
        conditions = self.network.conditions(self.choices)
        return all(c.holds(values) for c in deadline.watch(conditions))


@dataclass(frozen=True)
class Witness:
    """A counterexample Z, replayed.

    claimed: the claim at Z; exact: what the network gives in rational arithmetic, or for a chain
    along the trail; network: the program's own float64 score; follows: whether Z follows the trail.
    """

    image: tuple[Fraction, ...]
    claimed: Fraction
    exact: Fraction
    network: float
    follows: bool


@dataclass(frozen=True)
class Proof:
    """verdict: proved, refuted, unknown, or unchecked where no solver is installed.

    reason: one sentence. files: name → text. steps: (file, answer, seconds). `contains_photo`:
    the image itself follows its trail in exact arithmetic, so that the region is not empty; None
    where the time was over before that was known, as for `decisions`, their number.
    """

    verdict: str
    reason: str
    files: dict[str, str]
    steps: tuple[tuple[str, str, float], ...]
    seconds: float
    decisions: int | None
    contains_photo: bool | None
    witness: Witness | None = field(default=None)

    __repr__ = short_repr


def claim_of(
    program: Program,
    image: Tensor,
    cotangent: Tensor,
    *,
    trail: Trail | None = None,
    model: Line | None = None,
    deadline: Deadline = NEVER,
) -> Claim:
    """The claim about one input image (C, H, W) of a float64 program and a cotangent (classes,).

    trail: that of the image by default. model: what is claimed; by default the exact Δ and b.
    Raises InputError and UnsupportedOperatorError where no such proof is possible, OutOfTimeError
    where it takes longer than the deadline.
    """
    network = rational_network(program, deadline=deadline)
    X = image.double()[None]
    if tuple(X.shape[1:]) != tuple(program.input_shape) or not torch.isfinite(X).all():
        raise InputError(f"one finite image of shape {tuple(program.input_shape)} is expected")
    choices = choices_of(network, trail or program.record(X, norms=False).trail)
    weights = tuple(Fraction(c) for c in cotangent.double().flatten().tolist())
    exact = exact_model(network, choices, weights, deadline)
    return Claim(program, network, choices, weights, X[0], exact, model or exact)


def prove(
    claim: Claim,
    *,
    one_formula: bool = False,
    seconds: float = 60,
    deadline: Deadline | None = None,
) -> Proof:
    """Write the proof and let z3 check it, all of it within `seconds`, or before a deadline."""
    deadline = deadline or Deadline(seconds)
    try:
        if one_formula:
            files = {"claim.smt2": claim.formula(deadline)}
        else:
            files = {step.name: step.text for step in claim.steps(deadline)}
        image = [Fraction(v) for v in claim.image.flatten().tolist()]
        contained = claim.follows(image, deadline)
    except OutOfTimeError:
        return unwritten(deadline, claim.network.relus)
    found = Proof("", "", files, (), 0.0, claim.network.relus, contained)
    if not has_solver():
        reason = f"not checked: no solver here; {INSTALL}, or give the files to another"
        return replace(found, verdict="unchecked", reason=reason)
    return _checked(claim, found, one_formula, deadline)


def unwritten(deadline: Deadline, decisions: int | None = None) -> Proof:
    """What is left of a proof whose formulas take longer to write than there is time."""
    reason = f"not proved: unknown after {deadline.seconds:g} s, in which not all was written down"
    return Proof("unknown", reason, {}, (), 0.0, decisions, None)


def _checked(claim: Claim, proof: Proof, one_formula: bool, deadline: Deadline) -> Proof:
    """The proof with z3's answers to its formulas, one after the other."""
    start, steps = monotonic(), []
    with Solver() as solver:
        for name, text in proof.files.items():
            answer = solver.ask(text, deadline.left)
            steps.append((name, answer.verdict, answer.seconds))
            if answer.verdict != "unsat":
                break
    proof = replace(proof, steps=tuple(steps), seconds=monotonic() - start)
    if answer.verdict == "unsat":
        return replace(proof, verdict="proved")
    if answer.verdict == "unknown":
        late = answer.reason.startswith("after")
        words = f"after {deadline.seconds:g} s" if late else answer.reason
        return replace(proof, verdict="unknown", reason=f"not proved: unknown {words}")
    witness = _witness(claim, answer.witness, one_formula)
    reason = f"{name} has a counterexample"
    return replace(proof, verdict="refuted", reason=reason, witness=witness)


def _witness(claim: Claim, values: dict[str, Fraction], one_formula: bool) -> Witness:
    zero = Fraction(0)
    Z = tuple(values.get(f"x_{n}", zero) for n in range(claim.network.inputs))
    image = torch.tensor([float(v) for v in Z], dtype=torch.float64)
    logits = claim.program.record(image.reshape(1, *claim.image.shape), norms=False).logits[0]
    cotangent = torch.tensor([float(c) for c in claim.cotangent], dtype=torch.float64)
    return Witness(
        image=Z,
        claimed=claim.model.at(Z),
        exact=claim.score(Z) if one_formula else claim.exact.at(Z),
        network=float(logits @ cotangent),
        follows=claim.follows(Z),
    )


@dataclass(frozen=True)
class Printed:
    """How far printed floats are from the exact model, as exact differences.

    largest: of a weight; bias: of b; allowed: the most that is accepted, for either.
    """

    largest: Fraction
    bias: Fraction
    allowed: Fraction

    @property
    def holds(self) -> bool:
        """Whether every printed number is as close as allowed."""
        return max(self.largest, self.bias) <= self.allowed


def printed_difference(claim: Claim, weights: Tensor, bias: float, epsilon: float) -> Printed:
    """|printed − exact| for weights (C, H, W) and a bias, allowed epsilon × the largest number.

    The comparison is exact: floats are rational numbers.
    """
    exact = [claim.exact.row.get(n, Fraction(0)) for n in range(claim.network.inputs)]
    given = [Fraction(v) for v in weights.double().flatten().tolist()]
    largest = max(abs(a - b) for a, b in zip(exact, given, strict=True))
    size = max(*(abs(v) for v in exact), abs(claim.exact.constant))
    gap = abs(Fraction(bias) - claim.exact.constant)
    return Printed(largest, gap, Fraction(epsilon) * size)
