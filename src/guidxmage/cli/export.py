"""guid-xmage export: a network and its explanation as one file that runs without Python."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from guidxmage.cli.common import (
    AsJson,
    Dtype,
    GateConvention,
    Gates,
    Labels,
    Model,
    Precision,
    Weights,
    complain,
    depth_of,
    load_explainer,
    one_sentence,
    print_json,
    target_of,
)
from guidxmage.errors import InputError
from guidxmage.files.names import shown

if TYPE_CHECKING:
    from guidxmage.export import Checked, Exported

EXAMPLES = """**Examples**

`guid-xmage export --out lite.onnx` — the bundled ImageNet network, its best class

`guid-xmage export --model mynet.py:build --target given --bytes --out mynet.onnx`

`guid-xmage export --check mynet.onnx` — run its self-check with onnxruntime
"""
DIFFERS = 1


class Format(str, Enum):
    """What is written."""

    onnx = "onnx"
    pt2 = "pt2"
    aoti = "aoti"


@one_sentence
def export(  # noqa: PLR0917
    model: Model = "efficientnet_lite0",
    weights: Weights = "default",
    labels: Labels = None,
    target: Annotated[
        str,
        typer.Option(help="As for explain, or given: the graph takes a class for every image."),
    ] = "top1",
    rather_than: Annotated[
        str | None, typer.Option(help="Explain the target rather than this class; given as well.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The file; its ending tells the format.")] = None,
    file_format: Annotated[
        Format | None,
        typer.Option("--format", help="onnx, pt2 (torch.export), aoti (compiled for this machine)"),
    ] = None,
    outputs: Annotated[
        str,
        typer.Option(
            help="Comma-separated: logits, target, score, contributions, weights, bias, residual, "
            "bound, whole, unplaced, trail."
        ),
    ] = "logits,target,score,contributions,bias,residual",
    depth: Annotated[
        str | None,
        typer.Option(
            help="Also put the whole score on the picture, the network cut there: a stride, a "
            "layer, input or default."
        ),
    ] = None,
    from_bytes: Annotated[
        bool, typer.Option("--bytes", help="The graph takes uint8 pixels at the network's size.")
    ] = False,
    size: Annotated[
        str | None,
        typer.Option(metavar="CxHxW", help="Size of the images, where the network does not tell."),
    ] = None,
    dtype: Dtype = Precision.float32,
    gates: Gates = GateConvention.secant,
    check: Annotated[
        Path | None, typer.Option(help="Run the self-check of an ONNX file instead.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a network and its exact explanation as one graph of ordinary operators.

    The graph gives logits, target, score, contributions, bias and residual of any number of images,
    without Python or this package. With --check the image that travels in a file is run, and the
    exit code is 1 where the numbers are not those in the file.
    """
    from guidxmage.export import check as checked
    from guidxmage.export import export as write

    if check is not None:
        if out is not None:
            raise InputError("--check checks a file and writes none; leave out --out")
        _tell_checked(checked(check), check, as_json)
        return
    if out is None:
        raise InputError("name the file to write with --out, or one to check with --check")
    explainer = load_explainer(model, weights, labels, dtype.value, gates=gates.value)
    written = write(
        explainer,
        out,
        format=None if file_format is None else file_format.value,
        target=_target(target, rather_than),
        outputs=[one.strip() for one in outputs.split(",")],
        depth=None if depth is None else depth_of(depth),
        shape=None if size is None else _sizes(size),
        from_bytes=from_bytes,
        overwrite=overwrite,
    )
    _tell_written(written, as_json)


def _target(target: str, rather_than: str | None) -> Any:
    words = [word for word in (target, rather_than) if word is not None]
    if "given" not in words:
        return target_of(target, rather_than)
    if rather_than is None:
        return "given"
    sides = [word if word == "given" else target_of(word, None) for word in words]
    return ("contrast", *sides)


def _sizes(text: str) -> tuple[int, ...]:
    parts = text.lower().replace("×", "x").split("x")
    if not all(part.isdecimal() and len(part) < 7 for part in parts):
        raise InputError(f"--size {text} is not understood; give CxHxW, as in 3x32x32")
    return tuple(int(part) for part in parts)


def _tell_written(written: Exported, as_json: bool) -> None:
    said = {key: value for key, value in written.metadata.items() if key != "check"}
    if as_json:
        print_json({"file": str(written.path), "bytes": written.size, **said})
        return
    typer.echo(f"{shown(written.path)}: {written.format}, {written.size / 1e6:.1f} MB")
    for one in said["inputs"]:
        sizes = " × ".join(map(str, one["shape"]))
        typer.echo(f"  {one['name']}: {one['dtype']} {sizes}")
    typer.echo(f"  → {', '.join(said['outputs'])}")
    if said["depth"] is not None:
        typer.echo(f"  the network is cut at {said['depth']['site']}")
    where = "pixels in [0, 1]" if said["space"] == "pixels" else "the network's own input"
    typer.echo(f"  explains {said['target']}; {where}, from the {said['reference']}")


def _tell_checked(found: Checked, path: Path, as_json: bool) -> None:
    if as_json:
        numbers = [{**vars(one), "holds": one.holds} for one in found.deviations]
        print_json({"file": str(path), "holds": found.holds, "outputs": numbers})
    else:
        for one in found.deviations:
            verdict = "" if one.holds else " — too much"
            typer.echo(f"  {one.name}: off by {one.found:.2g} of {one.allowed:.2g}{verdict}")
    if not found.holds:
        complain(f"{shown(path)}: onnxruntime does not give the numbers in the file")
        raise typer.Exit(DIFFERS)
    if not as_json:
        typer.echo(f"{shown(path)}: onnxruntime gives the numbers in the file")
