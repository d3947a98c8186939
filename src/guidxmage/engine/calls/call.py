"""One call of an operator in a captured network, and what a rule may know when it treats it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import isnan
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from guidxmage.engine.kernels import loops
from guidxmage.engine.kernels.layout import is_channels_last
from guidxmage.engine.trail.decisions import Decisions
from guidxmage.engine.trail.gates import Gates

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
class Kept:
    """An argument that changes by steps only: a mask, an index, a rounded number.

    It is computed from the image, by call number `id`, but along a trail it is a constant, which
    the trail keeps.
    """

    id: int


@dataclass(frozen=True)
class BatchSize:
    """An integer argument or dimension that grows with the number of rows: slope·rows + offset."""

    slope: int
    offset: int

    def of_rows(self, rows: int) -> int:
        """The number in a run with that many rows."""
        return self.slope * rows + self.offset


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
        return tuple(one.id for one in leaves(self.args) if isinstance(one, Ref))

    @cached_property
    def keeps(self) -> tuple[int, ...]:
        """Ids of the inputs that the trail keeps, each once."""
        found = (one.id for one in leaves(self.args) if isinstance(one, Kept))
        return tuple(dict.fromkeys(found))

    @cached_property
    def reads(self) -> tuple[int, ...]:
        """Ids of all values that a run of it needs."""
        return (*self.inputs, *self.keeps)

    def bound(self, kept: Mapping[int, Any]) -> Call:
        """With the values that a trail keeps in their places."""
        return replace(self, args=_bound(self.args, kept)) if self.keeps else self

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


def leaves(given: Any) -> Iterator[Any]:
    """Whatever stands in nested lists, tuples and dicts, in order."""
    if isinstance(given, Mapping):
        given = tuple(given.values())
    if isinstance(given, list | tuple):
        for one in given:
            yield from leaves(one)
    else:
        yield given


class Noted(NamedTuple):
    """What recording a call leaves: its value, and the decisions or gates.

    A branch leaves no value.
    """

    value: Tensor | None
    entry: Decisions | Gates | None = None


@dataclass(frozen=True, slots=True)
class Frame:
    """What a rule may know of the call it treats: the call, the rows of this run, the decisions.

    `owned` is the loop's word that nothing needs the value or cotangent that a rule is given any
    more: only then it may be overwritten.
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

    def gate(self, g: Tensor, bits: Tensor, *, overwrite: bool = False) -> Tensor:
        """g ⊙ bits; every recorded image gates its own rows (row = target·B + image)."""
        if bits.ndim == 4 and is_channels_last(g):
            bits = bits.contiguous(memory_format=torch.channels_last)
        grouped = g if len(bits) == len(g) else g.unflatten(0, (-1, len(bits)))
        gated = _times(grouped, bits, in_place=overwrite)
        return gated if grouped is g else gated.flatten(0, 1)

    def switched(self, g: Tensor, number: int = 0) -> Tensor:
        """g where one plane of the decisions recorded here is set, and 0 elsewhere."""
        taken = self.taken()
        if g.is_cpu and taken.shape == g.shape[1:] and loops.compiled() is not None:
            own = g if self.owned else g.clone()
            if loops.gate(own, taken.planes[number]):
                return own
        return self.gate(g, self.plane(g, number), overwrite=self.owned)

    def decided(self, x: Tensor, low: float, high: float | None = None) -> tuple[Decisions, bool]:
        """Where x (B, …) is above low; or inside (low, high), and where at or above high.

        Also whether an owned x was at once brought between the limits.
        """
        clamp = self.owned and x.is_contiguous() and loops.compiled() is not None
        planes = loops.decide(x, low, high, clamp=clamp)
        if planes is not None:
            return Decisions("bits", tuple(x.shape[1:]), planes), clamp
        if high is None:
            return Decisions.from_limit(x, low), False
        return Decisions.from_interval(x, low, high), False

    def for_rows(self, recorded: Tensor) -> Tensor:
        """A recorded tensor (B, …) repeated for every row of this run."""
        entry = self.decisions or self.gates
        repeats = self.rows // (entry.images if entry else len(recorded))
        return recorded.repeat(repeats, *[1] * (recorded.ndim - 1)) if repeats > 1 else recorded


def same_number(a: Any, b: Any) -> bool:
    """Whether two plain values are the same; NaN is NaN."""
    if isinstance(a, float) and isinstance(b, float) and isnan(a):
        return isnan(b)
    return bool(a == b)


@dataclass(frozen=True)
class Branch:
    """What Python was told of values that depend on the image, and acted on.

    call: the operator that told it, `told` what it said: a truth value, numbers, or a shape.
    """

    call: Call
    told: Any

    @property
    def site(self) -> str:
        """The call site."""
        return self.call.site

    @property
    def is_decision(self) -> bool:
        """Whether what was told changes by steps, as truth values and whole numbers do."""
        return not any(isinstance(one, float) for one in self._values(self.told))

    def now(self, args: Sequence[Any]) -> Any:
        """What is told in another run, from the arguments there."""
        result = self.call.run(*args)
        if isinstance(result, Tensor):
            result = [result]
        if isinstance(result, list | tuple) and result and isinstance(result[0], Tensor):
            return tuple(n for one in result for n in one.shape)
        return result

    def same(self, told: Any) -> bool:
        """Whether that is what was told in the recorded run; NaN is NaN."""
        mine, theirs = self._values(self.told), self._values(told)
        return len(mine) == len(theirs) and all(map(same_number, mine, theirs))

    def entry(self) -> Decisions | Gates:
        """As an entry of the trail of one image."""
        values = self._values(self.told)
        if not self.is_decision:
            return Gates("told", (torch.tensor([values], dtype=torch.float64),))
        stored = np.array([values], dtype=np.int64)
        return Decisions("told", (len(values),), (torch.from_numpy(stored.view(np.uint8)),))

    @staticmethod
    def _values(told: Any) -> tuple[Any, ...]:
        return told if isinstance(told, tuple) else (told,)


def is_active(arg: Any) -> bool:
    """Whether a call's argument is computed from the image."""
    return isinstance(arg, Ref)


def is_source(call: Call) -> bool:
    """Whether a call computes a constant that depends on the number of images alone."""
    return not call.reads


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
    return any(isinstance(one, Ref | Kept | BatchSize) for one in leaves(arg))


def _bound(arg: Any, kept: Mapping[int, Any]) -> Any:
    if isinstance(arg, Kept):
        return kept[arg.id]
    if isinstance(arg, list | tuple):
        return type(arg)(_bound(item, kept) for item in arg)
    return arg


def _resolved(arg: Any, values: Mapping[int, Any], rows: int) -> Any:
    if isinstance(arg, Ref | Kept):
        return values[arg.id]
    if isinstance(arg, BatchSize):
        return arg.of_rows(rows)
    if isinstance(arg, list | tuple):
        return [_resolved(item, values, rows) for item in arg]
    return arg


def last_uses(calls: Sequence[Call], result: int) -> tuple[tuple[int, ...], ...]:
    """For each call the ids of the values that nothing needs after it."""
    last = {id_: number for number, call in enumerate(calls) for id_ in call.reads}
    expired: list[list[int]] = [[] for _ in calls]
    for number, call in enumerate(calls):
        if call.id not in last and call.id != result:
            expired[number].append(call.id)
    for id_, number in last.items():
        if id_ != result:
            expired[number].append(id_)
    return tuple(tuple(ids) for ids in expired)
