"""guid-xmage report: saved results as one page that opens from disk."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from guidxmage.cli.common import above_the_bar, complain, one_sentence, progress_bar
from guidxmage.errors import InputError
from guidxmage.files.names import shown

if TYPE_CHECKING:
    from guidxmage.jobs.report_results import Report
    from guidxmage.viewer.report_network import ReportNetwork

EXAMPLES = """**Examples**

`guid-xmage report explanations` — all results below a folder, in report.html

`guid-xmage report explanations/cat explanations/dog --out pets.html`

`guid-xmage explain photos/ --report` — explained and reported at once

`guid-xmage report explanations --with-network lite.onnx --ort node_modules/onnxruntime-web/dist` —
a page that asks the network
"""


@one_sentence
def report(  # noqa: PLR0917
    results: Annotated[
        list[Path],
        typer.Argument(help="Folders that `guid-xmage explain` wrote, or folders of them."),
    ],
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("report.html"),
    title: Annotated[str, typer.Option(help="Its title.")] = "Explanations",
    with_network: Annotated[
        Path | None,
        typer.Option(
            metavar="GRAPH.onnx",
            help="What the page can ask, by `guid-xmage export --target given --depth default`: it "
            "then erases and checks, and explains photos that are dropped on it. Served, not from "
            "disk.",
        ),
    ] = None,
    ort: Annotated[
        Path | None,
        typer.Option(help="Folder of onnxruntime-web (npm), by which the browser runs the graph."),
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Replace an earlier report's data even where changed."),
    ] = False,
) -> None:
    """Write saved explanations into one page that opens from disk and asks no other computer.

    It lists the photos, and opens each in the viewer with its evidence. Of more than 100 photos, or
    of arrays of more than 256 MiB, the data goes into a folder beside the page. index.csv beside it
    has the numbers. A result that cannot be shown is told and left out. With --with-network the
    page also asks the network, in the browser; it must then be served: python -m http.server.
    """
    from guidxmage.jobs.report_results import report_folders, report_results

    if ort is not None and with_network is None:
        raise InputError("--ort runs a graph; name one with --with-network")
    network = None if with_network is None else _network(with_network, ort)
    folders = report_folders(results, complain)
    with progress_bar(len(folders), "reporting") as advance:
        written = report_results(
            folders,
            out,
            title=title,
            network=network,
            overwrite=overwrite,
            say=complain,
            advance=advance,
        )
    tell_report(written)


def _network(graph: Path, runtime: Path | None) -> ReportNetwork:
    from guidxmage.jobs.report_graph import report_network

    if runtime is None:
        complain(
            "without --ort the page runs no graph: run `npm install onnxruntime-web` and give "
            "--ort node_modules/onnxruntime-web/dist"
        )
    network = report_network(graph, runtime)
    if network.said["depth"] is None:
        complain(
            f"{shown(graph)} has no whole map, so that the page shows other photos pixel by pixel; "
            "export it with --depth default to have both"
        )
    return network


def tell_report(written: Report, *, on_stderr: bool = False) -> None:
    """A line on what was written."""
    photos = f"{written.photos} photo{'' if written.photos == 1 else 's'}"
    data = "" if written.data is None else f", data in {shown(written.data)}/"
    data += "" if written.network is None else f", network in {shown(written.network)}/"
    missing = f", {written.left_out} left out" if written.left_out else ""
    with above_the_bar():
        typer.echo(f"{shown(written.path)}   ({photos}{missing}{data})", err=on_stderr)
