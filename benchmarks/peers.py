"""Time and memory of an explanation beside those of other libraries, in one run.

    python benchmarks/peers.py --networks resnet50 --batches 1,8 --json peers.jsonl --plot peers.png

All are given the same float32 images (3 × 224 × 224) and the same classes, and run in turns:
A B C, then in another order. What takes much longer than ours takes part in fewer rounds.
Lines that the file of --json holds already are kept unless they are measured again.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import gc
import os
import platform
import random
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from unittest.mock import patch

import result_table
import torch
from allocations import peak_bytes
from torch import Tensor, nn

from guidxmage import Explainer, __version__, load_model
from guidxmage.engine.kernels import loops
from guidxmage.models.torchvision_import import import_torchvision

NETWORKS = "alexnet,vgg16,resnet50,densenet121,efficientnet_lite0,vit_b_16"
OURS = "guid-Xmage"
GRAPHS, WITHOUT_NUMBA = f"{OURS} CUDA graphs", f"{OURS} without numba"
# What there is on one kind of device only.
_ONLY_ON = {GRAPHS: "cuda", WITHOUT_NUMBA: "cpu"}
# What a slow one's round may cost, in times of ours, before it takes part in every eighth only.
SLOW = 8.0
# Processor time tells on one thread what a method takes where other jobs share the machine.
CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}
Clock = Callable[[], float]
Run = Callable[[], object]
Make = Callable[[nn.Module, Tensor, list[Tensor]], Run]


@dataclass(frozen=True)
class Line:
    """Of one method on one network: seconds of each round for a batch, and its peak memory.

    `trail_mib` is what of ours is the trail. `failure` is the method's own message where it does
    not run; then there are no figures.
    """

    network: str
    method: str
    batch: int
    targets: int
    seconds: tuple[float, ...] = ()
    peak_mib: float | None = None
    trail_mib: float | None = None
    failure: str | None = None

    @property
    def median(self) -> float:
        return median(self.seconds)


# --- what is compared ----------------------------------------------------------------------------


def _ours(
    model: nn.Module, images: Tensor, classes: list[Tensor], *, cuda_graphs: bool = False
) -> Run:
    explainer = Explainer(model, batch_rows=max(32, len(images)), cuda_graphs=cuda_graphs)
    target: object = classes[0]
    if len(classes) > 1:  # the same classes for every image: several targets of one trail
        target = ("classes", [int(own[0]) for own in classes])
    return lambda: explainer.explain(images, target=target).contributions


def _without_numba(model: nn.Module, images: Tensor, classes: list[Tensor]) -> Run:
    """Ours where the extra `fast` is not installed."""
    ours = _ours(model, images, classes)

    def run() -> object:
        with patch.object(loops, "compiled", lambda: None):
            return ours()

    return run


def _graphs(model: nn.Module, images: Tensor, classes: list[Tensor]) -> Run:
    """Ours as CUDA graphs; a failure where some part would run without one."""
    ours = _ours(model, images, classes, cuda_graphs=True)

    def run() -> object:
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            return ours()

    return run


def _gradient(model: nn.Module, images: Tensor, classes: list[Tensor]) -> Run:
    """The floor: plain autograd, one forward and a backward for each class."""

    def run() -> list[Tensor]:
        leaf = images.detach().requires_grad_()
        scores = model(leaf)
        picked = [scores.gather(1, own[:, None]).sum() for own in classes]
        last = len(picked) - 1
        return [
            torch.autograd.grad(one, leaf, retain_graph=number < last)[0]
            for number, one in enumerate(picked)
        ]

    return run


def _forward(layout: torch.memory_format) -> Make:
    """The network alone."""

    def make(model: nn.Module, images: Tensor, classes: list[Tensor]) -> Run:
        del classes
        own = copy.deepcopy(model).to(memory_format=layout)  # type: ignore[call-overload]
        laid_out = images.contiguous(memory_format=layout)

        def run() -> Tensor:
            with torch.no_grad():
                scores: Tensor = own(laid_out)
            return scores

        return run

    return make


def _captum(name: str, **options: object) -> Make:
    def make(model: nn.Module, images: Tensor, classes: list[Tensor]) -> Run:
        import captum.attr

        method = getattr(captum.attr, name)(model)
        leaf = images.clone().requires_grad_()
        return lambda: [method.attribute(leaf, target=own, **options) for own in classes]

    return make


def _cam(name: str, **options: object) -> Make:
    def make(model: nn.Module, images: Tensor, classes: list[Tensor]) -> Run:
        import pytorch_grad_cam
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

        layer = last_convolution(model)
        method = getattr(pytorch_grad_cam, name)(model=model, target_layers=[layer])
        for key, value in options.items():
            setattr(method, key, value)
        leaf = images.clone().requires_grad_()  # the parameters are frozen

        def run() -> list[object]:
            found = []
            for own in classes:
                targets = [ClassifierOutputTarget(int(one)) for one in own]
                found.append(method(input_tensor=leaf, targets=targets))
            return found

        return run

    return make


def _zennit(model: nn.Module, images: Tensor, classes: list[Tensor]) -> Run:
    from zennit.attribution import Gradient

    def run() -> list[Tensor]:
        found = []
        with Gradient(model=model) as attributor:
            for own in classes:
                eye = torch.eye(len(model(images[:1])[0]), device=images.device)
                found.append(attributor(images.clone(), eye[own])[1])
        return found

    return run


METHODS: dict[str, Make] = {
    OURS: _ours,
    WITHOUT_NUMBA: _without_numba,
    GRAPHS: _graphs,
    "forward": _forward(torch.contiguous_format),
    "forward channels-last": _forward(torch.channels_last),
    "autograd": _gradient,
    "Captum InputXGradient": _captum("InputXGradient"),
    "Captum IntegratedGradients (50)": _captum(
        "IntegratedGradients", n_steps=50, internal_batch_size=32
    ),
    "pytorch-grad-cam GradCAM": _cam("GradCAM"),
    "pytorch-grad-cam ScoreCAM": _cam("ScoreCAM", batch_size=32),
    "zennit Gradient": _zennit,
}
# These run the network hundreds of times for an image.
_ONLY_SMALL = {"pytorch-grad-cam ScoreCAM": 1, "Captum IntegratedGradients (50)": 8}


def last_convolution(model: nn.Module) -> nn.Module:
    """Where CAM methods look: the last convolution of the network. ValueError without one."""
    found = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    if len(found) < 2:  # a transformer's only one cuts the image into patches
        raise ValueError("the network has no convolution that a CAM could be drawn of")
    return found[-1]


# --- measuring -----------------------------------------------------------------------------------


def compare(
    network: str,
    model: nn.Module,
    images: Tensor,
    targets: int,
    *,
    rounds: int,
    methods: list[str],
    clock: Clock = time.perf_counter,
) -> Iterator[Line]:
    """Time the methods in turns, then take each one's peak memory."""
    classes = _classes(model, images, targets)
    about = {"network": network, "batch": len(images), "targets": targets}
    runs: dict[str, Run] = {}
    for method in methods:
        kind = images.device.type
        if len(images) > _ONLY_SMALL.get(method, len(images)) or kind != _ONLY_ON.get(method, kind):
            continue
        try:
            runs[method] = METHODS[method](model, images, classes)
            runs[method]()
        except Exception as error:
            runs.pop(method, None)
            words = f"{type(error).__name__}: {error}".splitlines()[0]
            yield Line(method=method, failure=words, **about)  # type: ignore[arg-type]
    seconds = in_turns(runs, rounds, images.device, clock)
    for method, run in runs.items():
        # What graphs hold from their capture on is part of what they take.
        whole = run if method != GRAPHS else _graphs(model, images, classes)
        peak, trail = peak_bytes(whole, images.device) / 2**20, None
        if method.startswith(OURS):
            trail = Explainer(model).trail(images).nbytes / 2**20
            # On the CPU NumPy packs the trail, which PyTorch does not see.
            peak += trail if images.device.type == "cpu" else 0
        own = tuple(seconds[method])
        yield Line(method=method, seconds=own, peak_mib=peak, trail_mib=trail, **about)  # type: ignore[arg-type]


