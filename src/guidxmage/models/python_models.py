"""Networks from the user's own Python code, named as "package.module:callable"."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib import util
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from torch import nn

from guidxmage.errors import InputError
from guidxmage.inputs.preprocessing import describe_preprocessing
from guidxmage.models.loaded import LoadedModel
from guidxmage.models.torchvision_import import import_torchvision, misses_operator
from guidxmage.outputs.kinds import as_output

T = TypeVar("T")


def load_python_model(spec: str) -> LoadedModel:
    """Call the user's factory "package.module:callable" or "file.py:callable", without arguments.

    It returns an nn.Module, or an nn.Module and its preprocessing (a Preprocessing or any callable
    from a PIL image to a (C, H, W) tensor, or None), or these and what its output means (one of
    `guidxmage.outputs`, or a key, an index or a function of the output), or a LoadedModel. The
    model is put into evaluation mode. This runs the user's code, which may import its neighbours:
    modules in the file's folder, or in the working folder where a module is named. Raises
    InputError when the spec or what the code returns cannot be used.
    """
    made = call_factory(spec)
    if isinstance(made, LoadedModel):
        return replace(made, model=made.model.eval(), code=code_of(spec))
    model, preprocessing, output = _parts(made, spec)
    if preprocessing is not None and not callable(preprocessing):
        raise InputError(f"the preprocessing that {spec} returned cannot be called with an image")
    return LoadedModel(
        model=model.eval(),
        name=spec.rpartition(":")[2],
        preprocessing=describe_preprocessing(preprocessing) or preprocessing,
        labels=None,
        weights=f"made by {spec}",
        code=code_of(spec),
        output=as_output(output),
    )


def code_of(spec: str) -> tuple[Path, ...]:
    """The file that "package.module:callable" or "file.py:callable" names, once it is loaded."""
    where = spec.rpartition(":")[0]
    if where.endswith(".py"):
        return (Path(where),)
    file = getattr(sys.modules.get(where), "__file__", None)
    return (Path(file),) if file else ()


def call_factory(spec: str, *arguments: Any) -> Any:
    """What the user's "package.module:callable" or "file.py:callable" returns for the arguments.

    A network in place of the callable is returned as it is. Raises InputError when the spec cannot
    be used or the code fails.
    """
    with _factory(spec) as factory:
        return _called(factory, spec, *arguments)


def check_factory(spec: str) -> None:
    """Import the code that "package.module:callable" or "file.py:callable" names; call nothing.

    Raises InputError when the spec cannot be used.
    """
    with _factory(spec):
        pass


@contextmanager
def _factory(spec: str) -> Iterator[Callable[..., Any]]:
    """The callable that a spec names, while what it needs can be imported."""
    where, _, name = spec.rpartition(":")
    if not where or not name:
        raise InputError(
            f"{spec!r} does not name a network; "
            "write 'package.module:callable' or 'file.py:callable'"
        )
    folder = Path(where).parent if where.endswith(".py") else Path()
    with _importable(folder.resolve()):
        factory = _attribute(_module(where), name, where)
        if not callable(factory):
            raise InputError(f"{name!r} in {where} is not a function that makes a network")
        yield factory


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Let code import what lies in ``folder``, as Python does for a script in it."""
    entry = str(folder)
    sys.path.insert(0, entry)
    importlib.invalidate_caches()  # the file may be newer than the last look into the folder
    try:
        yield
    finally:
        if entry in sys.path:
            sys.path.remove(entry)


def _module(where: str) -> ModuleType:
    is_file = where.endswith(".py")
    if is_file and not Path(where).is_file():
        raise InputError(f"there is no Python file {where}")
    load = partial(_run_file, Path(where)) if is_file else partial(importlib.import_module, where)
    try:
        return _with_torchvision(load)
    except (Exception, SystemExit) as error:  # the user's code raises what it likes
        raise InputError(f"{where} cannot be imported: {_said(error)}") from error


def _with_torchvision(run: Callable[[], T]) -> T:
    """What the user's code gives, run again where only the import of torchvision stopped it.

    Beside a CPU-only torch, the torchvision of PyPI can be imported with help alone.
    """
    try:
        return run()
    except RuntimeError as error:
        if not misses_operator(error):
            raise
    import_torchvision()
    return run()


def _run_file(file: Path) -> ModuleType:
    """Import a file by its path, under a name that hides no installed module."""
    name = f"_guidxmage_user_{file.stem}"
    spec = util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    # Dataclasses and pickling look their module up by name.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _attribute(module: ModuleType, name: str, where: str) -> Any:
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            raise InputError(f"{where} has no {name!r}")
        found = getattr(found, part)
    return found


def _called(factory: Callable[..., Any], spec: str, *arguments: Any) -> Any:
    # A module-level network is callable too, but with images.
    if isinstance(factory, nn.Module):
        return factory
    try:
        return _with_torchvision(partial(factory, *arguments))
    except (Exception, SystemExit) as error:  # the user's code raises what it likes
        raise InputError(f"{spec} failed: {_said(error)}") from error


def _parts(made: Any, spec: str) -> tuple[nn.Module, Any, Any]:
    several = isinstance(made, tuple) and len(made) in (2, 3)
    model, preprocessing, output = (*made, None, None)[:3] if several else (made, None, None)
    if not isinstance(model, nn.Module):
        raise InputError(
            f"{spec} returned a {type(model).__name__} where an nn.Module, or an nn.Module and "
            "its preprocessing, is expected"
        )
    return model, preprocessing, output


def _said(error: BaseException) -> str:
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
