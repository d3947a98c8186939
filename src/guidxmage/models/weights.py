"""Reading weight files (.pth, .pt, .safetensors) without running code; loading them strictly."""

from __future__ import annotations

import argparse
import os
import re
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from guidxmage.errors import InputError, MissingExtraError
from guidxmage.models.weight_promises import check_promises, damaged, foreign

StateDict = OrderedDict[str, Tensor]

# Under which training scripts keep the weights among epoch, optimiser and settings.
_WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
# Small files may hold views of one number, and several views of the same numbers.
_SMALL, _MOST_VIEWS = 2**20, 64
_LONGEST_NAME = 200
# Numbers that mean themselves; quantised ones, for instance, are nothing without their scale.
_PLAIN = (
    torch.float64, torch.float32, torch.float16, torch.bfloat16,
    torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool,
)  # fmt: skip


def read_weights(path: str | os.PathLike[str]) -> StateDict:
    """The named tensors of a weight file, on the CPU.

    Checkpoints {'state_dict': …} and {'model': …} are unwrapped, and the prefix 'module.' of
    data-parallel training is removed. Raises InputError for a file that is missing, empty,
    damaged, holds pickled objects (they are never run), or has NaN, infinite, quantised, sparse or
    complex values.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(f"there is no weight file {file}")
    if file.stat().st_size == 0:
        raise InputError(f"the weight file {file} is empty")
    reader = _read_safetensors if file.suffix.lower() == ".safetensors" else read_pth
    weights = _without_prefix(_unwrapped(reader(file), file))
    _check_sizes(weights, file)
    for name, tensor in weights.items():
        _check_values(_brief(name), tensor, file)
    return weights


def _check_sizes(weights: StateDict, file: Path) -> None:
    """Views of few numbers may be of any shape; to look at them once would take that memory."""
    room, total = max(file.stat().st_size, _SMALL), 0
    for name, tensor in weights.items():
        own = 0 if tensor.is_meta else tensor.numel() * tensor.element_size()
        total += own
        if own > room or total > _MOST_VIEWS * room:
            raise InputError(
                f"the weight file {file} holds {_brief(name)} of the shape {list(tensor.shape)}, "
                "more numbers than there is room for in the file; save the tensors with clone()"
            )


def _check_values(name: str, tensor: Tensor, file: Path) -> None:
    if tensor.dtype not in _PLAIN or tensor.layout is not torch.strided or tensor.is_meta:
        kind = f"{tensor.dtype}, {tensor.layout}, on {tensor.device}"
        raise InputError(
            f"the weight file {file} holds {name} in a form that cannot be loaded ({kind}); "
            "save it as an ordinary float32 tensor"
        )
    if not torch.isfinite(tensor).all():
        raise InputError(f"the weight file {file} holds NaN or infinite values in {name}")


def _read_safetensors(file: Path) -> Any:
    try:
        from safetensors.torch import load_file
    except ModuleNotFoundError:
        raise MissingExtraError("safetensors", "vision") from None
    try:
        return load_file(file)
    # SafetensorError, and what the conversion of its header stumbles over.
    except Exception as error:
        raise _damaged(file, error) from error


def read_pth(file: Path) -> Any:
    """What a .pth file holds: tensors and plain values, on the CPU. Raises InputError."""
    check_promises(file)
    try:
        # Training scripts often keep their command line, a plain record, beside the weights.
        with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):
            warnings.simplefilter("ignore")
            return torch.load(file, map_location="cpu", weights_only=True)
    # On a malformed file the unpickler raises whatever it stumbles over, KeyError for instance.
    except Exception as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        what = named[1] if named else "TorchScript" if "TorchScript" in str(error) else None
        if what is None:
            raise _damaged(file, error) from error
        raise foreign(file, what) from None


def _damaged(file: Path, error: Exception) -> InputError:
    lines = str(error).splitlines() or [type(error).__name__]
    return damaged(
        file, "" if isinstance(error, KeyError) or "Weights only" in lines[0] else lines[0]
    )


def _brief(name: str) -> str:
    """A tensor's name in quotation marks; a file may hold one of megabytes."""
    return repr(name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}…")


