"""How large a network z3 proves an explanation of within a minute: as a chain, as one formula.

    python benchmarks/smt.py [--seconds 60] [--json benchmarks/results/smt-cpu.jsonl]

The networks are Conv 3×3 – ReLU – Conv 3×3, stride 2 – ReLU – Linear with random weights (seed 0)
and a random image; their sizes are counted in ReLUs.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import result_table
import torch
from torch import nn

from guidxmage import Explainer
from guidxmage.proof.rational.smt import claim_of, prove

# Side of the image, channels of the two convolutions.
CHAIN = ((8, 2, 4), (14, 4, 8), (28, 4, 8), (28, 6, 12))
WHOLE = ((5, 1, 2), (6, 1, 2), (6, 2, 2), (7, 2, 3), (8, 2, 4))


@dataclass(frozen=True)
class Row:
    """One network: seconds to write the formulas, and z3's; megabytes of text."""

    form: str
    relus: int
    verdict: str
    writing: float
    solving: float
    megabytes: float


def network(side: int, first: int, second: int) -> nn.Module:
    """A small CNN with random weights."""
    torch.manual_seed(0)
    inner = (side - 3) // 2 + 1
    return nn.Sequential(
        nn.Conv2d(1, first, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(first, second, 3, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(second * inner**2, 10),
    ).eval()


def measure(size: tuple[int, int, int], one_formula: bool, seconds: float) -> Row:
    """One proof."""
    explainer = Explainer(network(*size), dtype=torch.float64)
    X = torch.rand(1, size[0], size[0], dtype=torch.float64)
    start = time.perf_counter()
    claim = claim_of(explainer.network(X.shape).program, X, torch.eye(10)[0])
    proof = prove(claim, one_formula=one_formula, seconds=seconds)
    spent = time.perf_counter() - start
    characters = sum(map(len, proof.files.values()))
    form = "one formula" if one_formula else "chain"
    writing = spent - proof.seconds
    return Row(form, proof.decisions, proof.verdict, writing, proof.seconds, characters / 1e6)


def markdown(rows: Sequence[Row]) -> str:
    """The table of docs/smt.md."""
    lines = [
        "| form | ReLUs | verdict | writing (s) | z3 (s) | files (MB) |",
        "| --- | ---: | --- | ---: | ---: | ---: |",
    ]
    for row in rows:
        lines.append(
            f"| {row.form} | {row.relus:,} | {row.verdict} | {row.writing:.1f} | "
            f"{row.solving:.2f} | {row.megabytes:.2f} |"
        )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60, help="for each proof")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args(argv)
    rows = []
    for sizes, one_formula in ((CHAIN, False), (WHOLE, True)):
        for size in sizes:
            rows.append(measure(size, one_formula, arguments.seconds))
            print(rows[-1], flush=True)
            if rows[-1].verdict != "proved":
                break
    print(markdown(rows))
    if arguments.json:
        conditions = {
            "seconds": arguments.seconds,
            "torch": str(torch.__version__),
            "machine": platform.machine(),
        }
        result_table.write(arguments.json, conditions, map(asdict, rows))


if __name__ == "__main__":
    main()
