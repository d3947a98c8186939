"""The report of an experiment: what each arm gains and costs, in the form of a model card."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import isfinite, nan
from statistics import mean, stdev
from typing import Any

from guidxmage.hardening.networks import file_name

# An evaluation as `experiment.run` returns it.
Evaluation = dict[str, Any]
Figure = Callable[[Evaluation], float]


@dataclass(frozen=True)
class Column:
    """One figure of the tables; `share` is shown in per cent."""

    title: str
    figure: Figure
    share: bool = True

    def text(self, found: Sequence[Evaluation]) -> str:
        """Mean ± standard deviation over seeds."""
        values = [value for one in found if isfinite(value := self.figure(one))]
        if not values:
            return "–"
        scale = 100 if self.share else 1
        digits = 1 if self.share else 3
        spread = f" ± {scale * stdev(values):.{digits}f}" if len(values) > 1 else ""
        return f"{scale * mean(values):.{digits}f}{spread}"


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


def bounds(found: Sequence[Evaluation], name: str, attack: str, norm: str) -> list[float]:
    """The ε of an attack on a part, ascending; empty where it was not run."""
    for one in found:
        for curve in part(one, name).get("curves", []):
            if (curve["attack"], curve["norm"]) == (attack, norm):
                return [float(bound) for bound in curve["eps"]]
    return []


def _leaning(name: str) -> Figure:
    def figure(found: Evaluation) -> float:
        value = found["reliance"][name]
        return nan if value is None else float(value)

    return figure


def _robust(name: str, attack: str, norm: str, eps: float) -> Figure:
    return lambda found: robust_accuracy(found, name, attack, norm, eps)


def _size(name: str, attack: str) -> Figure:
    return lambda found: median_size(found, name, attack)


def _seconds(found: Evaluation) -> float:
    return float(found["training"]["processor_seconds"])


LEANING = (
    Column("clean", _leaning("clean")),
    Column("mixed same", _leaning("mixed_same")),
    Column("mixed random", _leaning("mixed_random")),
    Column("gap", _leaning("gap")),
    Column("background's share of Σ\\|A\\|", _leaning("share_ours")),
    Column("… of integrated gradients", _leaning("share_gradients")),
    Column("processor seconds", _seconds, share=False),
)


def report(
    found: Sequence[Evaluation], title: str = "Hardening", figures: Sequence[str] = ()
) -> str:
    """The whole report in Markdown; figures: files named <network>-<what it shows>.png."""
    sections = [f"# {title}", _introduction(found)]
    for network in dict.fromkeys(one["unit"]["network"] for one in found):
        own = [one for one in found if one["unit"]["network"] == network]
        direct = [one for one in own if not one["unit"]["source"]]
        sections += [f"## {network}", *_pictures(network, figures), *_network(direct)]
    if any(one["unit"]["source"] for one in found):
        sections += ["## Samples from other networks", _transfer(found)]
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
    return (
        f"Mean ± standard deviation over seeds {', '.join(map(str, seeds))}; {attacked} test "
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
    yield "### Accuracy, and how much the background counts\n\n" + _table(found, LEANING)
    for name in ("background", "object", "all"):
        columns = [
            Column(f"{label} {norm} {_bound(eps, norm)}", _robust(name, attack, norm, eps))
            for attack, label in (("pgd", "PGD"), ("autoattack", "AutoAttack"))
            for norm in ("linf", "l2")
            for eps in bounds(found, name, attack, norm)
        ]
        columns += [
            Column(f"median l2, {label}", _size(name, attack), share=False)
            for attack, label in (("guid-xmage", "ours"), ("ddn", "DDN"), ("cw", "C&W"))
        ]
        what = {"all": "all pixels", "background": "the background alone"}.get(
            name, "the object alone"
        )
        yield f"### Attacks on {what}\n\n" + _table(found, columns)
    yield "### Checks for masked gradients\n\n" + _masking(found)


def _bound(eps: float, norm: str) -> str:
    return f"{eps * 255:g}/255" if norm == "linf" else f"{eps:g}"


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


def _transfer(found: Sequence[Evaluation]) -> str:
    """Accuracy under background attacks after retraining with another network's series."""
    levels = bounds(found, "background", "pgd", "linf")
    if not levels:
        return "No attack on the background was run."
    eps = levels[len(levels) // 2]
    names = list(dict.fromkeys(one["unit"]["network"] for one in found))
    figure = Column("", _robust("background", "pgd", "linf", eps))
    lines = [
        f"Robust accuracy, PGD linf {_bound(eps, 'linf')} on the background alone. Rows: the "
        "network that is retrained; columns: without samples, then the network that made them.",
        "",
        "| retrained | plain | longer | " + " | ".join(names) + " |",
        "| --- |" + " ---: |" * (2 + len(names)),
    ]
    for target in names:
        own = [one for one in found if one["unit"]["network"] == target]
        cells = [figure.text([one for one in own if one["unit"]["arm"] == "plain"])]
        cells.append(figure.text([one for one in own if one["unit"]["arm"] == "longer"]))
        for source in names:
            cells.append(
                figure.text(
                    [
                        one
                        for one in own
                        if one["unit"]["arm"] == "series"
                        and (one["unit"]["source"] or target) == source
                    ]
                )
            )
        lines.append(f"| {target} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
