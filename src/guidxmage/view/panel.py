"""What one row of a figure shows, and how its numbers are worded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import floor, isfinite, log10
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from guidxmage.errors import InputError
from guidxmage.reports.short_repr import short_repr
from guidxmage.view.colors import FloatMap, pixel_contributions
from guidxmage.view.maps import check_labels, check_size
from guidxmage.view.placed import PERCENT, PlacedMap

if TYPE_CHECKING:
    from PIL import Image


class ObjectRow(Protocol):
    """One object of an image: how many pixels it has and what they add to the score."""

    @property
    def name(self) -> str:
        """What the bar is called."""

    @property
    def label(self) -> int:
        """Its number in the panel's `labels`."""

    @property
    def pixels(self) -> int:
        """How many pixels it has."""

    @property
    def sum(self) -> float:
        """What they add to the score."""

    @property
    def whole(self) -> float | None:
        """What lies on them of the whole score; asked for where there is a whole map."""


class ObjectTable(Protocol):
    """The objects of one image and, as `rest`, the pixels that belong to none of them."""

    def __iter__(self) -> Iterator[ObjectRow]: ...

    @property
    def rest(self) -> ObjectRow:
        """The pixels that belong to no object."""


@dataclass(frozen=True, eq=False)
class Panel:
    """One image and one target: a row of a figure.

    `contributions` is (H, W) or (C, H, W); `image`, of the same H and W, is None where the
    input is no picture. `score` = Σ contributions + `bias` + `residual`, and rounding explains
    residuals up to `residual_bound`. `exactness` says where the model is exact ("exact on
    region"), and `note` what else there is to say of that. `objects` and their `labels` (H, W) are
    optional. `shape` is the input's own, where `contributions` has it not: (C, frames, H, W).
    `depths` are maps of the whole score, the chosen one first, and `sentence` says in words what
    the first adds up to; the objects then have a `whole`, too. `probability` of the class, 0–1, is
    None where the score is no class's. `unit` is the score's, "" where it has none. Raises
    InputError if the sizes differ or a number is not finite.
    """

    image: Image.Image | None
    contributions: npt.NDArray[Any]
    class_name: str
    target: int | None
    score: float
    bias: float
    residual: float
    residual_bound: float
    exactness: str
    objects: ObjectTable | None = None
    labels: npt.NDArray[Any] | None = None
    shape: tuple[int, ...] | None = None
    note: str = ""
    depths: tuple[PlacedMap, ...] = ()
    sentence: str = ""
    probability: float | None = None
    unit: str = ""

    __repr__ = short_repr

    def __post_init__(self) -> None:
        shape = self.pixels().shape
        if self.image is not None:
            check_size(self.image, shape)
        if self.labels is not None:
            check_labels(self.labels, shape)
        for one in self.depths:
            if one.values.shape != shape:
                raise InputError(
                    f"the whole map is {'×'.join(map(str, one.values.shape))} but the "
                    f"contributions are {'×'.join(map(str, shape))}; pass maps of one image."
                )
        for name in ("score", "bias", "residual", "residual_bound"):
            if not isfinite(getattr(self, name)):
                raise InputError(f"{name} must be a finite number, not {getattr(self, name)}.")

    def pixels(self) -> FloatMap:
        """What each pixel contributes, (H, W)."""
        return pixel_contributions(self.contributions)

    def pixel_sum(self) -> float:
        """What all pixels together contribute."""
        return float(self.pixels().sum())

    def heading(self) -> str:
        """The class and its index."""
        name = shorten(self.class_name, 60) or "target"
        said = f"class {self.target}"
        return name if self.target is None or name == said else f"{name} ({said})"

    def equation(self) -> str:
        """How pixels and bias make up the score, with the residual and its bound.

        With a whole map, how much of the bias has a place on the picture.
        """
        total = self.pixel_sum()
        digits = decimals(self.score, total, self.bias)
        within = "≤" if abs(self.residual) <= self.residual_bound else ">"
        carried = f"bias {number(self.bias, digits)}"
        if self.depths:
            placed, unplaced = self.placed()
            carried = f"placed bias {number(placed, digits)} + no place {number(unplaced, digits)}"
        return (
            f"score {number(self.score, digits)} = Σ pixels {number(total, digits)} + {carried}"
            f"  (residual {brief(abs(self.residual))} {within} bound {brief(self.residual_bound)})"
        )

    def placed(self) -> tuple[float, float]:
        """How much of the bias has a place on the picture, and how much of the score has none."""
        return self.depths[0].total - self.pixel_sum(), self.depths[0].unplaced


