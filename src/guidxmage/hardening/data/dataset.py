"""Labelled images with their object masks, fetched a batch at a time."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from guidxmage.errors import InputError
from guidxmage.provenance import fingerprint

# Object masks (B, H, W) bool for images (B, C, H, W) in [0, 1] and their labels (B,).
MaskMaker = Callable[[Tensor, Tensor], Tensor]


class LabelledBatch(NamedTuple):
    """Some samples of a dataset.

    images (B, C, H, W) float32 in [0, 1]; labels (B,) int64; masks (B, H, W) bool, True on the
    object; indices (B,) int64: their numbers in the dataset.
    """

    images: Tensor
    labels: Tensor
    masks: Tensor
    indices: Tensor


class ImageDataset(Dataset[LabelledBatch]):
    """Images of one size with a class and an object mask each.

    `__getitems__` takes several numbers at once, so `DataLoader(dataset, batch_size,
    collate_fn=as_it_is)` fetches whole batches.
    """

    classes: tuple[str, ...]

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitems__(self, indices: Sequence[int]) -> LabelledBatch: ...

    @abstractmethod
    def name(self, index: int) -> str:
        """What to call an image in reports and files."""

    def __getitem__(self, index: int) -> LabelledBatch:
        return self.__getitems__([index])

    def fingerprint(self) -> str:
        """SHA-256 of all images, labels, masks and class names, taken once."""
        if self._fingerprint is None:
            self._fingerprint = fingerprint.of_values([self.classes, *self._digests()])
        return self._fingerprint

    _fingerprint: str | None = None

    def _digests(self) -> Iterator[str]:
        """Of the images with what belongs to them, some at a time."""
        for start in range(0, len(self), 256):
            batch = self.__getitems__(range(start, min(start + 256, len(self))))
            yield fingerprint.of_values([batch.images, batch.labels, batch.masks])


class InMemory(ImageDataset):
    """A dataset held as tensors: images (N, C, H, W) uint8, labels (N,), masks (N, H, W) bool."""

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        masks: Tensor,
        classes: Sequence[str],
        prefix: str = "image",
    ) -> None:
        self.images, self.labels, self.masks = images, labels, masks
        self.classes = tuple(classes)
        self.prefix = prefix

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, indices: Sequence[int]) -> LabelledBatch:
        rows = torch.as_tensor(indices, dtype=torch.long)
        return LabelledBatch(
            self.images[rows].float() / 255, self.labels[rows], self.masks[rows], rows
        )

    def _digests(self) -> Iterator[str]:
        """Of the tensors as they are held."""
        yield fingerprint.of_values([self.images, self.labels, self.masks])

    def name(self, index: int) -> str:
        """The prefix and the number."""
        return f"{self.prefix} {index}"

    def subset(self, rows: Tensor) -> InMemory:
        """Some of the images, by number."""
        parts = (self.images[rows], self.labels[rows], self.masks[rows])
        return InMemory(*parts, self.classes, self.prefix)

    def with_masks(self, masks: Tensor | MaskMaker, rows: int = 64) -> InMemory:
        """The same images with other masks (N, H, W) bool, or what makes them, `rows` at a time.

        Raises InputError for masks that do not fit the images.
        """
        if callable(masks):
            starts = range(0, len(self), rows)
            batches = (
                self.__getitems__(range(start, min(start + rows, len(self)))) for start in starts
            )
            masks = torch.cat([masks(batch.images, batch.labels) for batch in batches])
        expected = (len(self), *self.images.shape[2:])
        if tuple(masks.shape) != expected or masks.dtype != torch.bool:
            raise InputError(
                f"masks are bool {list(expected)} like the images, not {masks.dtype} "
                f"{list(masks.shape)}"
            )
        return InMemory(self.images, self.labels, masks, self.classes, self.prefix)


def as_it_is(batch: Any) -> Any:
    """The collate function for a DataLoader whose dataset fetches whole batches."""
    return batch
