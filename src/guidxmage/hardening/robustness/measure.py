"""How much a network withstands: accuracy within bounds and least sizes, on parts of the image."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated, Any

import torch
from pydantic import AfterValidator
from torch import Tensor, nn

from guidxmage.errors import InputError
from guidxmage.files.schema import (
    Count,
    CountOrNone,
    LengthBounds,
    PixelBounds,
    Rounds,
    RoundsOrNone,
    Seed,
    check,
    distinct,
    some_of,
    whole,
)
from guidxmage.hardening.data.dataset import LabelledBatch
from guidxmage.hardening.robustness import attacks
from guidxmage.hardening.robustness.attacks import PARTS, Norm, Part, Target

Parts = Annotated[tuple[Part, ...], some_of(PARTS), AfterValidator(distinct)]
PartsOrNone = Annotated[tuple[Part, ...], some_of(PARTS, 0), AfterValidator(distinct)]
# Without one nothing would be attacked, and everything would seem to withstand.
Restarts = Annotated[int, whole(1, 1000)]


@dataclass(frozen=True)
class Effort:
    """How hard the attacks try.

    images: how many test images are attacked; parts: where; linf, l2: bounds of PGD, ascending;
    auto_linf, auto_l2: bounds of AutoAttack, standard version, on `auto_images` images and
    `auto_parts`; least_images: for the three attacks that look for the smallest change, which are
    the project's own with `budget` gradients, DDN and, on `cw_parts`, Carlini & Wagner. Zero steps
    leave an attack out.
    """

    images: Count = 256
    parts: Parts = PARTS
    linf: PixelBounds = (1 / 255, 2 / 255, 4 / 255, 8 / 255)
    l2: LengthBounds = (0.1, 0.25, 0.5, 1.0)
    pgd_steps: RoundsOrNone = 40
    pgd_restarts: Restarts = 2
    least_images: Count = 256
    cw_steps: RoundsOrNone = 500
    cw_searches: Restarts = 6
    cw_parts: PartsOrNone = PARTS
    budget: RoundsOrNone = 100
    ddn_steps: RoundsOrNone = 100
    auto_linf: PixelBounds = (2 / 255,)
    auto_l2: LengthBounds = (0.25,)
    auto_images: CountOrNone = 128
    auto_parts: PartsOrNone = PARTS
    square_queries: Rounds = 1000
    seed: Seed = 0

    def __post_init__(self) -> None:
        check(self)

    def least(self) -> Effort:
        """What the transfer of samples is judged by: PGD in l∞ on the background alone."""
        return replace(
            self, parts=("background",), l2=(), auto_parts=(), budget=0, ddn_steps=0, cw_steps=0
        )


@dataclass(frozen=True)
class Curve:
    """Robust accuracy, the share of all images answered rightly whatever an attack does, by ε."""

    attack: str
    norm: Norm
    images: int
    accuracy: dict[float, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain lists."""
        return {
            "attack": self.attack,
            "norm": self.norm,
            "images": self.images,
            "eps": list(self.accuracy),
            "accuracy": list(self.accuracy.values()),
        }


@dataclass(frozen=True)
class PartResult:
    """What attacks on one part achieve.

    sizes: for each minimal attack the least l2 norm it finds on each image, (B,): 0 where the
    network is wrong to begin with, inf where it finds none.
    """

    part: Part
    curves: tuple[Curve, ...]
    sizes: dict[str, Tensor]

    def median(self, attack: str) -> float:
        """Of the sizes over all images; inf where more than half withstand everything."""
        return float(self.sizes[attack].double().quantile(0.5, interpolation="higher"))

    def accuracy(self, attack: str, norm: Norm, eps: float) -> float:
        """Of one curve at one bound. Raises InputError where it has not been measured."""
        for curve in self.curves:
            if (curve.attack, curve.norm) == (attack, norm) and eps in curve.accuracy:
                return curve.accuracy[eps]
        raise InputError(f"{attack} has not been run with {norm} {eps:g} on the {self.part}")

    def to_json(self) -> dict[str, Any]:
        """Plain numbers; inf becomes null."""
        medians = {name: self.median(name) for name in self.sizes}
        return {
            "part": self.part,
            "curves": [curve.to_json() for curve in self.curves],
            "median_l2": {
                name: value if value < float("inf") else None for name, value in medians.items()
            },
            "found": {
                name: float(torch.isfinite(size).double().mean())
                for name, size in self.sizes.items()
            },
        }


def attack_part(model: nn.Module, batch: LabelledBatch, part: Part, effort: Effort) -> PartResult:
    """All attacks of an effort on one part of some images; the model has to be in eval mode."""
    target = _target(model, batch, part, effort.images)
    curves = [_pgd_curve(target, "linf", effort), _pgd_curve(target, "l2", effort)]
    if part in effort.auto_parts and effort.auto_images:
        small = _target(model, batch, part, effort.auto_images)
        for norm, bounds in (("linf", effort.auto_linf), ("l2", effort.auto_l2)):
            curves.append(_auto_curve(small, norm, bounds, effort))  # type: ignore[arg-type]
    sizes = _sizes(_target(model, batch, part, min(effort.images, effort.least_images)), effort)
    return PartResult(part, tuple(curve for curve in curves if curve.accuracy), sizes)


def _target(model: nn.Module, batch: LabelledBatch, part: Part, count: int) -> Target:
    return Target(model, batch.images[:count], batch.labels[:count], batch.masks[:count], part)


def _pgd_curve(target: Target, norm: Norm, effort: Effort) -> Curve:
    """PGD at all bounds."""
    curve = Curve("pgd", norm, len(target.labels))
    for eps in getattr(effort, norm) if effort.pgd_steps else ():
        withstood = attacks.pgd(
            target,
            norm,
            eps,
            steps=effort.pgd_steps,
            restarts=effort.pgd_restarts,
            seed=effort.seed,
        )
        curve.accuracy[eps] = float(withstood.double().mean())
    return curve


def _auto_curve(target: Target, norm: Norm, bounds: tuple[float, ...], effort: Effort) -> Curve:
    curve = Curve("autoattack", norm, len(target.labels))
    for eps in bounds:
        withstood = attacks.autoattack(target, norm, eps, seed=effort.seed)
        curve.accuracy[eps] = float(withstood.double().mean())
    return curve


def _sizes(target: Target, effort: Effort) -> dict[str, Tensor]:
    found = {}
    if effort.budget:
        found["guid-xmage"] = attacks.minimal(target, budget=effort.budget, seed=effort.seed)
    if effort.ddn_steps:
        found["ddn"] = attacks.ddn(target, steps=effort.ddn_steps, seed=effort.seed)
    if effort.cw_steps and target.part in effort.cw_parts:
        found["cw"] = attacks.carlini_wagner(
            target, steps=effort.cw_steps, searches=effort.cw_searches, seed=effort.seed
        )
    return found
