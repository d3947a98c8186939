"""Sufficient pixels: how many are proved irrelevant or shown to be needed, and in what time.

    python benchmarks/sufficient.py [--subjects digits-80,…] [--images N] [--seconds S]
                                    [--json FILE] [--table]

Digits are scikit-learn's (8 × 8), with networks trained here as benchmarks/certify.py trains them;
the others are those of benchmarks/nets. Every set that is claimed is tried by random changes of its
free pixels, inside of the box and on its corners.
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import certify
import numpy as np
import result_table
import torch
import train_garments
import train_small
from torch import Tensor, nn

from guidxmage import Explainer
from guidxmage.adversarial import SufficientPixels, sufficient

NETS = Path(__file__).parent / "nets"
RESULTS = Path(__file__).parent / "results" / "sufficient-cpu.jsonl"
TRIALS = 1000

Made = tuple[nn.Module, Tensor]


@dataclass(frozen=True)
class Subject:
    """A network with images that it classifies correctly, a radius, and the time for each image."""

    make: Callable[[], Made]
    radius: str
    images: int
    seconds: float

    @property
    def epsilon(self) -> float:
        """The radius as a number."""
        over, _, under = self.radius.partition("/")
        return float(over) / float(under or 1)


@dataclass(frozen=True)
class Row:
    """One network. Shares of the pixels and `size`, pixels, are medians over the images.

    decided: share of images of which every pixel was decided. seconds, slowest: median and largest
    for an image. trials: random changes of free pixels; changed: those that changed the answer.
    """

    name: str
    relus: int
    pixels: int
    radius: str
    images: int
    decided: float
    irrelevant: float
    needed: float
    unknown: float
    least_irrelevant: float
    size: float
    seconds: float
    slowest: float
    limit: float
    trials: int
    changed: int


def digits(number: int) -> Made:
    """The network of one of the sizes of benchmarks/certify.py, and test digits."""
    X, y = certify.digits()
    first = certify.TRAINED
    network = certify.trained(certify.SIZES[number], X[:first], y[:first])
    right = network(X[first:]).argmax(1) == y[first:]
    return network, X[first:][right]


def fashion(name: str) -> Made:
    """A network of benchmarks/nets and garments in grey."""
    network = train_small.architecture(name)
    return _stored(network, name, "images.npz", lambda images: images[:, None])


def garments() -> Made:
    """The network for colour images, and garments before photographs."""
    network = train_garments.architecture()
    return _stored(network, "garments", "images3.npz", lambda images: images)


def _stored(network: nn.Module, name: str, images: str, shaped: Callable[[Tensor], Tensor]) -> Made:
    from safetensors.torch import load_file

    network.load_state_dict(load_file(NETS / f"{name}.safetensors"))
    network.eval().requires_grad_(False)
    with np.load(NETS / images) as stored:
        X = shaped(torch.from_numpy(stored["images"]).double() / 255)
        y = torch.from_numpy(stored["labels"]).long()
    return network, X[network(X.float()).argmax(1) == y]


SUBJECTS = {
    "digits-80": Subject(lambda: digits(1), "0.1", 20, 60),
    "digits-544": Subject(lambda: digits(2), "0.1", 10, 60),
    "digits-1088": Subject(lambda: digits(3), "0.1", 10, 60),
    "small": Subject(lambda: fashion("small"), "8/255", 10, 60),
    "small-far": Subject(lambda: fashion("small"), "32/255", 5, 60),
    "small_plain": Subject(lambda: fashion("small_plain"), "4/255", 10, 60),
    "small_plain-far": Subject(lambda: fashion("small_plain"), "12/255", 5, 60),
    "robust": Subject(lambda: fashion("robust"), "16/255", 2, 60),
    "garments": Subject(garments, "2/255", 4, 120),
}


def measure(name: str, subject: Subject) -> Row:
    """Find the sufficient pixels of every image, and try the sets."""
    network, X = subject.make()
    explainer = Explainer(network, dtype=torch.float64)
    X = X[: subject.images].double()
    found, changed = [], 0
    for image in X:
        one = sufficient(explainer, image, subject.epsilon, seconds=subject.seconds)
        changed += tried(explainer, one)
        found.append(one)
        counts = {word: one.verdicts.count(word) for word in ("needed", "irrelevant", "unknown")}
        print(f"{name}: {counts} in {one.seconds:.1f} s", flush=True)
    pixels = found[0].parts.numel()
    shares = {
        word: [int(getattr(one, word).sum()) / pixels for one in found]
        for word in ("irrelevant", "needed", "unknown")
    }
    return Row(
        name=name,
        relus=max(one.relus for one in found),
        pixels=pixels,
        radius=subject.radius,
        images=len(found),
        decided=sum(one.minimal for one in found) / len(found),
        **{word: median(values) for word, values in shares.items()},
        least_irrelevant=min(shares["irrelevant"]),
        size=median(one.size for one in found),
        seconds=median(one.seconds for one in found),
        slowest=max(one.seconds for one in found),
        limit=subject.seconds,
        trials=TRIALS * len(found),
        changed=changed,
    )


def tried(explainer: Explainer, found: SufficientPixels) -> int:
    """How many of 1,000 random changes of the free pixels change the answer: none, if it is right.

    Half of them lie anywhere in the box, half at its corners.
    """
    generator = torch.Generator().manual_seed(0)
    count = 0
    for part in range(0, TRIALS, 100):
        noise = torch.rand(100, *found.image.shape, generator=generator, dtype=torch.float64)
        noise = noise * 2 - 1
        noise = noise.sign() if part % 200 else noise
        Z = (found.image + noise * found.epsilon * found.irrelevant).clamp(0, 1)
        count += int((explainer.logits(Z).argmax(1) != found.from_class).sum())
    return count


def markdown(rows: Sequence[Row]) -> str:
    """The table of the page."""
    lines = [
        "| network | ReLUs | pixels | ε | images | all decided | irrelevant | at least | needed | "
        "unknown | pixels that suffice | seconds | slowest |",
        f"| --- |{' ---: |' * 12}",
    ]
    for row in rows:
        shares = (row.irrelevant, row.least_irrelevant, row.needed, row.unknown)
        told = " | ".join(f"{share:.0%}" for share in shares)
        lines.append(
            f"| {row.name} | {row.relus:,} | {row.pixels:,} | {row.radius} | {row.images} | "
            f"{row.decided:.0%} | {told} | {row.size:g} | {row.seconds:.1f} | {row.slowest:.1f} |"
        )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--subjects", default=",".join(SUBJECTS), help="separated by commas")
    parser.add_argument("--images", type=int, help="of each network, at most")
    parser.add_argument("--seconds", type=float, help="for each image, instead of its own limit")
    parser.add_argument("--json", type=Path, help="rows of other networks in it are kept")
    parser.add_argument("--table", action="store_true", help="of what was measured; run nothing")
    arguments = parser.parse_args(argv)
    file = arguments.json or RESULTS
    stored = {row["name"]: Row(**row) for row in result_table.read(file)[1]}
    if arguments.table:
        print(markdown(list(stored.values())))
        return
    for name in arguments.subjects.split(","):
        own = SUBJECTS[name]
        images = min(own.images, arguments.images or own.images)
        subject = Subject(own.make, own.radius, images, arguments.seconds or own.seconds)
        stored[name] = measure(name, subject)
        if arguments.json:
            conditions = {
                "threads": torch.get_num_threads(),
                "torch": str(torch.__version__),
                "machine": platform.machine(),
            }
            ordered = [stored[one] for one in SUBJECTS if one in stored]
            result_table.write(arguments.json, conditions, map(asdict, ordered))
    print(markdown([stored[name] for name in SUBJECTS if name in stored]))


if __name__ == "__main__":
    main()
