"""Files that appear whole or not at all, and JSON files that tell whether they are as written."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

from guidxmage.errors import InputError
from guidxmage.files.locks import BUSY, BusyError, held
from guidxmage.files.names import digest_of

MANIFEST = "manifest.json"
HIDDEN = ".guid-xmage-"
"""How the names of all temporary files and folders begin."""
PARTIAL, LOCK = "partial", "lock"
_RUN = f"run.{LOCK}"
"""Endings of temporary neighbours: what is being written, and what its writer holds."""


def hidden(path: Path, ending: str) -> Path:
    """The temporary neighbour of a file or folder; short, however long the name is."""
    return path.with_name(f"{HIDDEN}{digest_of(path.name, 16)}.{ending}")


@contextmanager
def alone(
    path: Path,
    *,
    wait: bool = True,
    told: Callable[[], None] = lambda: None,
    busy: str = BUSY,
) -> Iterator[int]:
    """Hold a file or folder, which need not be there, so that no other run works at it.

    Yields the descriptor of the lock beside it. wait, told, busy: as `held` has them. Raises
    BusyError, and InputError where the folder above cannot be written.
    """
    with ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = held(hidden(path, LOCK), wait=wait, told=told, busy=busy)
            descriptor = stack.enter_context(lock)
        except OSError as error:
            raise InputError(f"cannot write to {path.parent}: {error.strerror or error}") from error
        yield descriptor


@contextmanager
def present(folder: Path) -> Iterator[None]:
    """Let other runs know, until the end, that this one is at work in a folder that is there.

    Raises InputError where it cannot be written.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(held(folder / f"{HIDDEN}{uuid4().hex}.{_RUN}"))
        except OSError as error:
            raise InputError(f"cannot write to {folder}: {error.strerror or error}") from error
        yield


def others_present(folder: Path) -> bool:
    """Whether a run that is alive is `present` in a folder; asked before one's own is."""
    for path in folder.glob(f"{HIDDEN}*.{_RUN}"):
        try:
            with held(path, wait=False):
                pass
        except (BusyError, OSError):
            return True
    return False


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file that appears whole or not at all, also when the machine loses power.

    Two that write the same file take turns. What a killed run left of it is used up. Raises
    InputError when it cannot be written; an earlier file of that name is then as it was.
    """
    with atomic_file(path) as file:
        file.write(content)


@contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """Yield a file to write to, which appears as `write_atomically` has it when the block succeeds.

    Errors of the system, in the block as well, are raised as InputError.
    """
    partial = hidden(path, PARTIAL)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with held(partial) as descriptor:
            with open(descriptor, "r+b", closefd=False) as file:
                file.truncate()
                yield file
                file.flush()
                os.fsync(descriptor)
            if os.name == "nt":  # pragma: no cover -- there an open file cannot be renamed
                os.close(descriptor)
            os.replace(partial, path)
            sync_folder(path.parent)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error


def sync_folder(folder: Path) -> None:
    """Make renames in a folder last, where the system can do so."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal digits.

    Raises OSError, also for what is no file: a pipe or a device may have no end.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "it is no file", str(path))
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            found.update(block)
    return found.hexdigest()


# --- sealed JSON -------------------------------------------------------------------------------

# At the end of a text; quotation marks inside of it are escaped.
_OPEN = re.compile(r'"digest": ""(?=\n}\n$)')
_SEAL = re.compile(r'"digest": "([0-9a-f]{64})"(?=\n}\n$)')
# Half of a pair, of a file name that is no text: JSON has it as an escape, UTF-8 has not.
_HALF = re.compile("[\ud800-\udfff]")


def sealed(content: Mapping[str, Any], *, nan: bool = True) -> str:
    """The content as JSON text that ends with its own SHA-256, under `digest`.

    nan: whether NaN and infinities are let through; otherwise they raise ValueError.
    """
    text = json.dumps({**content, "digest": ""}, indent=2, ensure_ascii=False, allow_nan=nan)
    text = _HALF.sub(lambda found: f"\\u{ord(found[0]):04x}", f"{text}\n")
    digest = hashlib.sha256(text.encode()).hexdigest()
    return _OPEN.sub(f'"digest": "{digest}"', text)


def is_sealed(text: str) -> bool:
    """Whether a text is one that `sealed` made, unchanged since."""
    stated = _SEAL.search(text)
    if stated is None:
        return False
    return hashlib.sha256(_SEAL.sub('"digest": ""', text).encode()).hexdigest() == stated[1]


def write_sealed(path: Path, content: Mapping[str, Any], *, nan: bool = True) -> None:
    """Write sealed JSON, whole or not at all. Raises InputError when it cannot be written."""
    write_atomically(path, sealed(content, nan=nan).encode())


def read_sealed(path: Path) -> dict[str, Any]:
    """What `write_sealed` wrote. Raises InputError where it is missing, damaged or changed."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is damaged: it is no text") from error
    if not is_sealed(text):
        raise InputError(f"{path} is damaged, or was changed after it was written")
    try:
        content: dict[str, Any] = json.loads(text)
    except (ValueError, RecursionError) as error:  # sealed by hand
        raise InputError(f"{path} is damaged: it is no JSON that was written here") from error
    return content
