"""How far the certified minimum reaches: share of images closed, by network size and norm.

Networks are trained here on scikit-learn's handwritten digits (8 × 8 pixels, in the package).
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import result_table
import torch
from torch import Tensor, nn

from guidxmage import Explainer
from guidxmage.adversarial import attack, certify

TRAINED = 1400
# Channels and stride of the convolution, units of the hidden layer.
SIZES = ((1, 2, 10), (4, 2, 16), (8, 1, 32), (16, 1, 64))
NORMS = ("l2", "linf")


@dataclass(frozen=True)
class Row:
    """One network and norm. `closed`: share proved; `lower`: mean lower / upper bound of the rest.

    `gap`: of `attack` with `budget` gradients, mean of size / certified minimum − 1 over the closed
    ones; `equal`: share of them where it is below 10⁻⁴. seconds: median for an image.
    """

    relus: int
    accuracy: float
    norm: str
    images: int
    closed: float
    lower: float | None
    branches: int
    seconds: float
    budget: int
    gap: float
    equal: float


def digits() -> tuple[Tensor, Tensor]:
    """All images (1797, 1, 8, 8) in [0, 1] and their labels."""
    from sklearn.datasets import load_digits

    stored = load_digits()
    return torch.tensor(stored.images[:, None] / 16).float(), torch.tensor(stored.target)


def trained(size: tuple[int, int, int], images: Tensor, labels: Tensor) -> nn.Module:
    """A convolution and two linear layers, trained for 60 epochs."""
    channels, stride, units = size
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, channels, 3, stride=stride, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(channels * (8 // stride) ** 2, units),
        nn.ReLU(),
        nn.Linear(units, 10),
    )
    optimizer = torch.optim.Adam(network.parameters(), 3e-3, weight_decay=1e-4)
    for _ in range(60):
        for batch in torch.randperm(len(images)).split(100):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(images[batch]), labels[batch]).backward()
            optimizer.step()
    return network.eval().requires_grad_(False)


def measure(network: nn.Module, X: Tensor, norm: str, seconds: float, budget: int) -> Row:
    """Certify every image and attack them all."""
    explainer = Explainer(network, dtype=torch.float64)
    made, times = [], []
    for image in X.double():
        start = time.perf_counter()
        made.append(certify(explainer, image, norm=norm, seconds=seconds))
        times.append(time.perf_counter() - start)
    found = attack(explainer, X.double(), norm=norm, budget=budget).norm.tolist()
    closed = [one for one in made if one.proved]
    rest = [one.lower_bound / one.upper_bound for one in made if not one.proved]
    gaps = [size / one.size - 1 for size, one in zip(found, made, strict=True) if one.proved]
    return Row(
        relus=made[0].relus,
        accuracy=0.0,
        norm=norm,
        images=len(made),
        closed=len(closed) / len(made),
        lower=sum(rest) / len(rest) if rest else None,
        branches=int(median(one.nodes for one in made)),
        seconds=median(times),
        budget=budget,
        gap=sum(gaps) / len(gaps),
        equal=sum(gap < 1e-4 for gap in gaps) / len(gaps),
    )


def markdown(rows: Sequence[Row]) -> str:
    """The table of the README."""
    lines = [
        "| ReLUs | accuracy | norm | closed | lower/upper of the rest | branches | seconds | "
        "attack: equal | attack: gap |",
        "| ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        gap = round(row.gap, 4) + 0.0  # no minus before zero
        lower = "" if row.lower is None else f"{row.lower:.2f}"
        lines.append(
            f"| {row.relus} | {row.accuracy:.1%} | {row.norm} | {row.closed:.0%} | {lower} | "
            f"{row.branches} | {row.seconds:.2f} | {row.equal:.0%} | {gap:.2%} |"
        )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=20, help="for each image")
    parser.add_argument("--budget", type=int, default=100, help="gradients of the attack")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args(argv)
    X, y = digits()
    rows = []
    for size in SIZES:
        network = trained(size, X[:TRAINED], y[:TRAINED])
        with torch.no_grad():
            right = network(X[TRAINED:]).argmax(1) == y[TRAINED:]
        chosen = X[TRAINED:][right][: arguments.images]
        for norm in NORMS:
            row = measure(network, chosen, norm, arguments.seconds, arguments.budget)
            rows.append(Row(**{**asdict(row), "accuracy": float(right.float().mean())}))
            print(rows[-1], flush=True)
    print(markdown(rows))
    if arguments.json:
        conditions = {
            "threads": torch.get_num_threads(),
            "torch": str(torch.__version__),
            "machine": platform.machine(),
            "seconds": arguments.seconds,
        }
        result_table.write(arguments.json, conditions, map(asdict, rows))


if __name__ == "__main__":
    main()
