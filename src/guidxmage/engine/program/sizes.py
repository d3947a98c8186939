"""Which norms of a recorded run the bound on rounding needs, and how few have to be measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from guidxmage.engine.calls.call import Call, Frame
from guidxmage.engine.program.steps import Step
from guidxmage.engine.rules.table import Rule


@dataclass(frozen=True)
class Sizes:
    """The 2-norms that are `measured`, by value, and how others are bounded by them.

    derived: values in order of execution, each with the factor and the values whose norms, summed
    and multiplied by it, bound its own. outputs: calls whose own output counts.
    """

    measured: frozenset[int]
    derived: tuple[tuple[int, float, tuple[int, ...]], ...]
    outputs: frozenset[int]

    def completed(self, norms: dict[int, Tensor]) -> dict[int, Tensor]:
        """With the bounds on norms that were not measured."""
        if not norms:
            return norms
        for value, factor, sources in self.derived:
            total = norms[sources[0]]
            for source in sources[1:]:
                total = total + norms[source]
            norms[value] = total if factor == 1 else total * factor
        return norms

    def of(
        self, call: Call, rule: Rule, norms: Mapping[int, Tensor]
    ) -> tuple[Tensor, Tensor | None]:
        """The norms of a call's inputs together, and of its output where that counts."""
        if rule.gain is None:
            return norms[call.id], norms[call.id]
        given = norms[call.inputs[0]]
        for id_ in call.inputs[1:]:
            given = given + norms[id_]
        return given, norms[call.id] if call.id in self.outputs else None


def sizes_needed(
    calls: Sequence[tuple[Call, Rule]], described: Callable[[], Sequence[Step]]
) -> Sizes:
    """What a pull of these calls needs; `described` are the recorded calls for one row."""
    rounding = [(call, rule) for call, rule in calls if rule.terms is not None and call.inputs]
    outputs = {call.id for call, rule in rounding if rule.sums}
    needed = outputs | {i for call, rule in rounding if rule.gain is not None for i in call.inputs}
    derived: list[tuple[int, float, tuple[int, ...]]] = []
    for step in reversed(described()):
        call, rule = step.call, step.rule
        if call.id not in needed or call.id in outputs or rule.growth is None or not call.inputs:
            continue
        if call.keeps:  # by how much they grow is another thing for every image
            continue
        frame = Frame(call, 1, step.shape, {})
        factor = rule.growth(frame, *step.holes, **call.kwargs)
        if factor is None:
            continue
        needed.discard(call.id)
        needed.update(call.inputs)
        derived.append((call.id, float(factor), call.inputs))
    return Sizes(frozenset(needed), tuple(reversed(derived)), frozenset(outputs))
