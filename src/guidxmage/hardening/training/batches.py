"""What a training run learns from: batches by step number, so that a run can go on anywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from guidxmage.errors import InputError
from guidxmage.hardening.data.dataset import ImageDataset, LabelledBatch, as_it_is
from guidxmage.hardening.training.random_streams import stream

# (network in evaluation mode, batch, generator, how much of the training is over, 0–1) → batch
Lesson = Callable[[nn.Module, LabelledBatch, torch.Generator, float], LabelledBatch]


class Recipe(Protocol):
    """Supplies the batch of every step; equal arguments give equal batches.

    steps_per_epoch: how often the network is evaluated unless the configuration says otherwise.
    lesson: None, or what makes of a batch the one that the network learns from. `describe` returns
    what the batches depend on as JSON values: a run is continued only with the same.
    """

    @property
    def steps_per_epoch(self) -> int:
        """Steps until every image was seen about once."""
        ...

    @property
    def lesson(self) -> Lesson | None:
        """What changes the batches, or None."""
        ...

    def batch(self, step: int, rank: int, world: int, generator: torch.Generator) -> LabelledBatch:
        """Images in [0, 1], labels and masks for one of `world` processes.

        The generator is seeded by the run's seed, the step and the rank.
        """
        ...

    def describe(self) -> dict[str, Any]:
        """What the batches depend on."""
        ...


class Shuffled:
    """A dataset in a new order every epoch, with random crops and flips.

    batch_size counts the images of all processes together; images that do not fill a last batch
    wait for the next epoch. crop: by how many pixels the images are padded with black before a crop
    of their size is taken, 0 for none. flip: mirror every other image, by chance. workers:
    processes that read ahead; the dataset returns the same for the same number in each.
    """

    def __init__(
        self,
        dataset: ImageDataset,
        batch_size: int,
        *,
        seed: int,
        crop: int = 4,
        flip: bool = True,
        lesson: Lesson | None = None,
        workers: int = 0,
    ) -> None:
        if not 1 <= batch_size <= len(dataset):
            raise InputError(
                f"a batch of {batch_size} images cannot be taken from {len(dataset)}; "
                f"choose a batch size from 1 to {len(dataset)}"
            )
        if crop < 0 or workers < 0:
            raise InputError("crop and workers are counts; give 0 or more")
        self.dataset, self.batch_size, self.seed = dataset, batch_size, seed
        self.crop, self.flip, self.workers = crop, flip, workers
        self._lesson = lesson
        self._order = _Order(len(dataset), batch_size, seed)
        self._ahead: tuple[tuple[int, int, int], Iterator[Any]] | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Full batches in the dataset."""
        return self._order.steps_per_epoch

    @property
    def lesson(self) -> Lesson | None:
        """What changes the batches before the network learns from them."""
        return self._lesson

    def describe(self) -> dict[str, Any]:
        """What the batches depend on."""
        return {
            "data": self.dataset.fingerprint(),
            "images": len(self.dataset),
            "classes": len(self.dataset.classes),
            "batch_size": self.batch_size,
            "order_seed": self.seed,
            "crop": self.crop,
            "flip": self.flip,
            "lesson": None if self._lesson is None else repr(self._lesson),
        }

    def batch(self, step: int, rank: int, world: int, generator: torch.Generator) -> LabelledBatch:
        """A process's share of the step's batch, cropped and flipped.

        Raises InputError for an image that cannot be read, and where the processes cannot share the
        batch evenly.
        """
        read = (
            self._read_ahead(step, rank, world) if self.workers else self._read(step, rank, world)
        )
        return augmented(read, self.crop, self.flip, generator)

    def rows(self, step: int, rank: int, world: int) -> list[int]:
        """The numbers of the images that a process learns from in a step."""
        return self._order.rows(step, rank, world)

    def _read(self, step: int, rank: int, world: int) -> LabelledBatch:
        return self.dataset.__getitems__(self.rows(step, rank, world))

    def _read_ahead(self, step: int, rank: int, world: int) -> LabelledBatch:
        """The batch from the workers, who are set anew where the steps do not follow each other."""
        here = (step, rank, world)
        if self._ahead is None or self._ahead[0] != here:
            self._ahead = here, iter(self._loader(step, rank, world))
        following = self._ahead[1]
        self._ahead = None
        try:
            read = next(following)
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise InputError(f"reading images ahead failed: {reason}; use fewer workers") from error
        if isinstance(read, _Refusal):
            raise InputError(read.sentence)
        self._ahead = (step + 1, rank, world), following
        assert isinstance(read, LabelledBatch)
        return read

    def _loader(self, step: int, rank: int, world: int) -> DataLoader[Any]:
        return DataLoader(
            _Guarded(self.dataset),
            batch_sampler=_Rows(self._order, step, rank, world),
            collate_fn=as_it_is,
            num_workers=self.workers,
            # Without it the loader draws from the global generator.
            generator=stream(self.seed, "workers", step, rank),
        )


