"""A captured network as a flat list of calls, and the three loops over it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from math import prod
from typing import Any

import torch
from torch import Tensor

from guidxmage.engine.call import Call, Frame, Hole, Ref, resolve
from guidxmage.engine.rules import rule_of
from guidxmage.engine.rules.table import Rule
from guidxmage.engine.trail import Decisions, Trail
from guidxmage.errors import UnsupportedOperatorError

# Operators whose output is always newly allocated, so that the next one may overwrite it as the
# user's in-place ReLU would; the values are the same either way.
_FRESH = frozenset(
    [
        "aten.conv1d.default",
        "aten.conv2d.default",
        "aten.conv3d.default",
        "aten.linear.default",
        "aten._native_batch_norm_legit_no_training.default",
        "aten.add.Tensor",
    ]
)


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
    def _overwritable(self) -> frozenset[int]:
        """Calls whose first input is a fresh tensor that nothing else, no view either, uses."""
        uses = Counter(id_ for call in self.calls for id_ in call.inputs)
        fresh = {call.id for call in self.calls if call.op in _FRESH and call.id != self.result}
        return frozenset(
            call.id
            for call in self.calls
            if isinstance(call.args[0], Ref)
            and call.args[0].id in fresh
            and uses[call.args[0].id] == 1
        )

    @cached_property
    def _measured(self) -> frozenset[int]:
        return frozenset(call.id for call in self.symbolic_calls if _rule(call).terms)

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
            record = _rule(call).record
            if record is None:
                value = call.run(*args)
            else:
                frame = self._frame(call, rows, owned=call.id in self._overwritable)
                value = record(frame, *args, **call.kwargs)
                if isinstance(value, tuple):
                    value, decisions[call.site] = value
            if call.id in self._measured:
                norms[call.id] = row_norms(value)
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
            value = _rule(call).push(frame, *resolve(call.args, values, rows), **call.kwargs)
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
        pending = _Cotangents(self.result, cotangent)
        bias: dict[str, Tensor] = {}
        bias_maps: dict[str, Tensor] = {}
        variance = cotangent.new_zeros(rows, dtype=torch.float64)
        for call in reversed(self.symbolic_calls):
            g, owned = pending.pop(call.id)
            if g is None:
                continue
            frame = self._frame(call, rows, trail, owned)
            constants = self._constants(frame)
            for site, constant in reversed(constants):
                bias[site] = inner(g, constant)
                if maps:
                    bias_maps[site] = _position_map(g, constant)
            if norms is not None and call.id in norms:
                variance += self._rounding_variance(frame, g, norms[call.id], constants)
            pulled = _rule(call).pull(frame, g, *self._holes(frame), **call.kwargs)
            for id_, g_in in zip(call.inputs, pulled, strict=True):
                pending.add(id_, g_in, owned=not shares_memory(g, g_in) and _is_dense(g_in))
        weights, _ = pending.pop(0)
        if weights is None:
            weights = cotangent.new_zeros(rows, *self.input_shape)
        return Pulled(
            weights=weights.contiguous(),
            bias_by_site=dict(reversed(bias.items())),
            variance=variance,
            maps=dict(reversed(bias_maps.items())),
        )

    def _frame(
        self, call: Call, rows: int, trail: Trail | None = None, owned: bool = False
    ) -> Frame:
        taken = trail.get(call.site) if trail is not None else None
        return Frame(call, rows, self.shapes(rows)[call.id], self._prepared, taken, owned)

    def _holes(self, frame: Frame) -> list[Any]:
        shapes = self.shapes(frame.rows)
        values = {id_: Hole(shapes[id_], self.dtype, self.device) for id_ in frame.call.inputs}
        return resolve(frame.call.args, values, frame.rows)

    def _constants(self, frame: Frame) -> list[tuple[str, Tensor]]:
        """What the call adds whatever its input, with the call site each part comes from."""
        constants = list(frame.call.offsets)
        make = _rule(frame.call).constant
        if make is not None:
            constant = make(frame, *self._holes(frame), **frame.call.kwargs)
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
        count = _rule(frame.call).terms
        assert count is not None
        terms = count(frame, *self._holes(frame), **frame.call.kwargs)
        size = norm.double()
        per_image = prod(frame.shape) // len(g)
        for site, constant in constants:
            size = size + per_image**0.5 * frame.prepare(
                f"spread {site}", partial(_spread, constant)
            )
        return (terms / per_image) * (row_norms(g).double() * frame.for_rows(size)) ** 2


def _rule(call: Call) -> Rule:
    rule = rule_of(call)
    if rule is None:
        raise UnsupportedOperatorError(f"{call.op} at '{call.site}' has no rule")
    return rule


class _Cotangents:
    """Cotangents waiting for their call, summed where a value was used more than once.

    An owned one shares its memory with nothing else and may be overwritten.
    """

    def __init__(self, id_: int, g: Tensor) -> None:
        self._waiting: dict[int, tuple[Tensor, bool]] = {id_: (g, False)}

    def pop(self, id_: int) -> tuple[Tensor | None, bool]:
        return self._waiting.pop(id_, (None, False))

    def add(self, id_: int, g: Tensor, owned: bool) -> None:
        if id_ not in self._waiting:
            self._waiting[id_] = (g, owned)
            return
        other, other_owned = self._waiting[id_]
        target, addend = (g, other) if owned and not other_owned else (other, g)
        total = target.add_(addend) if owned or other_owned else target + addend
        self._waiting[id_] = (total, True)


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


def row_norms(values: Tensor) -> Tensor:
    """The 2-norm of every row, (R,), whatever the memory layout."""
    return torch.linalg.vector_norm(values, dim=tuple(range(1, values.ndim)))


def _spread(constant: Tensor) -> float:
    """Root mean square of a constant."""
    return float(torch.linalg.vector_norm(constant)) / constant.numel() ** 0.5


def shares_memory(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors lie in one storage."""
    return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()


def _is_dense(tensor: Tensor) -> bool:
    last = torch.channels_last
    return tensor.is_contiguous() or (tensor.ndim == 4 and tensor.is_contiguous(memory_format=last))


def inner(g: Tensor, constant: Tensor) -> Tensor:
    """⟨g, constant⟩ for each row, the constant broadcast to g's shape; float64 (R,)."""
    blind = [d for d in range(1, g.ndim) if constant.shape[d] == 1]
    if blind:  # sum over what the constant does not distinguish first: no product of g's size
        g, constant = g.sum(blind), constant.squeeze(blind)
    return (g.double() * constant.double()).reshape(len(g), -1).sum(1)


def _position_map(g: Tensor, constant: Tensor) -> Tensor:
    """What a constant adds at each position, summed over channels: (R, *positions)."""
    product = (g * constant).double()
    return product.sum(1) if product.ndim > 2 else product
