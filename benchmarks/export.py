"""Exported graphs in onnxruntime beside `explain`, on images that the export never saw.

    python benchmarks/export.py --weights mobilenet_v2=mobilenet_v2-b0353104.pth \
        --json benchmarks/results/export-cpu.jsonl

For piecewise-linear networks, on images alone and five at once: how far logits and contributions
of onnxruntime are from those of `explain`, which decisions it took otherwise and how many of these
are not ambiguous, whether the graph's own residual is within its own bound, how much wider that is
than the one of `explain`, size and seconds of the export, and wall seconds of onnxruntime and
`explain` in turns, with as many threads each. Networks without a file of weights have calibrated
random ones, EfficientNet-Lite0 its own. What is in the file of results already, measured under the
same conditions, is kept.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import numpy as np
import onnxruntime
import result_table
import torch
from torch import Tensor

from guidxmage import Explainer, __version__
from guidxmage.engine.program.precision import widened
from guidxmage.engine.trail.trail import Trail
from guidxmage.export import check, read_trail
from guidxmage.models.calibration import natural_like_images
from guidxmage.proof.rounding.fidelity import Runs

NETWORKS = (
    *("efficientnet_lite0", "alexnet", "vgg11", "resnet18", "resnet50", "densenet121"),
    *("googlenet", "inception_v3", "mobilenet_v2", "mnasnet1_0", "shufflenet_v2_x1_0"),
    *("squeezenet1_1", "regnet_x_400mf"),
)
SIDES = {"inception_v3": 299}
OUTPUTS = (
    *("logits", "target", "score", "contributions", "bias", "residual", "bound", "trail"),
)  # fmt: skip
BATCHES = (1, 5)
# How many times the error that `explain` made in a layer another runtime's may be.
SLACK = 8
# Images that are explained in float64 as well.
_EXACT = 5

Answers = dict[str, np.ndarray]


@dataclass(frozen=True)
class Line:
    """One network in batches of one size.

    logits: the largest difference over the largest logit; maps: of each image, the 2-norm of the
    difference of the contributions over their own; eager64, onnx64: the same of either from those
    in float64, of some images; decisions: of an image; otherwise: of each image, how many
    onnxruntime took otherwise; doubtful: of these, whose margin is within the rounding error of
    their layer in `explain`; beyond: whose margin is more than `SLACK` times that; residual: the
    largest over the graph's own bound; bound: of each image, that bound over the one of `explain`;
    checked: whether the self-check holds; eager, onnx: wall seconds of a batch in each round.
    """

    network: str
    weights: str
    side: int
    batch: int
    megabytes: float
    seconds: float
    logits: float
    maps: list[float]
    eager64: list[float]
    onnx64: list[float]
    decisions: int
    otherwise: list[int]
    doubtful: list[int]
    beyond: list[int]
    residual: float
    bound: list[float]
    checked: bool
    eager: list[float]
    onnx: list[float]


@dataclass(frozen=True)
class Subject:
    """A network in float32 and in float64, its graph, and images."""

    explainer: Explainer
    exact: Explainer
    session: onnxruntime.InferenceSession
    trail: Mapping[str, object]
    X: Tensor

    def run(self, X: Tensor) -> Answers:
        """What onnxruntime gives."""
        names = [one.name for one in self.session.get_outputs()]
        return dict(zip(names, self.session.run(names, {"images": X.numpy()}), strict=True))


def measure(name: str, weights: str, images: int, rounds: int, threads: int) -> list[Line]:
    """Export a network, and run it on images alone and five at once."""
    side = SIDES.get(name, 224)
    explainer = Explainer.load(name, weights=weights)
    X = natural_like_images(images, side, torch.Generator().manual_seed(7)).float().clamp(0, 1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graph.onnx"
        began = time.perf_counter()
        written = explainer.export(path, shape=(3, side, side), outputs=OUTPUTS)
        seconds = time.perf_counter() - began
        holds = check(path).holds
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
    exact = Explainer.load(name, weights=weights, dtype=torch.float64)
    subject = Subject(explainer, exact, session, written.metadata, X)
    found = [_agreement(subject, batch) for batch in BATCHES]
    counts = _counts(subject, [pairs for _, pairs in found])
    told = Path(weights).name if weights.endswith(".pth") else weights
    fixed = {"network": name, "weights": told, "side": side, "checked": holds, "seconds": seconds}
    return [
        Line(
            **fixed,  # type: ignore[arg-type]
            **agreed,  # type: ignore[arg-type]
            **counted,  # type: ignore[arg-type]
            **_seconds(subject, batch, rounds),
            batch=batch,
            megabytes=written.size / 1e6,
        )
        for batch, (agreed, _), counted in zip(BATCHES, found, counts, strict=True)
    ]


Pairs = list[tuple[Trail, Trail]]


def _agreement(subject: Subject, batch: int) -> tuple[dict[str, object], Pairs]:
    """How far onnxruntime's numbers are from those of `explain`; of each image both trails.

    The first five images are explained in float64, too.
    """
    logits, maps, residuals, bounds = [0.0], [], [0.0], []
    eager64, onnx64, trails = [], [], []
    for first, part in zip(range(0, len(subject.X), batch), subject.X.split(batch), strict=False):
        mine, theirs = subject.explainer.explain(part), subject.run(part)
        size = mine.logits.abs().max()
        logits.append(float((mine.logits - torch.from_numpy(theirs["logits"])).abs().max() / size))
        A = torch.from_numpy(theirs["contributions"])
        maps += _apart(A, mine.contributions)
        residuals.append(float((np.abs(theirs["residual"]) / theirs["bound"]).max()))
        bounds += (theirs["bound"] / mine.residual_bound.numpy()).tolist()
        own = read_trail(theirs["trail"], subject.trail)
        trails += [(mine.trail.image(n), own.image(n)) for n in range(len(part))]
        if first < _EXACT:
            targets = sorted(set(mine.target.tolist()))
            found = subject.exact.explain(part.double(), ("classes", targets))
            rows = [found.target[n].tolist().index(int(t)) for n, t in enumerate(mine.target)]
            exactly = found.contributions[torch.arange(len(part)), rows]
            eager64 += _apart(mine.contributions, exactly)
            onnx64 += _apart(A, exactly)
    agreed = {
        "logits": max(logits),
        "maps": maps,
        "eager64": eager64,
        "onnx64": onnx64,
        "residual": max(residuals),
        "bound": bounds,
    }
    return agreed, trails


def _apart(a: Tensor, b: Tensor) -> list[float]:
    """Of each image, the 2-norm of the difference over that of b."""
    lengths = (a.double() - b.double()).flatten(1).norm(dim=1) / b.double().flatten(1).norm(dim=1)
    found: list[float] = lengths.tolist()
    return found


def _counts(subject: Subject, found: Sequence[Pairs]) -> list[dict[str, object]]:
    """Of each size of batch, the decisions that fell otherwise, image by image.

    One run in float64 an image shows how much rounding moved each layer.
    """
    network = subject.explainer.network(subject.X[:1])
    wide = widened(network.program)
    counted: list[list[tuple[int, int, int]]] = [[] for _ in found]
    for number, image in enumerate(subject.X):
        runs = Runs.of(network.program, wide, network.to_input(image[None]))
        for own, pairs in zip(counted, found, strict=True):
            margins = list(_margins(runs, *pairs[number]))
            doubtful = sum(margin <= 1 for margin in margins)
            own.append((len(margins), doubtful, sum(margin > SLACK for margin in margins)))
    decisions = found[0][0][0].count
    names = ("otherwise", "doubtful", "beyond")
    return [
        {"decisions": decisions, **dict(zip(names, map(list, zip(*own, strict=True)), strict=True))}
        for own in counted
    ]


def _margins(runs: Runs, mine: Trail, theirs: Trail) -> Iterator[float]:
    """Of each decision that differs, its margin over the rounding error of its layer."""
    for call in runs.program.calls:
        if call.site not in mine:
            continue
        where = mine[call.site].differs(theirs[call.site])
        if not bool(where.any()):
            continue
        found = runs.margins(call, runs.deployed)
        if found is None:
            yield from [float("inf")] * int(where.sum())
            continue
        gaps = found.gap[where.reshape(found.gap.shape)]
        yield from (gaps / max(runs.error(call), 1e-300)).tolist()


def _seconds(subject: Subject, batch: int, rounds: int) -> dict[str, list[float]]:
    """In turns, after one of each that is not counted."""
    times: dict[str, list[float]] = {"eager": [], "onnx": []}
    X = subject.X[:batch]
    for number in range(rounds + 1):
        for way in ("eager", "onnx") if number % 2 else ("onnx", "eager"):
            began = time.perf_counter()
            if way == "eager":
                subject.explainer.explain(X)
            else:
                subject.run(X)
            if number:
                times[way].append(time.perf_counter() - began)
    return times


HEADINGS = (
    *("network", "images at once", "file, MB", "export, s", "logits", "contributions"),
    *("decisions", "otherwise, median (most)", "of these ambiguous", f"beyond {SLACK}×"),
    *("onnxruntime from float64", "explain from float64", "residual / bound"),
    *("bound / explain's", "× time"),
)


def table(rows: Sequence[dict[str, object]]) -> str:
    """The page's table."""
    lines = [f"| {' | '.join(HEADINGS)} |", "| --- |" + " ---: |" * (len(HEADINGS) - 1)]
    for row in rows:
        one = Line(**row)  # type: ignore[arg-type]
        ratio = median(b / a for a, b in zip(one.eager, one.onnx, strict=True))
        total = sum(one.otherwise)
        share = f"{sum(one.doubtful) / total:.1%}" if total else "–"
        cells = (
            *(one.network, one.batch, f"{one.megabytes:.0f}", f"{one.seconds:.0f}"),
            *(f"{one.logits:.0e}", f"{median(one.maps):.0e}", f"{one.decisions:,}"),
            *(f"{median(one.otherwise):.0f} ({max(one.otherwise)})", share, sum(one.beyond)),
            *(f"{median(one.onnx64):.0e}", f"{median(one.eager64):.0e}"),
            *(f"{one.residual:.2f}", f"{median(one.bound):.2f}", f"{ratio:.2f}"),
        )
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--weights", action="append", default=[], metavar="NETWORK=FILE")
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--table", action="store_true", help="print what the file of --json has")
    options = parser.parse_args()
    if options.table:
        print(table(result_table.read(options.json)[1]))
        return
    torch.set_num_threads(options.threads)
    weights = {"efficientnet_lite0": "default", **dict(o.split("=", 1) for o in options.weights)}
    packages = {"torch": torch.__version__, "onnxruntime": onnxruntime.__version__}
    conditions = {
        **{"guid-xmage": __version__, "threads": options.threads},
        **{"images": options.images, **packages},
    }
    known = result_table.read(options.json) if options.json else ({}, [])
    rows = known[1] if known[0] == conditions else []
    for name in options.networks.split(","):
        if any(row["network"] == name for row in rows):
            continue
        own = weights.get(name, "none")
        found = measure(name, own, options.images, options.rounds, options.threads)
        rows += [asdict(one) for one in found]
        print("\n".join(table(rows).splitlines()[-len(found) :]), flush=True)
        if options.json:
            rows.sort(key=lambda row: (_place(str(row["network"])), row["batch"]))
            result_table.write(options.json, conditions, rows)


def _place(name: str) -> int:
    return NETWORKS.index(name) if name in NETWORKS else len(NETWORKS)


if __name__ == "__main__":
    main()
