"""Whether runs keep to what `memory_budget` foresees, and what a large batch takes.

    python benchmarks/budget.py [--networks alexnet,resnet50] [--rows 4] [--batch 512]

For each network: the bytes a row is foreseen to take, the peak of PyTorch's allocations while so
many rows are explained, and how many rows the default budget runs at once. With --batch, so many
images are explained in one call as well, by the default explainer, and the process's peak of
resident memory is printed.
"""

from __future__ import annotations

import argparse
import gc
import resource
from collections.abc import Sequence

import torch
from allocations import peak_bytes

from guidxmage import Explainer, load_model
from guidxmage.engine.program.footprint import row_bytes


def images(count: int) -> torch.Tensor:
    """Random images, 3 × 224 × 224."""
    return torch.randn(count, 3, 224, 224, generator=torch.Generator().manual_seed(count))


def foreseen(network: str, rows: int) -> tuple[float, float, int]:
    """MiB foreseen for so many rows, MiB taken at most, and rows at once by default."""
    explainer = Explainer(load_model(network, weights="none").model.requires_grad_(False))
    program = explainer.network((3, 224, 224)).program
    X = images(rows)
    peak = peak_bytes(lambda: explainer.explain(X, 0).score)
    return rows * row_bytes(program) / 2**20, peak / 2**20, explainer.rows(program)


def resident(network: str, batch: int) -> float:
    """GiB of resident memory at most, in this process so far, once a batch is explained."""
    explainer = Explainer(load_model(network, weights="none").model.requires_grad_(False))
    explanation = explainer.explain(images(batch), 0)
    assert explanation.weights.shape[0] == batch
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # KiB on Linux


def main(argv: Sequence[str] | None = None) -> None:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", default="alexnet,resnet50", help="separated by commas")
    parser.add_argument("--rows", type=int, default=4, help="rows explained at once (default 4)")
    parser.add_argument("--batch", type=int, default=0, help="also explain so many images")
    arguments = parser.parse_args(argv)
    print("| network | foreseen, MiB | peak, MiB | rows at once |\n| --- | ---: | ---: | ---: |")
    for network in filter(None, arguments.networks.split(",")):
        most, peak, rows = foreseen(network, arguments.rows)
        print(f"| {network} | {most:.0f} | {peak:.0f} | {rows} |", flush=True)
        gc.collect()
        if arguments.batch:
            taken = resident(network, arguments.batch)
            print(f"{arguments.batch} images in one call: {taken:.1f} GiB resident at most")


if __name__ == "__main__":
    main()
