"""guid-xmage garments: build the data set of garments before photographs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from guidxmage.cli.common import AsJson, Overwrite, complain, naming_options, one_sentence

EXAMPLES = """**Examples**

`guid-xmage garments garments` — 50,000 training images, backgrounds that give the class away

`guid-xmage garments small --train 2000 --validation 500 --test 500 --correlation 0.5`
"""


@one_sentence
def garments(  # noqa: PLR0917
    out: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where the data set goes.")],
    fashion: Annotated[
        Path | None,
        typer.Option(help="Folder with Fashion-MNIST; Debian's dataset-fashion-mnist by default."),
    ] = None,
    backgrounds: Annotated[
        Path | None,
        typer.Option(help="Folder of 20 photos or more; by default foolbox's and scikit-image's."),
    ] = None,
    correlation: Annotated[
        float, typer.Option(help="Chance that the background is of the image's own class.")
    ] = 0.95,
    train: Annotated[int, typer.Option(help="Training images.")] = 50_000,
    validation: Annotated[int, typer.Option(help="Images held out.")] = 5_000,
    test: Annotated[int, typer.Option(help="Test images.")] = 5_000,
    seed: Annotated[int, typer.Option(help="Of every draw.")] = 0,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Build images with true object masks and backgrounds that say as much as you choose.

    Garments of Fashion-MNIST before crops of photographs, 32 × 32; made offline, in seconds. What
    is in it stands in DATASHEET.md.
    """
    from guidxmage.files.atomic import MANIFEST
    from guidxmage.hardening.data.garments import DATASHEET, build_garments

    names = ("correlation", "train", "validation", "test", "seed")
    with naming_options(**{name: f"--{name}" for name in names}):
        build_garments(
            out,
            fashion,
            backgrounds=backgrounds,
            correlation=correlation,
            train=train,
            validation=validation,
            test=test,
            seed=seed,
            overwrite=overwrite,
            say=complain,
        )
    text = (out / MANIFEST).read_text(encoding="utf-8")
    if as_json:
        typer.echo(text, nl=False)
        return
    splits = json.loads(text)["splits"]
    typer.echo(f"{out}/: {', '.join(splits)}; what is in them: {out / DATASHEET}")
