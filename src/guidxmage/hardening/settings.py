"""An experiment's settings in a TOML file."""

from __future__ import annotations

import re
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

from guidxmage.errors import InputError, MissingExtraError
from guidxmage.hardening.robustness.measure import Effort
from guidxmage.hardening.samples.arms import ArmConfig
from guidxmage.hardening.samples.suppression import Scheme
from guidxmage.hardening.units import Experiment

_RATIO = re.compile(r"(\d+)/([1-9]\d*)")
_PARTS = {"arm": ArmConfig, "series": Scheme, "effort": Effort}


def read_settings(file: Path) -> Experiment:
    """The experiment that a file states; what it does not name has its default.

    Keys are the fields of `Experiment`; the tables arm, series and effort hold those of
    `ArmConfig`, `Scheme` and `Effort`. Sizes of pixels may be written "8/255". Raises InputError,
    naming the key, for anything else.
    """
    content = _read(file)
    values: dict[str, Any] = {}
    for name, value in content.items():
        if name in _PARTS:
            if not isinstance(value, dict):
                raise InputError(f"{file}: {name} is a table; write [{name}]")
            values[name] = _made(_PARTS[name], value, f"{file}: [{name}]")
        else:
            values[name] = value
    made = _made(Experiment, values, str(file))
    assert isinstance(made, Experiment)
    return made


def _made(kind: type, values: dict[str, Any], where: str) -> Any:
    known = {field.name for field in fields(kind)}
    for name in values:
        if name not in known:
            raise InputError(f"{where} has no setting {name!r}; there are {', '.join(known)}")
    try:
        return kind(**{name: _value(value) for name, value in values.items()})
    except TypeError as error:
        raise InputError(f"{where}: {error}") from error
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def _value(given: Any) -> Any:
    """Lists as tuples, and "8/255" as the number it is."""
    if isinstance(given, list):
        return tuple(_value(part) for part in given)
    if isinstance(given, str) and (found := _RATIO.fullmatch(given)):
        return int(found[1]) / int(found[2])
    return given


def _read(file: Path) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        try:
            import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]
        except ImportError as error:
            raise MissingExtraError("tomli", "train") from error
    try:
        content: dict[str, Any] = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{file} is no TOML: {error}") from error
    return content
