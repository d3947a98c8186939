"""The report of an experiment as files: Markdown, and the figures it shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from guidxmage.explainer import Explainer
from guidxmage.files.atomic import write_atomically
from guidxmage.hardening.data.splits import Splits
from guidxmage.hardening.experiment import Work, first_images
from guidxmage.hardening.ownership import whole
from guidxmage.hardening.report.measurements import Evaluation, by, of_arm
from guidxmage.hardening.report.model_card import model_card
from guidxmage.hardening.report.pictures import picture_curves, picture_samples
from guidxmage.hardening.report.text import report
from guidxmage.hardening.samples.suppression import suppress
from guidxmage.hardening.training.networks import file_name
from guidxmage.hardening.units import Experiment, Unit
from guidxmage.view import save_figure

REPORT, FIGURES = "REPORT.md", "figures"
_SHOWN = 5


def publish(
    out: Path, experiment: Experiment, data: Splits, found: Sequence[Evaluation], title: str
) -> Path:
    """Write REPORT.md and figures/ into an experiment's folder; the report's file.

    It is about all networks, arms and seeds that are found, whichever run asked for them. Samples
    are shown for the first seed, by the network that was trained plainly.
    """
    (out / FIGURES).mkdir(exist_ok=True)
    experiment = whole(experiment, out)
    files: dict[str, list[str]] = {}
    direct = [one for one in found if not one["unit"]["source"]]
    for network, own in by(direct, "network").items():
        curves = f"{FIGURES}/{file_name(network)}-curves.png"
        save_figure(picture_curves(own, f"{network}: robust accuracy"), out / curves)
        files[network] = [curves]
        if plain := of_arm(own, "plain"):
            samples = f"{FIGURES}/{file_name(network)}-samples.png"
            work = Work(experiment, data, out, lambda _: None, first=True)
            _samples(work, Unit(**plain[0]["unit"]), out / samples)
            files[network].append(samples)
    text = report(found, title, files, model_card(experiment, data, found))
    write_atomically(out / REPORT, text.encode())
    return out / REPORT


def _samples(work: Work, unit: Unit, file: Path) -> None:
    """A few test images of different classes, their samples and the maps of both."""
    batch = first_images(work.data.test, 50 * _SHOWN, 0)
    seen: dict[int, int] = {}
    for row, label in enumerate(batch.labels.tolist()):
        seen.setdefault(label, row)
    rows = torch.tensor(sorted(seen.values())[:_SHOWN])
    explainer = Explainer(work.trained(unit))
    # The maps are of the class, so what falls in the picture is what it contributes to that.
    scheme = replace(work.experiment.series, guide="class")
    series = suppress(
        explainer,
        batch.images[rows],
        batch.masks[rows],
        batch.labels[rows],
        scheme=scheme,
    )
    names = [work.data.test.classes[int(label)] for label in series.labels]
    save_figure(
        picture_samples(explainer, series, names, f"Samples of {unit.network}, trained plainly"),
        file,
    )
