"""Exported graphs in onnxruntime beside `explain`, on images that the export never saw.

    python benchmarks/export.py --json benchmarks/results/export-cpu.jsonl

For piecewise-linear networks, on images alone and five at once: how far logits and contributions
of onnxruntime are from those of `explain`, whether the graph's own residual is within the bound
that `explain` states for the image, size and seconds of the export, and wall seconds of onnxruntime
and `explain` in turns, with as many threads each. Networks have calibrated random weights,
EfficientNet-Lite0 its own.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import numpy as np
import onnxruntime
import result_table
import torch
from torch import Tensor

from guidxmage import Explainer, __version__
from guidxmage.export import check, export
from guidxmage.models.calibration import natural_like_images

NETWORKS = (
    *("efficientnet_lite0", "alexnet", "vgg11", "resnet18", "resnet50", "densenet121"),
    *("googlenet", "inception_v3", "mobilenet_v2", "mnasnet1_0", "shufflenet_v2_x1_0"),
    *("squeezenet1_1", "regnet_x_400mf"),
)
SIDES = {"inception_v3": 299}
# Contributions that agree so well took the same decisions; where one fell otherwise they do not.
SAME = 1e-4
# Images that are explained in float64 as well.
_EXACT = 5


@dataclass(frozen=True)
class Line:
    """One network in batches of one size.

    logits: the largest difference over the largest logit; maps: of each image, the 2-norm of the
    difference of the contributions over their own; eager64, onnx64: the same of either from those
    in float64, of some images; residual: the largest over its bound; checked: whether the
    self-check holds; eager, onnx: wall seconds of a batch in each round.
    """

    network: str
    side: int
    batch: int
    megabytes: float
    seconds: float
    logits: float
    maps: list[float]
    eager64: list[float]
    onnx64: list[float]
    residual: float
    checked: bool
    eager: list[float]
    onnx: list[float]


def measure(name: str, images: int, rounds: int, threads: int) -> list[Line]:
    """Export a network, and run it on images alone and five at once."""
    side = SIDES.get(name, 224)
    weights = "default" if name == "efficientnet_lite0" else "none"
    explainer = Explainer.load(name, weights=weights)
    X = natural_like_images(images, side, torch.Generator().manual_seed(7)).float().clamp(0, 1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graph.onnx"
        began = time.perf_counter()
        written = export(explainer, path, shape=(3, side, side))
        seconds = time.perf_counter() - began
        holds = check(path).holds
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        exact = Explainer.load(name, weights=weights, dtype=torch.float64)
        lines = []
        for batch in (1, 5):
            found = _agreement((explainer, exact), session, X, batch)
            times = _seconds(explainer, session, X[:batch], rounds)
            lines.append(
                Line(name, side, batch, written.size / 1e6, seconds, *found, holds, *times)
            )
        return lines


def _run(session: onnxruntime.InferenceSession, X: Tensor) -> dict[str, np.ndarray]:
    names = [one.name for one in session.get_outputs()]
    return dict(zip(names, session.run(names, {"images": X.numpy()}), strict=True))


def _agreement(
    explainers: tuple[Explainer, Explainer],
    session: onnxruntime.InferenceSession,
    X: Tensor,
    batch: int,
) -> tuple[float, list[float], list[float], list[float], float]:
    """explainers: in float32 and in float64, which is asked about the first five images."""
    explainer, exact = explainers
    logits, maps, residuals = [0.0], [], [0.0]
    from_exact: tuple[list[float], list[float]] = ([], [])
    for first, part in zip(range(0, len(X), batch), X.split(batch), strict=True):
        mine, theirs = explainer.explain(part), _run(session, part)
        size = mine.logits.abs().max()
        logits.append(float((mine.logits - torch.from_numpy(theirs["logits"])).abs().max() / size))
        A = torch.from_numpy(theirs["contributions"])
        maps += _apart(A, mine.contributions)
        if first < _EXACT:
            found = exact.explain(part.double(), ("classes", sorted(set(mine.target.tolist()))))
            rows = [found.target[n].tolist().index(int(t)) for n, t in enumerate(mine.target)]
            own = found.contributions[torch.arange(len(part)), rows]
            from_exact[0].extend(_apart(mine.contributions, own))
            from_exact[1].extend(_apart(A, own))
        residual = torch.from_numpy(theirs["residual"]).abs() / mine.residual_bound
        residuals.append(float(residual.max()))
    return max(logits), maps, *from_exact, max(residuals)


def _apart(a: Tensor, b: Tensor) -> list[float]:
    """Of each image, the 2-norm of the difference over that of b."""
    lengths = (a.double() - b.double()).flatten(1).norm(dim=1) / b.double().flatten(1).norm(dim=1)
    found: list[float] = lengths.tolist()
    return found


def _seconds(
    explainer: Explainer, session: onnxruntime.InferenceSession, X: Tensor, rounds: int
) -> tuple[list[float], list[float]]:
    """In turns, after one of each that is not counted."""
    times: dict[str, list[float]] = {"eager": [], "onnx": []}
    for number in range(rounds + 1):
        for way in ("eager", "onnx") if number % 2 else ("onnx", "eager"):
            began = time.perf_counter()
            if way == "eager":
                explainer.explain(X)
            else:
                _run(session, X)
            if number:
                times[way].append(time.perf_counter() - began)
    return times["eager"], times["onnx"]


def table(rows: Sequence[dict[str, object]]) -> str:
    """The page's table."""
    lines = [
        "| network | images at once | file, MB | export, s | logits | contributions | same "
        "decisions | onnxruntime from float64 | explain from float64 | residual / bound | × time |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        one = Line(**row)  # type: ignore[arg-type]
        ratio = median(b / a for a, b in zip(one.eager, one.onnx, strict=True))
        same = sum(value <= SAME for value in one.maps)
        lines.append(
            f"| {one.network} | {one.batch} | {one.megabytes:.0f} | {one.seconds:.0f} | "
            f"{one.logits:.0e} | {median(one.maps):.0e} | {same} of {len(one.maps)} | "
            f"{median(one.onnx64):.0e} | {median(one.eager64):.0e} | "
            f"{one.residual:.2f} | {ratio:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--networks", default=",".join(NETWORKS))
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
    packages = {"torch": torch.__version__, "onnxruntime": onnxruntime.__version__}
    conditions = {"guid-xmage": __version__, "threads": options.threads, **packages}
    rows: list[dict[str, object]] = []
    for name in options.networks.split(","):
        found = measure(name, options.images, options.rounds, options.threads)
        rows += [asdict(one) for one in found]
        print("\n".join(table(rows).splitlines()[-len(found) :]), flush=True)
        if options.json:
            result_table.write(options.json, conditions, rows)


if __name__ == "__main__":
    main()
