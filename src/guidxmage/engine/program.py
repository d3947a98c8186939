"""A captured network as a flat list of calls, and the three loops over it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import Any

import torch
from torch import Tensor

from guidxmage.engine.call import Call, Frame, Hole, Ref
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
    def _step_lists(self) -> dict[int, list[_Step]]:
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
            known = {call.id: call.sizes(rows) for call in self.calls}
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
            args = call.arguments(values, rows)
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
        holes = {step.call.id: step.holes for step in self._steps(rows)}
        for call, expired in zip(self.symbolic_calls, self._expired_symbolic, strict=True):
            frame = self._frame(call, rows, trail)
            value = _rule(call).push(frame, *call.arguments(values, rows), **call.kwargs)
            if affine:
                for _, constant in self._constants(frame, holes[call.id]):
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
        rounding = _Rounding()
        for step in self._steps(rows):
            call = step.call
            g, owned = pending.pop(call.id)
            if g is None:
                continue
            frame = self._frame(call, rows, trail, owned)
            constants = self._constants(frame, step.holes)
            bias.update(inner_products(g, constants, frame))
            if maps:
                bias_maps.update((site, _position_map(g, c)) for site, c in reversed(constants))
            if norms is not None and call.id in norms:
                rounding.add(row_norms(g), norms[call.id], *self._noise(frame, step, constants))
            pulled = step.rule.pull(frame, g, *step.holes, **call.kwargs)
            for id_, g_in in zip(call.inputs, pulled, strict=True):
                alone = not shares_memory(g, g_in) or (owned and len(pulled) == 1)
                pending.add(id_, g_in, owned=alone and _is_dense(g_in))
        weights, _ = pending.pop(0)
        if weights is None:
            weights = cotangent.new_zeros(rows, *self.input_shape)
        return Pulled(
            weights=weights.contiguous(),
            bias_by_site=dict(reversed(bias.items())),
            variance=rounding.variance(cotangent),
            maps=dict(reversed(bias_maps.items())),
        )

    def _steps(self, rows: int) -> list[_Step]:
        """The symbolic calls backwards, with what a pull of that many rows knows of inputs."""
        if rows not in self._step_lists:
            if len(self._step_lists) > 16:
                self._step_lists.clear()
            shapes = self.shapes(rows)
            blanks = {id_: Hole(shape, self.dtype, self.device) for id_, shape in shapes.items()}
            self._step_lists[rows] = [
                _Step(call, _rule(call), call.arguments(blanks, rows))
                for call in reversed(self.symbolic_calls)
            ]
        return self._step_lists[rows]

    def _frame(
        self, call: Call, rows: int, trail: Trail | None = None, owned: bool = False
    ) -> Frame:
        taken = trail.get(call.site) if trail is not None else None
        return Frame(call, rows, self.shapes(rows)[call.id], self._prepared, taken, owned)

    def _constants(self, frame: Frame, holes: list[Any]) -> list[tuple[str, Tensor]]:
        """What the call adds whatever its input, with the call site each part comes from."""
        constants = list(frame.call.offsets)
        make = _rule(frame.call).constant
        if make is not None:
            constant = make(frame, *holes, **frame.call.kwargs)
            if constant is not None:
                constants.append((frame.call.site, constant))
        return constants

    def _noise(
        self, frame: Frame, step: _Step, constants: list[tuple[str, Tensor]]
    ) -> tuple[float, float]:
        """Terms summed for one output value, per value, and the size that constants add to it."""

        def make() -> tuple[float, float]:
            count = step.rule.terms
            assert count is not None
            per_image = prod(frame.shape) // frame.rows
            spread = sum(_spread(constant) for _, constant in constants) * per_image**0.5
            return count(frame, *step.holes, **frame.call.kwargs) / per_image, spread

        noise: tuple[float, float] = frame.prepare("noise", make)
        return noise


@dataclass(frozen=True)
class _Step:
    """One call of a transposed run: its rule, and its arguments with holes for active inputs."""

    call: Call
    rule: Rule
    holes: list[Any]


class _Rounding:
    """Variance of Σ ⟨g, δ⟩ over the rounding errors δ of all calls, as if they were independent.

    After Higham & Mary, A New Approach to Probabilistic Rounding Error Analysis (2019): a sum of
    K products errs by about u·√K times its own size; the size is taken from the 2-norm of the
    output before constants are added.
    """

    def __init__(self) -> None:
        self._cotangents: list[Tensor] = []
        self._outputs: list[Tensor] = []
        self._noise: list[tuple[float, float]] = []

    def add(self, cotangent: Tensor, output: Tensor, terms: float, spread: float) -> None:
        """Norms of one call's cotangent (R,) and recorded output (B,), R a multiple of B."""
        self._cotangents.append(cotangent)
        self._outputs.append(output)
        self._noise.append((terms, spread))

    def variance(self, like: Tensor) -> Tensor:
        """(R,) float64, in units of the unit roundoff squared."""
        if not self._noise:
            return like.new_zeros(len(like), dtype=torch.float64)
        terms, spread = like.new_tensor(self._noise, dtype=torch.float64).t()[:, :, None]
        cotangents = torch.stack(self._cotangents).double()
        outputs = torch.stack(self._outputs).double()
        sizes = (outputs + spread).repeat(1, cotangents.shape[1] // outputs.shape[1])
        return (terms * (cotangents * sizes).square()).sum(0)


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


def inner_products(
    g: Tensor, constants: list[tuple[str, Tensor]], frame: Frame
) -> dict[str, Tensor]:
    """⟨g, constant⟩ for each row and constant, last site first; float64 (R,)."""
    per_channel = g.ndim > 1 and all(
        c.ndim == g.ndim and c.numel() == g.shape[1] == c.shape[1] for _, c in constants
    )
    if not constants or not per_channel:
        return {site: inner(g, constant) for site, constant in reversed(constants)}
    # Sum over positions first, once for all of them: no product of g's size.
    matrix = frame.prepare(
        "constants", lambda: torch.stack([c.flatten().double() for _, c in constants], 1)
    )
    summed = g.sum(list(range(2, g.ndim))) if g.ndim > 2 else g
    products = (summed.double() @ matrix).unbind(1)
    return {site: p for (site, _), p in zip(reversed(constants), reversed(products), strict=True)}


def inner(g: Tensor, constant: Tensor) -> Tensor:
    """⟨g, constant⟩ for each row, the constant broadcast to g's shape; float64 (R,)."""
    blind = [d for d in range(1, g.ndim) if constant.shape[d] == 1]
    if blind:
        g, constant = g.sum(blind), constant.squeeze(blind)
    return (g.double() * constant.double()).reshape(len(g), -1).sum(1)


def _position_map(g: Tensor, constant: Tensor) -> Tensor:
    """What a constant adds at each position, summed over channels: (R, *positions)."""
    product = (g * constant).double()
    return product.sum(1) if product.ndim > 2 else product
