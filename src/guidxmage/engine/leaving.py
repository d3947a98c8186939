"""Sees where values leave PyTorch's operators, which no operator tells."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

from guidxmage.engine.recorder import Recorder

_DATA = Tensor.data.__get__  # type: ignore[attr-defined]
_OUTWARDS = frozenset([Tensor.numpy, Tensor.__array__, Tensor.__dlpack__])


class Leaving(TorchFunctionMode):
    """Sees where values leave PyTorch's operators, which no operator tells."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self._recorder = recorder

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func == _DATA:
            return args[0].detach()
        if func in _OUTWARDS and self._recorder.is_active(args[0]):
            name = getattr(func, "__name__", str(func))
            raise self._recorder.refuse(
                f"Tensor.{name} at '{self._recorder.path or 'forward'}' takes values that depend "
                "on the image out of PyTorch, where they cannot be followed; compute with tensors"
            )
        result = func(*args, **kwargs)
        if func is Tensor.tolist:
            self._recorder.tell_list(args[0], result)
        return result
