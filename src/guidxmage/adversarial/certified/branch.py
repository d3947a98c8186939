"""One branch of the exact search: some ReLUs decided, and how near an adversarial sample can be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from math import inf, sqrt

import numpy as np
from numpy.typing import NDArray

from guidxmage.adversarial.certified.enclosure import Enclosure
from guidxmage.adversarial.certified.nearest_point import Box, Nearest, nearest
from guidxmage.adversarial.certified.relaxation import Bounds, looseness, majorants, tightened
from guidxmage.engine.linear_regions.relu_form import ReluForm

Array = NDArray[np.float64]

# A cut is worth adding that moves the nearest point by this share of its distance.
_LEAST_CUT = 1e-10
# Cutting goes on while a round closes this share of the gap to the best sample,
_WORTH_CUTTING = 0.05
# and bounds are computed anew when what is left of the enclosure has shrunk to this share,
_WORTH_TIGHTENING = 0.85
# the network is rewritten when this share of its ReLUs is still open.
_WORTH_FOLDING = 0.6


@dataclass(frozen=True)
class Cuts:
    """Half-spaces C δ ≥ d that hold every adversarial sample of a branch, rows of norm 1.

    Cut r is shares[r] @ constraints, bounded from above; beta are the multipliers of the last
    nearest point.
    """

    C: Array
    d: Array
    shares: Array
    beta: Array

    @classmethod
    def none(cls, inputs: int, constraints: int) -> Cuts:
        """No cut yet."""
        return cls(np.zeros((0, inputs)), np.zeros(0), np.zeros((0, constraints)), np.zeros(0))

    def add(self, functions: Array, shares: Array) -> Cuts:
        """With functions (R, 1 + n) ≥ 0 of (1, δ); of the old cuts those that hold are kept."""
        sizes = np.linalg.norm(functions[:, 1:], axis=1, keepdims=True)
        kept = self.beta > 0
        return Cuts(
            np.concatenate([self.C[kept], functions[:, 1:] / sizes]),
            np.concatenate([self.d[kept], -functions[:, 0] / sizes[:, 0]]),
            np.concatenate([self.shares[kept], shares / sizes]),
            np.concatenate([self.beta[kept], np.zeros(len(sizes))]),
        )

    def with_constraint(self) -> Cuts:
        """One more constraint, in none of the cuts."""
        return replace(self, shares=np.pad(self.shares, ((0, 0), (0, 1))))


@dataclass
class Node:
    """A part of the search: constraints ≥ 0 that its samples satisfy, and what is known of them.

    The constraints are the form's heads (the first `goals` say that the class changes) and the
    ReLUs decided since: splits, (number, on). size: no sample of the branch is smaller. delta: the
    nearest point as far as the cuts tell; loose (N,): where the relaxation fails there. room: what
    share of the enclosure was left when the bounds were computed. closed: nothing is left to do.
    """

    form: ReluForm
    goals: int
    bounds: Bounds
    cuts: Cuts
    splits: tuple[tuple[int, bool], ...] = ()
    size: float = 0.0
    room: float = 1.0
    closed: bool = False
    delta: Array = field(default_factory=lambda: np.zeros(0))
    loose: Array = field(default_factory=lambda: np.zeros(0))

    @classmethod
    def root(cls, form: ReluForm, bounds: Bounds, goals: Array) -> Node:
        """The whole network; goals (G, 1 + n + N) are not negative where the class changes."""
        folded, kept = form.folded(bounds.on, bounds.off, goals)
        return cls(folded, len(goals), bounds.take(kept), Cuts.none(form.inputs, len(goals)))

    def constraints(self) -> Array:
        """(m, 1 + n + N)."""
        decided = [self.form.rows[k] if on else -self.form.rows[k] for k, on in self.splits]
        return np.concatenate([self.form.heads, *(row[None] for row in decided)])

    def children(self) -> tuple[Node, ...]:
        """Both ways to decide the ReLU that loosens the relaxation most; none where all are."""
        open_ = np.flatnonzero(self.bounds.open)
        if not len(open_):
            return ()
        score = self.loose[open_]
        if not score.any():
            score = np.minimum(-self.bounds.low[open_], self.bounds.high[open_])
        number = int(open_[score.argmax()])
        return tuple(
            replace(
                self,
                bounds=self.bounds.split(number, on),
                splits=(*self.splits, (number, on)),
                cuts=self.cuts.with_constraint(),
            )
            for on in (True, False)
        )

    def fold(self) -> None:
        """Rewrite the network without the ReLUs that are decided in this branch."""
        form, kept = self.form.folded(self.bounds.on, self.bounds.off, self.constraints())
        self.form, self.bounds, self.splits = form, self.bounds.take(kept), ()
        self.loose = self.loose[kept]


class Bounder:
    """Raises the sizes of branches, as far as it is worth it before they are split.

    `offer` is given points that may be adversarial, and returns the size of the best sample;
    `late` tells when to stop.
    """

    def __init__(
        self,
        box: Box,
        norm: str,
        offer: Callable[[Array], float],
        late: Callable[[], bool],
        tolerance: float,
    ) -> None:
        self.box, self.norm = box, norm
        self.offer, self.late, self.tolerance = offer, late, tolerance
        self.best = inf
        self.passes = 0

    @property
    def radius(self) -> float:
        """No better sample is farther away."""
        return min(self.best, self.box.reach(self.norm))

    @property
    def enough(self) -> float:
        """A branch whose samples are all at least this large is done with."""
        return self.radius * (1 - self.tolerance / 2) if self.best < inf else self.radius * 1.0001

    def raise_size(self, branch: Node) -> None:
        """Cut and tighten while it pays."""
        while not branch.closed and not self.late():
            self._cut(branch)
            if not branch.closed:
                self._try(branch)
            if branch.closed or not self._tighten(branch):
                return

    def _cut(self, branch: Node) -> None:
        """Half-spaces at the nearest point so far, until it stays or moves on too slowly."""
        constraints = branch.constraints()
        for number in range(300):
            cuts, before = branch.cuts, branch.size
            found = self._nearest(cuts.C, cuts.d, cuts.beta, self.enough)
            branch.cuts, branch.delta = replace(cuts, beta=found.beta), found.delta
            branch.size = max(before, found.size)
            if branch.size > self.box.reach(self.norm) * (1 + 1e-6):
                branch.size = inf
            branch.closed = found.beyond or branch.size >= self.enough
            if branch.closed or self.late():
                return
            z, values = branch.form.run(found.delta[None])
            lean = (z[0] > 0).astype(np.float64)
            shares = self._violated(branch, constraints @ values[0])
            functions, factors = majorants(branch.form, branch.bounds, shares @ constraints, lean)
            branch.loose = looseness(branch.bounds, factors, z[0], lean).sum(0)
            excess = -(functions[:, 0] + functions[:, 1:] @ found.delta)
            sizes = np.linalg.norm(functions[:, 1:], axis=1)
            if (excess[sizes < 1e-12] > 1e-9).any():
                branch.size, branch.closed = inf, True
                return
            new = excess > _LEAST_CUT * self.radius * sizes
            slow = branch.size - before < _WORTH_CUTTING * (self.enough - branch.size)
            if not new.any() or (number >= 2 and slow and branch.loose.any()):
                return
            branch.cuts = branch.cuts.add(functions[new], shares[new])

    def _try(self, branch: Node) -> None:
        """Offer the nearest point, and points a hair inside the cuts: on their edge it may tie."""
        self.best = self.offer(branch.delta)
        branch.closed = branch.size >= self.enough
        values = branch.constraints() @ branch.form.run(branch.delta[None])[1][0]
        if branch.closed or values.min() < -1e-9 * np.abs(branch.constraints()).max():
            return
        cuts = branch.cuts
        for inside in (1e-9, 1e-8, 1e-7, 1e-6):
            need = cuts.d + inside * branch.size
            found = self._nearest(cuts.C, need, cuts.beta, self.radius)
            self.best = self.offer(found.delta)
            branch.closed = branch.size >= self.enough
            if branch.closed:
                return

    def _nearest(self, C: Array, d: Array, beta: Array, most: float) -> Nearest:
        self.passes += 1
        return nearest(C, d, self.box, self.norm, beta=beta, most=most)

    def _violated(self, branch: Node, values: Array) -> Array:
        """Weights (R, m) of the constraints to bound: the last multipliers', and failing ones."""
        failing = np.flatnonzero(values < 0)
        failing = failing[np.argsort(values[failing])][:8]
        shares = np.eye(len(values))[failing]
        together = branch.cuts.beta @ branch.cuts.shares
        if together.any():
            shares = np.concatenate([together[None] / together.max(), shares])
        return shares

    def _tighten(self, branch: Node) -> bool:
        """New bounds where the enclosure has shrunk; whether they are worth another round."""
        share = min(branch.size / self.radius, 1.0)
        room = sqrt(1 - share * share) if self.norm == "l2" else 1 - share
        if room > _WORTH_TIGHTENING * branch.room:
            return False
        beta = branch.cuts.beta
        cap = (beta @ branch.cuts.C, float(beta @ branch.cuts.d)) if beta.any() else None
        enclosure = Enclosure(self.box, self.norm, self.radius, cap)
        before = int(branch.bounds.open.sum())
        branch.bounds, branch.room = tightened(branch.form, branch.bounds, enclosure), room
        if branch.bounds.empty:
            branch.size, branch.closed = inf, True
            return False
        if branch.bounds.open.sum() <= _WORTH_FOLDING * len(branch.form):
            branch.fold()
        return before > 0
