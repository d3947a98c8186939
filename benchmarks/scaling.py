"""How the time of an explanation grows: with image size, depth, targets, and photos in a folder.

    python benchmarks/scaling.py [--curves size,depth,targets,photos] [--json FILE] [--plot FILE]

For each curve the exponent of the power law that fits the medians best is printed: 2 for image size
means that twice the side takes four times as long.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import numpy as np
import result_table
import torch
from peers import conditions
from PIL import Image

from guidxmage import Explainer, load_model
from guidxmage.jobs.explain_photos import Job, explain_photos

SIZES = (64, 128, 224, 448, 724, 1024)
DEPTHS = (18, 34, 50, 101, 152)
TARGETS = (1, 3, 10, 30, 100, 300, 1000)
PHOTOS = (1, 3, 10, 30, 100, 300, 1000)
NETWORK = "resnet18"


@dataclass(frozen=True)
class Curve:
    """Seconds (median, quartiles) against what grows."""

    name: str
    unit: str
    at: tuple[float, ...]
    seconds: tuple[float, ...]
    quartiles: tuple[tuple[float, float], ...]

    @property
    def exponent(self) -> float:
        """Of the power law through the medians, by least squares of the logarithms."""
        if len(self.at) < 2:
            return float("nan")
        return float(np.polyfit(np.log(self.at), np.log(self.seconds), 1)[0])


def timed(run: Callable[[], object], rounds: int) -> tuple[float, tuple[float, float]]:
    """Median and quartiles of the seconds of some rounds, after one to warm up."""
    run()
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    low, high = np.quantile(seconds, [0.25, 0.75])
    return median(seconds), (float(low), float(high))


def curve(
    name: str, unit: str, points: Iterator[tuple[float, Callable[[], object]]], rounds: int
) -> Curve:
    """Measure one point after the other."""
    at, seconds, quartiles = [], [], []
    for value, run in points:
        middle, around = timed(run, rounds)
        at.append(value)
        seconds.append(middle)
        quartiles.append(around)
        print(f"{name} {value:g}: {middle:.4f} s", flush=True)
        gc.collect()
    return Curve(name, unit, tuple(at), tuple(seconds), tuple(quartiles))


def _explained(network: str, side: int = 224, targets: int = 1) -> Callable[[], object]:
    model = load_model(network, weights="none").model.requires_grad_(False)
    image = torch.randn(3, side, side, generator=torch.Generator().manual_seed(0))
    explainer = Explainer(model)
    target = 0 if targets == 1 else list(range(targets))
    return lambda: explainer.explain(image, target)


def _sizes(largest: float) -> Iterator[tuple[float, Callable[[], object]]]:
    return ((side, _explained(NETWORK, side)) for side in SIZES if side <= largest)


def _depths(largest: float) -> Iterator[tuple[float, Callable[[], object]]]:
    return ((depth, _explained(f"resnet{depth}")) for depth in DEPTHS if depth <= largest)


def _targets(largest: float) -> Iterator[tuple[float, Callable[[], object]]]:
    return ((count, _explained(NETWORK, targets=count)) for count in TARGETS if count <= largest)


def photos(count: int) -> Iterator[Image.Image]:
    """Different random photos of different sizes, in colour."""
    generator = np.random.default_rng(0)
    for _ in range(count):
        height, width = generator.integers(240, 640, 2)
        coarse = generator.integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8)
        yield Image.fromarray(coarse).resize((int(width), int(height)), Image.Resampling.BICUBIC)


def _photos(largest: float) -> Iterator[tuple[float, Callable[[], object]]]:
    """A folder explained with figures and arrays, as the command line does it."""
    explainer = Explainer.load()
    with tempfile.TemporaryDirectory() as folder:
        files = []
        counts = [count for count in PHOTOS if count <= largest]
        for number, photo in enumerate(photos(max(counts, default=0))):
            files.append(Path(folder) / f"{number:04d}.jpg")
            photo.save(files[-1])
        for count in counts:

            def run(count: int = count) -> None:
                out = Path(folder) / "out"
                for outcome in explain_photos(explainer, files[:count], out, Job(objects="none")):
                    assert outcome.error is None, outcome.error

            yield count, run


CURVES = {
    "size": ("side of the image, pixels", _sizes),
    "depth": ("layers of the ResNet", _depths),
    "targets": ("targets of one image", _targets),
    "photos": ("photos of a folder", _photos),
}


def plot(curves: Sequence[Curve], file: Path) -> None:
    """One panel a curve, both axes logarithmic."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.4 * len(curves), 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    for number, one in enumerate(curves):
        axes = figure.add_subplot(1, len(curves), number + 1)
        low, high = zip(*one.quartiles, strict=True)
        axes.fill_between(one.at, low, high, alpha=0.25, linewidth=0)
        axes.plot(one.at, one.seconds, marker="o", markersize=4)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xticks(one.at, [f"{value:g}" for value in one.at], fontsize=7)
        axes.set_xticks([], minor=True)
        axes.set_xlabel(one.unit)
        axes.set_title(f"exponent {one.exponent:.2f}", fontsize=10)
        if number == 0:
            axes.set_ylabel("seconds")
    figure.savefig(file, dpi=150)


def main(argv: Sequence[str] | None = None) -> None:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--curves", default=",".join(CURVES), help="which, separated by commas")
    parser.add_argument("--rounds", type=int, default=5, help="measured rounds a point (default 5)")
    parser.add_argument(
        "--largest", type=float, default=float("inf"), help="leave out larger points"
    )
    parser.add_argument("--json", type=Path, help="write the curves; those not measured are kept")
    parser.add_argument("--plot", type=Path, help="draw them into this file")
    arguments = parser.parse_args(argv)
    names = arguments.curves.split(",")
    unknown = [name for name in names if name not in CURVES]
    if unknown:
        parser.error(f"there is no curve {unknown[0]!r}; there are {', '.join(CURVES)}")
    stated = {**conditions(torch.device("cpu")), "network": NETWORK}
    curves = []
    for name in names:
        unit, points = CURVES[name]
        rounds = 1 if name == "photos" else arguments.rounds
        curves.append(curve(name, unit, points(arguments.largest), rounds))
    for one in curves:
        print(f"{one.name}: time grows with the power {one.exponent:.2f} of the {one.unit}")
    print(", ".join(f"{name} {value}" for name, value in stated.items()))
    if arguments.json:
        _, before = result_table.read(arguments.json)
        kept = [row for row in before if row["name"] not in names]
        result_table.write(arguments.json, stated, [*kept, *map(asdict, curves)])
    if arguments.plot:
        plot(curves, arguments.plot)


if __name__ == "__main__":
    main()
