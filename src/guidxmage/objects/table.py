"""How much each object of an image adds to the score."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from math import floor, log10
from typing import Any

import numpy as np
import numpy.typing as npt

from guidxmage.errors import InputError
from guidxmage.objects.label_map import IGNORED, LabelMap
from guidxmage.reports.markdown import html_table

# Of a table, as Python shows it by itself: one screen.
_LINES = 20
# Of a name in a sentence.
_LONGEST = 28
_HEADINGS = ("object", "pixels", "sum", "positive", "negative", "% of +", "% of −")
_WHOLE = ("object", "pixels", "whole", "positive", "negative", "by its pixels", "by its bias")


@dataclass(frozen=True)
class ObjectContribution:
    """What one object's pixels add to the score.

    ``sum`` = ``positive`` + ``negative``: the sums over its pixels, over those that support the
    class, and over those that oppose it; a pixel counts with the sum of its channels.
    ``share_of_positive`` and ``share_of_negative``, in 0–1, are of the whole image's sums.
    ``whole`` = ``whole_positive`` + ``whole_negative``: the same of the whole map, and ``bias`` =
    ``whole`` − ``sum``, what it has from the bias; None where there is no whole map.
    """

    name: str
    label: int
    pixels: int
    sum: float
    positive: float
    negative: float
    share_of_positive: float
    share_of_negative: float
    whole: float | None = None
    whole_positive: float | None = None
    whole_negative: float | None = None

    @property
    def bias(self) -> float | None:
        """What of the whole does not come from the object's own pixels."""
        return None if self.whole is None else self.whole - self.sum


@dataclass(frozen=True)
class WholeMap:
    """The whole score on the picture, for a table: the map (H, W) as it is drawn.

    unplaced: what of the score has no place; depth: where the network was cut; sigma: of the
    Gaussian that the map was drawn through, in pixels.
    """

    map: npt.NDArray[Any]
    unplaced: float
    depth: str
    sigma: float


@dataclass(frozen=True)
class ObjectTable:
    """The objects of one image, largest contribution first.

    ``rest`` holds the pixels that are ignored; Σ rows.sum + rest.sum = ``total``, the sum of all
    contributions, up to float64 rounding. Iterating gives the rows without the rest.
    With a whole map, whose ``depth`` and ``sigma`` are stated, the order is that of ``whole``, and
    Σ rows.whole + rest.whole + ``unplaced`` is the score within its bound.
    """

    rows: tuple[ObjectContribution, ...]
    rest: ObjectContribution
    total: float
    unplaced: float | None = None
    depth: str = ""
    sigma: float = 0.0

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

    @property
    def whole(self) -> float | None:
        """The sum of the whole map; None without one."""
        wholes = [row.whole for row in (*self.rows, self.rest) if row.whole is not None]
        return sum(wholes) if wholes else None

    def sentence(self, name: str, score: float, most: int = 6) -> str:
        """The score in words: "espresso 11.40: cup +7.4, table +3.4, no place +0.1".

        most: how many objects are named, those with the largest shares; the others are one.
        """
        rows = sorted(self.rows, key=lambda row: -abs(_size(row)))
        named, others = sorted(rows[:most], key=lambda row: -_size(row)), rows[most:]
        values = [(row.name, _size(row)) for row in named]
        if others:
            words = f"{len(others)} other{'s' if len(others) > 1 else ''}"
            values.append((words, sum(map(_size, others))))
        if self.rest.pixels:
            values.append((self.rest.name, _size(self.rest)))
        if self.unplaced is not None:
            values.append(("no place", self.unplaced))
        else:
            values.append(("bias", score - sum(value for _, value in values)))
        return in_words(name, score, values)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: rows, rest and total, and of a whole map what was not placed."""
        found = {
            "rows": [_entries(row) for row in self.rows],
            "rest": _entries(self.rest),
            "total": self.total,
        }
        if self.unplaced is None:
            return found
        whole = {"unplaced": self.unplaced, "depth": self.depth, "sigma": self.sigma}
        return {**found, **whole}

    def __str__(self) -> str:
        headings = _HEADINGS if self.unplaced is None else _WHOLE
        lines = [headings, *self._cells()]
        widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]
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
        return html_table(_HEADINGS if self.unplaced is None else _WHOLE, self._cells())

    def _whole_cells(self, unplaced: float) -> list[tuple[str, ...]]:
        """Of a whole map: rows, the rest, what has no place, and the score that they make."""
        shown = [*self.rows, self.rest] if self.rest.pixels else list(self.rows)
        columns = [
            [getattr(row, key) or 0.0 for row in shown]
            for key in ("whole", "whole_positive", "whole_negative", "sum", "bias")
        ]
        largest = max(sum(columns[1]), -sum(columns[2]), abs(unplaced))
        decimals = _decimals(largest)
        cells = [
            (row.name, str(row.pixels), *(f"{column[n]:+.{decimals}f}" for column in columns))
            for n, row in enumerate(shown)
        ]
        sums = [f"{sum(column):+.{decimals}f}" for column in columns]
        score = f"{sum(columns[0]) + unplaced:+.{decimals}f}"
        nowhere = ("no place", "", f"{unplaced:+.{decimals}f}", "", "", "", "")
        count = str(sum(row.pixels for row in shown))
        return [*cells, nowhere, ("score", count, score, *sums[1:])]

    def _cells(self) -> list[tuple[str, ...]]:
        """Texts of the rows, the rest if there is any, and the total."""
        if self.unplaced is not None:
            return self._whole_cells(self.unplaced)
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


def object_table(
    contributions: npt.NDArray[Any], regions: LabelMap, whole: WholeMap | None = None
) -> ObjectTable:
    """Sum the contributions (C, H, W) or (H, W) over each object, in float64; a whole map as well.

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
    table = ObjectTable(tuple(rows), row(IGNORED, "rest"), float(pixels.sum()))
    if whole is not None:
        table = _with_whole(table, regions, whole)
    order = sorted(table.rows, key=lambda one: (-_size(one), one.label))
    return replace(table, rows=tuple(order))


