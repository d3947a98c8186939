"""The arms of the experiment: what each retraining learns from. All start from one trained network.

They differ in the images alone; batches, optimiser steps and augmentation are the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from guidxmage.errors import InputError
from guidxmage.files.schema import Pixel, Pixels, PositiveShare, Rounds, Share, check
from guidxmage.hardening.data.dataset import ImageDataset, InMemory, LabelledBatch
from guidxmage.hardening.robustness.pgd import PGD
from guidxmage.hardening.samples.series import Series
from guidxmage.hardening.samples.suppression import Guide, Scheme, suppress_by_gradient

# What an arm makes of a batch: (config, network, batch, generator, progress) → batch.
_Learn = Callable[["ArmConfig", nn.Module, LabelledBatch, torch.Generator, float], LabelledBatch]


@dataclass(frozen=True)
class ArmConfig:
    """What the arms share.

    strengths: how far background pixels may move, one of them drawn for each batch, the larger ones
    from the share `ramp` of the training on; steps, guide: of the suppression; share: of a batch
    that is replaced by samples. eps, pgd_steps: l∞ PGD adversarial training.
    """

    strengths: Pixels = (4 / 255, 8 / 255, 16 / 255)
    steps: Rounds = 3
    guide: Guide = "contrast"
    share: PositiveShare = 0.5
    ramp: Share = 0.3
    eps: Pixel = 4 / 255
    pgd_steps: Rounds = 5

    def __post_init__(self) -> None:
        check(self)

    def scheme(self, progress: float, draw: torch.Generator) -> Scheme:
        """The suppression of one batch."""
        reached = min(1.0, progress / self.ramp) if self.ramp > 0 else 1.0
        allowed = max(1, round(reached * len(self.strengths)))
        chosen = int(torch.randint(allowed, (1,), generator=draw))
        return Scheme((self.strengths[chosen],), self.steps, self.guide)


@dataclass(frozen=True)
class ArmLesson:
    """What an arm makes of each batch, a `Lesson` for `train`; equal values do the same."""

    arm: str
    config: ArmConfig

    def __call__(
        self, network: nn.Module, batch: LabelledBatch, draw: torch.Generator, progress: float
    ) -> LabelledBatch:
        """The batch that the network, in eval mode, is to learn from; labels stay."""
        return _LESSONS[self.arm](self.config, network, batch, draw, progress)


def lesson(arm: str, config: ArmConfig) -> ArmLesson | None:
    """The lesson of an arm; None where it learns from the images as they are."""
    if arm not in ARMS:
        raise InputError(f"arm {arm!r} is unknown; choose from {', '.join(ARMS)}")
    return ArmLesson(arm, config) if arm in _LESSONS else None


def with_series(data: ImageDataset, series: Series) -> InMemory:
    """The paper's training set: all images and all samples of them (X ∪ X′), in memory.

    Samples were made once, by the network that retraining begins with, or by another one. Raises
    InputError where the series is of other images.
    """
    if len(series) != len(data):
        raise InputError(f"the series holds {len(series)} images, the data {len(data)}")
    own = data.__getitems__(range(len(data)))
    count = len(series.strengths)
    samples = series.samples.transpose(0, 1).flatten(0, 1)
    return InMemory(
        _bytes(torch.cat([own.images, samples])),
        own.labels.repeat(1 + count),
        own.masks.repeat(1 + count, 1, 1),
        data.classes,
    )


def _bytes(images: Tensor) -> Tensor:
    return (images * 255).round().to(torch.uint8)


def suppressed(network: nn.Module, batch: LabelledBatch, scheme: Scheme) -> Tensor:
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


def _chosen(batch: LabelledBatch, config: ArmConfig) -> LabelledBatch:
    """The first images of a batch, which is in random order, that samples take the place of."""
    count = max(1, round(config.share * len(batch.labels)))
    return LabelledBatch(*(part[:count] for part in batch))


def _with(batch: LabelledBatch, samples: Tensor) -> LabelledBatch:
    return batch._replace(images=torch.cat([samples, batch.images[len(samples) :]]))


def _ours(
    config: ArmConfig,
    network: nn.Module,
    batch: LabelledBatch,
    draw: torch.Generator,
    progress: float,
) -> LabelledBatch:
    """Samples of the network as it is at this step: fresh ones, nothing stored."""
    part = _chosen(batch, config)
    return _with(batch, suppressed(network, part, config.scheme(progress, draw)))


def _noise(
    config: ArmConfig,
    network: nn.Module,
    batch: LabelledBatch,
    draw: torch.Generator,
    progress: float,
) -> LabelledBatch:
    """The same sizes at the same pixels as ours, with random signs."""
    part = _chosen(batch, config)
    delta = suppressed(network, part, config.scheme(progress, draw)) - part.images
    signs = torch.randint(0, 2, delta.shape, generator=draw).to(delta) * 2 - 1
    return _with(batch, (part.images + delta.abs() * signs).clamp(0, 1))


def _object(
    config: ArmConfig,
    network: nn.Module,
    batch: LabelledBatch,
    draw: torch.Generator,
    progress: float,
) -> LabelledBatch:
    """The same perturbation on the object instead of the background."""
    part = _chosen(batch, config)
    turned = part._replace(masks=~part.masks)
    return _with(batch, suppressed(network, turned, config.scheme(progress, draw)))


def _backgrounds(
    config: ArmConfig, _: nn.Module, batch: LabelledBatch, draw: torch.Generator, __: float
) -> LabelledBatch:
    """Objects before the backgrounds of other images of the batch."""
    return _with(batch, composited(batch, len(_chosen(batch, config).labels), draw))


def _ours_elsewhere(
    config: ArmConfig,
    network: nn.Module,
    batch: LabelledBatch,
    draw: torch.Generator,
    progress: float,
) -> LabelledBatch:
    """Objects before other backgrounds, which are then suppressed."""
    part = _chosen(batch, config)
    part = part._replace(images=composited(batch, len(part.labels), draw))
    return _with(batch, suppressed(network, part, config.scheme(progress, draw)))


def grown(masks: Tensor) -> Tensor:
    """Masks (B, H, W) that also hold what is up to two pixels from the object."""
    return nn.functional.max_pool2d(masks[:, None].float(), 5, 1, 2)[:, 0] > 0


def shrunk(masks: Tensor) -> Tensor:
    """Masks without the object's outer two pixels."""
    return ~grown(~masks)


