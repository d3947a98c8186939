"""Files that one run holds alone; the hold ends with the process, however that ends."""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Generic, TypeVar

from guidxmage.errors import InputError

if sys.platform == "win32":  # pragma: no cover -- the other system's lock
    import msvcrt
else:
    import fcntl

T = TypeVar("T")

BUSY = "another run is at work there; wait for it, or choose another folder"
PAUSE = 0.1
"""Seconds between two looks at a file that another run holds."""


class BusyError(InputError):
    """Another run that is alive holds what this one wants."""


@contextmanager
def held(
    path: Path,
    *,
    wait: bool = True,
    told: Callable[[], None] = lambda: None,
    busy: str = BUSY,
) -> Iterator[int]:
    """Hold the file at `path` alone, made where there is none; yields its descriptor.

    The system keeps the hold: it ends with this process, also by a kill, so that a file that can be
    held belongs to no run that is alive. At the end the file is removed, unless it was renamed.
    wait: until another run, or another thread, lets it go; `told` is called once where that is
    needed. Raises BusyError with the sentence `busy` where it is not to be waited for, OSError
    where the folder cannot be written or its file system knows no locks.
    """
    descriptor = _opened(path)
    if descriptor is None:
        time.sleep(PAUSE)  # it may only have been looked at, by who clears away what is left over
        descriptor = _opened(path)
    if descriptor is None and not wait:
        raise BusyError(busy)
    if descriptor is None:
        told()
    while descriptor is None:
        time.sleep(PAUSE)
        descriptor = _opened(path)
    try:
        yield descriptor
    finally:
        _let_go(path, descriptor)


class Turns(Generic[T]):
    """Items one after the other; those that another run is at come again when the rest is done.

    So two runs with the same items share them. Iterating gives each item, and whether to wait for
    it: not before all that is left was put off once.
    """

    def __init__(self, items: Iterable[T]) -> None:
        self._left = deque(items)
        self._refused = 0

    def __iter__(self) -> Iterator[tuple[T, bool]]:
        while self._left:
            item, refused = self._left.popleft(), self._refused
            yield item, refused > len(self._left)
            if self._refused == refused:
                self._refused = 0

    def put_off(self, item: T) -> None:
        """Come back to the item that was given last: another run holds it."""
        self._left.append(item)
        self._refused += 1


def _opened(path: Path) -> int | None:
    """A descriptor of the file that holds it alone; None where another one does."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
        try:
            if not _locked(descriptor):
                os.close(descriptor)
                return None
            if _is_there(path, descriptor):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # it was removed or renamed before the hold began: look again


def _locked(descriptor: int) -> bool:
    try:
        if sys.platform == "win32":  # pragma: no cover -- the other system's lock
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


def _is_there(path: Path, descriptor: int) -> bool:
    """Whether the open file is still what the path names."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _let_go(path: Path, descriptor: int) -> None:
    """Remove the file while it is still held, so that nobody holds what is about to vanish."""
    if os.name == "nt":  # pragma: no cover -- there an open file cannot be removed
        with suppress(OSError):
            os.close(descriptor)
        with suppress(OSError):
            path.unlink()
        return
    try:
        with suppress(OSError):
            if _is_there(path, descriptor):
                path.unlink()
    finally:
        os.close(descriptor)
