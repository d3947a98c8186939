"""How much each object of an image adds to the score."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from math import floor, log10
from typing import Any

import numpy as np
import numpy.typing as npt

from guidxmage.errors import InputError
from guidxmage.objects.label_map import IGNORED, LabelMap
from guidxmage.reports.markdown import html_table

# Of a table, as Python shows it by itself: one screen.
_LINES = 20
_HEADINGS = ("object", "pixels", "sum", "positive", "negative", "% of +", "% of −")


@dataclass(frozen=True)
class ObjectContribution:
    """What one object's pixels add to the score.

    ``sum`` = ``positive`` + ``negative``: the sums over its pixels, over those that support the
    class, and over those that oppose it; a pixel counts with the sum of its channels.
    ``share_of_positive`` and ``share_of_negative``, in 0–1, are of the whole image's sums.
    """

    name: str
    label: int
    pixels: int
    sum: float
    positive: float
    negative: float
    share_of_positive: float
    share_of_negative: float


@dataclass(frozen=True)
class ObjectTable:
    """The objects of one image, largest contribution first.

    ``rest`` holds the pixels that are ignored; Σ rows.sum + rest.sum = ``total``, the sum of all
    contributions, up to float64 rounding. Iterating gives the rows without the rest.
    """

    rows: tuple[ObjectContribution, ...]
    rest: ObjectContribution
    total: float

    def __iter__(self) -> Iterator[ObjectContribution]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, name: str) -> ObjectContribution:
        """The row called ``name``; raises InputError if there is none."""
        for row in (*self.rows, self.rest):
            if row.name == name:
                return row
        names = ", ".join(row.name for row in self.rows)
        raise InputError(f"there is no object called {name!r}; the objects are {names}")

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: rows, rest and total."""
        return {
            "rows": [asdict(row) for row in self.rows],
            "rest": asdict(self.rest),
            "total": self.total,
        }

    def __str__(self) -> str:
        lines = [_HEADINGS, *self._cells()]
        widths = [max(len(line[column]) for line in lines) for column in range(len(_HEADINGS))]
        texts = (
            [line[0].ljust(widths[0])]
            + [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
            for line in lines
        )
        return "\n".join("  ".join(text).rstrip() for text in texts)

    def __repr__(self) -> str:
        lines = str(self).splitlines()
        if len(lines) <= _LINES:
            return "\n".join(lines)
        left = len(lines) - _LINES + 1
        return "\n".join([*lines[: _LINES - 2], f"… {left} more", lines[-1]])

    def _repr_html_(self) -> str:
        return html_table(_HEADINGS, self._cells())

    def _cells(self) -> list[tuple[str, ...]]:
        """Texts of the rows, the rest if there is any, and the total."""
        shown = [*self.rows, self.rest] if self.rest.pixels else list(self.rows)
        positive = sum(row.positive for row in shown)
        negative = sum(row.negative for row in shown)
        decimals = _decimals(max(positive, -negative))
        cells = [
            (
                row.name,
                str(row.pixels),
                *(f"{value:+.{decimals}f}" for value in (row.sum, row.positive, row.negative)),
                f"{row.share_of_positive:.1%}",
                f"{row.share_of_negative:.1%}",
            )
            for row in shown
        ]
        sums = (f"{value:+.{decimals}f}" for value in (self.total, positive, negative))
        return [*cells, ("total", str(sum(row.pixels for row in shown)), *sums, "", "")]


def object_table(contributions: npt.NDArray[Any], regions: LabelMap) -> ObjectTable:
    """Sum the contributions (C, H, W) or (H, W) over each object, in float64.

    The background (label 0) is a row like the others. Raises InputError if the contributions are
    not finite or differ in size from the regions.
    """
    pixels = _pixel_contributions(contributions)
    regions.check_size((pixels.shape[0], pixels.shape[1]), "the contributions")
    values = _by_label(pixels, regions.labels)
    positive, negative = _signed_sums(pixels)

    def row(label: int, name: str) -> ObjectContribution:
        own = values.get(label, np.zeros(0))
        own_positive, own_negative = _signed_sums(own)
        return ObjectContribution(
            name=name,
            label=label,
            pixels=own.size,
            sum=float(own.sum()),
            positive=own_positive,
            negative=own_negative,
            share_of_positive=own_positive / positive if positive else 0.0,
            share_of_negative=abs(own_negative / negative) if negative else 0.0,
        )

    rows = [row(label, name) for label, name in regions.names.items()]
    rows.sort(key=lambda one: (-one.sum, one.label))
    return ObjectTable(tuple(rows), row(IGNORED, "rest"), float(pixels.sum()))


def _by_label(
    pixels: npt.NDArray[np.float64], labels: npt.NDArray[np.int32]
) -> dict[int, npt.NDArray[np.float64]]:
    order = np.argsort(labels, axis=None, kind="stable")
    found, starts = np.unique(labels.reshape(-1)[order], return_index=True)
    groups = np.split(pixels.reshape(-1)[order], starts[1:])
    return dict(zip(found.tolist(), groups, strict=True))


def _signed_sums(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    return float(np.maximum(values, 0).sum()), float(np.minimum(values, 0).sum())


def _pixel_contributions(contributions: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """(C, H, W) or (H, W) → (H, W) in float64."""
    values = np.asarray(contributions, dtype=np.float64)
    if values.ndim not in (2, 3) or values.size == 0:
        raise InputError(
            "contributions are channels×height×width or height×width for one image, but these "
            f"have shape {values.shape}"
        )
    if not np.isfinite(values).all():
        raise InputError("the contributions hold NaN or infinite values and have no sum")
    summed: npt.NDArray[np.float64] = values if values.ndim == 2 else values.sum(axis=0)
    return summed


def _decimals(largest: float) -> int:
    """Digits after the point that show four figures of the largest number."""
    return min(max(3 - floor(log10(largest)), 0), 12) if largest > 0 else 0
