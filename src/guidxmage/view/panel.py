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
    Raises InputError if the sizes differ or a number is not finite.
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

    __repr__ = short_repr

    def __post_init__(self) -> None:
        shape = self.pixels().shape
        if self.image is not None:
            check_size(self.image, shape)
        if self.labels is not None:
            check_labels(self.labels, shape)
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
        return name if self.target is None else f"{name} (class {self.target})"

    def equation(self) -> str:
        """How pixels and bias make up the score, with the residual and its bound."""
        total = self.pixel_sum()
        digits = decimals(self.score, total, self.bias)
        within = "≤" if abs(self.residual) <= self.residual_bound else ">"
        return (
            f"score {number(self.score, digits)} = Σ pixels {number(total, digits)}"
            f" + bias {number(self.bias, digits)}"
            f"  (residual {brief(abs(self.residual))} {within} bound {brief(self.residual_bound)})"
        )


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
    rows = sorted(panel.objects, key=lambda row: abs(row.sum), reverse=True)
    shown, others = rows[:most], rows[most:]
    shown.sort(key=lambda row: -row.sum)
    bars = [Part(row.name, row.sum, label=row.label) for row in shown]
    if others:
        name = f"{len(others)} other{'s' if len(others) > 1 else ''}"
        bars.append(Part(name, sum(row.sum for row in others)))
    if panel.objects.rest.pixels:
        bars.append(Part(panel.objects.rest.name, panel.objects.rest.sum))
    return bars


def balance(panel: Panel) -> list[Part]:
    """What the score is made of, and the score."""
    return [
        Part("Σ pixels", panel.pixel_sum()),
        Part("bias", panel.bias, whole=True),
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
