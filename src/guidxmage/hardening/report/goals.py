"""What hardening aims at, and whether an experiment got there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isfinite, nan

from guidxmage.hardening.report.measurements import (
    NONE,
    SECONDS,
    Evaluation,
    average,
    bounds,
    by,
    compared,
    of_arm,
    values,
)
from guidxmage.hardening.report.transfer import kept
from guidxmage.reports.markdown import table

HARDENED = ("ours", "ours+backgrounds", "series")
"""The arms that are held to the goals; only those that were run are shown."""
# A network is fooled by an attack that leaves it no more than this accuracy.
_FOOLED = 0.05
_L2 = "all l2 guid-xmage"
# From the evaluations of one network, and an arm, to what the table says.
Judge = Callable[[Sequence[Evaluation], str], str]


def goals_table(found: Sequence[Evaluation]) -> str:
    """Markdown, a row for each goal and arm; means over seeds; empty where none can be judged."""
    networks = by(found, "network")
    rows = [
        (words, f"`{arm}`", *(judge(own, arm) for own in networks.values()))
        for arm in HARDENED
        if any(of_arm(own, arm) for own in networks.values())
        for words, judge in _GOALS.items()
    ]
    rows.append((_BOTH, "`ours+adversarial`", *map(_with_pgd, networks.values())))
    shares = (kept(found, name) for name in networks)
    words = "samples of other networks keep at least 80 % of the gain"
    rows.append((words, "`series`", *(_said(v, percent(v), v >= 0.8) for v in shares)))
    judged = [row for row in rows if any(cell != NONE for cell in row[2:])]
    return table(["goal", "arm", *networks], judged, words=(0, 1))


def percent(value: float) -> str:
    """A share in per cent."""
    return f"{100 * value:.1f} %"


def points(value: float) -> str:
    """A difference of shares in points of a hundred."""
    return f"{100 * value:+.1f}"


def times(value: float) -> str:
    """A ratio."""
    return f"{value:.2f} ×"


def _said(value: float, text: str, reached: bool) -> str:
    return f"{text}: {'reached' if reached else 'missed'}" if isfinite(value) else NONE


def _background(found: Sequence[Evaluation], arm: str) -> str:
    """Accuracy under attack at the smallest ε that leaves the plain network hardly any."""
    for eps in bounds(found, "background", "pgd", "linf"):
        name = f"background pgd linf {eps}"
        own, plain = (average(values(of_arm(found, each), name)) for each in (arm, "plain"))
        if plain <= _FOOLED:
            return _said(own, f"{percent(own)} at {eps} (plain {percent(plain)})", own >= 0.5)
    return NONE


def _gap(found: Sequence[Evaluation], arm: str) -> str:
    value = average(values(of_arm(found, arm), "gap"))
    return _said(value, points(value), value <= 0.02)


def _object(found: Sequence[Evaluation], arm: str) -> str:
    levels = bounds(found, "object", "pgd", "linf")
    if not levels:
        return NONE
    eps = levels[len(levels) // 2]
    value = average(compared(found, arm, "plain", f"object pgd linf {eps}"))
    return _said(value, f"{points(value)} at {eps}", value >= 0)


def _beside(
    rival: str, name: str, least: float, show: Callable[[float], str], ratio: bool = False
) -> Judge:
    """A figure beside another arm's, seed by seed: their difference, or their ratio."""

    def judge(found: Sequence[Evaluation], arm: str) -> str:
        value = average(compared(found, arm, rival, name, ratio))
        return _said(value, show(value), value >= least)

    return judge


def _cost(found: Sequence[Evaluation], arm: str) -> str:
    """Processor time of both trainings over that of the first."""
    value = 1 + average(compared(found, arm, "plain", SECONDS, ratio=True))
    return _said(value, times(value), value <= 2)


def _with_pgd(found: Sequence[Evaluation]) -> str:
    """What ours adds to PGD training: AutoAttack and clean accuracy on all pixels."""
    attacks = [
        f"all autoattack {norm} {eps}"
        for norm in ("linf", "l2")
        for eps in bounds(found, "all", "autoattack", norm)
    ]
    cleaner, *gains = (
        average(compared(found, "ours+adversarial", "adversarial", name))
        for name in ("clean", *attacks)
    )
    gain = min(gains, default=nan)
    text = f"AutoAttack {points(gain)}, clean {points(cleaner)}"
    return _said(gain, text, gain >= 0.01 or (gain >= 0 and cleaner >= 0.02))


_GOALS: dict[str, Judge] = {
    "background alone, PGD l∞: at least 50 % at the least ε where `plain` has at most 5 %": (
        _background
    ),
    "clean accuracy: at most 1 point below `plain`": _beside("plain", "clean", -0.01, points),
    "gap between backgrounds: at most 2 points": _gap,
    "least l2 on all pixels, median: at least 1.3 × `plain`": _beside(
        "plain", _L2, 1.3, times, ratio=True
    ),
    "least l2 on all pixels, median: at least 1.1 × `noise`": _beside(
        "noise", _L2, 1.1, times, ratio=True
    ),
    "object alone, PGD l∞: not below `plain`": _object,
    "processor time of both trainings: at most 2 × the first": _cost,
}
_BOTH = "against `adversarial`: AutoAttack +1 point, or clean +2 with no less AutoAttack"
