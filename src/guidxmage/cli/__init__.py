"""The command line: guid-xmage explain, attack, harden and so on. One module per command."""

from __future__ import annotations

from typing import Annotated

import typer

from guidxmage.cli import (
    attack,
    batch,
    evaluate,
    explain,
    export,
    garments,
    harden,
    models,
    prove,
    query,
    ray,
    report,
    serve,
    sufficient,
    summary,
    trails,
    verify,
)
from guidxmage.cli.command import Command, Commands
from guidxmage.provenance.versions import __version__

app = typer.Typer(
    cls=Commands,
    help="Explains, pixel by pixel and exactly, why a convolutional network gives an image its "
    "class score.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"guid-xmage {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Exact pixel-level explanations of convolutional networks."""


app.command(cls=Command, epilog=explain.EXAMPLES)(explain.explain)
app.command(cls=Command, epilog=batch.EXAMPLES)(batch.batch)
app.command(cls=Command, epilog=query.EXAMPLES)(query.query)
app.command(cls=Command, epilog=summary.EXAMPLES)(summary.summary)
app.command(cls=Command, epilog=serve.EXAMPLES)(serve.serve)
app.command(cls=Command, epilog=attack.EXAMPLES)(attack.attack)
app.command(cls=Command, epilog=sufficient.EXAMPLES)(sufficient.sufficient)
app.command(cls=Command, epilog=ray.EXAMPLES)(ray.ray)
app.command(cls=Command, epilog=trails.EXAMPLES)(trails.trails)
app.command(cls=Command, epilog=report.EXAMPLES)(report.report)
app.command(cls=Command, epilog=verify.EXAMPLES)(verify.verify)
app.command(cls=Command, epilog=prove.EXAMPLES)(prove.prove)
app.command(cls=Command, epilog=export.EXAMPLES)(export.export)
app.command(cls=Command, epilog=harden.EXAMPLES)(harden.harden)
app.command(cls=Command, epilog=evaluate.EXAMPLES)(evaluate.evaluate)
app.command(cls=Command, epilog=garments.EXAMPLES)(garments.garments)
app.command(cls=Command, epilog=models.EXAMPLES)(models.models)


def main() -> None:
    """Entry point of the console command."""
    app()
