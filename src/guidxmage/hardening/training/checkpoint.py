"""Checkpoints of a training run: whole or absent, checked when read, the previous one kept."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from guidxmage.errors import InputError, MissingExtraError
from guidxmage.files.atomic import write_atomically
from guidxmage.models.weights import read_pth

# The name tells the step and what the content must hash to.
_NAME = re.compile(r"checkpoint-(\d{9})-([0-9a-f]{16})\.pt")
KEPT = 2


def save_checkpoint(folder: Path, step: int, state: Mapping[str, Any]) -> Path:
    """Write the state after a step, then remove all but the newest two checkpoints.

    Raises InputError when it cannot be written, a full disk for instance; the earlier checkpoints
    are then as they were.
    """
    buffer = io.BytesIO()
    try:
        torch.save(dict(state), buffer)
    except OSError as error:
        raise InputError(f"cannot write a checkpoint: {error.strerror or error}") from error
    content = buffer.getvalue()
    path = folder / f"checkpoint-{step:09d}-{_digest(content)}.pt"
    try:
        write_atomically(path, content)
    except InputError as error:
        raise InputError(
            f"{error}; free some space and run it again to go on from before"
        ) from error
    for old in [other for other in _found(folder) if other != path][KEPT - 1 :]:
        old.unlink(missing_ok=True)
    return path


def load_checkpoint(folder: Path) -> dict[str, Any] | None:
    """The newest intact state on the CPU, or None where there is no checkpoint at all.

    Raises InputError when there are checkpoints and all are damaged.
    """
    found = _found(folder)
    for path in found:
        if (state := _read(path)) is not None:
            return state
    if found:
        raise InputError(
            f"the checkpoints in {folder} are damaged; choose another folder, or start from the "
            "beginning with resume=False"
        )
    return None


@contextmanager
def restoring(folder: Path) -> Iterator[None]:
    """Raise InputError where a state lacks anything, as one that somebody made by hand may."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # the network and the optimiser raise what they stumble over
        raise InputError(
            f"the checkpoint in {folder} is not one of this training; choose another folder, or "
            "start from the beginning with resume=False"
        ) from error


def clear_checkpoints(folder: Path, *, after: int = -1) -> None:
    """Remove the checkpoints of steps beyond `after`, by default all."""
    for path in _found(folder):
        if _step(path) > after:
            path.unlink(missing_ok=True)


def save_weights(path: Path, weights: Mapping[str, Tensor], about: Mapping[str, object]) -> None:
    """Write named tensors as safetensors, `about` as JSON in its metadata. Raises InputError."""
    safetensors = _safetensors()
    # Copies, since the format refuses tensors that share memory.
    plain = {name: tensor.detach().cpu().clone() for name, tensor in weights.items()}
    content = safetensors.save(
        {name: tensor.contiguous() for name, tensor in plain.items()},
        # In one entry, since the format writes several in an order that changes.
        metadata={"about": json.dumps(about)},
    )
    write_atomically(path, content)


def check_weights_can_be_saved() -> None:
    """Raise MissingExtraError where safetensors is not installed."""
    _safetensors()


def _safetensors() -> Any:
    try:
        import safetensors.torch
    except ModuleNotFoundError:
        raise MissingExtraError("safetensors", "train") from None
    return safetensors.torch


def _found(folder: Path) -> list[Path]:
    """The checkpoints in a folder, newest first."""
    named = (path for path in folder.glob("checkpoint-*.pt") if _NAME.fullmatch(path.name))
    return sorted(named, key=lambda path: path.name, reverse=True)


def _step(path: Path) -> int:
    match = _NAME.fullmatch(path.name)
    assert match is not None
    return int(match[1])


def _read(path: Path) -> dict[str, Any] | None:
    """The state, or None where the file is not what was written."""
    match = _NAME.fullmatch(path.name)
    assert match is not None
    try:
        content = path.read_bytes()
    except OSError:
        return None
    # torch.load does not notice a changed bit in a tensor.
    if _digest(content) != match[2]:
        return None
    try:
        state = read_pth(path)
    except InputError:
        return None
    return state if isinstance(state, dict) else None


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
