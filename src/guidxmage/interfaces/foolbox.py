"""The attack as one of foolbox's, to be run beside them on the same models and criteria."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from guidxmage.adversarial.heuristic.attack import attack
from guidxmage.errors import InputError, MissingExtraError

try:
    import eagerpy
    from foolbox import PyTorchModel, distances
    from foolbox.attacks.base import MinimizationAttack, get_criterion
    from foolbox.criteria import Misclassification, TargetedMisclassification
except ImportError as error:
    raise MissingExtraError("foolbox", "eval") from error

_DISTANCES = {
    "l2": distances.l2,
    "linf": distances.linf,
    "l1": distances.l1,
    "l0": distances.l0,
}


class RegionAttack(MinimizationAttack):  # type: ignore[misc]
    """`guidxmage.adversarial.attack` for foolbox, for `PyTorchModel`s with any bounds.

    norm: "l2", "linf", "l1" or "l0"; budget: gradients per image. foolbox's l0 counts entries, ours
    pixels. Images for which nothing is found come back unchanged, as foolbox expects; its verdict
    `is_adv` is False for them.
    """

    def __init__(self, norm: str = "l2", budget: int = 40, seed: int = 0) -> None:
        if norm not in _DISTANCES:
            raise InputError(f"norm {norm!r} is unknown; choose one of {', '.join(_DISTANCES)}")
        self.norm, self.budget, self.seed = norm, budget, seed

    @property
    def distance(self) -> Any:
        """The distance that is minimised."""
        return _DISTANCES[self.norm]

    def run(
        self,
        model: Any,
        inputs: Any,
        criterion: Any,
        *,
        early_stop: float | None = None,  # noqa: ARG002, foolbox's signature
        **kwargs: Any,
    ) -> Any:
        """The perturbed inputs; raises InputError for other models and criteria."""
        if kwargs:
            raise InputError(f"this attack takes no {', '.join(kwargs)}")
        if not isinstance(model, PyTorchModel):
            raise InputError(
                f"a foolbox.PyTorchModel is expected, not {type(model).__name__}: the attack reads "
                "the network itself"
            )
        criterion = get_criterion(criterion)
        x, restore = eagerpy.astensor_(inputs)
        low, high = model.bounds
        unit = (x.raw - low) / (high - low)
        labels, targets = _classes(criterion)
        result = attack(
            _Scaled(model).eval(),
            unit.clamp(0, 1),
            labels,
            norm=self.norm,
            targets=targets,
            budget=self.budget,
            seed=self.seed,
        )
        delta = (result.adversarial - result.original).nan_to_num(0) * (high - low)
        return restore(_confirmed(model, x, delta, criterion))


# Samples lie on the boundary to the last bit, which scaling to other bounds may undo.
_BEYOND = (0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2)


def _confirmed(model: Any, x: Any, delta: Tensor, criterion: Any) -> Any:
    """x + δ, each δ lengthened by the least share at which the model itself confirms it."""
    low, high = model.bounds
    chosen, open_ = x.raw, torch.ones(len(delta), dtype=torch.bool, device=delta.device)
    for share in _BEYOND:
        moved = (x.raw + (1 + share) * delta).clamp(low, high)
        reached = criterion(eagerpy.astensor(moved), model(eagerpy.astensor(moved))).raw & open_
        chosen = torch.where(reached.view(-1, *[1] * (delta.ndim - 1)), moved, chosen)
        open_ = open_ & ~reached
    return eagerpy.astensor(chosen)


class _Scaled(nn.Module):
    """A foolbox model on images in [0, 1], with its bounds and preprocessing inside."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        mean, std, self.flipped = model._preprocess_args
        low, high = model.bounds
        self.network = _module_of(model)
        self.scale, self.shift = float(high - low), float(low)
        self.mean = None if mean is None else mean.raw
        self.std = None if std is None else std.raw

    def forward(self, x: Tensor) -> Tensor:
        x = x * self.scale + self.shift
        if self.flipped is not None:
            x = x.flip(self.flipped)
        x = x if self.mean is None else x - self.mean
        x = x if self.std is None else x / self.std
        logits: Tensor = self.network(x)
        return logits


def _module_of(model: Any) -> nn.Module:
    """The torch module that a PyTorchModel wraps in a closure."""
    for cell in model._model.__closure__ or ():
        if isinstance(cell.cell_contents, nn.Module):
            return cell.cell_contents
    raise InputError("the network inside of this foolbox.PyTorchModel could not be found")


def _classes(criterion: Any) -> tuple[Tensor | None, Tensor | None]:
    """Labels to leave, or targets to reach."""
    if isinstance(criterion, TargetedMisclassification):
        return None, criterion.target_classes.raw
    if isinstance(criterion, Misclassification):
        return criterion.labels.raw, None
    raise InputError(
        f"criterion {type(criterion).__name__} is not supported; use Misclassification or "
        "TargetedMisclassification"
    )
