"""The boxes that a detector kept, and those that it dropped beside them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from guidxmage.errors import InputError

Format = Literal["xyxy", "cxcywh", "xywh"]
FORMATS: tuple[str, ...] = ("xyxy", "cxcywh", "xywh")
SIDES = ("left", "top", "right", "bottom")
MEASURES = (*SIDES, "width", "height", "center_x", "center_y")

# Of the four numbers of a box, row by row: left, top, right, bottom.
_TO_SIDES = {
    "xyxy": ((1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1)),
    "cxcywh": ((1, 0, -0.5, 0), (0, 1, 0, -0.5), (1, 0, 0.5, 0), (0, 1, 0, 0.5)),
    "xywh": ((1, 0, 0, 0), (0, 1, 0, 0), (1, 0, 1, 0), (0, 1, 0, 1)),
}
_OF_SIDES = {
    **{side: tuple(float(n == k) for k in range(4)) for n, side in enumerate(SIDES)},
    "width": (-1.0, 0.0, 1.0, 0.0),
    "height": (0.0, -1.0, 0.0, 1.0),
    "center_x": (0.5, 0.0, 0.5, 0.0),
    "center_y": (0.0, 0.5, 0.0, 0.5),
}


def measure_of(name: str, form: str, scale: tuple[float, float]) -> Tensor:
    """How a coordinate in pixels follows from the four numbers of a box, (4,) float64.

    scale: pixels of the input, across and down, for one unit of the network's own. Raises
    InputError for a name that is none.
    """
    if not isinstance(name, str) or name not in _OF_SIDES:
        raise InputError(f"a box has no {name!r}; choose one of {', '.join(MEASURES)}")
    sides = torch.tensor(_TO_SIDES[form], dtype=torch.float64)
    across, down = scale
    units = torch.tensor([across, down, across, down], dtype=torch.float64)
    return (torch.tensor(_OF_SIDES[name], dtype=torch.float64) * units) @ sides


def sides_of(boxes: Tensor, form: str, scale: tuple[float, float]) -> npt.NDArray[np.float64]:
    """Left, top, right, bottom in pixels, (N, 4) float64."""
    rows = torch.stack([measure_of(side, form, scale) for side in SIDES])
    found: npt.NDArray[np.float64] = (boxes.detach().double().cpu() @ rows.T).numpy()
    return found


@dataclass(frozen=True)
class Kept:
    """One box that was kept. anchor: its number among all; dropped: those it was kept for."""

    anchor: int
    class_: int
    score: float
    sides: tuple[float, float, float, float]
    dropped: tuple[int, ...]


def keep(
    sides: npt.NDArray[np.float64],
    scores: npt.NDArray[np.float64],
    *,
    threshold: float,
    overlap: float | None,
    most: int,
    background: int | None,
) -> list[Kept]:
    """The boxes above a score, the best first, without those that overlap a better one.

    sides (N, 4), scores (N, classes), a higher one being better. overlap: intersection over union
    above which the worse box of a class is dropped; None keeps all. background: a class that is no
    object. Ties go to the earlier anchor.
    """
    own = scores.copy()
    if background is not None:
        own[:, background] = -np.inf
    classes = own.argmax(1)
    best = own[np.arange(len(own)), classes]
    if background is not None:  # where the background is the better answer there is no object
        best = np.where(scores[:, background] > best, -np.inf, best)
    order = np.argsort(-best, kind="stable")
    left = order[best[order] > threshold]
    kept: list[Kept] = []
    while len(left) and len(kept) < most:
        first, others = int(left[0]), left[1:]
        worse = np.zeros(len(others), dtype=bool)
        if overlap is not None:
            worse = classes[others] == classes[first]
            worse[worse] = _overlap(sides[first], sides[others[worse]]) > overlap
        box = tuple(float(side) for side in sides[first])
        gone = tuple(others[worse].tolist())
        kept.append(Kept(first, int(classes[first]), float(best[first]), box, gone))  # type: ignore[arg-type]
        left = others[~worse]
    return kept


def _overlap(
    one: npt.NDArray[np.float64], others: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Intersection over union of a box with others (n, 4)."""
    left, top, right, bottom = others.T
    across = np.minimum(one[2], right) - np.maximum(one[0], left)
    down = np.minimum(one[3], bottom) - np.maximum(one[1], top)
    shared = np.maximum(across, 0) * np.maximum(down, 0)
    total = _area(*others.T) + _area(*one) - shared
    found: npt.NDArray[np.float64] = np.divide(
        shared, total, out=np.zeros_like(shared), where=total > 0
    )
    return found


def _area(left: Any, top: Any, right: Any, bottom: Any) -> Any:
    return np.maximum(right - left, 0) * np.maximum(bottom - top, 0)
