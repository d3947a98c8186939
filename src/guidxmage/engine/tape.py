"""One run of a network, operator by operator, as it happened.

The network runs on real images; every operator is noted whole, as the user's code called it, before
PyTorch takes it apart. Tensors are followed by identity: a value is *active* if it was computed
from the images, everything else is a constant. What Python learns of an active value (a branch, a
number, a shape that depends on it) is noted too.
"""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._dispatch.python import enable_python_dispatcher
from torch._ops import OpOverload
from torch._subclasses.schema_check_mode import SchemaCheckMode
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from guidxmage.engine.call import Ref
from guidxmage.engine.memory import Held, Memory, Place, functional, view_step
from guidxmage.errors import InputError, UnsupportedOperatorError

aten = torch.ops.aten

# They take nothing but shape, dtype and device from their first argument.
_LIKE = frozenset(
    f"aten::{name}"
    for name in ("new_zeros", "new_ones", "new_full", "new_empty", "zeros_like", "ones_like",
                 "full_like", "empty_like", "new_empty_strided", "new_tensor")
)  # fmt: skip
# Random by name, yet not when this argument says so.
_QUIET: dict[str, tuple[str, Any]] = {
    "aten::dropout": ("train", False),
    "aten::dropout_": ("train", False),
    "aten::feature_dropout": ("train", False),
    "aten::feature_dropout_": ("train", False),
    "aten::alpha_dropout": ("train", False),
    "aten::alpha_dropout_": ("train", False),
    "aten::feature_alpha_dropout": ("train", False),
    "aten::feature_alpha_dropout_": ("train", False),
    "aten::native_dropout": ("train", False),
    "aten::rrelu": ("training", False),
    "aten::rrelu_": ("training", False),
    "aten::scaled_dot_product_attention": ("dropout_p", 0.0),
    "aten::lstm": ("train", False),
    "aten::gru": ("train", False),
    "aten::rnn_relu": ("train", False),
    "aten::rnn_tanh": ("train", False),
}
_PLAIN_TYPES = (Tensor, nn.Parameter, nn.Buffer)


@dataclass(frozen=True)
class Operation:
    """One operator of a run.

    args, kwargs: with a `Ref` where an active value stood and a `Held` where a constant tensor did.
    outputs: the number of each value it returned, None where that is not followed; several: it
    returned them as a list or tuple. shapes: of the values. path: of the module that called it.
    told: what Python was told of active values by it, or None.
    """

    target: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: tuple[int | None, ...]
    shapes: tuple[tuple[int, ...], ...]
    several: bool
    path: str
    told: Any = None


@dataclass
class Tape:
    """A whole run on `rows` images: its operations in order, and what it returned.

    result: the output as a Ref, or a Held where it does not depend on the images. written: the
    user's own tensors that it wrote to, with what they held before.
    """

    rows: int
    operations: list[Operation] = field(default_factory=list)
    output: Any = None
    result: Any = None
    written: list[tuple[Tensor, Tensor]] = field(default_factory=list)


def taped(model: nn.Module, images: Tensor) -> Tape:
    """Run a model on images (B, …) and note what happened; the model is left as it was.

    Raises InputError where the model itself fails, UnsupportedOperatorError where it draws random
    numbers or hands active values to code that cannot be followed.
    """
    tape = Tape(len(images))
    with _random_state_kept(), torch.no_grad(), _uncompiled():
        given = images.detach().clone()  # the model may write over it
        recorder = _Recorder(tape, given, model)
        try:
            with recorder, _Leaving(recorder):
                tape.output = model(given)
        except Exception as error:
            raise (recorder.refusal or failure(model, images, error)) from error
        finally:
            restored(tape.written)
        if recorder.refusal is not None:  # the model has caught it
            raise recorder.refusal
        if isinstance(tape.output, Tensor):
            tape.result = recorder.found(tape.output)
    return tape


def plain_run(model: nn.Module, images: Tensor, written: Sequence[tuple[Tensor, Tensor]]) -> Any:
    """What the model returns for images, without anyone looking; it is left as it was.

    written: what a run is known to write to.
    """
    before = [(tensor, tensor.detach().clone()) for tensor, _ in written]
    with _random_state_kept(), torch.no_grad(), _uncompiled():
        try:
            return model(images.detach().clone())
        except Exception as error:
            raise failure(model, images, error) from error
        finally:
            restored(before)


