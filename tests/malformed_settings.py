"""Wrong values for every field of a settings class, made from its annotations.

A field that is added later gets its wrong values by itself.
"""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import fields
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from guidxmage.files.schema import field_hints, settings_class

DATE = datetime.date(2026, 1, 2)
NUMBERS_THAT_ARE_NONE = (math.nan, math.inf, -math.inf)
HUGE = 2**70


def wrong_values(kind: type, path: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys of a settings class, tables in it among them, each with a wrong value."""
    defaults = {field.name: getattr(kind, field.name, None) for field in fields(kind)}
    for name, hint in field_hints(kind).items():
        key = f"{path}{name}"
        inner = settings_class(hint)
        if inner is None:
            for value in _wrong(hint, defaults[name]):
                yield key, value
        else:
            for value in (3, True, "a", [], [{}], DATE):
                yield key, value
            yield f"{key}.no_such_setting", 1
            yield from wrong_values(inner, f"{key}.")


def _wrong(hint: Any, good: Any) -> Iterator[Any]:
    plain, *told = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    bounds = _bounds(told)
    if plain is bool:
        yield from (0, 1, 1.0, "yes", "true", [], [True], {}, DATE, math.nan)
    elif plain is int:
        yield from (True, 1.5, "1", "", [], [1], {}, DATE, HUGE, -HUGE, *NUMBERS_THAT_ARE_NONE)
        yield from (bounds["ge"] - 1, bounds["le"] + 1)
    elif plain is float:
        yield from (True, "a", "1/0", "", [], {}, DATE, HUGE, 10**400, *NUMBERS_THAT_ARE_NONE)
        yield bounds["gt"] if "gt" in bounds else math.nextafter(bounds["ge"], -1)
        yield math.nextafter(bounds["le"], math.inf)
    elif get_origin(plain) is Literal:
        yield from ("", "no such", get_args(plain)[0].upper(), 1, True, [], {}, DATE)
    elif get_origin(plain) is tuple:
        yield from _wrong_lists(plain, bounds, good)
    else:
        assert get_origin(plain) in (Union, UnionType), f"{hint}: say here what is wrong for it"
        yield from _wrong_numbers_by_name(plain)


def _wrong_lists(plain: Any, bounds: Mapping[str, Any], good: Any) -> Iterator[Any]:
    yield from (1, True, "a", {}, DATE, math.nan, [[]], [{}], [[[1]]])
    if bounds.get("min_length"):
        yield []
    item = get_args(plain)[0]
    example = good[0] if good else "a"
    if item is str:
        yield from ([1], [True], [example, 1.5], [DATE], [math.nan])
    else:
        yield from ([value] for value in _wrong(item, None))
        yield [example, True]
    yield [example, example]


def _wrong_numbers_by_name(plain: Any) -> Iterator[Any]:
    (item,) = (one for one in get_args(plain) if get_origin(one) is Annotated)
    for value in _wrong(item, None):
        if value != {}:
            yield value
            yield {"alexnet": value}
    yield {"no such": 0.5}


def _bounds(told: list[Any]) -> dict[str, Any]:
    found = {}
    for part in told:
        for limit in getattr(part, "metadata", ()) if isinstance(part, FieldInfo) else ():
            found |= {
                name: getattr(limit, name)
                for name in ("ge", "gt", "le", "lt", "min_length")
                if hasattr(limit, name)
            }
    return found


def as_toml(key: str, value: Any) -> str:
    """A settings file with one setting."""
    *tables, name = key.split(".")
    head = f"[{'.'.join(tables)}]\n" if tables else ""
    return f"{head}{name} = {_toml(value)}\n"


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {_toml(v)}" for k, v in value.items()) + "}"
    return json.dumps(value) if isinstance(value, str) else str(value)
