"""A captured network with every constant replaced by its residue: the product's own pull, modulo p.

The rules are linear, so they compute the same sums of products on residues. Two things are added:
what goes into a call that multiplies, and what comes out of it, is reduced (others only move and
add numbers, which stay far below 2^53 in between); and where a rule divides by whole numbers, its
cotangent is multiplied by a common multiple first, so that it divides without a rest, and by that
multiple's inverse afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import inf
from typing import Any, cast

import torch
from torch import Tensor

from guidxmage.engine.calls.call import Call, Frame
from guidxmage.engine.calls.constants import Constant, Switched
from guidxmage.engine.program.bias import Biases, by_row
from guidxmage.engine.program.program import Program
from guidxmage.engine.rules import traits_of
from guidxmage.engine.rules.affine import batch_norm_affine, per_channel
from guidxmage.engine.rules.table import Rule
from guidxmage.errors import UnsupportedOperatorError
from guidxmage.proof.modular.field import Field
from guidxmage.proof.modular.operators import (
    BATCH_NORM,
    divisor,
    multiplies,
    reduced_cotangents,
    without_rule,
)


def residue_calls(program: Program, field: Field) -> tuple[Call, ...]:
    """The user's own calls, with residues for constants."""
    return tuple(_residue_call(call, field) for call in program.calls)


def _residue_call(call: Call, field: Field) -> Call:
    kind = traits_of(call).residues
    if kind == "bounds":
        return replace(call, args=(call.args[0], *_ordered(call.args[1:], field)))
    if kind == "padding":
        value = call.args[-1] if isinstance(call.args[-1], float) else None
        if value == -inf:  # never the largest of a window: any number stands for it
            value = 0.0
        args = (*call.args[:-1], field.residue(value)) if value is not None else call.args
        return replace(call, args=args)
    if kind == "product":
        return _product_residues(call, field)
    if kind in ("weights", "terms", "fillings"):
        kwargs = {
            key: field.residue(v) if isinstance(v, float) else v for key, v in call.kwargs.items()
        }
        return replace(call, args=_mapped(call.args, field), kwargs=kwargs)
    return call


def _product_residues(call: Call, field: Field) -> Call:
    """Base + value·a·b with the value in a constant factor: three factors would not fit."""
    args = list(_mapped(call.args, field))
    place = next(n for n in (1, 2) if isinstance(args[n], Tensor))
    args[place] = field.reduce(args[place] * field.residue(float(call.kwargs.get("value", 1))))
    return replace(call, args=tuple(args), kwargs={})


def _mapped(args: Sequence[Any], field: Field) -> tuple[Any, ...]:
    def one(arg: Any) -> Any:
        if isinstance(arg, Tensor):
            return field.constant(arg) if arg.is_floating_point() else arg.cpu()
        if isinstance(arg, list):
            return [one(item) for item in arg]
        if isinstance(arg, float):
            return field.residue(arg)
        return arg

    return tuple(one(arg) for arg in args)


def _ordered(numbers: Sequence[Any], field: Field) -> list[Any]:
    """Residues that are in the same order as the numbers: rules compare a clamp's bounds."""
    found: list[Any] = []
    last = -inf
    for number in numbers:
        if isinstance(number, Tensor):
            raise UnsupportedOperatorError("a clamp whose bounds are tensors has no modular rule")
        if number is None or number in (inf, -inf):
            found.append(number)
            continue
        residue = field.residue(float(number)) if number else 0
        while residue < last:
            residue += field.p
        found.append(residue)
        last = residue
    return found


