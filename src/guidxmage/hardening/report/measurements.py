"""Single figures out of the evaluations of an experiment."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite, nan
from statistics import mean, stdev
from typing import Any

# An evaluation as `experiment.run` returns it.
Evaluation = dict[str, Any]
# What a table shows where nothing was measured.
NONE = "–"
SECONDS = "processor seconds"


def figures(found: Evaluation) -> dict[str, float]:
    """Every figure of an evaluation by its name; what was not measured is not there.

    "clean", "gap" and so on: how the network leans on backgrounds. "background pgd linf 8/255": the
    accuracy that an attack on a part leaves at a bound. "all l2 ddn": the median l2 norm that a
    minimal attack on a part needs. "processor seconds" of the training, with the making of the
    samples it began with.
    """
    flat: dict[str, float | None] = dict(found["reliance"])
    for part in found["parts"]:
        for curve in part.get("curves", ()):
            attack, norm = curve["attack"], curve["norm"]
            for eps, accuracy in zip(curve["eps"], curve["accuracy"], strict=True):
                flat[f"{part['part']} {attack} {norm} {bound_name(eps, norm)}"] = accuracy
        for attack, size in part.get("median_l2", {}).items():
            flat[f"{part['part']} l2 {attack}"] = size
    told = found["training"]
    samples = told.get("samples_processor_seconds")
    # A series takes time; where it was not noted, the sum is not known.
    if samples is not None or found["unit"]["arm"] != "series":
        flat[SECONDS] = told["processor_seconds"] + (samples or 0)
    return {name: float(value) for name, value in flat.items() if value is not None}


def values(found: Sequence[Evaluation], name: str) -> list[float]:
    """One figure of each evaluation; NaN where it was not measured."""
    return [figures(one).get(name, nan) for one in found]


def bounds(found: Sequence[Evaluation], part: str, attack: str, norm: str) -> list[str]:
    """The bounds of an attack on a part, ascending, as figures are named by them."""
    begin = f"{part} {attack} {norm} "
    names = (name for one in found for name in figures(one) if name.startswith(begin))
    return list(dict.fromkeys(name.removeprefix(begin) for name in names))


def bound_name(eps: float, norm: str) -> str:
    """An ε as it is read: in grey levels, or as an l2 norm."""
    return f"{eps * 255:g}/255" if norm == "linf" else f"{eps:g}"


def by(found: Sequence[Evaluation], key: str) -> dict[str, list[Evaluation]]:
    """The evaluations by what the unit says under a key: "network", "arm"."""
    groups: dict[str, list[Evaluation]] = {}
    for one in found:
        groups.setdefault(one["unit"][key], []).append(one)
    return groups


def of_arm(found: Sequence[Evaluation], arm: str) -> list[Evaluation]:
    """The evaluations of an arm that had no samples of another network."""
    return [o for o in found if o["unit"]["arm"] == arm and not o["unit"]["source"]]


def compared(
    found: Sequence[Evaluation], arm: str, rival: str, name: str, ratio: bool = False
) -> list[float]:
    """An arm's figure less another one's, or over it, for each seed that has both."""
    own, theirs = ({o["unit"]["seed"]: o for o in of_arm(found, a)} for a in (arm, rival))
    both = [seed for seed in own if seed in theirs]
    pairs = zip(*(values([one[seed] for seed in both], name) for one in (own, theirs)), strict=True)
    return [(a / b if b else nan) if ratio else a - b for a, b in pairs]


def average(numbers: Sequence[float]) -> float:
    """The mean of the finite ones; NaN where there are none."""
    finite = [number for number in numbers if isfinite(number)]
    return mean(finite) if finite else nan


def spread(numbers: Sequence[float], scale: float, digits: int, sign: str = "") -> str:
    """Mean ± standard deviation of the finite ones; a dash where there are none."""
    finite = [scale * number for number in numbers if isfinite(number)]
    if not finite:
        return NONE
    around = f" ± {stdev(finite):.{digits}f}" if len(finite) > 1 else ""
    return f"{mean(finite):{sign}.{digits}f}{around}"
