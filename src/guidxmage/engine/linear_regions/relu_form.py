"""A small piecewise-linear network with every decision written as ReLUs.

Max-pools, clamps, absolute values and the rest are differences of ReLUs, so that one form is left:
y = max(0, rows @ (1, x, y)), where the rows of a ReLU use only ReLUs before it, and the logits are
affine in (1, x, y). Nothing is fixed by a trail: the form is the network, for every x.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import inf
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from guidxmage.engine.calls.call import Call, Frame, Hole, is_active, last_uses
from guidxmage.engine.linear_regions.row_blocks import RowBlocks
from guidxmage.engine.program.program import Program
from guidxmage.engine.rules import rule_of
from guidxmage.engine.rules.choices import (
    AboveLimit,
    AlongDimensions,
    BetweenBounds,
    Choice,
    OfTwo,
    OfWindows,
    TwoSlopes,
)
from guidxmage.errors import InputError, UnsupportedOperatorError

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]

# So many rows of coefficients go through a call at a time.
_AT_ONCE = 1024


@dataclass(frozen=True)
class ReluForm:
    """N ReLUs over n inputs, and heads: affine functions of inputs and ReLUs.

    rows (N, 1 + n + N) and heads (K, 1 + n + N) hold coefficients of (1, x, y), y the ReLUs'
    outputs. levels: ReLUs of one slice do not depend on each other, only on slices before.
    """

    rows: Array
    heads: Array
    inputs: int
    levels: tuple[slice, ...]

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def blocks(self) -> tuple[RowBlocks, ...]:
        """The rows of each level, (ReLUs of the level, 1 + n + ReLUs before it)."""
        first = 1 + self.inputs
        return tuple(RowBlocks.of(self.rows[own, : first + own.start]) for own in self.levels)

    def run(self, x: Array) -> tuple[Array, Array]:
        """At points x (m, n): the ReLUs' inputs (m, N), and (1, x, y), (m, 1 + n + N)."""
        first = 1 + self.inputs
        z, values = np.zeros((len(x), len(self))), np.zeros((len(x), first + len(self)))
        values[:, 0], values[:, 1:first] = 1, x
        for level, blocks in zip(self.levels, self.blocks, strict=True):
            z[:, level] = blocks.values(values[:, : first + level.start])
            values[:, first + level.start : first + level.stop] = z[:, level].clip(0)
        return z, values

    def folded(self, on: Flags, off: Flags, heads: Array) -> tuple[ReluForm, NDArray[np.int64]]:
        """The form without the ReLUs (N,) that are always on or off, and the numbers of the rest.

        Their part goes into the rows of the others, and into `heads` (K, 1 + n + N).
        """
        first = 1 + self.inputs
        kept = np.flatnonzero(~on & ~off)
        # Each old column in terms of the new ones.
        new = np.zeros((self.rows.shape[1], first + len(kept)))
        new[:first, :first] = np.eye(first)
        new[first + kept, first + np.arange(len(kept))] = 1
        levels, rows = [], np.zeros((len(kept), new.shape[1]))
        done = 0
        for level, blocks in zip(self.levels, self.blocks, strict=True):
            known = first + level.start
            always = np.flatnonzero(on[level])
            new[first + level.start + always] = blocks.times(new[:known], always)
            own = np.flatnonzero(~on[level] & ~off[level])
            if len(own):
                levels.append(slice(done, done + len(own)))
                rows[levels[-1]] = blocks.times(new[:known], own)
                done += len(own)
        return ReluForm(rows, heads @ new, self.inputs, tuple(levels)), kept


@torch.no_grad()
def relu_form(program: Program, origin: Tensor, basis: Tensor, most: int = 5000) -> ReluForm:
    """The form of a network on origin + Σ x_i·basis_i; the heads are the logits.

    origin (*input shape), basis (n, *input shape), in the program's dtype. Raises InputError where
    it has more than `most` ReLUs, UnsupportedOperatorError for an operator that is not piecewise
    linear, or that jumps, and for a network that branches on what it computes.
    """
    program.refuse_branches()
    _refuse_stacks(program)
    builder = _Builder(program, torch.cat([origin[None], basis]), most)
    for call, expired in zip(program.calls, last_uses(program.calls, program.result), strict=True):
        builder.run(call)
        for id_ in expired:
            del builder.values[id_]
    return builder.form(builder.values[program.result])


def _refuse_stacks(program: Program) -> None:
    """Coefficients lie along the first dimension: there must be one row an image."""
    shapes = program.shapes(1)
    for call in program.calls:
        if shapes[call.id][:1] != (1,):
            raise UnsupportedOperatorError(
                f"{call.op} at '{call.site}' makes several rows of an image, as for crops: no "
                "exact search is possible"
            )


