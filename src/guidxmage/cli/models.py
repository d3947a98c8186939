"""guid-xmage models: the networks that have a name."""

from __future__ import annotations

import json

import typer
from rich.console import Console
from rich.table import Table

from guidxmage.cli.common import AsJson, one_sentence

EXAMPLES = """**Examples**

`guid-xmage models`

`guid-xmage models --json`
"""


@one_sentence
def models(
    as_json: AsJson = False,
) -> None:
    """List the networks that can be explained by name."""
    from dataclasses import asdict

    from guidxmage.models import available_models

    found = available_models()
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
            "on region" if info.piecewise_linear else "at input",
        )
    Console().print(table)
