"""What was run, on what and with what, in the manner of a model card (Mitchell et al. 2019)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from guidxmage.hardening.data.splits import Splits
from guidxmage.hardening.report.measurements import Evaluation, bound_name
from guidxmage.hardening.robustness.attacks import PARTS
from guidxmage.hardening.robustness.measure import Effort
from guidxmage.hardening.units import Experiment

_USE = (
    "Networks that were retrained here are made to measure what the samples do, for research. "
    "The accuracies hold for attacks that know the network's weights and stay within the stated "
    "bounds on the stated pixels; they say nothing about other changes of an image, such as "
    "rotation, blur or weather. An attack bounds robustness from above: a stronger one may leave "
    "less. Where masks are wrong, or an application has no masks, the figures for background and "
    "object do not carry over."
)


def model_card(experiment: Experiment, data: Splits, found: Sequence[Evaluation]) -> str:
    """Markdown: networks, data, trainings, attacks and versions."""
    lines = [*_networks(found), _data(data), *_trainings(experiment), *_attacks(experiment.effort)]
    versions = found[0].get("versions", {})
    lines.append("- **Versions**: " + ", ".join(f"{k} {v}" for k, v in versions.items()) + ".")
    return "\n".join([*lines, "", _USE])


def _networks(found: Sequence[Evaluation]) -> Iterator[str]:
    names = dict.fromkeys(one["unit"]["network"] for one in found)
    parts = []
    for name in names:
        own = [one for one in found if one["unit"]["network"] == name]
        parts.append(f"{name} ({own[0].get('parameters', 0):,} parameters)")
    yield "- **Networks**: " + ", ".join(parts) + "."


def _data(data: Splits) -> str:
    sizes = {
        "training": data.train,
        "validation": data.validation,
        "test": data.test,
        "before backgrounds of the own class": data.same,
        "before backgrounds of any class": data.mixed,
    }
    told = ", ".join(f"{len(part):,} {name}" for name, part in sizes.items() if part is not None)
    image = list(data.test.__getitems__([0]).images.shape[1:])
    return (
        f"- **Data**: {told}; {len(data.train.classes)} classes, images of "
        f"{' × '.join(map(str, image))}."
    )


def _trainings(experiment: Experiment) -> Iterator[str]:
    config = experiment.config(0, plain=True)
    flips = ", flips" if experiment.flip else ""
    yield (
        f"- **Training**: {experiment.plain_steps} optimiser steps, then "
        f"{experiment.retrain_steps} in each arm, batches of {experiment.batch}, crops of "
        f"{experiment.crop} pixels{flips}; SGD with momentum {config.momentum:g}, weight decay "
        f"{config.weight_decay:g}, {config.schedule} learning rate with peaks "
        f"{experiment.plain_lr:g} and {experiment.retrain_lr:g}; no weights are chosen by their "
        "validation score, those of the last step are attacked."
    )
    yield "- **Arms**: " + _settings(asdict(experiment.arm)) + "."
    yield "- **Samples made once** (`series`): " + _settings(asdict(experiment.series)) + "."


def _attacks(effort: Effort) -> Iterator[str]:
    yield (
        f"- **PGD** (foolbox): {effort.pgd_steps} steps of 2.5 ε / steps, {effort.pgd_restarts} "
        f"random start(s), {effort.images} images."
    )
    if effort.auto_images and (effort.auto_linf or effort.auto_l2):
        linf = [f"l∞ {bound_name(eps, 'linf')}" for eps in effort.auto_linf]
        l2 = [f"l2 {eps:g}" for eps in effort.auto_l2]
        yield (
            f"- **AutoAttack** (pyautoattack), standard version: {', '.join(linf + l2)} on "
            f"{effort.auto_images} images; {', '.join(effort.auto_parts)}."
        )
    tried = [f"ours with {effort.budget} gradients"] if effort.budget else []
    tried += [f"DDN with {effort.ddn_steps} steps"] if effort.ddn_steps else []
    if effort.cw_steps:
        parts = "" if set(effort.cw_parts) == set(PARTS) else f" ({', '.join(effort.cw_parts)})"
        tried.append(
            f"Carlini & Wagner with {effort.cw_searches} searches of {effort.cw_steps}{parts}"
        )
    if tried:
        count = min(effort.images, effort.least_images)
        yield f"- **Least l2 perturbations**, {count} images: {', '.join(tried)} (foolbox)."
    yield (
        f"- **Masked gradients**: PGD with ε = 1, and Square with {effort.square_queries} queries."
    )


def _settings(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {_text(value)}" for name, value in values.items())


def _text(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return " ".join(map(_text, value))
    if isinstance(value, float) and value < 1 and (value * 255).is_integer():
        return bound_name(value, "linf")
    return str(value)
