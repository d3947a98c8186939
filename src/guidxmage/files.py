"""Folders that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from guidxmage.errors import InputError

MANIFEST = "manifest.json"


@contextmanager
def atomic_folder(path: Path, *, mark: str = MANIFEST) -> Iterator[Path]:
    """Yield a temporary folder beside `path` that takes its place when the block succeeds.

    An existing folder is replaced only if it holds an earlier result, told by the file `mark`, or
    is empty.
    Raises InputError when it holds something else or cannot be written.
    """
    check_replaceable(path, mark=mark)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        partial.chmod(0o755)
    except OSError as error:
        raise InputError(f"cannot write to {path.parent}: {error.strerror}") from error
    try:
        yield partial
        if path.exists():
            shutil.rmtree(path)
        os.replace(partial, path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file that appears whole or not at all, also when the machine loses power.

    Raises InputError when it cannot be written; an earlier file of that name is then as it was.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        _sync_folder(path.parent)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error


def _sync_folder(folder: Path) -> None:
    """Make a rename last, where the system can do so."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_replaceable(path: Path, *, mark: str = MANIFEST) -> None:
    """Raise InputError where `atomic_folder` would not replace what is there."""
    if not path.exists():
        return
    if path.is_dir() and ((path / mark).is_file() or not any(path.iterdir())):
        return
    raise InputError(
        f"{path} exists and holds something other than an earlier result; choose another folder"
    )


def free_name(stem: str, taken: set[str]) -> str:
    """A folder name that no other result of this run has."""
    name, number = stem, 2
    while name in taken:
        name, number = f"{stem}-{number}", number + 1
    taken.add(name)
    return name
