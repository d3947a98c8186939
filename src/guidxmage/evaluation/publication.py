"""From records to the report's files: a pure function of what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from guidxmage.evaluation.figures import Row, rows
from guidxmage.evaluation.methods import METHODS, Map
from guidxmage.evaluation.page import FIGURES, write_report
from guidxmage.evaluation.photos import Photo
from guidxmage.evaluation.records import Record, file_name
from guidxmage.evaluation.report import pieces
from guidxmage.evaluation.run import KEPT_MAPS, MAPS
from guidxmage.evaluation.settings import Settings
from guidxmage.view import save_figure
from guidxmage.view.bands import Band, bands_figure
from guidxmage.view.contact import Strip, contact_sheet

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def publish(  # noqa: PLR0917
    out: Path,
    settings: Settings,
    records: dict[str, list[Record]],
    photos: Sequence[Photo],
    title: str,
    notes: Sequence[str] = (),
) -> tuple[Path, list[Row]]:
    """Write the report of a run into its folder; the Markdown's path and the figures."""
    found = rows(records, settings.seed)
    (out / FIGURES).mkdir(exist_ok=True)
    pictures = []
    for network in records:
        own = [row for row in found if row.network == network]
        for what, figure in (
            ("curves", _curves(own, network)),
            ("maps", _sheet(out, settings, photos, network)),
        ):
            if figure is not None:
                name = f"{FIGURES}/{file_name(network)}-{what}.png"
                save_figure(figure, out / name)
                pictures.append(name)
    content = list(pieces(found, settings, title, notes, pictures))
    return write_report(out, content, found), found


def _curves(found: Sequence[Row], network: str) -> Figure | None:
    """Deletion and insertion of all methods, with bands."""
    plots = []
    for key, name in (
        ("deletion_curve", "deletion: falls fast is good"),
        ("insertion_curve", "insertion: rises fast is good"),
    ):
        bands = [
            Band(
                row.title,
                tuple(point.mean for point in row.curves[key]),
                tuple(point.low for point in row.curves[key]),
                tuple(point.high for point in row.curves[key]),
            )
            for row in found
            if key in row.curves
        ]
        if bands:
            plots.append((name, bands))
    if not plots:
        return None
    title = f"{network}: probability of the class, with 95 % bands over photos"
    return bands_figure(plots, title, "share of the pixels", "probability")


def _sheet(
    out: Path,
    settings: Settings,
    photos: Sequence[Photo],
    network: str,
) -> Figure | None:
    """The maps of the first photos."""
    folder = out / MAPS / file_name(network)
    strips = []
    for place, photo in enumerate(photos[:KEPT_MAPS]):
        image = folder / f"{place}-image.npy"
        if image.is_file():
            maps = tuple(
                _map(folder / f"{place}-{file_name(name)}.npy") for name in settings.methods
            )
            strips.append(Strip(photo.name, np.load(image), maps))
    if not strips:
        return None
    columns = [(METHODS[name].title, METHODS[name].signed) for name in settings.methods]
    line = (
        "Signed maps: blue opposes, green is nothing, red supports;\none scale for all rows of a "
        "column. Maps of 0–1: white to black."
    )
    return contact_sheet(strips, columns, f"{network}: maps of the explained class", line)


def _map(file: Path) -> Map | None:
    return np.load(file).astype(np.float64) if file.is_file() else None
