"""guid-xmage serve: a page on this machine to explain photos and look into the results."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from guidxmage.cli.common import (
    Device,
    ExplainedSpace,
    GateConvention,
    Gates,
    Labels,
    Model,
    OutputKind,
    Precision,
    Weights,
    complain,
    load_explainer,
    one_sentence,
    target_of,
)
from guidxmage.errors import GuidXmageError, InputError, MissingExtraError
from guidxmage.files.names import brief, shown

if TYPE_CHECKING:
    from guidxmage.explainer import Explainer
    from guidxmage.serving.gallery import Gallery
    from guidxmage.serving.server import Place

EXAMPLES = """**Examples**

`guid-xmage serve` — an empty page for photos that you drop on it

`guid-xmage serve photos/ --model resnet50 --weights resnet50.pth`

`guid-xmage serve explanations/` — results of `guid-xmage explain`

`guid-xmage serve --no-open --port 9000` — for `ssh -L 9000:localhost:9000 machine`

`guid-xmage serve photos/ --out explanations` — and keep what was explained
"""
_PACKAGES = ("fastapi", "uvicorn", "python_multipart")
_DEFAULT = "efficientnet_lite0"


@one_sentence
def serve(  # noqa: PLR0917
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[PHOTO|RESULT]...",
            help="Photos, results of `guid-xmage explain`, or folders of them; listed on the page.",
        ),
    ] = None,
    model: Model = "",
    weights: Weights = "default",
    labels: Labels = None,
    output: OutputKind = None,
    target: Annotated[
        str,
        typer.Option(help="top1, top5, all, a class index or name, or a comma-separated list."),
    ] = "top1",
    objects: Annotated[
        str, typer.Option(help="auto (segment the photo), none, or masks of the listed photos.")
    ] = "auto",
    space: ExplainedSpace = None,
    dtype: Annotated[Precision, typer.Option(help="Precision to run in.")] = Precision.float32,
    device: Device = "cpu",
    gates: Gates = GateConvention.secant,
    out: Annotated[
        Path | None,
        typer.Option(help="Save what is explained here, as `explain` does; by default nothing is."),
    ] = None,
    host: Annotated[
        str,
        typer.Option(help="Address to be found at; other machines reach it by a token."),
    ] = "127.0.0.1",
    token: Annotated[
        bool,
        typer.Option("--token", help="Need the token on this machine, too, which others may use."),
    ] = False,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="By default 8765 or the next free one; 0 for any."),
    ] = None,
    open_: Annotated[bool, typer.Option("--open/--no-open", help="Open the browser.")] = True,
    limit_mb: Annotated[int, typer.Option(min=1, max=1024, help="Size of an upload.")] = 32,
    time_limit: Annotated[
        float, typer.Option(min=1, help="Seconds for one photo or one question.")
    ] = 600,
    keep: Annotated[
        int, typer.Option(min=1, help="Results in memory; the oldest are forgotten.")
    ] = 50,
) -> None:
    """Explain photos on a page of this machine, and look into every pixel.

    The page takes photos by dropping, pasting or choosing files, lists what was explained, and
    opens each in the viewer. Nothing leaves this machine and nothing is stored, unless --out says
    where. Ctrl-C ends it.
    """
    _require_packages()
    from guidxmage.jobs.explain_photos import Job
    from guidxmage.serving.app import Serving, create_app, largest_bodies
    from guidxmage.serving.desk import Desk
    from guidxmage.serving.gallery import Gallery
    from guidxmage.serving.making import Maker
    from guidxmage.serving.questions import answer
    from guidxmage.serving.server import open_browser, place_at
    from guidxmage.serving.server import serve as run
    from guidxmage.serving.work_queue import Limits, WorkQueue

    gallery = Gallery(keep)
    photos, saved = _listed(paths or [], gallery)
    place = place_at(host, port, token=token)
    asked = model or _named_by(saved if not photos else []) or _DEFAULT
    source = {"model": asked, "weights": weights, "dtype": dtype.value, "gates": gates.value}
    if labels is not None:
        source["labels"] = str(labels)
    if output is not None:
        source["output"] = output
    options = {"gates": gates.value, "output": output}
    explainer = load_explainer(asked, weights, labels, dtype.value, device, **options)
    job = Job(
        target=target_of(target, None, explainer.outputs.kind),
        objects=_objects(objects),
        space=None if space is None else space.value,
        source=source,
    )
    _leave_a_core()
    queue = WorkQueue(Limits(seconds=time_limit))
    desk = Desk(Maker(explainer, job, answer, out), gallery, queue)
    policy = place.policy(largest_bodies(limit_mb * 2**20))
    info = _info(explainer, place, limit_mb, out)
    typer.echo(f"guid-xmage: {place.url}   (Ctrl-C ends it)")
    sys.stdout.flush()
    try:
        run(
            create_app(Serving(desk, policy, info)),
            place,
            lambda: open_browser(place.url) if open_ else None,
        )
    finally:
        queue.close()
    typer.echo("guid-xmage: stopped", err=True)


def _require_packages() -> None:
    for package in _PACKAGES:
        if find_spec(package) is None:
            raise MissingExtraError(package.replace("_", "-"), "ui")


def _listed(paths: Sequence[Path], gallery: Gallery) -> tuple[list[Path], list[Path]]:
    """List the photos and results on the page; what cannot be is told. Raises InputError."""
    from guidxmage.inputs.photos import find_images
    from guidxmage.serving.gallery import Entry
    from guidxmage.serving.held import summary_of_saved

    problems: list[str] = []
    saved = [folder for path in paths if path.is_dir() for folder in _results_below(path)]
    inside = tuple(f"{os.path.abspath(folder)}{os.sep}" for folder in saved)
    given = [path for path in paths if not _is_inside(path, saved)]
    found = find_images(given, problems)
    photos = [one for one in found if one in given or not _is_picture_of(one, inside)]
    for folder in list(saved):
        try:
            name, summary = summary_of_saved(folder)
        except InputError as error:
            problems.append(str(error))
            saved.remove(folder)
        else:
            gallery.add(Entry(name, saved=folder, summary=summary))
    for photo in photos:
        gallery.add(Entry(brief(photo.name), photo=photo))
    # A folder of results holds no photos, which is no problem.
    of_results = tuple(f"{path} " for path in paths if any(_is_inside(f, [path]) for f in saved))
    problems = [one for one in problems if not one.startswith(of_results) or not of_results]
    if problems and not photos and not saved:
        raise InputError(problems[0])
    for problem in problems:
        complain(problem)
    return photos, saved


def _is_picture_of(photo: Path, results: tuple[str, ...]) -> bool:
    """Whether it was drawn into a result, of `explain` or of another command."""
    from guidxmage.files.result_folder import is_result

    return os.path.abspath(photo).startswith(results) or is_result(photo.parent)


def _results_below(folder: Path) -> list[Path]:
    """The folder itself where it is a result of `explain`, or all that are below it."""
    from guidxmage.jobs.verify_result import find_results

    try:
        return find_results(folder)
    except InputError:
        return []


def _is_inside(path: Path, folders: Sequence[Path]) -> bool:
    place = os.path.abspath(path)
    return any(
        place == os.path.abspath(one) or place.startswith(f"{os.path.abspath(one)}{os.sep}")
        for one in folders
    )


def _named_by(saved: Sequence[Path]) -> str | None:
    """The network that the first result names, where loading it runs no code of somebody's."""
    from guidxmage.jobs.verify_result import read_manifest, read_source

    for folder in saved[:1]:
        try:
            source = read_source(read_manifest(folder), folder)
        except GuidXmageError:
            return None
        if source.model is not None and not source.runs_code and source.weights == "default":
            return source.model
    return None


def _objects(text: str) -> Any:
    """Where objects come from; none where cutting by colour needs a package that is not there."""
    if text == "auto" and find_spec("skimage") is None:
        complain("photos are not cut into regions: that needs scikit-image")
        return "none"
    return text if text in ("auto", "none") else Path(text)


def _leave_a_core() -> None:
    """For the page, which must answer while something is computed."""
    import torch

    cores = os.cpu_count() or 1
    torch.set_num_threads(max(1, min(torch.get_num_threads(), cores - 1)))


def _info(explainer: Explainer, place: Place, limit_mb: int, out: Path | None) -> dict[str, Any]:
    """What the page is told of this server."""
    from guidxmage.provenance.versions import __version__

    return {
        "version": __version__,
        "network": shown(explainer.name),
        "weights": shown(explainer.weights_source),
        "limit_bytes": limit_mb * 2**20,
        "token": place.token is not None,
        "saves": out is not None,
    }
