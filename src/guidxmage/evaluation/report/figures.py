"""From records to figures: one value with its interval for each network, method and column."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isfinite

import numpy as np

from guidxmage.evaluation.measures.directional import FINITE
from guidxmage.evaluation.measures.smoothing import SIGMAS
from guidxmage.evaluation.methods import METHODS
from guidxmage.evaluation.records import Record
from guidxmage.evaluation.report.bootstrap import Estimate, estimate

SUPPORT = "Directional agreement of the pixels said to support the class"
OPPOSE = "Directional agreement of the pixels said to oppose the class"
SUMS = "Magnitudes, signs of objects, completeness"
FAR = "Finite perturbations"
EQUAL = "All maps through the same Gaussian (σ in pixels at 224)"
MAPS = "Localisation and complexity"
CHECKS = "Sanity checks and cost"
GROUPS = (SUPPORT, OPPOSE, SUMS, FAR, EQUAL, MAPS, CHECKS)


@dataclass(frozen=True)
class Column:
    """One figure of the report, and the table that it stands in."""

    key: str
    title: str
    group: str
    unit: str = ""

    def text(self, value: float) -> str:
        """A value as the tables show it."""
        if self.unit == "%":
            return f"{100 * value:.1f}"
        return f"{value:.1e}" if value and abs(value) < 1e-3 else f"{value:.3g}"


COLUMNS = (
    Column("path", "directional agreement, on the path", SUPPORT, "%"),
    *(Column(f"finite_{eps:g}", f"ε = {eps:g}", SUPPORT, "%") for eps in FINITE),
    Column("path_negative", "on the path", OPPOSE, "%"),
    *(Column(f"finite_negative_{eps:g}", f"ε = {eps:g}", OPPOSE, "%") for eps in FINITE),
    Column("spearman", "magnitude: rank correlation", SUMS),
    Column("relative_error", "magnitude: relative error", SUMS),
    Column("signs_0.01", "object signs, ε = 0.01", SUMS, "%"),
    Column("signs_1", "object signs, removed", SUMS, "%"),
    Column("gap", "completeness gap", SUMS),
    Column("share", "Σ map / score", SUMS),
    Column("deletion", "deletion (low is good)", FAR),
    Column("insertion", "insertion", FAR),
    Column("road", "ROAD", FAR),
    *(Column(f"gain_{s}", f"insertion − deletion, σ {s}", EQUAL) for s in SIGMAS),
    Column("removal", "removing superpixels: rank correlation, as drawn", EQUAL),
    *(Column(f"removal_{s}", f"the same, σ {s}", EQUAL) for s in SIGMAS),
    Column("removal_error", "removing superpixels: mean error / score", EQUAL),
    Column("faithfulness", "faithfulness correlation", FAR),
    Column("mass", "mass on the object", MAPS, "%"),
    Column("pointing", "pointing game", MAPS, "%"),
    Column("rank", "rank accuracy", MAPS, "%"),
    Column("area", "object's area", MAPS, "%"),
    Column("entropy", "entropy", MAPS),
    Column("gini", "Gini index", MAPS),
    Column("random_weights", "shuffled weights (0 is good)", CHECKS),
    Column("random_logit", "another class (0 is good)", CHECKS),
    Column("seconds", "seconds", CHECKS),
    Column("peak_mib", "peak MiB", CHECKS),
)
COSTS = ("seconds", "peak_mib")
"""Columns that no two runs share."""
CURVES = ("deletion_curve", "insertion_curve")


@dataclass(frozen=True)
class Row:
    """One method on one network.

    figures: by the columns' keys, those that were measured. undecided, empty: views whose claim on
    the path stayed undecided, and maps that claimed no pixel. exponent: the median k of ε = 2^−k on
    the path. failures: what the library said, and how often.
    """

    network: str
    method: str
    figures: dict[str, Estimate]
    curves: dict[str, list[Estimate]]
    views: int
    undecided: int
    empty: int
    exponent: float | None
    layer: str
    failures: dict[str, int]

    @property
    def title(self) -> str:
        """The method's name in tables."""
        return METHODS[self.method].title


def rows(records: dict[str, list[Record]], seed: int) -> list[Row]:
    """A row for each network and method, in the records' order."""
    found = []
    for network, own in records.items():
        for method in dict.fromkeys(record["method"] for record in own):
            found.append(_row(network, method, [r for r in own if r["method"] == method], seed))
    return found


def _row(network: str, method: str, records: Sequence[Record], seed: int) -> Row:
    done = [record for record in records if "figures" in record]
    failures: dict[str, int] = {}
    for record in records:
        told = [record["failed"]] if "failed" in record else []
        told += [f"{name}: {text}" for name, text in record.get("errors", {}).items()]
        for text in told:
            failures[text] = failures.get(text, 0) + 1
    exponents = _values(done, "exponent")
    estimates = {
        column.key: found
        for column in COLUMNS
        if (found := _estimate(done, column, seed)) is not None
    }
    return Row(
        network=network,
        method=method,
        figures=estimates,
        curves={name: points for name in CURVES if (points := _curve(done, name, seed))},
        views=len(done),
        undecided=sum("path" in r["figures"] and r["figures"]["path"] is None for r in done),
        empty=sum(r["figures"].get("pixels") == 0 for r in done),
        exponent=float(np.median(exponents)) if exponents else None,
        layer=done[0]["layer"] if done else "",
        failures=failures,
    )


def _values(records: Iterable[Record], key: str) -> list[float]:
    found = (record["figures"].get(key) for record in records)
    return [float(value) for value in found if value is not None]


def _estimate(records: Sequence[Record], column: Column, seed: int) -> Estimate | None:
    by_photo: dict[str, list[float]] = {}
    for record in records:
        value = record["figures"].get(column.key)
        if value is not None and isfinite(value):
            by_photo.setdefault(record["photo"], []).append(float(value))
    return estimate(by_photo, seed, column.key, share=column.unit == "%")


def _curve(records: Sequence[Record], key: str, seed: int) -> list[Estimate]:
    """The mean curve with a band, point by point."""
    own = [(r["photo"], r["figures"][key]) for r in records if key in r["figures"]]
    if not own:
        return []
    points = []
    for place in range(len(own[0][1])):
        by_photo: dict[str, list[float]] = {}
        for photo, values in own:
            by_photo.setdefault(photo, []).append(values[place])
        found = estimate(by_photo, seed, f"{key}/{place}")
        assert found is not None
        points.append(found)
    return points
