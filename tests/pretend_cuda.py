"""A CUDA device that is not there: tensors that say they lie on it, and compute on the CPU.

`Pretended` holds a real tensor and claims the device cuda:0, so that code takes the ways it takes
on a GPU, with real numbers. Inside `pretended()` factories know the device too. Inside
`no_waiting()` whatever would make the host wait for a GPU, or is refused while a CUDA graph is
captured, raises `WaitingError`. `EmulatedGraphs` makes CUDA graphs of pretended work: a replay runs
the operators of the captured run again, on the same memory, and none of the Python code that called
them.
"""

from __future__ import annotations

import contextlib
import copy
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from guidxmage.engine.calls.call import Call
from guidxmage.engine.cuda.cuda_graphs import Captured, Work
from guidxmage.engine.kernels.bits import _bit_weights
from guidxmage.engine.program.program import Program

CUDA = torch.device("cuda:0")
aten = torch.ops.aten


class WaitingError(RuntimeError):
    """The host would wait for the device here, as no captured graph may."""


class Pretended(Tensor):
    """A tensor that says it lies on cuda:0; `host` is where its numbers really are."""

    host: Tensor

    @staticmethod
    def __new__(cls, host: Tensor) -> Pretended:
        made: Pretended = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            host.shape,
            strides=host.stride(),
            storage_offset=host.storage_offset(),
            dtype=host.dtype,
            device="meta",  # for PyTorch's own C++, which on a build without CUDA knows no other
        )
        made.host = host
        _LIVING.add(made)
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return _run(func, args, kwargs or {})

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self, **_: Any) -> str:
        return f"Pretended({self.host})"

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return CUDA

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        return True

    @property
    def is_meta(self) -> bool:  # type: ignore[override]
        return False

    def untyped_storage(self) -> Any:
        return self.host.untyped_storage()

    def data_ptr(self) -> int:
        return self.host.data_ptr()

    def new_tensor(self, data: Any, dtype: torch.dtype | None = None, **_: Any) -> Tensor:
        return torch.tensor(data, dtype=dtype or self.dtype, device=CUDA)

    def tolist(self) -> Any:
        _refuse_waiting("tolist")
        return self.host.tolist()

    def numpy(self, **_: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    def __deepcopy__(self, memo: Any) -> Pretended:
        return Pretended(copy.deepcopy(self.host, memo))


_LIVING: weakref.WeakSet[Pretended] = weakref.WeakSet()


# --- running an operator ------------------------------------------------------------------------


@dataclass
class _State:
    waiting_allowed: bool = True
    tape: list[_Operation] | None = None
    waits: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Operation:
    """An operator that was run, with its real arguments and results."""

    func: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: list[Tensor]

    @cached_property
    def given(self) -> list[Tensor]:
        return _tensors((self.args, self.kwargs))

    @cached_property
    def made(self) -> list[Tensor]:
        """What it returned in new memory: no view, nothing written in place."""
        places = {_place(one) for one in self.given}
        return [one for one in self.outputs if _place(one) not in places]

    @property
    def written(self) -> list[Tensor]:
        """The arguments that it writes into."""
        schema = self.func._schema.arguments
        by_name = dict(zip((one.name for one in schema), self.args, strict=False)) | self.kwargs
        names = [one.name for one in schema if one.alias_info and one.alias_info.is_write]
        return _tensors([by_name.get(name) for name in names])

    def again(self) -> None:
        """The same on the numbers that are there now; what is made goes where it lay before."""
        if self.func in _BLANK or not (self.made or self.written):
            return
        found = _tensors(self.func(*self.args, **self.kwargs))
        for old, new in zip(self.outputs, found, strict=True):
            if _place(new) != _place(old):
                old.copy_(new)

    def spoil(self, places: set[int]) -> None:
        for one in self.made:
            if _place(one) in places:
                one.fill_(torch.nan if one.is_floating_point() else 1)


_STATE = _State()
_BLANK = (aten.empty.memory_format, aten.empty_strided.default, aten.empty_like.default)
_BLANK += (aten.new_empty.default, aten.new_empty_strided.default)
# Operators that read what they computed on the host, whose result's size depends on the numbers,
# or that check them on the host.
_WAITING = {
    "_local_scalar_dense", "item", "is_nonzero", "equal", "nonzero", "argwhere",
    "masked_select", "unique_dim", "_unique", "_unique2", "unique_consecutive", "bincount",
    "histc", "repeat_interleave", "allclose", "_linalg_check_errors",
}  # fmt: skip
# Where a number that lies on the host is handed to the kernel, and nothing is copied.
_NUMBERS_AS_ARGUMENTS = {
    "add", "add_", "sub", "sub_", "mul", "mul_", "div", "div_", "rsub", "pow", "eq", "ne", "lt",
    "le", "gt", "ge", "maximum", "minimum", "bitwise_and", "bitwise_or", "fill_", "masked_fill",
    "masked_fill_", "__lshift__", "__rshift__",
}  # fmt: skip


def _refuse_waiting(what: str) -> None:
    _STATE.waits.append(what)
    if not _STATE.waiting_allowed:
        raise WaitingError(f"{what} waits for the device")


def _check(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """What a GPU's kernel of this operator would wait for."""
    name = func._schema.name.removeprefix("aten::")
    tensors = _tensors((args, kwargs))
    own = [one for one in tensors if isinstance(one, Pretended)]
    others = [one for one in tensors if not isinstance(one, Pretended)]
    target = kwargs.get("device")
    if name in _WAITING and own:
        _refuse_waiting(name)
    if name in ("index", "index_put", "index_put_") and any(
        isinstance(one, Tensor) and one.dtype in (torch.bool, torch.uint8) for one in args[1]
    ):
        _refuse_waiting(f"{name} by a mask")
    if name == "_to_copy" and target is not None and bool(own) != (target.type != "cpu"):
        _refuse_waiting(f"a copy to {target.type}")
    if own and others and name not in _NUMBERS_AS_ARGUMENTS:
        _refuse_waiting(f"{name} of tensors on both devices")
    if own and any(one.ndim for one in others) and name not in ("copy_", "index"):
        raise RuntimeError(f"{name}: expected all tensors to be on the same device")


def _run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    _check(func, args, kwargs)
    leaves = tree_leaves((args, kwargs))
    lies_here = any(isinstance(leaf, Pretended) for leaf in leaves)
    target = kwargs.get("device")
    stays = lies_here if target is None else target.type != "cpu"
    wrappers = {id(leaf.host): leaf for leaf in leaves if isinstance(leaf, Pretended)}

    def real(arg: Any) -> Any:
        if isinstance(arg, Pretended):
            return arg.host
        return torch.device("cpu") if isinstance(arg, torch.device) else arg

    own_args, own_kwargs = tree_map(real, args), tree_map(real, kwargs)
    result = func(*own_args, **own_kwargs)
    outputs = _tensors(result)
    if _STATE.tape is not None and (lies_here or stays):
        _STATE.tape.append(_Operation(func, own_args, own_kwargs, outputs))

    def wrapped(value: Any) -> Any:
        if id(value) in wrappers:
            return wrappers[id(value)]
        return Pretended(value) if stays and isinstance(value, Tensor) else value

    return tree_map(wrapped, result)


class _Factories(TorchDispatchMode):
    """Lets what is made on cuda:0 out of nothing, or out of numbers of the host, be pretended."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        concerned = any(
            isinstance(leaf, Pretended) or (isinstance(leaf, torch.device) and leaf.type != "cpu")
            for leaf in tree_leaves((args, kwargs))
        )
        return _run(func, args, kwargs) if concerned else func(*args, **kwargs)


def _not_pretended(*_: Any, **__: Any) -> Any:
    raise NotImplementedError("forward-mode derivatives of pretended tensors")


@contextlib.contextmanager
def pretended() -> Iterator[None]:
    """Here is a device cuda:0, though PyTorch may know of none."""
    only_lift = torch._C._only_lift_cpu_tensors()  # type: ignore[attr-defined]
    torch._C._set_only_lift_cpu_tensors(True)  # type: ignore[attr-defined]
    _bit_weights.cache_clear()
    try:
        with (
            patch.object(torch.cuda, "_lazy_init", lambda: None),
            patch.object(torch.func, "jvp", _not_pretended),
            _Factories(),
        ):
            yield
    finally:
        _bit_weights.cache_clear()  # a real GPU must not get these
        torch._C._set_only_lift_cpu_tensors(only_lift)  # type: ignore[attr-defined]


@contextlib.contextmanager
def no_waiting() -> Iterator[None]:
    """Whatever waits for the device raises `WaitingError`."""
    before, _STATE.waiting_allowed = _STATE.waiting_allowed, False
    try:
        yield
    finally:
        _STATE.waiting_allowed = before


@contextlib.contextmanager
def waits() -> Iterator[list[str]]:
    """Collects what waits for the device."""
    before, _STATE.waits = _STATE.waits, []
    try:
        yield _STATE.waits
    finally:
        _STATE.waits = before


# --- programs and models there --------------------------------------------------------------------


def there(value: Any) -> Any:
    """Tensors, devices, programs and what holds them, moved to cuda:0; memory is shared."""
    if isinstance(value, Program):
        calls, symbolic = (
            [there(call) for call in own] for own in (value.calls, value.symbolic_calls)
        )
        return replace(value, calls=tuple(calls), symbolic_calls=tuple(symbolic), device=CUDA)
    if isinstance(value, Call):
        moved = {name: there(getattr(value, name)) for name in ("args", "kwargs", "offsets")}
        return replace(value, **moved)
    if isinstance(value, Tensor):
        return value if isinstance(value, Pretended) else Pretended(value.detach())
    if isinstance(value, torch.device):
        return CUDA
    return tree_map(there, value) if isinstance(value, list | tuple | dict) else value


def here(value: Any) -> Any:
    """The real tensors."""
    return tree_map(lambda leaf: leaf.host if isinstance(leaf, Pretended) else leaf, value)


def model_there(model: nn.Module) -> nn.Module:
    """The same modules with their weights on cuda:0; memory is shared."""
    return _with_tensors(model, there)


def model_here(model: nn.Module) -> nn.Module:
    """The same modules with the real weights; memory is shared."""
    return _with_tensors(model, here)


def _with_tensors(model: nn.Module, change: Callable[[Tensor], Tensor]) -> nn.Module:
    moved = copy.deepcopy(model)
    for own, module in zip(model.modules(), moved.modules(), strict=True):
        for name, parameter in own._parameters.items():
            if parameter is not None:
                changed = nn.Parameter(change(parameter.detach()), requires_grad=False)
                module._parameters[name] = changed
        for name, buffer in own._buffers.items():
            module._buffers[name] = None if buffer is None else change(buffer)
    return moved


# --- graphs ---------------------------------------------------------------------------------------


class EmulatedGraphs:
    """What `CudaGraphs` is to pretended tensors.

    As on a GPU, capturing computes nothing, what is made meanwhile lies in a pool, and memory of
    the pool that nobody holds may become another graph's: it is spoiled after every replay.
    """

    captures = 0

    def __init__(self, device: torch.device) -> None:
        assert device == CUDA

    def capture(self, work: Work) -> Captured:
        for _ in range(2):
            work()
        _STATE.tape = tape = []
        try:
            with no_waiting():
                outputs = work()
        finally:
            _STATE.tape = None
        EmulatedGraphs.captures += 1
        made = {_place(one) for operation in tape for one in operation.made}
        read = {_place(one) for operation in tape for one in operation.given if one.numel()} - made
        for operation in tape:
            written = {_place(one) for one in operation.written}
            assert written <= made, "the graph writes into memory that is not its own"
            operation.spoil(made)
        return Captured(outputs, lambda: _replay(tape, made, read))


def _replay(tape: list[_Operation], made: set[int], read: set[int]) -> None:
    held = {_place(one.host) for one in _LIVING}
    assert read <= held, "the graph reads memory that is no longer held"
    for operation in tape:
        operation.again()
    for operation in tape:
        operation.spoil(made - held)


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]
