"""guid-xmage explain: a figure, a manifest and arrays for each photo."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from guidxmage.attribution.exactness import NOT_EXACT, in_words
from guidxmage.cli.common import (
    AsJson,
    Device,
    ExplainedSpace,
    GateConvention,
    Gates,
    Labels,
    Model,
    OutputKind,
    Overwrite,
    Precision,
    Weights,
    complain,
    depth_of,
    find_photos,
    load_explainer,
    one_sentence,
    progress_bar,
    target_of,
    tell_gone,
    tell_outcomes,
)
from guidxmage.cli.list_targets import list_targets_of
from guidxmage.errors import InputError

if TYPE_CHECKING:
    from guidxmage.jobs.explain_photos import Job
    from guidxmage.jobs.photo_results import Outcome


class Style(str, Enum):
    """How the distribution map is coloured."""

    bands = "bands"
    continuous = "continuous"


class MethodName(str, Enum):
    """What is attributed to the pixels."""

    contributions = "contributions"
    exact_ig = "exact-ig"
    adaptive_ig = "adaptive-ig"


class Map(str, Enum):
    """What the bare maps show."""

    contributions = "contributions"
    whole = "whole"


REPORT, REPORT_TITLE = "report.html", "Explanations"

EXAMPLES = """**Examples**

`guid-xmage explain cat.jpg` — the bundled ImageNet network, its best class

`guid-xmage explain cat.jpg --target top3 --objects cat_mask.png`

`guid-xmage explain cat.jpg --target tabby --rather-than "tiger cat"`

`guid-xmage explain photos/ --model resnet50 --weights resnet50.pth --out results --json`

`guid-xmage explain cat.jpg --certify` — with evidence that it is exact

`guid-xmage explain cat.jpg --depth 8` — the whole map with the network cut at stride 8

`guid-xmage explain cat.jpg --space photo` — contributions of the photo's own pixels

`guid-xmage explain x.png --model mynet.py:build`
"""


@one_sentence
def explain(  # noqa: PLR0917
    photos: Annotated[list[Path], typer.Argument(help="Photos, or folders of photos.")],
    model: Model = "efficientnet_lite0",
    weights: Weights = "default",
    labels: Labels = None,
    output: OutputKind = None,
    target: Annotated[
        str,
        typer.Option(
            help="top1, top5, all, a class index or name, or a comma-separated list; of other "
            "outputs box:0, box:0:left, mask:dog, pixel:120,80, like:other.jpg, value:age."
        ),
    ] = "top1",
    list_targets: Annotated[
        bool, typer.Option("--list-targets", help="Print what each photo offers, and end.")
    ] = False,
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
        str,
        typer.Option(
            help="What contributions are counted from: zero (the image that the normalisation "
            "maps to 0), black, a value of every pixel (0 black … 1 white), or an image."
        ),
    ] = "zero",
    space: ExplainedSpace = None,
    depth: Annotated[
        list[str] | None,
        typer.Option(
            help="Where the network is cut for the whole map: a stride, a layer (layer:3 where its "
            "name is a number), input, default, all, or none; several, or a comma-separated list, "
            "with the one to be shown large first. `guid-xmage models --depths NETWORK` lists "
            "them. By default default,all."
        ),
    ] = None,
    map_: Annotated[
        Map,
        typer.Option("--map", help="What distribution.png and saliency.png show."),
    ] = Map.contributions,
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
    device: Device = "cpu",
    gates: Gates = GateConvention.secant,
    method: Annotated[
        MethodName,
        typer.Option(
            help="contributions: of this image. exact-ig: integrated gradients from the regions of "
            "the line from --baseline, for small networks; adaptive-ig: sampled."
        ),
    ] = MethodName.contributions,
    baseline: Annotated[
        float | None, typer.Option(help="exact-ig, adaptive-ig: the line's start; default 0.")
    ] = None,
    pieces: Annotated[
        int | None, typer.Option(min=1, help="exact-ig: regions at most; adaptive-ig: samples.")
    ] = None,
    radius: Annotated[
        bool, typer.Option("--radius", help="Also say how far around the image the model holds.")
    ] = False,
    certify: Annotated[
        bool, typer.Option("--certify", help="Also check that the result is exact, and say how.")
    ] = False,
    report: Annotated[
        bool,
        typer.Option("--report", help="Also write all results of --out into its report.html."),
    ] = False,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Explain photos: a figure, a manifest and arrays for each.

    Every result folder holds figure.png (the whole score on the picture, at every depth, and what
    the pixels add by themselves), whole.png, distribution.png and saliency.png (the bare maps),
    manifest.json and arrays.npz. Beside the folders index.csv has the numbers of all results.
    Photos whose result is there already, of the same network and options, are not explained again.
    """
    from guidxmage.attribution.archive import KIND
    from guidxmage.jobs.explain_photos import Job, explain_photos, shared_scales
    from guidxmage.jobs.index_file import write_index
    from guidxmage.jobs.photo_results import PhotoResults

    is_new = not out.exists()
    found, problems = find_photos(photos, out)
    _check_method(method, certify or radius, baseline, pieces)
    if report and not arrays:
        raise InputError("--report shows the arrays; leave --no-arrays out")
    depths = _depths(depth, method, map_)
    # Where regions end is lost in float32.
    precision = "float64" if method is MethodName.exact_ig else dtype.value
    explainer = load_explainer(
        model, weights, labels, precision, device, gates=gates.value, output=output
    )
    if list_targets:
        list_targets_of(explainer, found, problems, as_json)
        return
    job = Job(
        target=target_of(target, rather_than, explainer.outputs.kind),
        objects=objects if objects in ("auto", "none") else Path(objects),
        reference=_reference(reference),
        space=None if space is None else space.value,
        scale=None,
        style=cast("Any", style.value),
        arrays=arrays,
        certify=certify,
        radius=radius,
        method=method.value,
        line=(baseline, pieces),
        depth=depths,
        map=map_.value,
        source={
            "model": model,
            "weights": weights,
            "dtype": precision,
            "gates": gates.value,
            **({} if labels is None else {"labels": str(labels)}),
            **({} if output is None else {"output": output}),
        },
    )
    if shared_scale:
        job = _with_scales(job, *shared_scales(explainer, found, job))
    tell_gone(PhotoResults(out, KIND).gone(photos))
    with progress_bar(len(found)) as advance:
        outcomes = explain_photos(explainer, found, out, job, overwrite, complain)
        try:
            done = tell_outcomes(outcomes, problems, _print_outcome, as_json, advance)
        except typer.Exit:
            if report:  # of those that went well
                _write_report(out, as_json)
            raise
        finally:
            write_index(out, complain)
            if is_new and out.is_dir() and not any(out.iterdir()):
                out.rmdir()  # nothing could be explained
    if report:
        _write_report(out, as_json)
    _end_if_not_exact(done)


