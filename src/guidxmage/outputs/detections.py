"""Targets among the boxes that a detector kept: their scores, and where their sides are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from guidxmage.errors import InputError
from guidxmage.outputs.boxes import Kept, keep, measure_of, sides_of
from guidxmage.outputs.classes import class_name, class_number
from guidxmage.outputs.kinds import Boxes, Output
from guidxmage.outputs.meaning import Asked, Meaning, Seen
from guidxmage.outputs.target import needs


@dataclass(frozen=True)
class Box:
    """The class score of a box that was kept, the best being number 0.

    class_: another class than its own. rather_than: the score of another kept box is subtracted,
    of its own class or of class_ where that is given; or, with "suppressed", that of the best box
    which was dropped for it.
    """

    number: int = 0
    class_: int | str | None = None
    rather_than: int | Literal["suppressed"] | None = None

    def of(self, output: Output, seen: Seen) -> Asked:
        """See `Target`."""
        boxes, scores, kept = _kept(output, seen, self)
        one = _numbered(kept, self.number, seen)
        class_ = one.class_
        if self.class_ is not None:
            class_ = class_number(self.class_, scores.shape[1], seen.labels)
        on_boxes, on_scores = torch.zeros_like(boxes), torch.zeros_like(scores)
        on_scores[one.anchor, class_] += 1
        name = f"box {self.number}: {class_name(class_, seen.labels)}"
        choice = {"kind": "box", "anchor": one.anchor, "class": class_}
        if self.rather_than is not None:
            rival, other, words = self._rival(one, class_, kept, seen)
            on_scores[rival, other] -= 1
            name, choice = f"{name} rather than {words}", {**choice, "rather_than": rival}
            if other != class_:
                choice["rather_than_class"] = other
        return seen.asked([on_boxes, on_scores], Meaning(name, "", choice, one.sides))

    def _rival(self, one: Kept, class_: int, kept: list[Kept], seen: Seen) -> tuple[int, int, str]:
        """The anchor and the class whose score is subtracted, and what it is called."""
        if self.rather_than == "suppressed":
            if not one.dropped:
                raise InputError(f"no box was dropped for box {self.number}; {_there(kept, seen)}")
            return one.dropped[0], class_, "the best box dropped for it"
        other = _numbered(kept, self.rather_than, seen)
        own = other.class_ if self.class_ is None else class_
        words = f"box {self.rather_than}"
        if own != class_:
            words += f": {class_name(own, seen.labels)}"
        return other.anchor, own, words


@dataclass(frozen=True)
class BoxSide:
    """A coordinate of a box that was kept, in pixels of the network's input.

    side: "left", "top", "right", "bottom", "width", "height", "center_x" or "center_y".
    """

    number: int = 0
    side: str = "left"

    def of(self, output: Output, seen: Seen) -> Asked:
        """See `Target`."""
        boxes, scores, kept = _kept(output, seen, self)
        assert isinstance(output, Boxes)
        one = _numbered(kept, self.number, seen)
        on_boxes = torch.zeros_like(boxes)
        on_boxes[one.anchor] = measure_of(self.side, output.form, _scale(output, seen)).to(boxes)
        name = f"box {self.number} ({class_name(one.class_, seen.labels)}): {self.side}"
        choice = {"kind": "box side", "anchor": one.anchor, "side": self.side}
        return seen.asked(
            [on_boxes, torch.zeros_like(scores)], Meaning(name, "px", choice, one.sides)
        )


def _kept(output: Output, seen: Seen, target: object) -> tuple[Tensor, Tensor, list[Kept]]:
    needs(output, Boxes, target)
    assert isinstance(output, Boxes)
    boxes, scores = seen.outputs
    fit = boxes.ndim == scores.ndim == 2 and len(boxes) == len(scores)
    if not fit or boxes.shape[1] != 4 or not scores.shape[1]:
        raise InputError(
            "boxes are (batch, N, 4) beside scores (batch, N, classes), but the outputs picked are "
            f"(batch, {', '.join(map(str, boxes.shape))}) and (batch, "
            f"{', '.join(map(str, scores.shape))}); a function for `boxes` or `scores` can turn "
            "them into these"
        )
    classes = scores.shape[1]
    background = output.background
    if background is not None:
        if not -classes <= background < classes or classes == 1:
            raise InputError(
                f"background is {background}, but of {classes} class{'es' * (classes > 1)} "
                + ("none would be left" if classes == 1 else f"give 0 to {classes - 1}")
            )
        background %= classes
    kept = keep(
        sides_of(boxes, output.form, _scale(output, seen)),
        scores.detach().double().cpu().numpy(),
        threshold=output.threshold,
        overlap=output.overlap,
        most=output.most,
        background=background,
    )
    return boxes, scores, kept


def kept_boxes(output: Boxes, seen: Seen) -> list[Kept]:
    """The boxes that an image keeps, the best first."""
    return _kept(output, seen, Box())[2]


def _scale(output: Boxes, seen: Seen) -> tuple[float, float]:
    height, width = seen.size[-2:]
    return (1.0, 1.0) if output.unit == "pixels" else (float(width), float(height))


def _numbered(kept: list[Kept], number: Any, seen: Seen) -> Kept:
    whole = isinstance(number, int | np.integer) and not isinstance(number, bool)
    if not whole or not 0 <= number < len(kept):
        raise InputError(f"there is no box {number!r}; {_there(kept, seen)}")
    return kept[int(number)]


def _there(kept: list[Kept], seen: Seen) -> str:
    if not kept:
        return "no box scores above the threshold"
    named = [f"{n} ({class_name(one.class_, seen.labels)})" for n, one in enumerate(kept[:8])]
    more = f" and {len(kept) - 8} more" if len(kept) > 8 else ""
    return f"kept are {', '.join(named)}{more}"
