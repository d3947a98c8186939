"""guid-xmage summary: a page about a data set."""

from __future__ import annotations

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
    from guidxmage.explainer import Explainer

EXAMPLES = """**Examples**

`guid-xmage summary answers` — answers/report.html: classes, photos, errors

`guid-xmage summary answers --explain 20 --photos photos/` — and the most notable ones in the viewer
"""


@one_sentence
def summary(  # noqa: PLR0917
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
        Path | None,
        typer.Option(help="The photos, where they are no longer where the data set says."),
    ] = None,
    objects: Annotated[
        Path | None, typer.Option(help="Their masks; by default those of the data set.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="The network to explain them with; needed where it is a factory in your own code, "
            "such as mynet.py:build, which is not run because a data set names it."
        ),
    ] = None,
    weights: Annotated[str | None, typer.Option(help="Of --model: default, none, a file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write a page about a data set: classes, photos that stand out, errors, how it was made."""
    from guidxmage.dataset.query import Dataset
    from guidxmage.dataset.summary import write_summary

    opened = Dataset(dataset)
    if explain:
        from guidxmage.dataset.notable import Places
        from guidxmage.jobs.explain_notable import explain_notable

        explainer = _explainer(opened, model, weights)
        places = Places(photos, objects)
        with progress_bar(explain) as advance:
            explain_notable(opened, explainer, explain, places, say=complain, advance=advance)
    written = write_summary(opened)
    page = written.with_name("report.html")
    if as_json:
        print_json({"report": shown(written), "page": shown(page), "missing": opened.missing})
    else:
        typer.echo(f"{shown(page)}: {opened.head.photos} photos")


def _explainer(dataset: Dataset, model: str | None, weights: str | None) -> Explainer:
    """The network that the data set was made with; by its name, where that names no code."""
    named = dict(dataset.head.named)
    if model is not None:
        named = {"weights": "default", "dtype": "float32", "gates": "secant", **named}
        named["model"] = model
    if weights is not None:
        named["weights"] = weights
    # What is named in a data set from elsewhere is not run: a factory is the user's own code.
    own = ":" in named.get("model", ":") and not named.get("model", "").startswith("timm:")
    if model is None and own:
        raise InputError(
            "the data set was made with a network from your own code, which is not run unless you "
            "name it yourself; give --model FILE.py:FUNCTION"
        )
    labels = Path(named["labels"]) if "labels" in named else None
    return load_explainer(
        named["model"],
        named["weights"],
        labels,
        named["dtype"],
        gates=named["gates"],
        output=named.get("output"),
    )
