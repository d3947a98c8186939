"""A matrix as dense blocks: rows that are zero in the same places are kept together without zeros.

The rows of a convolution are such: all channels of a position see the same few entries.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Numbers = NDArray[np.int64]
Block = tuple[Numbers, Numbers, Array]

# Blocks are worth their loop where they hold less than this share of the matrix's numbers,
_WORTH = 0.25
# and this many numbers each on average.
_LEAST = 64


@dataclass(frozen=True)
class RowBlocks:
    """A matrix (M, K) as blocks: numbers of rows, numbers of columns, values."""

    shape: tuple[int, int]
    blocks: tuple[Block, ...]

    @classmethod
    def of(cls, matrix: Array) -> RowBlocks:
        """A block for each set of columns that rows share; a single one where that saves little."""
        there = matrix != 0
        whole = matrix.shape, ((np.arange(len(matrix)), np.arange(matrix.shape[1]), matrix),)
        if matrix.size < 10_000 or there.sum() > _WORTH * matrix.size:
            return cls(*whole)
        keys = np.packbits(there, axis=1)
        _, first, member = np.unique(keys, axis=0, return_index=True, return_inverse=True)
        order = np.argsort(member.reshape(-1), kind="stable")
        counts = np.bincount(member.reshape(-1))
        columns = [np.flatnonzero(there[row]) for row in first]
        held = sum(int(c) * len(own) for c, own in zip(counts, columns, strict=True))
        if held > _WORTH * matrix.size or held < _LEAST * len(counts):
            return cls(*whole)
        parts = np.split(order, np.cumsum(counts)[:-1])
        made = [
            (rows, own, np.ascontiguousarray(matrix[np.ix_(rows, own)]))
            for rows, own in zip(parts, columns, strict=True)
            if len(own)
        ]
        return cls(matrix.shape, tuple(made))

    @property
    def whole(self) -> bool:
        """Whether it is one dense block."""
        return len(self.blocks) == 1 and self.blocks[0][2].shape == self.shape

    def add(self, factors: Array, total: Array) -> None:
        """total (R, K) += factors (R, M) @ matrix."""
        if self.whole:
            total += factors @ self.blocks[0][2]
            return
        used = np.asarray(factors.any(0))
        for rows, columns, values in self.blocks:
            if used[rows].any():
                total[:, columns] += factors[:, rows] @ values

    def values(self, points: Array) -> Array:
        """points (m, K) @ matrixᵀ, (m, M)."""
        if self.whole:
            return np.asarray(points @ self.blocks[0][2].T)
        found = np.zeros((len(points), self.shape[0]))
        for rows, columns, values in self.blocks:
            found[:, rows] = points[:, columns] @ values.T
        return found

    def times(self, other: Array, chosen: Numbers) -> Array:
        """Some rows of matrix @ other (K, P)."""
        if self.whole:
            return np.asarray(self.blocks[0][2][chosen] @ other)
        place = np.full(self.shape[0], -1)
        place[chosen] = np.arange(len(chosen))
        found = np.zeros((len(chosen), other.shape[1]))
        for rows, columns, values in self.blocks:
            kept = place[rows] >= 0
            if kept.any():
                found[place[rows[kept]]] = values[kept] @ other[columns]
        return found
