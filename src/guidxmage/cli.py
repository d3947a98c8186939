"""The command line: guid-xmage explain, guid-xmage models."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from guidxmage import __version__
from guidxmage.errors import GuidXmageError, InputError

if TYPE_CHECKING:
    from guidxmage.batch import Job, Outcome
    from guidxmage.explainer import Explainer

BAD_INPUT, INTERRUPTED = 2, 130

app = typer.Typer(
    help="Explains, pixel by pixel and exactly, why a convolutional network gives an image its "
    "class score.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)


class Style(str, Enum):
    """How the distribution map is coloured."""

    bands = "bands"
    continuous = "continuous"


class Precision(str, Enum):
    """The dtype a network is run in."""

    float32 = "float32"
    float64 = "float64"


def one_sentence(command: Callable[..., None]) -> Callable[..., None]:
    """End a command with one clear sentence and exit code 2 instead of a traceback."""

    @wraps(command)
    def guarded(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except GuidXmageError as error:
            typer.echo(f"guid-xmage: {error}", err=True)
            raise typer.Exit(BAD_INPUT) from None
        except KeyboardInterrupt:
            typer.echo("guid-xmage: interrupted; finished photos are kept", err=True)
            raise typer.Exit(INTERRUPTED) from None

    return guarded


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"guid-xmage {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Exact pixel-level explanations of convolutional networks."""


@app.command(
    epilog="""**Examples**

`guid-xmage explain cat.jpg` — the bundled ImageNet network, its best class

`guid-xmage explain cat.jpg --target top3 --objects cat_mask.png`

`guid-xmage explain cat.jpg --target tabby --rather-than "tiger cat"`

`guid-xmage explain photos/ --model resnet50 --weights resnet50.pth --out results --json`

`guid-xmage explain x.png --model mynet.py:build`
"""
)
@one_sentence
def explain(  # noqa: PLR0917
    photos: Annotated[list[Path], typer.Argument(help="Photos, or folders of photos.")],
    model: Annotated[
        str,
        typer.Option(
            help="A name from `guid-xmage models`, or your own factory as file.py:function or "
            "package.module:function."
        ),
    ] = "efficientnet_lite0",
    weights: Annotated[
        str,
        typer.Option(help="default (published), none (random), or a .pth/.safetensors file."),
    ] = "default",
    labels: Annotated[
        Path | None, typer.Option(help="File with the class names: lines, or JSON.")
    ] = None,
    target: Annotated[
        str,
        typer.Option(help="top1, top5, all, a class index or name, or a comma-separated list."),
    ] = "top1",
    rather_than: Annotated[
        str | None,
        typer.Option(help="Explain why the target rather than this class (or top2)."),
    ] = None,
    objects: Annotated[
        str,
        typer.Option(
            help="auto (segment the photo), none, or masks: a label or mask PNG, a folder of them, "
            "COCO JSON, Pascal VOC XML."
        ),
    ] = "auto",
    reference: Annotated[
        float | None,
        typer.Option(help="Reference value of every pixel (0 black … 1 white); default 0."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the results, one folder a photo.")] = Path(
        "explanations"
    ),
    style: Annotated[Style, typer.Option(help="Five bands, or a continuous scale.")] = Style.bands,
    shared_scale: Annotated[
        bool, typer.Option("--shared-scale", help="One colour scale for all photos (slower).")
    ] = False,
    arrays: Annotated[
        bool, typer.Option("--arrays/--no-arrays", help="Write arrays.npz (weights, maps, trail).")
    ] = True,
    dtype: Annotated[Precision, typer.Option(help="Precision to run in.")] = Precision.float32,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps …")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifests as JSON.")] = False,
) -> None:
    """Explain photos: a figure, a manifest and arrays for each.

    Every result folder holds figure.png (input, distribution map, saliency map, objects),
    distribution.png and saliency.png (the bare maps), manifest.json and arrays.npz.
    """
    from guidxmage.batch import Job, explain_photos, shared_scale_of
    from guidxmage.images import find_images

    found = find_images(photos)
    explainer = _explainer(model, weights, labels, dtype.value, device)
    job = Job(
        target=_target(target, rather_than),
        objects=objects if objects in ("auto", "none") else Path(objects),
        reference=reference,
        scale=None,
        style=cast("Any", style.value),
        arrays=arrays,
    )
    if shared_scale:
        job = _with_scale(job, shared_scale_of(explainer, found, job))
    outcomes = []
    with _progress(len(found)) as advance:
        for outcome in explain_photos(explainer, found, out, job):
            outcomes.append(outcome)
            advance()
            if outcome.error:
                typer.echo(f"guid-xmage: {outcome.error}", err=True)
            elif not as_json:
                _print_outcome(outcome)
    if as_json:
        results = [{**o.manifest, "folder": str(o.folder)} for o in outcomes if o.folder]
        typer.echo(json.dumps(results, indent=2, ensure_ascii=False))
    failed = [outcome for outcome in outcomes if outcome.error]
    if failed:
        if len(outcomes) > 1:
            typer.echo(f"guid-xmage: {len(failed)} of {len(outcomes)} photos failed", err=True)
        raise typer.Exit(BAD_INPUT)


