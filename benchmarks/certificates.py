"""What a certificate costs: processor seconds of one image and target, and of its parts."""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import result_table
import torch

from guidxmage import Explainer, Explanation
from guidxmage.proof import certificate
from guidxmage.proof.evidence import remade

PHOTO = Path(__file__).parent.parent / "examples" / "chelsea.png"
# What a certificate spends its time on, by where it is called.
PARTS = (
    ("capturing the network again", certificate, "capture"),
    ("modular identity", certificate.ModularNetwork, "identities"),
    ("float64 run", remade, "exact_run"),
    ("deviations", certificate.RoundingModel, "deviations"),
    ("ledger", certificate, "ledger"),
    ("doubts about the trail", certificate, "fidelity_of"),
)


@dataclass(frozen=True)
class Row:
    """Processor seconds, medians over the repeats: of an explanation, a certificate, its parts."""

    network: str
    explain: float
    certificate: float
    parts: dict[str, float]
    holds: bool


class Stopwatch:
    """Processor seconds spent within some functions."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}

    def around(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, timed."""

        def timed(*args: Any, **options: Any) -> Any:
            start = time.process_time()
            try:
                return function(*args, **options)
            finally:
                self.spent[name] = self.spent.get(name, 0.0) + time.process_time() - start

        return timed


def measure(network: str, repeats: int) -> Row:
    """Explain the photo and certify that, some times."""
    weights = "default" if network.startswith("efficientnet_lite") else "none"
    explainer = Explainer.load(network, weights=weights)
    explained = explainer.explain(PHOTO)  # the first one captures the network
    explanations, certificates, parts = [], [], []
    for _ in range(repeats):
        start = time.process_time()
        explained = explainer.explain(PHOTO)
        explanations.append(time.process_time() - start)
        seconds, own = certified(explained)
        certificates.append(seconds)
        parts.append(own)
    return Row(
        network=network,
        explain=median(explanations),
        certificate=median(certificates),
        parts={name: median(own.get(name, 0.0) for own in parts) for name, _, _ in PARTS},
        holds=explained.certificate()[0].holds,
    )


def certified(explained: Explanation) -> tuple[float, dict[str, float]]:
    """Processor seconds of a certificate, and of its parts."""
    watch = Stopwatch()
    kept = [(owner, attribute, getattr(owner, attribute)) for _, owner, attribute in PARTS]
    try:
        for name, owner, attribute in PARTS:
            setattr(owner, attribute, watch.around(name, getattr(owner, attribute)))
        start = time.process_time()
        explained.certificate()
        return time.process_time() - start, watch.spent
    finally:
        for owner, attribute, function in kept:
            setattr(owner, attribute, function)


def markdown(rows: Sequence[Row]) -> str:
    """The table of the README."""
    names = [name for name, _, _ in PARTS]
    lines = [
        f"| network | explanation | certificate | {' | '.join(names)} |",
        f"| --- | {' | '.join(['---:'] * (2 + len(names)))} |",
    ]
    for row in rows:
        cells = [row.explain, row.certificate, *(row.parts[name] for name in names)]
        lines.append(f"| {row.network} | {' | '.join(f'{cell:.2f}' for cell in cells)} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", default="efficientnet_lite0,resnet18")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    rows = []
    for network in arguments.networks.split(","):
        rows.append(measure(network, arguments.repeats))
        print(rows[-1], flush=True)
    print(markdown(rows))
    if arguments.json:
        conditions = {
            "threads": 1,
            "torch": str(torch.__version__),
            "machine": platform.machine(),
            "repeats": arguments.repeats,
        }
        result_table.write(arguments.json, conditions, map(asdict, rows))


if __name__ == "__main__":
    main()
