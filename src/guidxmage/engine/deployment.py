"""The user's model as it is run: where, in which precision, in which state, and left untouched."""

from __future__ import annotations

import copy
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn

from guidxmage.errors import InputError


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
    stays = all(
        (dtype is None or t.dtype == dtype) and (target is None or t.device == target)
        for t in tensors
    )
    return model if stays else copy.deepcopy(model).to(device=target, dtype=dtype)


def state_of(model: nn.Module) -> tuple[Any, ...]:
    """Changes whenever a weight is replaced, moved or changed in place, or the mode changes."""
    seen: set[nn.Module] = set()
    waiting: list[nn.Module | None] = [model]
    found: list[Any] = []
    while waiting:  # one walk: Module.parameters() and its kin take milliseconds on deep networks
        module = waiting.pop()
        if module is None or module in seen:
            continue
        seen.add(module)
        found.append(module.training)
        for tensors in (module._parameters, module._buffers):
            for tensor in tensors.values():
                if tensor is not None:
                    # Inference tensors keep no count of the writes to them.
                    version = None if tensor.is_inference() else tensor._version
                    found += (id(tensor), tensor.data_ptr(), version)
        waiting.extend(module._modules.values())
    return tuple(found)


def untouched(model: nn.Module) -> ExitStack:
    """A context for runs that autocast, inference mode and gradient tracking do not reach."""
    device = next((p.device.type for p in model.parameters()), "cpu")
    stack = ExitStack()
    stack.enter_context(torch.inference_mode(False))
    stack.enter_context(torch.no_grad())
    stack.enter_context(torch.autocast(device, enabled=False))
    return stack
