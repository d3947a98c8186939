"""Which module of a network is running."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn


class RunningModule:
    """While inside, `path` is the name of the module whose forward pass is running, "" at the top.

    PyTorch's hooks for all modules tell it; nothing is put on the network's own. They are of use to
    the thread alone that made this.
    """

    def __init__(self, model: nn.Module) -> None:
        self._names = {id(module): name for name, module in reversed([*model.named_modules()])}
        self._stack: list[str] = []
        self._thread = threading.get_ident()
        self._hooks = ExitStack()

    @property
    def path(self) -> str:
        """The name of the module that is running; of the one around it, if it has none."""
        return self._stack[-1] if self._stack else ""

    def __enter__(self) -> RunningModule:
        hooks = torch.nn.modules.module
        for hook in (
            hooks.register_module_forward_pre_hook(self._entered),
            hooks.register_module_forward_hook(self._left, always_call=True),
        ):
            self._hooks.callback(hook.remove)
        return self

    def __exit__(self, *error: object) -> None:
        self._hooks.close()

    def _entered(self, module: nn.Module, _: Any) -> None:
        if threading.get_ident() == self._thread:
            self._stack.append(self._names.get(id(module), self.path))

    def _left(self, *_: Any) -> None:
        if threading.get_ident() == self._thread and self._stack:
            self._stack.pop()
