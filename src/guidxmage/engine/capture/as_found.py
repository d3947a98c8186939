"""Whatever a run of the user's network leaves behind in it, or in random states, is undone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from operator import is_
from typing import Any

import torch
from torch import Tensor, nn

from guidxmage.engine.capture.randomness import others_at_work, random_state_kept
from guidxmage.engine.capture.user_model import untouched
from guidxmage.provenance.model_state import MUTABLE


class StateBefore:
    """What a model held before a run; `drawn()` tells whether the run drew random numbers.

    Only NumPy's and Python's own are meant: PyTorch's are seen as operators.
    """

    def __init__(self, model: nn.Module, written: Sequence[Tensor]) -> None:
        self.drawn: Callable[[], bool] = lambda: False
        self._modules = [_Attributes(module) for module in model.modules()]
        self._tensors = [
            (tensor, tensor.detach(), tensor.requires_grad, tensor.grad)
            for tensor in (*model.parameters(), *model.buffers())
        ]
        self._values = [(tensor, tensor.detach().clone()) for tensor in written]

    def restore(self) -> None:
        """Modules, their attributes, hooks and modes, and tensors are what they were.

        Where other threads are at work, only what the run wrote into tensors is undone: the rest
        may be theirs.
        """
        if not others_at_work():
            self._put_back()
        restored(self._values)

    def _put_back(self) -> None:
        for attributes in self._modules:
            attributes.restore()
        for tensor, values, requires_grad, grad in self._tensors:
            if tensor.data_ptr() != values.data_ptr() or tensor.shape != values.shape:
                tensor.data = values
            if tensor.requires_grad != requires_grad:
                tensor.requires_grad_(requires_grad)
            if grad is None and tensor.grad is not None:
                tensor.grad = None


@contextmanager
def as_found(model: nn.Module, written: Sequence[Tensor] = ()) -> Iterator[StateBefore]:
    """Run a model inside; afterwards it is as it was, and random states are.

    written: tensors that the run may write to, whose values are kept. Of others only what holds
    them is: writes in place are undone by those who saw them.
    """
    found = StateBefore(model, written)
    with random_state_kept() as found.drawn:
        try:
            yield found
        finally:
            found.restore()


def running(model: nn.Module) -> ExitStack:
    """`untouched`, for many runs of the model itself: it is as it was afterwards.

    What runs write into its buffers is undone, too. Give it copies: a network may write over what
    it is given.
    """
    stack = untouched(model)
    stack.enter_context(as_found(model, tuple(model.buffers())))
    return stack


def restored(written: Sequence[tuple[Tensor, Tensor]]) -> None:
    """Give tensors back what they held."""
    with torch.no_grad():
        for tensor, before in reversed(written):
            if not torch.equal(tensor, before):
                tensor.copy_(before)


class _Attributes:
    """The attributes of a module, and what is in those that are lists, sets or dictionaries."""

    def __init__(self, module: nn.Module) -> None:
        self._own = module.__dict__
        self._values = self._own.copy()
        self._inside = [
            (value, value.copy() if value else None)
            for value in self._values.values()
            if type(value) in MUTABLE
        ]

    def restore(self) -> None:
        """As they were; most often nothing has changed."""
        if not _same(self._own, self._values):
            self._own.clear()
            self._own.update(self._values)
        for value, inside in self._inside:
            if inside is None:
                value.clear()
            elif isinstance(value, list):
                value[:] = inside
            elif isinstance(value, set) or not _same(value, inside):
                value.clear()
                value.update(inside)


def _same(a: dict[Any, Any], b: dict[Any, Any]) -> bool:
    """Whether a dictionary holds the very same objects as another, in the same order."""
    return len(a) == len(b) and all(map(is_, a, b)) and all(map(is_, a.values(), b.values()))
