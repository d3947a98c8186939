"""Whether a model is still what it was."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from torch import nn

# Attributes of modules that may be changed in place.
MUTABLE = frozenset([dict, OrderedDict, list, set])


def state_of(model: nn.Module) -> tuple[Any, ...]:
    """What to compare with `is_same_state` to see whether the network has changed.

    A weight, a module, an attribute, a hook, the mode. Of weights it is seen that they were
    replaced, moved or changed in place, but not what is written past PyTorch's counters, as through
    `.data` or NumPy.
    """
    seen: set[int] = set()
    waiting: list[nn.Module | None] = [model]
    found: list[Any] = []
    while waiting:  # one walk: Module.parameters() and its kin take milliseconds on deep networks
        module = waiting.pop()
        if module is None or id(module) in seen:
            continue
        seen.add(id(module))
        attributes = tuple(module.__dict__.values())
        found += (type(module), attributes)
        for value in [one for one in attributes if type(one) in MUTABLE and one]:
            found.append(tuple(value.values() if isinstance(value, dict) else value))
        for tensors in (module._parameters, module._buffers):
            for tensor in tensors.values():
                if tensor is not None:
                    # Inference tensors keep no count of the writes to them.
                    found += (tensor.data_ptr(), tensor.is_inference() or tensor._version)
        waiting.extend(module._modules.values())
    return tuple(found)


def is_same_state(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    """Whether two answers of `state_of` are of one network that has not changed in between."""
    try:
        return one == other
    except (RuntimeError, TypeError, ValueError):  # other tensors or arrays have no truth value
        return False
