"""guid-xmage models: the networks that have a name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from guidxmage.cli.common import (
    AsJson,
    above_the_bar,
    load_explainer,
    one_sentence,
    print_json,
    progress_bar,
)
from guidxmage.errors import InputError

if TYPE_CHECKING:
    from guidxmage.evaluation.coverage import CoverageRow

EXAMPLES = """**Examples**

`guid-xmage models`

`guid-xmage models --json`

`guid-xmage models --depths resnet18` — where it can be cut for the whole map

`guid-xmage models --check` — explain with each of them, once, with random weights

`guid-xmage models --check resnet18 timm:convnext_atto`
"""


@one_sentence
def models(  # noqa: PLR0917
    names: Annotated[
        list[str] | None, typer.Argument(help="With --check or --depths: only these networks.")
    ] = None,
    depths: Annotated[
        bool,
        typer.Option(
            "--depths", help="Where each of the named networks can be cut: `explain --depth`."
        ),
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Explain an image by each, with random weights.")
    ] = False,
    timm: Annotated[
        bool, typer.Option("--timm", help="With --check: one network of each family of timm, too.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="With --check: JSON file of the rows; an interrupted check goes on."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the networks that can be explained by name, or check that they can.

    With --check the exit code is 1 where a network is refused or a sum does not close.
    """
    from dataclasses import asdict

    from guidxmage.models import available_models

    found = available_models()
    if depths:
        if check or timm or out or not names:
            raise InputError("--depths takes the names of networks, and neither --check nor --timm")
        _list_depths(names, as_json)
        return
    if check:
        chosen = list(names or [info.name for info in found])
        if timm:
            from guidxmage.models.timm_models import REPRESENTATIVES

            chosen += [f"timm:{name}" for name in REPRESENTATIVES]
        _check(chosen, out, as_json)
        return
    if names or timm or out:
        raise InputError("names, --timm and --out go with --check, names with --depths, too")
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


def _list_depths(names: list[str], as_json: bool) -> None:
    """Every depth of each network, with those that `explain` takes by default marked."""
    from guidxmage.attribution.depths import chosen

    listed: dict[str, list[dict[str, Any]]] = {}
    for name in names:
        own = (":" in name and not name.startswith("timm:")) or name.lower().endswith(".onnx")
        explainer = load_explainer(name, "default" if own else "none", None, "float32")
        every = explainer.depths()
        known = explainer.preprocessing
        assert known is not None  # else it had refused
        assert known.output_size is not None
        program = explainer.network((len(known.mean), *known.output_size)).program
        usual = [one.depth for one in chosen(program, ["default", "all"])]
        listed[name] = [
            {
                "site": one.site,
                "grid": list(one.grid),
                "stride": one.stride,
                "all": one in usual,
                "default": one == usual[0],
            }
            for one in every
        ]
    if as_json:
        print_json(listed)
        return
    for name, entries in listed.items():
        typer.echo(f"{name}   (* in `all`, ** the default)")
        for entry in entries:
            mark = "**" if entry["default"] else "*" if entry["all"] else ""
            cells = f"{'×'.join(map(str, entry['grid']))} cells"
            typer.echo(f"  {entry['site']:<40} {cells:<16} stride {entry['stride']:<8g}{mark}")


def _check(names: list[str], out: Path | None, as_json: bool) -> None:
    """A row for each network as it is made, and how many there were."""
    from dataclasses import asdict

    from guidxmage.evaluation.coverage import summary, survey

    with progress_bar(len(names), "checking") as advance:

        def told(row: CoverageRow) -> None:
            advance()
            if not as_json:
                with above_the_bar():
                    typer.echo(_line(row))

        rows = survey(names, out, told)
    typer.echo(json.dumps([asdict(row) for row in rows], indent=1) if as_json else summary(rows))
    if not all(row.covered for row in rows):
        raise typer.Exit(1)


def _line(row: CoverageRow) -> str:
    from guidxmage.attribution.exactness import in_words

    if row.error:
        return f"{row.network:<28} refused: {row.error}"
    kinds = ", ".join(row.kinds) or "affine"
    return (
        f"{row.network:<28} {in_words(row.exactness)}; residual {row.residual64:.0e} in float64, "
        f"{row.residual32:.0e} in float32{'' if row.within else ' BEYOND ITS BOUND'}; "
        f"{row.seconds:.2f} s; {kinds}"
    )
