"""The photos of a data set that stand out, and their files, to be looked at again."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from guidxmage.dataset.items import InFile, Item, Where
from guidxmage.dataset.masks import masks_of, own_mask
from guidxmage.dataset.query import Answer, Dataset
from guidxmage.dataset.reading import content_of
from guidxmage.dataset.sources import open_source
from guidxmage.errors import InputError
from guidxmage.files.names import brief, shown

_SHARE = "background_whole_positive / nullif(whole_positive, 0)"
_FIRST = "path, id, coalesce(label, target_name) AS class, target, against, target_name, score"


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
  score, {columns}, id, target, against FROM ranked WHERE place IN (1, (photos + 1) // 2)
ORDER BY {classes}, class, place"""


# By sums, not by shares: of a photo with next to nothing that adds to the score a share may be all.
BY_BACKGROUND = _of_each_class(
    f"SELECT {_FIRST}, background_whole - object_whole AS lead, {_SHARE} AS background "
    "FROM explained WHERE background_whole IS NOT NULL AND rank = 0",
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

    def shown(self) -> Answer:
        """The table without what is only needed to find a photo."""
        return Answer(self.table.columns[:-3], tuple(row[:-3] for row in self.table.rows))


def notable(dataset: Dataset) -> Notable:
    """What stands out in a data set, at most two photos of each class."""
    found = dataset.query(BY_BACKGROUND)
    if len(found):
        return Notable("background", found)
    return Notable("score", dataset.query(BY_SCORE))


@dataclass(frozen=True)
class Found:
    """A photo that is at hand again: its file, its masks, and what was explained of it."""

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
    dataset: Dataset, rows: Sequence[dict[str, Any]], into: Path, places: Places
) -> Iterator[Found]:
    """The photos of rows of `notable`, in their order, each once; those that are gone are left out.

    A photo counts as found where its bytes have the hash that its row states. into: a folder for
    those that lie in tars or Parquet files. Raises InputError where the source is gone.
    """
    items = _items(dataset, [str(row["path"]) for row in rows], places.photos)
    done: set[str] = set()
    for number, row in enumerate(rows):
        name = str(row["path"])
        item = items.get(name)
        if item is None or name in done:
            continue
        try:
            content, _, _, id_ = content_of(item)
        except InputError:
            continue
        if id_ != row["id"]:
            continue
        done.add(name)
        folder = into / f"{number:03}"
        photo = item.path or _saved(content, folder / PurePosixPath(name).name, ".png")
        yield Found(name, photo, _masks(item, places.objects, folder), _target(row))


def _items(dataset: Dataset, names: Sequence[str], photos: Path | None) -> dict[str, Item]:
    """The items of those names in the data set's source."""
    kind, name = dataset.head.source.get("kind"), str(dataset.head.source.get("name"))
    if kind == "python" and photos is None:
        raise InputError(
            "the photos came from a data set in Python; save them as files and give the folder "
            "with --photos"
        )
    root = Path(name) if photos is None else photos
    if not root.exists():
        raise InputError(f"{shown(root)} does not exist; give the photos' folder with --photos")
    if root.is_dir() and (kind in ("folder", "python")):
        paths = {one: _below(root, one) for one in names}
        return {one: Item(one, InFile(str(path))) for one, path in paths.items() if path}
    wanted = set(names)
    return {item.name: item for item in open_source(root).items if item.name in wanted}


def _below(root: Path, name: str) -> Path | None:
    """The photo of that name, if it is one below the folder and nowhere else."""
    path = root / name
    inside = os.path.commonpath([os.path.realpath(root), os.path.realpath(path)])
    return path if inside == os.path.realpath(root) and path.is_file() else None


def _saved(content: Any, path: Path, ending: str) -> Path:
    """Bytes that lie in another file, in one of their own."""
    own = path if path.suffix else path.with_name(f"{brief(path.name, 60)}{ending}")
    own.parent.mkdir(parents=True, exist_ok=True)
    own.write_bytes(content)
    return own


def _masks(item: Item, objects: Path | None, folder: Path) -> Path | None:
    where: Where | None = item.mask
    if isinstance(where, InFile):
        return Path(where.path)
    own = own_mask(item)
    if own is not None:
        return _saved(own, folder / "masks" / "mask.png", ".png")
    return None if objects is None else masks_of(objects, item.sought, item.path)


def _target(row: dict[str, Any]) -> Any:
    """What was explained, where it is a class or one class rather than another."""
    target, against = row["target"], row["against"]
    if target is None:
        return "top1"
    return target if against is None else ("contrast", target, against)
