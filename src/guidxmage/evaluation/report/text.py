"""The report in words and tables, in Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from guidxmage.evaluation.methods import METHODS
from guidxmage.evaluation.records import file_name
from guidxmage.evaluation.report.figures import GROUPS, Row
from guidxmage.evaluation.report.table import Cells, network_table, paper_table
from guidxmage.evaluation.settings import Settings
from guidxmage.provenance.versions import versions

Piece = str | Cells
"""A line of text (a heading begins with #, a picture with !), or a table."""

LIBRARIES = ("torch", "captum", "grad-cam", "zennit", "quantus")
PAPER = (
    "The paper's own Table 1, over ImageNet images, for AlexNet, VGG and ResNet: grad-CAM 62, 55 "
    "and 62.5; grad-CAM++ 58, 48.5 and 56.5; score-CAM 58.5, 52.5 and 57; guid-Xmage 100, 100 and "
    "100. It does not define its measure; ours is defined in docs/evaluation.md."
)


def seen(views: int) -> str:
    """How many views there are of each photo, in words."""
    return "as they are" if views == 1 else f"up to {views} views of each (crops and flips)"


def counted(views: int) -> str:
    """A number of views."""
    return f"{views} view{'' if views == 1 else 's'}"


def pieces(
    rows: Sequence[Row],
    settings: Settings,
    title: str,
    notes: Sequence[str] = (),
    pictures: Sequence[str] = (),
) -> Iterator[Piece]:
    """The parts of the report in order; pictures: files named <network>-<what it shows>.png."""
    yield f"# {title}"
    yield introduction(rows, settings)
    yield from notes
    yield paper_table(rows)
    yield PAPER
    for network in dict.fromkeys(row.network for row in rows):
        own = [row for row in rows if row.network == network]
        yield f"## {network}"
        yield from _about(own)
        for group in GROUPS:
            if table := network_table(own, group):
                yield f"### {group}"
                yield table
        for file in pictures:
            if file.rsplit("/", 1)[-1].startswith(f"{file_name(network)}-"):
                yield f"![{file}]({file})"
    yield "## Read with care"
    yield CARE


CARE = (
    "Means over views, with 95 % intervals of a bootstrap over photos: views of one photo resemble "
    "each other, so whole photos are drawn. Where all photos agree the interval has no width; with "
    "n photos that agree, up to 3/n of all photos could still do otherwise (95 %). Intervals are "
    "of each figure by itself; methods are compared on the same images, so that differences are "
    "surer than overlapping intervals suggest. "
    "On a piecewise-linear network input × gradient is the same matrix as guid-Xmage's "
    "contributions, and has to tie with it wherever only the map counts."
)


def introduction(rows: Sequence[Row], settings: Settings) -> str:
    """What was measured, and how."""
    libraries = ", ".join(f"{name} {own}" for name, own in versions(LIBRARIES).items())
    explained = {
        "top1": "the class that the network chooses, right or wrong",
        "label": "the photo's own class",
    }[settings.target]
    photos = max((e.photos for row in rows for e in row.figures.values()), default=0)
    return (
        f"{photos} photos, {seen(settings.views)}, seed "
        f"{settings.seed}. Explained is {explained}. Maps are computed in {settings.dtype}, claims "
        f"are tested in float64. {libraries}."
    )


def _about(rows: Sequence[Row]) -> Iterator[str]:
    """Where CAM methods look, ε on the path, what stayed undecided, what failed."""
    layer = next((row.layer for row in rows if row.layer), "")
    if layer:
        yield f"CAM methods look at the output of `{layer}`."
    exponents = [f"{row.title} {row.exponent:g}" for row in rows if row.exponent is not None]
    if exponents:
        yield f"On the path ε = 2^−k, median k: {', '.join(exponents)}."
    undecided = [f"{row.title} {row.undecided}" for row in rows if row.undecided]
    if undecided:
        yield (
            f"Views left undecided on the path, not counted: {', '.join(undecided)}. Where a "
            "picture is flat, max-pools have ties, which any attenuation may break."
        )
    empty = [f"{row.title} {row.empty}" for row in rows if row.empty]
    if empty:
        yield f"Maps without any supporting pixel, counted as wrong: {', '.join(empty)}."
    for row in rows:
        for text, count in row.failures.items():
            library = METHODS[row.method].library
            yield f"{row.title} ({library}) failed on {counted(count)}: `{text}`"
