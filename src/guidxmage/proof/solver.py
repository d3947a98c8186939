"""z3 asked about one formula: can its assertions all hold?"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from importlib.util import find_spec
from time import monotonic

INSTALL = "pip install z3-solver (or the extra guid-xmage[prove])"


@dataclass(frozen=True)
class Answer:
    """unsat: no assignment; sat: `witness` is one, name → value; unknown: `reason` says why."""

    verdict: str
    seconds: float
    witness: dict[str, Fraction] = field(default_factory=dict)
    reason: str = ""


def has_solver() -> bool:
    """Whether z3 is installed."""
    return find_spec("z3") is not None


def ask(text: str, seconds: float) -> Answer:
    """z3's answer to an SMT-LIB 2 file within a time limit."""
    import z3

    start = monotonic()
    solver = z3.SolverFor("QF_LRA", ctx=z3.Context())
    solver.set("timeout", max(1, int(seconds * 1000)))
    solver.from_string(text)
    verdict = str(solver.check())
    spent = monotonic() - start
    if verdict == "sat":
        model = solver.model()
        witness = {d.name(): _fraction(model[d]) for d in model.decls() if d.arity() == 0}
        return Answer(verdict, spent, witness)
    if verdict == "unsat":
        return Answer(verdict, spent)
    reason = solver.reason_unknown()
    late = reason in ("timeout", "canceled")
    return Answer("unknown", spent, reason=f"after {seconds:g} s" if late else reason)


def _fraction(value: object) -> Fraction:
    return Fraction(value.numerator_as_long(), value.denominator_as_long())  # type: ignore
