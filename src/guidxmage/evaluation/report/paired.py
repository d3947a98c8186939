"""Differences of methods on the same views: surer than intervals that overlap suggest."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

from guidxmage.evaluation.methods import METHODS
from guidxmage.evaluation.records import Record
from guidxmage.evaluation.report.bootstrap import Estimate, estimate
from guidxmage.evaluation.report.figures import COLUMNS, EQUAL
from guidxmage.reports.markdown import table

BESIDE = "grad-cam"
"""The method that all others are compared with."""
_COLUMNS = tuple(one for one in COLUMNS if one.group == EQUAL and one.key != "removal_error")


def difference(
    records: Sequence[Record], method: str, other: str, key: str, seed: int
) -> Estimate | None:
    """The mean of one method's figure less another's on the same views, with its interval."""
    values: dict[tuple[str, int], dict[str, float]] = {}
    for record in records:
        value = record.get("figures", {}).get(key)
        if record["method"] in (method, other) and value is not None and isfinite(value):
            place = (record["photo"], record["view"])
            values.setdefault(place, {})[record["method"]] = float(value)
    by_photo: dict[str, list[float]] = {}
    for (photo, _), pair in values.items():
        if len(pair) == 2:
            by_photo.setdefault(photo, []).append(pair[method] - pair[other])
    return estimate(by_photo, seed, f"{key}: {method} − {other}")


def paired_table(records: Sequence[Record], seed: int, other: str = BESIDE) -> str:
    """A line for each other method of one network; empty where there is nothing to compare."""
    methods = [m for m in dict.fromkeys(r["method"] for r in records) if m != other]
    found = {
        method: [difference(records, method, other, column.key, seed) for column in _COLUMNS]
        for method in methods
    }
    used = [n for n in range(len(_COLUMNS)) if any(cells[n] for cells in found.values())]
    if not used:
        return ""
    lines = [
        [METHODS[method].title, *(_cell(cells[n]) for n in used)] for method, cells in found.items()
    ]
    return table(["method", *(_COLUMNS[n].title for n in used)], lines)


def _cell(found: Estimate | None) -> str:
    if found is None:
        return "–"
    return f"{found.mean:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"
