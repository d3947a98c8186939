"""guid-xmage attack: the smallest change of a photo that changes the network's answer."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from guidxmage.cli.common import (
    AsJson,
    Device,
    Dtype,
    Labels,
    Model,
    OutputKind,
    Overwrite,
    Precision,
    Weights,
    class_of,
    complain,
    find_photos,
    load_explainer,
    one_sentence,
    progress_bar,
    tell_gone,
    tell_outcomes,
)

if TYPE_CHECKING:
    from guidxmage.jobs.photo_results import Outcome

EXAMPLES = """**Examples**

`guid-xmage attack cat.jpg` — the smallest l2 change, saved as a PNG that still works

`guid-xmage attack cat.jpg --norm l0 --target "Egyptian cat"`

`guid-xmage attack cat.jpg --mask cat_mask.png --outside` — only the background may change

`guid-xmage attack street.jpg --model net.py:build --output boxes --target box:0:left --move -10`

`guid-xmage attack photos/ --norm linf --budget 40 --out attacks --json`
"""


class Norm(str, Enum):
    """What is kept small."""

    l2 = "l2"
    linf = "linf"
    l1 = "l1"
    l0 = "l0"
    erase = "erase"


@one_sentence
def attack(  # noqa: PLR0917
    photos: Annotated[list[Path], typer.Argument(help="Photos, or folders of photos.")],
    model: Model = "efficientnet_lite0",
    weights: Weights = "default",
    labels: Labels = None,
    output: OutputKind = None,
    norm: Annotated[
        Norm,
        typer.Option(help="l2, linf, l1, l0 (fewest pixels) or erase (fewest pixels set to 0)."),
    ] = Norm.l2,
    target: Annotated[
        str | None,
        typer.Option(
            help="Class to reach, index or name; by default any other class. Of other outputs the "
            "number that is to change: box:0, box:0:left, mask:dog, pixel:120,80."
        ),
    ] = None,
    move: Annotated[
        float | None,
        typer.Option(
            help="Other outputs: by how much the number is to change, negative to fall; by default "
            "until it means something else."
        ),
    ] = None,
    label: Annotated[
        str | None,
        typer.Option(help="True class, index or name; by default the network's own answer."),
    ] = None,
    mask: Annotated[
        Path | None,
        typer.Option(help="Mask, label map or annotation: only its objects may change."),
    ] = None,
    outside: Annotated[
        bool, typer.Option("--outside", help="Only what lies outside of the mask may change.")
    ] = False,
    budget: Annotated[int, typer.Option(min=1, help="Gradients for each photo.")] = 100,
    quantize: Annotated[
        bool,
        typer.Option(
            "--quantize/--no-quantize",
            help="Whole grey levels, so that the saved PNG is adversarial; otherwise floats.",
        ),
    ] = True,
    count_regions: Annotated[
        int, typer.Option(min=0, help="Count the regions on the way, at most this many.")
    ] = 0,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed of the restarts.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder for the results, one folder a photo.")] = Path(
        "attacks"
    ),
    dtype: Dtype = Precision.float32,
    device: Device = "cpu",
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Find the smallest change of each photo that changes the network's answer.

    Every result folder holds figure.png (photo, amplified perturbation, adversarial image,
    contributions before and after), adversarial.png and manifest.json. Photos whose result is
    there already are not attacked again.
    """
    from guidxmage.errors import InputError
    from guidxmage.jobs.attack_photos import KIND, AttackJob, attack_photos
    from guidxmage.jobs.photo_results import PhotoResults

    if outside and mask is None:
        raise InputError("--outside needs a --mask to be outside of")
    found, problems = find_photos(photos, out)
    explainer = load_explainer(model, weights, labels, dtype.value, device, output=output)
    classes = explainer.outputs.kind in ("scores", "labels")
    if classes and move is not None:
        raise InputError("--move is for numbers of other outputs; see --output")
    if not classes and label is not None:
        raise InputError("--label is for class scores; leave it out")
    job = AttackJob(
        norm=norm.value,
        label=None if label is None else class_of(label),
        target=None if target is None or not classes else class_of(target),
        number=None if classes else target or "top1",
        move=move,
        budget=budget,
        quantise=quantize,
        mask=mask,
        outside=outside,
        seed=seed,
        count_regions=count_regions,
    )
    tell_gone(PhotoResults(out, KIND).gone(photos))
    with progress_bar(len(found), "attacking") as advance:
        outcomes = attack_photos(explainer, found, out, job, overwrite, complain)
        tell_outcomes(outcomes, problems, _print, as_json, advance)


def _print(outcome: Outcome) -> None:
    """The result of one photo in a few lines."""
    result = outcome.manifest["result"]
    if not result["success"] or result["already_misclassified"]:
        typer.echo(f"  {result['from_name']}: {result['note']}")
        return
    sizes = result["norms"]
    typer.echo(
        f"  {result['from_name']} → {result['to_name']}: l2 {sizes['l2']:.4g}, l∞ "
        f"{sizes['linf'] * 255:.3g}/255, l1 {sizes['l1']:.4g}, pixels changed: {sizes['l0']:.0f}"
    )
    typer.echo(f"  {_cost(result)}")
    if result["quantised"]:
        typer.echo(f"  adversarial.png, read back: {result['reloaded']['name']}")


def _cost(result: dict[str, Any]) -> str:
    parts = [f"{result['forwards']:.0f} forward and {result['backwards']:.0f} backward passes"]
    if result["decisions_flipped"] is not None:
        parts.append(f"{result['decisions_flipped']:,.0f} decisions flipped")
    if result["regions_crossed"] is not None:
        parts.append(f"{result['regions_crossed']:,.0f} regions counted on the way")
    if result["evidence"] != "region":
        parts.append(f"region evidence {result['evidence']}")
    return ", ".join(parts)