def in_words(name: str, score: float, values: Sequence[tuple[str, float]]) -> str:
    """A score and the named values that make it up, the last one of which is what is left.

    The values have a digit less than the score, and at least two of the largest that is named.
    """
    digits = max(_places(abs(score), 3), 2)
    size = max((abs(value) for _, value in values[:-1]), default=0.0)
    fewer = max(digits - 1, _places(size, 2))
    parts = (f"{_shortened(label)} {_signed(value, fewer)}" for label, value in values)
    return f"{name} {score:.{digits}f}: {', '.join(parts)}"


def _places(size: float, figures: int) -> int:
    """Digits behind the point that show so many figures of a number."""
    return min(max(figures - 1 - floor(log10(size)), 0), 12) if size > 0 else 0


def _shortened(name: str) -> str:
    name = " ".join(name.split())
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1].rstrip()}…"


def _signed(value: float, digits: int) -> str:
    """A value with its sign; none where it is zero so far."""
    value = round(value, digits)
    return f"{value:+.{digits}f}" if value else f"{0:.{digits}f}"


def _size(row: ObjectContribution) -> float:
    return row.sum if row.whole is None else row.whole


def _with_whole(table: ObjectTable, regions: LabelMap, whole: WholeMap) -> ObjectTable:
    pixels = _pixel_contributions(whole.map)
    regions.check_size((pixels.shape[0], pixels.shape[1]), "the whole map")
    values = _by_label(pixels, regions.labels)

    def filled(row: ObjectContribution) -> ObjectContribution:
        own = values.get(row.label, np.zeros(0))
        positive, negative = _signed_sums(own)
        total = float(own.sum())
        return replace(row, whole=total, whole_positive=positive, whole_negative=negative)

    return ObjectTable(
        tuple(map(filled, table.rows)),
        filled(table.rest),
        table.total,
        whole.unplaced,
        whole.depth,
        whole.sigma,
    )


def _entries(row: ObjectContribution) -> dict[str, Any]:
    """A row as JSON has it; what there is none of is left out."""
    found = {name: value for name, value in asdict(row).items() if value is not None}
    return found if row.bias is None else {**found, "bias": row.bias}


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
    return _places(largest, 4)
