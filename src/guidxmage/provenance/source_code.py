"""The source code that classes and functions of the user come from."""

from __future__ import annotations

import functools
import hashlib
import inspect
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

# Whose code is told by a version: it is neither the user's nor does it change by itself.
VERSIONED = ("torch", "guidxmage", "numpy")


def code_behind(values: Iterable[Any], files: Iterable[Path] = ()) -> list[str]:
    """SHA-256 of the files that define classes and functions, and of the user's modules they use.

    values: classes, functions and objects; files: further files, whose imports are followed where
    they are loaded. In a fixed order, and without regard to where the files lie.
    """
    found = {Path(file).resolve() for file in files}
    modules = {module for value in values if (module := _module_of(value)) is not None}
    modules |= {module for module in list(sys.modules.values()) if _file_of(module) in found}
    waiting, seen = list(modules), set(map(id, modules))
    while waiting:
        module = waiting.pop()
        if (file := _file_of(module)) is not None:
            found.add(file)
        for other in _used(module) if _is_users(module) else ():
            if id(other) not in seen and _is_users(other):
                seen.add(id(other))
                waiting.append(other)
    return sorted(filter(None, map(_digest, found)))


def _module_of(value: Any) -> ModuleType | None:
    """The module of a class or function, or of an object's class; None for well-known ones."""
    value = value.func if isinstance(value, functools.partial) else value
    defined = value if hasattr(value, "__qualname__") else type(value)
    name = getattr(inspect.unwrap(defined), "__module__", None)
    module = sys.modules.get(name) if isinstance(name, str) else None
    if module is None or module.__name__.partition(".")[0] in (*VERSIONED, "builtins"):
        return None
    return module


def _used(module: ModuleType) -> Iterator[ModuleType]:
    """The modules that a module has imported, or imported something from."""
    for value in list(vars(module).values()):
        if isinstance(value, ModuleType):
            yield value
            continue
        with suppress(Exception):  # objects of the user's may answer with anything
            yield sys.modules[value.__module__]


def _is_users(module: ModuleType) -> bool:
    """Whether a module is neither Python's own nor of an installed package."""
    file = _file_of(module)
    if file is None or module.__name__.partition(".")[0] in VERSIONED:
        return False
    return not any(file.is_relative_to(root) for root in _INSTALLED)


_INSTALLED = tuple(
    Path(path).resolve()
    for name in ("stdlib", "platstdlib", "purelib", "platlib")
    if (path := sysconfig.get_path(name))
)


def _file_of(module: Any) -> Path | None:
    file = getattr(module, "__file__", None)
    return Path(file).resolve() if isinstance(file, str) and file.endswith(".py") else None


def _digest(file: Path) -> str:
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError:
        return ""
