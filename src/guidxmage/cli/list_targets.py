"""guid-xmage explain --list-targets: what a photo offers to be asked for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from guidxmage.cli.common import BAD_INPUT, complain, print_json
from guidxmage.errors import InputError
from guidxmage.files.names import shown

if TYPE_CHECKING:
    from guidxmage.explainer import Explainer


def list_targets_of(
    explainer: Explainer, photos: list[Path], problems: list[str], as_json: bool
) -> None:
    """What each photo offers: the words to ask for it, and what that is."""
    for problem in problems:
        complain(problem)
    offers = {}
    for photo in photos:
        try:
            offers[shown(photo)] = explainer.targets(photo)
        except InputError as error:
            problems.append(str(error))
            complain(str(error))
    if as_json:
        print_json(
            [
                {"photo": name, "targets": [{"target": t, "is": what} for t, what in found]}
                for name, found in offers.items()
            ]
        )
    else:
        for name, found in offers.items():
            typer.echo(name if found else f"{name}: nothing")
            for words, what in found:
                typer.echo(f"  {words:<24} {what}")
    if problems:
        raise typer.Exit(BAD_INPUT)
