"""The arms of the experiment: what each retraining learns from. All start from one trained network.

They differ in the images alone; batches, optimiser steps and augmentation are the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from guidxmage.errors import InputError
from guidxmage.hardening.dataset import Batch
from guidxmage.hardening.series import Series
from guidxmage.hardening.suppression import Guide, Scheme, suppress_by_gradient
from guidxmage.hardening.training import Lesson, plain


@dataclass(frozen=True)
class Recipe:
    """What the arms share.

    strengths: how far background pixels may move, one of them drawn for each batch, the larger ones
    from the share `ramp` of the training on; steps, guide: of the suppression; share: of a batch
    that is replaced by samples. eps, pgd_steps: l∞ PGD adversarial training.
    """

    strengths: tuple[float, ...] = (4 / 255, 8 / 255, 16 / 255)
    steps: int = 3
    guide: Guide = "contrast"
    share: float = 0.5
    ramp: float = 0.3
    eps: float = 4 / 255
    pgd_steps: int = 5

    def __post_init__(self) -> None:
        Scheme(self.strengths, self.steps, self.guide)  # raises where these do not fit
        if not 0 < self.share <= 1:
            raise InputError(f"share is {self.share}; give a part of the batch above 0, up to 1")
        if self.eps <= 0 or self.pgd_steps < 1:
            raise InputError("eps has to be above 0 and pgd_steps at least 1")

    def scheme(self, progress: float, draw: torch.Generator) -> Scheme:
        """The suppression of one batch."""
        reached = min(1.0, progress / self.ramp) if self.ramp > 0 else 1.0
        allowed = max(1, round(reached * len(self.strengths)))
        chosen = int(torch.randint(allowed, (1,), generator=draw))
        return Scheme((self.strengths[chosen],), self.steps, self.guide)


def lesson(arm: str, recipe: Recipe, series: Series | None = None) -> Lesson:
    """What an arm learns from. series: for "series", its samples in the order of the data."""
    if arm == "series":
        if series is None:
            raise InputError("the arm series needs a series of samples")
        return _from_series(recipe, series)
    if arm not in _LESSONS:
        raise InputError(f"arm {arm!r} is unknown; choose from {', '.join(ARMS)}")
    return _LESSONS[arm](recipe)


def suppressed(network: nn.Module, batch: Batch, scheme: Scheme) -> Tensor:
    """The images with their background's contribution lowered; those without a part stay."""
    images = batch.images.clone()
    share = batch.masks.flatten(1).float().mean(1)
    rows = ((share > 0) & (share < 1)).nonzero()[:, 0]
    if len(rows):
        made = suppress_by_gradient(
            network, images[rows], batch.masks[rows], batch.labels[rows], scheme=scheme
        )
        images[rows] = made[:, -1].to(images)
    return images


def _chosen(batch: Batch, recipe: Recipe) -> Batch:
    """The first images of a batch, which is in random order, that samples take the place of."""
    count = max(1, round(recipe.share * len(batch.labels)))
    return Batch(*(part[:count] for part in batch))


def _with(batch: Batch, samples: Tensor) -> tuple[Tensor, Tensor]:
    return torch.cat([samples, batch.images[len(samples) :]]), batch.labels


def _ours(recipe: Recipe) -> Lesson:
    """Samples of the network as it is at this step: fresh ones, nothing stored."""

    def learn(
        network: nn.Module, batch: Batch, draw: torch.Generator, progress: float
    ) -> tuple[Tensor, Tensor]:
        part = _chosen(batch, recipe)
        return _with(batch, suppressed(network, part, recipe.scheme(progress, draw)))

    return learn


def _from_series(recipe: Recipe, series: Series) -> Lesson:
    """The scheme of the paper: samples made once, by the network that retraining begins with."""

    def learn(
        _: nn.Module, batch: Batch, draw: torch.Generator, __: float
    ) -> tuple[Tensor, Tensor]:
        part = _chosen(batch, recipe)
        rows = part.indices.cpu()
        strength = torch.randint(len(series.strengths), (len(rows),), generator=draw)
        delta = (series.samples[rows, strength] - series.originals[rows]).to(part.images)
        return _with(batch, (part.images + _moved_along(delta, part, series, rows)).clamp(0, 1))

    return learn


