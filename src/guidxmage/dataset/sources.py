"""Where photos come from: folders, lists, tars, Parquet files and data sets in Python."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guidxmage.dataset.containers import parquet_items, tar_items
from guidxmage.dataset.items import InFile, InMemory, Item
from guidxmage.dataset.lists import list_items
from guidxmage.errors import InputError
from guidxmage.files.names import shown
from guidxmage.inputs.photos import find_images

_LISTS = (".csv", ".tsv")


@dataclass(frozen=True)
class Source:
    """Photos in a fixed order.

    kind: "folder", "list", "tar", "parquet" or "python"; name: as it was given.
    """

    kind: str
    name: str
    items: Sequence[Item]

    def __len__(self) -> int:
        return len(self.items)


@dataclass(frozen=True)
class Listed(Sequence[Item]):
    """The items of a data set in Python: each is asked for when it is used, and not kept.

    An entry is an image, or a tuple of an image, its label and its mask (both may be missing).
    """

    data: Any

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: Any) -> Any:
        """The item at an index, or those of a slice; their images are not asked for yet."""
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        return Item(name=str(index), where=InMemory(Entry(self.data, index)))


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a data set in Python that was not asked for yet."""

    data: Any
    index: int

    def __reduce__(self) -> tuple[Any, ...]:
        """Sent to another process without the data, which are `shared` with it once."""
        return _entry, (self.index,)

    def get(self) -> tuple[Any, Any, Any]:
        """Image, label, mask; None where there is none of the last two."""
        entry = self.data[self.index]
        if not isinstance(entry, tuple | list):
            return entry, None, None
        parts = [*entry, None, None]
        return parts[0], parts[1], parts[2]


_shared: list[Any] = []


def share(data: Any) -> None:
    """Let entries that are sent to this process find the data set that they are of."""
    _shared[:] = [data]


def _entry(index: int) -> Entry:
    return Entry(_shared[0] if _shared else (), index)


def open_source(source: Any, *, labels: bool = True) -> Source:
    """The photos of a source, in a fixed order.

    source: a folder (with all below it, sorted; where every photo lies in a subfolder, the first
    one's name is the label), a CSV or TSV file with a column `path` and, if wanted, `label` and
    `mask`, a Parquet file or a folder of them with such columns or with the images' bytes in
    `image`, `jpg`, `png` or `bytes`, a WebDataset tar or a folder of them; or a data set of Python,
    which has a length and gives an image or (image, label, mask) for each index. labels: False
    leaves labels out. Raises InputError where there is no photo at all.
    """
    found = source if isinstance(source, Source) else _opened(source)
    if not len(found):
        raise InputError(f"{shown(found.name)} holds no photos")
    if labels or found.kind == "python":
        return found
    from dataclasses import replace

    return replace(found, items=[replace(item, label=None) for item in found.items])


def _opened(source: Any) -> Source:
    if not isinstance(source, str | os.PathLike):
        if not hasattr(source, "__len__") or not hasattr(source, "__getitem__"):
            raise InputError(
                f"a source is a path, or a data set that has a length and can be indexed, not "
                f"{type(source).__name__}"
            )
        return Source("python", type(source).__qualname__, Listed(source))
    path = Path(source)
    name = os.fspath(source)
    if not path.exists():
        raise InputError(f"{shown(name)} does not exist")
    if path.is_dir():
        return _folder(path, name)
    suffix = path.suffix.lower()
    if suffix == ".tar":
        return Source("tar", name, tar_items([path]))
    if suffix == ".parquet":
        return Source("parquet", name, parquet_items([path]))
    if suffix in _LISTS:
        return Source("list", name, list_items(path, "," if suffix == ".csv" else "\t"))
    return Source("folder", name, [_photo(path, path.parent, False)])


def _folder(path: Path, name: str) -> Source:
    """A folder of tars, of Parquet files or of photos, whatever is directly in it."""
    for suffix, kind, read in ((".tar", "tar", tar_items), (".parquet", "parquet", parquet_items)):
        if files := sorted(one for one in path.iterdir() if one.suffix.lower() == suffix):
            return Source(kind, name, read(files))
    photos = find_images([path])
    in_classes = all(photo.parent != path for photo in photos)
    return Source("folder", name, [_photo(photo, path, in_classes) for photo in photos])


def _photo(photo: Path, root: Path, in_classes: bool) -> Item:
    relative = photo.relative_to(root)
    try:
        status = photo.stat()
        stamp = (status.st_size, status.st_mtime_ns)
    except OSError:
        stamp = (0, 0)  # it is told when it is read
    label = shown(relative.parts[0]) if in_classes else None
    return Item(shown(relative.as_posix()), InFile(os.fspath(photo)), label, stamp=stamp)
