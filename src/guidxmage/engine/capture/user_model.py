"""The user's model as it is run: where, in which precision, in which state, and left untouched."""

from __future__ import annotations

import copy
import os
import threading
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from guidxmage.errors import InputError


def unwrapped(model: Any) -> nn.Module:
    """The network itself, out of what PyTorch has put around it.

    That is torch.compile, data parallelism, or torch.export, whose programs hold a network. Raises
    InputError for what is no network.
    """
    if isinstance(model, torch.export.ExportedProgram):
        return model.module()
    if not isinstance(model, nn.Module):
        raise InputError(f"a torch.nn.Module is expected, not {_what(model)}")
    parallel = isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel)
    inside = model.module if parallel else getattr(model, "_orig_mod", None)
    return unwrapped(inside) if isinstance(inside, nn.Module) else model


def _what(given: Any) -> str:
    """What was given instead of a network, and the way from there to one."""
    if isinstance(given, type) and issubclass(given, nn.Module):
        return f"the class {given.__name__}; make one of it first"
    if isinstance(given, Mapping) and any(isinstance(one, Tensor) for one in given.values()):
        return "weights alone; build the network and give it them with load_state_dict"
    name = type(given).__name__
    if isinstance(given, str | os.PathLike):
        return f"{name}; load a network by name or from a file with Explainer.load"
    return name


def name_of(model: nn.Module) -> str:
    """What a network is called: by its class, in TorchScript too."""
    scripted = isinstance(model, torch.jit.ScriptModule)
    return str(model.original_name) if scripted else type(model).__name__


def copied_to(
    model: nn.Module, device: torch.device | str | None, dtype: torch.dtype | None
) -> nn.Module:
    """The model itself, or a converted copy of it when it is asked for elsewhere."""
    if dtype not in (None, torch.float32, torch.float64):
        raise InputError(f"dtype {dtype} is too coarse; use torch.float32 or torch.float64")
    tensors = [t for t in (*model.parameters(), *model.buffers()) if t.is_floating_point()]
    try:
        target = None if device is None else torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"device {device!r} is not available: {str(error).splitlines()[0]}"
        ) from error
    if target is not None and target.type == "meta":
        raise InputError("a network on the device 'meta' has no numbers to be explained")
    stays = all(
        (dtype is None or t.dtype == dtype) and (target is None or t.device == target)
        for t in tensors
    )
    return model if stays else copy.deepcopy(model).to(device=target, dtype=dtype)


class _PlainAttention:
    """While anyone is inside, attention is computed step by step, not by one fused operator.

    The fused one of evaluation mode rounds otherwise than what runs whenever gradients are taken.
    PyTorch has one switch for all threads.
    """

    _lock = threading.Lock()
    _inside = 0
    _before = True

    def __enter__(self) -> None:
        cls = type(self)
        with cls._lock:
            if cls._inside == 0:
                cls._before = torch.backends.mha.get_fastpath_enabled()
                torch.backends.mha.set_fastpath_enabled(False)
            cls._inside += 1

    def __exit__(self, *error: object) -> None:
        cls = type(self)
        with cls._lock:
            cls._inside -= 1
            if cls._inside == 0:
                torch.backends.mha.set_fastpath_enabled(cls._before)


def untouched(model: nn.Module) -> ExitStack:
    """A context for runs that autocast, inference mode and gradient tracking do not reach.

    Attention takes the steps that it takes in training, too.
    """
    device = next((p.device.type for p in model.parameters()), "cpu")
    stack = ExitStack()
    stack.enter_context(torch.inference_mode(False))
    stack.enter_context(torch.no_grad())
    stack.enter_context(torch.autocast(device, enabled=False))
    stack.enter_context(_PlainAttention())
    return stack
