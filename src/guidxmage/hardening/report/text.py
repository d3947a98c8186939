"""The report of an experiment: what each arm gains and costs, in the form of a model card."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

from guidxmage.hardening.report.comparison import summary
from guidxmage.hardening.report.goals import goals_table
from guidxmage.hardening.report.measurements import (
    Evaluation,
    Figure,
    beside_plain,
    bound_name,
    bounds,
    leaning_of,
    least_l2,
    processor_seconds,
    robust,
    spread,
)
from guidxmage.hardening.report.transfer import transfer_table
from guidxmage.hardening.training.networks import file_name


@dataclass(frozen=True)
class Column:
    """One figure of the tables; `share` is shown in per cent."""

    title: str
    figure: Figure
    share: bool = True

    def text(self, found: Sequence[Evaluation]) -> str:
        """Mean ± standard deviation over seeds."""
        scale, digits = (100, 1) if self.share else (1, 3)
        return spread([self.figure(one) for one in found], scale, digits)


LEANING = (
    Column("clean", leaning_of("clean")),
    Column("mixed same", leaning_of("mixed_same")),
    Column("mixed random", leaning_of("mixed_random")),
    Column("gap", leaning_of("gap")),
    Column("background's share of Σ\\|A\\|", leaning_of("share_ours")),
    Column("… of integrated gradients", leaning_of("share_gradients")),
)


def report(
    found: Sequence[Evaluation],
    title: str = "Hardening",
    figures: Sequence[str] = (),
    card: str = "",
) -> str:
    """The whole report in Markdown.

    figures: files named <network>-<what it shows>.png; card: what was run, for the end.
    """
    sections = [f"# {title}", _introduction(found)]
    if aimed := goals_table(found):
        sections += ["## Goals", aimed]
    if short := summary(found):
        sections += ["## In short", short]
    for network in dict.fromkeys(one["unit"]["network"] for one in found):
        own = [one for one in found if one["unit"]["network"] == network]
        direct = [one for one in own if not one["unit"]["source"]]
        sections += [f"## {network}", *_pictures(network, figures), *_network(direct)]
    if any(one["unit"]["source"] for one in found):
        sections += ["## Samples from other networks", transfer_table(found)]
    if card:
        sections += ["## What was run", card]
    return "\n\n".join(sections) + "\n"


def _pictures(network: str, figures: Sequence[str]) -> Iterator[str]:
    for file in figures:
        name = file.rsplit("/", 1)[-1]
        if name.startswith(f"{file_name(network)}-"):
            yield f"![{name.removesuffix('.png')}]({file})"


def _introduction(found: Sequence[Evaluation]) -> str:
    seeds = sorted({one["unit"]["seed"] for one in found})
    images = sorted({c["images"] for one in found for p in one["parts"] for c in p["curves"]})
    attacked = " and ".join(str(count) for count in images)
    listed = ", ".join(map(str, seeds))
    over = f"Mean ± standard deviation over seeds {listed}" if len(seeds) > 1 else f"Seed {listed}"
    return (
        f"{over}; {attacked} test "
        "images are attacked. Accuracies and shares in per cent, norms of pixels in [0, 1]. All "
        "arms begin with the network `plain` and run the same number of optimiser steps.\n\n"
        "- `longer`: plain training; `noise`: the background's pixels moved as far as ours, with "
        "random signs; `object`: the object changed instead of the background; `backgrounds`: "
        "objects before other images' backgrounds; `adversarial`: PGD training on all pixels; "
        "`ours`: the background's contribution suppressed, samples made anew at each step; "
        "`ours+adversarial`, `ours+backgrounds`: both; `series`: samples made once, before the "
        "retraining; `ours-grown`, `ours-shrunk`, `ours-displaced`: ours with masks that are two "
        "pixels too large, too small, or four pixels off."
    )


def _network(found: Sequence[Evaluation]) -> Iterator[str]:
    cost = Column("processor time, × plain", beside_plain(found, processor_seconds), share=False)
    columns = [*LEANING, cost]
    yield "### Accuracy, and how much the background counts\n\n" + _table(found, columns)
    for name in ("background", "object", "all"):
        columns = [
            Column(f"{label} {norm} {bound_name(eps, norm)}", robust(name, attack, norm, eps))
            for attack, label in (("pgd", "PGD"), ("autoattack", "AutoAttack"))
            for norm in ("linf", "l2")
            for eps in bounds(found, name, attack, norm)
        ]
        columns += [
            Column(f"median l2, {label}", least_l2(name, attack), share=False)
            for attack, label in (("guid-xmage", "ours"), ("ddn", "DDN"), ("cw", "C&W"))
        ]
        what = {"all": "all pixels", "background": "the background alone"}.get(
            name, "the object alone"
        )
        yield f"### Attacks on {what}\n\n" + _table(found, columns)
    yield "### Checks for masked gradients\n\n" + _masking(found)


def _arms(found: Sequence[Evaluation]) -> dict[str, list[Evaluation]]:
    arms: dict[str, list[Evaluation]] = {}
    for one in found:
        arms.setdefault(one["unit"]["arm"], []).append(one)
    return arms


def _table(found: Sequence[Evaluation], columns: Sequence[Column]) -> str:
    head = "| arm | " + " | ".join(column.title for column in columns) + " |"
    rule = "| --- |" + " ---: |" * len(columns)
    rows = [
        f"| {arm} | " + " | ".join(column.text(own) for column in columns) + " |"
        for arm, own in _arms(found).items()
    ]
    return "\n".join([head, rule, *rows])


def _masking(found: Sequence[Evaluation]) -> str:
    lines = [
        "| arm | accuracy left with ε = 1 | curves fall | PGD | Square | zero gradients | passed |",
        "| --- | ---: | --- | ---: | ---: | ---: | --- |",
    ]
    for arm, own in _arms(found).items():
        checks = [one["masking"] for one in own]
        lines.append(
            f"| {arm} | {_average(checks, 'accuracy_unbounded')} "
            f"| {'yes' if all(check['monotone'] for check in checks) else 'no'} "
            f"| {_average(checks, 'white_box')} | {_average(checks, 'black_box')} "
            f"| {_average(checks, 'zero_gradients')} "
            f"| {sum(check['passed'] for check in checks)} of {len(checks)} |"
        )
    return "\n".join(lines)


def _average(checks: Sequence[dict[str, Any]], name: str) -> str:
    return f"{100 * mean(check[name] for check in checks):.1f}"
