"""The manifest of a saved result against the one that its recomputed numbers would have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import isinf
from typing import Any

import torch

from guidxmage.archive import ARRAYS, manifest_of
from guidxmage.explanation import Explanation
from guidxmage.proof.statements import Judgement, Place, statement_of

# Of sums in float64, relative to the sum of the absolute values.
_SUMS = 1e-12
# Of radii and reaches, whose margins are differences of float64 numbers.
_RADII = 1e-6
# Statements that compare names, which no number depends on.
NAMES = ("model.name", "model.weights")
LABELS = ("model.labels", "model.labels[]")


@dataclass(frozen=True)
class Comparison:
    """What is wrong in a manifest, a few words each, and what of it is no evidence, with why."""

    faults: tuple[str, ...]
    not_evidence: Mapping[str, str]


def expected_manifest(explanation: Explanation) -> dict[str, Any]:
    """What the manifest of an explanation is, without what the command line adds."""
    return {**manifest_of(explanation), "arrays": ARRAYS}


def compared(
    stored: Mapping[str, Any],
    expected: Mapping[str, Any],
    explanation: Explanation,
    excused: Mapping[str, str],
) -> Comparison:
    """Go through every key of two manifests.

    expected: also of what the command line adds, as far as it was made again. excused: keys of the
    list of statements, with why they are no evidence this time.
    """
    given, wanted = dict(leaves(stored)), dict(leaves(expected))
    sizes = float(explanation.contributions.abs().sum(dtype=torch.float64))
    faults: list[str] = []
    not_evidence: dict[str, str] = {}
    for key in [*wanted, *(key for key in given if key not in wanted)]:
        statement = statement_of(Place.MANIFEST, key)
        if statement is None:
            faults.append(f"{key} is judged by nothing")
        elif statement.name in excused:
            not_evidence[statement.name] = excused[statement.name]
        elif statement.judgement is Judgement.NOT_EVIDENCE:
            not_evidence[statement.name] = statement.how
        elif statement.name in ("digest", "files.*"):
            continue  # with the files
        elif key not in given:
            faults.append(f"{key} is missing")
        elif key not in wanted:
            faults.append(f"{key} does not belong there")
        elif not _same(key, given[key], wanted[key], sizes):
            faults.append(f"{key} is {_shown(given[key])}, where it is {_shown(wanted[key])}")
    return Comparison(tuple(faults), not_evidence)


def leaves(document: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every value that is no object or list, by its key; empty ones count as values."""
    if isinstance(document, Mapping) and document:
        for name, value in document.items():
            yield from leaves(value, f"{key}.{name}" if key else str(name))
    elif isinstance(document, list | tuple) and document:
        for number, value in enumerate(document):
            yield from leaves(value, f"{key}[{number}]")
    else:
        yield key, list(document) if isinstance(document, tuple) else document


def _same(key: str, given: Any, wanted: Any, sizes: float) -> bool:
    if type(given) is not type(wanted) and not _both_numbers(given, wanted):
        return False
    if given == wanted:
        return True
    if not isinstance(wanted, float) or isinf(wanted):
        return False
    if key.endswith("contribution_sum") or key.startswith("objects["):
        off, allowed = abs(given - wanted), _SUMS * max(sizes, 1.0 if "share" in key else 0.0)
    else:
        off, allowed = abs(given - wanted), _RADII * abs(wanted) * key.startswith("radius.")
    return bool(off <= allowed)


def _both_numbers(a: Any, b: Any) -> bool:
    return all(isinstance(one, int | float) and not isinstance(one, bool) for one in (a, b))


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
