"""SHA-256 of what a result was made from: network, image, masks, trail, files, options, versions.

Two runs whose fingerprints agree give the same result, so that it need not be made again.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from guidxmage.errors import InputError
from guidxmage.files.atomic import sha256_of
from guidxmage.provenance.model_state import is_same_state, state_of
from guidxmage.provenance.source_code import VERSIONED, code_behind
from guidxmage.provenance.versions import __version__, versions

_known: WeakKeyDictionary[nn.Module, tuple[tuple[Any, ...], str]] = WeakKeyDictionary()
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
# What a function may take from around it, and hold through a run.
_PLAIN = (str, int, float, complex, bytes, tuple, list, Tensor, np.ndarray, np.generic, nn.Module)
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")


def of_model(model: nn.Module) -> str:
    """All tensors of a model's state by name, dtype, shape and bytes."""
    state = state_of(model)
    if model in _known and is_same_state(_known[model][0], state):
        return _known[model][1]
    found = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        _add(found, name, tensor)
    _known[model] = state, found.hexdigest()
    return found.hexdigest()


def of_network(model: nn.Module, *also: Any, code: Iterable[Path] = ()) -> str:
    """All that a network's answers depend on: its tensors, layers, settings and source code.

    The code is that of the classes of its layers, of what hangs on them, and of the user's modules
    that these import; PyTorch's own is told by its version. also: what goes with it, such as
    preprocessing and class names; functions among it count with their code. code: further files.
    """
    found = hashlib.sha256(of_model(model).encode())
    for name, tensor in model.named_buffers():  # those that are not kept in the state, too
        _add(found, name, tensor)
    described, made_by = _layers(model)
    found.update(of_values([described, *also]).encode())
    for digest in code_behind([*made_by, *also], code):
        found.update(digest.encode())
    return found.hexdigest()


def of_values(value: Any) -> str:
    """Plain values, paths, arrays, tensors, pictures, and whatever is made of them.

    Of objects that are none of these their kind counts, and their text without addresses.
    """
    found = hashlib.sha256()
    _add_value(found, value)
    return found.hexdigest()


def of_masks(annotation: Path) -> str:
    """The masks of one photo, a file or a folder of them: names and bytes.

    Raises InputError where it does not exist or cannot be read.
    """
    files = sorted(annotation.glob("*.png")) if annotation.is_dir() else [annotation]
    try:
        return of_values([[file.name, sha256_of(file)] for file in files])
    except OSError as error:
        raise InputError(f"{annotation} cannot be read: {error.strerror or error}") from error


def of_photo(photo: Path) -> str:
    """A photo's bytes. Raises InputError where it cannot be read."""
    try:
        return sha256_of(photo)
    except FileNotFoundError:
        raise InputError(f"{photo} does not exist") from None
    except OSError as error:
        raise InputError(f"cannot read {photo}: {error.strerror or error}") from error


def of_tensor(tensor: Tensor) -> str:
    """A tensor's dtype, shape and bytes."""
    found = hashlib.sha256()
    _add(found, "", tensor)
    return found.hexdigest()


class Planes(Protocol):
    """What is recorded at one call site, as tensors."""

    @property
    def planes(self) -> Sequence[Tensor]:
        """In a fixed order."""


def of_planes(*parts: Mapping[str, Planes]) -> str:
    """What is recorded, by call site; of a trail its decisions, then its gates."""
    found = hashlib.sha256()
    for entries in parts:
        for site, entry in entries.items():
            for number, plane in enumerate(entry.planes):
                _add(found, f"{site} {number}", plane)
    return found.hexdigest()


def of_file(path: Path) -> str:
    """A file's bytes."""
    return sha256_of(path)


