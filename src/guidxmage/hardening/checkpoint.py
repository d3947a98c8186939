"""Training states on disk: the newest and the one before, each whole or not there at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from guidxmage.errors import InputError

NEWEST, PREVIOUS = "checkpoint.pt", "checkpoint-previous.pt"
State = dict[str, Any]


def save_checkpoint(folder: Path, state: State) -> None:
    """Write a state; the newest until now stays as the previous one.

    Raises InputError where it cannot be written (a full disk); what was there is then kept.
    """
    partial = folder / f".{NEWEST}.{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        if (folder / NEWEST).exists():
            os.replace(folder / NEWEST, folder / PREVIOUS)
        os.replace(partial, folder / NEWEST)
    except (OSError, RuntimeError) as error:  # torch.save reports a full disk as RuntimeError
        words = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise InputError(
            f"the training state cannot be written to {folder} ({words}); make room and run the "
            "same command again, it goes on from the last checkpoint"
        ) from error
    finally:
        partial.unlink(missing_ok=True)


def load_checkpoint(folder: Path, digest: str) -> State | None:
    """The newest state that can be read; None where there is none.

    digest: of the configuration, which has to be the one that wrote it. Raises InputError for
    another configuration's state.
    """
    for name in (NEWEST, PREVIOUS):
        state = _read(folder / name)
        if state is None:
            continue
        if state.get("digest") != digest:
            raise InputError(
                f"{folder} holds the training of another configuration; choose another folder or "
                "remove it"
            )
        return state
    return None


def _read(file: Path) -> State | None:
    if not file.is_file():
        return None
    try:
        state: State = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, KeyError):
        return None  # cut off or damaged: the previous one is whole
    except Exception as error:  # an UnpicklingError has no common base with the rest
        if type(error).__name__ == "UnpicklingError":
            return None
        raise
    return state if isinstance(state, dict) else None
