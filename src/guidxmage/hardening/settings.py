"""An experiment's settings in a TOML file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from guidxmage.errors import InputError, MissingExtraError, SettingError
from guidxmage.files.schema import made
from guidxmage.files.untrusted import read_text
from guidxmage.hardening.units import Experiment

# A settings file of a megabyte is none.
_LARGEST = 2**20


def read_settings(file: Path) -> Experiment:
    """The experiment that a file states; what it does not name has its default.

    Keys are the fields of `Experiment`; the tables arm, series and effort hold those of
    `ArmConfig`, `Scheme` and `Effort`. Sizes of pixels may be written "8/255". Raises InputError,
    naming the key, for anything else.
    """
    try:
        return made(Experiment, _read(file))
    except SettingError as error:
        raise InputError(f"{file}: {error}") from None


def _read(file: Path) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        try:
            import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]
        except ImportError as error:
            raise MissingExtraError("tomli", "train") from error
    try:
        content: dict[str, Any] = tomllib.loads(read_text(file, _LARGEST))
    except InputError:
        raise
    except RecursionError:
        raise InputError(f"{file} is nested too deeply to be settings") from None
    except ValueError as error:  # of TOML, and of numbers of thousands of digits
        raise InputError(f"{file} is no TOML: {error}") from error
    return content
