"""The arms against each other, seed by seed: what a reader looks for first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from guidxmage.hardening.report.measurements import (
    NONE,
    SECONDS,
    Evaluation,
    bounds,
    by,
    compared,
    of_arm,
    spread,
    values,
)
from guidxmage.reports.markdown import table

PLACES = {"background": "background alone", "object": "object alone", "all": "all pixels"}


def summary(found: Sequence[Evaluation]) -> str:
    """The table of all questions that the arms can answer; empty where there is none."""
    networks = by(found, "network")
    rows = []
    for what, unit, arm, rival, name in _questions(found):
        form = (1, 2, "") if unit == "ratio" else (100, 1, "+")
        each = [compared(o, arm, rival, name, unit == "ratio") for o in networks.values()]
        cells = [spread(numbers, *form) for numbers in each]
        rows.append([f"{what}, {unit}", f"`{arm}` against `{rival}`", *cells])
    for arm in ("plain", "ours", "ours+backgrounds"):
        cells = [spread(values(of_arm(o, arm), "gap"), 100, 1) for o in networks.values()]
        rows.append(["gap between backgrounds, points", f"`{arm}`", *cells])
    answered = [row for row in rows if any(cell != NONE for cell in row[2:])]
    return table(["", "", *networks], answered, words=(0, 1))


def _questions(found: Sequence[Evaluation]) -> Iterator[tuple[str, str, str, str, str]]:
    """What is asked and in which unit; of which arm, against which other; by which figure."""
    clean = "clean accuracy", "points"
    yield *clean, "ours", "plain", "clean"
    for part, place in PLACES.items():
        for eps in bounds(found, part, "pgd", "linf"):
            yield f"{place}, PGD l∞ {eps}", "points", "ours", "plain", f"{part} pgd linf {eps}"
    for part in ("all", "background"):
        for rival in ("plain", "noise"):
            what = f"{PLACES[part]}, median least l2"
            yield what, "ratio", "ours", rival, f"{part} l2 guid-xmage"
    yield *clean, "ours+backgrounds", "plain", "clean"
    yield *clean, "ours+adversarial", "adversarial", "clean"
    for norm in ("linf", "l2"):
        for eps in bounds(found, "all", "autoattack", norm):
            what = f"all pixels, AutoAttack {norm.replace('inf', '∞')} {eps}"
            for arm, rival in (("ours", "plain"), ("ours+adversarial", "adversarial")):
                yield what, "points", arm, rival, f"all autoattack {norm} {eps}"
    yield "processor time of the training", "ratio", "ours", "plain", SECONDS
