"""How many of a photo's decisions are ambiguous: within the rounding error of making them."""

from __future__ import annotations

from dataclasses import dataclass, field

from guidxmage.engine.program.precision import widened
from guidxmage.engine.program.program import Program
from guidxmage.explanation import Explanation
from guidxmage.proof.rounding.fidelity import Doubts, Runs


@dataclass
class Doubtful:
    """Counts ambiguous decisions, by one run in float64 for each photo."""

    _wide: dict[int, tuple[Program, Program]] = field(default_factory=dict, repr=False)

    def of(self, image: Explanation) -> int | None:
        """Of a single image; None where smooth operators make a region of no size.

        Raises what the network's operators raise in the other precision.
        """
        network = image.symbolic_model.network
        if network is None or network.program.smooth:
            return None
        program = network.program
        known = self._wide.get(id(program))
        if known is None or known[0] is not program:
            if len(self._wide) > 4:
                self._wide.clear()
            known = self._wide[id(program)] = (program, widened(program))
        runs = Runs.of(program, known[1], network.to_input(image.input[None]))
        return sum(Doubts.of(runs).ambiguous.values())
