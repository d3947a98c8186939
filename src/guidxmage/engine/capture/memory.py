"""Which tensors of a run lie in the same memory, and what writing to one does to the others.

Every value of a run is written once: an operator that writes over a tensor makes a new value, and
what other tensors see in the same memory is read off that anew. A *place* is a tensor's view of a
*memory*: the steps that lead from the memory's whole to it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from guidxmage.engine.calls.call import Ref

aten = torch.ops.aten


@dataclass(eq=False)
class Held:
    """A constant tensor that an operator used. stale: of the user's own, read after a write."""

    tensor: Tensor
    stale: bool = False


@dataclass(eq=False)
class Memory:
    """One piece of memory of a run.

    value: what it holds where that is active; base: where it is a constant that was put together;
    else what `tensor`, its first tensor, holds. foreign: it is the user's own, and `changed` by the
    run. version counts the writes; before: what it held right before the last one.
    """

    value: Ref | None = None
    base: Held | None = None
    tensor: Tensor | None = None
    foreign: bool = False
    changed: bool = False
    version: int = 0
    before: Tensor | None = None
    _used: list[Held] = field(default_factory=list)

    def held(self, tensor: Tensor) -> Held:
        """A tensor of this memory as a constant, as it is now."""
        if self.foreign and self.changed:  # it is given back what it held at first
            return Held(tensor.detach().clone(), stale=True)
        found = Held(tensor)
        self._used.append(found)
        return found

    def root(self) -> Ref | Held:
        """All of it, as it was before the last write."""
        if self.value is not None:
            return self.value
        if self.base is not None:
            return self.base
        assert self.before is not None
        return Held(self.before, stale=self.foreign)

    def settle(self) -> None:
        """Before a write: what has been used as a constant keeps what it held."""
        for used in self._used:
            used.tensor = used.tensor.detach().clone()
        self._used.clear()
        if self.value is None and self.base is None and self.tensor is not None:
            self.before = self.tensor.detach().clone()


@dataclass(eq=False)
class PlaceInMemory:
    """Where a tensor lies: `path` leads from the whole of a memory to it. value: if active."""

    memory: Memory
    path: tuple[ViewStep, ...] = ()
    value: Ref | None = None
    version: int = 0

    def viewed(self, step: ViewStep, value: Ref | None) -> PlaceInMemory:
        """The place of a view."""
        return PlaceInMemory(self.memory, (*self.path, step), value, self.memory.version)


@dataclass(frozen=True, eq=False)
class ViewStep:
    """One view: an operator, its arguments after the viewed tensor, and which of its outputs.

    shape: of the view; whole: of what is viewed. offset: where a part begins along its dimension.
    """

    target: OpOverload
    rest: tuple[Any, ...]
    number: int | None
    shape: tuple[int, ...]
    whole: tuple[int, ...]
    offset: int

    def args(self, base: Any) -> tuple[Any, ...]:
        """The operator's arguments on a value."""
        return (base, *self.rest)

    def inverse(self, base: Ref | Held, part: Ref | Held) -> Any:
        """What puts a part back: (operator, arguments, shape of the whole), or None."""
        name = self.target._schema.name.removeprefix("aten::")
        if name in _PARTIAL:
            return _PARTIAL[name](self, base, part)
        return _WHOLE[name](self, part) if name in _WHOLE else None


def view_step(  # noqa: PLR0917
    func: OpOverload,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    base: Tensor,
    result: Tensor,
    number: int | None,
) -> ViewStep:
    """How a result looks at the tensor that it is a view of."""
    rest = [arg for arg in args if arg is not base]
    names = [a.name for a in func._schema.arguments if not a.kwarg_only]
    for name in names[1 + len(rest) :]:
        if name not in kwargs:
            break
        rest.append(kwargs[name])
    dim = _dim(func, rest, base.ndim)
    stride = base.stride(dim) if base.ndim and dim < base.ndim else 0
    moved = result.storage_offset() - base.storage_offset()
    offset = moved // stride if stride else 0
    return ViewStep(func, tuple(rest), number, tuple(result.shape), tuple(base.shape), offset)


