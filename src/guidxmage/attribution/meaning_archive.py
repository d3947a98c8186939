"""What saved numbers mean, as entries of a manifest; what is read is checked."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from guidxmage.errors import InputError
from guidxmage.files.untrusted import entry, listed, optional, shape_of
from guidxmage.outputs.kinds import KINDS
from guidxmage.outputs.meaning import Meaning

_LONGEST = 10_000  # characters of a name
_LARGEST = 2**28  # places of a mask


def output_entry(output: str) -> dict[str, Any]:
    """What a manifest says of the kind of output; nothing of class scores."""
    return {} if output == "scores" else {"output": output}


def meaning_entry(meaning: Meaning | None) -> dict[str, Any]:
    """What a manifest says of one number; nothing of the score of a class."""
    return {} if meaning is None else {"meaning": meaning.to_json()}


def meanings_in(
    manifest: dict[str, Any], images: int, targets: int, name: str
) -> tuple[str, tuple[tuple[Meaning, ...], ...]]:
    """The kind of output, and the meaning of each number, (B) (K); none of class scores.

    Raises InputError for what does not fit.
    """
    kind = optional(entry(manifest, "model", dict, name), "output", str, name) or "scores"
    if kind not in (*KINDS, "labels"):
        raise InputError(f"{name} is of the output {kind!r}, which is none")
    results = listed(manifest, "results", dict, name)
    described = [one for one in results if "meaning" in one]
    if not described:
        return kind, ()
    if len(described) != len(results) or len(results) != images * targets:
        raise InputError(f"{name} states the meaning of {len(described)} numbers only")
    found = [_meaning(entry(one, "meaning", dict, name), name) for one in described]
    rows = [found[row * targets : (row + 1) * targets] for row in range(images)]
    return kind, tuple(map(tuple, rows))


def _meaning(described: dict[str, Any], name: str) -> Meaning:
    words, unit = (entry(described, key, str, name) for key in ("name", "unit"))
    if len(words) > _LONGEST or len(unit) > 100:
        longest = max(len(words), len(unit))
        raise InputError(f"{name} has a name or a unit of {longest} characters")
    box = described.get("box")
    sides = None if box is None else _sides(listed(described, "box", float, name), name)
    choice = entry(described, "choice", dict, name)
    if choice.get("kind") == "mask":
        _check_area(choice, name)
    return Meaning(words, unit, choice, sides)


def _check_area(choice: dict[str, Any], name: str) -> None:
    """Raises InputError for run lengths that are not of a mask of the size stated."""
    size, runs = shape_of(choice, "size", name), listed(choice, "area", int, name)
    whole = all(size) and len(size) in (2, 3) and prod(size) <= _LARGEST
    if not whole or any(run < 0 for run in runs) or sum(runs) != prod(size) or len(runs) < 2:
        raise InputError(f"{name} has a mask of size {list(size)[:4]} that its area does not fill")


def _sides(box: Sequence[float], name: str) -> tuple[float, float, float, float]:
    if len(box) != 4:
        raise InputError(f"{name} has a box of {len(box)} numbers where four are expected")
    left, top, right, bottom = map(float, box)
    return left, top, right, bottom
