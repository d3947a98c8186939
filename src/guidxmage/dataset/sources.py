"""Where photos come from: folders, lists, tars, Parquet files and data sets in Python."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from guidxmage.dataset.containers import parquet_items, tar_items
from guidxmage.dataset.items import InFile, InMemory, Item, named
from guidxmage.dataset.ledger import HEAD
from guidxmage.dataset.lists import LISTS, list_items, stamp_of
from guidxmage.errors import InputError
from guidxmage.files.names import brief, shown
from guidxmage.inputs.photos import IMAGE_SUFFIXES, open_image

# What a file's ending says of it; in a folder the first kind that is there.
_KINDS = {
    "folder": tuple(IMAGE_SUFFIXES),
    "tar": (".tar",),
    "parquet": (".parquet",),
    "list": LISTS,
}
_WORDS = {"folder": "photos", "tar": "tars", "parquet": "Parquet files", "list": "lists"}


@dataclass(frozen=True)
class Source:
    """Photos in a fixed order.

    kind: "folder", "list", "tar", "parquet" or "python"; name: as it was given; notes: sentences
    about what lies there and was not read.
    """

    kind: str
    name: str
    items: Sequence[Item]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.items)


@dataclass(frozen=True)
class Listed(Sequence[Item]):
    """The items of a data set in Python: each is asked for when it is used, and not kept.

    An entry is an image, or a tuple of an image, its label and its mask (both may be missing, and
    be None).
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
        """Image, label, mask; None where there is none of the last two.

        Of an image and a picture, as data sets for segmentation have it, the picture is the mask.
        Raises InputError.
        """
        entry = self.data[self.index]
        if not isinstance(entry, tuple | list):
            return entry, None, None
        if not 1 <= len(entry) <= 3:
            raise InputError(
                f"the data set gives {len(entry)} parts; give an image, or (image, label, mask)"
            )
        if len(entry) == 2 and _is_picture(entry[1]):
            return entry[0], None, _plane(entry[1])
        parts = [*entry, None, None]
        return parts[0], parts[1], _plane(parts[2])


def _is_picture(value: Any) -> bool:
    """Whether a value is a mask by what it is: a picture, or numbers in rows and columns."""
    if isinstance(value, Image.Image):
        return True
    return isinstance(value, np.ndarray | Tensor) and value.ndim >= 2


def _plane(mask: Any) -> Any:
    """A mask, without the single channel that torchvision's transforms put first."""
    plain = isinstance(mask, np.ndarray | Tensor) and mask.ndim == 3 and mask.shape[0] == 1
    return mask[0] if plain else mask


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
    `mask`, a Parquet file with such columns or with the images' bytes in `image`, `jpg`, `png` or
    `bytes`, a WebDataset tar, or a folder of such files of one kind; or a data set of Python,
    which has a length and gives an image or (image, label, mask) for each index. labels: False
    leaves labels out. Raises InputError where there is no photo at all, for a file that is none of
    these, and for a folder that mixes photos, tars and Parquet files.
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
    kind = _kind(path)
    if kind == "folder" or kind is None:
        _check_photo(path)
        return Source("folder", name, [_photo(path, path.parent, False)])
    return Source(kind, name, _READERS[kind](path, "", ""))


def _check_photo(path: Path) -> None:
    """Raise InputError for a single file that is no photo by its ending, nor by its content."""
    if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file():
        return
    try:
        with open_image(path):
            return
    except InputError as error:
        raise InputError(
            f"{shown(path)} is no source: give a folder, a photo, a list (.csv, .tsv, .parquet) or "
            f"an uncompressed .tar ({brief(error, 200)})"
        ) from error


def _kind(file: Path) -> str | None:
    suffix = file.suffix.lower()
    return next((kind for kind, endings in _KINDS.items() if suffix in endings), None)


def _folder(path: Path, name: str) -> Source:
    """A folder of photos, of tars, of Parquet files or of lists, with all below it."""
    files = _files(path)
    there = [kind for kind in _KINDS if kind in files]
    if not there:
        endings = ", ".join(sorted(one for endings in _KINDS.values() for one in endings))
        raise InputError(f"{shown(name)} holds no photos; looked for files ending in {endings}")
    kind, lists = there[0], files.get("list", [])
    if mixed := [one for one in there[1:] if one != "list"]:
        raise InputError(
            f"{shown(name)} holds {_WORDS[kind]} and {_WORDS[mixed[0]]}, such as "
            f"{_first(files[kind], path)} and {_first(files[mixed[0]], path)}: give one of them"
        )
    notes = (
        (f"{shown(lists[0])} was not read; give it as the source for what it says of the photos",)
        if lists and kind != "list"
        else ()
    )
    if kind == "folder":
        in_classes = all(photo.parent != path for photo in files[kind])
        return Source(kind, name, [_photo(one, path, in_classes) for one in files[kind]], notes)
    return Source(kind, name, list(_of_files(kind, files[kind], path)), notes)


def _of_files(kind: str, files: Sequence[Path], root: Path) -> Iterator[Item]:
    """Photos in several files: names begin with the file's, those of lists with its folder."""
    for file in files:
        inside = file.relative_to(root)
        folder = "" if inside.parent == Path() else f"{inside.parent.as_posix()}/"
        yield from _READERS[kind](file, f"{inside.as_posix()}/" if len(files) > 1 else "", folder)


_READERS: dict[str, Callable[[Path, str, str], list[Item]]] = {
    "tar": lambda file, before, _: tar_items(file, before),
    "parquet": parquet_items,
    "list": lambda file, _, folder: list_items(file, folder),
}


def _files(root: Path) -> dict[str, list[Path]]:
    """What is below a folder, sorted, by kind; nothing hidden, no data set. Raises InputError."""
    found: dict[str, list[Path]] = {}

    def fail(error: OSError) -> None:
        raise InputError(
            f"the folder {shown(error.filename)} cannot be read: {error.strerror}"
        ) from error

    for parent, folders, names in os.walk(root, onerror=fail):
        if HEAD in names and parent != os.fspath(root):  # one that a run put there
            folders[:] = []
            continue
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            file = Path(parent, name)
            kind = None if name.startswith(".") else _kind(file)
            if kind is not None:
                found.setdefault(kind, []).append(file)
    return {kind: sorted(files) for kind, files in found.items()}


def _first(files: Sequence[Path], root: Path) -> str:
    return brief(files[0].relative_to(root).as_posix())


def _photo(photo: Path, root: Path, in_classes: bool) -> Item:
    relative = photo.relative_to(root)
    label = relative.parts[0] if in_classes else None
    where = InFile(os.fspath(photo))
    return named(relative.as_posix(), where=where, label=label, stamp=stamp_of(photo))
