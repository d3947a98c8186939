"""What a data set comes to, on a page: classes, worst and middle photos, errors."""

from __future__ import annotations

import io
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from guidxmage.dataset.notable import Notable, notable
from guidxmage.dataset.query import Answer, Dataset, in_cell
from guidxmage.dataset.questions import BOTH
from guidxmage.errors import InputError, MissingExtraError
from guidxmage.files.atomic import read_sealed, write_atomically, write_sealed
from guidxmage.files.names import shown
from guidxmage.files.untrusted import entry
from guidxmage.reports.markdown import rendered, table
from guidxmage.reports.page import write_report

CHART = "background.png"
PHOTOS = "photos"
_SHOWN, _SCHEMA = "shown.json", "guid-xmage/shown/1"
# On one page.
_CLASSES, _PHOTOS, _ERRORS = 25, 50, 20


@dataclass(frozen=True)
class Shown:
    """What the report in photos/ was made of: the first `rows` notable photos, by `Notable.digest`.

    photos: how many of them it has.
    """

    rows: int
    table: str
    photos: int

    def write(self, dataset: Dataset) -> None:
        """Beside the report. Raises InputError."""
        write_sealed(dataset.folder / PHOTOS / _SHOWN, {"schema": _SCHEMA, **asdict(self)})

    @classmethod
    def read(cls, dataset: Dataset) -> Shown | None:
        """Of the report that is there; None where there is none."""
        path = dataset.folder / PHOTOS / _SHOWN
        try:
            content = read_sealed(path)
            rows, photos = (entry(content, name, int, shown(path)) for name in ("rows", "photos"))
            return cls(rows, entry(content, "table", str, shown(path)), photos)
        except InputError:
            return None


def write_summary(dataset: Dataset) -> Path:
    """Write REPORT.md and report.html into the data set; the path of the first.

    Raises InputError where that is not possible, and MissingExtraError without matplotlib.
    """
    classes = dataset.query("background", seconds=None)
    (counts,) = dataset.query(_COUNTS, seconds=None).to_json()
    if len(classes):
        write_atomically(dataset.folder / CHART, _chart(classes))
    stand_out = notable(dataset)
    failures = dataset.query("errors", most=_ERRORS, seconds=None)
    values = {
        "title": f"Explanations of {dataset.head.photos} photos",
        "head": dataset.head,
        "source": in_cell(dataset.head.source.get("name", "an unknown source")),
        "targets": _targets(dataset.head.options.get("target", "unknown")),
        "done": f"{counts['explained']} are explained.",
        "missing": dataset.missing,
        "errors": counts["errors"],
        "copies": counts["copies"],
        "decides": len(dataset.query("decides", seconds=None)),
        "masked": counts["masked"],
        "both": counts["both"],
        "exactness": _table(dataset.query("exactness", seconds=None), {0}),
        "classes": _table(classes, {0}, _CLASSES),
        "shown": min(len(classes), _CLASSES),
        "total": len(classes),
        "by": stand_out.by,
        "photos": _table(stand_out.shown(), {0, 1, 2, 3}, _PHOTOS),
        **_linked(dataset, stand_out),
        "failures": _table(failures, {0, 1, 2}),
        "made": table(("what", "value"), _made(dataset), words=(0, 1)),
    }
    return write_report(dataset.folder, rendered(__package__, "summary.md", **values))


_COUNTS = f"""SELECT count(DISTINCT item) FILTER (WHERE error IS NULL) AS explained,
  count(DISTINCT item) FILTER (WHERE error IS NOT NULL) AS errors,
  count(DISTINCT item) FILTER (WHERE id IS NOT NULL) - count(DISTINCT id) AS copies,
  count(DISTINCT id) FILTER (WHERE object_area IS NOT NULL) AS masked,
  (SELECT count(*) FROM explained WHERE background_whole IS NOT NULL AND {BOTH} AND rank = 0)
    AS "both" FROM rows"""


def _linked(dataset: Dataset, stand_out: Notable) -> dict[str, Any]:
    """How many of the photos the report in photos/ shows, and whether it is of other rows."""
    there = (dataset.folder / PHOTOS / "report.html").is_file()
    about = Shown.read(dataset) if there else None
    same = about is not None and stand_out.digest(max(about.rows, 0)) == about.table
    return {"linked": about.photos if about and same else 0, "outdated": there and not same}


def _targets(told: Any) -> str:
    """What was explained, in words; told: as `DatasetOptions.told` has it, or anything else."""
    match told:
        case ["contrast", target, against]:
            return f"{in_cell(target)} rather than {in_cell(against)}"
        case ["classes", list(classes)]:
            return f"classes {in_cell(classes)}"
        case ["top", number]:
            return f"top{in_cell(number)}"
    return in_cell(told)


def _made(dataset: Dataset) -> list[tuple[str, Any]]:
    head = dataset.head
    options = {key: value for key, value in head.options.items() if key not in ("digest", "target")}
    return [
        ("network", head.network[:16]),
        ("target", _targets(head.options.get("target", "unknown"))),
        *((key, in_cell(value)) for key, value in options.items() if value is not None),
        *((name, in_cell(version)) for name, version in head.versions.items()),
        ("seconds of one worker", f"{dataset.seconds:.0f}"),
    ]


def _table(answer: Answer, words: set[int], most: int | None = None) -> Any:
    rows = [[in_cell(value) for value in row] for row in answer.rows[:most]]
    return table(answer.columns, rows, words=words)


def _chart(classes: Answer) -> bytes:
    """Bars of the classes that lean most, with their intervals and a mark at the area."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "view") from error
    rows = classes.to_json()[:_CLASSES][::-1]
    figure = Figure(figsize=(7, 1.1 + 0.26 * len(rows)), layout="constrained")
    axes = figure.subplots()
    places = range(len(rows))
    shares = [row["background"] or 0.0 for row in rows]
    errors = [
        max((row["to"] or share) - share, 0.0) for row, share in zip(rows, shares, strict=True)
    ]
    axes.barh(places, shares, xerr=errors, color="#8fb4d9", ecolor="#333333", height=0.7)
    axes.plot([row["area"] for row in rows], places, "k|", markersize=11, label="share of the area")
    names = [str(row["class"]).replace("$", r"\$")[:40] for row in rows]
    axes.set_yticks(places, names, fontsize=8)
    axes.set_xlim(0, 1)
    axes.set_xlabel("share of the background in what adds to the score, mean and 95 % interval")
    axes.legend(fontsize=8, loc="lower right")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()
