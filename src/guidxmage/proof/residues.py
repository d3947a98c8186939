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
from math import inf, lcm, prod
from typing import Any, cast

import torch
from torch import Tensor

from guidxmage.engine.call import Call, Frame
from guidxmage.engine.ledger import Biases, Constant, Switched, by_row
from guidxmage.engine.program import Program
from guidxmage.engine.rules import rule_of
from guidxmage.engine.rules.affine import batch_norm_affine, per_channel
from guidxmage.engine.rules.table import Rule
from guidxmage.errors import UnsupportedOperatorError
from guidxmage.proof.field import Field

BATCH_NORM = "aten._native_batch_norm_legit_no_training.default"
# Constants among the arguments of these calls enter the sum: they are replaced by residues.
_WEIGHTED = frozenset(
    [
        "conv1d",
        "conv2d",
        "conv3d",
        "conv_transpose1d",
        "conv_transpose2d",
        "conv_transpose3d",
        "linear",
        "addmm",
        "mm",
        "matmul",
        "bmm",
        "mul",
        "add",
        "sub",
        "rsub",
        "addcmul",
        "prelu",
        "_prelu_kernel",
    ]
)
# These add, move or choose and have no constants that enter the sum (or only 0).
_PLAIN = frozenset(
    [
        "neg",
        "sum",
        "clone",
        "contiguous",
        "alias",
        "detach",
        "lift_fresh_copy",
        "dropout",
        "feature_dropout",
        "view",
        "reshape",
        "flatten",
        "unflatten",
        "_unsafe_view",
        "squeeze",
        "unsqueeze",
        "permute",
        "transpose",
        "t",
        "expand",
        "slice",
        "select",
        "split",
        "split_with_sizes",
        "chunk",
        "unbind",
        "narrow",
        "index_select",
        "flip",
        "roll",
        "pixel_shuffle",
        "pixel_unshuffle",
        "channel_shuffle",
        "index",
        "cat",
        "stack",
        "relu",
        "abs",
        "maximum",
        "minimum",
        "amax",
        "amin",
        "max",
        "min",
        "max_pool1d",
        "max_pool2d",
        "max_pool3d",
        "max_pool1d_with_indices",
        "max_pool2d_with_indices",
        "max_pool3d_with_indices",
        "adaptive_max_pool1d",
        "adaptive_max_pool2d",
        "adaptive_max_pool3d",
        "zeros_like",
        "ones_like",
        "new_zeros",
        "zeros",
        "ones",
        "type_as",
        "repeat_interleave",
        "im2col",
        "col2im",
        "unfold",
        "tril",
        "triu",
    ]
)
# These overwrite a part or choose by a constant mask: what they put in may be a constant.
_OVERWRITING = frozenset(["slice_scatter", "select_scatter", "copy", "where", "masked_fill"])
# Constants whose residues keep their order, because rules compare them.
_BOUNDED = frozenset(
    ["hardtanh", "relu6", "clamp", "clamp_min", "clamp_max", "leaky_relu", "threshold"]
)
_AVERAGES = frozenset(
    [
        "avg_pool1d",
        "avg_pool2d",
        "avg_pool3d",
        "adaptive_avg_pool1d",
        "adaptive_avg_pool2d",
        "adaptive_avg_pool3d",
        "mean",
    ]
)
_KNOWN = _WEIGHTED | _PLAIN | _OVERWRITING | _BOUNDED | _AVERAGES | {"constant_pad_nd", "pad"}


def short(call: Call) -> str:
    """An operator's name without namespace and overload."""
    return call.op.split(".")[1]


# These only hand numbers on, one for each: what is reduced stays so, forwards and transposed.
_HANDING_ON = frozenset(
    [
        "clone",
        "contiguous",
        "alias",
        "detach",
        "dropout",
        "feature_dropout",
        "view",
        "reshape",
        "flatten",
        "unflatten",
        "_unsafe_view",
        "squeeze",
        "unsqueeze",
        "permute",
        "transpose",
        "t",
        "neg",
        "relu",
        "abs",
        "relu6",
        "hardtanh",
        "clamp",
        "clamp_min",
        "clamp_max",
    ]
)


def hands_on(call: Call) -> bool:
    """Whether a call only moves numbers, or drops some."""
    return short(call) in _HANDING_ON


def reduced_cotangents(program: Program) -> frozenset[int]:
    """The calls whose cotangents come in reduced: from one call alone, which leaves them so."""
    users: dict[int, list[Call]] = {}
    for call in program.calls:
        for id_ in call.inputs:
            users.setdefault(id_, []).append(call)
    found = {program.result} if program.result not in users else set()
    for call in reversed(program.calls):
        own = users.get(call.id, [])
        if len(own) == 1 and (multiplies(own[0]) or (hands_on(own[0]) and own[0].id in found)):
            found.add(call.id)
    return frozenset(found)


def multiplies(call: Call) -> bool:
    """Whether a call multiplies residues: what enters it must be reduced, and what comes out."""
    name = short(call)
    if name in ("add", "sub", "rsub"):  # with a factor for the second operand
        return len(call.args) > 2 or call.kwargs.get("alpha", 1) != 1
    return name in _WEIGHTED | _AVERAGES or name == "leaky_relu" or call.op == BATCH_NORM


