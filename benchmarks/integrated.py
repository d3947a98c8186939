"""Integrated gradients: the exact sum over regions against Captum's sums over samples.

    python benchmarks/integrated.py [--images 8] [--json benchmarks/results/integrated-cpu.jsonl]
                                    [--figure docs/images/integrated.png]

The network is `plain` of benchmarks/nets, in float64, the baseline black, the target the label.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import numpy as np
import result_table
import torch
from captum.attr import IntegratedGradients as CaptumGradients
from subjects import subject
from torch import Tensor, nn

from guidxmage import Explainer
from guidxmage.analysis.integrated_gradients import IntegratedGradients, integrated_gradients
from guidxmage.view import save_figure

STEPS = (50, 300, 1000)
RULES = ("gausslegendre", "riemann_middle")


@dataclass(frozen=True)
class Row:
    """One way over all images.

    error: ‖attributions − exact‖ / ‖exact‖; gap: |score − f(R) − Σ| over the largest of the three;
    seconds: median for an image. evaluations: gradients, or regions walked (median).
    """

    method: str
    evaluations: int
    error_median: float
    error_largest: float
    gap_median: float
    gap_largest: float
    seconds: float


@dataclass(frozen=True)
class Found:
    """One way on one image: attributions, what is missing to completeness, seconds, evaluations."""

    values: Tensor
    gap: float
    seconds: float
    evaluations: int


def exactly(explainer: Explainer, X: Tensor, target: int) -> tuple[Found, IntegratedGradients]:
    """Ours, all regions."""
    start = time.perf_counter()
    found = integrated_gradients(explainer, X, target, pieces=100_000)
    seconds = time.perf_counter() - start
    size = max(abs(float(found.explanation.score)), abs(float(found.explanation.bias)))
    gap = abs(float(found.gap)) / size
    return Found(found.explanation.contributions, gap, seconds, found.pieces), found


def by_captum(network: nn.Module, X: Tensor, target: int, steps: int, rule: str) -> Found:
    """Captum's, with its own rule for where to take samples."""
    start = time.perf_counter()
    values, delta = CaptumGradients(network).attribute(
        X[None],
        baselines=0.0,
        target=target,
        n_steps=steps,
        method=rule,
        internal_batch_size=100,
        return_convergence_delta=True,
    )
    seconds = time.perf_counter() - start
    with torch.no_grad():
        ends = network(torch.stack([X, torch.zeros_like(X)]))[:, target]
    return Found(values[0], abs(float(delta)) / float(ends.abs().max()), seconds, steps)


def row(method: str, found: Sequence[Found], exact: Sequence[Found]) -> Row:
    """The figures of one way."""
    errors = [
        float((one.values - own.values).norm() / own.values.norm())
        for one, own in zip(found, exact, strict=True)
    ]
    gaps = [one.gap for one in found]
    return Row(
        method=method,
        evaluations=int(median(one.evaluations for one in found)),
        error_median=median(errors),
        error_largest=max(errors),
        gap_median=median(gaps),
        gap_largest=max(gaps),
        seconds=median(one.seconds for one in found),
    )


def markdown(rows: Sequence[Row]) -> str:
    """The table of the README."""
    lines = [
        "| method | regions or gradients | error, median | error, largest | gap, median | "
        "gap, largest | seconds |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for one in rows:
        error = ("", "") if "exact" in one.method else (one.error_median, one.error_largest)
        shown = [f"{value:.2%}" if value != "" else "" for value in error]
        lines.append(
            f"| {one.method} | {one.evaluations:,} | {shown[0]} | {shown[1]} | "
            f"{one.gap_median:.0e} | {one.gap_largest:.0e} | {one.seconds:.2f} |"
        )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--figure", type=Path, help="the profile of the first image")
    arguments = parser.parse_args(argv)
    chosen = subject("plain", arguments.images)
    network, images = chosen.network.double(), chosen.images.double()
    explainer = Explainer(network, name="plain")
    exact, kept = [], []
    for X, label in zip(images, chosen.labels.tolist(), strict=True):
        one, whole = exactly(explainer, X, label)
        exact.append(one)
        kept.append(whole)
    rows = [row("exact, ours", exact, exact)]
    for rule in RULES:
        for steps in STEPS:
            found = [
                by_captum(network, X, label, steps, rule)
                for X, label in zip(images, chosen.labels.tolist(), strict=True)
            ]
            rows.append(row(f"Captum, {rule}, {steps} steps", found, exact))
    print(markdown(rows))
    if arguments.figure:
        marks = (np.polynomial.legendre.leggauss(STEPS[0])[0] + 1) / 2
        figure = kept[0].figure(marks=marks.tolist(), words="Captum's samples")
        save_figure(figure, arguments.figure)
    if arguments.json:
        conditions = {
            "threads": torch.get_num_threads(),
            "torch": str(torch.__version__),
            "machine": platform.machine(),
            "images": len(images),
        }
        result_table.write(arguments.json, conditions, map(asdict, rows))


if __name__ == "__main__":
    main()
