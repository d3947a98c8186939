"""The arms against each other, seed by seed: what a reader looks for first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import nan

from guidxmage.hardening.report.measurements import (
    NONE,
    Evaluation,
    Figure,
    bound_name,
    bounds,
    leaning,
    leaning_of,
    least_l2,
    of_arm,
    processor_seconds,
    robust,
    spread,
)


@dataclass(frozen=True)
class Question:
    """One row of the summary: an arm against another one, by one figure, on the same seed."""

    words: str
    arm: str
    rival: str
    figure: Figure
    ratio: bool = False

    def values(self, found: Sequence[Evaluation]) -> list[float]:
        """One value for each seed that has both arms."""
        own, theirs = _by_seed(found, self.arm), _by_seed(found, self.rival)
        pairs = [(self.figure(own[s]), self.figure(theirs[s])) for s in own if s in theirs]
        if self.ratio:
            return [a / b if b else nan for a, b in pairs]
        return [a - b for a, b in pairs]

    def text(self, found: Sequence[Evaluation]) -> str:
        """Points of a hundred, or a ratio."""
        values = self.values(found)
        return spread(values, 1, 2) if self.ratio else spread(values, 100, 1, "+")


def summary(found: Sequence[Evaluation]) -> str:
    """The table of all questions that the arms can answer; empty where there is none."""
    networks = list(dict.fromkeys(one["unit"]["network"] for one in found))
    each = [[one for one in found if one["unit"]["network"] == name] for name in networks]
    rows = []
    for question in _questions(found):
        arms = f"`{question.arm}` against `{question.rival}`"
        rows.append([question.words, arms, *map(question.text, each)])
    for arm in ("plain", "ours", "ours+backgrounds"):
        gaps = [spread([leaning(o, "gap") for o in of_arm(own, arm)], 100, 1) for own in each]
        rows.append(["gap between backgrounds, points", f"`{arm}`", *gaps])
    answered = [row for row in rows if any(cell != NONE for cell in row[2:])]
    if not answered:
        return ""
    head = ["", "", *networks], ["---", "---", *["---:"] * len(networks)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (*head, *answered))


def _questions(found: Sequence[Evaluation]) -> Iterator[Question]:
    yield Question("clean accuracy, points", "ours", "plain", leaning_of("clean"))
    for name in ("background", "object", "all"):
        for eps in bounds(found, name, "pgd", "linf"):
            words = f"{_place(name)}, PGD l∞ {bound_name(eps, 'linf')}, points"
            yield Question(words, "ours", "plain", robust(name, "pgd", "linf", eps))
    for name in ("all", "background"):
        for rival in ("plain", "noise"):
            words = f"{_place(name)}, median least l2, ratio"
            yield Question(words, "ours", rival, least_l2(name), ratio=True)
    yield Question("clean accuracy, points", "ours+backgrounds", "plain", leaning_of("clean"))
    yield Question("clean accuracy, points", "ours+adversarial", "adversarial", leaning_of("clean"))
    for norm in ("linf", "l2"):
        for eps in bounds(found, "all", "autoattack", norm):
            figure = robust("all", "autoattack", norm, eps)
            words = f"all pixels, AutoAttack {norm.replace('inf', '∞')} {bound_name(eps, norm)}, "
            yield Question(words + "points", "ours", "plain", figure)
            yield Question(words + "points", "ours+adversarial", "adversarial", figure)
    yield Question(
        "processor time of the training, ratio", "ours", "plain", processor_seconds, ratio=True
    )


def _place(name: str) -> str:
    return {"all": "all pixels", "background": "background alone"}.get(name, "object alone")


def _by_seed(found: Sequence[Evaluation], arm: str) -> dict[int, Evaluation]:
    return {one["unit"]["seed"]: one for one in of_arm(found, arm)}
