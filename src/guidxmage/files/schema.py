"""What the values of settings may be, checked before anything is done with them.

A class of settings is a frozen dataclass whose annotations say it all: the type, the range, and in
words what is wanted. It calls `check` when it is made, so that values from a TOML file, from the
command line and from Python are held to the same.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import fields, is_dataclass
from itertools import pairwise
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, TypeAdapter
from pydantic import ValidationError as PydanticError
from pydantic.fields import FieldInfo

from guidxmage.errors import SettingError
from guidxmage.files.names import brief, shown

T = TypeVar("T")

_RATIO = re.compile(r"(\d{1,9})/([1-9]\d{0,8})")
# Checkpoints are named by steps of nine digits; nothing that is counted here comes near.
MOST = 999_999_999
_LONGEST_SHOWN = 60
_CLOSEST = 1e-6


# --- kinds of values -----------------------------------------------------------------------------


def whole(least: int, most: int = MOST) -> Any:
    """For `Annotated[int, …]`: a whole number within bounds."""
    words = f"a whole number from {least} to {most}"
    return Field(ge=least, le=most, description=words)


def from_ratio(given: Any) -> Any:
    """For `BeforeValidator`: a ratio such as "8/255" as the number it is."""
    if isinstance(given, str) and (found := _RATIO.fullmatch(given)):
        return int(found[1]) / int(found[2])
    return given


def distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """For `AfterValidator`: no value twice."""
    for number, value in enumerate(values):
        if value in values[:number]:
            raise ValueError(f"holds {_value(value)} twice; give each once")
    return values


def _ascending(values: tuple[float, ...]) -> tuple[float, ...]:
    # Reports tell numbers apart to six digits.
    if any(later - earlier < _CLOSEST for earlier, later in pairwise(values)):
        raise ValueError(f"has to ascend, but is {_value(values)}; put the numbers in order")
    return values


def some_of(known: Iterable[str], least: int = 1) -> Any:
    """For `Annotated[tuple[str, …], …]`: what is said of names that are known."""
    words = f"a list of {'some of ' if least else 'none or some of '}{', '.join(known)}"
    return Field(min_length=least, description=words)


def known_names(known: Collection[str], what: str) -> AfterValidator:
    """For `Annotated[tuple[str, …], …]`: each a known name, none of them twice."""

    def check_names(names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in known:
                raise ValueError(unknown_name(name, known, what))
        return distinct(names)

    return AfterValidator(check_names)


Count = Annotated[int, whole(1)]
CountOrNone = Annotated[int, whole(0)]
Rounds = Annotated[int, whole(1, 32_000)]
"""Steps of something that is done to each image; files hold their number in 16 bits."""
RoundsOrNone = Annotated[int, whole(0, 32_000)]
Flag = Annotated[bool, Field(description="true or false")]
Seed = Annotated[int, whole(0, 2**32 - 1)]
Share = Annotated[
    float,
    BeforeValidator(from_ratio),
    Field(ge=0, le=1, description="a number from 0 to 1"),
]
PositiveShare = Annotated[
    float,
    BeforeValidator(from_ratio),
    Field(gt=0, le=1, description="a number above 0, up to 1"),
]
_PIXEL_WORDS = 'a number above 0, up to 1, such as 0.03 or "8/255"'
Pixel = Annotated[float, BeforeValidator(from_ratio), Field(gt=0, le=1, description=_PIXEL_WORDS)]
"""How far a pixel in [0, 1] may move."""
_SEVERAL = f"in ascending order, each {_PIXEL_WORDS}"
Pixels = Annotated[
    tuple[Pixel, ...],
    Field(min_length=1, description=f"a list of numbers {_SEVERAL}"),
    AfterValidator(_ascending),
]
PixelBounds = Annotated[
    tuple[Pixel, ...],
    Field(description=f"a list, which may be empty, of numbers {_SEVERAL}"),
    AfterValidator(_ascending),
]
Names = Annotated[
    tuple[str, ...],
    Field(min_length=1, description="a list of names, at least one"),
    AfterValidator(distinct),
]
NamesOrNone = Annotated[
    tuple[str, ...],
    Field(description="a list of names, which may be empty"),
    AfterValidator(distinct),
]
Seeds = Annotated[
    tuple[Seed, ...],
    Field(min_length=1, description=f"a list of whole numbers from 0 to {2**32 - 1}"),
    AfterValidator(distinct),
]
# Of the l2 norm, of which a whole image of 3·32·32 pixels has 55.
_LENGTH_WORDS = "a number above 0, up to 1000"
Length = Annotated[
    float, BeforeValidator(from_ratio), Field(gt=0, le=1000, description=_LENGTH_WORDS)
]
LengthBounds = Annotated[
    tuple[Length, ...],
    Field(
        description=f"a list, which may be empty, of numbers in ascending order, each "
        f"{_LENGTH_WORDS}"
    ),
    AfterValidator(_ascending),
]


# --- checking ------------------------------------------------------------------------------------


def check(settings: Any) -> None:
    """Check all fields of a settings object, as the last step of making it; lists become tuples.

    Raises SettingError for the first value that its field cannot have.
    """
    kind = type(settings)
    if kind not in _adapters:
        plain = {name: h for name, h in field_hints(kind).items() if settings_class(h) is None}
        _adapters[kind] = {name: TypeAdapter(h, config=_STRICT) for name, h in plain.items()}
    for name, hint in field_hints(kind).items():
        value = getattr(settings, name)
        if name not in _adapters[kind]:
            if not isinstance(value, hint):
                raise SettingError(name, f"is {_value(value)}; give {_article(hint.__name__)}")
            continue
        try:
            checked = _adapters[kind][name].validate_python(_tuples(value))
        except PydanticError as error:
            raise _sentence(name, hint, value, error) from None
        object.__setattr__(settings, name, checked)


def made(kind: type[T], values: Mapping[str, Any]) -> T:
    """Settings from plain values, such as those of a TOML file; tables are settings themselves.

    Raises SettingError, with the dotted path of the key, for unknown keys and for values that do
    not fit.
    """
    hints = field_hints(kind)
    parts = {}
    for key, value in values.items():
        if key not in hints:
            raise SettingError(brief(key), f"is not a setting; {_choices(key, hints)}")
        inner = settings_class(hints[key])
        parts[key] = value if inner is None else _table(inner, key, value)
    return kind(**parts)


def _table(kind: type, key: str, value: Any) -> Any:
    if not isinstance(value, Mapping):
        raise SettingError(key, f"is {_value(value)}, but has to be a table; write [{key}]")
    try:
        return made(kind, value)
    except SettingError as error:
        raise error.below(f"{key}.") from None


def field_hints(kind: type) -> dict[str, Any]:
    """The annotations of a settings class, by field."""
    if kind not in _hints:
        found = get_type_hints(kind, include_extras=True)
        _hints[kind] = {field.name: found[field.name] for field in fields(kind)}
    return _hints[kind]


_STRICT = ConfigDict(strict=True, allow_inf_nan=False)
_hints: dict[type, dict[str, Any]] = {}
_adapters: dict[type, dict[str, TypeAdapter[Any]]] = {}


def settings_class(hint: Any) -> type | None:
    """The class of a field that is a table of settings itself."""
    return hint if isinstance(hint, type) and is_dataclass(hint) else None


def wanted(hint: Any) -> str:
    """What a field takes, in words."""
    if get_origin(hint) is Literal:
        return f"one of {', '.join(map(str, get_args(hint)))}"
    said = [part.description for part in get_args(hint)[1:] if isinstance(part, FieldInfo)]
    if not said or said[0] is None:
        raise TypeError(f"{hint} does not say in words what it takes")
    return said[0]


def _sentence(name: str, hint: Any, value: Any, error: PydanticError) -> SettingError:
    """The first thing that is wrong, as deep in the value as it can be placed."""
    found = [(*_place(value, one["loc"]), one) for one in error.errors()]
    where, part, first = max(found, key=lambda one: len(one[0]))
    if first["type"] == "value_error":
        return SettingError(f"{name}{where}", str(first["ctx"]["error"]))
    return SettingError(f"{name}{where}", f"is {_value(part)}; give {wanted(hint)}")


def _place(value: Any, location: tuple[int | str, ...]) -> tuple[str, Any]:
    """Where in a value something is, as text, and what is there."""
    where = ""
    for step in location:
        if isinstance(value, Mapping) and step in value:
            where, value = f"{where}.{step}", value[step]
        elif isinstance(value, list | tuple) and isinstance(step, int) and step < len(value):
            where, value = f"{where}[{step}]", value[step]
        # Other steps say which alternative of a type was tried.
    return where, value


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value


def unknown_name(name: str, known: Iterable[str], what: str) -> str:
    """What an error says of a name that is not among the known ones."""
    return f"holds {brief(name)!r}, which is no {what}; {_choices(name, known)}"


def _choices(name: str, known: Iterable[str]) -> str:
    """What could have been meant instead of a name."""
    listed = list(known)
    close = difflib.get_close_matches(name, listed, n=1, cutoff=0.7)
    return f"did you mean {close[0]}?" if close else f"choose from {', '.join(listed)}"


def _article(name: str) -> str:
    return f"{'an' if name[:1] in 'AEIOU' else 'a'} {name}"


def _value(value: Any) -> str:
    """A value as it is written in a settings file, or nearly so; never long."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        text = f"[{', '.join(_value(part) for part in value[:8])}]"
    else:
        try:
            text = str(value) if isinstance(value, float) else repr(value)
        except ValueError:  # a number of more digits than Python writes
            text = "a number of thousands of digits"
    text = shown(text)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[: _LONGEST_SHOWN - 1]}…"
