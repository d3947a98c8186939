"""A stored certificate against one that was made anew."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from guidxmage.jobs.manifest_check import Path, leaves, written

# They are drawn or measured anew each time.
_DRAWN = (("identity", "primes"), ("identity", "seed"), ("identity", "seconds"), ("seconds",))
# What rounds alike: where one of these is another, measured numbers may be, too.
_MAKERS = ("device", "layout", "tf32", "torch", "threads")
# What was measured, and texts that repeat it; all else is the same wherever it was made.
_MEASURED = frozenset(["line", "numeric", "trail", "model", "rationals", "findings"])
_NUMBER = re.compile(r"[+-]?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?")
# Errors of another processor are of the same size, no more; and counts nearly the same.
_FACTOR, _NOTHING, _SHARE, _FEW = 4.0, 1e-12, 0.1, 2


def compared_certificates(given: Any, wanted: Mapping[str, Any]) -> tuple[bool | None, str]:
    """Whether a stored certificate says what a new one does, and a few words; None: no evidence."""
    if not isinstance(given, Mapping) or given.keys() != wanted.keys():
        return False, "it has other keys than a certificate"
    primes = given["identity"].get("primes") if isinstance(given["identity"], Mapping) else None
    if not isinstance(primes, list) or len(primes) != len(wanted["identity"]["primes"]):
        return False, "it has another number of primes than a certificate"
    faults = list(_faults(given, wanted))
    if not faults:
        return True, ""
    firm = [path for path in faults if path[0] not in _MEASURED or path[-1] in ("name", "passed")]
    own, new = given["model"], wanted["model"]
    alike = isinstance(own, Mapping) and all(own.get(key) == new[key] for key in _MAKERS)
    alike = alike and given["version"] == wanted["version"]
    if firm or alike:
        return False, f"{written((firm or faults)[0])} is another than that of a new certificate"
    return None, "its measured numbers are those of another version, device or number of threads"


def _faults(given: Mapping[str, Any], wanted: Mapping[str, Any]) -> Iterator[Path]:
    stored, new = (dict(leaves(document)) for document in (given, wanted))
    for path in [*new, *(path for path in stored if path not in new)]:
        if path[:2] in _DRAWN or path[:1] in _DRAWN:
            continue
        if path not in stored or path not in new or not _alike(stored[path], new[path]):
            yield path


def _alike(a: Any, b: Any) -> bool:
    """Whether two values, or two texts with numbers in them, say the same up to rounding."""
    if isinstance(a, str) and isinstance(b, str):
        if _NUMBER.sub("#", a) != _NUMBER.sub("#", b):
            return False
        pairs = zip(_NUMBER.findall(a), _NUMBER.findall(b), strict=True)
        return all(_close(_number(x), _number(y)) for x, y in pairs)
    if isinstance(a, bool) or isinstance(b, bool) or type(a) is not type(b):
        return a is b or (type(a) is type(b) and a == b)
    return _close(a, b) if isinstance(a, int | float) else a == b


def _number(text: str) -> int | float:
    plain = text.replace(",", "")
    return int(plain) if plain.lstrip("+-").isdecimal() and len(plain) < 20 else float(plain)


def _close(a: float, b: float) -> bool:
    if a == b:
        return True
    if isinstance(a, int) and isinstance(b, int):
        return abs(a - b) <= _FEW + _SHARE * max(abs(a), abs(b))
    small, large = sorted((abs(a), abs(b)))
    return large <= _NOTHING or large <= _FACTOR * small
