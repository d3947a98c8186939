"""SHA-256 of what a result was made from: the model, the image, the trail, the files."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from guidxmage.engine.deployment import state_of
from guidxmage.engine.trail import Trail

_known: WeakKeyDictionary[nn.Module, tuple[tuple[Any, ...], str]] = WeakKeyDictionary()


def of_model(model: nn.Module) -> str:
    """All tensors of a model's state by name, dtype, shape and bytes."""
    state = state_of(model)
    if model in _known and _known[model][0] == state:
        return _known[model][1]
    found = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        _add(found, name, tensor)
    _known[model] = state, found.hexdigest()
    return found.hexdigest()


def of_tensor(tensor: Tensor) -> str:
    """A tensor's dtype, shape and bytes."""
    found = hashlib.sha256()
    _add(found, "", tensor)
    return found.hexdigest()


def of_trail(trail: Trail) -> str:
    """Every decision, and every number recorded at smooth operators."""
    found = hashlib.sha256()
    for entries in (trail, trail.gates):
        for site, entry in entries.items():
            for number, plane in enumerate(entry.planes):
                _add(found, f"{site} {number}", plane)
    return found.hexdigest()


def of_file(path: Path) -> str:
    """A file's bytes."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            found.update(block)
    return found.hexdigest()


def of_text(text: str) -> str:
    """A text in UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()


def _add(found: Any, name: str, tensor: Tensor) -> None:
    found.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
    flat = tensor.detach().cpu().contiguous().flatten()
    found.update(flat.view(torch.uint8).numpy())