def of_text(text: str) -> str:
    """A text in UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()


def makers(*packages: str) -> dict[str, str]:
    """The versions that every result depends on, and those of further packages."""
    own = {"guid-xmage": __version__, "torch": str(torch.__version__)}
    return {**own, **versions(packages)}


def _add(found: Any, name: str, tensor: Tensor) -> None:
    found.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
    flat = tensor.detach().cpu().contiguous().flatten()
    found.update(flat.view(torch.uint8).numpy())


# --- values and layers -------------------------------------------------------------------------


def _layers(model: nn.Module) -> tuple[list[Any], list[Any]]:
    """What the layers are set to, and the classes and functions that they run."""
    described: list[Any] = []
    made_by: list[Any] = []
    for name, module in model.named_modules():
        settings = {
            key: value
            for key, value in vars(module).items()
            if not key.startswith("_") and key != "training" and _is_setting(value)
        }
        hooks = [hook for kind in _HOOKS for hook in vars(module).get(kind, {}).values()]
        described.append([name, type(module).__qualname__, settings, list(map(_name, hooks))])
        made_by += [type(module), *hooks, *filter(callable, settings.values())]
    return [described, _configuration(model)], made_by


def _configuration(model: nn.Module) -> dict[str, Any]:
    """What transformers' networks read while they run, but for where and by what it was saved."""
    for module in model.modules():
        told = getattr(vars(module).get("config"), "to_dict", None)
        if callable(told):
            passing = ("_name_or_path", "transformers_version")
            return {key: value for key, value in told().items() if key not in passing}
    return {}


def _is_setting(value: Any) -> bool:
    """Whether an attribute says what a layer does, rather than hold what it once computed."""
    if isinstance(value, list | tuple | set | frozenset):
        return all(map(_is_setting, value))
    if isinstance(value, dict):
        return all(map(_is_setting, value.values()))
    plain = (str, int, float, complex, bool, bytes, type(None), Tensor, np.ndarray, np.generic)
    of_torch = (torch.dtype, torch.device, torch.layout, torch.memory_format)
    return isinstance(value, plain + of_torch) or callable(value)


def _add_value(found: Any, value: Any) -> None:
    if isinstance(value, Tensor):
        _add(found, "tensor", value)
    elif isinstance(value, np.ndarray):
        found.update(f"array {value.dtype} {value.shape}".encode())
        found.update(np.ascontiguousarray(value).data if value.size else b"")
    elif isinstance(value, Image.Image):
        _add_all(found, "picture", [value.mode, value.size, value.tobytes()])
    elif isinstance(value, Mapping):
        _add_all(found, "{", sorted(([str(k), v] for k, v in value.items()), key=lambda p: p[0]))
    elif isinstance(value, set | frozenset):
        _add_all(found, "set", sorted(value, key=repr))
    elif isinstance(value, list | tuple):
        _add_all(found, "[", value)
    elif is_dataclass(value) and not isinstance(value, type):
        own = [[field.name, getattr(value, field.name)] for field in fields(value)]
        _add_all(found, type(value).__qualname__, own)
    elif isinstance(value, FunctionType) and not _is_versioned(value):
        _add_function(found, value)
    elif isinstance(value, nn.Module):
        _add_all(found, "module", [of_model(value), _ADDRESS.sub("", repr(value))])
    else:
        text = f"{type(value).__qualname__} {_name(value)}"
        found.update(f"{len(text)}:{text}".encode("utf-8", "surrogateescape"))


def _is_versioned(function: FunctionType) -> bool:
    return str(function.__module__).partition(".")[0] in VERSIONED


def _add_function(found: Any, function: FunctionType) -> None:
    """A function's name and code, and the plain values that it takes from around it."""
    code, around = function.__code__, function.__globals__
    held = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    for cell in function.__closure__ or ():
        with suppress(ValueError):  # of a name that has no value yet
            held.append(cell.cell_contents)
    held += [around[name] for name in code.co_names if name in around]
    values = [one for one in held if isinstance(one, _PLAIN)]
    codes = [one.__code__ for one in held if isinstance(one, FunctionType)]
    _add_all(found, "function", [_name(function), *map(_code, [code, *codes]), values])


def _code(code: CodeType) -> list[Any]:
    consts = [_code(one) if isinstance(one, CodeType) else one for one in code.co_consts]
    return [code.co_code, code.co_names, consts]


def _add_all(found: Any, kind: str, values: Iterable[Any]) -> None:
    items = list(values)
    found.update(f"{kind}{len(items)}".encode())
    for item in items:
        _add_value(found, item)


def _name(value: Any) -> str:
    """A value as text that is the same in every process."""
    if callable(value) and hasattr(value, "__qualname__"):
        return str(value.__qualname__)
    return _ADDRESS.sub("", repr(value))
