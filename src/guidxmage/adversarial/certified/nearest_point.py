"""The point nearest to the origin that satisfies a few half-spaces within a box, by its dual.

Every answer comes with multipliers β ≥ 0 of the half-spaces, and its size is what those multipliers
prove: no point is nearer, whether or not the solver converged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from guidxmage.errors import InputError, MissingExtraError

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Box:
    """low ≤ δ ≤ high, (n,) each, with low ≤ 0 ≤ high."""

    low: Array
    high: Array

    def within(self, size: float) -> Box:
        """The part of it where no entry is larger than `size`."""
        return Box(np.maximum(self.low, -size), np.minimum(self.high, size))

    def reach(self, norm: str) -> float:
        """The largest norm of its points."""
        return length(np.maximum(-self.low, self.high), norm)


@dataclass(frozen=True)
class Nearest:
    """delta (n,), the multipliers beta (m,) of the half-spaces, and the size that they prove.

    beyond: the size is larger than was asked for, inf where no point of the box satisfies all.
    """

    delta: Array
    beta: Array
    size: float
    beyond: bool


def length(delta: Array, norm: str) -> float:
    """The l2 or linf norm of a vector."""
    return float(np.abs(delta).max(initial=0) if norm == "linf" else np.linalg.norm(delta))


def nearest(C: Array, d: Array, box: Box, norm: str, *, beta: Array, most: float) -> Nearest:
    """Minimise ‖δ‖ subject to C δ ≥ d within the box.

    C (m, n) with rows of norm 1, d (m,), beta (m,) multipliers to begin with. The search ends as
    soon as the size is proved to be above `most`. norm: "l2", "linf".
    """
    if norm == "l2":
        return _nearest_l2(C, d, box, beta, most)
    if norm == "linf":
        return _nearest_linf(C, d, box, beta, most)
    raise InputError(f"norm {norm!r} is unknown; choose l2 or linf")


def inside(C: Array, d: Array, box: Box, norm: str, most: float) -> Nearest:
    """Any point no farther than `most` that satisfies C δ ≥ d, or multipliers that there is none.

    As `nearest`, but without looking for the smallest: `size` is only a lower bound.
    """
    none = np.zeros(len(d))
    if norm != "linf":
        return nearest(C, d, box, norm, beta=none, most=most)
    delta, _, beta = _least_violation(C, d, box.within(most))
    size = reach_linf(beta @ C, float(beta @ d), box)
    return Nearest(delta, beta, size, size > most)


# --- l2: Newton's method on the dual -------------------------------------------------------------

# Steps are held back by this much where cuts are nearly parallel or the box holds everything.
_PROXIMAL = 1e-10


def _nearest_l2(C: Array, d: Array, box: Box, beta: Array, most: float) -> Nearest:
    """Maximise q(β) = min over the box of ½‖δ‖² − β·(C δ − d), concave and piecewise quadratic."""
    beta = beta.copy()
    for _ in range(100):
        pull = beta @ C
        delta = np.clip(pull, box.low, box.high)
        slope = d - C @ delta
        q = 0.5 * float(delta @ delta) + float(beta @ slope)
        if q > 0.5 * most * most:
            return Nearest(delta, beta, float(np.sqrt(2 * q)), True)
        wrong = np.where(beta > 0, np.abs(slope), slope)
        if wrong.max(initial=0) <= 1e-13 * (1 + np.abs(d).max(initial=0)):
            break
        free = C[:, (pull > box.low) & (pull < box.high)]
        step = _maximiser(free @ free.T, slope, beta) - beta
        share = _along(C, d, box, beta, step)
        if not share:
            break
        beta = np.maximum(beta + share * step, 0)
    return Nearest(delta, beta, float(np.sqrt(max(2 * q, 0))), False)


def _maximiser(H: Array, slope: Array, beta: Array) -> Array:
    """Where slope·(b − β) − ½(b − β)ᵀH(b − β) is largest, b ≥ 0, by principal pivoting."""
    count = len(beta)
    H = H + np.eye(count) * (_PROXIMAL * max(float(np.trace(H)), 1e-3))
    target = slope + H @ beta
    on = (beta > 0) | (slope > 0)
    best, patience = count + 1, 4
    for _ in range(10 * count + 20):
        b = np.zeros(count)
        if on.any():
            b[on] = np.linalg.solve(H[np.ix_(on, on)], target[on])
        gain = target - H @ b
        wrong = (on & (b < 0)) | (~on & (gain > 1e-14 * (1 + np.abs(target))))
        found = int(wrong.sum())
        if not found:
            return b
        if found < best:
            best, patience = found, 4
        elif patience:
            patience -= 1
        else:  # one at a time, the last first: this cannot cycle
            last = np.flatnonzero(wrong)[-1]
            wrong[:] = False
            wrong[last] = True
        on ^= wrong
    return np.maximum(b, 0)


def _along(C: Array, d: Array, box: Box, beta: Array, step: Array) -> float:
    """How many of these steps climb highest, exactly: there the dual's slope along them is 0.

    The slope falls piecewise linearly; Newton's method from either side, kept in a bracket.
    """
    pull, move, gain = beta @ C, step @ C, float(step @ d)
    shrinks = step < 0
    most = float((beta[shrinks] / -step[shrinks]).min()) if shrinks.any() else 1e8
    low, high, share = 0.0, most, min(1.0, most)
    for _ in range(30):
        reached = pull + share * move
        slope = gain - float(move @ np.clip(reached, box.low, box.high))
        free = move[(reached > box.low) & (reached < box.high)]
        bend = float(free @ free)
        if abs(slope) <= 1e-14 * (1 + abs(gain)):
            return share
        low, high = (share, high) if slope > 0 else (low, share)
        if high - low <= 1e-12 * high:
            break
        share += slope / bend if bend > 0 else (high if slope > 0 else low) - share
        if not low < share < high:
            share = high if high == most and share >= high else (low + high) / 2
    return low or high


# --- linf: a small linear program at each radius -------------------------------------------------


def _nearest_linf(C: Array, d: Array, box: Box, beta: Array, most: float) -> Nearest:
    """Newton's method on the violation that is left at radius t, convex and decreasing in t.

    The multipliers at a radius that is too small prove a larger one.
    """
    delta = np.zeros(C.shape[1])
    trials = [*np.eye(len(d)), beta]
    sizes = [reach_linf(trial @ C, float(trial @ d), box) for trial in trials]
    size, beta = max(sizes), trials[int(np.argmax(sizes))]
    for _ in range(50):
        if size > most:
            return Nearest(delta, beta, size, True)
        delta, left, beta = _least_violation(C, d, box.within(size))
        if left <= 1e-12:
            break
        further = reach_linf(beta @ C, float(beta @ d), box)
        if further <= size * (1 + 1e-14):
            break
        size = further
    return Nearest(delta, beta, size, size > most)


def reach_linf(c: Array, need: float, box: Box) -> float:
    """The least radius at which ⟨c, δ⟩ ≥ need within the box, inf where there is none."""
    if need <= 0:
        return 0.0
    room = np.where(c > 0, box.high, -box.low)
    order = np.argsort(room)
    room, rate = room[order], np.abs(c)[order]
    left = rate[::-1].cumsum()[::-1]  # of the entries that are still free
    before = np.concatenate([[0], (rate * room).cumsum()])[:-1]
    gain = before + left * room  # when the radius is this entry's room
    enough = np.flatnonzero(gain >= need)
    if not len(enough):
        return float("inf")
    first = enough[0]
    return float((need - before[first]) / left[first]) if left[first] > 0 else float(room[first])


def _least_violation(C: Array, d: Array, box: Box) -> tuple[Array, float, Array]:
    """δ in the box with the least largest violation of C δ ≥ d, that violation, multipliers."""
    try:
        from scipy.optimize import linprog
    except ImportError as error:
        raise MissingExtraError("scipy", "attack") from error
    count = C.shape[1]
    cost = np.zeros(count + 1)
    cost[-1] = 1
    bounds = np.stack([np.append(box.low, -np.inf), np.append(box.high, np.inf)], 1)
    rows = np.hstack([-C, -np.ones((len(C), 1))])
    solved: Any = linprog(cost, A_ub=rows, b_ub=-d, bounds=bounds, method="highs-ds")
    if solved.x is None:
        return np.zeros(count), 0.0, np.zeros(len(d))
    beta = np.maximum(-solved.ineqlin.marginals, 0)
    return solved.x[:-1], float(solved.x[-1]), beta
