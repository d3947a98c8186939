"""guid-xmage sufficient: the pixels that alone fix a small network's answer, with proof."""

from __future__ import annotations

import re
from enum import Enum
from fractions import Fraction
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from guidxmage.cli.common import (
    AsJson,
    Labels,
    Model,
    Overwrite,
    Weights,
    class_of,
    complain,
    find_photos,
    is_number,
    load_explainer,
    one_sentence,
    progress_bar,
    tell_gone,
    tell_outcomes,
)
from guidxmage.errors import InputError

if TYPE_CHECKING:
    from guidxmage.jobs.photo_results import Outcome

EXAMPLES = """**Examples**

`guid-xmage sufficient seven.png --model digits.py:build --eps 0.1`

`guid-xmage sufficient shirt.png --model net.py:build --eps 8/255 --rather-than coat`

`guid-xmage sufficient cat.jpg --eps 1/255 --objects masks/` — which objects fix the answer

`guid-xmage sufficient seven.png --model digits.py:build --eps 0.1 --queries` — for other verifiers
"""
_NUMBER = re.compile(r"[0-9]{0,20}\.?[0-9]{0,20}([eE]-?[0-9]{1,3})?")


class Norm(str, Enum):
    """How far a free pixel may go."""

    linf = "linf"
    l2 = "l2"


@one_sentence
def sufficient(  # noqa: PLR0917
    photos: Annotated[list[Path], typer.Argument(help="Photos, or folders of photos.")],
    eps: Annotated[
        str,
        typer.Option(help="How far free pixels may go, in [0, 1]: 8/255, or a number like 0.03."),
    ],
    model: Model = "efficientnet_lite0",
    weights: Weights = "default",
    labels: Labels = None,
    objects: Annotated[
        str,
        typer.Option(
            help="none: single pixels. auto: the segments of the picture. Or a mask, label map, "
            "annotation, or a folder of them: its objects and the background."
        ),
    ] = "none",
    norm: Annotated[Norm, typer.Option(help="linf: each pixel by itself; l2: all together.")] = (
        Norm.linf
    ),
    rather_than: Annotated[
        str | None,
        typer.Option(help="The one class that must not pass, index or name; by default any other."),
    ] = None,
    label: Annotated[
        str | None,
        typer.Option(help="The class in question, index or name; by default the network's answer."),
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="For each photo.")] = 60,
    order: Annotated[
        str,
        typer.Option(
            help="In which units are tried to be left out: contribution, those first that can "
            "change the answer least; or all their numbers, as 3,0,1,2."
        ),
    ] = "contribution",
    queries: Annotated[
        bool,
        typer.Option("--queries", help="Also each claim as VNN-LIB, with the network as ONNX."),
    ] = False,
    out: Annotated[Path, typer.Option(help="Folder for the results, one folder a photo.")] = Path(
        "sufficient"
    ),
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Find pixels that alone fix the answer: the others may change by eps, and it stays.

    Each pixel, or object, is needed (with an image that shows it), irrelevant (with proof) or
    unknown. Every result folder holds figure.png, manifest.json, arrays.npz and the counterexamples
    that 8 bits can hold. `guid-xmage verify` checks it. For small piecewise-linear networks; the
    network is run in float64.
    """
    from guidxmage.jobs.photo_results import PhotoResults
    from guidxmage.jobs.sufficient_photos import KIND, SufficientJob, sufficient_photos

    epsilon = radius_of(eps)
    if queries and norm is not Norm.linf:
        raise InputError("--queries are boxes in VNN-LIB, so they need --norm linf")
    found, problems = find_photos(photos, out)
    explainer = load_explainer(model, weights, labels, "float64")
    if explainer.outputs.kind not in ("scores", "labels"):
        raise InputError(
            f"the network gives {explainer.outputs.kind}; sufficient pixels are about class scores"
        )
    job = SufficientJob(
        epsilon=epsilon,
        norm=norm.value,
        order=order_of(order),
        objects={"none": None, "auto": "auto"}.get(objects, Path(objects)),
        label=None if label is None else class_of(label),
        rather_than=None if rather_than is None else class_of(rather_than),
        seconds=seconds,
        queries=queries,
        source={
            "model": model,
            "weights": weights,
            "dtype": "float64",
            **({} if labels is None else {"labels": str(labels)}),
        },
    )
    tell_gone(PhotoResults(out, KIND).gone(photos))
    with progress_bar(len(found), "deciding") as advance:
        outcomes = sufficient_photos(explainer, found, out, job, overwrite, complain)
        tell_outcomes(outcomes, problems, _print, as_json, advance)


def radius_of(text: str) -> float:
    """ε in words, 8/255 or 0.03, as a number. Raises InputError unless it is in (0, 1]."""
    parts = [part.strip() for part in text.split("/")]
    plain = len(parts) in (1, 2) and all(
        _NUMBER.fullmatch(part) and any(letter.isdigit() for letter in part.split("e")[0])
        for part in parts
    )
    try:
        value = float(Fraction(parts[0]) / Fraction(parts[-1] if parts[1:] else 1)) if plain else 0
    except (ValueError, ZeroDivisionError, OverflowError):
        value = 0.0
    if not (isfinite(value) and 0 < value <= 1):
        raise InputError(
            f"--eps {text} is no radius; give a fraction like 8/255 or a number above 0, at most 1"
        )
    return value


def order_of(text: str) -> str | tuple[int, ...]:
    """The order that is meant: a word, or units by their numbers."""
    parts = [part.strip() for part in text.split(",")]
    return tuple(map(int, parts)) if all(map(is_number, parts)) else text


def _print(outcome: Outcome) -> None:
    """The result of one photo in a few lines."""
    from guidxmage.files.names import shown

    manifest = outcome.manifest
    result = manifest["result"]
    counts, units = result["counts"], result["units"]
    what = "objects" if result["names"] else "pixels"
    typer.echo(
        shown(
            f"  {result['from_name']}: {counts['needed']:,} needed, {counts['irrelevant']:,} "
            f"irrelevant, {counts['unknown']:,} unknown of {units:,} {what}"
        )
    )
    typer.echo(shown(f"  proved: {result['claim']}"))
    for one in result["objects"] or ():
        typer.echo(
            shown(
                f"    {one['name']:<24} {one['verdict']:<12} alone it fixes the answer: "
                f"{one['suffices']}, alone it cannot flip it: {one['cannot_flip']}"
            )
        )
    exact = sum(one["png"] is not None for one in manifest["counterexamples"])
    typer.echo(
        f"  {len(manifest['counterexamples'])} counterexamples, {exact} of them as PNG; "
        f"{result['queries']:,} questions, {result['nodes']:,} branches, {manifest['seconds']:g} s"
    )
    if result["reason"]:
        typer.echo(shown(f"  stopped: {result['reason']}"))
