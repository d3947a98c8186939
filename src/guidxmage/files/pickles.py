"""Pickles of others as data: what would be called is noted, and nothing is.

A pickle is a little program that may call any function and ask for any amount of memory. Here it is
only followed: classes and functions become `Named`, calls of them `PickledCall`, references to
data that lie outside `Outside`.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import IO, Any, ClassVar

from guidxmage.errors import InputError

_PLAIN = (str, bytes, int, float, bool, type(None))


class Named:
    """A class or function that a pickle names; calling it gives a note of the call."""

    def __init__(self, name: str, notes: Notes) -> None:
        self.name, self._notes = name, notes

    def __call__(self, *arguments: Any) -> PickledCall:
        """Note a call."""
        return self._notes.called(self.name, arguments)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("a class or function is written to")


class PickledCall:
    """What a call would have returned: its function and arguments, and what was done to it."""

    def __init__(self, name: str, arguments: tuple[Any, ...], notes: Notes) -> None:
        self.name, self.arguments, self._notes = name, arguments, notes
        self.state: Any = None
        self.items: dict[Any, Any] = {}
        self.members: list[Any] = []

    def __call__(self, *arguments: Any) -> PickledCall:
        """Note a call of what the call returned."""
        return self._notes.called(f"{self.name}()", arguments)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items[key] = value

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def append(self, member: Any) -> None:
        """As a list."""
        self.members.append(member)

    def add(self, member: Any) -> None:
        """As a set."""
        self.members.append(member)


class Outside:
    """Data beside the pickle, by the name that it has there."""

    def __init__(self, key: Any) -> None:
        self.key = key

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("data outside are written to")


def _new(notes: Any) -> None:
    arguments = notes.stack.pop()
    notes.stack.append(notes.stack.pop()(*arguments))


def _set_item(notes: Any) -> None:
    value, key = notes.stack.pop(), notes.stack.pop()
    notes.stack[-1][_key(key)] = value


def _set_items(notes: Any) -> None:
    items = notes.pop_mark()
    for key, value in zip(items[::2], items[1::2], strict=True):
        notes.stack[-1][_key(key)] = value


def _add_items(notes: Any) -> None:
    for member in map(_key, notes.pop_mark()):
        notes.stack[-1].add(member)


def _refused(_: Any) -> None:
    raise pickle.UnpicklingError("it is written in a way that no data need")


def _key(value: Any) -> Any:
    """What may be a key or the member of a set: the hash of anything deeper may end the process."""
    parts = value if isinstance(value, tuple) else (value,)
    if not all(isinstance(part, _PLAIN) for part in parts):
        raise pickle.UnpicklingError("a key is no plain value")
    return value


_OPERATIONS: dict[int, Any] = {
    pickle.NEWOBJ[0]: _new,
    pickle.SETITEM[0]: _set_item,
    pickle.SETITEMS[0]: _set_items,
    pickle.ADDITEMS[0]: _add_items,
    **dict.fromkeys(
        (code[0] for code in (pickle.NEWOBJ_EX, pickle.FROZENSET, pickle.INST, pickle.OBJ)),
        _refused,
    ),
    **dict.fromkeys((code[0] for code in (pickle.EXT1, pickle.EXT2, pickle.EXT4)), _refused),
}


# Not the C implementation, which takes memory for whatever number an entry of its memo has.
class Notes(pickle._Unpickler):
    """Follows one pickle. calls: of functions; outside: references to data that lie elsewhere."""

    dispatch: ClassVar[dict[int, Any]] = {**pickle._Unpickler.dispatch, **_OPERATIONS}

    def __init__(self, stream: IO[bytes]) -> None:
        super().__init__(stream, encoding="latin1")
        self.calls: list[PickledCall] = []
        self.outside: list[Outside] = []

    def called(self, name: str, arguments: tuple[Any, ...]) -> PickledCall:
        """A note of a call, which is kept."""
        self.calls.append(PickledCall(name, arguments, self))
        return self.calls[-1]

    def find_class(self, module: str, name: str) -> Any:
        """A note of the name; nothing is imported."""
        return Named(f"{module}.{name}", self)

    def persistent_load(self, pid: Any) -> Any:
        """A note of the reference."""
        found = Outside(pid)
        self.outside.append(found)
        return found


def followed(stream: IO[bytes], refuse: Callable[[str], InputError]) -> tuple[Any, Notes]:
    """What a pickle describes, and the notes of it; the stream is left behind its end.

    refuse: makes the error of a reason. Raises that for what is no pickle, or a damaged one.
    """
    notes = Notes(stream)
    try:
        return notes.load(), notes
    # A malformed pickle makes the unpickler stumble over anything.
    except Exception as error:
        lines = str(error).splitlines() or [type(error).__name__]
        raise refuse(lines[0]) from error
