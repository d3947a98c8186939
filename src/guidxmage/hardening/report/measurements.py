"""Single figures out of the evaluations of an experiment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isfinite, nan
from statistics import mean, stdev
from typing import Any

# An evaluation as `experiment.run` returns it.
Evaluation = dict[str, Any]
Figure = Callable[[Evaluation], float]
# What a table shows where nothing was measured.
NONE = "–"


def part(found: Evaluation, name: str) -> dict[str, Any]:
    """What attacks on one part of the image achieved; empty where they were not run."""
    return next((one for one in found["parts"] if one["part"] == name), {})


def robust_accuracy(found: Evaluation, name: str, attack: str, norm: str, eps: float) -> float:
    """Of one curve at one bound; NaN where it was not measured."""
    for curve in part(found, name).get("curves", []):
        if (curve["attack"], curve["norm"]) == (attack, norm):
            for bound, value in zip(curve["eps"], curve["accuracy"], strict=True):
                if abs(bound - eps) < 1e-9:
                    return float(value)
    return nan


def median_size(found: Evaluation, name: str, attack: str) -> float:
    """The median l2 norm of a minimal attack; NaN where there is none."""
    value = part(found, name).get("median_l2", {}).get(attack)
    return nan if value is None else float(value)


def leaning(found: Evaluation, name: str) -> float:
    """One figure of how much a network leans on backgrounds; NaN where it was not measured."""
    value = found["reliance"][name]
    return nan if value is None else float(value)


def leaning_of(name: str) -> Figure:
    """That figure of any evaluation."""
    return lambda found: leaning(found, name)


def robust(name: str, attack: str, norm: str, eps: float) -> Figure:
    """The accuracy of any evaluation that an attack on a part leaves."""
    return lambda found: robust_accuracy(found, name, attack, norm, eps)


def least_l2(name: str, attack: str = "guid-xmage") -> Figure:
    """The median l2 norm of any evaluation that a minimal attack on a part needs."""
    return lambda found: median_size(found, name, attack)


def processor_seconds(found: Evaluation) -> float:
    """Of one training, with the making of the samples it began with; NaN where that is unknown."""
    told = found["training"]
    samples = told.get("samples_processor_seconds")
    if samples is None:
        samples = nan if found["unit"]["arm"] == "series" else 0.0
    return float(told["processor_seconds"]) + float(samples)


def beside_plain(found: Sequence[Evaluation], figure: Figure) -> Figure:
    """A figure in times of the plain network's of the same seed; NaN where there is none.

    Seeds may have been run on different machines.
    """
    plain = {one["unit"]["seed"]: figure(one) for one in of_arm(found, "plain")}

    def ratio(one: Evaluation) -> float:
        base = plain.get(one["unit"]["seed"], nan)
        return figure(one) / base if base else nan

    return ratio


def bounds(found: Sequence[Evaluation], name: str, attack: str, norm: str) -> list[float]:
    """The ε of an attack on a part, ascending; empty where it was not run."""
    for one in found:
        for curve in part(one, name).get("curves", []):
            if (curve["attack"], curve["norm"]) == (attack, norm):
                return [float(bound) for bound in curve["eps"]]
    return []


def bound_name(eps: float, norm: str) -> str:
    """An ε as it is read: in grey levels, or as an l2 norm."""
    return f"{eps * 255:g}/255" if norm == "linf" else f"{eps:g}"


def spread(values: Sequence[float], scale: float, digits: int, sign: str = "") -> str:
    """Mean ± standard deviation of the finite values; a dash where there are none."""
    finite = [scale * value for value in values if isfinite(value)]
    if not finite:
        return NONE
    around = f" ± {stdev(finite):.{digits}f}" if len(finite) > 1 else ""
    return f"{mean(finite):{sign}.{digits}f}{around}"


def of_arm(found: Sequence[Evaluation], arm: str) -> list[Evaluation]:
    """The evaluations of an arm that had no samples of another network."""
    return [o for o in found if o["unit"]["arm"] == arm and not o["unit"]["source"]]