def displaced(masks: Tensor) -> Tensor:
    """Masks four pixels too far to the right and below; what leaves comes in on the other side."""
    return masks.roll((4, 4), (1, 2))


def _ours_by(change: Callable[[Tensor], Tensor]) -> _Learn:
    """Ours with wrong masks."""

    def learn(
        config: ArmConfig,
        network: nn.Module,
        batch: LabelledBatch,
        draw: torch.Generator,
        progress: float,
    ) -> LabelledBatch:
        wrong = batch._replace(masks=change(batch.masks))
        return _ours(config, network, wrong, draw, progress)._replace(masks=batch.masks)

    return learn


def composited(batch: LabelledBatch, count: int, draw: torch.Generator) -> Tensor:
    """The first objects of a batch before the emptied backgrounds of others, (count, C, H, W)."""
    offset = int(torch.randint(1, max(2, len(batch.labels)), (1,), generator=draw))
    scenery = emptied(batch.images.roll(offset, 0), batch.masks.roll(offset, 0))
    return torch.where(batch.masks[:count, None], batch.images[:count], scenery[:count])


def emptied(images: Tensor, masks: Tensor) -> Tensor:
    """Images with their objects painted over in the mean colour of the background."""
    outside = (~masks)[:, None].to(images)
    mean = (images * outside).sum((2, 3)) / outside.sum((2, 3)).clamp_min(1)
    return torch.where(masks[:, None], mean[:, :, None, None], images)


def _adversarial(
    config: ArmConfig,
    network: nn.Module,
    batch: LabelledBatch,
    draw: torch.Generator,
    progress: float,
) -> LabelledBatch:
    """PGD adversarial training on all pixels (Madry et al. 2018)."""
    return PGD("linf", config.eps, config.pgd_steps)(network, batch, draw, progress)


def _both(
    config: ArmConfig,
    network: nn.Module,
    batch: LabelledBatch,
    draw: torch.Generator,
    progress: float,
) -> LabelledBatch:
    """PGD adversarial training on a batch part of which is ours."""
    return _adversarial(
        config, network, _ours(config, network, batch, draw, progress), draw, progress
    )


_LESSONS: dict[str, _Learn] = {
    "noise": _noise,
    "object": _object,
    "backgrounds": _backgrounds,
    "adversarial": _adversarial,
    "ours": _ours,
    "ours+backgrounds": _ours_elsewhere,
    "ours+adversarial": _both,
    "ours-grown": _ours_by(grown),
    "ours-shrunk": _ours_by(shrunk),
    "ours-displaced": _ours_by(displaced),
}
# The rest learns from images as they are: "plain" is the network that all others begin with,
# "longer" has as many optimiser steps as they have, "series" has the samples in its data.
ARMS = ("plain", "longer", *_LESSONS, "series")
# Ours with wrong masks: how much hangs on them.
WRONG_MASKS = tuple(name for name in _LESSONS if name.startswith("ours-"))
