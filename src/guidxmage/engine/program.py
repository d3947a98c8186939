"""A captured network as a flat list of calls, and the three loops over it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import Any

import torch
from torch import Tensor

from guidxmage.engine.call import BatchSize, Call, Frame, Hole, resolve
from guidxmage.engine.rules import RULES
from guidxmage.engine.trail import Decisions, Trail


@dataclass(frozen=True)
class Recording:
    """What a concrete run leaves: logits (B, classes), the trail, and output norms for rounding."""

    logits: Tensor
    trail: Trail
    norms: dict[int, Tensor]


@dataclass(frozen=True)
class Pulled:
    """What a transposed run gives for R = K·B rows.

    weights (R, *input shape); bias_by_site: site → (R,); variance (R,) of the rounding error, in
    units of the unit roundoff squared; maps: site → (R, *positions) when they were asked for.
    """

    weights: Tensor
    bias_by_site: dict[str, Tensor]
    variance: Tensor
    maps: dict[str, Tensor]


@dataclass(frozen=True)
class Program:
    """An immutable list of calls from the image (value 0) to the logits (value `result`).

    `calls` are the user's own operators and are what is recorded; `symbolic_calls` compute the
    same values with batch-norm folded into convolutions, used where no decision can change.
    `batched` is False when the network could be captured for one image at a time only.
    """

    calls: tuple[Call, ...]
    symbolic_calls: tuple[Call, ...]
    result: int
    input_shape: tuple[int, ...]
    classes: int
    dtype: torch.dtype
    device: torch.device
    batched: bool = True
    header: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def _prepared(self) -> dict[Any, Any]:
        return {}

    @cached_property
    def _shapes(self) -> dict[int, dict[int, tuple[int, ...]]]:
        return {}

    @cached_property
    def _expired(self) -> tuple[tuple[int, ...], ...]:
        return last_uses(self.calls, self.result)

    @cached_property
    def _expired_symbolic(self) -> tuple[tuple[int, ...], ...]:
        return last_uses(self.symbolic_calls, self.result)

    @cached_property
    def _measured(self) -> frozenset[int]:
        return frozenset(call.id for call in self.symbolic_calls if RULES[call.op].terms)

    def shapes(self, rows: int) -> dict[int, tuple[int, ...]]:
        """The shape of every value in a run with that many rows."""
        if rows not in self._shapes:
            if len(self._shapes) > 16:
                self._shapes.clear()
            known = {call.id: tuple(resolve(call.shape, {}, rows)) for call in self.calls}
            self._shapes[rows] = {0: (rows, *self.input_shape), **known}
        return self._shapes[rows]

    @torch.no_grad()
    def record(self, images: Tensor) -> Recording:
        """Run the network for real on images (B, *input shape) and note every decision."""
        rows = len(images)
        values: dict[int, Tensor] = {0: images}
        decisions: dict[str, Decisions] = {}
        norms: dict[int, Tensor] = {}
        for call, expired in zip(self.calls, self._expired, strict=True):
            args = resolve(call.args, values, rows)
            if RULES[call.op].record is None:
                value = call.run(*args)
            else:
                value = RULES[call.op].record(self._frame(call, rows), *args, **call.kwargs)
                if isinstance(value, tuple):
                    value, decisions[call.site] = value
            if call.id in self._measured:
                norms[call.id] = torch.linalg.vector_norm(value.reshape(rows, -1), dim=1)
            values[call.id] = value
            for id_ in expired:
                del values[id_]
        return Recording(values[self.result], Trail(decisions, dict(self.header), rows), norms)

    @torch.no_grad()
    def push(self, trail: Trail, direction: Tensor, *, affine: bool = False) -> Tensor:
        """The network's linear part along a trail, applied to directions (R, *input shape).

        R is a multiple of the trail's rows. With `affine` the constants are added: symbolic
        execution of all classes on images Z. Returns (R, classes).
        """
        rows = len(direction)
        values: dict[int, Tensor] = {0: direction}
        for call, expired in zip(self.symbolic_calls, self._expired_symbolic, strict=True):
            frame = self._frame(call, rows, trail)
            value = RULES[call.op].push(frame, *resolve(call.args, values, rows), **call.kwargs)
            if affine:
                for _, constant in self._constants(frame):
                    value = value + constant
            values[call.id] = value
            for id_ in expired:
                del values[id_]
        return values[self.result]

    @torch.no_grad()
    def pull(
        self,
        trail: Trail,
        cotangent: Tensor,
        norms: Mapping[int, Tensor] | None = None,
        *,
        maps: bool = False,
    ) -> Pulled:
        """Run the network transposed along a trail.

        `cotangent` is (R, classes), R = K·B with row k·B + b for target k of image b. `norms`
        (from the recording) switch on the rounding variance, `maps` the per-position bias maps.
        """
        rows = len(cotangent)
        pending: dict[int, Tensor] = {self.result: cotangent}
        bias: dict[str, Tensor] = {}
        bias_maps: dict[str, Tensor] = {}
        variance = cotangent.new_zeros(rows, dtype=torch.float64)
        for call in reversed(self.symbolic_calls):
            g = pending.pop(call.id, None)
            if g is None:
                continue
            frame = self._frame(call, rows, trail)
            constants = self._constants(frame)
            for site, constant in constants:
                bias[site] = inner(g, constant)
                if maps:
                    bias_maps[site] = _position_map(g, constant)
            if norms is not None and call.id in norms:
                variance += self._rounding_variance(frame, g, norms[call.id], constants)
            cotangents = RULES[call.op].pull(frame, g, *self._holes(frame), **call.kwargs)
            for id_, g_in in zip(call.inputs, cotangents, strict=True):
                pending[id_] = pending[id_] + g_in if id_ in pending else g_in
        weights = pending.get(0, cotangent.new_zeros(rows, *self.input_shape))
        return Pulled(
            weights.contiguous(), dict(reversed(bias.items())), variance, dict(reversed(bias_maps.items()))
        )

    def _frame(self, call: Call, rows: int, trail: Trail | None = None) -> Frame:
        taken = trail.get(call.site) if trail is not None else None
        return Frame(call, rows, self.shapes(rows)[call.id], self._prepared, taken)

    def _holes(self, frame: Frame) -> list[Any]:
        shapes = self.shapes(frame.rows)
        values = {id_: Hole(shapes[id_], self.dtype, self.device) for id_ in frame.call.inputs}
        return resolve(frame.call.args, values, frame.rows)

    def _constants(self, frame: Frame) -> list[tuple[str, Tensor]]:
        """What the call adds whatever its input, with the call site each part comes from."""
        constants = list(frame.call.offsets)
        if RULES[frame.call.op].constant is not None:
            constant = RULES[frame.call.op].constant(frame, *self._holes(frame), **frame.call.kwargs)
            if constant is not None:
                constants.append((frame.call.site, constant))
        return constants

    def _rounding_variance(
        self, frame: Frame, g: Tensor, norm: Tensor, constants: list[tuple[str, Tensor]]
    ) -> Tensor:
        """Variance of ⟨g, δ⟩ for the call's rounding error δ, as if its parts were independent.

        After Higham & Mary, A New Approach to Probabilistic Rounding Error Analysis (2019): a sum
        of K products errs by about u·√K times its own size; the size is taken from the 2-norm of
        the output before constants are added.
        """
        assert RULES[frame.call.op].terms is not None
        terms = RULES[frame.call.op].terms(frame, *self._holes(frame), **frame.call.kwargs)
        size = norm.double()
        per_image = prod(frame.shape) // len(g)
        for _, constant in constants:
            spread = torch.linalg.vector_norm(constant).double() / constant.numel() ** 0.5
            size = size + spread * per_image**0.5
        g_norm = torch.linalg.vector_norm(g.reshape(frame.rows, -1), dim=1).double()
        return terms * g_norm**2 * frame.for_rows(size) ** 2 / per_image


def last_uses(calls: Sequence[Call], result: int) -> tuple[tuple[int, ...], ...]:
    """For each call the ids of the values that nothing needs after it."""
    last = {id_: number for number, call in enumerate(calls) for id_ in call.inputs}
    expired: list[list[int]] = [[] for _ in calls]
    for number, call in enumerate(calls):
        if call.id not in last and call.id != result:
            expired[number].append(call.id)
    for id_, number in last.items():
        if id_ != result:
            expired[number].append(id_)
    return tuple(tuple(ids) for ids in expired)


def inner(g: Tensor, constant: Tensor) -> Tensor:
    """⟨g, constant⟩ for each row, the constant broadcast to g's shape; float64 (R,)."""
    blind = [d for d in range(1, g.ndim) if constant.shape[d] == 1]
    if blind:  # sum over what the constant does not distinguish first: no product of g's size
        g, constant = g.sum(blind), constant.squeeze(blind)
    return (g.double() * constant.double()).reshape(len(g), -1).sum(1)


def _position_map(g: Tensor, constant: Tensor) -> Tensor:
    """g ⊙ constant summed over channels: what the constant adds at each position, (R, *positions)."""
    product = (g * constant).double()
    return product.sum(1) if product.ndim > 2 else product
