"""A captured network as a flat list of calls, and the loops over it: record, push, pull."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor

from guidxmage.engine.calls.call import Branch, Call, Frame, Hole, Noted, is_source, last_uses
from guidxmage.engine.kernels.reductions import row_norms, sums_and_norms
from guidxmage.engine.program.bias import Biases, Rounding
from guidxmage.engine.program.cotangents import Cotangents, sent_on
from guidxmage.engine.program.kept import (
    bound_calls,
    kept_entry,
    kept_ids,
    values_kept,
    where_steps_are,
)
from guidxmage.engine.program.sizes import Sizes, sizes_needed
from guidxmage.engine.program.steps import (
    Pulled,
    Recorded,
    Recording,
    Step,
    constants_of,
    described,
    recorded_run,
    told,
)
from guidxmage.engine.program.watch import Watch
from guidxmage.engine.rules import is_stepwise, rule_of
from guidxmage.engine.rules.table import Rule
from guidxmage.engine.trail.gates import Conventions, Gates
from guidxmage.engine.trail.trail import Trail
from guidxmage.errors import InputError, UnsupportedOperatorError

Known = TypeVar("Known")


@dataclass(frozen=True)
class Program:
    """An immutable list of calls from the image (value 0) to the logits (value `result`).

    `calls` are the user's own operators and are what is recorded; `symbolic_calls` compute the
    same values with batch-norm folded into convolutions, used where no decision can change.
    `batched` is False when images are run one at a time only. `order` are the recorded calls with
    those on which only branches depend, and the branches that Python took, in order of execution;
    it is empty where there are no branches. `writes`: the user's own tensors that a run of the
    network writes to.
    """

    calls: tuple[Call, ...]
    symbolic_calls: tuple[Call, ...]
    result: int
    input_shape: tuple[int, ...]
    classes: int
    dtype: torch.dtype
    device: torch.device
    batched: bool = True
    conventions: Conventions = field(default_factory=dict)
    header: Mapping[str, Any] = field(default_factory=dict)
    order: tuple[Call | Branch, ...] = ()
    writes: tuple[Tensor, ...] = ()
    # Calls in which values that a trail keeps were put: what is derived from them is not kept.
    bound_ids: frozenset[int] = frozenset()

    @cached_property
    def _prepared(self) -> dict[Any, Any]:
        return {}

    @cached_property
    def _shapes(self) -> dict[int, dict[int, tuple[int, ...]]]:
        return {}

    @cached_property
    def _step_lists(self) -> dict[int, list[Step]]:
        return {}

    @cached_property
    def _own_step_lists(self) -> dict[int, list[Step]]:
        return {}

    @cached_property
    def expired(self) -> tuple[tuple[int, ...], ...]:
        """For each call the values that nothing needs after it."""
        return last_uses(self.calls, self.result)

    @cached_property
    def _expired_symbolic(self) -> tuple[tuple[int, ...], ...]:
        return last_uses(self.symbolic_calls, self.result)

    @cached_property
    def branches(self) -> tuple[Branch, ...]:
        """What Python was told of values that depend on the image, in order."""
        return tuple(one for one in self.order if isinstance(one, Branch))

    def refuse_branches(self) -> None:
        """Raise UnsupportedOperatorError where the image decides on branches or masks."""
        for what in where_steps_are(self.branches, self.calls, self.kept):
            raise UnsupportedOperatorError(
                f"{what} on what it computes from the image; where that changes is not known, so "
                "nothing is said of whole regions"
            )

    @cached_property
    def kept(self) -> frozenset[int]:
        """The values that change by steps only and that a trail keeps."""
        return kept_ids(self.calls, self.result)

    def bound(self, trail: Trail, rows: int) -> Program:
        """The program along a trail: what changes by steps only is a constant in it.

        For a run of that many rows, a multiple of the trail's.
        """
        if not self.kept:
            return self
        kept = values_kept(self.calls, self.kept, trail, rows, self.dtype)
        calls = bound_calls(self.calls, kept, self.result)
        symbolic = bound_calls(self.symbolic_calls, kept, self.result)
        changed = frozenset(call.id for call in self.calls if call.keeps or call.id in kept)
        made = replace(self, calls=calls, symbolic_calls=symbolic, order=(), bound_ids=changed)
        vars(made)["_prepared"] = self._prepared  # what is derived from weights is
        return made

    @cached_property
    def smooth(self) -> tuple[Call, ...]:
        """Calls that are smooth, or tell Python a number: with any, there are no regions."""
        told = tuple(branch.call for branch in self.branches if not branch.is_decision)
        return tuple(call for call in self.calls if _rule(call).kind == "gate") + told

    @cached_property
    def _sizes(self) -> Sizes:
        return sizes_needed(
            [(call, _rule(call)) for call in self.symbolic_calls], self._described_own
        )

    def _described_own(self) -> list[Step]:
        return self._described(self.calls, 1)

    @cached_property
    def _recorded(self) -> tuple[Recorded, ...]:
        """The recorded run, call by call."""
        # What changes by steps is run as it is.
        own = {call.id: _rule(call) for call in self.calls if not is_stepwise(call)}
        fresh = {id_ for id_, rule in own.items() if rule.traits.fresh and id_ != self.result}
        measured = self._sizes.measured
        order = self.order or self.calls
        return recorded_run(order, self.result, own, fresh, measured, self.conventions)

    def shapes(self, rows: int) -> dict[int, tuple[int, ...]]:
        """The shape of every value in a run with that many rows."""

        def make() -> dict[int, tuple[int, ...]]:
            known = {call.id: call.sizes(rows) for call in self.calls}
            return {0: (rows, *self.input_shape), **known}

        return _known(self._shapes, rows, make)

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """What `make` returns, kept under a name from the first time on."""
        if name not in self._prepared:
            self._prepared[name] = make()
        return self._prepared[name]

    @torch.no_grad()
    def record(
        self,
        images: Tensor,
        *,
        norms: bool = True,
        visit: Callable[[Call, Tensor], None] | None = None,
    ) -> Recording:
        """Run the network for real on images (B, *input shape) and note every decision.

        `norms`: also note the outputs' norms, which the bound on rounding needs. `visit` is shown
        every call with its output, which a later call may overwrite.
        """
        rows = len(images)
        if rows != 1 and not self.batched:
            raise InputError(f"{rows} images cannot be run at once by a program of single images")
        values: dict[int, Tensor] = {0: images}
        trail = Trail({}, dict(self.header), rows, {})
        sizes: dict[int, Tensor] = {}
        if norms and 0 in self._sizes.measured:
            sizes[0] = row_norms(images, rows)
        for step in self._recorded:
            call = step.call
            noted = self._record_call(step, values, rows)
            if noted.entry is not None:
                entries: dict[str, Any] = (
                    trail.gates if isinstance(noted.entry, Gates) else trail.decisions
                )
                entries[call.site] = noted.entry.per_image(rows)
            if noted.value is not None:
                values[call.id] = noted.value
                if call.id in self.kept and not is_source(call):
                    trail.decisions[call.site] = kept_entry(noted.value, rows)
                if norms and step.measured:
                    sizes[call.id] = row_norms(noted.value, rows)
                if visit is not None:
                    visit(call, noted.value)
            for id_ in step.expired:
                values.pop(id_, None)
        return Recording(values[self.result], trail, self._sizes.completed(sizes))

    def _record_call(self, step: Recorded, values: Mapping[int, Tensor], rows: int) -> Noted:
        """One call of the user's, run for real."""
        args = step.call.arguments(values, rows)
        call = step.call.bound(values)
        if step.branch is not None:
            return Noted(None, told(step.branch, args))
        if step.rule is None or step.rule.record is None:
            return Noted(call.run(*args))
        frame = Frame(
            call,
            rows,
            self.shapes(rows)[call.id],
            {} if step.call.keeps else self._prepared,
            convention=step.convention,
            owned=step.owned,
        )
        found = step.rule.record(frame, *args, **call.kwargs)
        if isinstance(found, Noted):
            return found
        return Noted(*found) if isinstance(found, tuple) else Noted(found)

    @torch.no_grad()
    def push(
        self,
        trail: Trail,
        direction: Tensor,
        *,
        affine: bool = False,
        visit: Callable[[Call, Tensor], None] | None = None,
    ) -> Tensor:
        """The network's linear part along a trail, applied to directions (R, *input shape).

        R is a multiple of the trail's rows. With `affine` the constants are added: symbolic
        execution of all classes on images Z. Returns (R, classes).
        """
        rows = len(direction)
        if self.kept:
            return self.bound(trail, rows).push(trail, direction, affine=affine, visit=visit)
        values: dict[int, Tensor] = {0: direction}
        holes = {step.call.id: step.holes for step in self.steps(rows)}
        for call, expired in zip(self.symbolic_calls, self._expired_symbolic, strict=True):
            frame = self.frame(call, rows, trail)
            value = _rule(call).push(frame, *call.arguments(values, rows), **call.kwargs)
            if affine:
                for constant in constants_of(frame, _rule(call), holes[call.id]):
                    value = value + constant.value
            if visit is not None:
                visit(call, value)
            values[call.id] = value
            for id_ in expired:
                del values[id_]
        return values[self.result]

    @torch.no_grad()
    def along(self, call: Call, trail: Trail, args: list[Any], rows: int) -> Tensor:
        """One of the user's own calls on inputs at hand, with its decisions taken from a trail."""
        if self.kept:
            own = self.bound(trail, rows)
            call = next(one for one in own.calls if one.id == call.id)
            given = args if call.inputs else call.arguments({}, rows)
            return own.along(call, trail, given, rows)
        rule = _rule(call)
        if rule.record is None:
            result: Tensor = call.run(*args)
            return result
        frame = self.frame(call, rows, trail)
        value: Tensor = rule.push(frame, *args, **call.kwargs)
        shapes = self.shapes(rows)
        blanks = {id_: Hole(shapes[id_], self.dtype, self.device) for id_ in call.inputs}
        for constant in constants_of(frame, rule, call.arguments(blanks, rows)):
            value = value + constant.value
        return value

    @torch.no_grad()
    def pull(
        self,
        trail: Trail,
        cotangent: Tensor,
        norms: Mapping[int, Tensor] | None = None,
        *,
        watch: Watch | None = None,
        visit: Callable[[Call, Tensor], None] | None = None,
    ) -> Pulled:
        """Run the network transposed along a trail.

        `cotangent` is (R, classes), R = K·B with row k·B + b for target k of image b. `norms`
        (from the recording) switch on the rounding variance. `watch` looks on, and what it found
        is returned. `visit` is shown every call with the cotangent of its output.
        """
        rows, pending = len(cotangent), Cotangents(self.result, cotangent)
        if self.kept:
            return self.bound(trail, rows).pull(trail, cotangent, norms, watch=watch, visit=visit)
        bias, rounding = self._new_biases(), Rounding(self._prepared)
        watching = None if watch is None else watch.of(trail, rows)
        for step in self.steps(rows):
            call = step.call
            if watching is not None:
                watching.reached(call.id, pending.waiting(), rounding)
            arrived = pending.pop(call.id)
            if arrived is None:
                continue
            g, summed = arrived.g, None
            frame = self.frame(call, rows, trail, owned=arrived.owned)
            if visit is not None:
                visit(call, g)
            constants = step.constants(frame)
            if norms is not None and step.rule.terms is not None:
                summed, size = sums_and_norms(g, rows)
                given, output = self._sizes.of(call, step.rule, norms)
                rounding.add(size, output, given, step.noise(frame, constants))
            if constants and bias.add(g, constants, rows, summed):
                frame = replace(frame, owned=False)
            if watching is not None:
                watching.constants(call, g, constants)
            # The last to read g, which may be overwritten here where nothing else has it.
            sent = self.pull_call(step.rule, frame, g, step.holes)
            for id_, g_in in zip(call.inputs, sent, strict=True):
                if g_in is not None:  # not frozen: something flows here
                    pending.add(id_, sent_on(arrived, sent, g_in))
        if watching is not None:
            watching.reached(0, pending.waiting(), rounding)
        last = pending.pop(0)
        weights = cotangent.new_zeros(rows, *self.input_shape) if last is None else last.g
        sites, shares = bias.totals(cotangent)
        variance, worst = rounding.total(cotangent)
        return Pulled(
            weights=weights.contiguous(),
            sites=sites,
            shares=shares,
            variance=variance,
            worst=worst,
            watched={} if watching is None else watching.found(),
        )

    def pull_call(
        self, rule: Rule, frame: Frame, g: Tensor, holes: list[Any]
    ) -> Sequence[Tensor | None]:
        """One call transposed: a cotangent for each of its active inputs."""
        sent: Sequence[Tensor | None] = rule.pull(frame, g, *holes, **frame.call.kwargs)
        return sent

    def _new_biases(self) -> Biases:
        return Biases()

    def own_steps(self, rows: int) -> list[Step]:
        """The user's own calls forwards, with what a run of that many rows knows of inputs."""
        return _known(self._own_step_lists, rows, lambda: self._described(self.calls, rows))

    def steps(self, rows: int) -> list[Step]:
        """The symbolic calls backwards, with what a pull of that many rows knows of inputs."""
        backwards = self._step_lists
        return _known(backwards, rows, lambda: self._described(self.symbolic_calls, rows)[::-1])

    def _described(self, calls: Sequence[Call], rows: int) -> list[Step]:
        shapes = self.shapes(rows)
        blanks = {id_: Hole(shape, self.dtype, self.device) for id_, shape in shapes.items()}
        return described([(call, _rule(call)) for call in calls], shapes, blanks, rows)

    def frame(self, call: Call, rows: int, trail: Trail, *, owned: bool = False) -> Frame:
        """What a rule may know of a call in a run of that many rows along a trail."""
        decisions, gates = trail.decisions.get(call.site), trail.gates.get(call.site)
        shape = self.shapes(rows)[call.id]
        prepared = {} if call.id in self.bound_ids else self._prepared
        return Frame(call, rows, shape, prepared, decisions, gates, owned=owned)


def _known(known: dict[int, Known], rows: int, make: Callable[[], Known]) -> Known:
    """What is known for a number of rows; of the last few numbers only.

    Several threads may ask at once: what one has made is never taken away from it.
    """
    found = known.get(rows)
    if found is None:
        if len(known) > 16:
            known.clear()
        known[rows] = found = make()
    return found


def _rule(call: Call) -> Rule:
    rule = rule_of(call)
    if rule is None:
        raise UnsupportedOperatorError(f"{call.op} at '{call.site}' has no rule")
    return rule
