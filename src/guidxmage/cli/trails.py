"""guid-xmage trails: which photos share which decisions, layer by layer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from guidxmage.cli.common import (
    BAD_INPUT,
    AsJson,
    Device,
    Dtype,
    Labels,
    Model,
    Overwrite,
    Precision,
    Weights,
    complain,
    find_photos,
    load_explainer,
    one_sentence,
    print_json,
    progress_bar,
)
from guidxmage.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from guidxmage.analysis.trail_comparison import TrailComparison
    from guidxmage.explainer import Explainer

EXAMPLES = """**Examples**

`guid-xmage trails cat.jpg coffee.jpg` — where two photos part ways

`guid-xmage trails photos/ --model resnet50 --weights resnet50.pth --out photos-apart`

`guid-xmage trails a.png b.png --model mynet.py:build --json`
"""
PICTURE, NUMBERS, TRAILS = "trails.png", "trails.json", "trails.npz"


@one_sentence
def trails(  # noqa: PLR0917
    photos: Annotated[list[Path], typer.Argument(help="Photos, or folders of photos.")],
    model: Model = "efficientnet_lite0",
    weights: Weights = "default",
    labels: Labels = None,
    out: Annotated[
        Path, typer.Option(help="Folder for trails.png, trails.json and trails.npz.")
    ] = Path("trails"),
    dtype: Dtype = Precision.float32,
    device: Device = "cpu",
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Compare the execution trails of photos: which share which decisions, layer by layer.

    Two photos: where they part ways, in a picture. More: the distances of all pairs.
    """
    from guidxmage.analysis.trail_comparison import SCHEMA, compare_trails
    from guidxmage.files.result_folder import (
        PLACES,
        PROVENANCE,
        Kind,
        atomic_folder,
        check_replaceable,
        place_of,
        write_mark,
    )

    found, problems = find_photos(photos, out)
    kind = Kind((SCHEMA,), NUMBERS)
    check_replaceable(out, kind, overwrite=overwrite)
    for problem in problems:
        complain(problem)
    explainer = load_explainer(model, weights, labels, dtype.value, device)
    read = _read(explainer, found)
    places = [place_of(photo, out) for photo, _ in read.values()]
    check_replaceable(out, kind, overwrite=overwrite, places=places)
    images = [image for _, image in read.values()]
    compared = compare_trails(explainer, images, list(read))
    with atomic_folder(out, kind, overwrite=overwrite, places=places) as new:
        from guidxmage.view import save_figure

        compared.trail.save(new / TRAILS)
        save_figure(compared.figure(), new / PICTURE)
        written = write_mark(new, {**compared.to_dict(), PROVENANCE: {PLACES: places}}, NUMBERS)
    if as_json:
        print_json(written)
    else:
        _print(compared, out)
    if problems or len(read) < len(found):
        raise typer.Exit(BAD_INPUT)


def _read(explainer: Explainer, photos: list[Path]) -> dict[str, tuple[Path, Tensor]]:
    """The readable photos by a name of their own; the others are reported."""
    from guidxmage.files.names import free_name, shown

    read: dict[str, tuple[Path, Tensor]] = {}
    taken: set[str] = set()
    with progress_bar(len(photos), "reading") as advance:
        for photo in photos:
            advance()
            try:
                image = explainer.read(photo)
            except InputError as error:
                complain(str(error))
            else:
                read[free_name(shown(photo.name), taken)] = photo, image
    return read


def _print(compared: TrailComparison, out: Path) -> None:
    pairs = compared.pairs
    count = len(compared.names)
    typer.echo(f"{count} photos → {out}/")
    shared = sum(pairs.shared.values())
    typer.echo(f"  {shared:,} of {pairs.count:,} decisions are shared ({shared / pairs.count:.2%})")
    near, far = pairs.extremes()
    for word, (a, b) in zip(("nearest", "farthest"), (near, far), strict=True):
        if word == "farthest" and near == far:
            break
        label = f"{word}: " if near != far else ""
        found = compared.parting(a, b)
        typer.echo(
            f"  {label}{compared.names[a]} and {compared.names[b]}: {found.differing:,} differ "
            f"({pairs.share[a, b]:.2%}), first {found.first or 'nowhere'}"
        )
    if count <= 12:
        _print_layers(compared)


def _print_layers(compared: TrailComparison) -> None:
    """A table of the layers: what all share, and the smallest and largest distance."""
    import numpy as np

    pairs = compared.pairs
    rows, columns = np.triu_indices(len(compared.names), 1)
    width = max(map(len, pairs.by_layer))
    typer.echo(f"  {'layer':<{width}} {'decisions':>10} {'shared':>8} {'differing':>16}")
    for site, counts in pairs.by_layer.items():
        own = pairs.decisions[site]
        apart = counts[rows, columns] / max(1, own)
        spread = f"{apart.min():.1%}" + (f" to {apart.max():.1%}" if len(apart) > 1 else "")
        shared = pairs.shared[site] / max(1, own)
        typer.echo(f"  {site:<{width}} {own:>10,} {shared:>8.1%} {spread:>16}")
