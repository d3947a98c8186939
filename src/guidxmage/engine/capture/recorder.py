"""Watches a network while it runs on real images, and notes what it does.

Every operator is noted whole, as the user's code called it, before PyTorch takes it apart. Tensors
are followed by identity: a value is *active* if it was computed from the images, everything else is
a constant. What Python learns of an active value (a branch, a number, a shape that depends on it)
is noted too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._dispatch.python import enable_python_dispatcher
from torch._ops import OpOverload
from torch._subclasses.schema_check_mode import SchemaCheckMode
from torch.utils.weak import WeakTensorKeyDictionary

from guidxmage.engine.calls.call import Ref, leaves
from guidxmage.engine.capture.memory import (
    Held,
    Memory,
    PlaceInMemory,
    functional,
    one_storage,
    one_view,
    view_step,
    whole_memory,
)
from guidxmage.engine.capture.randomness import draws
from guidxmage.engine.capture.running_module import RunningModule
from guidxmage.engine.capture.tape import Operation, Tape
from guidxmage.engine.capture.values import Values
from guidxmage.engine.rules import has_rule
from guidxmage.errors import UnsupportedOperatorError

aten = torch.ops.aten

# They take nothing but shape, dtype and device from their first argument.
_LIKE = frozenset(
    f"aten::{name}"
    for name in ("new_zeros", "new_ones", "new_full", "new_empty", "zeros_like", "ones_like",
                 "full_like", "empty_like", "new_empty_strided", "new_tensor")
)  # fmt: skip
# They write the same whatever was there.
_OVERWRITING = frozenset(["aten::fill_", "aten::zero_", "aten::copy_"])
_PLAIN_TYPES = (Tensor, nn.Parameter, nn.Buffer)


class Recorder(SchemaCheckMode):
    """Sees every operator before PyTorch takes it apart, and notes it.

    PyTorch lets one kind of mode stand at that place with real tensors, the one that checks
    schemas; this is one of them that does something else.
    """

    def __init__(self, tape: Tape, images: Tensor, model: nn.Module) -> None:
        super().__init__()
        self.__dict__["_dispatch_key"] = torch._C.DispatchKey.PreDispatch
        self.tape = tape
        self.refusal: UnsupportedOperatorError | None = None
        self.is_busy = False
        self._places = WeakTensorKeyDictionary()
        self._values = Values(tape, images, self.refuse, lambda: self.path)
        self._own = {id(t) for t in (*model.parameters(), *model.buffers())}
        self._where = RunningModule(model)
        self._around = ExitStack()
        self._follow(images, Ref(0))

    def __enter__(self) -> Recorder:
        self._around.enter_context(self._where)
        self._around.enter_context(enable_python_dispatcher())
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        try:
            super().__exit__(*error)  # type: ignore[no-untyped-call]
        finally:
            self._around.close()

    @property
    def path(self) -> str:
        """The path of the module that is running."""
        return self._where.path

    def refuse(self, reason: str) -> UnsupportedOperatorError:
        """An error to be raised, which is remembered in case the model catches it."""
        self.refusal = self.refusal or UnsupportedOperatorError(
            f"this network cannot be explained: {reason}"
        )
        return self.refusal

    def where(self, target: OpOverload) -> str:
        """An operator and its place, for a sentence."""
        name = target._opname.strip("_")
        return f"{target} at '{f'{self.path}.{name}'.lstrip('.')}'"

    # --- every operator --------------------------------------------------------------------------

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: tuple[type[Any], ...],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        self.is_busy = True
        try:
            return self._seen(func, types, args, kwargs or {})
        finally:
            self.is_busy = False

    def _seen(
        self, func: OpOverload, types: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        with torch._C._DisablePythonDispatcher():  # else parts of PyTorch run in Python instead
            self._check(func, types, args, kwargs)
            apart = self._is_to_be_taken_apart(func, args, kwargs)
        if apart:
            self.is_busy = False
            with self._watching():
                return func.decompose(*args, **kwargs)
        with torch._C._DisablePythonDispatcher():
            if torch.Tag.inplace_view in func.tags:
                return self._moved_in_place(func, args, kwargs)
            targets = [t for t in _written(func, args, kwargs) if isinstance(t, Tensor)]
            before = self._argued((args, kwargs)) if targets else None
            for target in targets:  # and what is read besides keeps what it holds
                self._before_write(target)
            result = func(*args, **kwargs)
            if before is not None:
                self._write(func, targets, before)
            else:
                self._note(func, args, kwargs, result)
            return result

    def _is_to_be_taken_apart(
        self, func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> bool:
        """Whether an operator has no rule, but PyTorch makes it of others that may have one."""
        reading = functional(func) if func._schema.is_mutable else func
        known = reading is not None and has_rule(reading)
        told = not all("Tensor" in str(one.type) for one in func._schema.returns)
        if known or told or not func._can_decompose() or torch.Tag.inplace_view in func.tags:
            return False
        return any(self.is_active(tensor) for tensor in _tensors((args, kwargs)))

    @contextmanager
    def _watching(self) -> Iterator[None]:
        """Inside, this mode sees every operator again."""
        torch._ops._set_mode_pre_dispatch(self)
        try:
            yield
        finally:
            torch._ops._pop_mode_from_pre_dispatch()

    def _check(
        self, func: OpOverload, types: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        strange = next((kind.__name__ for kind in types if kind not in _PLAIN_TYPES), None)
        if any(map(torch._C._functorch.is_functorch_wrapped_tensor, _tensors((args, kwargs)))):
            strange = "tensor of torch.func (vmap and its kin)"
        if strange is not None:
            raise self.refuse(f"{self.where(func)} works on a {strange}, not on a plain tensor")
        if draws(func, args, kwargs):
            raise self.refuse(
                f"{self.where(func)} draws random numbers, in evaluation mode too: every run gives "
                "another answer; take it out or make it deterministic"
            )
        if func is aten.batch_norm.default and args[5] and self.is_active(args[0]):
            # Weights may be standardised by it: they are the same for every image.
            raise self.refuse(
                f"{self.where(func)} uses statistics of the batch (training=True), which mix "
                "its images; use the running statistics"
            )

    def _note(
        self, func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any
    ) -> None:
        """Whatever a reading operator returned."""
        own_args, own_kwargs = self._argued((args, kwargs))
        active = func._schema.name not in _LIKE and _has_ref((own_args, own_kwargs))
        several = isinstance(result, list | tuple)
        results = list(result) if several else [result]
        if not any(isinstance(one, Tensor) for one in results):
            if active:
                self._tell(func, own_args, own_kwargs, result)
            return
        # Some outputs may be missing, or be what was given.
        given = _tensors((args, kwargs))
        fresh = [isinstance(one, Tensor) and not _among(one, given) for one in results]
        outputs = tuple(
            self._values.new(one) if active and new else None
            for one, new in zip(results, fresh, strict=True)
        )
        if active and any(fresh):
            shapes = tuple(tuple(getattr(one, "shape", ())) for one in results)
            told = self._shape_told(func, own_args, shapes)
            operation = Operation(
                func, own_args, own_kwargs, outputs, shapes, several, self.path, told
            )
            self.tape.operations.append(operation)
        for number, one in enumerate(results):
            if fresh[number]:
                self._place_of_result(func, (args, kwargs), one, outputs[number], number, several)

    def _place_of_result(  # noqa: PLR0917
        self,
        func: OpOverload,
        given: Any,
        result: Tensor,
        value: int | None,
        number: int,
        several: bool,
    ) -> None:
        base = next((t for t in _tensors(given) if one_storage(t, result)), None)
        now = None if value is None else Ref(value)
        if base is None:
            self._follow(result, now)
            return
        place = self._place(base)
        args, kwargs = given
        step = view_step(func, args, kwargs, base, result, number if several else None)
        self._places[result] = place.viewed(step, now)

    def _shape_told(
        self, func: OpOverload, args: tuple[Any, ...], shapes: tuple[tuple[int, ...], ...]
    ) -> Any:
        """The shapes, where they depend on values: Python may count by them."""
        if torch.Tag.dynamic_output_shape not in func.tags:
            return None
        if func is aten.index.Tensor and not _has_ref(args[1]):
            return None
        return tuple(n for shape in shapes for n in shape)

    def _tell(
        self,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        told: Any,
    ) -> None:
        self.tape.operations.append(Operation(func, args, kwargs, (), (), False, self.path, told))

    def tell(self, how: Callable[..., Any], tensor: Tensor, told: Any) -> None:
        """Note that Python was told something by a tensor; `how` tells it again."""
        found = self.found(tensor)
        if isinstance(found, Ref):
            self._tell(how, (found,), {}, told)

    # --- values ----------------------------------------------------------------------------------

    def found(self, tensor: Tensor) -> Ref | Held:
        """What a tensor stands for now."""
        place = self._place(tensor)
        if place.version != place.memory.version:
            self._values.refresh(place)
        if place.value is None:
            return place.memory.held(tensor)
        return place.value

    def is_active(self, tensor: Any) -> bool:
        """Whether a tensor was computed from the images."""
        return isinstance(tensor, Tensor) and isinstance(self.found(tensor), Ref)

    def _place(self, tensor: Tensor) -> PlaceInMemory:
        if tensor not in self._places:
            same = None if id(tensor) in self._own else self._in_the_same_memory(tensor)
            # What is not from this run is the user's own: a weight, a buffer.
            self._places[tensor] = same or PlaceInMemory(Memory(foreign=True, tensor=tensor))
        found: PlaceInMemory = self._places[tensor]
        return found

    def _in_the_same_memory(self, tensor: Tensor) -> PlaceInMemory | None:
        """The place of a tensor that PyTorch has made anew over memory that is followed."""
        for other, place in list(self._places.items()):
            if one_storage(other, tensor):
                if one_view(other, tensor):
                    return replace(place)
                if isinstance(self.found(other), Ref):
                    raise self.refuse(
                        f"a value at '{self.path or 'forward'}' is reached behind PyTorch's "
                        "operators, where it cannot be followed"
                    )
        return None

    def _follow(self, tensor: Tensor, value: Ref | None) -> None:
        """A tensor in memory of its own."""
        memory = Memory(value=value, tensor=None if value is not None else tensor)
        self._places[tensor] = PlaceInMemory(memory, value=value)

    def _argued(self, given: Any) -> Any:
        """Arguments with a Ref or a Held for every tensor."""
        if isinstance(given, Tensor):
            return self.found(given)
        if isinstance(given, dict):
            return {name: self._argued(one) for name, one in given.items()}
        if isinstance(given, tuple):
            return tuple(self._argued(one) for one in given)
        if isinstance(given, list):
            return [self._argued(one) for one in given]
        return given

    # --- writing ---------------------------------------------------------------------------------

    def _before_write(self, target: Tensor) -> None:
        memory = self._place(target).memory
        memory.settle()
        if memory.foreign and not memory.changed:
            whole = whole_memory(target)
            self.tape.written.append((whole, whole.clone()))
            memory.changed = True

    def keep(self, target: Tensor) -> None:
        """NumPy may write over a tensor of the user's own, unseen: it is kept as it was."""
        if not target.requires_grad and self._place(target).memory.foreign:
            self.tape.written.append((target, torch.from_numpy(target.numpy().copy())))

    def _write(self, func: OpOverload, targets: list[Tensor], before: Any) -> None:
        """An operator has written over its targets: what they, and all views, stand for now."""
        args, kwargs = before
        places = [self._place(target) for target in targets]
        active = _has_ref((args, kwargs))
        if not active:
            for place in places:
                place.memory.version += 1  # constants, read anew where they are used
                place.version = place.memory.version
            return
        if len(targets) != 1:
            raise self.refuse(f"{self.where(func)} writes over several values at once")
        (target,), (place,) = targets, places
        self._values.spread(place, self._computed(func, args, kwargs, target))

    def _computed(
        self, func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any], target: Tensor
    ) -> Ref | Held:
        """The written value as that of an operator that writes nowhere."""
        if func._schema.name in _OVERWRITING and not _has_ref(args[1:]):
            return Held(target.detach().clone())
        if func is aten.copy_.default and self._values.is_like(args[1], target):
            copied: Ref = args[1]
            return copied
        reading = functional(func)
        if reading is None:
            raise self.refuse(f"{self.where(func)} writes in a way that cannot be followed")
        kwargs = {name: arg for name, arg in kwargs.items() if name != "out"}
        return self._values.operated(reading, args, target, kwargs)

    def _moved_in_place(
        self, func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """`transpose_` and its kin change no number, only how a tensor looks at them."""
        reading = functional(func)
        target = args[0]
        before = self.found(target)
        if reading is None or len(_tensors((args, kwargs))) > 1:  # `set_` moves it elsewhere
            raise self.refuse(f"{self.where(func)} writes in a way that cannot be followed")
        place = self._places[target]
        viewed = reading(*args, **kwargs)
        step = view_step(reading, args, kwargs, target, viewed, None)
        result = func(*args, **kwargs)
        now = self._values.through(step, before) if isinstance(before, Ref) else None
        self._places[target] = place.viewed(step, now if isinstance(now, Ref) else None)
        return result


def _written(func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
    """The arguments that an operator writes over."""
    found: list[Any] = []
    for number, argument in enumerate(func._schema.arguments):
        if argument.alias_info is None or not argument.alias_info.is_write:
            continue
        given = args[number] if number < len(args) else kwargs.get(argument.name)
        found += given if isinstance(given, list | tuple) else [given]
    return found


def _tensors(given: Any) -> list[Tensor]:
    return [one for one in leaves(given) if isinstance(one, Tensor)]


def _has_ref(given: Any) -> bool:
    return any(isinstance(one, Ref) for one in leaves(given))


def _among(tensor: Tensor, given: list[Tensor]) -> bool:
    return any(tensor is one for one in given)