def augmented(
    batch: LabelledBatch, crop: int, flip: bool, generator: torch.Generator
) -> LabelledBatch:
    """Crops of the padded images, some of them mirrored; masks move along."""
    images, masks = batch.images, batch.masks
    count, _, height, width = images.shape
    if crop:
        corners = torch.randint(2 * crop + 1, (2, count, 1), generator=generator)
        y = (torch.arange(height) + corners[0])[:, None, :, None]
        x = (torch.arange(width) + corners[1])[:, None, None, :]
        rows = torch.arange(count)[:, None, None, None]
        channels = torch.arange(images.shape[1])[None, :, None, None]
        images = nn.functional.pad(images, (crop,) * 4)[rows, channels, y, x]
        masks = nn.functional.pad(masks, (crop,) * 4)[rows[:, 0], y[:, 0], x[:, 0]]
    if flip:
        mirrored = torch.rand(count, generator=generator) < 0.5
        images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
        masks = torch.where(mirrored[:, None, None], masks.flip(2), masks)
    return batch._replace(images=images, masks=masks)


class _Refusal(NamedTuple):
    """An error as a value: raised in a worker, it would arrive wrapped in a traceback's text."""

    sentence: str


class _Guarded(Dataset[Any]):
    def __init__(self, dataset: ImageDataset) -> None:
        self.dataset = dataset

    def __getitems__(self, indices: Sequence[int]) -> LabelledBatch | _Refusal:
        try:
            return self.dataset.__getitems__(indices)
        except InputError as error:
            return _Refusal(str(error))


class _Order:
    """Which images belong to which step."""

    def __init__(self, images: int, batch_size: int, seed: int) -> None:
        self.images, self.batch_size, self.seed = images, batch_size, seed
        self.steps_per_epoch = images // batch_size
        self._epoch: tuple[int, Tensor] | None = None

    def rows(self, step: int, rank: int, world: int) -> list[int]:
        if self.batch_size % world:
            raise InputError(
                f"{world} processes cannot share batches of {self.batch_size} images evenly; "
                f"choose a batch size that is a multiple of {world}"
            )
        epoch, place = divmod(step, self.steps_per_epoch)
        if self._epoch is None or self._epoch[0] != epoch:
            draw = stream(self.seed, "epoch", epoch)
            self._epoch = epoch, torch.randperm(self.images, generator=draw)
        share = self.batch_size // world
        first = place * self.batch_size + rank * share
        return [int(row) for row in self._epoch[1][first : first + share]]


class _Rows:
    """The rows of all steps from one on, without end."""

    # Not of the recipe: it holds the workers, who end at once only outside a cycle of references.
    def __init__(self, order: _Order, step: int, rank: int, world: int) -> None:
        self.order, self.step, self.rank, self.world = order, step, rank, world

    def __iter__(self) -> Iterator[list[int]]:
        step = self.step
        while True:
            yield self.order.rows(step, self.rank, self.world)
            step += 1
