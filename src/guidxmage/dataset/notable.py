"""The photos of a data set that stand out, and their files, to be looked at again."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from guidxmage.dataset.items import InFile, Item, Where
from guidxmage.dataset.masks import masks_of, own_mask
from guidxmage.dataset.query import Answer, Dataset
from guidxmage.dataset.questions import BOTH, SHARE
from guidxmage.dataset.reading import content_of
from guidxmage.dataset.sources import open_source
from guidxmage.errors import InputError
from guidxmage.files.atomic import write_atomically
from guidxmage.files.names import folder_name, shown
from guidxmage.inputs.photos import IMAGE_SUFFIXES

_FIRST = (
    "item, path, id, coalesce(label, target_name) AS class, target, against, target_name, score"
)


def _of_each_class(asked: str, order: str, classes: str, words: tuple[str, str]) -> str:
    """SQL: of each class the first photo in an order, and the one in the middle of it.

    asked: SQL of the photos; classes: their order by class; words: what the first one is called,
    and the columns that say by what.
    """
    first, columns = words
    return f"""WITH asked AS ({asked}), ranked AS (SELECT *,
  row_number() OVER (PARTITION BY class ORDER BY {order}, path) AS place,
  count(*) OVER (PARTITION BY class) AS photos FROM asked)
SELECT class, CASE place WHEN 1 THEN '{first}' ELSE 'middle' END AS which, path, target_name,
  score, {columns}, id, target, against, item FROM ranked WHERE place IN (1, (photos + 1) // 2)
ORDER BY {classes}, class, place"""


# By sums, not by shares: of a photo with next to nothing that adds to the score a share may be all.
BY_BACKGROUND = _of_each_class(
    f"SELECT {_FIRST}, background_whole - object_whole AS lead, {SHARE} AS background "
    f"FROM explained WHERE background_whole IS NOT NULL AND {BOTH} AND rank = 0",
    "lead DESC",
    "max(lead) OVER (PARTITION BY class) DESC",
    ("most", "lead, background"),
)
# A photo of another class than the predicted one comes before all that are right.
BY_SCORE = _of_each_class(
    f"SELECT {_FIRST}, coalesce(label_class = predicted, true) AS correct FROM explained "
    "WHERE rank = 0",
    "correct, score",
    "min(score) OVER (PARTITION BY class)",
    ("lowest", "correct"),
)


@dataclass(frozen=True)
class Notable:
    """Photos that stand out, as a table with a row each.

    by: "background" where photos have masks, of each class the one whose background is ahead of
    its objects by most, and the middle one; else "score", of each class the wrong one with the
    lowest score, or the lowest, and the middle one.
    """

    by: str
    table: Answer

    def digest(self, most: int) -> str:
        """SHA-256 of the first rows: others are of other photos, or of other numbers."""
        first = [list(row) for row in self.table.rows[:most]]
        return hashlib.sha256(json.dumps(first).encode()).hexdigest()

    def shown(self) -> Answer:
        """The table without what is only needed to find a photo."""
        return Answer(self.table.columns[:-4], tuple(row[:-4] for row in self.table.rows))


def notable(dataset: Dataset) -> Notable:
    """What stands out in a data set, at most two photos of each class."""
    found = dataset.query(BY_BACKGROUND, seconds=None)
    if len(found):
        return Notable("background", found)
    return Notable("score", dataset.query(BY_SCORE, seconds=None))


@dataclass(frozen=True)
class Found:
    """A photo that is at hand again: its file, its masks, and what was explained of it.

    item: its place in the data set, as its row has it.
    """

    item: int
    name: str
    photo: Path
    masks: Path | None
    target: Any


@dataclass(frozen=True)
class Places:
    """Where photos and masks lie; by default where the data set says."""

    photos: Path | None = None
    objects: Path | None = None

    def of(self, dataset: Dataset) -> Places:
        """With the data set's own masks where no others are given."""
        stated = dataset.head.options.get("objects")
        own = Path(str(stated)) if stated and Path(str(stated)).exists() else None
        return Places(self.photos, self.objects or own)


def found_again(
    dataset: Dataset,
    rows: Sequence[dict[str, Any]],
    into: Path,
    places: Places,
    say: Callable[[str], None] = lambda _: None,
) -> Iterator[Found]:
    """The photos of rows of `notable`, in their order, each once.

    A photo counts as found where its bytes have the hash that its row states; of the others `say`
    is told, and why. into: a folder for those that lie in tars or Parquet files, each by its hash.
    Raises InputError where the source is gone.
    """
    source = _Photos.of(dataset, {str(row["path"]) for row in rows}, places.photos)
    done: set[str] = set()
    for row in rows:
        if row["id"] in done:
            continue
        name = str(row["path"])
        try:
            item, content = source.found(name, str(row["id"]))
        except InputError as error:
            say(f"{shown(name)} is left out: {error}")
            continue
        done.add(str(row["id"]))
        folder = into / str(row["id"])[:16]
        photo = item.path or _saved(content, folder / _file_name(name))
        yield Found(row["item"], name, photo, _masks(item, places.objects, folder), _target(row))


@dataclass
class _Photos:
    """The photos of some names in a data set's source.

    Names are as rows have them: in a folder most are paths from there, but what no terminal takes
    is escaped in them, and in lists, tars and Parquet files a name may be there several times.
    """

    root: Path
    kind: str
    names: AbstractSet[str]
    _listed: dict[str, list[Item]] | None = field(default=None, repr=False)

    @classmethod
    def of(cls, dataset: Dataset, names: AbstractSet[str], photos: Path | None) -> _Photos:
        """Where the data set says, or else. Raises InputError where there is nothing."""
        kind, name = dataset.head.source.get("kind"), str(dataset.head.source.get("name"))
        if kind == "python" and photos is None:
            raise InputError(
                "the photos came from a data set in Python; save them as files and give the folder "
                "with --photos"
            )
        root = Path(name) if photos is None else photos
        if not root.exists():
            raise InputError(f"{shown(root)} does not exist; give the photos' folder with --photos")
        return cls(root, str(kind), names)

    def found(self, name: str, id_: str) -> tuple[Item, Any]:
        """The photo of that name and hash, and its content. Raises InputError saying why not."""
        why = f"it is not in {shown(self.root)} any more"
        for item in self._called(name):
            try:
                content, _, _, found = content_of(item)
            except InputError as error:
                why = str(error)
                continue
            if found == id_:
                return item, content
            why = "it was changed since, its bytes are others"
        raise InputError(why)

    def _called(self, name: str) -> Iterator[Item]:
        if self.root.is_dir() and self.kind in ("folder", "python"):
            path = _below(self.root, name)
            if path is not None:
                yield Item(name, InFile(str(path)))
        if self._listed is None:
            self._listed = self._in_source()
        yield from self._listed.get(name, ())

    def _in_source(self) -> dict[str, list[Item]]:
        """All items of the names that are wanted; of a data set in Python files are named so."""
        found: dict[str, list[Item]] = {}
        for item in open_source(self.root).items:
            named = {item.name}
            if self.kind == "python":
                named.add(PurePosixPath(item.name).stem)
            for name in named & self.names:
                found.setdefault(name, []).append(item)
        return found


def _below(root: Path, name: str) -> Path | None:
    """The photo of that name, if it is one below the folder and nowhere else."""
    if "\0" in name:
        return None
    path = root / name
    inside = os.path.commonpath([os.path.realpath(root), os.path.realpath(path)])
    return path if inside == os.path.realpath(root) and path.is_file() else None


def _file_name(name: str) -> str:
    """What a photo that lies in another file is called in one of its own."""
    path = PurePosixPath(name)
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return f"{folder_name(path.stem[:100])}{path.suffix}"
    return f"{folder_name(path.name[:100])}.png"


def _saved(content: bytes, path: Path) -> Path:
    """Bytes that lie in another file, in one of their own. Raises InputError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)
    except OSError as error:
        raise InputError(f"cannot write {shown(path)}: {error.strerror or error}") from error
    return path


def _masks(item: Item, objects: Path | None, folder: Path) -> Path | None:
    where: Where | None = item.mask
    if isinstance(where, InFile):
        return Path(where.path)
    own = own_mask(item)
    if own is not None:
        return _saved(own, folder / "masks" / "mask.png")
    return None if objects is None else masks_of(objects, item.sought, item.path)


def _target(row: dict[str, Any]) -> Any:
    """What was explained, where it is a class or one class rather than another."""
    target, against = row["target"], row["against"]
    if target is None:
        return "top1"
    return target if against is None else ("contrast", target, against)
