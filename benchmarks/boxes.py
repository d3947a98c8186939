"""What the explanation of one box costs, beside D-RISE with 500 masks in the same run.

    python benchmarks/boxes.py [--size 256] [--masks 500] [--rounds 5] [--threads 1]
                               [--json benchmarks/results/boxes-cpu.jsonl]

The network is torchvision's RetinaNet with a ResNet-50 up to its raw head, random weights, float32.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from statistics import median

import result_table
import torch
from torch import Tensor, nn
from torch.nn import functional

from guidxmage import Explainer
from guidxmage.models import import_torchvision
from guidxmage.outputs import Box, Boxes, BoxSide

CLASSES = 91
SIDES = ("left", "top", "right", "bottom")


@dataclass(frozen=True)
class Row:
    """One way. passes: images that the network is run on.

    seconds: of the processor; ratio: seconds over those of one box.
    """

    method: str
    passes: int
    seconds: float
    ratio: float


class Raw(nn.Module):
    """A detector up to its head: offsets (B, N, 4) and logits (B, N, classes), nothing dropped."""

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        found: dict[str, Tensor] = self.head(list(self.backbone(x).values()))
        return found


def retinanet(size: int) -> tuple[nn.Module, Tensor]:
    """The network with random weights, and its anchors (N, 4) for squares of this size."""
    vision = import_torchvision()
    from torchvision.models.detection.image_list import ImageList

    torch.manual_seed(0)
    whole = vision.models.detection.retinanet_resnet50_fpn(weights=None, weights_backbone=None)
    network = Raw(whole.backbone, whole.head).eval().requires_grad_(False)
    image = torch.zeros(1, 3, size, size)
    maps = list(network.backbone(image).values())
    (anchors,) = whole.anchor_generator(ImageList(image, [(size, size)]), maps)
    return network, anchors


def decoded(offsets: Tensor, anchors: Tensor) -> Tensor:
    """Left, top, right, bottom (B, N, 4) from offsets of anchors (N, 4)."""
    sizes = anchors[:, 2:] - anchors[:, :2]
    middles = anchors[:, :2] + sizes / 2 + offsets[..., :2] * sizes
    halves = offsets[..., 2:].exp() * sizes / 2
    return torch.cat([middles - halves, middles + halves], -1)


def explainer_of(network: nn.Module, anchors: Tensor) -> Explainer:
    """Boxes of the raw head; with random weights every score is near the prior of 0.01."""
    output = Boxes(lambda o: decoded(o["bbox_regression"], anchors), "cls_logits", threshold=-99)
    return Explainer(network, output=output)


# --- D-RISE: Petsiuk et al., "Black-box explanation of object detectors via saliency maps" -------
# (CVPR 2021). Without the suppression of overlapping boxes, which saves it time.


def masks(
    count: int, size: int, generator: torch.Generator, *, cells: int = 16, kept: float = 0.5
) -> Iterator[Tensor]:
    """Random grids of cells, enlarged without edges and shifted, (1, size, size) each."""
    cell = -(-size // cells)
    large = (cells + 1) * cell
    for _ in range(count):
        grid = (torch.rand(1, 1, cells, cells, generator=generator) < kept).float()
        smooth = functional.interpolate(
            grid, size=(large, large), mode="bilinear", align_corners=False
        )
        top, left = torch.randint(0, cell, (2,), generator=generator).tolist()
        yield smooth[0, :, top : top + size, left : left + size]


def likeness(box: Tensor, odds: Tensor, boxes: Tensor, scores: Tensor) -> Tensor:
    """How like the best detection of each of B images is to a box (4,) of classes (C,), (B,).

    boxes (B, N, 4), scores (B, N, C): overlap times the cosine of the class scores, of the one
    detection where that is the largest.
    """
    low, high = torch.maximum(boxes[..., :2], box[:2]), torch.minimum(boxes[..., 2:], box[2:])
    shared = (high - low).clamp(min=0).prod(-1)
    areas = (boxes[..., 2:] - boxes[..., :2]).prod(-1) + (box[2:] - box[:2]).prod()
    overlap = shared / (areas - shared)
    best: Tensor = (overlap * functional.cosine_similarity(scores, odds, dim=-1)).amax(1)
    return best


@torch.no_grad()
def d_rise(network: nn.Module, anchors: Tensor, image: Tensor, anchor: int, count: int) -> Tensor:
    """The saliency map (H, W) of the box of an anchor, from so many masks, ten at a time."""

    def detections(images: Tensor) -> tuple[Tensor, Tensor]:
        raw = network(images)
        return decoded(raw["bbox_regression"], anchors), raw["cls_logits"].sigmoid()

    boxes, scores = detections(image[None])
    generator = torch.Generator().manual_seed(0)
    every = masks(count, image.shape[-1], generator)
    total = torch.zeros(image.shape[-2:])
    while some := list(islice(every, 10)):
        kept = torch.stack(some)
        found = detections(image * kept)
        weights = likeness(boxes[0, anchor], scores[0, anchor], *found)
        total += (weights[:, None, None] * kept[:, 0]).sum(0)
    return total


# --- the table ---------------------------------------------------------------------------------


def seconds(runs: Sequence[Callable[[], object]], rounds: int) -> list[float]:
    """Of the processor, the median of each over the rounds, in which all take turns."""
    taken: list[list[float]] = [[] for _ in runs]
    for _ in range(rounds):
        for run, own in zip(runs, taken, strict=True):
            start = time.process_time()
            run()
            own.append(time.process_time() - start)
    return [median(own) for own in taken]


def measured(size: int, count: int, rounds: int) -> list[Row]:
    """All rows; the first explanation, which captures the network, is a row of its own."""
    network, anchors = retinanet(size)
    image = torch.rand(3, size, size, generator=torch.Generator().manual_seed(1))
    explainer = explainer_of(network, anchors)
    (first,) = seconds([lambda: explainer.explain(image, Box(0))], 1)
    anchor = int(explainer.explain(image, Box(0)).meaning.choice["anchor"])  # type: ignore[union-attr]
    sides = [BoxSide(0, side) for side in SIDES]

    @torch.no_grad()
    def alone() -> object:
        return network(image[None])

    repeated: dict[str, Callable[[], object]] = {
        "the network alone": alone,
        "one box, ours": lambda: explainer.explain(image, Box(0)),
        "its left side, ours": lambda: explainer.explain(image, sides[0]),
        "the box and its four sides, ours": lambda: explainer.explain(
            image, ("targets", [Box(0), *sides])
        ),
    }
    taken = dict(zip(repeated, seconds(list(repeated.values()), rounds), strict=True))
    one = taken["one box, ours"]
    taken["one box, ours, the first time"] = first
    rows = [Row(name, 1, own, own / one) for name, own in taken.items()]
    (theirs,) = seconds([lambda: d_rise(network, anchors, image, anchor, count)], 1)
    return [*rows, Row(f"one box, D-RISE, {count} masks", count + 1, theirs, theirs / one)]


def markdown(rows: Sequence[Row]) -> str:
    """The table of the pages."""
    lines = ["| | images run | seconds | × one box |", "| --- | ---: | ---: | ---: |"]
    lines += [f"| {r.method} | {r.passes} | {r.seconds:.2f} | {r.ratio:.1f} |" for r in rows]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--masks", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    rows = measured(arguments.size, arguments.masks, arguments.rounds)
    print(markdown(rows))
    if arguments.json:
        conditions = {
            "threads": torch.get_num_threads(),
            "torch": str(torch.__version__),
            "machine": platform.machine(),
            "size": arguments.size,
            "rounds": arguments.rounds,
        }
        result_table.write(arguments.json, conditions, map(asdict, rows))


if __name__ == "__main__":
    main()
