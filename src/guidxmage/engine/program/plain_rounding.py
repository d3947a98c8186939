"""The bound on rounding, followed in a graph of ordinary operators."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from guidxmage.engine.calls.call import Call
from guidxmage.engine.program.bias import Noise, Rounding
from guidxmage.engine.program.program import Program
from guidxmage.engine.program.sizes import Sizes, sizes_needed
from guidxmage.engine.rules.table import Rule
from guidxmage.errors import InputError


@dataclass(frozen=True)
class PlainRounding:
    """How the user's own calls round, by call; which norms of values that needs.

    `Program.pull` does so of the folded calls, where two roundings may be one. kept: numbers of the
    program that are the same in every run.
    """

    noise: Mapping[int, Noise]
    rules: Mapping[int, Rule]
    sizes: Sizes
    kept: dict[Any, Any] = field(default_factory=dict)

    @classmethod
    @torch.no_grad()
    def of(cls, program: Program) -> PlainRounding:
        """Of a program, which is run once, on noise.

        Raises InputError where masks or positions make other constants of other images.
        """
        if program.kept:
            raise InputError(
                "the bound on rounding cannot be exported for a network with masks or positions "
                "that the image decides; leave out bound"
            )
        generator = torch.Generator().manual_seed(0)
        image = torch.rand(1, *program.input_shape, generator=generator, dtype=program.dtype)
        trail = program.record(image.to(program.device), norms=False).trail
        steps = program.own_steps(1)
        noise = {}
        for step in steps:
            if step.rule.terms is not None and step.call.inputs:
                frame = program.frame(step.call, 1, trail)
                noise[step.call.id] = step.noise(frame, step.constants(frame))
        rules = {step.call.id: step.rule for step in steps}
        calls = [(step.call, step.rule) for step in steps]
        return cls(noise, rules, sizes_needed(calls, lambda: steps))

    def norms(self, values: Mapping[int, Tensor], rows: int) -> dict[int, Tensor]:
        """The 2-norms that are needed of a run's values, (B,) each, by call."""
        measured = {id_: _norm(values[id_], rows) for id_ in sorted(self.sizes.measured)}
        return self.sizes.completed(measured)

    def add(
        self, rounding: Rounding, call: Call, g: Tensor, norms: Mapping[int, Tensor], rows: int
    ) -> None:
        """What one call rounds, the cotangent of its output being g (R, …)."""
        if call.id in self.noise:
            given, output = self.sizes.of(call, self.rules[call.id], norms)
            rounding.add(_norm(g, rows), output, given, self.noise[call.id])


def _norm(values: Tensor, rows: int) -> Tensor:
    """Of every row, (R,)."""
    return torch.linalg.vector_norm(values.reshape(rows, -1), dim=1)
