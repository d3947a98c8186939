"""guid-xmage verify: a saved result, made again from image and model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from guidxmage.cli.common import AsJson, load_explainer, one_sentence
from guidxmage.errors import InputError

EXAMPLES = """**Examples**

`guid-xmage verify explanations/cat`

`guid-xmage verify explanations/cat --model resnet50 --weights resnet50.pth --photo cat.jpg`
"""
FAILED = 1


@one_sentence
def verify(
    result: Annotated[Path, typer.Argument(help="A folder that `guid-xmage explain` wrote.")],
    model: Annotated[
        str | None, typer.Option(help="The network; by default as the result names it.")
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="Its weights; by default as the result names them.")
    ] = None,
    photo: Annotated[
        Path | None, typer.Option(help="The photo; by default where the result says it was.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Recompute a saved explanation and say whether it is what it claims to be.

    Exit code 0: every check passed. 1: one failed. 2: there is nothing to check.
    """
    from guidxmage.proof.verification import read_manifest
    from guidxmage.proof.verification import verify as checked

    manifest = read_manifest(result)
    source = manifest.get("source", {})
    name = model or source.get("model")
    if name is None:
        raise InputError("the result does not name its network; give it with --model")
    if photo is None:
        stated = Path(str(manifest.get("photo", "")))
        photo = stated if stated.is_file() else None
    elif not photo.is_file():
        raise InputError(f"{photo} is not a file")
    explainer = load_explainer(
        str(name),
        weights or source.get("weights", "default"),
        None,
        source.get("dtype", manifest["trail"]["dtype"]),
        gates=source.get("gates", "secant"),
    )
    found = checked(result, explainer, photo)
    if as_json:
        typer.echo(json.dumps(found.to_json(), indent=2, ensure_ascii=False))
    else:
        words = {True: "pass", False: "FAIL", None: "–"}
        for check in found.checks:
            typer.echo(f"{words[check.passed]:<5}{check.name}: {check.detail}")
        typer.echo("verified" if found.passed else "NOT verified")
    if not found.passed:
        raise typer.Exit(FAILED)
