"""The trails of several images compared: which share which decisions, and where two part ways."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch import Tensor

from guidxmage.engine.trail.pairwise import PairwiseDistances
from guidxmage.engine.trail.trail import Trail
from guidxmage.errors import InputError
from guidxmage.explainer import Explainer
from guidxmage.inputs.input_space import displayable
from guidxmage.reports.short_repr import short_repr

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCHEMA = "guid-xmage/trails/1"
MOST = 200
"""Images compared at once: beyond, pairs take minutes and nobody reads the matrix."""
MAPS = 5
"""Layers of which a picture shows where two images part: the first of each size."""


STAGES = ("first third of the layers", "middle third", "last third")


@dataclass(frozen=True)
class Parting:
    """Where images number a and b part ways.

    differing: decisions that do; first: the first of them in order of execution, None where there
    is none; maps: call site → at each position (H, W) the share of its channels' decisions that
    differ, for the first layer of each size.
    """

    a: int
    b: int
    differing: int
    first: str | None
    maps: dict[str, npt.NDArray[np.float64]]


@dataclass(frozen=True, eq=False)
class TrailComparison:
    """The trails of n images of one network, compared two by two.

    names of the images; trail: all of them, one row each; pictures: what the network saw, None
    where it cannot be shown; classes: the best class of each.
    """

    names: tuple[str, ...]
    trail: Trail
    pictures: tuple[Image.Image | None, ...]
    classes: tuple[str, ...]
    model_name: str

    __repr__ = short_repr

    @cached_property
    def pairs(self) -> PairwiseDistances:
        """The distances of all pairs, layer by layer."""
        return self.trail.pairs()

    def parting(self, a: int, b: int) -> Parting:
        """Where two of the images, by number, part ways."""
        one, other = self.trail.image(a), self.trail.image(b)
        (first,) = one.first_difference(other)
        sizes: dict[tuple[int, ...], str] = {}
        for site, entry in one.items():
            if len(entry.shape) == 3 and min(entry.shape[1:]) > 1:
                sizes.setdefault(entry.shape[1:], site)
        maps = {
            site: one[site].differs(other[site])[0].double().mean(0).cpu().numpy()
            for site in list(sizes.values())[:MAPS]
        }
        differing = int(self.pairs.total[a, b])
        return Parting(a, b, differing, None if first is None else str(first), maps)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the trail and the pictures as plain values, ready for JSON."""
        return {
            "schema": SCHEMA,
            "model": self.model_name,
            "images": [
                {"name": name, "class": best}
                for name, best in zip(self.names, self.classes, strict=True)
            ],
            "trail": dict(self.trail.header),
            **self.pairs.to_dict(),
            **{
                word: self._about(*pair)
                for word, pair in zip(("nearest", "farthest"), self.pairs.extremes(), strict=True)
            },
        }

    def _about(self, a: int, b: int) -> dict[str, Any]:
        found = self.parting(a, b)
        names = [self.names[a], self.names[b]]
        return {"images": names, "differing": found.differing, "first": found.first}

    def to_json(self) -> str:
        """`to_dict` as JSON text."""
        return json.dumps(self.to_dict(), indent=1, ensure_ascii=False, allow_nan=False)

    def figure(self) -> Figure:
        """How far the images are apart, layer by layer, and where the extreme pairs part.

        Of two images these alone; of more the matrix of all pairs, then the nearest and the
        farthest two.
        """
        from guidxmage.view.trails import Apart, Crowd, draw_trails

        near, far = self.pairs.extremes()
        shown = [near] if near == far else [near, far]
        words = ("",) if near == far else ("nearest: ", "farthest: ")
        total = max(1, self.pairs.count)
        aparts = []
        for word, (a, b) in zip(words, shown, strict=True):
            found = self.parting(a, b)
            aparts.append(
                Apart(
                    heading=f"{word}{self.names[a]} and {self.names[b]}",
                    line=_line(found, total),
                    names=(self._caption(a), self._caption(b)),
                    images=(self._pixels(a), self._pixels(b)),
                    maps=found.maps,
                )
            )
        rows, columns = np.triu_indices(len(self.names), 1)
        layers = self.pairs.by_layer
        crowd = Crowd(
            title=f"{self.model_name}: the trails of {len(self.names)} images",
            names=self.names,
            images=tuple(map(self._pixels, range(len(self.names)))),
            matrix=self.pairs.share,
            stages=self._stages(),
            layers=tuple(layers),
            apart=np.stack(
                [
                    n[rows, columns] / max(1, self.pairs.decisions[site])
                    for site, n in layers.items()
                ]
            ),
            varying=np.array(
                [
                    1 - self.pairs.shared[site] / max(1, self.pairs.decisions[site])
                    for site in layers
                ]
            ),
        )
        return draw_trails(crowd, aparts)

    def _caption(self, number: int) -> str:
        return f"{self.names[number]}\n{self.classes[number]}"

    def _stages(self) -> dict[str, npt.NDArray[np.float64]]:
        """The shares (n, n) of the first, the middle and the last third of the layers."""
        sites = list(self.pairs.by_layer)
        if len(sites) < len(STAGES):
            return {}
        cuts = [len(sites) * part // len(STAGES) for part in range(len(STAGES) + 1)]
        found: dict[str, npt.NDArray[np.float64]] = {}
        for words, low, high in zip(STAGES, cuts, cuts[1:], strict=False):
            own = sites[low:high]
            count = sum(self.pairs.decisions[site] for site in own)
            apart = np.sum([self.pairs.by_layer[site] for site in own], axis=0)
            found[words] = apart / max(1, count)
        return found

    def _pixels(self, number: int) -> npt.NDArray[np.uint8] | None:
        picture = self.pictures[number]
        return None if picture is None else np.asarray(picture.convert("RGB"))


def _line(found: Parting, count: int) -> str:
    share = f"{found.differing:,} of {count:,} decisions differ ({found.differing / count:.2%})"
    return f"{share}; the first is {found.first}" if found.first else "the same trail"


def compare_trails(
    explainer: Explainer, images: Sequence[Any], names: Sequence[str]
) -> TrailComparison:
    """Record the trails of single images and compare them two by two.

    images: each as `Explainer.explain` takes it; names: one for each. Raises InputError for fewer
    than two images or more than `MOST`, for images that come out at different sizes, and for a
    network that takes no decisions.
    """
    if not 2 <= len(images) <= MOST:
        raise InputError(f"2 to {MOST} images are compared, not {len(images)}")
    read = [explainer.read(image) for image in images]
    _check_sizes(read, names)
    trails = [explainer.trail(X) for X in read]
    if not trails[0].count:
        raise InputError(
            f"{explainer.name} takes no decisions: its operators are smooth, and trails of numbers "
            "are not compared"
        )
    bests = [int(explainer.logits(X).argmax()) for X in read]
    labels = explainer.labels
    return TrailComparison(
        names=tuple(names),
        trail=Trail.concatenate([trail.to("cpu") for trail in trails]),
        pictures=tuple(displayable(X) for X in read),
        classes=tuple(labels[n] if labels and n < len(labels) else f"class {n}" for n in bests),
        model_name=explainer.name,
    )


def _check_sizes(read: Sequence[Tensor], names: Sequence[str]) -> None:
    for X, name in zip(read, names, strict=True):
        if X.shape != read[0].shape:
            sizes = ["×".join(map(str, one.shape)) for one in (read[0], X)]
            raise InputError(
                f"{names[0]} comes out at {sizes[0]} and {name} at {sizes[1]}; trails are compared "
                "at one size: give a preprocessing that resizes"
            )
