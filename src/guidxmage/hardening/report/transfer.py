"""What a network gains from samples that another network made."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite, nan
from statistics import mean

from guidxmage.hardening.report.measurements import (
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
    names = _networks(found)
    judged = {name: _judged_by(found, name) for name in names}
    if not any(judged.values()):
        return "No attack on the background was run."
    lines = [
        "Robust accuracy, PGD linf on the background alone, at the ε where a network's own samples "
        "gain most. Rows: the network that is retrained; columns: without samples, then the "
        "network that made them. Kept: the gain over `longer` with the samples of others, as a "
        "share of the gain with its own.",
        "",
        "| retrained | ε | plain | longer | " + " | ".join(names) + " | kept |",
        "| --- |" + " ---: |" * (4 + len(names)),
    ]
    for target, by in judged.items():
        if by is None:
            continue
        figure, bound = by
        own = [one for one in found if one["unit"]["network"] == target]
        groups = [of_arm(own, "plain"), of_arm(own, "longer"), *(_from(own, n) for n in names)]
        cells = [bound, *(spread([figure(one) for one in group], 100, 1) for group in groups)]
        share = kept(found, target)
        cells.append(f"{100 * share:.0f} %" if isfinite(share) else NONE)
        lines.append(f"| {target} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def kept(found: Sequence[Evaluation], network: str) -> float:
    """The network's mean gain over `longer` with the samples of others, over that with its own.

    NaN where either was not measured, or its own samples gain nothing.
    """
    judged = _judged_by(found, network)
    if judged is None:
        return nan
    own = [one for one in found if one["unit"]["network"] == network]
    others = [one for n in _networks(found) if n != network for one in _from(own, n)]
    groups = [_from(own, network), others, of_arm(own, "longer")]
    values = [[judged[0](one) for one in group] for group in groups]
    if not all(values):
        return nan
    best, foreign, without = map(mean, values)
    return (foreign - without) / (best - without) if best > without else nan


def _judged_by(found: Sequence[Evaluation], network: str) -> tuple[Figure, str] | None:
    """PGD on the background alone, at the bound where the network's own samples gain most.

    What other networks' samples do there has no say in the choice. None where there is no such
    attack.
    """
    own = [one for one in found if one["unit"]["network"] == network]
    with_own, without = _from(own, network), of_arm(own, "longer") or of_arm(own, "plain")
    if not with_own or not without:
        return None

    def gain(eps: float) -> float:
        figure = robust("background", "pgd", "linf", eps)
        return mean(map(figure, with_own)) - mean(map(figure, without))

    levels = bounds(own, "background", "pgd", "linf")
    if not levels:
        return None
    best = max(levels, key=gain)
    return robust("background", "pgd", "linf", best), bound_name(best, "linf")


def _networks(found: Sequence[Evaluation]) -> list[str]:
    return list(dict.fromkeys(one["unit"]["network"] for one in found))


def _from(own: Sequence[Evaluation], source: str) -> list[Evaluation]:
    """Retrained with the series of one network, which may be the network itself."""
    series = [one for one in own if one["unit"]["arm"] == "series"]
    return [one for one in series if (one["unit"]["source"] or one["unit"]["network"]) == source]