@app.command(
    epilog="""**Examples**

`guid-xmage models`

`guid-xmage models --json`
"""
)
@one_sentence
def models(
    everything: Annotated[
        bool, typer.Option("--all", help="Also list networks that cannot be explained yet.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the list as JSON.")] = False,
) -> None:
    """List the networks that can be explained by name."""
    from dataclasses import asdict

    from guidxmage.models import available_models

    found = [info for info in available_models() if everything or info.piecewise_linear]
    if as_json:
        typer.echo(json.dumps([asdict(info) for info in found], indent=2))
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("network", "from", "input", "weights on this machine", "exact"):
        table.add_column(heading)
    for info in found:
        table.add_row(
            info.name,
            info.source,
            f"{info.input_size}²",
            "yes" if info.available_offline else "no",
            "on region" if info.piecewise_linear else "not explained yet",
        )
    Console().print(table)


def _explainer(model: str, weights: str, labels: Path | None, dtype: str, device: str) -> Explainer:
    """The explainer for --model and its companions."""
    import torch

    from guidxmage.explainer import Explainer
    from guidxmage.models import load_python_model, read_labels

    precision = {"float32": torch.float32, "float64": torch.float64}[dtype]
    if ":" not in model:
        return Explainer.load(model, weights=weights, labels=labels, dtype=precision, device=device)
    if weights != "default":
        raise InputError(
            f"--weights {weights} does not go with --model {model}: load the weights in your own "
            "function"
        )
    loaded = load_python_model(model)
    explainer = Explainer(
        loaded.model,
        preprocessing=loaded.preprocessing,
        labels=loaded.labels if labels is None else read_labels(labels),
        name=loaded.name,
        dtype=precision,
        device=device,
    )
    explainer.weights_source = loaded.weights
    return explainer


def _target(target: str, rather_than: str | None) -> Any:
    """The target specification for --target and --rather-than."""
    if rather_than is not None:
        return ("contrast", _number_or_name(target), _number_or_name(rather_than))
    parts = [part.strip() for part in target.split(",")]
    # Class names such as "Granny Smith, apple" are not in the list; numbers may be listed.
    if len(parts) > 1 and all(part.lstrip("-").isdigit() for part in parts):
        return ("classes", [int(part) for part in parts])
    return _number_or_name(target)


def _number_or_name(text: str) -> int | str:
    return int(text) if text.lstrip("-").isdigit() else text


def _with_scale(job: Job, scale: float) -> Job:
    from dataclasses import replace

    return replace(job, scale=scale)


@contextmanager
def _progress(total: int) -> Iterator[Callable[[], None]]:
    """A bar on stderr for several photos on a terminal; silent otherwise."""
    if total < 2 or not sys.stderr.isatty():
        yield lambda: None
        return
    columns: Sequence[Any] = (
        TextColumn("explaining"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=total)
        yield lambda: bar.advance(task)


def _print_outcome(outcome: Outcome) -> None:
    """The result of one photo in a few lines."""
    manifest = outcome.manifest
    typer.echo(f"{outcome.photo} → {outcome.folder}/")
    for number, result in enumerate(manifest["results"]):
        typer.echo(
            f"  {result['name']}: score {result['score']:.4f} = Σ pixels "
            f"{result['contribution_sum']:+.4f} + bias {result['bias']:+.4f}   "
            f"(residual {result['residual']:.1e}, bound {result['residual_bound']:.1e}; "
            f"exact {manifest['exactness']})"
        )
        for row in manifest.get("objects", [{}] * (number + 1))[number].get("rows", []):
            typer.echo(f"    {row['name']:<24} {row['sum']:+10.4f}   {row['pixels']:>8} pixels")


def main() -> None:
    """Entry point of the console command."""
    app()


if __name__ == "__main__":
    main()
