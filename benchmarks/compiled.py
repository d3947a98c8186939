"""Whether torch.compile makes the transposed run faster, and what compiling costs.

    python benchmarks/compiled.py [--network resnet18] [--threads 1] [--json FILE]

NumPy, numba and oneDNN's prepacked weights cannot be traced, so what is compiled is the way a pull
takes where there are none of them; `eager` is that way as it is, `ours` what is run without this
script. Milliseconds of the processor for one image and class, medians.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import prod
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch._inductor.config
from peers import conditions
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from guidxmage import Explainer, load_model
from guidxmage.engine.calls import call
from guidxmage.engine.kernels import loops
from guidxmage.engine.program.program import Program
from guidxmage.engine.rules import affine, convolution
from guidxmage.engine.trail import trail
from guidxmage.engine.trail.trail import Trail

_WEIGHTS = (128, 64, 32, 16, 8, 4, 2, 1)


def _spread(packed: Tensor, shape: tuple[int, ...]) -> Tensor:
    """`unpack_bits` in PyTorch's operators alone."""
    bits = packed[:, :, None].bitwise_and(torch.tensor(_WEIGHTS, dtype=torch.uint8))
    flat = bits.ne(0).to(torch.uint8).flatten(1)[:, : prod(shape)]
    return flat.reshape(len(packed), *shape)


def _spread_last(packed: Tensor, shape: tuple[int, ...]) -> Tensor:
    return _spread(packed, shape).contiguous(memory_format=torch.channels_last)


def without_numpy() -> None:
    """Make this process pull with PyTorch's operators alone."""
    replaced: list[tuple[Any, str, Any]] = [
        (loops, "compiled", lambda: None),
        (trail, "unpack_bits", _spread),
        (trail, "unpack_channels_last", _spread_last),
        (call, "_times", lambda g, bits, **_: g * bits),
        (convolution, "can_pack", lambda _: False),
        (affine, "_LARGE_WEIGHT", float("inf")),
    ]
    for module, name, way in replaced:
        assert hasattr(module, name)
        setattr(module, name, way)


def traced(program: Program, recorded: Trail, cotangent: Tensor) -> tuple[Any, list[Tensor]]:
    """The pull as a graph of PyTorch's operators, and what it takes."""
    planes = [plane for entry in recorded.values() for plane in entry.planes]

    def run(g: Tensor, *packed: Tensor) -> Tensor:
        waiting = iter(packed)
        own = {
            site: entry.with_planes(tuple(next(waiting) for _ in entry.planes))
            for site, entry in recorded.items()
        }
        return program.pull(Trail(own, recorded.header, recorded.rows), g).weights

    run(cotangent, *planes)  # what is prepared once is not to be traced
    return make_fx(run)(cotangent, *planes), [cotangent, *planes]


def compare(network: str, rounds: int) -> dict[str, float]:
    """Milliseconds of each way, seconds of the compiler, and how far the results are apart."""
    model = load_model(network, weights="none").model.requires_grad_(False)
    image = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    program = Explainer(model).network(image.shape[1:]).program
    recorded = program.record(image).trail
    cotangent = torch.zeros(1, program.classes)
    cotangent[:, 0] = 1
    ours = program.pull(recorded, cotangent).weights
    found = {"ours": milliseconds(lambda: program.pull(recorded, cotangent), rounds)}
    without_numpy()
    graph, given = traced(replace(program), recorded, cotangent)
    compiled = torch.compile(graph)
    start = sum(os.times()[:4])
    with torch._inductor.config.patch(force_disable_caches=True):
        theirs = compiled(*given)
    found["compiling, s"] = sum(os.times()[:4]) - start  # with the processes of the C++ compiler
    found["difference"] = float((theirs - ours).abs().max() / ours.abs().max())
    found["eager"] = milliseconds(lambda: graph(*given), rounds)
    found["compiled"] = milliseconds(lambda: compiled(*given), rounds)
    return found


def milliseconds(run: Callable[[], object], rounds: int) -> float:
    """Of the processor, the median of some rounds after one to warm up."""
    run()
    seconds = []
    for _ in range(rounds):
        start = time.process_time()
        run()
        seconds.append(time.process_time() - start)
    return 1e3 * median(seconds)


def main(argv: Sequence[str] | None = None) -> None:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="resnet18", help="a network's name")
    parser.add_argument("--rounds", type=int, default=9, help="measured rounds (default 9)")
    parser.add_argument("--threads", type=int, default=1, help="threads of PyTorch (default 1)")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    found = compare(arguments.network, arguments.rounds)
    for name, value in found.items():
        print(f"{name:14} {value:.3g}")
    if arguments.json:
        told = {"conditions": conditions(torch.device("cpu")), arguments.network: found}
        arguments.json.write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    main()
