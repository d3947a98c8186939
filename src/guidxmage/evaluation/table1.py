"""The preset table1: the paper's Table 1 on whatever networks can be had, in parts of one run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from guidxmage.errors import InputError
from guidxmage.evaluation.data.photos import read_photos
from guidxmage.evaluation.data.views import view_numbers
from guidxmage.evaluation.report.figures import Row
from guidxmage.evaluation.report.publication import publish
from guidxmage.evaluation.report.table import paper_table
from guidxmage.evaluation.report.text import seen, write_files
from guidxmage.evaluation.run import EvaluatedNetwork, Say, run
from guidxmage.evaluation.settings import Settings, all_measures, all_methods

COMPARED = (
    "guid-xmage",
    "grad-cam",
    "grad-cam++",
    "score-cam",
    "input-x-gradient",
    "random",
    "edges",
)
"""The rows of the paper's table, and what says how to read them."""
VIEWS = 10
"""Of each of 20 photos: as many images as the paper's steps of 0.5 % imply."""
PUBLISHED = ("alexnet", "vgg16", "resnet50")
"""The paper's networks; their weights have to be downloaded or given."""
TRAINED = ("alexnet", "vgg8", "resnet20")
"""Small networks that configs/table1-networks.toml trains on garments."""


@dataclass(frozen=True)
class TablePart:
    """Networks that are evaluated on the same photos with the same settings."""

    name: str
    title: str
    networks: tuple[str, ...]
    data: str
    limit: int
    settings: Settings


def parts(garments: Path | None, views: int = VIEWS) -> list[TablePart]:
    """The parts of the preset; the small networks' only with the garments to show them.

    views: of each ImageNet photo.
    """
    found = [
        TablePart(
            "imagenet",
            "ImageNet photos, all measures",
            ("efficientnet_lite0", *PUBLISHED),
            "imagenet",
            20,
            Settings(
                all_methods(),
                all_measures(),
                views=views,
                all_views=COMPARED,
                deep=20,
                pixels=4_000_000_000,
            ),
        ),
        TablePart(
            "imagenet-more",
            "ImageNet photos, further networks",
            ("efficientnet_lite1", "efficientnet_lite2"),
            "imagenet",
            10,
            # score-CAM would take minutes for each of these photos.
            Settings(
                tuple(name for name in COMPARED if name != "score-cam"),
                ("directional", "completeness", "complexity"),
            ),
        ),
    ]
    if garments is not None:
        settings = Settings(all_methods(), all_measures(), deep=60, costs=10)
        title = "Garments, true masks, all measures"
        found.append(TablePart("garments", title, TRAINED, str(garments), 200, settings))
    return found


def evaluate_table1(
    chosen: Sequence[TablePart],
    load: Callable[[TablePart, str], EvaluatedNetwork],
    out: Path,
    started: Callable[[TablePart, int], Callable[[], None]],
    say: Say = lambda _: None,
) -> tuple[Path, list[Row]]:
    """Run parts into subfolders and write the table over all of them; its path and the figures.

    load: a part's network by its name; InputError where it cannot be had, which the report states.
    started: told of a part and how many views it has, returns what is called after each. say: as
    `run` has it.
    """
    rows: list[Row] = []
    about, missing = [], []
    for part in chosen:
        networks = []
        for name in part.networks:
            try:
                networks.append(load(part, name))
            except InputError as error:
                missing.append((name, error))
        photos = read_photos(part.data, part.limit)
        views = len(view_numbers(photos, part.settings.views)) * len(networks)
        folder = out / part.name
        data = part.data if part.name != "garments" else "garments"
        records = run(part.settings, networks, photos, data, folder, started(part, views), say)
        _, found = publish(folder, part.settings, records, photos, part.title)
        rows += found
        counts = {"photos": len(photos), "seen": seen(part.settings.views)}
        about.append({"part": part, "paper": paper_table(found), **counts})
    return write_files(out, "table1.md", rows, parts=about, missing=missing), rows
