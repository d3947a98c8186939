"""One call of an operator in a captured network, and what a rule may know when it treats it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from guidxmage.engine import loops
from guidxmage.engine.gates import Gates
from guidxmage.engine.layout import is_channels_last
from guidxmage.engine.ledger import row_norms
from guidxmage.engine.trail import Decisions

# The same operators by the entrance that user code takes, which reads its arguments faster.
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "aten.conv2d.default": torch.conv2d,
    "aten.cat.default": torch.cat,
    "aten.add.Tensor": torch.add,
}


@dataclass(frozen=True)
class Ref:
    """An active input of a call: the value that call number `id` computed (0 is the image)."""

    id: int


@dataclass(frozen=True)
class BatchSize:
    """An integer argument or dimension that depends on the number of rows."""

    of_rows: Callable[[int], int]


@dataclass(frozen=True)
class Hole:
    """The place of an active input whose value is not known: only its shape is."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    def zeros(self) -> Tensor:
        """A zero tensor of this shape."""
        return torch.zeros(self.shape, dtype=self.dtype, device=self.device)


@dataclass(frozen=True)
class Call:
    """One operator call. Constant tensors stand in `args` themselves.

    `output` selects from operators that return several values. `offsets` are constants per output
    channel, with the call site they come from, that folding has moved here. `gating`: ids of active
    inputs that come from a sigmoid, a softmax or the like and scale what they are multiplied with.
    """

    id: int
    op: str
    target: Callable[..., Any]
    args: tuple[Any, ...]
    site: str
    shape: tuple[int | BatchSize, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    output: int | None = None
    offsets: tuple[tuple[str, Tensor], ...] = ()
    gating: frozenset[int] = frozenset()

    @cached_property
    def _references(self) -> tuple[tuple[int, int], ...]:
        """Positions of the arguments that are references, with their ids."""
        return tuple((n, arg.id) for n, arg in enumerate(self.args) if isinstance(arg, Ref))

    @cached_property
    def _changing(self) -> tuple[int, ...]:
        """Positions of the other arguments that hold references or batch sizes."""
        others = ((n, arg) for n, arg in enumerate(self.args) if not isinstance(arg, Ref))
        return tuple(n for n, arg in others if _changes(arg))

    def arguments(self, values: Mapping[int, Any], rows: int) -> list[Any]:
        """The arguments with references looked up and batch sizes computed."""
        args = list(self.args)
        for number, id_ in self._references:
            args[number] = values[id_]
        for number in self._changing:
            args[number] = _resolved(args[number], values, rows)
        return args

    @cached_property
    def inputs(self) -> tuple[int, ...]:
        """Ids of the active inputs in order of appearance; repeated where used twice."""
        return tuple(ref.id for ref in _refs(self.args))

    def sizes(self, rows: int) -> tuple[int, ...]:
        """The output's shape in a run with that many rows."""
        return tuple(_resolved(self.shape, {}, rows))

    @cached_property
    def _function(self) -> Callable[..., Any]:
        return _FUNCTIONS.get(self.op, self.target)

    def run(self, *args: Any) -> Any:
        """The operator itself on concrete arguments."""
        result = self._function(*args, **self.kwargs)
        return result if self.output is None else result[self.output]


def _refs(args: Sequence[Any]) -> list[Ref]:
    found: list[Ref] = []
    for arg in args:
        if isinstance(arg, Ref):
            found.append(arg)
        elif isinstance(arg, list | tuple):
            found.extend(_refs(arg))
    return found


@dataclass(slots=True)
class Frame:
    """What a rule may know of the call it treats: the call, the rows of this run, the decisions.

    `owned` tells a pull that nothing else uses its cotangent, so that `gate` and `switched` may
    overwrite it. `measure` asks for the norms (rows,) of what a decision is taken on, or of what
    `switched` leaves, with its sums over positions (rows, channels): `sums` and `norms` are then
    set, but where they cannot be had on the way in a pull. `gated`: what `switched` is to give,
    where it is known.
    `convention` tells `record` how a smooth operator is to be made affine.
    `ties` tells `crossings` that decisions which stay on their limit all along a line are to flip
    where the trail has them on the wrong side.
    """

    call: Call
    rows: int
    shape: tuple[int, ...]
    prepared: dict[Any, Any]
    decisions: Decisions | None = None
    gates: Gates | None = None
    convention: str = ""
    owned: bool = False
    ties: bool = True
    measure: bool = False
    sums: Tensor | None = None
    norms: Tensor | None = None
    gated: Tensor | None = None

    def prepare(self, name: str, make: Callable[[], Any]) -> Any:
        """A value derived from the weights alone, made once per program."""
        key = (self.call.id, name)
        if key not in self.prepared:
            self.prepared[key] = make()
        return self.prepared[key]

    def taken(self) -> Decisions:
        """The decisions recorded at this call."""
        if self.decisions is None:
            raise LookupError(f"the trail holds no decisions for {self.call.site}")
        return self.decisions

    def numbers(self) -> tuple[Tensor, ...]:
        """The gates recorded at this call, with its output's first dimension."""
        return self.smooth().tensors

    def smooth(self) -> Gates:
        """What was recorded at this smooth operator."""
        if self.gates is None:
            raise LookupError(f"the trail holds no gates for {self.call.site}")
        return self.gates

    def plane(self, like: Tensor, number: int = 0) -> Tensor:
        """One plane of the decisions recorded here, in the memory layout of `like`."""
        return self.taken().plane(number, channels_last=is_channels_last(like))

    def gate(self, g: Tensor, bits: Tensor, *, last_use: bool = False) -> Tensor:
        """g ⊙ bits; every recorded image gates its own rows (row = target·B + image).

        With `last_use` an owned g is overwritten.
        """
        if bits.ndim == 4 and is_channels_last(g):
            bits = bits.contiguous(memory_format=torch.channels_last)
        grouped = g if len(bits) == len(g) else g.unflatten(0, (-1, len(bits)))
        gated = _times(grouped, bits, in_place=last_use and self.owned)
        return gated if grouped is g else gated.flatten(0, 1)

    def switched(self, g: Tensor, number: int = 0, *, last_use: bool = False) -> Tensor:
        """g where one plane of the decisions recorded here is set, and 0 elsewhere.

        With `last_use` an owned g is overwritten.
        """
        if last_use and self.gated is not None:
            return self.gated
        taken = self.taken()
        if g.is_cpu and taken.shape == g.shape[1:] and loops.available() is not None:
            own = g if last_use and self.owned else g.clone()
            if self._switch_off(own, taken.planes[number], measure=last_use and self.measure):
                return own
        return self.gate(g, self.plane(g, number), last_use=last_use)

    def _switch_off(self, own: Tensor, packed: Tensor, *, measure: bool) -> bool:
        found = loops.gate_and_measure(own, packed) if measure else None
        if found is None:
            return loops.gate(own, packed)
        self.sums, self.norms, _ = found
        return True

    def sums_where(self, g: Tensor, number: int) -> Tensor | None:
        """Sums (rows,) of g where one plane is set, float64, where they can be had quickly.

        If g is to be measured, it is at once gated as `switched` is going to.
        """
        planes = self.taken().planes
        if self.measure and number > 0:
            own = g if self.owned else g.clone()
            found = loops.gate_and_measure(own, planes[0], planes[number])
            if found is not None:
                self.gated, (self.sums, self.norms, picked) = own, found
                return picked
        return loops.sums_where(g, planes[number])

    def decided(self, x: Tensor, low: float, high: float | None = None) -> tuple[Decisions, bool]:
        """Where x (B, …) is above low; or inside (low, high), and where at or above high.

        And whether an owned x was at once brought between the limits.
        """
        norms = self.measure and x.shape[0] == self.rows
        if self.measure and not norms:
            self.norms = row_norms(x, self.rows)
        clamp = self.owned and x.is_contiguous() and loops.available() is not None
        found = loops.decide(x, low, high, norms=norms, clamp=clamp)
        if found is not None:
            planes, sizes = found
            self.norms = sizes if norms else self.norms
            return Decisions("bits", tuple(x.shape[1:]), tuple(planes)), clamp
        if norms:
            self.norms = row_norms(x, self.rows)
        if high is None:
            return Decisions.from_limit(x, low), False
        return Decisions.from_interval(x, low, high), False

    def for_rows(self, recorded: Tensor) -> Tensor:
        """A recorded tensor (B, …) repeated for every row of this run."""
        entry = self.decisions or self.gates
        repeats = self.rows // (entry.images if entry else len(recorded))
        return recorded.repeat(repeats, *[1] * (recorded.ndim - 1)) if repeats > 1 else recorded


def is_active(arg: Any) -> bool:
    """Whether a call's argument is computed from the image."""
    return isinstance(arg, Ref)


def _times(g: Tensor, bits: Tensor, *, in_place: bool) -> Tensor:
    """g ⊙ bits.

    PyTorch first turns all bits into floats; NumPy does it by the piece, within the caches, but on
    one thread.
    """
    plain = g.device.type == "cpu" and not g.requires_grad and torch.get_num_threads() == 1
    if not plain or bits.dtype != torch.uint8:
        return g.mul_(bits) if in_place else g * bits
    product = g if in_place else torch.empty_like(g)
    np.multiply(g.numpy(), bits.numpy(), out=product.numpy())
    return product


def _changes(arg: Any) -> bool:
    if isinstance(arg, list | tuple):
        return any(_changes(item) for item in arg)
    return isinstance(arg, Ref | BatchSize)


def _resolved(arg: Any, values: Mapping[int, Any], rows: int) -> Any:
    if isinstance(arg, Ref):
        return values[arg.id]
    if isinstance(arg, BatchSize):
        return arg.of_rows(rows)
    if isinstance(arg, list | tuple):
        return [_resolved(item, values, rows) for item in arg]
    return arg


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
