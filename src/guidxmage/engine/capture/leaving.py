"""Sees where values leave PyTorch's operators, which no operator tells."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

from guidxmage.engine.calls.call import leaves
from guidxmage.engine.capture.recorder import Recorder

_DATA = Tensor.data.__get__  # type: ignore[attr-defined]
_OUTWARDS = frozenset(
    [
        Tensor.numpy,
        Tensor.__array__,
        Tensor.__dlpack__,
        Tensor.__reduce_ex__,
        Tensor.storage,
        Tensor.untyped_storage,
        Tensor.data_ptr,
    ]
)


class Leaving(TorchFunctionMode):
    """Sees where values leave PyTorch's operators, which no operator tells."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self._recorder = recorder

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if self._recorder.is_busy:  # what it does itself
            return func(*args, **kwargs)
        if func == _DATA:
            return args[0].detach()
        if func is Tensor.__deepcopy__ and self._recorder.is_active(args[0]):
            return args[0].clone()
        if func in _OUTWARDS:
            self._refuse_outwards(func, args[0])
        result = func(*args, **kwargs)
        if func is Tensor.tolist:
            self._recorder.tell(listed, args[0], tuple(leaves(result)))
        if func is Tensor.__repr__:
            self._recorder.tell(printed, args[0], tuple(map(ord, result)))
        return result

    def _refuse_outwards(self, func: Any, tensor: Tensor) -> None:
        if self._recorder.is_active(tensor):
            name = getattr(func, "__name__", str(func))
            raise self._recorder.refuse(
                f"Tensor.{name} at '{self._recorder.path or 'forward'}' takes values that depend "
                "on the image out of PyTorch, where they cannot be followed; compute with tensors"
            )
        if func in (Tensor.numpy, Tensor.__array__):
            self._recorder.keep(tensor)


def printed(tensor: Tensor) -> tuple[int, ...]:
    """The characters of a tensor as Python prints it."""
    return tuple(map(ord, repr(tensor)))


def listed(tensor: Tensor) -> tuple[Any, ...]:
    """All numbers of a tensor, in order."""
    return tuple(tensor.reshape(-1).tolist())
