"""What every depth of every network adds up to, and what all depths cost.

    python benchmarks/depths.py --json benchmarks/results/depths-cpu.jsonl

For each of torchvision's piecewise-linear families and EfficientNet-Lite0, one image: the residual
score − Σ whole − unplaced of each depth beside the bound that rounding explains, in float64 and in
float32; what has no place; and processor seconds of an explanation with all depths over one
without, run in turns. Networks have calibrated random weights, EfficientNet-Lite0 its own.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import result_table
import torch

from guidxmage import Explainer, Explanation, __version__, load_model
from guidxmage.models.calibration import natural_like_images

NETWORKS = (
    *("alexnet", "vgg11", "vgg16_bn", "resnet18", "resnet50", "resnext50_32x4d"),
    *("wide_resnet50_2", "densenet121", "googlenet", "inception_v3", "mobilenet_v2", "mnasnet1_0"),
    *("shufflenet_v2_x1_0", "squeezenet1_1", "regnet_x_400mf", "efficientnet_lite0"),
)
SIDES = {"inception_v3": 299}


@dataclass(frozen=True)
class Line:
    """One network. residual, bound: the worst of all depths, relative to the score's size.

    unplaced: share of the score, in float64; seconds: of an explanation without depths and with all
    of them, in each round.
    """

    network: str
    depths: int
    residual64: float
    bound64: float
    residual32: float
    bound32: float
    within: bool
    unplaced: float
    plain: list[float]
    all_depths: list[float]


def measure(name: str, rounds: int) -> Line:
    """Explain an image in both precisions, and take the time of the float32 one."""
    side = SIDES.get(name, 224)
    weights = "default" if name == "efficientnet_lite0" else "none"
    image = natural_like_images(1, side, torch.Generator().manual_seed(1))[0]
    worst: dict[torch.dtype, tuple[float, float, bool]] = {}
    explainers = {}
    for dtype in (torch.float64, torch.float32):
        model = load_model(name, weights=weights).model
        explainer = explainers[dtype] = Explainer(model, dtype=dtype)
        found = explainer.explain(image.to(dtype), depth="all")
        worst[dtype] = _worst(found)
        if dtype == torch.float64:
            depths = len(found.placements)
            unplaced = float(found.unplaced.abs() / found.score.abs())
    plain, every = _seconds(explainers[torch.float32], image.float(), rounds)
    return Line(
        name,
        depths,
        *worst[torch.float64][:2],
        *worst[torch.float32][:2],
        worst[torch.float64][2] and worst[torch.float32][2],
        unplaced,
        plain,
        every,
    )


def _worst(found: Explanation) -> tuple[float, float, bool]:
    """The largest residual and its bound, over the score, and whether all are within theirs."""
    size = float(found.score.abs())
    pairs = [(abs(float(p.residual)), float(p.residual_bound)) for p in found.placements]
    residual, bound = max(pairs)
    return residual / size, bound / size, all(a <= b for a, b in pairs)


def _seconds(
    explainer: Explainer, image: torch.Tensor, rounds: int
) -> tuple[list[float], list[float]]:
    """In turns, after one of each that is not counted."""
    times: dict[str | None, list[float]] = {None: [], "all": []}
    for number in range(rounds + 1):
        for depth in (None, "all") if number % 2 else ("all", None):
            began = time.process_time()
            explainer.explain(image, depth=depth)
            if number:
                times[depth].append(time.process_time() - began)
    return times[None], times["all"]


def table(rows: Sequence[dict[str, object]]) -> str:
    """The page's table."""
    lines = [
        "| network | depths | float64: residual / score | float32 | bound | no place | all depths, "
        "× time |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        one = Line(**row)  # type: ignore[arg-type]
        ratio = median(b / a for a, b in zip(one.plain, one.all_depths, strict=True))
        mark = "" if one.within else " (beyond its bound)"
        lines.append(
            f"| {one.network} | {one.depths} | {one.residual64:.0e} | {one.residual32:.0e}{mark} | "
            f"{one.bound32:.0e} | {one.unplaced:.2%} | {ratio:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--table", action="store_true", help="print what the file of --json has")
    options = parser.parse_args()
    rows: list[dict[str, object]] = []
    if options.table:
        print(table(result_table.read(options.json)[1]))
        return
    torch.set_num_threads(options.threads)
    for name in options.networks.split(","):
        rows.append(asdict(measure(name, options.rounds)))
        print(table(rows[-1:]).splitlines()[-1], flush=True)
    if options.json:
        conditions = {"guid-xmage": __version__, "threads": options.threads}
        result_table.write(options.json, {**conditions, "torch": torch.__version__}, rows)


if __name__ == "__main__":
    main()
