"""Trails two by two: how many decisions every pair of images takes differently, and all share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import Any

import numpy as np
import numpy.typing as npt

from guidxmage.reports.short_repr import short_repr

Bytes = npt.NDArray[np.uint8]
Counts = npt.NDArray[np.int64]

# How many bits are set in each byte.
_ONES = np.array([number.bit_count() for number in range(256)], dtype=np.uint8)


@dataclass(frozen=True, eq=False)
class PairwiseDistances:
    """Hamming distances between the trails of n images.

    by_layer: decisions that differ at each call site, int64 (n, n), symmetric, 0 on the diagonal;
    shared: decisions that all n images take alike there; decisions: how many are taken per image.
    """

    by_layer: dict[str, Counts]
    shared: dict[str, int]
    decisions: dict[str, int]
    rows: int

    __repr__ = short_repr

    @classmethod
    def of(
        cls, planes: Mapping[str, Sequence[Bytes]], decisions: dict[str, int], rows: int
    ) -> PairwiseDistances:
        """From packed decisions: for each call site its planes (n, bytes), padded with zeros."""
        by_layer, shared = {}, {}
        for site, stored in planes.items():
            by_layer[site] = _distances(stored, rows)
            varying = reduce(or_, (_varying(plane) for plane in stored))
            shared[site] = decisions[site] - int(_ONES[varying].sum(dtype=np.int64))
        return cls(by_layer, shared, decisions, rows)

    @property
    def count(self) -> int:
        """Decisions per image."""
        return sum(self.decisions.values())

    @property
    def total(self) -> Counts:
        """Decisions that differ, int64 (n, n)."""
        nothing = np.zeros((self.rows, self.rows), dtype=np.int64)
        return sum(self.by_layer.values(), nothing)

    @property
    def share(self) -> npt.NDArray[np.float64]:
        """The same as a share of all decisions, float64 (n, n)."""
        found: npt.NDArray[np.float64] = self.total / max(1, self.count)
        return found

    def extremes(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """The nearest and the farthest two images (a < b); the first of equals."""
        a, b = np.triu_indices(self.rows, 1)
        apart = self.total[a, b]
        near, far = int(apart.argmin()), int(apart.argmax())
        return (int(a[near]), int(b[near])), (int(a[far]), int(b[far]))

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values, ready for JSON."""
        return {
            "decisions_per_image": self.count,
            "shared_by_all": sum(self.shared.values()),
            "differing": self.total.tolist(),
            "layers": [
                {
                    "site": site,
                    "decisions": self.decisions[site],
                    "shared_by_all": self.shared[site],
                    "differing": counts.tolist(),
                }
                for site, counts in self.by_layer.items()
            ],
        }


def _distances(planes: Sequence[Bytes], rows: int) -> Counts:
    found = np.zeros((rows, rows), dtype=np.int64)
    for row in range(rows - 1):
        differing = reduce(or_, (plane[row + 1 :] ^ plane[row] for plane in planes))
        found[row, row + 1 :] = _ONES[differing].sum(1, dtype=np.int64)
    return found + found.T


def _varying(plane: Bytes) -> Bytes:
    """The bits (bytes,) that are not the same in all rows."""
    differing: Bytes = np.bitwise_or.reduce(plane, axis=0) ^ np.bitwise_and.reduce(plane, axis=0)
    return differing
