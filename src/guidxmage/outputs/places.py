"""Targets among dense classes: a pixel, the margin over an area."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from guidxmage.errors import InputError
from guidxmage.outputs.classes import class_name, class_number
from guidxmage.outputs.kinds import Output, Segmentation
from guidxmage.outputs.meaning import Area, Asked, Meaning, Seen, runs_of
from guidxmage.outputs.target import checked_dimensions, needs

RUNNER_UP = "runner-up"


@dataclass(frozen=True)
class Pixel:
    """The score of a class at one pixel (y, x) of the network's input, (z, y, x) of a volume.

    class_: by default the one that the network sees there. against: counted against this class, or
    against RUNNER_UP, the best of the others; None for the score alone.
    """

    y: int
    x: int
    class_: int | str | None = None
    against: int | str | None = None
    z: int | None = None

    def of(self, output: Output, seen: Seen) -> Asked:
        """See `Target`."""
        needs(output, Segmentation, self)
        values, seen = scores_at_places(seen)
        grid = tuple(values.shape[1:])
        place = self._place(grid, seen.size)
        chosen = _class_at(self.class_, values.movedim(0, -1)[place], seen)
        area = np.zeros(grid, bool)
        area[place] = True
        rivals = _rivals(values, area, chosen, self.against, seen)
        cotangent = _margin(values, area, chosen, rivals)
        name = f"{class_name(chosen, seen.labels)}{_rather(self.against, rivals, seen)} at "
        choice = {"kind": "pixel", "place": list(place), "class": chosen, **_told(rivals)}
        return seen.asked([cotangent], Meaning(f"{name}{self._words}", choice=choice))

    @property
    def _words(self) -> str:
        depth = "" if self.z is None else f"z = {self.z}, "
        return f"{depth}y = {self.y}, x = {self.x}"

    def _place(self, grid: tuple[int, ...], size: tuple[int, ...]) -> tuple[int, ...]:
        """Where on the output's grid it lies."""
        given = (self.y, self.x) if self.z is None else (self.z, self.y, self.x)
        inside = len(given) == len(size) and all(
            isinstance(n, int | np.integer) and not isinstance(n, bool) and 0 <= n < sides
            for n, sides in zip(given, size, strict=True)
        )
        if not inside:
            axes = " (a volume's pixel has y, x and z)" if len(given) != len(size) == 3 else ""
            raise InputError(
                f"there is no pixel {self._words}; the network's input is {_by(size)} pixels{axes}"
            )
        triples = zip(given, grid, size, strict=True)
        return tuple(int(n * cells // sides) for n, cells, sides in triples)


@dataclass(frozen=True, eq=False)
class Mask:
    """Σ over an area of what a class scores there beyond its rival.

    area: a mask (H, W), (D, H, W) of a volume, of the output's, the network input's or the photo's
    size; or a class, by name or number, for the pixels that the network gives to it; or
    "prediction" for those of `class_`. class_: by default the area's class, else the one that most
    of its pixels are given. against: another class, RUNNER_UP for the best other class at each
    pixel, None for none.
    """

    area: Any
    class_: int | str | None = None
    against: int | str | None = RUNNER_UP

    def of(self, output: Output, seen: Seen) -> Asked:
        """See `Target`."""
        needs(output, Segmentation, self)
        values, seen = scores_at_places(seen)
        answer = answers(values)
        area, chosen = self._area(values, answer, seen)
        if not area.any():
            raise InputError(self._empty(answer, chosen, area.shape, seen))
        rivals = _rivals(values, area, chosen, self.against, seen)
        cotangent = _margin(values, area, chosen, rivals)
        pixels = int(area.sum())
        where = f"over {pixels} place{'s' if pixels > 1 else ''} of {_by(area.shape)}"
        name = f"{class_name(chosen, seen.labels)}{_rather(self.against, rivals, seen)} {where}"
        choice = {
            "kind": "mask",
            "class": chosen,
            "size": list(area.shape),
            "area": runs_of(area),
            **_told(rivals),
        }
        return seen.asked([cotangent], Meaning(name, choice=choice))

    def _area(self, values: Tensor, answer: Tensor, seen: Seen) -> tuple[Area, int]:
        classes = max(len(values), 2 if len(values) == 1 else 0)
        if isinstance(self.area, str | int) and not isinstance(self.area, bool):
            given = self.class_ if self.area == "prediction" else self.area
            if given is None:
                raise InputError("the prediction of which class? give class_, or the class itself")
            number = class_number(given, classes, seen.labels)
            found = (answer == number).cpu().numpy()
            own = number if self.class_ is None else class_number(self.class_, classes, seen.labels)
            return found, own
        area = _fitted(self.area, tuple(values.shape[1:]), seen)
        if self.class_ is not None:
            return area, class_number(self.class_, classes, seen.labels)
        inside = answer[torch.from_numpy(area).to(answer.device)]
        return area, int(inside.mode().values) if area.any() else 0

    def _empty(self, answer: Tensor, chosen: int, grid: tuple[int, ...], seen: Seen) -> str:
        if not isinstance(self.area, str | int):
            places = f"the output's {_by(grid)} places"
            return f"the mask is empty: it covers the middle of none of {places}"
        there = [class_name(int(n), seen.labels) for n in answer.unique()]
        listed = ", ".join(there[:8]) + (" …" if len(there) > 8 else "")
        return (
            f"the mask is empty: no pixel is given to {class_name(chosen, seen.labels)}; the "
            f"network sees {listed}"
        )


def scores_at_places(seen: Seen) -> tuple[Tensor, Seen]:
    """A score of each class at each place, and what is seen with a name for each of the classes.

    A single class is there where its score is positive, so that its name is that of class 1.
    Raises InputError for outputs of another shape.
    """
    (values,) = seen.outputs
    axes = len(seen.size)
    words = "(batch, classes, height, width)" if axes == 2 else "(batch, classes, depth, …)"
    checked_dimensions(values, axes + 1, "a segmentation", words)
    if len(values) == 1 and seen.labels is not None and len(seen.labels) == 1:
        seen = replace(seen, labels=(f"no {seen.labels[0]}", seen.labels[0]))
    return values, seen


def _by(size: tuple[int, ...]) -> str:
    return "×".join(map(str, size))


def answers(values: Tensor) -> Tensor:
    """The class of each place, (h, w)."""
    return (values[0] > 0).long() if len(values) == 1 else values.argmax(0)


def _class_at(given: int | str | None, own: Tensor, seen: Seen) -> int:
    if given is not None:
        return class_number(given, max(len(own), 2 if len(own) == 1 else 0), seen.labels)
    return int(own[0] > 0) if len(own) == 1 else int(own.argmax())


def _fitted(given: Any, grid: tuple[int, ...], seen: Seen) -> Area:
    """A mask at the output's size: each place takes what lies in its middle."""
    try:
        array = np.asarray(given.cpu() if isinstance(given, Tensor) else given)
    except (ValueError, TypeError) as error:
        raise InputError(f"a mask of the size {_by(grid)} is no array: {error}") from error
    if array.ndim != len(grid) or array.dtype.kind not in "bui":
        raise InputError(
            f"a mask holds true or false for each pixel, of the size {_by(grid)}, not "
            f"{array.dtype} of shape {array.shape}"
        )
    area: Area = array.astype(bool)
    flat = len(grid) == 2
    if flat and area.shape not in (grid, seen.size) and seen.to_input is not None:
        area = seen.to_input(area)
    if area.shape == grid:
        return area
    if area.shape != seen.size:
        sizes = f"{_by(grid)} (the output) or {_by(seen.size)} (the input)"
        raise InputError(f"the mask is {_by(area.shape)}; give one of {sizes}")
    middles = [
        ((np.arange(n) + 0.5) * size / n).astype(int)
        for n, size in zip(grid, area.shape, strict=True)
    ]
    coarse: Area = area[np.ix_(*middles)]
    return coarse


def _rivals(
    values: Tensor, area: Area, chosen: int, against: int | str | None, seen: Seen
) -> Tensor | int | None:
    """The class that is subtracted at each place of the area, or everywhere."""
    if against is None or len(values) == 1:
        return None
    if against != RUNNER_UP:
        return class_number(against, len(values), seen.labels)
    others = values.clone()
    others[chosen] = -torch.inf
    return others.argmax(0)[torch.from_numpy(area).to(values.device)]


def _margin(values: Tensor, area: Area, chosen: int, rivals: Tensor | int | None) -> Tensor:
    cotangent = torch.zeros_like(values)
    inside = torch.from_numpy(area).to(values.device)
    if len(values) == 1:  # of a single score, the other answer is its negative
        cotangent[0][inside] = 1.0 if chosen == 1 else -1.0
        return cotangent
    cotangent[chosen][inside] += 1
    if isinstance(rivals, int):
        cotangent[rivals][inside] -= 1
    elif rivals is not None:
        at_places = cotangent.movedim(0, -1)[inside]
        at_places[torch.arange(len(rivals)), rivals] -= 1
        cotangent.movedim(0, -1)[inside] = at_places
    return cotangent


def _rather(against: int | str | None, rivals: Tensor | int | None, seen: Seen) -> str:
    if rivals is None:
        return ""
    if isinstance(rivals, int):
        return f" rather than {class_name(rivals, seen.labels)}"
    if against == RUNNER_UP and len(rivals) == 1:
        return f" rather than {class_name(int(rivals), seen.labels)}"
    return " rather than the runner-up"


def _told(rivals: Tensor | int | None) -> dict[str, Any]:
    if rivals is None:
        return {}
    if isinstance(rivals, int):
        return {"against": rivals}
    classes, counts = rivals.unique_consecutive(return_counts=True)
    return {"against": [list(pair) for pair in zip(classes.tolist(), counts.tolist(), strict=True)]}
