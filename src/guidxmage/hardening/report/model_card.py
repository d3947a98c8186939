"""What was run, on what and with what, in the manner of a model card (Mitchell et al. 2019)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from markupsafe import Markup

from guidxmage.hardening.data.splits import Splits
from guidxmage.hardening.report.measurements import Evaluation, bound_name, by
from guidxmage.hardening.robustness.attacks import PARTS
from guidxmage.hardening.robustness.measure import Effort
from guidxmage.hardening.units import Experiment
from guidxmage.reports.markdown import rendered


def model_card(experiment: Experiment, data: Splits, found: Sequence[Evaluation]) -> Markup:
    """Markdown: networks, data, trainings, attacks and versions."""
    effort = experiment.effort
    return rendered(
        __package__,
        "card.md",
        networks={n: own[0].get("parameters", 0) for n, own in by(found, "network").items()},
        parts={
            "training": data.train,
            "validation": data.validation,
            "test": data.test,
            "before backgrounds of the own class": data.same,
            "before backgrounds of any class": data.mixed,
        },
        classes=len(data.train.classes),
        image=list(data.test.__getitems__([0]).images.shape[1:]),
        own=experiment,
        config=experiment.config(0, plain=True),
        arm=_settings(asdict(experiment.arm)),
        series=_settings(asdict(experiment.series)),
        effort=effort,
        auto=", ".join(_bounds(effort)) if effort.auto_images else "",
        least=", ".join(_least(effort)),
        versions=found[0].get("versions", {}),
    )


def _bounds(effort: Effort) -> Iterator[str]:
    """Of AutoAttack."""
    for eps in effort.auto_linf:
        yield f"l∞ {bound_name(eps, 'linf')}"
    for eps in effort.auto_l2:
        yield f"l2 {bound_name(eps, 'l2')}"


def _least(effort: Effort) -> Iterator[str]:
    """The attacks that look for the least perturbation."""
    if effort.budget:
        yield f"ours with {effort.budget} gradients"
    if effort.ddn_steps:
        yield f"DDN with {effort.ddn_steps} steps"
    if effort.cw_steps:
        parts = "" if set(effort.cw_parts) == set(PARTS) else f" ({', '.join(effort.cw_parts)})"
        yield f"Carlini & Wagner with {effort.cw_searches} searches of {effort.cw_steps}{parts}"


def _settings(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {_text(value)}" for name, value in values.items())


def _text(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return " ".join(map(_text, value))
    if isinstance(value, float) and value < 1 and (value * 255).is_integer():
        return bound_name(value, "linf")
    return str(value)