class Sums(Biases):
    """Σ ⟨g, constant⟩ modulo p: takes the place of `Biases` in a pull on residues."""

    def __init__(self, field: Field) -> None:
        super().__init__()
        self.field = field
        self.found: dict[str, Tensor] = {}

    def add(
        self,
        g: Tensor,
        constants: list[Constant],
        rows: int,
        summed: Tensor | None = None,  # noqa: ARG002
    ) -> bool:
        """The share of one call; sums in floating point are of no use here."""
        for constant in constants:
            if isinstance(constant, Switched) and len(g) == rows:
                self.found[constant.site] = self._switched(g, constant)
            else:
                self.found[constant.site] = self._inner(*by_row(g, constant.value, rows))
        return False

    def _switched(self, g: Tensor, constant: Switched) -> Tensor:
        """A number times the sum of g where a decision says so."""
        parts = vars(constant)
        gated = parts["gated"](g)
        total = self.field.reduce(gated.reshape(len(g), -1).sum(1))
        return self.field.reduce(total * self.field.residue(parts["factor"]))

    def _inner(self, g: Tensor, value: Tensor) -> Tensor:
        """⟨g, value⟩ of every row (R,): g is summed first where the value is the same."""
        value = self.field.reduce(value)
        blind = [d for d in range(1, g.ndim) if value.shape[d] == 1]
        g = self.field.reduce(g.sum(blind, keepdim=True) if blind else g)
        products = self.field.reduce(g * value)
        return self.field.reduce(products.reshape(len(products), -1).sum(1))

    def totals(self, like: Tensor) -> tuple[tuple[str, ...], Tensor]:
        """Call sites and their residues, (R, sites)."""
        columns = list(self.found.values()) or [like.new_empty(len(like), 0)]
        return tuple(self.found), torch.stack(columns, 1) if self.found else columns[0]


@dataclass(frozen=True)
class ResidueProgram(Program):
    """A program on residues; its `pull` is the product's, with the reductions added."""

    field: Field | None = None

    @classmethod
    def of(cls, program: Program, field: Field) -> ResidueProgram:
        """With the user's own calls, nothing folded. Raises UnsupportedOperatorError."""
        refused = without_rule(program.calls)
        if refused is not None:
            raise UnsupportedOperatorError(
                f"{refused.op} at '{refused.site}' has no modular counterpart"
            )
        calls = residue_calls(program, field)
        made = cls(
            calls=calls,
            symbolic_calls=calls,
            result=program.result,
            input_shape=program.input_shape,
            classes=program.classes,
            dtype=torch.float64,
            device=torch.device("cpu"),
            batched=program.batched,
            header=program.header,
            field=field,
        )
        for call in program.calls:
            if call.op == BATCH_NORM:
                made._prepared[call.id, "scale_and_shift"] = norm_residues(call, field)
        return made

    def _new_biases(self) -> Biases:
        return Sums(self._field)

    @cached_property
    def _reduced(self) -> frozenset[int]:
        return reduced_cotangents(self)

    @property
    def _field(self) -> Field:
        assert self.field is not None
        return self.field

    def pull_call(
        self, rule: Rule, frame: Frame, g: Tensor, holes: list[Any]
    ) -> Sequence[Tensor | None]:
        """One call transposed, and what comes out of it reduced."""
        if not multiplies(frame.call):
            return super().pull_call(rule, frame, g, holes)
        common = divisor(self, frame.call)
        if frame.call.id not in self._reduced:
            g = self._field.reduce(g)
        if common > 1:
            g = self._field.reduce(g * self._field.inverse(common)) * common
        pulled = super().pull_call(rule, frame, g, holes)
        whole = (None if v is None else v.round() if common > 1 else v for v in pulled)
        return [None if v is None else self._field.reduce(v) for v in whole]


def norm_residues(call: Call, field: Field) -> tuple[Tensor, Tensor]:
    """Scale and shift of batch-norm as the float64 numbers that the program computes.

    γ/√(σ² + ε) is irrational; the network that is proved about has its float64 value.
    """
    _, gamma, beta, mean, variance, _, eps = call.args
    scale, shift = batch_norm_affine(gamma, beta, mean, variance, eps)
    ndim = len(call.shape)
    pair = [per_channel(field.residues(v), ndim) for v in (scale, shift)]
    return cast("tuple[Tensor, Tensor]", tuple(pair))
