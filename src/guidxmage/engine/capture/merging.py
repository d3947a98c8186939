"""Two runs on different numbers of images, read as one program for any number of them.

A number that is the same in both runs stays; one that differs grows with the images. A constant
tensor that differs must be the same for every image, repeated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from guidxmage.engine.calls.call import BatchSize, Ref, same_number
from guidxmage.engine.capture.memory import Held
from guidxmage.engine.capture.tape import Operation, Tape


class Differ(Exception):  # noqa: N818 - it is no error: there is another way
    """Two runs are not the same program."""


@dataclass(frozen=True)
class Repeated:
    """A constant that is the same for every image: block (p, …), repeated for each."""

    block: Tensor


class Merger:
    """Reads a run on `rows` images, beside one on more, as a program for any number."""

    def __init__(self, less: Tape, more: Tape) -> None:
        self.rows = (less.rows, more.rows)
        self._numbers: dict[int, int] = {0: 0}

    def operation(self, one: Operation, other: Operation) -> Operation:
        """One operation for both. Raises Differ."""
        if one.target is not other.target or one.path != other.path:
            raise Differ(f"{one.target} at {one.path!r} against {other.target} at {other.path!r}")
        if one.told is not None or len(one.outputs) != len(other.outputs):
            raise Differ(f"what {one.target} tells depends on the images")
        for mine, theirs in zip(one.outputs, other.outputs, strict=True):
            if mine is not None and theirs is not None:
                self._numbers[theirs] = mine
        kwargs = {
            name: self.argument(one.kwargs[name], other.kwargs.get(name)) for name in one.kwargs
        }
        args = tuple(self.argument(a, b) for a, b in self._pairs(one.args, other.args))
        shapes = tuple(
            tuple(self.argument(a, b) for a, b in self._pairs(mine, theirs))
            for mine, theirs in zip(one.shapes, other.shapes, strict=True)
        )
        return Operation(one.target, args, kwargs, one.outputs, shapes, one.several, one.path)

    @staticmethod
    def _pairs(one: Sequence[Any], other: Sequence[Any]) -> list[tuple[Any, Any]]:
        if len(one) != len(other):
            raise Differ("arguments of other lengths")
        return list(zip(one, other, strict=True))

    def argument(self, one: Any, other: Any) -> Any:
        """One argument for both. Raises Differ."""
        if isinstance(one, Ref):
            if not isinstance(other, Ref) or self._numbers.get(other.id) != one.id:
                raise Differ("other values are used")
            return one
        if isinstance(one, Held):
            if not isinstance(other, Held):
                raise Differ("a constant against a value")
            return self._constant(one, other)
        if isinstance(one, list | tuple):
            if not isinstance(other, list | tuple):
                raise Differ("arguments of other kinds")
            return type(one)(self.argument(a, b) for a, b in self._pairs(one, other))
        whole = isinstance(one, int) and isinstance(other, int) and not isinstance(one, bool)
        if whole and one != other:
            return self._size(one, other)
        if type(one) is not type(other) or not same_number(one, other):
            raise Differ(f"{one} against {other}")
        return one

    def _size(self, one: int, other: int) -> BatchSize:
        slope, rest = divmod(other - one, self.rows[1] - self.rows[0])
        if rest:
            raise Differ(f"{one} against {other}")
        return BatchSize(slope, one - slope * self.rows[0])

    def _constant(self, one: Held, other: Held) -> Held | Repeated:
        a, b = one.tensor, other.tensor
        if a is b or (a.shape == b.shape and a.dtype == b.dtype and same_numbers(a, b)):
            return one
        if a.ndim == 0 or a.ndim != b.ndim or a.shape[1:] != b.shape[1:] or a.dtype != b.dtype:
            raise Differ("a constant depends on the images")
        parts, rest = divmod(len(a), self.rows[0])
        if rest or len(b) != parts * self.rows[1] or parts == 0:
            raise Differ("a constant depends on the images")
        block = a[:parts]
        for tensor in (a, b):
            split = tensor.unflatten(0, (-1, parts))
            if not same_numbers(split, block[None].expand_as(split)):
                raise Differ("a constant is not the same for every image")
        return Repeated(block.clone())


def same_numbers(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors of one shape hold the same numbers; NaN equals NaN."""
    if a.layout != torch.strided or b.layout != torch.strided:
        return False
    if not a.is_floating_point():
        return torch.equal(a, b)
    return bool(((a == b) | (a.isnan() & b.isnan())).all())