def _write_report(out: Path, as_json: bool) -> None:
    """All results of a folder as a page in it, where there are any."""
    from guidxmage.cli.report import tell_report
    from guidxmage.jobs.report_results import report_folders, report_results

    try:
        folders = report_folders([out])
    except InputError:
        return  # nothing could be explained, which was said
    with progress_bar(len(folders), "reporting") as advance:
        written = report_results(
            folders, out / REPORT, title=REPORT_TITLE, say=complain, advance=advance
        )
    tell_report(written, on_stderr=as_json)


def _end_if_not_exact(done: list[Outcome]) -> None:
    """Exit code 1 where some sum does not close."""
    if wrong := [o for o in done if o.manifest.get("exactness") == NOT_EXACT]:
        complain(
            f"{len(wrong)} of {len(done)} explanations are not exact: their residual exceeds what "
            "rounding explains; please report the network"
        )
        raise typer.Exit(1)


def _check_method(
    method: MethodName, about_region: bool, baseline: float | None, pieces: int | None
) -> None:
    if method is MethodName.contributions:
        if baseline is not None or pieces is not None:
            raise InputError("--baseline and --pieces go with --method exact-ig or adaptive-ig")
    elif about_region:
        raise InputError("--certify and --radius are about one region; leave --method out")


def _reference(text: str) -> str | float | Path | None:
    """The reference that is meant; None for the default."""
    if text in ("zero", "black"):
        return None if text == "zero" else text
    try:
        return float(text)
    except ValueError:
        return Path(text)


def _depths(given: list[str] | None, method: MethodName, map_: Map) -> Any:
    """The depths that are meant; None for no whole map at all. Raises InputError."""
    from guidxmage.jobs.explain_photos import DEPTHS

    if method is not MethodName.contributions:
        if given or map_ is Map.whole:
            raise InputError("integrated gradients have no whole map; leave --depth and --map out")
        return None
    words = [word.strip() for text in given or [] for word in text.split(",")]
    if words == ["none"]:
        if map_ is Map.whole:
            raise InputError("--map whole shows the whole map at a depth; leave --depth none out")
        return None
    if "none" in words or "" in words:
        raise InputError("--depth takes strides, layers, input, default and all; or none by itself")
    return [depth_of(word) for word in words] or DEPTHS


def _with_scales(job: Job, scale: float, whole_scale: float | None) -> Job:
    from dataclasses import replace

    return replace(job, scale=scale, whole_scale=whole_scale)


def _convention(manifest: dict[str, Any]) -> str:
    """How smooth operators were made affine, where there are any."""
    used = set(manifest["trail"].get("gates", {}).values())
    return f", {' and '.join(sorted(used))}" if used else ""


def _carried(result: dict[str, Any]) -> str:
    """What the pixels do not carry: the bias, or what of it is placed and what has no place."""
    if "placed" not in result:
        return f"bias {result['bias']:+.4f}"
    return f"placed bias {result['placed']:+.4f} + no place {result['unplaced']:+.4f}"


def _print_objects(table: dict[str, Any]) -> None:
    """A line for each object, and for the rest of the pixels where there are any."""
    for row in [*table["rows"], *([table["rest"]] if table["rest"]["pixels"] else [])]:
        values = f"{row['sum']:+10.4f}"
        if "whole" in row:
            values = f"{row['whole']:+10.4f}   by its pixels {row['sum']:+10.4f}"
        typer.echo(f"    {row['name']:<24} {values}   {row['pixels']:>8} pixels")


def _print_outcome(outcome: Outcome) -> None:
    """The result of one photo in a few lines."""
    manifest = outcome.manifest
    lines = manifest.get("certificate", [])
    sentences = manifest.get("sentences", [])
    for number, result in enumerate(manifest["results"]):
        typer.echo(
            f"  {result['name']}: score {result['score']:.4f} = Σ pixels "
            f"{result['contribution_sum']:+.4f} + {_carried(result)}   "
            f"(residual {result['residual']:.1e}, bound {result['residual_bound']:.1e}; "
            f"{in_words(manifest['exactness'])}{_convention(manifest)}; "
            f"reference: {manifest['reference']})"
        )
        if "objects" in manifest and number < len(sentences):
            typer.echo(f"    {sentences[number]}")
            _print_objects(manifest["objects"][number])
        if lines:
            typer.echo(f"    {lines[number]}")
    if "certificate_seconds" in manifest:
        typer.echo(f"  certifying took {manifest['certificate_seconds']:.2f} s")
    for line in manifest.get("radius", {}).get("lines", []):
        typer.echo(f"  {line}")
