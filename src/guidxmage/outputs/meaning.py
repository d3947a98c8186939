"""What one explained number means, and the choices that were made to come to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from guidxmage.outputs.reading import Shapes, laid

Area = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Meaning:
    """What an explained number is.

    name: in words; unit: of the number, "" where it has none ("px", "years"). choice: what was
    chosen of all that the network gave out, as plain values for JSON, such as the anchor that was
    kept or the rival class of each pixel: a decision, like those of the trail. box: left, top,
    right, bottom in pixels of the network's input, where the number is about a box.
    """

    name: str
    unit: str = ""
    choice: Mapping[str, Any] = field(default_factory=dict)
    box: tuple[float, float, float, float] | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "name": self.name,
            "unit": self.unit,
            "choice": dict(self.choice),
            "box": None if self.box is None else list(self.box),
        }


@dataclass(frozen=True)
class Asked:
    """A target of one image: its cotangent (N,) over the outputs end to end, and what it means."""

    cotangent: Tensor
    meaning: Meaning


@dataclass(frozen=True)
class Seen:
    """The outputs of one image, of which something is asked.

    outputs: as the network gave them, without the batch; size: (height, width) of the network's
    input, (depth, height, width) of a volume; labels: class names; embed: the outputs of another
    image; to_input: a mask of the photo's own size as one of the network's input, None where the
    way is not known.
    """

    outputs: tuple[Tensor, ...]
    size: tuple[int, ...]
    labels: Sequence[str] | None = None
    embed: Callable[[Any], tuple[Tensor, ...]] | None = None
    to_input: Callable[[Area], Area] | None = None

    @property
    def shapes(self) -> Shapes:
        """Of the outputs."""
        return tuple(tuple(output.shape) for output in self.outputs)

    def nothing(self) -> tuple[Tensor, ...]:
        """A cotangent of zeros, to be filled in."""
        return tuple(output.new_zeros(output.shape) for output in self.outputs)

    def asked(self, cotangents: Sequence[Tensor], meaning: Meaning) -> Asked:
        """The target that these cotangents, one for each output, make."""
        return Asked(laid(cotangents), meaning)


def runs_of(area: Area) -> list[int]:
    """Run lengths of a mask (H, W), row by row, beginning with those that are not in it."""
    flat = np.concatenate([[False], area.ravel(), [False]])
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    bounds = np.concatenate([[0], edges, [area.size]])
    lengths: list[int] = np.diff(bounds).tolist()
    return lengths if lengths[-1] else lengths[:-1]


def area_of(runs: list[int], size: tuple[int, ...]) -> Area:
    """The inverse of `runs_of`."""
    flat = np.zeros(int(np.prod(size)), dtype=bool)
    end = 0
    for number, length in enumerate(runs):
        flat[end : end + length] = number % 2 == 1
        end += length
    return flat.reshape(size)
