"""z3 asked about one formula after the other: can its assertions all hold?"""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from time import monotonic
from typing import Any

INSTALL = "pip install z3-solver (or the extra guid-xmage[prove])"
# What z3 is given beyond its own time limit, which it looks at now and then.
_GRACE = 0.5
_SCRIPT = Path(__file__).with_name("z3_process.py")


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


class Solver:
    """z3 in a process of its own: reading a large formula, too, ends when the time is over."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(_SCRIPT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def __enter__(self) -> Solver:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with suppress(OSError):  # what was left to be written
                    stream.close()

    def ask(self, text: str, seconds: float) -> Answer:
        """The answer to an SMT-LIB 2 file, within about so many seconds."""
        start, waiting = monotonic(), Queue[bytes]()
        Thread(target=self._exchange, args=(text, seconds, waiting), daemon=True).start()
        try:
            line = waiting.get(timeout=max(0.0, seconds) + _GRACE)
        except Empty:
            self._process.kill()
            return Answer("unknown", monotonic() - start, reason=f"after {seconds:g} s")
        spent = monotonic() - start
        if not line:
            return Answer("unknown", spent, reason="z3 ended without an answer")
        return _read(json.loads(line), spent, seconds)

    def _exchange(self, text: str, seconds: float, answers: Queue[bytes]) -> None:
        content, process = text.encode(), self._process
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(b"%r %d\n" % (float(seconds), len(content)))
            process.stdin.write(content)
            process.stdin.flush()
            answers.put(process.stdout.readline())
        except (OSError, ValueError):  # it was ended meanwhile
            answers.put(b"")


def _read(found: dict[str, Any], spent: float, seconds: float) -> Answer:
    witness = {
        name: Fraction(int(numerator, 16), int(denominator, 16))
        for name, (numerator, denominator) in found["witness"].items()
    }
    late = found["reason"] in ("timeout", "canceled")
    reason = f"after {seconds:g} s" if late else found["reason"]
    return Answer(found["verdict"], spent, witness, reason)
