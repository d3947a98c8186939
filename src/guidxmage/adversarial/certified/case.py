"""One image whose answer is to be changed: what may change, by how much, and what counts."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite, prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from guidxmage.adversarial.certified.nearest_point import Box
from guidxmage.adversarial.heuristic.target_model import Goal
from guidxmage.engine.linear_regions.relu_form import ReluForm, relu_form
from guidxmage.engine.program.program import Program
from guidxmage.engine.rules import rule_of
from guidxmage.errors import InputError
from guidxmage.explainer import Explainer
from guidxmage.inputs.input_space import Images

Array = NDArray[np.float64]

# The coefficients of one of the network's values are no more numbers than this.
_MOST_NUMBERS = 300_000_000


def in_double(explainer: Explainer) -> Explainer:
    """The same network in float64, on the CPU."""
    tensors = [*explainer.model.parameters(), *explainer.model.buffers()]
    if all(t.dtype == torch.float64 or not t.is_floating_point() for t in tensors) and all(
        t.device.type == "cpu" for t in tensors
    ):
        return explainer
    known = explainer.preprocessing if explainer.space == "pixels" else None
    return Explainer(explainer.model, preprocessing=known, device="cpu", dtype=torch.float64)


def check_size(norm: str, name: str, size: float | None) -> None:
    """Raises InputError for an unknown norm, or for a largest size that is none."""
    if norm not in ("l2", "linf"):
        raise InputError(f"norm {norm!r} cannot be certified; choose l2 or linf")
    if size is not None and not (isfinite(size) and size > 0):
        raise InputError(f"{name} is {size}; give the largest size of a perturbation, above 0")


def one_image(explainer: Explainer, image: Images) -> Tensor:
    """An image of the explained space, (1, C, H, W)."""
    X = explainer.read(image)
    X = X if X.ndim == 4 else X[None]
    if len(X) != 1:
        raise InputError(f"one image is certified at a time, not {len(X)}")
    return X


def goal_of(own: Tensor, label: int | None, target: int | None) -> Goal:
    """The class to reach, or the one to leave: by default the network's own answer."""
    if target is not None:
        return Goal(torch.as_tensor(target).reshape(1), targeted=True)
    return Goal(own if label is None else torch.as_tensor(label).reshape(1), targeted=False)


def rival_of(rather_than: int | None, own: int, logits: Tensor) -> int:
    """The only class that counts as another answer, −1 for any; InputError where it is none."""
    classes = logits.shape[1]
    if rather_than is None:
        return -1
    if not (0 <= rather_than < classes and rather_than != own):
        raise InputError(
            f"rather_than is {rather_than}; give another class than {own}, from 0 to {classes - 1}"
        )
    return int(rather_than)


def free_entries(mask: Tensor | None, X: Tensor) -> Tensor:
    """Which entries of an image (C, H, W) may change; the mask has been checked by the attack."""
    if mask is None:
        return torch.ones_like(X[0], dtype=torch.bool)
    free = torch.as_tensor(mask)
    free = free[:, None] if free.ndim == 3 else free
    return free.expand(X.shape)[0]


@dataclass(frozen=True)
class Case:
    """One image to be attacked; δ are the changes of its free entries, in order.

    rather_than: the goal is reached where this class alone passes the one to leave, −1 for any.
    """

    explainer: Explainer
    X: Tensor
    goal: Goal
    norm: str
    free: Tensor
    rather_than: int = -1

    @property
    def box(self) -> Box:
        """The perturbations that keep the image in [0, 1]."""
        x = self.X[0][self.free].numpy()
        return Box(-x, 1 - x)

    def images(self, deltas: Array) -> Tensor:
        """The image with each of m perturbations (m, n), (m, C, H, W)."""
        Z = self.X.repeat(len(deltas), *[1] * (self.X.ndim - 1))
        Z[:, self.free] = (Z[:, self.free] + torch.from_numpy(deltas)).clamp(0, 1)
        return Z

    def delta(self, Z: Tensor) -> Array:
        """The perturbation that an image (C, H, W) is."""
        return (Z.reshape(self.X.shape) - self.X)[0][self.free].numpy()

    def margins(self, Z: Tensor) -> Array:
        """Positive where the network itself says that images Z (m, C, H, W) reach the goal."""
        return np.asarray(self.margin_of(self.logits(Z)).numpy())

    def margin_of(self, logits: Tensor) -> Tensor:
        """Positive where scores (m, classes) reach the goal, (m,)."""
        if self.rather_than >= 0:
            return logits[:, self.rather_than] - logits[:, int(self.goal.classes)]
        return Goal(self.goal.classes.expand(len(logits)), self.goal.targeted).margin(logits)

    def logits(self, Z: Tensor) -> Tensor:
        """The network's own scores, each image by itself."""
        step = 1 if len(Z) == 1 else self.explainer.batch_rows
        parts = [self.explainer.run(part) for part in Z.split(step)]
        return torch.cat(parts)

    def form(self, most: int = 5000) -> ReluForm:
        """The network on X + δ; InputError where it has more than `most` ReLUs, or is too large."""
        shape = tuple(self.X.shape[1:])
        network = self.explainer.network(self.X)
        if bool(self.free.all()):  # otherwise not every ReLU can change
            self._refuse_large(network.program, most)
        if int(self.free.sum()) * self.free.numel() > _MOST_NUMBERS:  # the basis alone
            raise InputError("image and network are too large together for bounds")
        units = torch.zeros(int(self.free.sum()), *shape, dtype=self.X.dtype)
        units[:, self.free] = torch.eye(len(units), dtype=self.X.dtype)
        nothing = network.to_input(torch.zeros_like(self.X))
        basis = network.to_input(units) - nothing
        return relu_form(network.program, network.to_input(self.X)[0], basis, most)

    def _refuse_large(self, program: Program, most: int) -> None:
        """Before anything is computed, as far as the shapes tell."""
        shapes = program.shapes(1)
        rules = [(call, rule_of(call)) for call in program.calls]
        choices = [call for call, rule in rules if rule is not None and rule.kind == "decision"]
        relus = sum(prod(shapes[call.id]) for call in choices)
        if relus > most:
            raise InputError(f"the network has more than {most} ReLUs: it is too large for bounds")
        largest = max(prod(shapes[call.id]) for call in program.calls)
        if largest * (int(self.free.sum()) + relus) > _MOST_NUMBERS:
            raise InputError("image and network are too large together for bounds")

    def goals(self, form: ReluForm) -> list[Array]:
        """For each way to reach the goal, functions (G, 1 + n + N) that are not negative there."""
        own = int(self.goal.classes)
        if self.rather_than >= 0:
            return [(form.heads[self.rather_than] - form.heads[own])[None]]
        others = [k for k in range(len(form.heads)) if k != own]
        if self.goal.targeted:
            return [form.heads[own] - form.heads[others]]
        return [(form.heads[k] - form.heads[own])[None] for k in others]
