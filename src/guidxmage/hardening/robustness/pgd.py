"""Adversarial training: images moved against the network by projected gradient ascent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from guidxmage.errors import InputError
from guidxmage.hardening.data.dataset import LabelledBatch


@dataclass(frozen=True)
class PGD:
    """Projected gradient ascent on the cross-entropy (Madry et al. 2018) within a ball and [0, 1].

    norm: "linf" or "l2"; eps: the ball's radius for pixels in [0, 1]; step_size: 2.5·eps/steps by
    default. The ascent starts at a random point of the ball. `train` calls it with the network in
    evaluation mode, so that batch-norm uses its running averages and does not update them.
    """

    norm: Literal["linf", "l2"]
    eps: float
    steps: int
    step_size: float | None = None

    def __post_init__(self) -> None:
        if self.norm not in ("linf", "l2"):
            raise InputError(f"there is no norm {self.norm!r} for PGD; choose linf or l2")
        if not (self.eps > 0 and self.steps >= 1):
            raise InputError("PGD needs a positive eps and at least one step")
        if self.step_size is not None and not self.step_size > 0:
            raise InputError("the step size of PGD is positive")

    def __call__(
        self,
        network: nn.Module,
        batch: LabelledBatch,
        generator: torch.Generator,
        progress: float = 0.0,
    ) -> LabelledBatch:
        """The batch with its images moved; the generator, on the CPU, draws the start.

        A lesson for `train`; how far the training is makes no difference.
        """
        del progress
        images = batch.images
        size = self.step_size or 2.5 * self.eps / self.steps
        moved = self._confined(images + self._start(images, generator), images)
        for _ in range(self.steps):
            uphill = self._uphill(network, moved, batch.labels)
            moved = self._confined(moved + size * uphill, images)
        return batch._replace(images=moved)

    def _start(self, images: Tensor, generator: torch.Generator) -> Tensor:
        if self.norm == "linf":
            draw = torch.rand(images.shape, generator=generator) * 2 - 1
        else:
            draw = torch.randn(images.shape, generator=generator)
            radius = torch.rand(len(images), generator=generator)
            draw = draw * (radius / _lengths(draw)).view(-1, 1, 1, 1)
        return draw.to(images) * self.eps

    def _uphill(self, network: nn.Module, moved: Tensor, labels: Tensor) -> Tensor:
        """The direction of steepest ascent, of length 1 in the norm."""
        with torch.enable_grad():
            x = moved.detach().requires_grad_()
            # The sum, so that an image's gradient does not shrink with the batch.
            loss = nn.functional.cross_entropy(network(x).float(), labels, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, x)
        if self.norm == "linf":
            return gradient.sign()
        return gradient / _lengths(gradient).clamp_min(1e-30).view(-1, 1, 1, 1)

    def _confined(self, moved: Tensor, images: Tensor) -> Tensor:
        change = moved - images
        if self.norm == "linf":
            change = change.clamp(-self.eps, self.eps)
        else:
            factor = (self.eps / _lengths(change).clamp_min(self.eps)).view(-1, 1, 1, 1)
            change = change * factor
        return (images + change).clamp(0, 1)


def _lengths(vectors: Tensor) -> Tensor:
    lengths: Tensor = torch.linalg.vector_norm(vectors.flatten(1), dim=1)
    return lengths
