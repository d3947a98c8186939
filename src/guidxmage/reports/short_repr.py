"""What results show of themselves: a few lines, however large the tensors in them are."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from itertools import islice
from math import prod
from typing import Any

WIDTH = 100
# So many numbers of a tensor, and entries of a list or a dictionary, are written out.
_NUMBERS, _ENTRIES = 8, 4
_LONGEST = 72


def short_repr(result: Any) -> str:
    """For `__repr__` of a dataclass: its fields, of large ones only what they are.

    Tensors and arrays of more than a few numbers are shown by shape and dtype.
    """
    own = [field.name for field in fields(result) if field.repr]
    shown = ", ".join(f"{name}={_value(getattr(result, name))}" for name in own)
    text = f"{type(result).__name__}({shown})"
    lines = textwrap.wrap(text, WIDTH, subsequent_indent="  ", break_long_words=False)
    return "\n".join(lines)


def _value(value: Any) -> str:
    name = f"<{type(value).__name__}>"
    if is_dataclass(value):
        return _shortened(repr(value), name)
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return _numbers(value)
    if isinstance(value, Mapping):
        pairs = [f"{key!r}: {_value(one)}" for key, one in _first(value.items())]
        return _listed("{}", pairs, value)
    if isinstance(value, tuple | list):
        around = "()" if isinstance(value, tuple) else "[]"
        return _listed(around, [_value(one) for one in _first(value)], value)
    if isinstance(value, float):
        return f"{value:.6g}"
    text = repr(value)
    if isinstance(value, str):
        return _shortened(text, f"{value[: _LONGEST - 3]!r}…")
    # What says where it lies in memory has nothing else to say.
    return name if " at 0x" in text else _shortened(text, name)


def _shortened(text: str, instead: str) -> str:
    return text if len(text) <= _LONGEST and "\n" not in text else instead


def _numbers(value: Any) -> str:
    """A tensor or array: its numbers where there are few in a row, else shape and dtype."""
    shape = tuple(int(length) for length in value.shape)
    if len(shape) > 1 or prod(shape) > _NUMBERS or getattr(value, "is_meta", False):
        kind = str(value.dtype).removeprefix("torch.")
        return f"<{'×'.join(map(str, shape))} {kind}>"
    listed = value.tolist()
    return f"[{', '.join(map(_value, listed))}]" if isinstance(listed, list) else _value(listed)


def _first(values: Iterable[Any]) -> list[Any]:
    return list(islice(values, _ENTRIES))


def _listed(around: str, shown: list[str], values: Sequence[Any] | Mapping[Any, Any]) -> str:
    if len(values) > len(shown):
        shown = [*shown, f"… {len(values) - len(shown)} more"]
    return f"{around[0]}{', '.join(shown)}{around[1]}"
