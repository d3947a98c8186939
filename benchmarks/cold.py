"""What the first explanation of a fresh process costs, and the imports, beside PyTorch alone.

    python benchmarks/cold.py [--rounds 5] [--threads N] [--json FILE]

Every figure is of a new process; the processes run in turns. Seconds are the processor's, the
process's own and the system's on its behalf, so that other jobs on the machine count little.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

import result_table
import torch
from peers import conditions

_IMAGE = "image = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))"
_NETWORK = "model = load_model('resnet50', weights='none').model.requires_grad_(False)"
# The network is made alike on either side; `load_model` reads torchvision's definition.
PROGRAMS = {
    "import torch": "import torch",
    "import guidxmage": "import torch, guidxmage",
    "import Explainer": "import torch; from guidxmage import Explainer",
    "eager": (
        f"import torch; from guidxmage.models import load_model; {_NETWORK}; {_IMAGE}; "
        "leaf = image.requires_grad_(); torch.autograd.grad(model(leaf)[0, 0], leaf)"
    ),
    "explanation": (
        "import torch; from guidxmage import Explainer; "
        f"from guidxmage.models import load_model; {_NETWORK}; {_IMAGE}; "
        "Explainer(model).explain(image, 0)"
    ),
}
# What is stated: the first in times of the second, and how much it may be.
GOALS = (
    ("import guidxmage", "import torch", 1.15),
    ("import Explainer", "import torch", 1.15),
    ("explanation", "eager", 2.0),
)


def seconds_of(program: str, threads: int) -> float:
    """Processor seconds of a new interpreter that runs a program."""
    first = f"import os; os.environ['OMP_NUM_THREADS'] = '{threads}'; "
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", first + program], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure(programs: Mapping[str, str], rounds: int, threads: int) -> dict[str, list[float]]:
    """Seconds of every program in every round, after one round to fill the disk's cache."""
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for number in range(rounds + 1):
        for name, program in programs.items():
            taken = seconds_of(program, threads)
            if number:
                seconds[name].append(taken)
    return seconds


def table(seconds: Mapping[str, Sequence[float]]) -> str:
    """Markdown: medians, and the ratios beside what they may be."""
    rows = ["| process | seconds |", "| --- | ---: |"]
    rows += [f"| {name} | {median(own):.2f} |" for name, own in seconds.items()]
    rows += ["", "| ratio | measured | at most |", "| --- | ---: | ---: |"]
    for name, base, most in GOALS:
        ratio = median(seconds[name]) / median(seconds[base])
        rows.append(f"| {name} / {base} | {ratio:.2f} | {most} |")
    return "\n".join(rows)


def main(argv: Sequence[str] | None = None) -> None:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="measured rounds (default 5)")
    parser.add_argument("--threads", type=int, default=1, help="threads of PyTorch (default 1)")
    parser.add_argument("--json", type=Path, help="write every time to this file")
    arguments = parser.parse_args(argv)
    seconds = measure(PROGRAMS, arguments.rounds, arguments.threads)
    stated = {**conditions(torch.device("cpu")), "threads": arguments.threads}
    print(table(seconds))
    print("\n" + ", ".join(f"{name} {value}" for name, value in stated.items()))
    if arguments.json:
        rows = [{"process": name, "seconds": times} for name, times in seconds.items()]
        result_table.write(arguments.json, stated, rows)


if __name__ == "__main__":
    main()
