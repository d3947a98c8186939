"""Whether memory grows over many explanations, and how large an execution trail is.

python benchmarks/memory.py [--explanations 200] [--json FILE]

Explains different photos, of different sizes, one after the other with the bundled network, and
prints the process's memory. Exits with 1 when it still grows after the first photos.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from guidxmage import Explainer, load_model

MIB = 2**20
EVERY = 20
# What allocators and the operating system move about by themselves.
ALLOWED_GROWTH_MIB = 16.0


@dataclass(frozen=True)
class Reading:
    """Resident memory after a number of explanations, now and at its highest so far, in MiB."""

    explanations: int
    resident_mib: float
    peak_mib: float


@dataclass(frozen=True)
class TrailSize:
    """The execution trail of one image."""

    network: str
    decisions: int
    bytes: int


def photos(count: int, seed: int = 0) -> Iterable[Image.Image]:
    """Different random photos of different sizes, in colour."""
    generator = np.random.default_rng(seed)
    for _ in range(count):
        height, width = generator.integers(240, 640, 2)
        coarse = generator.integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8)
        yield Image.fromarray(coarse).resize((int(width), int(height)), Image.Resampling.BICUBIC)


def watch(steps: Iterable[None], every: int = EVERY) -> list[Reading]:
    """Memory after every few steps; nothing is collected by hand, as in a user's own loop."""
    readings = []
    for done, _ in enumerate(steps, start=1):
        if done % every == 0:
            readings.append(Reading(done, resident_mib(), peak_mib()))
            reading = readings[-1]
            print(
                f"{done:5d} explanations   resident {reading.resident_mib:7.1f} MiB   "
                f"peak {reading.peak_mib:7.1f} MiB",
                flush=True,
            )
    return readings


def growth_mib(readings: Sequence[Reading], value: Callable[[Reading], float]) -> float:
    """From the first reading to the last."""
    return value(readings[-1]) - value(readings[0])


def resident_mib() -> float:
    """Resident memory now; where the system does not tell (no /proc), the peak."""
    statm = Path("/proc/self/statm")
    if not statm.is_file():
        return peak_mib()
    import resource

    return int(statm.read_text().split()[1]) * resource.getpagesize() / MIB


def peak_mib() -> float:
    """The highest resident memory so far."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / MIB if sys.platform == "darwin" else peak / 1024


def trail_size(name: str) -> TrailSize:
    """Of a network with random weights on one image of 224 × 224."""
    model = load_model(name, weights="none").model
    image = torch.randn(3, 224, 224, generator=torch.Generator().manual_seed(0))
    trail = Explainer(model).trail(image)
    return TrailSize(name, trail.count, trail.nbytes)


def main(argv: Sequence[str] | None = None) -> int:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--explanations", type=int, default=200, help="how many (default 200)")
    parser.add_argument("--trails", default="resnet50,vgg16", help="networks, by commas")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    arguments = parser.parse_args(argv)
    if arguments.explanations < 2 * EVERY:
        parser.error(f"--explanations must be at least {2 * EVERY}")
    explainer = Explainer.load()

    def explanations() -> Iterable[None]:
        for photo in photos(arguments.explanations):
            explainer.explain(photo)
            yield

    readings = watch(explanations())
    resident = growth_mib(readings, lambda reading: reading.resident_mib)
    peak = growth_mib(readings, lambda reading: reading.peak_mib)
    print(f"growth after the first {EVERY}: resident {resident:+.1f} MiB, peak {peak:+.1f} MiB\n")
    sizes = [trail_size(name) for name in arguments.trails.split(",")]
    for size in sizes:
        print(f"{size.network}: {size.decisions:,} decisions in {size.bytes:,} bytes an image")
    if arguments.json:
        written = {
            "readings": [asdict(reading) for reading in readings],
            "growth_mib": {"resident": resident, "peak": peak},
            "trails": [asdict(size) for size in sizes],
        }
        arguments.json.write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")
    return int(peak > ALLOWED_GROWTH_MIB)


if __name__ == "__main__":
    sys.exit(main())
