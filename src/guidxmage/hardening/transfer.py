"""What a network gains from samples that another network made."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite, nan
from statistics import mean

from guidxmage.hardening.measurements import (
    NONE,
    Evaluation,
    Figure,
    bound_name,
    bounds,
    of_arm,
    robust,
    spread,
)


def transfer_table(found: Sequence[Evaluation]) -> str:
    """Markdown: accuracy under attacks on the background, by network and by whose series."""
    figure, bound = _judged_by(found)
    if figure is None:
        return "No attack on the background was run."
    names = _networks(found)
    lines = [
        f"Robust accuracy, PGD linf {bound} on the background alone. Rows: the "
        "network that is retrained; columns: without samples, then the network that made them. "
        "Kept: the gain over `longer` with the samples of others, as a share of the gain with its "
        "own.",
        "",
        "| retrained | plain | longer | " + " | ".join(names) + " | kept |",
        "| --- |" + " ---: |" * (3 + len(names)),
    ]
    for target in names:
        own = [one for one in found if one["unit"]["network"] == target]
        groups = [of_arm(own, "plain"), of_arm(own, "longer"), *(_from(own, n) for n in names)]
        cells = [spread([figure(one) for one in group], 100, 1) for group in groups]
        share = kept(found, target)
        cells.append(f"{100 * share:.0f} %" if isfinite(share) else NONE)
        lines.append(f"| {target} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def kept(found: Sequence[Evaluation], network: str) -> float:
    """The network's mean gain over `longer` with the samples of others, over that with its own.

    NaN where either was not measured, or its own samples gain nothing.
    """
    figure, _ = _judged_by(found)
    if figure is None:
        return nan
    own = [one for one in found if one["unit"]["network"] == network]
    others = [one for n in _networks(found) if n != network for one in _from(own, n)]
    groups = [_from(own, network), others, of_arm(own, "longer")]
    values = [[figure(one) for one in group] for group in groups]
    if not all(values):
        return nan
    best, foreign, without = map(mean, values)
    return (foreign - without) / (best - without) if best > without else nan


def _judged_by(found: Sequence[Evaluation]) -> tuple[Figure | None, str]:
    """PGD on the background alone, at the middle one of the bounds."""
    levels = bounds(found, "background", "pgd", "linf")
    if not levels:
        return None, ""
    eps = levels[len(levels) // 2]
    return robust("background", "pgd", "linf", eps), bound_name(eps, "linf")


def _networks(found: Sequence[Evaluation]) -> list[str]:
    return list(dict.fromkeys(one["unit"]["network"] for one in found))


def _from(own: Sequence[Evaluation], source: str) -> list[Evaluation]:
    """Retrained with the series of one network, which may be the network itself."""
    series = [one for one in own if one["unit"]["arm"] == "series"]
    return [one for one in series if (one["unit"]["source"] or one["unit"]["network"]) == source]