class _Builder:
    """Runs calls on coefficients: a value of shape (…) becomes (1 + n + N so far, …)."""

    def __init__(self, program: Program, image: Tensor, most: int) -> None:
        self.program, self.most = program, most
        self.values: dict[int, Tensor] = {0: image}
        self.inputs = len(image) - 1
        self.columns = len(image)
        self.rows: list[Tensor] = []
        self.levels: list[slice] = []

    def run(self, call: Call) -> None:
        """One call of the network."""
        rule = rule_of(call)
        if rule is None or rule.kind not in ("affine", "decision"):
            raise UnsupportedOperatorError(
                f"{call.op} at '{call.site}' is not piecewise linear: no exact search is possible"
            )
        for id_ in call.inputs:
            self.values[id_] = self._padded(self.values[id_])
        if rule.kind == "affine":
            self.values[call.id] = self._affine(call)
            return
        if rule.choice is None or (rule.jumps is not None and rule.jumps(call)):
            raise UnsupportedOperatorError(
                f"{call.op} at '{call.site}' cannot be written with ReLUs: no exact search is "
                "possible"
            )
        # Batch sizes among the arguments count the rows that are run, here those of one image.
        values = {id_: self.values[id_] for id_ in call.inputs}
        arguments = (*call.arguments(values, 1), *call.kwargs.values())
        self.values[call.id] = _rewritten(self, call, rule.choice, *arguments)

    def relu(self, value: Tensor) -> Tensor:
        """max(0, value), with a new column for each entry that is not constant."""
        z = self._padded(value).flatten(1)
        varies = (z[1:] != 0).any(0)
        count = int(varies.sum())
        start = self.columns - 1 - self.inputs
        if start + count > self.most:
            raise InputError(
                f"the network has more than {self.most} ReLUs; the exact search is for small ones"
            )
        result = z.new_zeros(self.columns + count, z.shape[1])
        result[0, ~varies] = z[0, ~varies].clamp_min(0)
        result[self.columns :, varies] = torch.eye(count).to(z)
        if count:
            self.rows.append(z[:, varies].t())
            self.levels.append(slice(start, start + count))
            self.columns += count
        return result.reshape(-1, *value.shape[1:])

    def difference(self, a: Tensor, b: Any) -> Tensor:
        """a − b, where b is a value too or constant."""
        if isinstance(b, Tensor) and b.ndim == a.ndim and len(b) > 1:
            return self._padded(a) - self._padded(b)
        result = a.expand(-1, *torch.broadcast_shapes(a.shape[1:], _inner(b, a))).clone()
        result[0] -= b[0] if isinstance(b, Tensor) and b.ndim == a.ndim else b
        return result

    def total(self, a: Tensor, b: Tensor) -> Tensor:
        """a + b of two values."""
        return self._padded(a) + self._padded(b)

    def largest(self, lines: Tensor) -> Tensor:
        """The largest along the last axis, as a tournament."""
        while lines.shape[-1] > 1:
            even = lines.shape[-1] // 2 * 2
            a, b = lines[..., 0:even:2], lines[..., 1:even:2]
            winners = self.total(b, self.relu(self.difference(a, b)))
            lines = torch.cat([winners, self._padded(lines[..., even:])], -1)
        return lines[..., 0]

    def form(self, logits: Tensor) -> ReluForm:
        """What was built."""
        count = self.columns - 1 - self.inputs
        rows = np.zeros((count, self.columns))
        for level, part in zip(self.levels, self.rows, strict=True):
            rows[level, : part.shape[1]] = part.numpy()
        heads = self._padded(logits).t().double().contiguous().numpy()
        return ReluForm(rows, heads, self.inputs, tuple(self.levels))

    def _padded(self, value: Tensor) -> Tensor:
        """With coefficients 0 for the columns that came later."""
        missing = self.columns - len(value)
        return torch.cat([value, value.new_zeros(missing, *value.shape[1:])]) if missing else value

    def _affine(self, call: Call) -> Tensor:
        rule = rule_of(call)
        assert rule is not None
        prepared: dict[Any, Any] = {}
        parts = []
        # What is 0 stays 0; the first row is always run, so that there is one.
        there = torch.arange(self.columns) == 0
        for id_ in call.inputs:
            there |= self.values[id_].flatten(1).any(1)
        numbers = there.nonzero()[:, 0]
        for chosen in numbers.split(_AT_ONCE if self.program.batched else 1):
            rows = len(chosen)
            own = {id_: self.values[id_][chosen] for id_ in call.inputs}
            frame = Frame(call, rows, tuple(call.sizes(rows)), prepared)
            parts.append(rule.push(frame, *call.arguments(own, rows), **call.kwargs))
        found = torch.cat(parts)
        value = found.new_zeros(self.columns, *found.shape[1:])
        value[numbers] = found
        for constant in self._constants(call, prepared):
            value[:1] = value[:1] + constant
        return value

    def _constants(self, call: Call, prepared: dict[Any, Any]) -> list[Tensor]:
        rule = rule_of(call)
        found = [value for _, value in call.offsets]
        if rule is not None and rule.constant is not None:
            shapes = self.program.shapes(1)
            like = (self.program.dtype, self.program.device)
            blanks = {id_: Hole(shapes[id_], *like) for id_ in call.inputs}
            frame = Frame(call, 1, shapes[call.id], prepared)
            value = rule.constant(frame, *call.arguments(blanks, 1), **call.kwargs)
            found += [] if value is None else [value]
        return found


