"""emit: a program and its transposed run as a module of ordinary operators.

The same rules as in `program.py`, in one run from the images to Δ and the bias: decisions are dense
masks of the values at hand, nothing is packed, folded or kept of one image. What a rule derives
from the weights alone is computed once, here, and is a buffer of the module like the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from guidxmage.engine.calls.call import Call, Hole, is_source, leaves
from guidxmage.engine.calls.constants import Constant
from guidxmage.engine.program.bias import Rounding, by_row, inner
from guidxmage.engine.program.plain_rounding import PlainRounding
from guidxmage.engine.program.program import Program
from guidxmage.engine.program.steps import constants_of
from guidxmage.engine.program.watch import Watching
from guidxmage.engine.rules import is_stepwise, rule_of
from guidxmage.engine.rules.plain import PlainFrame, pulled, recorded, why_not_plain
from guidxmage.engine.rules.table import Rule, holes
from guidxmage.engine.trail.decisions import Decisions
from guidxmage.engine.trail.gates import Gates
from guidxmage.errors import InputError, UnsupportedOperatorError


@dataclass(frozen=True)
class Held:
    """The place of a tensor that is a buffer of the module, by its name."""

    name: str


@dataclass(frozen=True)
class _PlainStep:
    """One call, with `Held` for its tensors, and its rule.

    stepwise: its value changes by steps, so that along a trail it is a constant.
    """

    call: Call
    rule: Rule
    stepwise: bool


@dataclass(frozen=True)
class Forward:
    """What a run of B images leaves for the way back: logits (B, classes) and what was decided.

    entries: decisions and gates by call; steps: masks, positions and what else changes by steps;
    values: those that were to be kept, each (B, …), by call; norms: what a bound on rounding needs
    of the values, (B,) each.
    """

    logits: Tensor
    entries: Mapping[int, Any]
    steps: Mapping[int, Tensor]
    values: Mapping[int, Tensor]
    norms: dict[int, Tensor]


@dataclass(frozen=True)
class Backward:
    """What a transposed run of R rows gives.

    weights Δ (R, *input shape); shares of the bias, (R, constants) float64. Where rounding is
    followed, its variance (R,) and its size at worst (R,), as in `Pulled`; else None.
    """

    weights: Tensor
    shares: Tensor
    variance: Tensor | None = None
    worst: Tensor | None = None

    @classmethod
    def joined(cls, parts: Sequence[Backward]) -> Backward:
        """Runs of some rows each as one of all."""

        def together(name: str) -> Any:
            columns = [getattr(part, name) for part in parts]
            return None if columns[0] is None else torch.cat(columns)

        return cls(**{field.name: together(field.name) for field in fields(cls)})


class PlainProgram(nn.Module):
    """A program from images (B, *input shape) to logits, Δ and bias, as ordinary operators.

    `forward` takes the images, `pull` the cotangents of K targets of each. kept: the values that
    `forward` keeps, by call, 0 for the images; bounded: whether rounding is followed. Raises
    UnsupportedOperatorError, by operator and call site, for what has no such form.
    """

    def __init__(
        self, program: Program, *, kept: Collection[int] = (), bounded: bool = False
    ) -> None:
        super().__init__()
        refuse_what_is_not_plain(program)
        self.input_shape, self.classes = program.input_shape, program.classes
        self.batched = program.batched
        self._result, self._conventions = program.result, dict(program.conventions)
        self._wanted = frozenset(kept)
        self._rounding = PlainRounding.of(program) if bounded else None
        self._names: dict[int, str] = {}
        self._derived: dict[tuple[int, str], Any] = {}
        self._preparing = True
        self._steps = [
            _PlainStep(self._without_tensors(call), _rule(call), is_stepwise(call))
            for call in program.calls
        ]
        self._kept_ids = program.kept
        # Once for real, so that all that follows from the weights is at hand.
        self.dtype, self.device = program.dtype, program.device
        rows = 2 if program.batched else 1
        shape = (rows, *program.input_shape)
        with torch.no_grad():
            run = self(torch.zeros(shape, dtype=program.dtype, device=program.device))
            self.pull(run, torch.zeros_like(run.logits))
        self._preparing = False

    @property
    def sites(self) -> dict[str, str]:
        """For each operator that is called, its first call site."""
        return {step.call.op: step.call.site for step in reversed(self._steps)}

    def forward(self, images: Tensor) -> Forward:
        """Run the network on images (B, *input shape) and keep what it decides."""
        rows = images.shape[0]
        values: dict[int, Tensor] = {0: images}
        entries: dict[int, Any] = {}
        for step in self._steps:
            call = self._with_tensors(step.call)
            args = call.arguments(values, rows)
            if step.stepwise:
                values[call.id] = call.run(*args)
                continue
            frame = self._frame(call.bound(values), rows, 1)
            convention = self._conventions.get(step.rule.family, "")
            frame = replace(frame, convention=convention, by_image=bool(call.keeps))
            values[call.id], entry = recorded(frame, step.rule, *args, **call.kwargs)
            if entry is not None:
                entries[call.id] = entry
        steps = {id_: values[id_] for id_ in self._kept_ids}
        kept = {id_: by_row(values[id_], images.new_zeros(1), rows)[0] for id_ in self._wanted}
        norms = {} if self._rounding is None else self._rounding.norms(values, rows)
        return Forward(values[self._result], entries, steps, kept, norms)

    def pull(
        self, run: Forward, cotangent: Tensor, repeats: int = 1, watching: Watching | None = None
    ) -> Backward:
        """Run the network transposed for cotangents (R, classes), R = repeats·B.

        Row k·B + b is target k of image b. A program of single images has one row at a time, where
        nothing looks on. watching: what looks on.
        """
        rows = cotangent.shape[0]
        if not self.batched and repeats > 1:
            if watching is not None:
                raise InputError(
                    "this network takes one image at a time, and then the whole map of one target "
                    "alone can be exported; name a single target"
                )
            return Backward.joined([self.pull(run, one) for one in cotangent.split(1)])
        waiting: dict[int, Tensor] = {self._result: cotangent}
        shares: list[Tensor] = []
        rounding = Rounding({} if self._rounding is None else self._rounding.kept)
        blanks = self._blanks(rows, cotangent.device)
        kept = self._kept_for(run, rows, repeats)
        for step in reversed(self._steps):
            if watching is not None:
                watching.reached(step.call.id, waiting, rounding)
            g = waiting.pop(step.call.id, None)
            if g is None:
                continue
            call = self._with_tensors(step.call).bound(kept)
            frame = self._frame(call, rows, repeats, run.entries.get(call.id))
            frame = replace(frame, by_image=bool(step.call.keeps))
            given = call.arguments(blanks, rows)
            shares += self._shares(frame, step, g, given, watching)
            if self._rounding is not None:
                self._rounding.add(rounding, step.call, g, run.norms, rows)
            way = self._tried if self._preparing else pulled
            for id_, part in zip(call.inputs, way(frame, step.rule, g, given), strict=True):
                if part is not None:
                    waiting[id_] = waiting[id_] + part if id_ in waiting else part
        if watching is not None:
            watching.reached(0, waiting, rounding)
        weights = waiting.pop(0, None)
        if weights is None:
            weights = blanks[0].zeros()
        none = torch.zeros_like(cotangent[:, :0], dtype=torch.float64)
        together = torch.stack(shares, 1) if shares else none
        if self._rounding is None:
            return Backward(weights, together)
        return Backward(weights, together, *rounding.total(cotangent))

    def _blanks(self, rows: int, device: torch.device) -> dict[int, Hole]:
        """What is known of every value in a run with that many rows."""
        shapes = {step.call.id: step.call.sizes(rows) for step in self._steps}
        shapes[0] = (rows, *self.input_shape)
        return {id_: Hole(shape, self.dtype, device) for id_, shape in shapes.items()}

    @staticmethod
    def _tried(frame: PlainFrame, rule: Rule, g: Tensor, given: list[Any]) -> list[Tensor | None]:
        """`pulled`, refused by operator and call site where it does not fit these sizes."""
        call = frame.call
        try:
            sent = pulled(frame, rule, g, given)
            found = [None if one is None else tuple(one.shape) for one in sent]
        except (RuntimeError, IndexError, NotImplementedError):
            found = []
        expected = [hole.shape for hole in holes([given])]
        if not all(one in (None, own) for one, own in zip(found, expected, strict=False)):
            found = []
        if len(found) != len(expected):
            raise UnsupportedOperatorError(
                f"{call.op} at '{call.site}' cannot be exported: its transpose is not written for "
                "tensors of these sizes"
            )
        return sent

    def _kept_for(self, run: Forward, rows: int, repeats: int) -> dict[int, Tensor]:
        """What changes by steps, for the rows of a pull; what depends on no image is made anew."""
        found = {}
        for step in self._steps:
            call = step.call
            if call.id not in self._kept_ids:
                continue
            if is_source(call):
                own = self._with_tensors(call)
                found[call.id] = own.run(*own.arguments({}, rows))
                continue
            value = run.steps[call.id]
            others = [1] * (value.ndim - 1)
            found[call.id] = value if repeats == 1 else value.repeat(repeats, *others)
        return found

    def _frame(self, call: Call, rows: int, repeats: int, entry: Any = None) -> PlainFrame:
        return PlainFrame(
            call,
            rows,
            call.sizes(rows),
            {},
            decisions=entry if isinstance(entry, Decisions) else None,
            gates=entry if isinstance(entry, Gates) else None,
            repeats=repeats,
            keep=self._kept,
        )

    def _shares(
        self, frame: PlainFrame, step: _PlainStep, g: Tensor, given: list[Any], watching: Any
    ) -> list[Tensor]:
        """What each constant of a call adds to the bias of each row, float64 (R,)."""
        rule = step.rule
        if rule.switched is not None and watching is None:
            switched = rule.switched(*given, **frame.call.kwargs)
            if switched is not None:  # what a mask lets through is added up, and multiplied once
                plane, factor = switched
                through = frame.switched(g, plane).reshape(frame.rows, -1)
                return [through.sum(1, dtype=torch.float64) * factor]
        constants = self._constants(frame, rule, given)
        if watching is not None:
            watching.constants(step.call, g, constants)
        return [inner(*by_row(g, one.weighed, frame.rows)) for one in constants]

    def _constants(self, frame: PlainFrame, rule: Rule, given: list[Any]) -> list[Constant]:
        """What a call adds; computed here once where it follows from the weights alone."""

        def found() -> list[Constant]:
            return [Constant(o.site, o.weighed) for o in constants_of(frame, rule, given)]

        def make() -> list[Constant] | None:
            own, rank = found(), len(frame.shape)
            same = all(one.value.ndim < rank or one.value.shape[0] == 1 for one in own)
            return own if same else None

        kept = frame.prepare("constants", make) if rule.kind == "affine" else None
        return found() if kept is None else list(kept)

    # --- tensors of the program as buffers -----------------------------------------------------

    def _kept(self, id_: int, name: str, make: Callable[[], Any]) -> Any:
        key = (id_, name)
        if key not in self._derived:
            if not self._preparing:
                raise LookupError(f"{name} of call {id_} was not derived when the module was made")
            self._derived[key] = self._taken_out(make(), f"{name}_of_{id_}")
        return self._put_back(self._derived[key])

    def _without_tensors(self, call: Call) -> Call:
        kwargs = {key: self._taken_out(value, call.site) for key, value in call.kwargs.items()}
        args = self._taken_out(call.args, call.site)
        return replace(call, args=args, kwargs=kwargs)

    def _with_tensors(self, call: Call) -> Call:
        if not any(isinstance(one, Held) for one in leaves([call.args, call.kwargs])):
            return call
        kwargs = {key: self._put_back(value) for key, value in call.kwargs.items()}
        return replace(call, args=self._put_back(call.args), kwargs=kwargs)

    def _taken_out(self, value: Any, site: str) -> Any:
        if isinstance(value, Tensor):
            return Held(self._named(value, site))
        if isinstance(value, list | tuple):
            return type(value)(self._taken_out(one, site) for one in value)
        if _holds_tensors(value):
            own = {f.name: getattr(value, f.name) for f in fields(value)}
            return replace(value, **{key: self._taken_out(v, site) for key, v in own.items()})
        return value

    def _put_back(self, value: Any) -> Any:
        if isinstance(value, Held):
            return getattr(self, value.name)
        if isinstance(value, list | tuple):
            return type(value)(self._put_back(one) for one in value)
        if _holds_tensors(value):
            own = {f.name: getattr(value, f.name) for f in fields(value)}
            return replace(value, **{key: self._put_back(v) for key, v in own.items()})
        return value

    def _named(self, tensor: Tensor, site: str) -> str:
        """One buffer for each tensor, however often it is used; it shares the model's memory."""
        if id(tensor) not in self._names:
            plain = "".join(c if c.isalnum() else "_" for c in site).strip("_") or "constant"
            name = f"{plain}_{len(self._names)}"
            self._names[id(tensor)] = name
            own = tensor.detach()
            if own.numel() * own.itemsize != own.untyped_storage().nbytes():
                own = own.clone()  # a part of a tensor would be written whole
            self.register_buffer(name, own)
            self._alive = [*getattr(self, "_alive", []), tensor]  # so that no other has its id
        return self._names[id(tensor)]


def refuse_what_is_not_plain(program: Program) -> None:
    """Raise UnsupportedOperatorError for what has no form in operators that can be exported."""
    for branch in program.branches:
        raise UnsupportedOperatorError(
            f"the network branches at '{branch.site}' on what it computes from the image; a graph "
            "has no branches, so it cannot be exported"
        )
    for call in program.calls:
        rule = _rule(call)
        if is_stepwise(call):
            last = call.id == program.result
            why = "the network ends in it, and it changes by steps alone" if last else None
        else:
            why = why_not_plain(rule, program.conventions.get(rule.family, ""), call)
        if why:
            raise UnsupportedOperatorError(f"{call.op} at '{call.site}' cannot be exported: {why}")


def _holds_tensors(value: Any) -> bool:
    if not is_dataclass(value) or isinstance(value, type):
        return False
    return any(isinstance(getattr(value, f.name), Tensor | Held) for f in fields(value))


def _rule(call: Call) -> Rule:
    rule = rule_of(call)
    if rule is None:
        raise UnsupportedOperatorError(f"{call.op} at '{call.site}' has no rule")
    return rule
