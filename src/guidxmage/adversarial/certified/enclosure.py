"""How large affine functions can become where a better adversarial sample may still lie."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from guidxmage.adversarial.certified.nearest_point import Box

Array = NDArray[np.float64]

# Everything is bounded on a set that is larger by this share, out of reach of rounding.
_MARGIN = 1e-9
# Norms of functions that do not depend on the image are taken for this.
_TINY = 1e-30


@dataclass(frozen=True)
class Enclosure:
    """The perturbations of at most `radius` in the box, and beyond a cap ⟨c, δ⟩ ≥ d if it is given.

    The cap is a half-space that every adversarial sample lies in. As it comes near the radius, what
    is left between the two shrinks to a point.
    """

    box: Box
    norm: str
    radius: float
    cap: tuple[Array, float] | None = None

    def ceilings(self, A: Array) -> Array:
        """Upper bounds (R,) of the affine functions A (R, 1 + n) of (1, δ).

        Lagrange's: valid for any multipliers, close for those found here.
        """
        radius = self.radius * (1 + _MARGIN)
        a = A[:, 1:]
        if self.norm == "linf":
            box = self.box.within(radius)
            return np.asarray(A[:, 0] + _ceilings_in_box(a, box, self._cap()))
        return np.asarray(A[:, 0] + _ceilings_in_ball(a, self.box, radius, self._cap()))

    def farthest(self, A: Array) -> Array:
        """Perturbations (R, n) where the functions A (R, 1 + n) are about as large; without cap."""
        a = A[:, 1:]
        if self.norm == "linf":
            box = self.box.within(self.radius)
            return np.where(a > 0, box.high, box.low)
        return _on_sphere(a, self.box, self.radius)[0]

    def _cap(self) -> tuple[Array, float] | None:
        if self.cap is None:
            return None
        c, d = self.cap
        return c, d - _MARGIN * abs(d)


def _ceilings_in_box(a: Array, box: Box, cap: tuple[Array, float] | None) -> Array:
    best = _box_value(a, box)
    if cap is None or not len(a):
        return best
    c, d = cap
    # max over the box of ⟨a + μc, δ⟩ − μd is convex in μ ≥ 0: bisection on the sign of its slope.
    scale = np.abs(a).sum(1) / max(float(np.abs(c).sum()), _TINY)
    low, high = np.full(len(a), -12.0), np.full(len(a), 8.0)
    for _ in range(14):
        power = (low + high) / 2
        mu = scale * np.exp(power)
        tilted = a + mu[:, None] * c
        delta = np.where(tilted > 0, box.high, box.low)
        best = np.minimum(best, np.einsum("rn,rn->r", tilted, delta) - mu * d)
        falling = delta @ c < d
        low, high = np.where(falling, power, low), np.where(falling, high, power)
    return best


def _box_value(a: Array, box: Box) -> Array:
    return np.asarray(a.clip(0) @ box.high + a.clip(None, 0) @ box.low)


def _ceilings_in_ball(a: Array, box: Box, radius: float, cap: tuple[Array, float] | None) -> Array:
    best = np.minimum(_box_value(a, box), _in_ball(a, box, radius))
    if cap is None or not len(a):
        return best
    return np.minimum(best, _in_cap(a, box, radius, *cap))


def _in_ball(a: Array, box: Box, radius: float) -> Array:
    delta, p = _on_sphere(a, box, radius)
    excess = np.einsum("rn,rn->r", delta, delta) - radius * radius
    return np.asarray(np.einsum("rn,rn->r", a, delta) - excess / (2 * p))


def _on_sphere(a: Array, box: Box, radius: float) -> tuple[Array, Array]:
    """δ = clip(p·a) with the p that puts it on the sphere; p rises towards it step by step."""
    square = radius * radius
    norms = np.maximum(np.linalg.norm(a, axis=1), _TINY)
    p = radius / norms
    for number in range(4):
        delta = np.clip(p[:, None] * a, box.low, box.high)
        if number == 3:
            break
        free = (delta > box.low) & (delta < box.high)
        held = np.einsum("rn,rn->r", delta, np.where(free, 0, delta))
        rate = np.einsum("rn,rn->r", a, np.where(free, a, 0))
        rate = np.maximum(rate, 1e-20 * norms * norms)
        p = np.maximum(p, np.sqrt((square - held).clip(0) / rate))
    return delta, p


def _in_cap(a: Array, box: Box, radius: float, c: Array, d: float) -> Array:
    """δ = clip(p·a + q·c), with p and q for the sphere and the cap, given which entries are free.

    The bound is ⟨a + μc, δ⟩ − μd − (‖δ‖² − radius²)/(2p) with μ = q/p, whatever p > 0 and q ≥ 0.
    """
    square = radius * radius
    norms = np.maximum(np.linalg.norm(a, axis=1), _TINY)
    size = float(np.linalg.norm(c))
    c, d = c / size, d / size
    best = np.full(len(a), np.inf)
    # Near the cap's end c alone gives the point; a moves it a little.
    q = np.full(len(a), d)
    p = np.sqrt(max(square - d * d, 1e-6 * square)) / norms
    for number in range(7):
        delta = np.clip(p[:, None] * a + q[:, None] * c, box.low, box.high)
        if number >= 3:
            along_a, along_c = np.einsum("rn,rn->r", a, delta), delta @ c
            excess = np.einsum("rn,rn->r", delta, delta) - square
            best = np.minimum(best, along_a + q / p * (along_c - d) - excess / (2 * p))
        free = (delta > box.low) & (delta < box.high)
        open_a, open_c = np.where(free, a, 0), np.where(free, c, 0)
        aa, ac = np.einsum("rn,rn->r", open_a, a), open_a @ c
        cc = np.maximum(open_c @ c, 1e-12)
        held = np.where(free, 0, delta)
        need = d - held @ c
        left = square - np.einsum("rn,rn->r", held, held) - need * need / cc
        rate = np.maximum(aa - ac * ac / cc, 1e-12 * norms * norms)
        p = np.clip(np.sqrt(left.clip(1e-12 * square) / rate), 1e-9 / norms, 1e9 * radius / norms)
        q = np.maximum((need - p * ac) / cc, 0)
    return best
