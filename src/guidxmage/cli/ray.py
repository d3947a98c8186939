"""guid-xmage ray: the exact scores along the line between two photos."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from guidxmage.cli.common import (
    AsJson,
    Device,
    Dtype,
    Labels,
    Model,
    Overwrite,
    Precision,
    Weights,
    load_explainer,
    one_sentence,
    print_json,
    progress_bar,
    target_of,
)
from guidxmage.files.names import shown

if TYPE_CHECKING:
    from guidxmage.analysis.ray import Ray

EXAMPLES = """**Examples**

`guid-xmage ray cat.jpg coffee.jpg` — the bundled ImageNet network, its best classes

`guid-xmage ray cat.jpg coffee.jpg --target "tiger cat" --cap 1000 --out cat-to-coffee`

`guid-xmage ray a.png b.png --model mynet.py:build --json`
"""
PICTURE, NUMBERS = "ray.png", "ray.json"


@one_sentence
def ray(  # noqa: PLR0917
    a: Annotated[Path, typer.Argument(metavar="A", help="The photo at s = 0.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="The photo at s = 1.")],
    model: Model = "efficientnet_lite0",
    weights: Weights = "default",
    labels: Labels = None,
    target: Annotated[
        str | None,
        typer.Option(
            help="Classes whose scores are kept: top5, all, a class index or name, or a "
            "comma-separated list; by default the best ones along the line."
        ),
    ] = None,
    cap: Annotated[
        int, typer.Option(min=1, help="Regions to walk at most; a large network has millions.")
    ] = 200,
    out: Annotated[Path, typer.Option(help="Folder for ray.png and ray.json.")] = Path("ray"),
    dtype: Dtype = Precision.float64,
    device: Device = "cpu",
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Walk the line from one photo to another through the regions of the network.

    On each region every score is affine, so the profile is exact: where each decision flips, and
    where the best class changes. Both photos are brought to the network's input first.
    """
    from guidxmage.analysis.ray import SCHEMA, trace_ray
    from guidxmage.files.result_folder import (
        PLACES,
        PROVENANCE,
        Kind,
        atomic_folder,
        check_replaceable,
        place_of,
        write_mark,
    )

    kind, places = Kind((SCHEMA,), NUMBERS), [place_of(a, out), place_of(b, out)]
    # Before the walk, which may be long.
    check_replaceable(out, kind, overwrite=overwrite, places=places)
    explainer = load_explainer(model, weights, labels, dtype.value, device)
    with progress_bar(cap, "walking") as advance:
        found = trace_ray(
            explainer,
            a,
            b,
            targets=None if target is None else target_of(target, None),
            cap=cap,
            progress=lambda *_: advance(),
        )
    with atomic_folder(out, kind, overwrite=overwrite, places=places) as new:
        from guidxmage.view import save_figure

        save_figure(found.figure(ends=(shown(a.name), shown(b.name))), new / PICTURE)
        written = write_mark(new, {**found.to_dict(), PROVENANCE: {PLACES: places}}, NUMBERS)
    if as_json:
        print_json(written)
    else:
        _print(found, a, b, out)


def _print(found: Ray, a: Path, b: Path, out: Path) -> None:
    typer.echo(f"{shown(a)} → {shown(b)}: {shown(out)}/")
    capped = f" (capped by --cap {found.cap})" if found.capped else ""
    regions = f"{found.regions:,} region{'s' if found.regions > 1 else ''}"
    typer.echo(f"  {regions} from s = 0 to s = {found.end:.6g}{capped}")
    share, differing = float(found.distance.share[0]), int(found.distance.total[0])
    typer.echo(f"  {differing:,} decisions ({share:.1%}) differ between the two photos")
    typer.echo(f"  s = 0: {found.class_name(found.first_class)}")
    for change in found.class_changes:
        typer.echo(f"  s = {change.s:.12g}: {found.class_name(change.after)}")
