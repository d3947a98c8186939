"""The manifest of a saved result against the one that its recomputed numbers would have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import isinf
from typing import Any

import torch

from guidxmage.attribution.archive import ARRAYS, manifest_of
from guidxmage.explanation import Explanation
from guidxmage.proof.evidence.statements import Judgement, Place, statement_of

# Of sums in float64, relative to the sum of the absolute values.
_SUMS = 1e-12
# Of radii and reaches, whose margins are differences of float64 numbers.
_RADII = 1e-6
# Statements that compare names, which no number depends on.
NAMES = ("model.name", "model.weights")
LABELS = ("model.labels", "model.labels[]")


Path = tuple[str | int, ...]


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
    sizes += sum(float(one.whole.abs().sum()) for one in explanation.placements)
    faults: list[str] = []
    not_evidence: dict[str, str] = {}
    for path in [*wanted, *(path for path in given if path not in wanted)]:
        key = written(path)
        statement = statement_of(Place.MANIFEST, key)
        if statement is None:
            faults.append(f"{key} is judged by nothing")
        elif statement.name in excused:
            not_evidence[statement.name] = excused[statement.name]
        elif statement.judgement is Judgement.NOT_EVIDENCE:
            not_evidence[statement.name] = statement.how
        elif statement.name in ("digest", "files.*"):
            continue  # with the files
        elif path not in given:
            faults.append(f"{key} is missing")
        elif path not in wanted:
            faults.append(f"{key} does not belong there")
        elif not _same(key, given[path], wanted[path], sizes):
            faults.append(f"{key} is {_shown(given[path])}, where it is {_shown(wanted[path])}")
    return Comparison(tuple(faults), not_evidence)


def leaves(document: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Every value that is no object or list, by the way to it; empty ones count as values.

    A way is compared as a whole: a key may look like several, "a.b" or "a[0]".
    """
    if isinstance(document, Mapping) and document:
        for name, value in document.items():
            yield from leaves(value, (*path, str(name)))
    elif isinstance(document, list | tuple) and document:
        for number, value in enumerate(document):
            yield from leaves(value, (*path, number))
    else:
        yield path, list(document) if isinstance(document, tuple) else document


def written(path: Path) -> str:
    """A way to a value as it is printed: "results[0].score"."""
    parts = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return "".join(parts).removeprefix(".")


def _same(key: str, given: Any, wanted: Any, sizes: float) -> bool:
    if type(given) is not type(wanted) and not _both_numbers(given, wanted):
        return False
    if given == wanted:
        return True
    if not isinstance(wanted, float) or isinf(wanted):
        return False
    sums = ("contribution_sum", ".placed", "whole_sum", "placed_bias_sum")
    if key.endswith(sums) or key.startswith("objects["):
        off, allowed = abs(given - wanted), _SUMS * max(sizes, 1.0 if "share" in key else 0.0)
    else:
        off, allowed = abs(given - wanted), _RADII * abs(wanted) * key.startswith("radius.")
    return bool(off <= allowed)


def _both_numbers(a: Any, b: Any) -> bool:
    return all(isinstance(one, int | float) and not isinstance(one, bool) for one in (a, b))


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
