"""The report of an experiment: what each arm gains and costs, in the form of a model card."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import mean
from typing import Any

from guidxmage.hardening.report.comparison import PLACES, summary
from guidxmage.hardening.report.goals import goals_table
from guidxmage.hardening.report.measurements import (
    SECONDS,
    Evaluation,
    bounds,
    by,
    compared,
    spread,
    values,
)
from guidxmage.hardening.report.transfer import transfer_table
from guidxmage.reports.markdown import rendered, table

LEANING = {
    "clean": "clean",
    "mixed same": "mixed_same",
    "mixed random": "mixed_random",
    "gap": "gap",
    "background's share of Σ|A|": "share_ours",
    "… of integrated gradients": "share_gradients",
}
ATTACKS = {"pgd": "PGD", "autoattack": "AutoAttack"}
SMALLEST = {"guid-xmage": "ours", "ddn": "DDN", "cw": "C&W"}
# A column from the evaluations of an arm; mean ± standard deviation over seeds.
Column = Callable[[Sequence[Evaluation]], str]


def report(
    found: Sequence[Evaluation],
    title: str = "Hardening",
    figures: Mapping[str, Sequence[str]] | None = None,
    card: str = "",
) -> str:
    """The whole report in Markdown.

    figures: of each network, files below the report's folder; card: what was run, as `model_card`
    has it.
    """
    direct = [one for one in found if not one["unit"]["source"]]
    return rendered(
        __package__,
        "hardening.md",
        title=title,
        seeds=sorted({one["unit"]["seed"] for one in found}),
        attacked=sorted({c["images"] for one in found for p in one["parts"] for c in p["curves"]}),
        goals=goals_table(found),
        summary=summary(found),
        networks=[
            {"name": name, "figures": (figures or {}).get(name, ()), **_network(own)}
            for name, own in by(direct, "network").items()
        ],
        transferred=len(direct) < len(found),
        transfer=transfer_table(found),
        card=card,
    )


def _network(found: Sequence[Evaluation]) -> dict[str, Any]:
    """The tables of one network."""

    def cost(own: Sequence[Evaluation]) -> str:
        # Beside the plain network's of the same seed: seeds may have been run on other machines.
        arm = own[0]["unit"]["arm"]
        return spread(compared(found, arm, "plain", SECONDS, ratio=True), 1, 3)

    leaning = {title: _column(name, 100, 1) for title, name in LEANING.items()}
    return {
        "leaning": _table(found, {**leaning, "processor time, × plain": cost}),
        "attacks": {
            place if part == "all" else f"the {place}": _table(found, _attacked(found, part))
            for part, place in PLACES.items()
        },
        "masking": _masking(found),
    }


def _attacked(found: Sequence[Evaluation], part: str) -> dict[str, Column]:
    """Accuracies under attacks on a part, and the norms that attacks need."""
    accuracies = {
        f"{label} {norm} {eps}": _column(f"{part} {attack} {norm} {eps}", 100, 1)
        for attack, label in ATTACKS.items()
        for norm in ("linf", "l2")
        for eps in bounds(found, part, attack, norm)
    }
    norms = {
        f"median l2, {label}": _column(f"{part} l2 {attack}", 1, 3)
        for attack, label in SMALLEST.items()
    }
    return accuracies | norms


def _column(name: str, scale: float, digits: int) -> Column:
    return lambda own: spread(values(own, name), scale, digits)


def _table(found: Sequence[Evaluation], columns: Mapping[str, Column]) -> str:
    """A row for each arm."""
    arms = by(found, "arm").items()
    rows = [[arm, *(column(own) for column in columns.values())] for arm, own in arms]
    return table(["arm", *columns], rows)


def _masking(found: Sequence[Evaluation]) -> str:
    rows = []
    for arm, own in by(found, "arm").items():
        checks = [one["masking"] for one in own]
        left, pgd, square, zero = (
            f"{100 * mean(check[name] for check in checks):.1f}"
            for name in ("accuracy_unbounded", "white_box", "black_box", "zero_gradients")
        )
        falls = "yes" if all(check["monotone"] for check in checks) else "no"
        passed = f"{sum(check['passed'] for check in checks)} of {len(checks)}"
        rows.append([arm, left, falls, pgd, square, zero, passed])
    head = ["accuracy left with ε = 1", "curves fall", "PGD", "Square", "zero gradients", "passed"]
    return table(["arm", *head], rows, words=(0, 2, 6))
