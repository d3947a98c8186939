"""The values of a run: each is written once, and has a number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch._ops import OpOverload

from guidxmage.engine.calls.call import Ref, leaves
from guidxmage.engine.capture.memory import Held, PlaceInMemory, ViewStep
from guidxmage.engine.capture.tape import Operation, Tape
from guidxmage.errors import UnsupportedOperatorError


class Values:
    """Numbers values, and notes the operations that the run did not call but that stand for writes.

    refuse: makes an error from a reason; path: of the module that is running.
    """

    def __init__(
        self,
        tape: Tape,
        images: Tensor,
        refuse: Callable[[str], UnsupportedOperatorError],
        path: Callable[[], str],
    ) -> None:
        self._tape, self._refuse, self._path = tape, refuse, path
        self._count = 0
        self._kinds: dict[int, Any] = {0: (images.shape, images.dtype)}

    def new(self, like: Tensor | None = None) -> int:
        """The number of another value, of the shape and dtype of `like`."""
        self._count += 1
        if like is not None:
            self._kinds[self._count] = (like.shape, like.dtype)
        return self._count

    def is_like(self, value: Any, target: Tensor) -> bool:
        """Whether a value is copied to a target as it is, neither broadcast nor converted."""
        kind = self._kinds.get(value.id) if isinstance(value, Ref) else None
        return kind == (target.shape, target.dtype)

    def operated(
        self, target: OpOverload, args: tuple[Any, ...], like: Tensor, kwargs: dict[str, Any]
    ) -> Ref:
        """The value of an operator that stands for one that wrote over `like`."""
        value = self.new(like)
        given = {name: arg for name, arg in kwargs.items() if name != "out"}
        self._note(target, args, (value,), (tuple(like.shape),), kwargs=given)
        return Ref(value)

    def through(self, step: ViewStep, base: Ref | Held) -> Ref | Held:
        """A view of a value."""
        if isinstance(base, Held):
            found = step.target(*step.args(base.tensor))
            return Held(found if step.number is None else found[step.number])
        value = self.new()
        number = step.number or 0
        outputs, shapes = (*[None] * number, value), (step.shape,) * (number + 1)
        several = step.number is not None
        self._note(step.target, step.args(base), outputs, shapes, several=several)
        return Ref(value)

    def spread(self, place: PlaceInMemory, value: Ref | Held) -> None:
        """Write a value into the whole that a place is a part of."""
        memory = place.memory
        bases: list[Ref | Held] = []
        for number in range(len(place.path)):
            above = place.path[number - 1] if number else None
            bases.append(self.through(above, bases[-1]) if above else memory.root())
        whole = value
        for step, base in zip(reversed(place.path), reversed(bases), strict=True):
            inverse = step.inverse(base, whole)
            if inverse is None:
                raise self._refuse(
                    f"{step.target} at '{self._path() or 'forward'}' makes a part of a value that "
                    "is written over, which cannot be followed"
                )
            whole = self._put_back(*inverse)
        memory.value, memory.base = (whole, None) if isinstance(whole, Ref) else (None, whole)
        memory.version += 1
        place.value = value if isinstance(value, Ref) else None
        place.version = memory.version

    def refresh(self, place: PlaceInMemory) -> None:
        """What a view stands for after its whole was written over."""
        place.version = place.memory.version
        if place.memory.value is None and place.memory.base is None:
            place.value = None
            return
        value: Ref | Held = place.memory.root()
        for step in place.path:
            value = self.through(step, value)
        place.value = value if isinstance(value, Ref) else None

    def _put_back(self, target: OpOverload, args: tuple[Any, ...], shape: Any) -> Ref | Held:
        if not any(isinstance(one, Ref) for one in leaves(args)):
            return Held(target(*[arg.tensor if isinstance(arg, Held) else arg for arg in args]))
        value = self.new()
        self._note(target, args, (value,), (tuple(shape),))
        return Ref(value)

    def _note(
        self,
        target: OpOverload,
        args: tuple[Any, ...],
        outputs: tuple[int | None, ...],
        shapes: tuple[tuple[int, ...], ...],
        *,
        several: bool = False,
        kwargs: dict[str, Any] | None = None,
    ) -> None:
        self._tape.operations.append(
            Operation(target, args, kwargs or {}, outputs, shapes, several, self._path())
        )
