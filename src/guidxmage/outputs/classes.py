"""Class names and numbers, as people give them."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

import numpy as np

from guidxmage.errors import InputError


def class_number(given: Any, count: int, labels: Sequence[str] | None, what: str = "class") -> int:
    """The number of a class, from itself or from its name. Raises InputError where there is none.

    what: what is counted, for the sentence.
    """
    if isinstance(given, str) and not given.strip().lstrip("-").isdigit():
        return _named(given, count, labels, what)
    whole = isinstance(given, int | np.integer | str) and not isinstance(given, bool)
    if not whole:
        raise InputError(f"{what} {given!r} is not understood; give its number or name")
    number = int(given)
    if not 0 <= number < count:
        raise InputError(f"{what} {number} is out of range: there are {what} 0 to {count - 1}")
    return number


def _named(name: str, count: int, labels: Sequence[str] | None, what: str) -> int:
    if labels is None:
        raise InputError(f"{what} {name!r} is a name but no names are known; give its number")
    lowered = [label.lower() for label in labels[:count]]
    if name.lower() in lowered:
        return lowered.index(name.lower())
    close = difflib.get_close_matches(name.lower(), lowered, n=3)
    near = ", ".join(repr(labels[lowered.index(one)]) for one in close)
    there = f"did you mean {near}?" if near else f"there is {_listed(labels[:count])}"
    raise InputError(f"no {what} is called {name!r}; {there}")


def _listed(labels: Sequence[str]) -> str:
    return ", ".join(labels[:8]) + (f" and {len(labels) - 8} more" if len(labels) > 8 else "")


def class_name(number: int, labels: Sequence[str] | None) -> str:
    """The name of a class, or "class 7"."""
    if labels is not None and number < len(labels):
        return str(labels[number])
    return f"class {number}"