def failure(model: nn.Module, images: Tensor, error: Exception) -> InputError:
    """Why a model could not be run, in one sentence."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = lines[0] if lines else type(error).__name__
    size = "×".join(str(n) for n in images.shape[1:])
    count = f"{len(images)} images" if len(images) > 1 else "an image"
    return InputError(f"{type(model).__name__} could not be run on {count} of {size}: {reason}")


def restored(written: Sequence[tuple[Tensor, Tensor]]) -> None:
    """Give the user's tensors back what they held."""
    with torch.no_grad():
        for tensor, before in reversed(written):
            tensor.copy_(before)


def _uncompiled() -> AbstractContextManager[Any]:
    """Parts of the model that torch.compile has made run as they were written."""
    if "torch._dynamo" not in sys.modules:  # nothing is compiled, and it takes long to import
        return nullcontext()
    return torch.compiler.set_stance("force_eager")


@contextmanager
def _random_state_kept() -> Iterator[None]:
    """The random numbers of PyTorch, NumPy and Python go on as if the run had not been."""
    torch_state, numpy_state, python_state = (
        torch.get_rng_state(),
        np.random.get_state(),
        random.getstate(),
    )
    gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    try:
        yield
    finally:
        if not torch.equal(torch_state, torch.get_rng_state()):
            torch.set_rng_state(torch_state)
        if gpus:
            torch.cuda.set_rng_state_all(gpus)
        if random.getstate() != python_state:
            random.setstate(python_state)
        if not _same_state(np.random.get_state(), numpy_state):
            np.random.set_state(numpy_state)


def _same_state(a: Any, b: Any) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