def _unwrapped(content: Any, file: Path) -> Mapping[str, Tensor]:
    """The first mapping of names to tensors in a checkpoint."""
    candidates = [content]
    if isinstance(content, Mapping):
        candidates += [content[key] for key in _WRAPPERS if key in content]
    for candidate in candidates:
        if _is_state_dict(candidate):
            return candidate  # type: ignore[no-any-return]
    raise InputError(
        f"{file} does not hold named weights but {_described(content)}; "
        "save them with torch.save(model.state_dict(), path)"
    )


def _is_state_dict(content: Any) -> bool:
    return (
        isinstance(content, Mapping)
        and len(content) > 0
        and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items())
    )


def _described(content: Any) -> str:
    if not isinstance(content, Mapping):
        return f"a {type(content).__name__}"
    names = ", ".join(_brief(key) for key in list(content)[:4] if isinstance(key, str))
    return f"entries called {names}" if names else "nothing"


def _without_prefix(weights: Mapping[str, Tensor]) -> StateDict:
    prefix = "module." if all(name.startswith("module.") for name in weights) else ""
    return with_version(
        OrderedDict((name.removeprefix(prefix), tensor) for name, tensor in weights.items()),
        None if prefix else weights,
    )


def with_version(renamed: StateDict, original: Mapping[str, Tensor] | None) -> StateDict:
    """The renamed weights with the layer versions that torch.save noted down in the original."""
    if (metadata := getattr(original, "_metadata", None)) is not None:
        renamed._metadata = metadata  # type: ignore[attr-defined]
    return renamed


def head_classes(weights: Mapping[str, Tensor], own: dict[str, Tensor]) -> int | None:
    """How many classes weights are for; None where their last layer is not like the network's.

    own: the network's tensors, for any number of classes. All networks define the layer that
    computes the scores last; files may hold it anywhere.
    """
    layer = next(reversed(own)).rpartition(".")[0]
    counts = set()
    for key in (key for key in own if key.rpartition(".")[0] == layer):
        # A layer that were made for a number that only one tensor states could take any memory.
        if key not in weights or weights[key].shape[1:] != own[key].shape[1:]:
            return None
        counts.add(tuple(weights[key].shape[:1]))
    (classes,) = counts.pop() if len(counts) == 1 and counts != {()} else (0,)
    return classes or None


def load_weights(model: nn.Module, weights: StateDict, *, name: str, source: str) -> None:
    """Load strictly: every tensor of the network from the file, no tensor left over.

    ``name`` and ``source`` are what an InputError calls the network and the file.
    """
    own = model.state_dict()
    complete = with_version(OrderedDict(weights), weights)
    for key, tensor in own.items():
        # Counters of training steps, which old files lack and evaluation does not use.
        if key.endswith("num_batches_tracked"):
            complete.setdefault(key, tensor)
    if misfit := _misfit(own, complete, name):
        raise InputError(f"{source} does not fit {name}: {misfit}")
    if not hasattr(complete, "_metadata"):
        with_version(complete, own)
    model.load_state_dict(complete, strict=True)


def check_shapes(
    weights: Mapping[str, Tensor], own: dict[str, Tensor], *, name: str, source: str
) -> None:
    """Raise InputError where the weights do not fit a network for however many classes."""
    layer = next(reversed(own)).rpartition(".")[0]

    def rest(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {key: one for key, one in tensors.items() if key.rpartition(".")[0] != layer}

    if misfit := _misfit(rest(own), rest(weights), name):
        raise InputError(f"{source} does not fit {name}: {misfit}")


def _misfit(own: Mapping[str, Tensor], given: Mapping[str, Tensor], name: str) -> str | None:
    """The first missing, unexpected or mis-shaped tensor, or None."""
    missing = [key for key in own if key not in given]
    unexpected = [key for key in given if key not in own]
    reshaped = [key for key in own if key in given and own[key].shape != given[key].shape]
    if missing:
        return f"{missing[0]!r}{_more(missing)} is missing" + (
            f", and {_brief(unexpected[0])}{_more(unexpected)} is not part of it"
            if unexpected
            else ""
        )
    if unexpected:
        return f"{_brief(unexpected[0])}{_more(unexpected)} is not part of it"
    if reshaped:
        key = reshaped[0]
        given_shape, own_shape = (list(tensors[key].shape) for tensors in (given, own))
        return f"{key!r} has shape {given_shape} where {name} has {own_shape}"
    return None


def _more(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""
