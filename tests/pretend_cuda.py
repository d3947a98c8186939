"""A CUDA device that is not there: tensors that say they lie on it, and compute on the CPU.

`Pretended` says that it is on cuda:0, so that code takes the ways it takes on a GPU. `Cuda` stands
for `torch.cuda` in what captures graphs: its graphs note every operator that runs, and replay these
operators alone, on the same memory. What waits for a device raises `WaitingError` meanwhile.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from guidxmage.engine.calls.call import Call
from guidxmage.engine.kernels.bits import _bit_weights
from guidxmage.engine.program.program import Program

CPU, CUDA = torch.device("cpu"), torch.device("cuda:0")
# Operators that tell the host a number, or whose result's size depends on the numbers.
_WAITING = {"_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "bincount"}
_WAITING |= {"_unique2", "unique_dim", "unique_consecutive", "histc", "repeat_interleave"}
# What brings numbers from one side to the other.
_COPYING = {"cpu", "numpy", "tolist", "tensor", "as_tensor", "new_tensor"}


class WaitingError(RuntimeError):
    """The host would wait for the device here."""


class Pretended(Tensor):
    """A tensor of the CPU that says it lies on cuda:0, as does whatever is computed from it."""

    device = property(lambda self: CUDA)  # type: ignore[assignment]


def there(value: Any) -> Any:
    """Tensors, programs and what holds them as if they were on cuda:0; memory is shared."""
    if isinstance(value, Program):
        calls, symbolic = there(value.calls), there(value.symbolic_calls)
        return replace(value, calls=calls, symbolic_calls=symbolic, device=CUDA)
    if isinstance(value, Call):
        moved = {name: there(getattr(value, name)) for name in ("args", "kwargs", "offsets")}
        return replace(value, **moved)
    if isinstance(value, Tensor):
        return value.detach().as_subclass(Pretended)
    return tree_map(there, value) if isinstance(value, list | tuple | dict) else value


def here(value: Any) -> Any:
    """Plain tensors again."""
    return tree_map(lambda one: one.as_subclass(Tensor) if isinstance(one, Tensor) else one, value)


class _Moving(TorchFunctionMode):
    """Sees functions that are told of a device: what they make on cuda:0 is pretended."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = tree_leaves((args, kwargs or {}))
        asked = next((one for one in given if isinstance(one, torch.device)), None)
        before = any(isinstance(one, Pretended) for one in given)
        after = before if asked is None else asked == CUDA
        name = getattr(func, "__name__", "")
        if (name in _COPYING and (before or after)) or (name == "to" and before != after):
            _refuse(name)
        args, kwargs = tree_map(lambda one: CPU if one == CUDA else one, (args, kwargs or {}))
        result = func(*args, **kwargs)
        if isinstance(result, Tensor) and (asked is not None or name == "cpu"):
            return there(result) if after and name != "cpu" else here(result)
        return result


class _Noting(TorchDispatchMode):
    """Sees every operator."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        by = args[1] if name in ("index", "index_put", "index_put_") else ()
        if any(one is not None and one.dtype == torch.bool for one in by):
            _refuse(f"{name} by a mask")
        elif name in _WAITING:
            _refuse(name)
        result = func(*args, **(kwargs or {}))
        if Cuda.tape is not None:
            Cuda.tape.append(_Ran(func, args, kwargs or {}, result))
        return result


@contextlib.contextmanager
def pretended() -> Iterator[None]:
    """Here is a device cuda:0."""
    _bit_weights.cache_clear()
    try:
        with _Moving(), _Noting():
            yield
    finally:
        _bit_weights.cache_clear()  # a real GPU must not get these


@dataclass(frozen=True)
class _Ran:
    """An operator that was run."""

    func: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    result: Any

    def made(self) -> Iterator[tuple[int, Tensor]]:
        """What it returned in new memory, by number: no view, nothing written in place."""
        given = {one.untyped_storage().data_ptr() for one in _tensors((self.args, self.kwargs))}
        for number, one in enumerate(_tensors(self.result)):
            if one.untyped_storage().data_ptr() not in given:
                yield number, one


@dataclass
class Graph:
    """What was captured."""

    tape: list[_Ran] = field(default_factory=list)

    def forget(self) -> None:
        """Capturing computes nothing."""
        for ran in self.tape:
            for _, one in ran.made():
                one.fill_(torch.nan if one.is_floating_point() else 1)

    def replay(self) -> None:
        """The operators again; what they make goes where it lay before."""
        with torch._C._AutoDispatchBelowAutograd():  # where the operators were seen
            for ran in self.tape:
                news = _tensors(ran.func(*ran.args, **ran.kwargs))
                for number, old in ran.made():
                    old.copy_(news[number])


class Cuda:
    """What `guidxmage.engine.cuda.graphs` uses of `torch.cuda`."""

    captures = 0
    refusing = "default"
    tape: list[_Ran] | None = None
    CUDAGraph = Graph
    Stream = staticmethod(lambda device: Cuda())
    current_stream = staticmethod(lambda device=None: Cuda())
    device = stream = staticmethod(contextlib.nullcontext)

    def wait_stream(self, other: Cuda) -> None:
        """Nothing here runs beside anything else."""

    @staticmethod
    def get_sync_debug_mode() -> str:
        return Cuda.refusing

    @staticmethod
    def set_sync_debug_mode(mode: str) -> None:
        Cuda.refusing = mode

    @staticmethod
    @contextlib.contextmanager
    def graph(graph: Graph) -> Iterator[None]:
        Cuda.refusing, Cuda.tape = "error", graph.tape
        try:
            yield
        finally:
            Cuda.refusing, Cuda.tape = "default", None
        Cuda.captures += 1
        graph.forget()


def _refuse(what: str) -> None:
    if Cuda.refusing == "error":
        raise WaitingError(f"{what} waits for the device")


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]
