"""Whether a model is still what it was."""

from __future__ import annotations

from typing import Any

from torch import nn


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
