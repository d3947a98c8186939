"""Figures for the report: samples with their maps, and curves of robust accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean, stdev
from typing import TYPE_CHECKING

import torch

from guidxmage.explainer import Explainer
from guidxmage.hardening.report.measurements import Evaluation, bounds, by, values
from guidxmage.hardening.samples.series import Series
from guidxmage.view.curves import MeanCurve, curves_figure
from guidxmage.view.samples import Sample, samples_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PARTS = (("background", "background alone"), ("object", "object alone"), ("all", "all pixels"))


def picture_samples(
    explainer: Explainer, series: Series, names: Sequence[str], title: str
) -> Figure:
    """The images of a series, their samples at the largest strength, and the maps of both."""
    before, after = series.originals, series.samples[:, -1]
    labels = torch.as_tensor(series.labels)
    # From black, as the background's contributions that the samples were made by.
    maps = [
        explainer.explain(images, labels, reference=0.0).contributions.sum(1)
        for images in (before, after)
    ]
    outside = ~series.masks
    sums = [(drawn * outside).flatten(1).sum(1) for drawn in maps]
    rows = [
        Sample(
            name=names[row],
            before=before[row].permute(1, 2, 0).numpy(),
            after=after[row].permute(1, 2, 0).numpy(),
            maps=(maps[0][row].double().numpy(), maps[1][row].double().numpy()),
            background=(float(sums[0][row]), float(sums[1][row])),
        )
        for row in range(len(series))
    ]
    strength = f"{series.strengths[-1] * 255:g} of 255"
    line = f"the background moves by at most {strength}; contributions to the image's own class"
    return samples_figure(rows, title, line)


def picture_curves(found: Sequence[Evaluation], title: str) -> Figure:
    """Accuracy under l∞ PGD against ε: a line for each arm, mean ± deviation over seeds."""
    plots = []
    for part, words in _PARTS:
        levels = bounds(found, part, "pgd", "linf")
        if levels:
            plots.append((words, _lines(found, part, levels)))
    return curves_figure(plots, title, "ε of PGD in l∞, of 255")


def _lines(found: Sequence[Evaluation], part: str, levels: Sequence[str]) -> list[MeanCurve]:
    lines = []
    for arm, own in by(found, "arm").items():
        at = [values(own, f"{part} pgd linf {eps}") for eps in levels]
        spreads = tuple(stdev(each) if len(each) > 1 else 0.0 for each in at)
        of_255 = tuple(float(eps.removesuffix("/255")) for eps in levels)
        lines.append(MeanCurve(arm, of_255, tuple(map(mean, at)), spreads))
    return lines
