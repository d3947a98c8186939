"""What hardening aims at, and whether an experiment got there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import isfinite, nan
from statistics import mean

from guidxmage.hardening.report.comparison import Question
from guidxmage.hardening.report.measurements import (
    NONE,
    Evaluation,
    bound_name,
    bounds,
    leaning,
    leaning_of,
    least_l2,
    of_arm,
    processor_seconds,
    robust,
)
from guidxmage.hardening.report.transfer import kept

HARDENED = ("ours", "ours+backgrounds", "series")
"""The arms that are held to the goals; only those that were run are shown."""
# A network is fooled by an attack that leaves it no more than this accuracy.
_FOOLED = 0.05


@dataclass(frozen=True)
class Outcome:
    """Of one goal on one network: the value, as text too, and whether it suffices."""

    value: float
    text: str
    reached: bool

    def __str__(self) -> str:
        if not isfinite(self.value):
            return NONE
        return f"{self.text}: {'reached' if self.reached else 'missed'}"


Judge = Callable[[Sequence[Evaluation], str], Outcome]


@dataclass(frozen=True)
class Goal:
    """What is aimed for, and how it is judged from the evaluations of one network and an arm."""

    words: str
    judge: Judge


def goals_table(found: Sequence[Evaluation]) -> str:
    """Markdown, a row for each goal and arm; means over seeds; empty where none can be judged."""
    names = list(dict.fromkeys(one["unit"]["network"] for one in found))
    groups = [[one for one in found if one["unit"]["network"] == name] for name in names]
    rows = [
        (goal.words, f"`{arm}`", *(str(goal.judge(own, arm)) for own in groups))
        for arm in HARDENED
        if any(of_arm(own, arm) for own in groups)
        for goal in _GOALS
    ]
    rows.append((_BOTH.words, "`ours+adversarial`", *(str(_BOTH.judge(o, "")) for o in groups)))
    transferred = (_least(kept(found, name), 0.8, percent) for name in names)
    words = "samples of other networks keep at least 80 % of the gain"
    rows.append((words, "`series`", *map(str, transferred)))
    judged = [row for row in rows if any(cell != NONE for cell in row[2:])]
    if not judged:
        return ""
    head = [("goal", "arm", *names), ("---", "---", *["---:"] * len(names))]
    return "\n".join(f"| {' | '.join(row)} |" for row in (*head, *judged))


def percent(value: float) -> str:
    """A share in per cent."""
    return f"{100 * value:.1f} %"


def points(value: float) -> str:
    """A difference of shares in points of a hundred."""
    return f"{100 * value:+.1f}"


def times(value: float) -> str:
    """A ratio."""
    return f"{value:.2f} ×"


def _least(value: float, least: float, show: Callable[[float], str]) -> Outcome:
    return Outcome(value, show(value), value >= least)


def _most(value: float, most: float, show: Callable[[float], str]) -> Outcome:
    return Outcome(value, show(value), value <= most)


def _average(values: Sequence[float]) -> float:
    finite = [value for value in values if isfinite(value)]
    return mean(finite) if finite else nan


def _background(found: Sequence[Evaluation], arm: str) -> Outcome:
    """Accuracy under attack at the smallest ε that leaves the plain network hardly any."""
    for eps in bounds(found, "background", "pgd", "linf"):
        figure = robust("background", "pgd", "linf", eps)
        own, plain = (_average([figure(o) for o in of_arm(found, a)]) for a in (arm, "plain"))
        if plain <= _FOOLED:
            text = f"{percent(own)} at {bound_name(eps, 'linf')} (plain {percent(plain)})"
            return Outcome(own, text, own >= 0.5)
    return Outcome(nan, "", False)


def _gap(found: Sequence[Evaluation], arm: str) -> Outcome:
    return _most(_average([leaning(one, "gap") for one in of_arm(found, arm)]), 0.02, points)


def _clean(found: Sequence[Evaluation], arm: str) -> Outcome:
    return _least(
        _average(Question("", arm, "plain", leaning_of("clean")).values(found)), -0.01, points
    )


def _object(found: Sequence[Evaluation], arm: str) -> Outcome:
    levels = bounds(found, "object", "pgd", "linf")
    if not levels:
        return Outcome(nan, "", False)
    eps = levels[len(levels) // 2]
    question = Question("", arm, "plain", robust("object", "pgd", "linf", eps))
    value = _average(question.values(found))
    return Outcome(value, f"{points(value)} at {bound_name(eps, 'linf')}", value >= 0)


def _farther(rival: str, least: float) -> Judge:
    """How much larger the least l2 perturbation of all pixels is than another arm's."""

    def judge(found: Sequence[Evaluation], arm: str) -> Outcome:
        question = Question("", arm, rival, least_l2("all"), ratio=True)
        return _least(_average(question.values(found)), least, times)

    return judge


def _cost(found: Sequence[Evaluation], arm: str) -> Outcome:
    """Processor time of both trainings over that of the first."""
    return _most(
        1 + _average(Question("", arm, "plain", processor_seconds, ratio=True).values(found)),
        2,
        times,
    )


def _with_pgd(found: Sequence[Evaluation], _: str) -> Outcome:
    """What ours adds to PGD training: AutoAttack and clean accuracy on all pixels."""
    arms = "ours+adversarial", "adversarial"
    cleaner = _average(Question("", *arms, leaning_of("clean")).values(found))
    gains = [
        _average(Question("", *arms, robust("all", "autoattack", norm, eps)).values(found))
        for norm in ("linf", "l2")
        for eps in bounds(found, "all", "autoattack", norm)
    ]
    gain = min(gains, default=nan)
    text = f"AutoAttack {points(gain)}, clean {points(cleaner)}"
    return Outcome(gain, text, gain >= 0.01 or (gain >= 0 and cleaner >= 0.02))


def _goals() -> Iterator[Goal]:
    yield Goal(
        "background alone, PGD l∞: at least 50 % at the least ε where `plain` has at most 5 %",
        _background,
    )
    yield Goal("clean accuracy: at most 1 point below `plain`", _clean)
    yield Goal("gap between backgrounds: at most 2 points", _gap)
    yield Goal("least l2 on all pixels, median: at least 1.3 × `plain`", _farther("plain", 1.3))
    yield Goal("least l2 on all pixels, median: at least 1.1 × `noise`", _farther("noise", 1.1))
    yield Goal("object alone, PGD l∞: not below `plain`", _object)
    yield Goal("processor time of both trainings: at most 2 × the first", _cost)


_GOALS = tuple(_goals())
_BOTH = Goal(
    "against `adversarial`: AutoAttack +1 point, or clean +2 with no less AutoAttack", _with_pgd
)