def _inner(b: Any, a: Tensor) -> tuple[int, ...]:
    """The shape of a constant beside values shaped as a[0]."""
    if not isinstance(b, Tensor):
        return ()
    return tuple(b.shape[1:]) if b.ndim == a.ndim else tuple(b.shape)


# --- decisions as ReLUs: what each choice is -----------------------------------------------------


def _rewritten(b: _Builder, call: Call, choice: Choice, x: Any, *rest: Any) -> Tensor:
    if isinstance(choice, TwoSlopes):
        return _leaky(b, x, choice.slope(*rest))
    if isinstance(choice, AboveLimit):  # where it does not jump
        return _clamped(b, x, choice.numbers(*rest)[0], inf)
    if isinstance(choice, BetweenBounds):
        inside = _clamped(b, x, *choice.bounds(*rest)) / choice.divisor
        return b.difference(inside, -choice.shift) if choice.shift else inside
    if isinstance(choice, OfTwo):
        return _larger(b, call, choice.sign, x, *rest)
    if isinstance(choice, AlongDimensions):
        return _extreme(b, call, choice.sign, x, *rest)
    return _pooled(b, call, choice, x, *rest)


def _leaky(b: _Builder, x: Tensor, slope: Any) -> Tensor:
    """slope·x + (1 − slope)·relu(x); a slope for every channel is a tensor."""
    if isinstance(slope, Tensor):
        slope = slope.reshape(1, -1, *[1] * (x.ndim - 2)) if x.ndim > 1 else slope
    elif slope == 0:
        return b.relu(x)
    return b.total(x * slope, b.relu(x) * (1 - slope))


def _clamped(b: _Builder, x: Tensor, low: Any, high: Any) -> Tensor:
    """min(high, max(low, x)), as high − relu(high − …): torch lets `high` win where low > high."""
    if isinstance(low, Tensor) or low != -inf:
        x = b.difference(b.relu(b.difference(x, low)), -low)
    if isinstance(high, Tensor) or high != inf:
        x = b.difference(-b.relu(-b.difference(x, high)), -high)
    return x


def _larger(b: _Builder, call: Call, sign: int, x: Any, y: Any) -> Tensor:
    """Elementwise maximum (+1) or minimum (−1); one operand may be constant."""
    a, c = (x, y) if is_active(call.args[0]) else (y, x)
    gap = b.relu(sign * b.difference(a, c))
    if is_active(call.args[0]) and is_active(call.args[1]):
        return b.total(c, sign * gap)
    return b.difference(sign * gap, -c)


def _extreme(b: _Builder, call: Call, sign: int, x: Tensor, dims: Any = (), *rest: Any) -> Tensor:
    """The largest (+1) or smallest (−1) along dimensions."""
    listed = [dims] if isinstance(dims, int) else list(dims or range(1, x.ndim))
    reduced = sorted(d % x.ndim for d in listed)
    kept = [d for d in range(x.ndim) if d not in reduced]
    lines = x.permute(*kept, *reduced).flatten(len(kept)) * sign
    best = b.largest(lines) * sign
    return best.reshape(-1, *call.sizes(1)[1:])


def _pooled(b: _Builder, call: Call, choice: OfWindows, x: Tensor, *args: Any) -> Tensor:
    shape: Sequence[int] = call.sizes(1)
    dims = choice.dims
    windows = choice.geometry(x.shape[-dims:], shape[-dims:], args)
    index = windows.base.flatten() + windows.offsets[:, None]
    inside = windows.inside.flatten(1)
    # Positions outside a window repeat its first one inside: their ReLUs are constants.
    first = inside.int().argmax(0)
    index = torch.where(inside, index, index.gather(0, first[None]))
    best = b.largest(x.flatten(-dims)[..., index.t()])
    return best.reshape(-1, *shape[1:])
