"""emit: a program and its transposed run as a module of ordinary operators.

The same rules as in `program.py`, in one run from the images to Δ and the bias: decisions are dense
masks of the values at hand, nothing is packed, folded or kept of one image. What a rule derives
from the weights alone is computed once, here, and is a buffer of the module like the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from guidxmage.engine.calls.call import Call, Hole, is_source, leaves
from guidxmage.engine.program.bias import by_row, inner
from guidxmage.engine.program.program import Program
from guidxmage.engine.program.steps import constants_of
from guidxmage.engine.rules import is_stepwise, rule_of
from guidxmage.engine.rules.plain import PlainFrame, pulled, recorded, why_not_plain
from guidxmage.engine.rules.table import Rule, holes
from guidxmage.engine.trail.decisions import Decisions
from guidxmage.engine.trail.gates import Gates
from guidxmage.errors import UnsupportedOperatorError


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

    entries: decisions and gates by call; steps: masks, positions and what else changes by steps.
    """

    logits: Tensor
    entries: Mapping[int, Any]
    steps: Mapping[int, Tensor]


class PlainProgram(nn.Module):
    """A program from images (B, *input shape) to logits, Δ and bias, as ordinary operators.

    `forward` takes the images, `pull` the cotangents of K targets of each. Raises
    UnsupportedOperatorError, by operator and call site, for what has no such form.
    """

    def __init__(self, program: Program) -> None:
        super().__init__()
        refuse_what_is_not_plain(program)
        self.input_shape, self.classes = program.input_shape, program.classes
        self.batched = program.batched
        self._result, self._conventions = program.result, dict(program.conventions)
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
        values: dict[int, Tensor] = {0: images}
        entries: dict[int, Any] = {}
        for step in self._steps:
            call = self._with_tensors(step.call)
            args = call.arguments(values, images.shape[0])
            if step.stepwise:
                values[call.id] = call.run(*args)
                continue
            frame = self._frame(call.bound(values), images.shape[0], 1)
            convention = self._conventions.get(step.rule.family, "")
            frame = replace(frame, convention=convention, by_image=bool(call.keeps))
            values[call.id], entry = recorded(frame, step.rule, *args, **call.kwargs)
            if entry is not None:
                entries[call.id] = entry
        steps = {id_: values[id_] for id_ in self._kept_ids}
        return Forward(values[self._result], entries, steps)

    def pull(self, run: Forward, cotangent: Tensor, repeats: int = 1) -> tuple[Tensor, Tensor]:
        """Δ (R, *input shape) and bias (R,) float64 for cotangents (R, classes), R = repeats·B.

        Row k·B + b is target k of image b. A program of single images has one row at a time.
        """
        rows = cotangent.shape[0]
        if not self.batched and repeats > 1:
            found = [self.pull(run, one) for one in cotangent.split(1)]
            weights, biases = zip(*found, strict=True)
            return torch.cat(weights), torch.cat(biases)
        waiting: dict[int, Tensor] = {self._result: cotangent}
        bias = torch.zeros_like(cotangent[:, 0], dtype=torch.float64)
        shapes = {step.call.id: step.call.sizes(rows) for step in self._steps}
        shapes[0] = (rows, *self.input_shape)
        blanks = {id_: Hole(shape, self.dtype, cotangent.device) for id_, shape in shapes.items()}
        kept = self._kept_for(run, rows, repeats)
        for step in reversed(self._steps):
            g = waiting.pop(step.call.id, None)
            if g is None:
                continue
            call = self._with_tensors(step.call).bound(kept)
            frame = self._frame(call, rows, repeats, run.entries.get(call.id))
            frame = replace(frame, by_image=bool(step.call.keeps))
            given = call.arguments(blanks, rows)
            for share in self._added(frame, step.rule, g, given):
                bias = bias + share
            way = self._tried if self._preparing else pulled
            for id_, part in zip(call.inputs, way(frame, step.rule, g, given), strict=True):
                if part is not None:
                    waiting[id_] = waiting[id_] + part if id_ in waiting else part
        sent = waiting.pop(0, None)
        return blanks[0].zeros() if sent is None else sent, bias

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

    def _added(
        self, frame: PlainFrame, rule: Rule, g: Tensor, given: list[Any]
    ) -> Iterator[Tensor]:
        """What a call adds to the bias of each row, float64 (R,), part by part."""
        switched = None
        if rule.switched is not None:
            switched = rule.switched(*given, **frame.call.kwargs)
        if switched is None:
            for weighed in self._constants(frame, rule, given):
                yield inner(*by_row(g, weighed, frame.rows))
        else:  # a number times a mask: what it lets through is added up, and multiplied once
            plane, factor = switched
            through = frame.switched(g, plane).reshape(frame.rows, -1)
            yield through.sum(1, dtype=torch.float64) * factor

    def _constants(self, frame: PlainFrame, rule: Rule, given: list[Any]) -> list[Tensor]:
        """What a call adds; computed here once where it follows from the weights alone."""

        def make() -> list[Tensor] | None:
            found = [one.weighed for one in constants_of(frame, rule, given)]
            same = all(one.ndim < len(frame.shape) or one.shape[0] == 1 for one in found)
            return found if same else None

        kept = frame.prepare("constants", make) if rule.kind == "affine" else None
        if kept is not None:
            return list(kept)
        return [one.weighed for one in constants_of(frame, rule, given)]

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
