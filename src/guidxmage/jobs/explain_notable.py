"""Explain the photos of a data set that stand out again, into a folder of it that can be opened."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from guidxmage.dataset.notable import Places, found_again, notable
from guidxmage.dataset.query import Dataset
from guidxmage.dataset.summary import PHOTOS
from guidxmage.errors import InputError
from guidxmage.explainer import Explainer
from guidxmage.jobs.explain_photos import Job, explain_photos
from guidxmage.jobs.report_results import Say, report_folders, report_results


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

    The results lie in the data set, in photos/, and what is there already is kept. say: told of
    photos that are gone, changed or cannot be explained; advance: after each photo. Raises
    InputError where no photo is found, and MissingExtraError without matplotlib.
    """
    rows = notable(dataset).table.to_json()[:most]
    out = dataset.folder / PHOTOS
    with TemporaryDirectory() as folder:
        chosen = (places or Places()).of(dataset)
        found = list(found_again(dataset, rows, Path(folder), chosen))
        if not found:
            raise InputError(
                "none of the photos that stand out is where the data set says, with the same "
                "bytes; give their folder with --photos"
            )
        if len(found) < len({row["path"] for row in rows}):
            say("some of the photos that stand out are gone or changed, and are left out")
        for one in found:
            masks: Any = "none" if one.masks is None else one.masks
            job = Job(target=one.target, objects=masks, source=dataset.head.named)
            for outcome in explain_photos(explainer, [one.photo], out, job, say=say):
                advance()
                if outcome.error:
                    say(outcome.error)
    report = report_results(
        report_folders([out]), out / "report.html", title="Photos that stand out", overwrite=True
    )
    return report.path
