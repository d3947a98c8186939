"""What a network gains from samples that another network made."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite, nan
from statistics import mean

from guidxmage.hardening.report.measurements import (
    NONE,
    Evaluation,
    bounds,
    by,
    of_arm,
    spread,
    values,
)
from guidxmage.reports.markdown import table


def transfer_table(found: Sequence[Evaluation]) -> str:
    """Accuracy under attacks on the background, by network and by whose series.

    Empty where no such attack was run.
    """
    networks = by(found, "network")
    rows = []
    for target, own in networks.items():
        bound = _judged_at(own, target)
        if bound is None:
            continue
        groups = [of_arm(own, "plain"), of_arm(own, "longer"), *(_from(own, n) for n in networks)]
        cells = [spread(values(group, _attack(bound)), 100, 1) for group in groups]
        share = kept(found, target)
        rows.append([target, bound, *cells, f"{100 * share:.0f} %" if isfinite(share) else NONE])
    return table(["retrained", "ε", "plain", "longer", *networks, "kept"], rows)


def kept(found: Sequence[Evaluation], network: str) -> float:
    """The network's mean gain over `longer` with the samples of others, over that with its own.

    NaN where either was not measured, or its own samples gain nothing.
    """
    networks = by(found, "network")
    own = networks[network]
    bound = _judged_at(own, network)
    if bound is None:
        return nan
    others = [one for name in networks if name != network for one in _from(own, name)]
    groups = [_from(own, network), others, of_arm(own, "longer")]
    if not all(groups):
        return nan
    best, foreign, without = (mean(values(group, _attack(bound))) for group in groups)
    return (foreign - without) / (best - without) if best > without else nan


def _attack(bound: str) -> str:
    return f"background pgd linf {bound}"


def _judged_at(own: Sequence[Evaluation], network: str) -> str | None:
    """The bound where the network's own samples gain most against PGD on the background alone.

    What other networks' samples do there has no say in the choice. None where there is no such
    attack.
    """
    with_own, without = _from(own, network), of_arm(own, "longer") or of_arm(own, "plain")
    levels = bounds(own, "background", "pgd", "linf")
    if not with_own or not without or not levels:
        return None

    def gain(bound: str) -> float:
        return mean(values(with_own, _attack(bound))) - mean(values(without, _attack(bound)))

    return max(levels, key=gain)


def _from(own: Sequence[Evaluation], source: str) -> list[Evaluation]:
    """Retrained with the series of one network, which may be the network itself."""
    series = [one for one in own if one["unit"]["arm"] == "series"]
    return [one for one in series if (one["unit"]["source"] or one["unit"]["network"]) == source]