@dataclass(frozen=True)
class Part:
    """A named share of the score: one bar.

    `whole` marks bias and score, which are no pixels'; `label` is that of a single object.
    """

    name: str
    value: float
    whole: bool = False
    label: int | None = None


def parts(panel: Panel, most: int = 8) -> list[Part]:
    """What the pixels' sum is made of.

    The objects with the largest contributions, the others together, and the rest of the image;
    without objects, its positive and its negative pixels.
    """
    if panel.objects is None:
        values = panel.pixels()
        return [
            Part("positive pixels", float(values[values > 0].sum())),
            Part("negative pixels", float(values[values < 0].sum())),
        ]
    rows, others = _shown(panel, panel.objects, most)
    bars = [Part(row.name, row.sum, label=row.label) for row in rows]
    if others:
        bars.append(Part(_others(others), sum(row.sum for row in others)))
    if panel.objects.rest.pixels:
        bars.append(Part(panel.objects.rest.name, panel.objects.rest.sum))
    return bars


def whole_parts(panel: Panel, most: int = 8) -> list[Part]:
    """The same of the whole map: what lies on each object, and without objects its two signs."""
    if panel.objects is None:
        drawn = panel.depths[0].drawn(max(panel.depths[0].values.shape))
        drawn = drawn * (PERCENT / drawn.size)
        return [
            Part("where it adds", float(drawn[drawn > 0].sum())),
            Part("where it subtracts", float(drawn[drawn < 0].sum())),
        ]
    rows, others = _shown(panel, panel.objects, most)
    bars = [Part(row.name, row.whole or 0.0, label=row.label) for row in rows]
    if others:
        bars.append(Part(_others(others), sum(row.whole or 0.0 for row in others)))
    if panel.objects.rest.pixels:
        bars.append(Part(panel.objects.rest.name, panel.objects.rest.whole or 0.0))
    return bars


def _shown(
    panel: Panel, objects: ObjectTable, most: int
) -> tuple[list[ObjectRow], list[ObjectRow]]:
    """The objects with the largest contributions, in order, and the others.

    With a whole map it is the whole that counts, so that both groups of bars show the same ones.
    """

    def size(row: ObjectRow) -> float:
        return (row.whole or 0.0) if panel.depths else row.sum

    rows = sorted(objects, key=lambda row: abs(size(row)), reverse=True)
    return sorted(rows[:most], key=lambda row: -size(row)), rows[most:]


def _others(rows: list[ObjectRow]) -> str:
    return f"{len(rows)} other{'s' if len(rows) > 1 else ''}"


def balance(panel: Panel) -> list[Part]:
    """What the score is made of, and the score."""
    if panel.depths:
        placed, unplaced = panel.placed()
        return [
            Part("Σ pixels", panel.pixel_sum()),
            Part("placed bias", placed, whole=True),
            Part("no place", unplaced, whole=True),
            Part("score", panel.score, whole=True),
        ]
    return [
        Part("Σ pixels", panel.pixel_sum()),
        Part("bias", panel.bias, whole=True),
        Part("score", panel.score, whole=True),
    ]


def whole_balance(panel: Panel) -> list[Part]:
    """What lies on the picture, what has no place, and the score."""
    return [
        Part("on the picture", panel.depths[0].total, whole=True),
        Part("no place", panel.depths[0].unplaced, whole=True),
        Part("score", panel.score, whole=True),
    ]


def decimals(*values: float) -> int:
    """Decimal places that give the largest of the values at least three digits: 2 up to 1000."""
    largest = max(abs(value) for value in values)
    power = floor(log10(largest)) if largest > 0 else 0
    return int(np.clip(max(2 - power, min(2, 4 - power)), 0, 12))


def number(value: float, digits: int, *, sign: bool = False) -> str:
    """A value with so many decimals and a true minus sign; an exponent from a million on."""
    if abs(value) >= 1e6:
        return ("+" if sign and value > 0 else "") + brief(value, 4)
    value = round(value, digits)
    if value == 0:
        return f"{0:.{digits}f}"
    return format(value, f"{'+' if sign else ''}.{digits}f").replace("-", "−")


def brief(value: float, digits: int = 1) -> str:
    """A value with so many significant digits, such as 0.0514, 120 or 7.85e−4."""
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e6:
        places = max(0, digits - 1 - floor(log10(abs(value))))
        return f"{value:.{places}f}".replace("-", "−")
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    return f"{mantissa}e{int(exponent)}".replace("-", "−")


def shorten(name: str, most: int) -> str:
    """A name on one line of at most so many characters."""
    name = " ".join(str(name).split())
    return name if len(name) <= most else name[: most - 1].rstrip(" ,") + "…"
