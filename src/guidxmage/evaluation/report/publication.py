"""From records to the report's files: a pure function of what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from guidxmage.evaluation.data.photos import Photo
from guidxmage.evaluation.methods import METHODS, Map
from guidxmage.evaluation.records import Record, file_name, numbers
from guidxmage.evaluation.report.figures import Row, rows
from guidxmage.evaluation.report.paired import paired_table
from guidxmage.evaluation.report.text import write_evaluation
from guidxmage.evaluation.run import KEPT_MAPS, MAPS, Photos, all_records, in_order
from guidxmage.evaluation.settings import Settings
from guidxmage.view import save_figure
from guidxmage.view.bands import Band, bands_figure
from guidxmage.view.contact import Strip, contact_sheet

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIGURES = "figures"


def publish(
    out: Path,
    settings: Settings,
    records: dict[str, list[Record]],
    photos: Sequence[Photo],
    title: str,
) -> tuple[Path, list[Row]]:
    """Write the report of a run into its folder; the Markdown's path and the figures.

    It is about all records that the folder has of these photos, those that earlier runs asked for
    as well; `records` says which networks were asked for last.
    """
    now = Photos.of(photos, list(numbers(out)))
    records = all_records(out, now, list(records), settings.methods)
    settings = covering(settings, records)
    found = rows(records, settings.seed)
    (out / FIGURES).mkdir(exist_ok=True)
    pictures: dict[str, list[str]] = {}
    for network in records:
        own = [row for row in found if row.network == network]
        for what, figure in (
            ("curves", _curves(own, network)),
            ("maps", _sheet(out, settings, photos, network)),
        ):
            if figure is not None:
                name = f"{FIGURES}/{file_name(network)}-{what}.png"
                save_figure(figure, out / name)
                pictures.setdefault(network, []).append(name)
    paired = {network: paired_table(own, settings.seed) for network, own in records.items()}
    return write_evaluation(out, found, settings, title, pictures, paired=paired), found


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
    known = numbers(out)
    for place, name in sorted((known[photo.name], photo.name) for photo in photos):
        image = _array(folder / f"{place}-image.npy")
        if place < KEPT_MAPS and image is not None:
            maps = tuple(_map(folder / f"{place}-{file_name(m)}.npy") for m in settings.methods)
            strips.append(Strip(name, image, maps))
    if not strips:
        return None
    columns = [(METHODS[name].title, METHODS[name].signed) for name in settings.methods]
    line = (
        "Signed maps: blue opposes, green is nothing, red supports;\none scale for all rows of a "
        "column. Maps of 0–1: white to black."
    )
    return contact_sheet(strips, columns, f"{network}: maps of the explained class", line)


def covering(settings: Settings, records: dict[str, list[Record]]) -> Settings:
    """The settings with all methods and views that there are records of."""
    own = [record for of_network in records.values() for record in of_network]
    methods = in_order([record["method"] for record in own], settings.methods)
    views = max([settings.views, *(record["view"] + 1 for record in own)])
    return replace(settings, methods=tuple(methods), views=views)


def _map(file: Path) -> Map | None:
    values = _array(file)
    return None if values is None else values.astype(np.float64)


def _array(file: Path) -> Any:
    """What was kept; None where it is not there or damaged."""
    try:
        # Mapped first: memory is not taken for more than the file holds.
        return np.array(np.lib.format.open_memmap(file, mode="r"))
    except Exception:  # NumPy raises whatever a malformed head makes it stumble over
        return None
