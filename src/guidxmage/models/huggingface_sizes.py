"""Whether the settings of a saved folder are of the size of its weights, before memory is taken.

config.json may describe a network of any size, and transformers would begin to build it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from guidxmage.errors import InputError, MissingExtraError
from guidxmage.files.names import brief
from guidxmage.files.untrusted import entry, read_json

# No layer of an image classifier has more of anything; ImageNet-21k has 21 841 classes.
_LARGEST, _MOST_CLASSES = 2**24, 2**17
# No photo is scaled to more pixels a side.
_LONGEST_SIDE = 2**14
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
# Masks and tables of positions come on top of the weights.
_SPARE = 2**24


def check_settings(file: Path, settings: Mapping[str, Any]) -> None:
    """Raise InputError for numbers in config.json that no image classifier has."""
    for key, number in _numbers(settings):
        most = _MOST_CLASSES if key == "num_labels" else _LARGEST
        if isinstance(number, int) and abs(number) > most:
            raise InputError(f"{file} states {key} {_short(number)}, more than any classifier has")


def check_processor(file: Path, settings: Mapping[str, Any]) -> None:
    """Raise InputError for numbers in preprocessor_config.json that no preprocessing has."""
    for key, number in _numbers(settings):
        if abs(number) > _LONGEST_SIDE:
            raise InputError(f"{file} states {key} {_short(number)}, more than any photo needs")


def check_network(folder: Path, build: Callable[[], nn.Module]) -> None:
    """Raise InputError where a network, built without memory, is larger than its weights.

    build: makes the network, and raises what its settings make it stumble over.
    """
    shapes = _shapes(folder)
    held = sum(map(math.prod, shapes))
    # Each number of a network is made by some calls; a layer too many shows before all are made.
    with torch.device("meta"), _Counted(100 * (len(shapes) + 100)):
        network = build()
    tensors = (*network.parameters(), *network.buffers())
    described = sum(tensor.numel() for tensor in tensors)
    if described > 2 * held + _SPARE:
        raise InputError(
            f"config.json in {folder} describes a network of {described} numbers, but the weights "
            f"hold {held}"
        )


class _Counted(TorchFunctionMode):
    """Ends the building of a network after a number of calls, and at sizes that none has."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.left = most

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Make one call."""
        self.left -= 1
        sizes = [n for part in args for n in (part if isinstance(part, list | tuple) else [part])]
        if self.left < 0 or any(type(n) is int and abs(n) > _LARGEST for n in sizes):
            raise InputError("its settings describe far more than its weights hold")
        return func(*args, **(kwargs or {}))


def _shapes(folder: Path) -> list[tuple[int, ...]]:
    """The shapes of all tensors in the folder's weight files; no tensor is read."""
    try:
        from safetensors import safe_open
    except ModuleNotFoundError:
        raise MissingExtraError("safetensors", "huggingface") from None
    shapes: list[tuple[int, ...]] = []
    for file in _weight_files(folder):
        try:
            with safe_open(file, framework="pt") as opened:
                shapes += [tuple(opened.get_slice(key).get_shape()) for key in opened.keys()]  # noqa: SIM118
        # SafetensorError, and what the conversion of a malformed head stumbles over.
        except Exception as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise InputError(f"{file} cannot be loaded: {brief(reason)}") from error
    return shapes


def _weight_files(folder: Path) -> list[Path]:
    if not (folder / INDEX).exists():
        return [folder / WEIGHTS]
    listed = entry(read_json(folder / INDEX), "weight_map", dict, str(folder / INDEX))
    names = {str(name) for name in listed.values()}
    if wrong := sorted(name for name in names if Path(name).name != name):
        raise InputError(f"{folder / INDEX} names {wrong[0]!r}, which is no file of the folder")
    return [folder / name for name in sorted(names)]


def _numbers(value: Any, key: str = "") -> Iterator[tuple[str, int | float]]:
    """All numbers in a JSON document, with the names they stand under."""
    if isinstance(value, Mapping):
        for name, part in value.items():
            yield from _numbers(part, name)
    elif isinstance(value, list):
        for part in value:
            yield from _numbers(part, key)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield key, value


def _short(number: float) -> str:
    text = str(number)
    return text if len(text) <= 24 else f"{text[:21]}…"