class _Recorder(SchemaCheckMode):
    """Sees every operator before PyTorch takes it apart, and notes it.

    PyTorch lets one kind of mode stand at that place with real tensors, the one that checks
    schemas; this is one of them that does something else.
    """

    def __init__(self, tape: Tape, images: Tensor, model: nn.Module) -> None:
        super().__init__()
        self.__dict__["_dispatch_key"] = torch._C.DispatchKey.PreDispatch
        self.tape = tape
        self.refusal: UnsupportedOperatorError | None = None
        self._places = WeakTensorKeyDictionary()
        self._count = 0
        self._paths = {id(module): name for name, module in reversed([*model.named_modules()])}
        self._stack: list[str] = []
        self._thread = threading.get_ident()
        self._around = ExitStack()
        self._follow(images, Ref(0))

    def __enter__(self) -> _Recorder:
        hooks = torch.nn.modules.module
        entered = hooks.register_module_forward_pre_hook(self._entered)
        self._around.callback(entered.remove)
        left = hooks.register_module_forward_hook(self._left, always_call=True)
        self._around.callback(left.remove)
        self._around.enter_context(enable_python_dispatcher())
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        try:
            super().__exit__(*error)
        finally:
            self._around.close()

    def _entered(self, module: nn.Module, _: Any) -> None:
        if threading.get_ident() == self._thread:
            above = self._stack[-1] if self._stack else ""
            self._stack.append(self._paths.get(id(module), above))

    def _left(self, *_: Any) -> None:
        if threading.get_ident() == self._thread and self._stack:
            self._stack.pop()

    @property
    def path(self) -> str:
        """The path of the module that is running."""
        return self._stack[-1] if self._stack else ""

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
        kwargs = kwargs or {}
        guard = torch._C._DisablePythonDispatcher()  # else parts of PyTorch run in Python instead
        try:
            self._check(func, types, args, kwargs)
            targets = [t for t in _written(func, args, kwargs) if isinstance(t, Tensor)]
            if torch.Tag.inplace_view in func.tags:
                return self._moved_in_place(func, args, kwargs)
            for target in targets:
                self._before_write(target)
            before = self._argued((args, kwargs)) if targets else None
            result = func(*args, **kwargs)
            if before is not None:
                self._write(func, targets, before)
            else:
                self._note(func, args, kwargs, result)
            return result
        finally:
            del guard

    def _check(
        self, func: OpOverload, types: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        strange = next((kind for kind in types if kind not in _PLAIN_TYPES), None)
        if strange is not None:
            raise self.refuse(
                f"{self.where(func)} works on a {strange.__name__}, not a plain tensor"
            )
        if torch.Tag.nondeterministic_seeded in func.tags and not _quiet(func, args, kwargs):
            raise self.refuse(
                f"{self.where(func)} draws random numbers, in evaluation mode too: every run gives "
                "another answer; take it out or make it deterministic"
            )
        if func in (aten.batch_norm.default, aten.instance_norm.default):
            training = func is aten.batch_norm.default and args[5]
            if training:
                raise self.refuse(
                    f"{self.where(func)} uses statistics of the batch (training=True), which mix its "
                    "images; use the running statistics"
                )

    def _note(
        self, func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any
    ) -> None:
        """Whatever a reading operator returned."""
        own_args, own_kwargs = self._argued((args, kwargs))
        active = func._schema.name not in _LIKE and _has_ref((own_args, own_kwargs))
        several = isinstance(result, list | tuple)
        results = list(result) if several else [result]
        if not all(isinstance(one, Tensor) for one in results):
            if active:
                self._tell(func, own_args, own_kwargs, result)
            return
        sources = [t for t in _tensors((args, kwargs))]
        fresh = [not any(one is source for source in sources) for one in results]
        outputs: list[int | None] = [None] * len(results)
        for number, one in enumerate(results):
            if active and fresh[number]:
                outputs[number] = self._new()
        if active and any(fresh):
            shapes = tuple(tuple(one.shape) for one in results)
            told = self._shape_told(func, own_args, shapes)
            operation = Operation(
                func, own_args, own_kwargs, tuple(outputs), shapes, several, self.path, told
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
        base = next((t for t in _tensors(given) if _one_storage(t, result)), None)
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

    def tell_list(self, tensor: Tensor, told: Any) -> None:
        """Note that Python has read all numbers of a tensor."""
        found = self.found(tensor)
        if isinstance(found, Ref):
            self._tell(listed, (found,), {}, tuple(_flat(told)))

    # --- values ----------------------------------------------------------------------------------

    def found(self, tensor: Tensor) -> Ref | Held:
        """What a tensor stands for now."""
        place = self._place(tensor)
        if place.version != place.memory.version:
            self._refresh(place)
        if place.value is None:
            return place.memory.held(tensor)
        return place.value

    def is_active(self, tensor: Any) -> bool:
        """Whether a tensor was computed from the images."""
        return isinstance(tensor, Tensor) and isinstance(self.found(tensor), Ref)

    def _place(self, tensor: Tensor) -> Place:
        if tensor not in self._places:  # the user's own: a weight, a buffer
            self._places[tensor] = Place(Memory(foreign=True, tensor=tensor))
        found: Place = self._places[tensor]
        return found

    def _follow(self, tensor: Tensor, value: Ref | None) -> None:
        """A tensor in memory of its own."""
        memory = Memory(value=value, tensor=None if value is not None else tensor)
        self._places[tensor] = Place(memory, value=value)

    def _new(self) -> int:
        self._count += 1
        return self._count

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
            self.tape.written.append((target, target.detach().clone()))
            memory.changed = True

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
        constant = func._schema.name in ("aten::fill_", "aten::zero_") or (
            func is aten.copy_.default and not isinstance(args[1], Ref)
        )
        value: Ref | Held
        if constant and not _has_ref(args[1:]):
            value = Held(target.detach().clone())
        else:
            value = self._computed(func, args, kwargs, target)
        self._spread(place, value)

    def _computed(
        self, func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any], target: Tensor
    ) -> Ref:
        """The written value as that of an operator that writes nowhere."""
        reading = functional(func)
        if reading is None:
            raise self.refuse(f"{self.where(func)} writes in a way that cannot be followed")
        kwargs = {name: arg for name, arg in kwargs.items() if name != "out"}
        value = self._new()
        self.tape.operations.append(
            Operation(reading, args, kwargs, (value,), (tuple(target.shape),), False, self.path)
        )
        return Ref(value)

    def _spread(self, place: Place, value: Ref | Held) -> None:
        """Write a value into the whole that a place is a part of."""
        memory = place.memory
        bases: list[Ref | Held] = []
        for number in range(len(place.path)):
            above = place.path[number - 1] if number else None
            bases.append(self._through(above, bases[-1]) if above else memory.root())
        whole = value
        for step, base in zip(reversed(place.path), reversed(bases), strict=True):
            inverse = step.inverse(base, whole)
            if inverse is None:
                raise self.refuse(
                    f"{self.where(step.target)} makes a part of a value that is written over, "
                    "which cannot be followed"
                )
            whole = self._operated(*inverse)
        memory.value, memory.base = (whole, None) if isinstance(whole, Ref) else (None, whole)
        memory.version += 1
        place.value = value if isinstance(value, Ref) else None
        place.version = memory.version

    def _operated(self, target: OpOverload, args: tuple[Any, ...], shape: Any) -> Ref | Held:
        """The value of an operator that the run did not call by itself."""
        if not _has_ref(args):
            plain = [arg.tensor if isinstance(arg, Held) else arg for arg in args]
            return Held(target(*plain))
        value = self._new()
        self.tape.operations.append(
            Operation(target, args, {}, (value,), (tuple(shape),), False, self.path)
        )
        return Ref(value)

    def _through(self, step: Any, base: Ref | Held) -> Ref | Held:
        """A view of a value."""
        if step.number is None:
            return self._operated(step.target, step.args(base), step.shape)
        if isinstance(base, Held):
            return Held(step.target(*step.args(base.tensor))[step.number])
        value = self._new()
        count = step.number + 1
        outputs = (*[None] * step.number, value)
        shapes = (step.shape,) * count
        self.tape.operations.append(
            Operation(step.target, step.args(base), {}, outputs, shapes, True, self.path)
        )
        return Ref(value)

    def _refresh(self, place: Place) -> None:
        """What a view stands for after its whole was written over."""
        place.version = place.memory.version
        if place.memory.value is None and place.memory.base is None:
            place.value = None
            return
        value: Ref | Held = place.memory.root()
        for step in place.path:
            value = self._through(step, value)
        place.value = value if isinstance(value, Ref) else None

    def _moved_in_place(
        self, func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """`transpose_` and its kin change no number, only how a tensor looks at them."""
        reading = functional(func)
        target = args[0]
        before = self.found(target)
        if reading is None:
            raise self.refuse(f"{self.where(func)} writes in a way that cannot be followed")
        place = self._places[target]
        viewed = reading(*args, **kwargs)
        step = view_step(reading, args, kwargs, target, viewed, None)
        result = func(*args, **kwargs)
        now = self._through(step, before) if isinstance(before, Ref) else None
        self._places[target] = place.viewed(step, now if isinstance(now, Ref) else None)
        return result


class _Leaving(TorchFunctionMode):
    """Sees where values leave PyTorch's operators, which no operator tells."""

    def __init__(self, recorder: _Recorder) -> None:
        super().__init__()
        self._recorder = recorder

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is Tensor.data.__get__:  # type: ignore[attr-defined]
            return args[0].detach()
        if func in _OUTWARDS and self._recorder.is_active(args[0]):
            name = getattr(func, "__name__", str(func))
            raise self._recorder.refuse(
                f"Tensor.{name} at '{self._recorder.path or 'forward'}' takes values that depend on "
                "the image out of PyTorch, where they cannot be followed; compute with tensors"
            )
        result = func(*args, **kwargs)
        if func is Tensor.tolist:
            self._recorder.tell_list(args[0], result)
        return result


_OUTWARDS = frozenset([Tensor.numpy, Tensor.__array__, Tensor.__dlpack__])


def _quiet(func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether an operator that may draw random numbers does not in this call."""
    name, quiet = _QUIET.get(func._schema.name, ("", None))
    for number, argument in enumerate(func._schema.arguments):
        if argument.name == name:
            given = args[number] if number < len(args) else None
            return bool(
                kwargs.get(name, argument.default_value if given is None else given) == quiet
            )
    return False


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
    if isinstance(given, Tensor):
        return [given]
    if isinstance(given, dict):
        given = list(given.values())
    if isinstance(given, list | tuple):
        return [tensor for one in given for tensor in _tensors(one)]
    return []


def _has_ref(given: Any) -> bool:
    if isinstance(given, dict):
        given = list(given.values())
    if isinstance(given, list | tuple):
        return any(_has_ref(one) for one in given)
    return isinstance(given, Ref)


def listed(tensor: Tensor) -> tuple[Any, ...]:
    """All numbers of a tensor, in order."""
    return tuple(tensor.reshape(-1).tolist())


def _flat(told: Any) -> list[Any]:
    return [one for part in told for one in _flat(part)] if isinstance(told, list) else [told]


def _one_storage(a: Tensor, b: Tensor) -> bool:
    if a.layout != torch.strided or b.layout != torch.strided:
        return False
    return a.untyped_storage()._cdata == b.untyped_storage()._cdata
