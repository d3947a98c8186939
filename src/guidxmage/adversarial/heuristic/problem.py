"""What is attacked: images, goals, the norm, and the entries that may change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from guidxmage.adversarial.heuristic.projection import project
from guidxmage.adversarial.heuristic.target_model import Goal, TargetModel
from guidxmage.attribution.targets import choose_targets
from guidxmage.errors import InputError


@dataclass(frozen=True)
class Problem:
    """n rows to attack: images X (n, C, H, W), goal, norm, and which entries are free.

    `mask` is None or a bool tensor of X's shape; the box is [low, high]. `index`: where the rows
    are a part of those of another problem, their numbers there.
    """

    X: Tensor
    goal: Goal
    norm: str
    mask: Tensor | None = None
    low: float = 0.0
    high: float = 1.0
    index: Tensor | None = None

    @property
    def numbers(self) -> Tensor:
        """0, 1, … for the rows."""
        return torch.arange(len(self.X), device=self.X.device)

    def rows(self, index: Tensor) -> Problem:
        """The problem for some rows, or for rows repeated."""
        mask = None if self.mask is None else self.mask[index]
        whole = index if self.index is None else self.index[index]
        return replace(self, X=self.X[index], goal=self.goal.rows(index), mask=mask, index=whole)

    def free(self, w: Tensor) -> Tensor:
        """w (n, C, H, W) where entries may change, 0 elsewhere."""
        return w if self.mask is None else w * self.mask

    def on_free(self, moved: Tensor, kept: Tensor) -> Tensor:
        """`moved` where entries may change, `kept` elsewhere; both (n, C, H, W)."""
        return moved if self.mask is None else torch.where(self.mask, moved, kept)

    def size(self, Z: Tensor) -> Tensor:
        """The norm of Z − X, (n,)."""
        return norms(Z - self.X, self.norm)

    def step(self, w: Tensor, value: Tensor, at: Tensor) -> Tensor:
        """The smallest perturbation of X that makes ⟨w, Z − at⟩ + value reach zero."""
        b = value - dot(w, at)
        return project(self.X, w, b, self.norm, low=self.low, high=self.high, mask=self.mask).delta


def pose(
    target_model: TargetModel, X: Tensor, classes: tuple[Any, Any], norm: str, mask: Tensor | None
) -> tuple[Problem, Tensor, dict[int, str]]:
    """The problem of all images, which need no attack (B,), and why some cannot be attacked."""
    refused: dict[int, str] = {}

    def refuse(rows: Tensor, sentence: str) -> None:
        for row in rows.nonzero()[:, 0].tolist():
            refused.setdefault(row, sentence)

    flat = X.flatten(1)
    refuse(
        (flat.amin(1) < 0) | (flat.amax(1) > 1),
        "the image does not lie in [0, 1]; give the Explainer its preprocessing, or put the "
        "normalisation into the model",
    )
    logits = target_model.logits(X)
    if logits.shape[1] < 2:
        raise InputError(
            "the network gives a single logit, that is one class: there is no other to change to; "
            "add a second score, for example 0 where the logit is compared with 0"
        )
    refuse((~torch.isfinite(logits)).any(1), "the network returns NaN or Inf for the image")
    logits = logits.nan_to_num()
    own = logits.argmax(1)
    (labels, targets), names = classes, target_model.explainer.labels
    given = own if labels is None else _classes(labels, logits, names, "label")
    if targets is None:
        goal, already = Goal(given, targeted=False), own != given
    else:
        wanted = _classes(targets, logits, names, "target")
        if labels is not None:
            refuse(wanted == given, "the target is the image's own label: nothing to change")
        goal, already = Goal(wanted, targeted=True), own == wanted
    free = None if mask is None else _free(mask, X)
    if free is not None:
        refuse(~free.flatten(1).any(1), "the mask leaves no pixel free")
    return Problem(X, goal, norm, free), already, refused


def _classes(given: Any, logits: Tensor, names: Sequence[str] | None, what: str) -> Tensor:
    """Classes (B,) from an index, a name, or one index per image."""
    try:
        chosen = choose_targets(given, logits, names)
    except InputError as error:
        raise InputError(f"{what}: {error}") from error
    if len(chosen) != 1 or bool((chosen.classes < 0).any()) or bool((chosen.against >= 0).any()):
        raise InputError(f"{what}: an attack takes one class for each image")
    return chosen.classes[0].contiguous()


def _free(mask: Tensor, X: Tensor) -> Tensor:
    """The mask as bool of X's shape."""
    free = torch.as_tensor(mask, device=X.device)
    shape = tuple(free.shape)
    if free.dtype != torch.bool:
        raise InputError("the mask must be boolean: True where pixels may change")
    if free.ndim == 2:
        free = free[None, None]
    elif free.ndim == 3:
        free = free[:, None]
    try:
        return free.expand(X.shape).contiguous()
    except RuntimeError as error:
        raise InputError(
            f"a mask of shape {shape} does not fit images of shape {tuple(X.shape)}"
        ) from error


def norms(delta: Tensor, norm: str) -> Tensor:
    """Norms of perturbations (n, C, H, W): "l0" and "erase" count pixels, not channels."""
    flat = delta.flatten(1)
    if norm in ("l0", "erase"):
        return (delta != 0).any(1).flatten(1).sum(1).to(delta.dtype)
    if norm == "linf":
        return flat.abs().amax(1)
    result: Tensor = torch.linalg.vector_norm(flat, ord=1 if norm == "l1" else 2, dim=1)
    return result


def spread(rows: Tensor, like: Tensor) -> Tensor:
    """(n,) as (n, 1, …, 1), to broadcast against images."""
    return rows.view(-1, *[1] * (like.ndim - 1))


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner products of n images, (n,)."""
    return (a * b).flatten(1).sum(1)
