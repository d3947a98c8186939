"""The other end of `solver.Solver`: z3 in a process of its own, which can be ended at any time.

Run as a script. It reads a line with the seconds and the number of bytes of an SMT-LIB 2 text, then
the text, and answers with a line of JSON; until its input ends.
"""

from __future__ import annotations

import json
import sys
from typing import Any

sys.path.pop(0)  # this file's folder, whose modules are no libraries


def answer(text: str, seconds: float) -> dict[str, Any]:
    """What z3 says of one formula; numbers as two hexadecimal texts, numerator and denominator."""
    import z3

    solver = z3.SolverFor("QF_LRA", ctx=z3.Context())
    solver.set("timeout", max(1, int(seconds * 1000)))
    solver.from_string(text)
    verdict = str(solver.check())
    found: dict[str, Any] = {"verdict": verdict, "reason": "", "witness": {}}
    if verdict == "sat":
        model = solver.model()
        values = {d.name(): model[d] for d in model.decls() if d.arity() == 0}
        found["witness"] = {
            name: [hex(value.numerator_as_long()), hex(value.denominator_as_long())]
            for name, value in values.items()
        }
    elif verdict != "unsat":
        found["verdict"], found["reason"] = "unknown", solver.reason_unknown()
    return found


def main() -> None:
    """Answer until the input ends."""
    if hasattr(sys, "set_int_max_str_digits"):
        sys.set_int_max_str_digits(0)
    while line := sys.stdin.buffer.readline():
        seconds, size = line.split()
        text = sys.stdin.buffer.read(int(size)).decode()
        sys.stdout.write(json.dumps(answer(text, float(seconds))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
