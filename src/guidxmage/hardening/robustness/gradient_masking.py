"""Signs of masked gradients, which let weak attacks fail (Athalye 2018, Carlini 2019)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from guidxmage.hardening.data.dataset import LabelledBatch
from guidxmage.hardening.robustness import attacks
from guidxmage.hardening.robustness.attacks import Target
from guidxmage.hardening.robustness.measure import Effort, PartResult

# One image in a hundred may differ by chance between two runs of randomised attacks.
_CHANCE = 0.01


@dataclass(frozen=True)
class MaskingChecks:
    """Signs of masked gradients; each bool is True where there is none.

    unbounded: PGD with ε = 1 (l∞) leaves no image; accuracy_unbounded: what it leaves. monotone: no
    curve rises with ε. white_beats_black: PGD leaves no more images than the Square attack, which
    sees only scores, at `eps`. moves: no image has a zero gradient; zero_gradients: share that has.
    """

    accuracy_unbounded: float
    unbounded: bool
    monotone: bool
    eps: float
    white_box: float
    black_box: float
    white_beats_black: bool
    zero_gradients: float
    moves: bool

    @property
    def passed(self) -> bool:
        """Whether no check shows masked gradients."""
        return self.unbounded and self.monotone and self.white_beats_black and self.moves

    def to_json(self) -> dict[str, Any]:
        """Plain numbers."""
        return {**asdict(self), "passed": self.passed}


def masking_checks(
    model: nn.Module, batch: LabelledBatch, results: tuple[PartResult, ...], effort: Effort
) -> MaskingChecks:
    """Run the checks on whole images; `results` are those of the same effort."""
    count = min(effort.images, max(effort.auto_images, 1))
    target = Target(model, batch.images[:count], batch.labels[:count], batch.masks[:count])
    steps = {"steps": max(effort.pgd_steps, 10), "restarts": 1, "seed": effort.seed}
    left = float(attacks.pgd(target, "linf", 1.0, **steps).double().mean())
    eps = effort.linf[len(effort.linf) // 2] if effort.linf else 4 / 255
    white = float(attacks.pgd(target, "linf", eps, **steps).double().mean())
    black = float(
        attacks.autoattack(
            target, "linf", eps, seed=effort.seed, attacks=["square"], queries=effort.square_queries
        )
        .double()
        .mean()
    )
    zero = _zero_gradients(target)
    return MaskingChecks(
        accuracy_unbounded=left,
        unbounded=left == 0,
        monotone=all(_falls(list(c.accuracy.values())) for r in results for c in r.curves),
        eps=eps,
        white_box=white,
        black_box=black,
        white_beats_black=white <= black + _CHANCE,
        zero_gradients=zero,
        moves=zero == 0,
    )


def _falls(values: list[float]) -> bool:
    return all(b <= a + _CHANCE for a, b in pairwise(values))


def _zero_gradients(target: Target) -> float:
    """Share of images on which the margin to the best other class has no gradient at all."""
    X = target.images.clone().requires_grad_(True)
    scores = target.model(X)
    own = scores.gather(1, target.labels[:, None])[:, 0]
    rival = scores.scatter(1, target.labels[:, None], -torch.inf).amax(1)
    (gradient,) = torch.autograd.grad((own - rival).sum(), X)
    return float((gradient.flatten(1).abs().amax(1) == 0).double().mean())
