"""Many branches of a search bounded at once, by lines under the ReLUs that are fitted to each.

In a branch some ReLUs are decided. Where a ReLU is open it lies below its chord and above a line
through 0; a decided one also says on which side of 0 its input lies, which a multiplier β ≥ 0
brings into the bound. Whatever the slopes α in [0, 1] and the multipliers are, the bound holds; a
few steps of gradient descent make it close.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from guidxmage.adversarial.certified.enclosure import Enclosure
from guidxmage.adversarial.certified.nearest_point import Box
from guidxmage.adversarial.certified.relaxation import Bounds
from guidxmage.engine.linear_regions.relu_form import ReluForm

Array = NDArray[np.float64]
Signs = NDArray[np.int8]

# A sum of K products in float64 is off by at most K·ε of the sum of their sizes; all that is added
# up on the way from the image to a bound is covered by a few times that.
_ROUNDING = 8 * float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Domains:
    """B branches over N ReLUs and K goals.

    low, high (B, N): of the ReLUs' inputs. sign (B, N): 1 where a ReLU has been decided to be on,
    −1 off, else 0. weights (B, K): which goals a branch is about; where several must hold at once,
    any weighted mean of them bounds the least of them. alpha, beta (B, N): slopes and multipliers.
    """

    low: Array
    high: Array
    sign: Signs
    weights: Array
    alpha: Array
    beta: Array

    def __len__(self) -> int:
        return len(self.low)

    @classmethod
    def roots(cls, bounds: Bounds, weights: Array) -> Domains:
        """Nothing is decided but what the bounds (N,) say; one branch for each row of weights."""
        count, shape = len(weights), (len(weights), len(bounds.low))
        alpha = (bounds.high > -bounds.low).astype(np.float64)
        return cls(
            np.broadcast_to(bounds.low, shape).copy(),
            np.broadcast_to(bounds.high, shape).copy(),
            np.zeros(shape, np.int8),
            weights.copy(),
            np.repeat(alpha[None], count, 0),
            np.zeros(shape),
        )

    @classmethod
    def joined(cls, parts: list[Domains]) -> Domains:
        """All of several batches, in order."""
        own = [[getattr(part, name) for part in parts] for name in cls.__annotations__]
        return cls(*(np.concatenate(arrays) for arrays in own))

    def take(self, rows: NDArray[np.int64]) -> Domains:
        """Some branches, or branches repeated."""
        return Domains(*(getattr(self, name)[rows] for name in self.__annotations__))

    @property
    def open(self) -> NDArray[np.bool_]:
        """(B, N): ReLUs that may be either."""
        return (self.low < 0) & (self.high > 0)

    def split(self, numbers: NDArray[np.int64]) -> Domains:
        """Both ways to decide one ReLU of each branch (B,): the B branches with it on, then off."""
        count = len(self)
        both = self.take(np.tile(np.arange(count), 2))
        on, off = (np.arange(count), numbers), (np.arange(count, 2 * count), numbers)
        both.low[on] = np.maximum(both.low[on], 0)
        both.high[off] = np.minimum(both.high[off], 0)
        both.sign[on], both.sign[off] = 1, -1
        return both


@dataclass(frozen=True)
class Bound:
    """What is known of B branches.

    high (B,): no goal's mean is larger, rounding allowed for. delta (B, n): where the relaxed goal
    is that large; missed (B, N): by how much the lines miss each open ReLU there, times its weight.
    domains: with the slopes and multipliers that gave it.
    """

    high: Array
    delta: Array
    missed: Array
    domains: Domains


@dataclass
class Steps:
    """What gradient descent remembers of each slope and multiplier: Adam's two means."""

    mean: Array
    square: Array
    number: int = 0

    def move(self, gradient: Array) -> Array:
        """The next step, of about the size 1 for each entry."""
        self.number += 1
        self.mean = 0.9 * self.mean + 0.1 * gradient
        self.square = 0.99 * self.square + 0.01 * gradient * gradient
        mean = self.mean / (1 - 0.9**self.number)
        square = self.square / (1 - 0.99**self.number)
        return np.asarray(mean / (np.sqrt(square) + 1e-30))


