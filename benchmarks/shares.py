"""What the time of an explanation consists of, and what could be gained at most.

    python benchmarks/shares.py [--networks resnet50] [--batch 1] [--threads 1] [--json FILE]

The forward pass is the user's own, so an explanation takes at least that and the transposed
convolutions and linear layers. `limit` is Captum's InputXGradient in times of this least: no
engine that records the user's own forward pass, with these kernels, can be faster than that.
Times are the processor's, medians of rounds in turns.
"""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import median
from typing import Any

import result_table
import torch
from captum.attr import InputXGradient
from peers import conditions
from torch import Tensor, nn

from guidxmage import Explainer, load_model
from guidxmage.engine.calls.call import Frame
from guidxmage.engine.program.program import Program
from guidxmage.engine.rules.convolution import PADDED
from guidxmage.engine.rules.table import Rule
from guidxmage.models.torchvision_import import import_torchvision

NETWORKS = "alexnet,vgg16,resnet50,densenet121,efficientnet_lite0"
_PRODUCTS = ("aten.conv", PADDED, "aten.linear", "aten.addmm", "aten.matmul")


@dataclass(frozen=True)
class Shares:
    """Milliseconds of a batch. products, decisions, rest: of the pull."""

    network: str
    batch: int
    forward: float
    record: float
    products: float
    decisions: float
    rest: float
    explanation: float
    captum: float

    @property
    def least(self) -> float:
        """What no explanation can do without."""
        return self.forward + self.products

    @property
    def limit(self) -> float:
        """Captum in times of the least."""
        return self.captum / self.least


class TimedProgram(Program):
    """A program that adds up what its transposed calls take, by kind of operator."""

    @classmethod
    def of(cls, program: Program) -> TimedProgram:
        """The same calls, with clocks."""
        return cls(**{field.name: getattr(program, field.name) for field in fields(program)})

    @property
    def spent(self) -> dict[str, float]:
        """Seconds so far."""
        found: dict[str, float] = self.once(
            "spent", lambda: {"products": 0.0, "decisions": 0.0, "rest": 0.0}
        )
        return found

    def pull_call(
        self, rule: Rule, frame: Frame, g: Tensor, holes: list[Any]
    ) -> Sequence[Tensor | None]:
        start = time.process_time()
        pulled = super().pull_call(rule, frame, g, holes)
        kind = "decisions" if rule.kind == "decision" else "rest"
        kind = "products" if frame.call.op.startswith(_PRODUCTS) else kind
        self.spent[kind] += time.process_time() - start
        return pulled


def shares(network: str, model: nn.Module, images: Tensor, rounds: int) -> Shares:
    """Measure one network on images (B, C, H, W), class 0."""
    explainer = Explainer(model, batch_rows=max(32, len(images)))
    program = TimedProgram.of(explainer.network(images).program)
    cotangent = torch.zeros(len(images), program.classes)
    cotangent[:, 0] = 1
    recorded = program.record(images)
    captum, leaf = InputXGradient(model), images.clone().requires_grad_()
    runs: dict[str, Callable[[], object]] = {
        "forward": lambda: _forward(model, images),
        "record": lambda: program.record(images),
        "pull": lambda: program.pull(recorded.trail, cotangent, recorded.norms),
        "explanation": lambda: explainer.explain(images, target=0),
        "captum": lambda: captum.attribute(leaf, target=0),
    }
    for run in runs.values():
        run()
    program.spent.update(dict.fromkeys(program.spent, 0.0))
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.process_time()
            run()
            seconds[name].append(time.process_time() - start)
    found = {name: 1e3 * median(own) for name, own in seconds.items()}
    parts = {kind: 1e3 * spent / rounds for kind, spent in program.spent.items()}
    parts["rest"] = found.pop("pull") - parts["products"] - parts["decisions"]
    return Shares(network, len(images), **found, **parts)


def _forward(model: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        scores: Tensor = model(images)
    return scores


def table(lines: Sequence[Shares]) -> str:
    """Markdown, milliseconds."""
    rows = [
        "| network | batch | forward | record | products | decisions | rest | explanation "
        "| Captum | Captum / ours | limit |",
        "| --- | " + " | ".join(["---:"] * 10) + " |",
    ]
    for line in lines:
        times = (line.forward, line.record, line.products, line.decisions, line.rest)
        rows.append(
            f"| {line.network} | {line.batch} | "
            + " | ".join(f"{ms:.0f}" for ms in (*times, line.explanation, line.captum))
            + f" | {line.captum / line.explanation:.2f} | {line.limit:.2f} |"
        )
    return "\n".join(rows)


def main(argv: Sequence[str] | None = None) -> None:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", default=NETWORKS, help="names, separated by commas")
    parser.add_argument("--batch", type=int, default=1, help="images at once (default 1)")
    parser.add_argument("--rounds", type=int, default=9, help="measured rounds (default 9)")
    parser.add_argument("--threads", type=int, default=1, help="threads of PyTorch (default 1)")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    with contextlib.suppress(ImportError):
        import_torchvision()  # for Captum, on builds without its compiled operators
    lines = []
    for name in arguments.networks.split(","):
        model = load_model(name, weights="none").model.requires_grad_(False)
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(arguments.batch, 3, 224, 224, generator=generator)
        lines.append(shares(name, model, images, arguments.rounds))
        print(table(lines[-1:]).splitlines()[-1], flush=True)
    print(table(lines))
    if arguments.json:
        rows = [{**asdict(line), "limit": line.limit} for line in lines]
        result_table.write(arguments.json, conditions(torch.device("cpu")), rows)


if __name__ == "__main__":
    main()
