"""guid-xmage summary: a page about a data set."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from guidxmage.cli.common import (
    AsJson,
    complain,
    load_explainer,
    one_sentence,
    print_json,
    progress_bar,
)
from guidxmage.errors import InputError
from guidxmage.files.names import shown

if TYPE_CHECKING:
    from guidxmage.dataset.query import Dataset

EXAMPLES = """**Examples**

`guid-xmage summary answers` — answers/report.html: classes, photos, errors

`guid-xmage summary answers --explain 20 --photos photos/` — and the most notable ones in the viewer
"""


@one_sentence
def summary(
    dataset: Annotated[Path, typer.Argument(help="A folder that `guid-xmage batch` made.")],
    explain: Annotated[
        int,
        typer.Option(
            min=0,
            help="Explain so many of the photos that it names again, with the network that the "
            "data set names, into DATASET/photos with its report.html.",
        ),
    ] = 0,
    photos: Annotated[
        Path | None, typer.Option(help="Folder of the photos; by default the data set's source.")
    ] = None,
    objects: Annotated[
        Path | None, typer.Option(help="Their masks; by default those of the data set.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write a page about a data set: classes, photos that stand out, errors, how it was made."""
    from guidxmage.dataset.query import Dataset
    from guidxmage.dataset.summary import write_summary

    opened = Dataset(dataset)
    if explain:
        _explain(opened, explain, photos, objects)
    written = write_summary(opened)
    page = written.with_name("report.html")
    if as_json:
        print_json({"report": shown(written), "page": shown(page), "missing": opened.missing})
    else:
        typer.echo(f"{shown(page)}: {opened.head.photos} photos")


def _explain(dataset: Dataset, most: int, photos: Path | None, objects: Path | None) -> None:
    """Explain notable photos into a folder of the data set, and write their report."""
    from guidxmage.dataset.masks import masks_of
    from guidxmage.dataset.summary import PHOTOS, notable
    from guidxmage.jobs.explain_photos import Job, explain_photos
    from guidxmage.jobs.report_results import report_folders, report_results

    head = dataset.head
    if head.source.get("kind") != "folder" and photos is None:
        raise InputError("the photos are not in a folder; give --photos with one that has them")
    root = Path(str(head.source.get("name"))) if photos is None else photos
    found = notable(dataset)
    names = list(dict.fromkeys(str(row["path"]) for row in found.to_json()))[:most]
    paths = {name: path for name in names if (path := _below(root, name)) is not None}
    if not paths:
        raise InputError(f"none of the photos that stand out is in {shown(root)}")
    named = head.named
    # What is named in a data set from elsewhere is not run: a factory is the user's own code.
    if ":" in named.get("model", ":") and not named.get("model", "").startswith("timm:"):
        raise InputError(
            "the data set was made with a network from your own code, which is not run from here; "
            "explain the photos with guid-xmage explain"
        )
    labels = Path(named["labels"]) if "labels" in named else None
    explainer = load_explainer(
        named["model"], named["weights"], labels, named["dtype"], gates=named["gates"]
    )
    if explainer.fingerprint() != head.network:
        complain("the network is not quite the one that the data set was made with")
    masks = objects or (Path(str(head.options["objects"])) if head.options.get("objects") else None)
    out = dataset.folder / PHOTOS
    with progress_bar(len(paths)) as advance:
        for name, path in paths.items():
            own = None if masks is None else masks_of(masks, name, path)
            job = Job(objects="none" if own is None else own, source=named)
            for outcome in explain_photos(explainer, [path], out, job, say=complain):
                advance()
                if outcome.error:
                    complain(outcome.error)
    folders = report_folders([out])
    report_results(folders, out / "report.html", title="Photos that stand out", overwrite=True)


def _below(root: Path, name: str) -> Path | None:
    """The photo of that name, if it is one below the folder and nowhere else."""
    path = root / name
    inside = os.path.commonpath([os.path.realpath(root), os.path.realpath(path)])
    return path if inside == os.path.realpath(root) and path.is_file() else None
