"""How long an explanation takes, beside Captum's input × gradient and the network's own forward.

    python benchmarks/speed.py --networks resnet50 --batches 1,8 --json speed.json

All three get the same float32 images (3 × 224 × 224) and, but for the forward, the same given
classes, so that nobody runs the network a second time to find the target.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import cycle, permutations
from pathlib import Path
from statistics import median, quantiles

import torch
from torch import Tensor, nn

from guidxmage import Explainer, MissingExtraError, __version__, load_model

Candidates = dict[str, Callable[[], object]]
Seconds = dict[str, list[float]]

NETWORKS = "alexnet,vgg16,resnet50,densenet121"
# Float32 orders its sums differently on the two ways; decisions are the same, so no more than that.
LARGEST_DIFFERENCE = 1e-3


@dataclass(frozen=True)
class Result:
    """One line of the table: medians in milliseconds per batch, and what they come from.

    ``ratio`` = Captum's median / ours (above 1: ours is faster); ``ratio_quartiles`` are of the
    rounds' own ratios; ``difference`` is ‖A − Captum's‖ / ‖Captum's‖; ``seconds`` holds every time.
    """

    network: str
    batch: int
    forward_ms: float
    captum_ms: float
    ours_ms: float
    ratio: float
    ratio_quartiles: tuple[float, float]
    difference: float
    seconds: Seconds


def measure(candidates: Candidates, repeats: int, warmup: int = 2) -> Seconds:
    """Seconds of every candidate in every round.

    A round runs each of them once. The order changes from round to round through all orders, so
    that a drift of the clock or the caches hits none of them more than another.
    """
    for _ in range(warmup):
        for run in candidates.values():
            run()
    seconds: Seconds = {name: [] for name in candidates}
    orders = cycle(permutations(candidates))
    for _, order in zip(range(repeats), orders, strict=False):
        for name in order:
            start = time.perf_counter()
            candidates[name]()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def compare(name: str, model: nn.Module, images: Tensor, repeats: int) -> Result:
    """Time the three ways on one batch, after checking that both explanations are the same."""
    method = _input_x_gradient(model)
    explainer = Explainer(model)
    leaf = images.clone().requires_grad_()
    with torch.no_grad():
        classes = model(images).argmax(1)

    def forward() -> Tensor:
        with torch.no_grad():
            output: Tensor = model(images)
        return output

    def captum() -> Tensor:
        attribution: Tensor = method(leaf, target=classes)
        return attribution

    def ours() -> Tensor:
        return explainer.explain(images, target=classes).contributions

    expected = captum().detach()
    difference = float((ours() - expected).norm() / expected.norm())
    if not difference < LARGEST_DIFFERENCE:
        raise SystemExit(f"{name}: the explanations differ by {difference:.1e}; no times are given")
    seconds = measure({"forward": forward, "captum": captum, "ours": ours}, repeats)
    return summarise(name, len(images), difference, seconds)


def summarise(name: str, batch: int, difference: float, seconds: Seconds) -> Result:
    """Medians and ratios of the measured times."""
    middle = {way: median(times) for way, times in seconds.items()}
    pairs = zip(seconds["captum"], seconds["ours"], strict=True)
    ratios = [captum / ours for captum, ours in pairs]
    low, _, high = quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
    return Result(
        network=name,
        batch=batch,
        forward_ms=1e3 * middle["forward"],
        captum_ms=1e3 * middle["captum"],
        ours_ms=1e3 * middle["ours"],
        ratio=middle["captum"] / middle["ours"],
        ratio_quartiles=(low, high),
        difference=difference,
        seconds=seconds,
    )


def _input_x_gradient(model: nn.Module) -> Callable[..., Tensor]:
    try:
        from captum.attr import InputXGradient
    except ModuleNotFoundError:
        raise MissingExtraError("captum", "eval") from None
    attribute: Callable[..., Tensor] = InputXGradient(model).attribute
    return attribute


def conditions() -> dict[str, str | int]:
    """What the times depend on."""
    import captum

    return {
        "threads": torch.get_num_threads(),
        "processor": _processor(),
        "guid-xmage": __version__,
        "captum": captum.__version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "dtype": "float32",
        "device": "cpu",
        "image": "3 × 224 × 224, random",
        "weights": "random, seed 0",
    }


def _processor() -> str:
    """The processor's name where the system tells it (Linux), else its architecture."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


HEADINGS = ("network", "batch", "forward", "Captum", "ours", "Captum/ours", "quartiles")


def table(results: Sequence[Result]) -> str:
    """The results as aligned text."""
    cells = [HEADINGS] + [
        (
            result.network,
            str(result.batch),
            *(f"{ms:.1f}" for ms in (result.forward_ms, result.captum_ms, result.ours_ms)),
            f"{result.ratio:.2f}",
            "–".join(f"{ratio:.2f}" for ratio in result.ratio_quartiles),
        )
        for result in results
    ]
    widths = [max(len(line[column]) for line in cells) for column in range(len(HEADINGS))]
    lines = (
        [line[0].ljust(widths[0])]
        + [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        for line in cells
    )
    return "\n".join("  ".join(line) for line in lines)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", default=NETWORKS, help="names, separated by commas")
    parser.add_argument("--batches", default="1,8", help="batch sizes, separated by commas")
    parser.add_argument("--repeats", type=int, default=9, help="measured rounds (default 9)")
    parser.add_argument("--threads", type=int, help="threads of PyTorch (default: its own choice)")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    arguments = _arguments(argv)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    stated = conditions()
    results: list[Result] = []
    for name in arguments.networks.split(","):
        model = load_model(name, weights="none").model.requires_grad_(False)
        for batch in map(int, arguments.batches.split(",")):
            generator = torch.Generator().manual_seed(batch)
            images = torch.randn(batch, 3, 224, 224, generator=generator)
            results.append(compare(name, model, images, arguments.repeats))
            gc.collect()
        # One network at a time in memory.
        del model
        gc.collect()
    print(table(results))
    print("\nmilliseconds per batch, medians of", arguments.repeats, "rounds")
    print(", ".join(f"{name} {value}" for name, value in stated.items()))
    if arguments.json:
        written = {"conditions": stated, "results": [asdict(result) for result in results]}
        text = json.dumps(written, indent=2, ensure_ascii=False)
        arguments.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