def _moved_along(delta: Tensor, part: Batch, series: Series, rows: Tensor) -> Tensor:
    """Perturbations of images that have been shifted or mirrored since: off."""
    fits = (series.originals[rows].to(part.images) - part.images).flatten(1).abs().amax(1) < 1e-6
    return delta * fits[:, None, None, None]


def _noise(recipe: Recipe) -> Lesson:
    """The same sizes at the same pixels as ours, with random signs."""

    def learn(
        network: nn.Module, batch: Batch, draw: torch.Generator, progress: float
    ) -> tuple[Tensor, Tensor]:
        part = _chosen(batch, recipe)
        delta = suppressed(network, part, recipe.scheme(progress, draw)) - part.images
        signs = torch.randint(0, 2, delta.shape, generator=draw).to(delta) * 2 - 1
        return _with(batch, (part.images + delta.abs() * signs).clamp(0, 1))

    return learn


def _object(recipe: Recipe) -> Lesson:
    """The same perturbation on the object instead of the background."""

    def learn(
        network: nn.Module, batch: Batch, draw: torch.Generator, progress: float
    ) -> tuple[Tensor, Tensor]:
        part = _chosen(batch, recipe)
        turned = part._replace(masks=~part.masks)
        return _with(batch, suppressed(network, turned, recipe.scheme(progress, draw)))

    return learn


def _backgrounds(recipe: Recipe) -> Lesson:
    """Objects before the backgrounds of other images of the batch."""

    def learn(
        _: nn.Module, batch: Batch, draw: torch.Generator, __: float
    ) -> tuple[Tensor, Tensor]:
        part = _chosen(batch, recipe)
        other = torch.randperm(len(batch.labels), generator=draw)[: len(part.labels)]
        other = other.to(part.labels.device)
        scenery = emptied(batch.images[other], batch.masks[other])
        return _with(batch, torch.where(part.masks[:, None], part.images, scenery))

    return learn


def emptied(images: Tensor, masks: Tensor) -> Tensor:
    """Images with their objects painted over in the mean colour of the background."""
    outside = (~masks)[:, None].to(images)
    mean = (images * outside).sum((2, 3)) / outside.sum((2, 3)).clamp_min(1)
    return torch.where(masks[:, None], mean[:, :, None, None], images)


def _adversarial(recipe: Recipe) -> Lesson:
    """PGD adversarial training on all pixels (Madry et al. 2018)."""

    def learn(
        network: nn.Module, batch: Batch, draw: torch.Generator, _: float
    ) -> tuple[Tensor, Tensor]:
        return perturbed(network, batch.images, batch.labels, recipe, draw), batch.labels

    return learn


def _both(recipe: Recipe) -> Lesson:
    """PGD adversarial training on a batch part of which is ours."""
    ours = _ours(recipe)

    def learn(
        network: nn.Module, batch: Batch, draw: torch.Generator, progress: float
    ) -> tuple[Tensor, Tensor]:
        images, labels = ours(network, batch, draw, progress)
        return perturbed(network, images, labels, recipe, draw), labels

    return learn


def perturbed(
    network: nn.Module, images: Tensor, labels: Tensor, recipe: Recipe, draw: torch.Generator
) -> Tensor:
    """l∞ PGD within eps and [0, 1] from a random start, the network in the mode it is in."""
    start = torch.rand(images.shape, generator=draw).to(images) * 2 - 1
    low, high = (images - recipe.eps).clamp(min=0), (images + recipe.eps).clamp(max=1)
    Z = torch.minimum(torch.maximum(images + recipe.eps * start, low), high)
    size = 2.5 * recipe.eps / recipe.pgd_steps
    for _ in range(recipe.pgd_steps):
        with torch.enable_grad():
            leaf = Z.detach().requires_grad_(True)
            loss = nn.functional.cross_entropy(network(leaf), labels)
            (gradient,) = torch.autograd.grad(loss, leaf)
        Z = torch.minimum(torch.maximum(Z + size * gradient.sign(), low), high)
    return Z.detach()


def _plain(_: Recipe) -> Lesson:
    return plain


_LESSONS: dict[str, Callable[[Recipe], Lesson]] = {
    "longer": _plain,
    "noise": _noise,
    "object": _object,
    "backgrounds": _backgrounds,
    "adversarial": _adversarial,
    "ours": _ours,
    "ours+adversarial": _both,
}
ARMS = ("plain", *_LESSONS, "series")
