"""Photos read and brought to the network's size, ahead of the network, in threads."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from guidxmage.dataset.items import InFile, InMemory, Item, label_of
from guidxmage.dataset.masks import Masks
from guidxmage.dataset.sources import Entry
from guidxmage.errors import GuidXmageError, InputError
from guidxmage.explainer import Explainer
from guidxmage.files.names import brief
from guidxmage.inputs.photos import open_image_bytes
from guidxmage.objects.label_map import LabelMap
from guidxmage.provenance import fingerprint


@dataclass(frozen=True)
class Read:
    """A photo that was read, or the sentence that says why not.

    number: its place in the source. id: SHA-256 of its bytes; None where they could not be read.
    content: SHA-256 of all that was read for it, see `content_digest`; "" where it could not be.
    X: (1, C, H, W) in the explained space. size: (height, width) of the photo, upright. regions: at
    the network's size.
    """

    number: int
    item: Item
    id: str | None = None
    content: str = ""
    X: Tensor | None = None
    size: tuple[int, int] | None = None
    regions: LabelMap | None = None
    error: str | None = None

    def failed(self, error: BaseException) -> Read:
        """The same photo, with why it could not be explained."""
        return replace(self, X=None, regions=None, error=told(error))


@dataclass(frozen=True)
class Reader:
    """Reads photos for an explainer. Threads may share it."""

    explainer: Explainer
    masks: Masks

    def read(self, number: int, item: Item) -> Read:
        """One photo; whatever is wrong with it is told in what is returned."""
        found = Read(number, item)
        try:
            content, mask, found = self._content(found)
            return self._decoded(content, mask, found)
        # One bad photo is an error row, whatever a codec or a user's data set stumbles over.
        except Exception as error:
            return found.failed(error)

    def _content(self, found: Read) -> tuple[Any, Any, Read]:
        content, label, mask, id_ = content_of(found.item)
        item = found.item if label is None else replace(found.item, label=label_of(label))
        known = content_digest(found.item, id_, label, mask)
        return content, mask, replace(found, id=id_, item=item, content=known)

    def _decoded(self, content: Any, mask: Any, found: Read) -> Read:
        if isinstance(content, bytes):
            with open_image_bytes(content, found.item.name) as opened:
                batch = self.explainer.read_batch(opened)
        else:
            batch = self.explainer.read_batch(content)
        if len(batch.tensor) != 1:
            raise InputError(f"{found.item.name} holds {len(batch.tensor)} images; give one")
        size = batch.photo_sizes[0]
        regions = self.masks.of(found.item, mask, size)
        if regions is not None:
            network = (int(batch.tensor.shape[-2]), int(batch.tensor.shape[-1]))
            # A tensor is what the network sees, without a crop.
            known = None if batch.pictures[0] is None else self.explainer.preprocessing
            regions = regions.as_seen(size, network, known)
        return replace(found, X=batch.tensor, size=size, regions=regions)


def content_of(item: Item) -> tuple[Any, Any, Any, str]:
    """A photo's bytes, array or picture, its label and mask where these come with it, and its id.

    Raises InputError, and whatever a data set in Python raises.
    """
    where = item.where
    if not isinstance(where, InMemory):
        content = where.read()
        return content, None, None, hashlib.sha256(content).hexdigest()
    entry = where.value
    image, label, mask = entry.get() if isinstance(entry, Entry) else (entry, None, None)
    if isinstance(image, str | os.PathLike):
        image = InFile(os.fspath(image)).read()
    if isinstance(image, Image.Image):
        image = image.copy()
    id_ = hashlib.sha256(image).hexdigest() if isinstance(image, bytes) else _id_of(image)
    return image, label, mask, id_


def content_digest(item: Item, id_: str, label: Any, mask: Any) -> str:
    """SHA-256 of a photo's bytes and of what came with it: a label, a mask that is no file.

    item: of the source; id_, label, mask: as `content_of` has them. A mask in a file of its own is
    told by the file.
    """
    given: Any = mask
    if item.mask is not None and not isinstance(item.mask, InFile | InMemory):
        try:
            given = hashlib.sha256(item.mask.read()).hexdigest()
        except InputError as error:
            given = str(error)
    text = repr((id_, None if label is None else str(label), fingerprint.of_values(given)))
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def ahead(
    pool: ThreadPoolExecutor, reader: Reader, items: Iterable[tuple[int, Item]], most: int
) -> Iterator[Read]:
    """Photos in their order, at most so many of them read before they are wanted."""
    waiting: deque[Future[Read]] = deque()
    for number, item in items:
        waiting.append(pool.submit(reader.read, number, item))
        if len(waiting) > most:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def told(error: BaseException) -> str:
    """A sentence for an error row."""
    if isinstance(error, GuidXmageError):
        return brief(error, 500)
    return brief(f"{type(error).__name__}: {error}", 500)


def _id_of(image: Any) -> str:
    """Of an array, a tensor or a picture: what it is and its bytes."""
    plain = isinstance(image, Tensor | np.ndarray | Image.Image)
    if not plain:
        raise InputError(
            f"the data set gives {type(image).__name__} where an image is expected: a path, "
            "bytes, a Pillow image, an array or a tensor"
        )
    return fingerprint.of_values(image)
