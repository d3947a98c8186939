"""Explain the photos of a data set that stand out again, into a folder of it that can be opened."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from guidxmage.dataset.notable import Found, Places, found_again, notable
from guidxmage.dataset.query import Dataset
from guidxmage.dataset.summary import PHOTOS, Shown
from guidxmage.errors import InputError
from guidxmage.explainer import Explainer
from guidxmage.files.names import shown
from guidxmage.jobs.explain_photos import Job, explain_photos
from guidxmage.jobs.report_results import Say, report_results
from guidxmage.objects.label_map import BACKGROUND, IGNORED

TAKEN = "taken"
"""Photos and masks that lie in tars or Parquet files, as files of their own."""
# What sums may differ by, of Σ |contribution|: batches of other sizes round in another way.
_LOOSE = 1e-3


def explain_notable(
    dataset: Dataset,
    explainer: Explainer,
    most: int,
    places: Places | None = None,
    *,
    say: Say = lambda _: None,
    advance: Callable[[], None] = lambda: None,
) -> Path:
    """Explain at most so many notable photos, with their masks, and write their report; its path.

    The results lie in the data set, in photos/, and what is there already is kept. The report, and
    the table beside it, have those alone that are what their rows say: the photo by its hash, its
    masks and numbers by comparison. say: told of every other photo, and why; advance: after each
    photo. Raises InputError for another network, and where no photo is found; MissingExtraError
    without matplotlib.
    """
    if explainer.fingerprint() != dataset.head.network:
        raise InputError(
            "this is not the network that the data set was made with: its weights, settings or "
            "code are others, and so were its numbers; name the same one with --model and --weights"
        )
    stand_out = notable(dataset)
    rows = stand_out.table.to_json()[:most]
    known = _rows(dataset, rows)
    out = dataset.folder / PHOTOS
    chosen = (places or Places()).of(dataset)
    folders: dict[Path, None] = {}
    for one in found_again(dataset, rows, dataset.folder / TAKEN, chosen, say):
        row = known[one.item]
        job = Job(one.target, objects=masks_for(one, row, chosen), source=dataset.head.named)
        for outcome in explain_photos(explainer, [one.photo], out, job, say=say):
            advance()
            why = outcome.error or differs(row, outcome.manifest)
            if why:
                say(f"{shown(one.name)} is left out: {why}")
            elif outcome.folder is not None:
                folders[outcome.folder] = None
    if not folders:
        raise InputError(
            "none of the photos that stand out is left with the bytes, masks and numbers of its "
            "row; give their folder with --photos and their masks with --objects, or run "
            "guid-xmage batch again"
        )
    report = report_results(
        list(folders),
        out / "report.html",
        title="Photos that stand out",
        overwrite=True,
        alone=True,
    )
    Shown(len(rows), stand_out.digest(len(rows)), len(folders)).write(dataset)
    return report.path


def masks_for(one: Found, row: Mapping[str, Any], places: Places) -> Any:
    """The masks of a photo, for a `Job`; "none" where one file of many has none."""
    shared = one.masks is not None and one.masks == places.objects
    missing = row["object_area"] is None
    return "none" if one.masks is None or (shared and missing) else one.masks


def _rows(dataset: Dataset, rows: Sequence[Mapping[str, Any]]) -> dict[int, dict[str, Any]]:
    """The whole rows of notable photos, by their places."""
    items = ", ".join(str(int(row["item"])) for row in rows) or "NULL"
    found = dataset.query(f"SELECT * FROM rows WHERE rank = 0 AND item IN ({items})", seconds=None)
    return {row["item"]: row for row in found.to_json()}


def differs(row: Mapping[str, Any], manifest: Mapping[str, Any]) -> str | None:
    """Why a result is not what the row of its photo says; None where it is."""
    result = manifest["results"][0]
    objects = (manifest.get("objects") or [None])[0]
    own = None if objects is None else [one for one in objects["rows"] if _is_object(one)]
    areas, there = _by_name(row["objects"], "area"), _by_name(own, "pixels")
    if areas != there:
        return (
            f"its masks were changed since, or are others: {_pixels(there)} instead of "
            f"{_pixels(areas)}; run guid-xmage batch again, or give --objects"
        )
    sums, others = _by_name(row["objects"], "pixels") or {}, _by_name(own, "sum") or {}
    scale = row["pixels_positive"] - row["pixels_negative"]
    if not all(abs(sums[name] - others[name]) <= _LOOSE * scale for name in sums):
        return (
            "its masks were changed since: they lie on other pixels; run guid-xmage batch again, "
            "or give --objects"
        )
    pairs = ((row["score"], result["score"]), (row["pixels"], result["contribution_sum"]))
    if not all(abs(a - b) <= _LOOSE * max(scale, abs(row["score"])) for a, b in pairs):
        return (
            f"its score is {result['score']:.6g} now, and {row['score']:.6g} in its row: the "
            "target or the reference is one that this cannot ask for again"
        )
    return None


def _is_object(one: Mapping[str, Any]) -> bool:
    return one["label"] not in (BACKGROUND, IGNORED)


def _by_name(objects: Sequence[Mapping[str, Any]] | None, key: str) -> dict[str, Any] | None:
    """Σ of a number over the objects of each name; None where there is no mask."""
    if objects is None:
        return None
    found: dict[str, Any] = {}
    for one in objects:
        found[one["name"]] = found.get(one["name"], 0) + one[key]
    return found


def _pixels(areas: Mapping[str, int] | None) -> str:
    if areas is None:
        return "no mask"
    return ", ".join(f"{shown(name)} of {area} pixels" for name, area in areas.items()) or "nothing"
