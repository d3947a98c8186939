"""Class names and numbers, as people give them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from guidxmage.errors import InputError


def class_number(given: Any, count: int, labels: Sequence[str] | None, what: str = "class") -> int:
    """The number of a class, from itself or from its name. Raises InputError where there is none.

    what: what is counted, for the sentence.
    """
    if isinstance(given, str):
        named = whole_number(given)
        if named is None or (not 0 <= named < count and given in (labels or ())[:count]):
            return _named(given, count, labels, what)
        given = named
    whole = isinstance(given, int | np.integer) and not isinstance(given, bool)
    if not whole:
        raise InputError(f"{what} {given!r} is not understood; give its number or name")
    number = int(given)
    if not 0 <= number < count:
        raise InputError(f"{what} {number} is out of range: there are {what} 0 to {count - 1}")
    return number


def _named(name: str, count: int, labels: Sequence[str] | None, what: str) -> int:
    if not labels:
        raise InputError(f"{what} {name!r} is a name but no names are known; give its number")
    lowered = [label.lower() for label in labels[:count]]
    if name in labels[:count]:
        return labels[:count].index(name)
    if name.lower() in lowered:
        return lowered.index(name.lower())
    close = difflib.get_close_matches(name.lower(), lowered, n=3)
    near = ", ".join(repr(labels[lowered.index(one)]) for one in close)
    there = f"did you mean {near}?" if near else f"there is {_listed(labels[:count])}"
    raise InputError(f"no {what} is called {name!r}; {there}")


def _listed(labels: Sequence[str]) -> str:
    return ", ".join(labels[:8]) + (f" and {len(labels) - 8} more" if len(labels) > 8 else "")


def whole_number(text: str) -> int | None:
    """A number in plain digits, as `-5` is; None for other texts."""
    text = text.strip()
    return int(text) if re.fullmatch(r"-?[0-9]{1,18}", text) else None


def word_for(number: int, labels: Sequence[str] | None) -> str:
    """What to call a class in words for a target: its name where that means no other."""
    if labels is None or number >= len(labels):
        return str(number)
    name = labels[number]
    lowered = [label.lower() for label in labels]
    plain = name == name.strip() and name.isprintable() and not set(name) & set(":,")
    alone = lowered.count(name.lower()) == 1 and whole_number(name) is None
    return name if plain and alone and name not in ("", "prediction") else str(number)


def class_name(number: int, labels: Sequence[str] | None) -> str:
    """The name of a class, or "class 7"."""
    if labels is not None and number < len(labels):
        return str(labels[number])
    return f"class {number}"
