"""emit: a program and its transposed run as a module of ordinary operators.

The same rules as in `program.py`, in one run from the images to Δ and the bias: decisions are dense
masks of the values at hand, nothing is packed, folded or kept of one image. What a rule derives
from the weights alone is computed once, here, and is a buffer of the module like the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from guidxmage.engine.calls.call import Call, Hole, leaves
from guidxmage.engine.calls.constants import Constant
from guidxmage.engine.program.bias import Rounding, by_row, inner
from guidxmage.engine.program.plain_rounding import PlainRounding
from guidxmage.engine.program.program import Program
from guidxmage.engine.program.steps import constants_of
from guidxmage.engine.program.watch import Watching
from guidxmage.engine.rules import is_stepwise, rule_of
from guidxmage.engine.rules.plain import PlainFrame, pulled, recorded, why_not_plain
from guidxmage.engine.rules.table import Rule
from guidxmage.engine.trail.decisions import Decisions
from guidxmage.engine.trail.gates import Gates
from guidxmage.errors import UnsupportedOperatorError


@dataclass(frozen=True)
class Held:
    """The place of a tensor that is a buffer of the module, by its name."""

    name: str


@dataclass(frozen=True)
class _PlainStep:
    """One call, with `Held` for its tensors, and its rule."""

    call: Call
    rule: Rule


@dataclass(frozen=True)
class Forward:
    """What a run of B images leaves for the way back: logits (B, classes) and what was decided.

    values: those that were to be kept, each (B, …), by call; norms: what a bound on rounding needs
    of the values, (B,) each.
    """

    logits: Tensor
    entries: Mapping[int, Any]
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
            _PlainStep(self._without_tensors(call), _rule(call)) for call in program.calls
        ]
        # Once for real, so that all that follows from the weights is at hand.
        self.dtype, self.device = program.dtype, program.device
        rows = 2 if program.batched else 1
        shape = (rows, *program.input_shape)
        with torch.no_grad():
            run = self(torch.zeros(shape, dtype=program.dtype, device=program.device))
            self.pull(run, torch.zeros_like(run.logits))
        self._preparing = False

    def forward(self, images: Tensor) -> Forward:
        """Run the network on images (B, *input shape) and keep what it decides."""
        rows = images.shape[0]
        values: dict[int, Tensor] = {0: images}
        entries: dict[int, Any] = {}
        for step in self._steps:
            call = self._with_tensors(step.call)
            frame = self._frame(call, rows, 1)
            frame = replace(frame, convention=self._conventions.get(step.rule.family, ""))
            args = call.arguments(values, rows)
            values[call.id], entry = recorded(frame, step.rule, *args, **call.kwargs)
            if entry is not None:
                entries[call.id] = entry
        kept = {id_: by_row(values[id_], images.new_zeros(1), rows)[0] for id_ in self._wanted}
        norms = {} if self._rounding is None else self._rounding.norms(values, rows)
        return Forward(values[self._result], entries, kept, norms)

    def pull(
        self, run: Forward, cotangent: Tensor, repeats: int = 1, watching: Watching | None = None
    ) -> Backward:
        """Run the network transposed for cotangents (R, classes), R = repeats·B.

        Row k·B + b is target k of image b. watching: what looks on.
        """
        rows = cotangent.shape[0]
        waiting: dict[int, Tensor] = {self._result: cotangent}
        shares: list[Tensor] = []
        rounding = Rounding({} if self._rounding is None else self._rounding.kept)
        blanks = self._blanks(rows, cotangent.device)
        for step in reversed(self._steps):
            if watching is not None:
                watching.reached(step.call.id, waiting, rounding)
            g = waiting.pop(step.call.id, None)
            if g is None:
                continue
            call = self._with_tensors(step.call)
            frame = self._frame(call, rows, repeats, run.entries.get(call.id))
            holes = call.arguments(blanks, rows)
            constants = self._constants(frame, step.rule, holes)
            shares += [inner(*by_row(g, one.weighed, rows)) for one in constants]
            if watching is not None:
                watching.constants(step.call, g, constants)
            if self._rounding is not None:
                self._rounding.add(rounding, step.call, g, run.norms, rows)
            for id_, sent in zip(call.inputs, pulled(frame, step.rule, g, holes), strict=True):
                if sent is not None:
                    waiting[id_] = waiting[id_] + sent if id_ in waiting else sent
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

    def _constants(self, frame: PlainFrame, rule: Rule, holes: list[Any]) -> list[Constant]:
        """What a call adds; computed here once where it follows from the weights alone."""

        def found() -> list[Constant]:
            return [Constant(o.site, o.weighed) for o in constants_of(frame, rule, holes)]

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
        if call.keeps or (call.reads and is_stepwise(call)):
            raise UnsupportedOperatorError(
                f"{call.op} at '{call.site}' cannot be exported: it is a mask or a position that "
                "changes by steps with the image"
            )
        rule = _rule(call)
        why = why_not_plain(rule, program.conventions.get(rule.family, ""))
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