def _dim(func: OpOverload, rest: list[Any], ndim: int) -> int:
    """The dimension that a view takes a part of."""
    name = func._schema.name.removeprefix("aten::")
    place = 1 if name in ("split", "split_with_sizes", "chunk") else 0
    dim = rest[place] if len(rest) > place and isinstance(rest[place], int) else 0
    return dim % ndim if ndim else 0


def _reshaped(step: ViewStep, part: Any) -> Any:
    return aten.reshape.default, (part, list(step.whole)), step.whole


def _selected(step: ViewStep, base: Any, part: Any) -> Any:
    dim = _dim(step.target, list(step.rest), len(step.whole))
    place = step.offset if step.number is None else step.number
    return aten.select_scatter.default, (base, part, dim, place), step.whole


def _sliced(step: ViewStep, base: Any, part: Any) -> Any:
    dim = _dim(step.target, list(step.rest), len(step.whole))
    stride = step.rest[3] if step.target is aten.slice.Tensor and len(step.rest) > 3 else 1
    end = step.offset + (step.shape[dim] - 1) * stride + 1
    place = (base, part, dim, step.offset, max(end, step.offset), stride)
    return aten.slice_scatter.default, place, step.whole


def _transposed(step: ViewStep, part: Any) -> Any:
    return aten.transpose.int, (part, *step.rest), step.whole


def _permuted(step: ViewStep, part: Any) -> Any:
    order = [dim % len(step.whole) for dim in step.rest[0]]
    return aten.permute.default, (part, [order.index(n) for n in range(len(order))]), step.whole


def _flipped(step: ViewStep, part: Any) -> Any:
    return aten.t.default, (part,), step.whole


def _same(step: ViewStep, part: Any) -> Any:
    return _reshaped(step, part) if step.shape == step.whole else None


# Views of all of a value, and of a part of it.
_WHOLE: dict[str, Callable[[ViewStep, Any], Any]] = {
    **dict.fromkeys(
        ("view", "reshape", "_unsafe_view", "flatten", "unflatten", "squeeze", "unsqueeze",
         "view_as", "reshape_as"),
        _reshaped,
    ),
    **dict.fromkeys(("transpose", "swapaxes", "swapdims"), _transposed),
    "permute": _permuted,
    "t": _flipped,
    **dict.fromkeys(("alias", "detach", "contiguous", "expand", "expand_as", "to"), _same),
}  # fmt: skip
_PARTIAL: dict[str, Callable[[ViewStep, Any, Any], Any]] = {
    **dict.fromkeys(("select", "unbind"), _selected),
    **dict.fromkeys(("slice", "narrow", "split", "split_with_sizes", "chunk"), _sliced),
}


@cache
def functional(func: OpOverload) -> OpOverload | None:
    """The operator that returns what this one writes; None where PyTorch has none."""
    namespace, name = func._schema.name.split("::")
    in_place = name.endswith("_") and not name.startswith("__")
    packet = getattr(getattr(torch.ops, namespace), name[:-1] if in_place else name, None)
    if packet is None:
        return None
    arguments = [a for a in func._schema.arguments if in_place or a.alias_info is None]
    wanted = _signature(arguments)
    for overload in packet.overloads():
        found: OpOverload = getattr(packet, overload)
        writes = any(a.alias_info and a.alias_info.is_write for a in found._schema.arguments)
        if not writes and _signature(found._schema.arguments) == wanted:
            return found
    return None


def _signature(arguments: Sequence[Any]) -> list[tuple[str, str]]:
    """Names and types of arguments; the first one's name varies."""
    return [(a.name if n else "", str(a.type)) for n, a in enumerate(arguments)]


def whole_memory(tensor: Tensor) -> Tensor:
    """All of the memory that a tensor lies in, as a line of numbers."""
    storage = tensor.untyped_storage()
    count = storage.nbytes() // tensor.itemsize
    return tensor.detach().new_empty(0).set_(storage, 0, (count,), (1,))


def one_view(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors look at a memory in the same way."""
    return (a.shape, a.stride(), a.storage_offset()) == (b.shape, b.stride(), b.storage_offset())


def one_storage(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors lie in one memory."""
    if a.layout != torch.strided or b.layout != torch.strided:
        return False
    return a.untyped_storage()._cdata == b.untyped_storage()._cdata
