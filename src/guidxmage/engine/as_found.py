"""Whatever a run of the user's network leaves behind in it, or in random states, is undone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from guidxmage.engine.randomness import random_state_kept


class Found:
    """What a model held before a run; `drawn()` tells whether the run drew random numbers.

    Only NumPy's and Python's own are meant: PyTorch's are seen as operators.
    """

    def __init__(self, model: nn.Module, written: Sequence[Tensor]) -> None:
        self.drawn = lambda: False
        self._modules = [(module, _contents(module)) for module in model.modules()]
        self._tensors = [
            (tensor, tensor.detach(), tensor.requires_grad, tensor.grad)
            for tensor in (*model.parameters(), *model.buffers())
        ]
        self._values = [(tensor, tensor.detach().clone()) for tensor in written]

    def restore(self) -> None:
        """Modules, their attributes, hooks and modes, and tensors are what they were."""
        for module, contents in self._modules:
            _refill(module.__dict__, contents)
        for tensor, values, requires_grad, grad in self._tensors:
            if tensor.data_ptr() != values.data_ptr() or tensor.shape != values.shape:
                tensor.data = values
            if tensor.requires_grad != requires_grad:
                tensor.requires_grad_(requires_grad)
            if grad is None and tensor.grad is not None:
                tensor.grad = None
        restored(self._values)


@contextmanager
def as_found(model: nn.Module, written: Sequence[Tensor] = ()) -> Iterator[Found]:
    """Run a model inside; afterwards it is as it was, and random states are.

    written: tensors that the run may write to, whose values are kept. Of others only what holds
    them is: writes in place are undone by those who saw them.
    """
    found = Found(model, written)
    with random_state_kept() as found.drawn:
        try:
            yield found
        finally:
            found.restore()


def restored(written: Sequence[tuple[Tensor, Tensor]]) -> None:
    """Give tensors back what they held."""
    with torch.no_grad():
        for tensor, before in reversed(written):
            if not torch.equal(tensor, before):
                tensor.copy_(before)


def _contents(module: nn.Module) -> dict[str, tuple[Any, Any]]:
    """The attributes of a module, and what is in those that are lists, sets or dictionaries."""
    return {
        name: (value, value.copy() if isinstance(value, list | dict | set) else None)
        for name, value in module.__dict__.items()
    }


def _refill(attributes: dict[str, Any], contents: dict[str, tuple[Any, Any]]) -> None:
    for name in [name for name in attributes if name not in contents]:
        del attributes[name]
    for name, (value, inside) in contents.items():
        if attributes.get(name) is not value:
            attributes[name] = value
        if isinstance(value, list):
            value[:] = inside
        elif inside is not None and not _same(value, inside):
            value.clear()
            value.update(inside)


def _same(a: Any, b: Any) -> bool:
    """Whether a dictionary or a set holds the very same objects as another."""
    if isinstance(a, dict):
        return len(a) == len(b) and all(x is y for x, y in zip(a.values(), b.values(), strict=True))
    return len(a) == len(b) and {id(one) for one in a} == {id(one) for one in b}