class Relaxed:
    """A form on the perturbations of an enclosure, and goals (K, 1 + n + N) to be bounded.

    together: the goals must hold at once, so that their weights are fitted too. slack: how much
    rounding may have moved the form itself.
    """

    def __init__(
        self, form: ReluForm, goals: Array, enclosure: Enclosure, *, together: bool, slack: float
    ) -> None:
        self.form, self.goals, self.together = form, goals, together
        self.enclosure = enclosure
        self.first = 1 + form.inputs
        self.sizes = magnitudes(form, enclosure.box)
        self.unit = rounding(form)
        self.slack = slack + self.unit * float((np.abs(goals) @ self.sizes).max(initial=0))

    def bound(self, domains: Domains, steps: int, enough: float = 0.0) -> Bound:
        """Bounds of branches, the best of so many steps; those below `-enough` move no more."""
        slope, offset = _chords(domains)
        best: Bound | None = None
        moves = [Steps(np.zeros_like(domains.alpha), np.zeros_like(domains.alpha)) for _ in "ab"]
        for number in range(steps + 1):
            functions, factors = self._functions(
                domains.weights @ self.goals, domains, (slope, offset)
            )
            delta = self.enclosure.farthest(functions)
            inputs, values = self._values(delta, domains, factors, (slope, offset))
            pressed = np.abs(domains.beta) @ self.sizes[self.first :]
            high = self.enclosure.ceilings(functions) + self.slack + self.unit * pressed
            missed = self._missed(domains, factors, inputs, (slope, offset))
            best = _better(best, Bound(high, delta, missed, domains))
            if number == steps or (best.high < -enough).all():
                break
            rate = 0.4 * 0.93**number
            size = np.abs(factors).max(1, keepdims=True, initial=1e-12)
            down = np.where(domains.open, factors.clip(None, 0), 0) * inputs
            alpha = (domains.alpha - rate * moves[0].move(down)).clip(0, 1)
            push = np.where(domains.sign != 0, domains.sign, 0) * inputs
            beta = (domains.beta - rate * size * moves[1].move(push)).clip(0)
            beta = np.where(domains.sign != 0, beta, 0)
            weights = self._weights(domains, values)
            domains = replace(domains, alpha=alpha, beta=beta, weights=weights)
        assert best is not None
        return best

    def functions(self, domains: Domains) -> Array:
        """Affine functions of (1, δ) that are nowhere below the goals, (B, 1 + n)."""
        return self._functions(domains.weights @ self.goals, domains, _chords(domains))[0]

    def _weights(self, domains: Domains, values: Array) -> Array:
        """The goals that fail most at the relaxed point count for more."""
        if not self.together or domains.weights.shape[1] < 2:
            return domains.weights
        reached = values @ self.goals.T
        above = reached - reached.min(1, keepdims=True)
        weights = domains.weights * np.exp(-0.5 * above / (above.max(1, keepdims=True) + 1e-30))
        return np.asarray(weights / weights.sum(1, keepdims=True))

    def _functions(
        self, total: Array, domains: Domains, lines: tuple[Array, Array]
    ) -> tuple[Array, Array]:
        """Affine functions of δ (B, 1 + n) nowhere below `total` (B, …), and factors (B, N)."""
        slope, offset = lines
        below = np.where(domains.open, domains.alpha, slope)
        pressed = domains.beta * domains.sign
        levels = zip(self.form.levels, self.form.blocks, strict=True)
        for level, blocks in reversed(list(levels)):
            known, end = self.first + level.start, self.first + level.stop
            if known >= total.shape[1]:
                continue
            factor = total[:, known:end]
            up, down = factor.clip(0), factor.clip(None, 0)
            total[:, 0] += np.einsum("bn,bn->b", up, offset[:, level])
            through = up * slope[:, level] + down * below[:, level] + pressed[:, level]
            blocks.add(through, total[:, :known])
        return total[:, : self.first], total[:, self.first :]

    def _values(
        self, delta: Array, domains: Domains, factors: Array, lines: tuple[Array, Array]
    ) -> tuple[Array, Array]:
        """On the lines that were used, at δ: the ReLUs' inputs (B, N) and (1, δ, y)."""
        slope, offset = lines
        below = np.where(domains.open, domains.alpha, slope)
        inputs = np.zeros_like(domains.alpha)
        values = np.zeros((len(delta), self.first + len(self.form)))
        values[:, 0], values[:, 1 : self.first] = 1, delta
        for level, blocks in zip(self.form.levels, self.form.blocks, strict=True):
            z = blocks.values(values[:, : self.first + level.start])
            inputs[:, level] = z
            above = slope[:, level] * z + offset[:, level]
            y = np.where(factors[:, level] > 0, above, below[:, level] * z)
            values[:, self.first + level.start : self.first + level.stop] = y
        return inputs, values

    @staticmethod
    def _missed(
        domains: Domains, factors: Array, inputs: Array, lines: tuple[Array, Array]
    ) -> Array:
        """By how much each open ReLU's line misses it at the point, times its weight, (B, N)."""
        slope, offset = lines
        y = inputs.clip(0)
        above, below = slope * inputs + offset - y, y - domains.alpha * inputs
        missed = factors.clip(0) * above - factors.clip(None, 0) * below
        return np.asarray(np.where(domains.open, missed, 0).clip(0))


def magnitudes(form: ReluForm, box: Box) -> Array:
    """No entry of (1, x, y) is larger in the box than these (1 + n + N,)."""
    first = 1 + form.inputs
    sizes = np.zeros(first + len(form))
    sizes[0], sizes[1:first] = 1, np.maximum(-box.low, box.high)
    with np.errstate(over="ignore", invalid="ignore"):  # inf and NaN are told by who asks
        for level in form.levels:
            known = first + level.start
            sizes[known : first + level.stop] = np.abs(form.rows[level, :known]) @ sizes[:known]
    return sizes


def rounding(form: ReluForm) -> float:
    """What share of a bound's magnitude may be rounding."""
    terms = (len(form.levels) + 2) * (1 + form.inputs + len(form))
    return _ROUNDING * terms


def _chords(domains: Domains) -> tuple[Array, Array]:
    """Slope and offset (B, N) of the lines above the ReLUs."""
    low, high, open_ = domains.low, domains.high, domains.open
    slope = (low >= 0).astype(np.float64)
    np.divide(high, high - low, out=slope, where=open_)
    return slope, np.where(open_, -low * slope, 0)


def _better(old: Bound | None, new: Bound) -> Bound:
    """Of two bounds of the same branches the lower, row by row."""
    if old is None:
        return new
    rows = new.high < old.high

    def mixed(a: Array, b: Array) -> Array:
        return np.where(rows[:, None], b, a)

    a, b = old.domains, new.domains
    alpha, beta = mixed(a.alpha, b.alpha), mixed(a.beta, b.beta)
    weights = mixed(a.weights, b.weights)
    return Bound(
        np.minimum(old.high, new.high),
        mixed(old.delta, new.delta),
        mixed(old.missed, new.missed),
        replace(b, alpha=alpha, beta=beta, weights=weights),
    )