def without_rule(program: Program) -> Call | None:
    """The first call that has no modular counterpart."""
    for call in program.calls:
        rule = rule_of(call)
        known = short(call) in _KNOWN or call.op == BATCH_NORM or not call.inputs
        if not known or rule is None or rule.kind == "gate" or "training" in call.kwargs:
            return call
    return None


def longest_sum(program: Program) -> int:
    """The most products that one entry of any value or cotangent sums, with room to spare."""
    longest = max(program.classes, 1024)
    for call in program.calls:
        for arg in call.args:
            if isinstance(arg, Tensor) and short(call) in _WEIGHTED and arg.ndim > 1:
                longest = max(longest, prod(arg.shape[1:]), arg.numel() // arg.shape[1])
        if short(call) in _AVERAGES:
            longest = max(longest, 2 * divisor(program, call))
    return 2 * longest


def divisor(program: Program, call: Call) -> int:
    """A common multiple of the whole numbers by which a call divides; 1 where it divides by none.

    Raises UnsupportedOperatorError where that multiple is too large for exact arithmetic.
    """
    name = short(call)
    if name not in _AVERAGES:
        return 1
    shape = program.shapes(1)[call.inputs[0]]
    if name == "mean":
        dims = call.args[1] if len(call.args) > 1 and call.args[1] else range(len(shape))
        found = prod(shape[d] for d in cast("Sequence[int]", dims))
    elif name.startswith("adaptive"):
        out = program.shapes(1)[call.id]
        found = _adaptive_multiple(shape[-_dims(name) :], out[-_dims(name) :])
    else:
        found = _window_multiple(call, _dims(name))
    if found > 2**24:
        raise UnsupportedOperatorError(f"{call.op} at '{call.site}' averages in too many ways")
    return found


def _dims(name: str) -> int:
    return int(name[-2])


def _adaptive_multiple(size: Sequence[int], out: Sequence[int]) -> int:
    """The least common multiple of the windows' sizes, dimension by dimension."""
    found = 1
    for n, m in zip(size, out, strict=True):
        found *= lcm(*(-(-(o + 1) * n // m) - o * n // m for o in range(m)))
    return found


def _window_multiple(call: Call, dims: int) -> int:
    kernel = list(call.args[1]) * (dims if len(call.args[1]) == 1 else 1)
    if len(call.args) > 6 and call.args[6]:
        return int(call.args[6])
    padding = call.args[3] if len(call.args) > 3 else [0]
    ceil_mode = len(call.args) > 4 and bool(call.args[4])
    if not any(padding) and not ceil_mode:
        return prod(kernel)
    return prod(lcm(*range(1, k + 1)) for k in kernel)


def residue_calls(program: Program, field: Field) -> tuple[Call, ...]:
    """The user's own calls, with residues for constants."""
    return tuple(_residue_call(call, field) for call in program.calls)


def _residue_call(call: Call, field: Field) -> Call:
    name = short(call)
    if name in _BOUNDED:
        return replace(call, args=(call.args[0], *_ordered(call.args[1:], field)))
    if name in ("constant_pad_nd", "pad"):
        value = call.args[-1] if isinstance(call.args[-1], float) else None
        if value == -inf:  # never the largest of a window: any number stands for it
            value = 0.0
        args = (*call.args[:-1], field.residue(value)) if value is not None else call.args
        return replace(call, args=args)
    if name == "addcmul":
        return _product_residues(call, field)
    if name in _WEIGHTED | _OVERWRITING or (not call.inputs) or name in ("cat", "stack"):
        kwargs = {
            key: field.residue(v) if isinstance(v, float) else v for key, v in call.kwargs.items()
        }
        constants = name in ("mul", "add", "sub", "rsub") or name in _OVERWRITING
        return replace(call, args=_mapped(call.args, field, numbers=constants), kwargs=kwargs)
    return call


def _product_residues(call: Call, field: Field) -> Call:
    """Base + value·a·b with the value in a constant factor: three factors would not fit."""
    args = list(_mapped(call.args, field, numbers=False))
    place = next(n for n in (1, 2) if isinstance(args[n], Tensor))
    args[place] = field.reduce(args[place] * field.residue(float(call.kwargs.get("value", 1))))
    return replace(call, args=tuple(args), kwargs={})


def _mapped(args: Sequence[Any], field: Field, *, numbers: bool) -> tuple[Any, ...]:
    def one(arg: Any) -> Any:
        if isinstance(arg, Tensor):
            return field.constant(arg) if arg.is_floating_point() else arg.cpu()
        if isinstance(arg, list):
            return [one(item) for item in arg]
        if numbers and isinstance(arg, float):
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
    ) -> None:
        """The share of one call; sums in floating point are of no use here."""
        for constant in constants:
            if isinstance(constant, Switched) and len(g) == rows:
                self.found[constant.site] = self._switched(g, constant)
            else:
                self.found[constant.site] = self._inner(*by_row(g, constant.value, rows))

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
        refused = without_rule(program)
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

    def _pull_call(self, rule: Rule, frame: Frame, g: Tensor, holes: list[Any]) -> list[Any]:
        if not multiplies(frame.call):
            return super()._pull_call(rule, frame, g, holes)
        common = divisor(self, frame.call)
        if frame.call.id not in self._reduced:
            g = self._field.reduce(g)
        if common > 1:
            g = self._field.reduce(g * self._field.inverse(common)) * common
        pulled = super()._pull_call(rule, frame, g, holes)
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
