"""A quick climb towards the goal within the perturbations allowed, for many free sets at once."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from guidxmage.adversarial.certified.case import Case
from guidxmage.adversarial.certified.nearest_point import Box

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]

# How far each step goes, as a share of the radius: once across, then ever closer.
_STEPS = (2.0, 1.0, 1.0, 0.5, 0.5, 0.25, 0.25, 0.1, 0.1)
# A sample stays inside by this share of the radius, so that rounding does not put it outside.
_INSIDE = 1e-12


class Ascent:
    """Climbs from perturbations of a case within a radius; every sample is the network's own."""

    def __init__(self, case: Case, radius: float) -> None:
        self.case, self.radius = case, radius
        self.box = case.box

    def fitted(self, deltas: Array, free: Flags) -> Array:
        """Perturbations (m, n) brought into box and radius, where nothing but `free` changes."""
        radius = self.radius * (1 - _INSIDE)
        box = self.box.within(radius) if self.case.norm == "linf" else self.box
        deltas = np.clip(np.where(free, deltas, 0), box.low, box.high)
        if self.case.norm == "linf":
            return deltas
        sizes = np.linalg.norm(deltas, axis=1, keepdims=True)
        return np.asarray(deltas * np.minimum(1, radius / np.maximum(sizes, 1e-300)))

    def climb(self, starts: Array, free: Flags, rivals: NDArray[np.int64] | None = None) -> Array:
        """The best points (m, n) seen from starts (m, n); free (m, n) bool.

        rivals (m,): the class to climb towards, where the goal is to leave one; the best without.
        """
        deltas = self.fitted(starts, free)
        best, highest = deltas, np.full(len(deltas), -np.inf)
        for step in (*_STEPS, 0.0):
            margins, slopes = self._slopes(deltas, rivals)
            better = margins > highest
            best = np.where(better[:, None], deltas, best)
            highest = np.where(better, margins, highest)
            if not step or (highest > 0).all():
                break
            slopes = np.where(free, slopes, 0)
            if self.case.norm == "linf":
                move = np.sign(slopes)
            else:
                move = slopes / np.maximum(np.linalg.norm(slopes, axis=1, keepdims=True), 1e-300)
            deltas = self.fitted(deltas + step * self.radius * move, free)
        return best

    def _slopes(self, deltas: Array, rivals: NDArray[np.int64] | None) -> tuple[Array, Array]:
        """Margins (m,) and the gradients (m, n) that lead up."""
        case = self.case
        margins, slopes = [], []
        rows = case.explainer.batch_rows
        for first in range(0, len(deltas), rows):
            part = slice(first, first + rows)
            with torch.enable_grad():
                leaf = case.images(deltas[part]).requires_grad_()
                logits = case.explainer.run(leaf)
                margin = case.margin_of(logits)
                gain = margin
                if rivals is not None:
                    toward = torch.from_numpy(rivals[part])[:, None]
                    gain = logits.gather(1, toward)[:, 0] - logits[:, int(case.goal.classes)]
                (slope,) = torch.autograd.grad(gain.sum(), leaf)
            margins.append(margin.detach().numpy())
            slopes.append(slope[:, case.free].numpy())
        return np.concatenate(margins), np.concatenate(slopes)

    def sample(self, delta: Array) -> torch.Tensor | None:
        """The image (C, H, W) of a perturbation (n,), where the network itself says it is one."""
        Z = self.case.images(delta[None])
        if self.size(Z[0]) > self.radius or not self.case.margins(Z)[0] > 0:
            return None
        return Z[0]

    def size(self, Z: torch.Tensor) -> float:
        """The size of the perturbation that an image is."""
        delta = self.case.delta(Z)
        if self.case.norm == "linf":
            return float(np.abs(delta).max(initial=0))
        return float(np.linalg.norm(delta))


def limited(box: Box, free: Flags) -> Box:
    """A box in which only some entries (n,) may move."""
    return Box(np.where(free, box.low, 0), np.where(free, box.high, 0))