def in_turns(
    runs: dict[str, Run], rounds: int, device: torch.device, clock: Clock = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of each in each round it took part in; the order is drawn anew for every round."""
    warm = {name: timed(run, device, clock) for name, run in runs.items()}
    limit = SLOW * warm.get(OURS, min(warm.values(), default=0))
    draw = random.Random(0)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds):
        order = [name for name in runs if warm[name] <= limit or number % 8 == 0]
        draw.shuffle(order)
        for name in order:
            seconds[name].append(timed(runs[name], device, clock))
    return seconds


def timed(run: Run, device: torch.device, clock: Clock) -> float:
    _wait(device)
    start = clock()
    run()
    _wait(device)
    return clock() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _classes(model: nn.Module, images: Tensor, targets: int) -> list[Tensor]:
    """For one target the class of each image, for several the same classes for all of them."""
    with torch.no_grad():
        scores = model(images)
    if targets == 1:
        return [scores.argmax(1)]
    return [own.expand(len(images)) for own in scores[0].topk(targets).indices]


# --- TF32 ----------------------------------------------------------------------------------------


@contextlib.contextmanager
def tf32(on: bool) -> Iterator[None]:
    """Products of float32 numbers on a GPU rounded to TF32, or not."""
    settings = torch.backends.cudnn, torch.backends.cuda.matmul
    before = [one.allow_tf32 for one in settings]
    try:
        for one in settings:
            one.allow_tf32 = on
        yield
    finally:
        for one, was in zip(settings, before, strict=True):
            one.allow_tf32 = was


@dataclass(frozen=True)
class Flips:
    """How many decisions of a batch's trails are others with TF32 than without."""

    network: str
    batch: int
    decisions: int
    flipped: int

    def __str__(self) -> str:
        share = self.flipped / max(1, self.decisions)
        return (
            f"{self.network}, batch {self.batch}: TF32 changes {self.flipped:,} of "
            f"{self.decisions:,} decisions ({share:.2%})"
        )


def flips(network: str, model: nn.Module, images: Tensor) -> Flips:
    """The trails of some images with TF32 beside those without."""
    trails = []
    for on in (False, True):
        with tf32(on):
            trails.append(Explainer(model).trail(images))
    changed = sum(int(own.sum()) for own in trails[0].hamming(trails[1]).values())
    return Flips(network, len(images), trails[0].count * len(images), changed)


# --- what is shown -------------------------------------------------------------------------------


def table(lines: Sequence[Line]) -> str:
    """Markdown: milliseconds of a batch, times of ours, peak memory, and what of ours."""
    rows = ["| network | batch | targets | method | ms | × ours | peak MiB | × ours |"]
    rows.append("| --- | ---: | ---: | --- | ---: | ---: | ---: | ---: |")
    for line in lines:
        head = f"| {line.network} | {line.batch} | {line.targets} | {line.method} |"
        if line.failure is not None:
            rows.append(f"{head} {line.failure.replace('|', ' ')} | | | |")
            continue
        ours = _beside(lines, line)
        times = f"{line.median / ours.median:.2f}" if ours else ""
        assert line.peak_mib is not None
        memory = f"{line.peak_mib / ours.peak_mib:.2f}" if ours and ours.peak_mib else ""
        rows.append(f"{head} {1e3 * line.median:.1f} | {times} | {line.peak_mib:.1f} | {memory} |")
    return "\n".join(rows)


def _beside(lines: Sequence[Line], line: Line) -> Line | None:
    """Ours in the same conditions."""
    own = (line.network, line.batch, line.targets, OURS)
    return next(
        (o for o in lines if (o.network, o.batch, o.targets, o.method) == own and o.seconds), None
    )


def plot(lines: Sequence[Line], file: Path) -> None:
    """Times of ours, for one target: a group of bars for each network and batch."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = [
        line
        for line in lines
        if line.targets == 1 and line.seconds and not line.method.startswith((OURS, "forward"))
    ]
    groups = list(dict.fromkeys((line.network, line.batch) for line in shown))
    methods = list(dict.fromkeys(line.method for line in shown))
    figure = Figure(figsize=(max(7, 1.1 * len(groups) + 2), 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    width = 0.8 / max(1, len(methods))
    for place, method in enumerate(methods):
        at, heights = [], []
        for number, group in enumerate(groups):
            for line in shown:
                if (line.network, line.batch) == group and line.method == method:
                    ours = _beside(lines, line)
                    if ours:
                        at.append(number + width * (place - (len(methods) - 1) / 2))
                        heights.append(line.median / ours.median)
        axes.bar(at, heights, width, label=method)
    axes.axhline(1, color="black", linewidth=1)
    axes.set_yscale("log")
    axes.set_ylabel(f"time of a batch, in times of {OURS}'s")
    axes.set_xticks(range(len(groups)), [f"{n}\nbatch {b}" for n, b in groups], fontsize=8)
    axes.legend(fontsize=8, ncols=2, frameon=False)
    axes.set_title("Above the line the other one takes longer", fontsize=10, loc="left")
    figure.savefig(file, dpi=150)


def kept(file: Path) -> list[Line]:
    """The lines of a results file; none where it does not exist."""
    _, written = result_table.read(file)
    return [Line(**{**line, "seconds": tuple(line["seconds"])}) for line in written]


def merged(old: Sequence[Line], new: Sequence[Line]) -> list[Line]:
    """All of them, the new ones in place of what they measured again; networks stay together."""

    def key(line: Line) -> tuple[str, int, int, str]:
        return line.network, line.batch, line.targets, line.method

    found = {key(line): line for line in (*old, *new)}
    order = NETWORKS.split(",") + [line.network for line in (*old, *new)]
    return sorted(
        found.values(), key=lambda line: (order.index(line.network), line.batch, line.targets)
    )


def conditions(device: torch.device, *, rounded: bool = False) -> dict[str, str | int | None]:
    """What the figures depend on."""
    from importlib.metadata import PackageNotFoundError, version

    found: dict[str, str | int | None] = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "guid-xmage": __version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "dtype": f"float32, TF32 {'on' if rounded else 'off'}",
        "image": "3 × 224 × 224, random",
        "weights": "random, seed 0, parameters frozen",
    }
    for package in ("numba", "captum", "grad-cam", "zennit"):
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", default=NETWORKS, help="names, separated by commas")
    parser.add_argument("--methods", default=",".join(METHODS), help="names, separated by commas")
    parser.add_argument(
        "--batches", help="batch sizes for one target (default 1,8,32; on a GPU 1,8,32,64)"
    )
    parser.add_argument("--targets", default="5,10", help="also so many targets, at batch 1")
    parser.add_argument("--rounds", type=int, default=16, help="measured rounds (default 16)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument(
        "--tf32", action="store_true", help="on a GPU: with TF32; says what it does to the trails"
    )
    parser.add_argument("--threads", type=int, help="threads of PyTorch (default: its own choice)")
    parser.add_argument("--clock", default="wall", choices=CLOCKS, help="what is measured")
    parser.add_argument("--json", type=Path, help="write every time to this file")
    parser.add_argument("--plot", type=Path, help="draw the ratios into this file")
    arguments = parser.parse_args(argv)
    on_gpu = torch.device(arguments.device).type == "cuda"
    if arguments.batches is None:
        arguments.batches = "1,8,32,64" if on_gpu else "1,8,32"
    if arguments.tf32 and not on_gpu:
        parser.error("--tf32 is for --device cuda: a CPU knows no TF32")
    unknown = [name for name in arguments.methods.split(",") if name not in METHODS]
    if unknown:
        parser.error(f"there is no method {unknown[0]!r}; there are {', '.join(METHODS)}")
    return arguments


def main(argv: Sequence[str] | None = None) -> None:
    arguments = _arguments(argv)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = arguments.tf32
    with contextlib.suppress(ImportError):
        import_torchvision()  # for the others, on builds without its compiled operators
    stated = {**conditions(device, rounded=arguments.tf32), "clock": arguments.clock}
    clock = CLOCKS[arguments.clock]
    lines: list[Line] = []
    changed: list[Flips] = []
    plan = [(batch, 1) for batch in map(int, filter(None, arguments.batches.split(",")))]
    plan += [(1, targets) for targets in map(int, filter(None, arguments.targets.split(",")))]
    for name in arguments.networks.split(","):
        model = load_model(name, weights="none").model.requires_grad_(False).to(device)
        for batch, targets in plan:
            generator = torch.Generator().manual_seed(batch)
            images = torch.randn(batch, 3, 224, 224, generator=generator).to(device)
            for line in compare(
                name,
                model,
                images,
                targets,
                rounds=arguments.rounds,
                methods=arguments.methods.split(","),
                clock=clock,
            ):
                lines.append(line)
                print(table([line]).splitlines()[-1], flush=True)
            if arguments.tf32 and targets == 1:
                changed.append(flips(name, model, images))
                print(changed[-1], flush=True)
            gc.collect()
        del model
        gc.collect()
    if arguments.json:
        lines = merged(kept(arguments.json), lines)
    print("\n" + table(lines))
    print("\n" + "\n".join(map(str, changed)))
    print("\n" + ", ".join(f"{name} {value}" for name, value in stated.items()))
    if arguments.json:
        stated |= {"flips": [asdict(one) for one in changed]} if changed else {}
        result_table.write(arguments.json, stated, map(asdict, lines))
    if arguments.plot:
        plot(lines, arguments.plot)


if __name__ == "__main__":
    main()
