"""Whether a perturbation within a radius changes the answer: yes, no, or not known in time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import inf
from time import monotonic

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from guidxmage.adversarial.certified.ascent import Ascent, limited
from guidxmage.adversarial.certified.case import Case
from guidxmage.adversarial.certified.domains import Bound, Domains, Relaxed, magnitudes, rounding
from guidxmage.adversarial.certified.enclosure import Enclosure
from guidxmage.adversarial.certified.nearest_point import nearest
from guidxmage.adversarial.certified.relaxation import Bounds, tightened
from guidxmage.reports.short_repr import short_repr

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]

# Steps of the descent for the whole problem, and for each of its branches.
_ROOT, _BRANCH = 20, 6
# A batch of branches costs about this many products, and holds so many branches at most.
_PRODUCTS, _MOST = 4e7, 128
# All branches together take no more memory than this, in bytes.
_MEMORY = 2e9
# Networks with more ReLUs than this are not bounded.
MOST_RELUS = 20_000
# The form is rewritten without its decided ReLUs where this share of them is left at most.
_WORTH_FOLDING = 0.8


@dataclass(frozen=True, eq=False)
class CertifiedDecision:
    """Whether any perturbation of at most `within` changes the answer for one image.

    verdict: "proved", none does; "sample", `adversarial` (C, H, W; float64) is one, of size `size`;
    "unknown", neither is known. from_class: the network's answer, to_class: that for `adversarial`,
    −1 without one. relus: of the network, written as ReLUs; undecided: those that a perturbation
    may decide either way, as far as the first bounds tell. nodes: branches bounded; left: still
    open. seconds: taken in all. reason: why it is unknown, else empty.
    """

    verdict: str
    within: float
    norm_name: str
    adversarial: Tensor | None
    size: float
    from_class: int
    to_class: int
    relus: int
    undecided: int
    nodes: int
    left: int
    seconds: float
    reason: str

    __repr__ = short_repr

    @property
    def proved(self) -> bool:
        """Whether no perturbation changes the answer."""
        return self.verdict == "proved"


@dataclass(frozen=True)
class Answer:
    """To one question: verdict as in `CertifiedDecision`, the sample (C, H, W), and the work."""

    verdict: str
    sample: Tensor | None = None
    undecided: int = 0
    nodes: int = 0
    left: int = 0
    seconds: float = 0.0
    reason: str = ""


class Decider:
    """Answers whether a case's goal can be reached within a radius, for one free set after another.

    What is known for a free set holds for its subsets: bounds of the ReLUs, and that some are
    decided. `narrow` keeps it for all questions to come.
    """

    def __init__(self, case: Case, radius: float, most: int) -> None:
        self.case, self.radius = case, radius
        self.ascent = Ascent(case, radius)
        form = case.form(most)
        goals = case.goals(form)
        self.together = case.goal.targeted and case.rather_than < 0
        self.form, self.goals = form, np.concatenate(goals)
        self.relus = len(form)
        everything = self.enclosure(np.ones(form.inputs, dtype=bool))
        sizes = magnitudes(form, everything.box)
        self.slack = rounding(form) * float((np.abs(self.goals) @ sizes).max(initial=0))
        reached = sizes[1 + form.inputs :]
        self.bounds = Bounds(-reached, reached.copy())

    def enclosure(self, free: Flags) -> Enclosure:
        """Where perturbations of the free entries (n,) lie."""
        box = limited(self.case.box, free)
        if self.case.norm == "linf":
            box = box.within(self.radius * (1 + 1e-9))
        return Enclosure(box, self.case.norm, self.radius)

    def narrow(self, free: Flags) -> None:
        """From now on questions are about subsets of `free` (n,) alone."""
        bounds = tightened(self.form, self.bounds, self.enclosure(free))
        self.form, kept = self.form.folded(bounds.on, bounds.off, self.goals)
        self.goals = self.form.heads
        self.bounds = bounds.take(kept)

    def relaxed(self, free: Flags) -> tuple[Relaxed, Bounds]:
        """The problem for a free set, with the ReLUs' bounds for exactly that set."""
        enclosure = self.enclosure(free)
        bounds = tightened(self.form, self.bounds, enclosure)
        form, goals = self.form, self.goals
        if bounds.open.sum() < _WORTH_FOLDING * len(form):
            form, kept = form.folded(bounds.on, bounds.off, goals)
            goals, bounds = form.heads, bounds.take(kept)
        made = Relaxed(form, goals, enclosure, together=self.together, slack=self.slack)
        return made, bounds

    def roots(self, bounds: Bounds) -> Domains:
        """One branch for each way to reach the goal."""
        count = len(self.goals)
        weights = np.full((1, count), 1 / count) if self.together else np.eye(count)
        return Domains.roots(bounds, weights)

    def root(self, free: Flags, steps: int = _ROOT) -> tuple[Relaxed, Bound]:
        """The problem without any branching."""
        relaxed, bounds = self.relaxed(free)
        return relaxed, relaxed.bound(self.roots(bounds), steps)

    def ask(
        self,
        free: Flags,
        until: float,
        max_nodes: int = 100_000,
        tell: Callable[[int], None] | None = None,
    ) -> Answer:
        """The answer for a free set (n,), by branching until the clock `monotonic` says `until`."""
        began = monotonic()
        relaxed, bound = self.root(free)
        found = _Branching(self, relaxed, free, tell).run(bound, until, max_nodes)
        return replace(found, seconds=monotonic() - began)


def decided(
    case: Case,
    within: float,
    known: Sequence[Tensor],
    limits: tuple[float, int],
    tell: Callable[[int], None] | None = None,
) -> CertifiedDecision:
    """Whether a case's goal is reached within a radius; known: images that may do so.

    limits: seconds, and branches. tell is called with the branches bounded so far.
    """
    began = monotonic()
    ascent = Ascent(case, within)
    every = np.ones((1, int(case.free.sum())), dtype=bool)
    starts = [np.zeros(every.shape)]
    starts += [case.delta(Z)[None] for Z in known]
    found = [ascent.sample(start[0]) for start in starts]  # the image itself first
    found += [ascent.sample(ascent.climb(start, every)[0]) for start in starts]
    samples = [Z for Z in found if Z is not None]
    decider = Decider(case, within, MOST_RELUS)
    if samples:
        answer = Answer("sample", samples[0])
    else:
        answer = decider.ask(every[0], began + limits[0], limits[1], tell)
    own, Z = int(case.logits(case.X).argmax()), answer.sample
    return CertifiedDecision(
        verdict=answer.verdict,
        within=within,
        norm_name=case.norm,
        adversarial=Z,
        size=inf if Z is None else ascent.size(Z),
        from_class=own,
        to_class=-1 if Z is None else int(case.logits(Z[None]).argmax()),
        relus=decider.relus,
        undecided=answer.undecided,
        nodes=answer.nodes,
        left=answer.left,
        seconds=monotonic() - began,
        reason=answer.reason,
    )


class _Branching:
    """Branches of one question, those first whose bounds are highest."""

    def __init__(
        self, decider: Decider, relaxed: Relaxed, free: Flags, tell: Callable[[int], None] | None
    ) -> None:
        self.decider, self.relaxed, self.free, self.tell = decider, relaxed, free, tell
        self.ascent = decider.ascent
        self.nodes, self.stuck = 0, 0
        self.undecided = len(relaxed.form)
        self.sample: Tensor | None = None
        self.open: Domains | None = None
        self.high = np.zeros(0)
        self.missed = np.zeros((0, len(relaxed.form)))
        work = max(1, relaxed.form.rows.size)
        self.batch = int(np.clip(_PRODUCTS / work, 4, _MOST))
        self.most = int(_MEMORY / (48 * max(1, len(relaxed.form))))

    def run(self, bound: Bound, until: float, max_nodes: int) -> Answer:
        """Until nothing is open, a sample is found, or it is late."""
        self._receive(bound)
        while self.sample is None and self.open is not None and len(self.open):
            if self.tell is not None:
                self.tell(self.nodes)
            if monotonic() > until:
                return self._unknown("the time is over")
            if self.nodes >= max_nodes or len(self.open) > self.most:
                return self._unknown(f"{self.nodes} branches have been bounded")
            chosen = np.argsort(-self.high)[: self.batch]
            domains, numbers = self.open.take(chosen), self._numbers(chosen)
            self._drop(chosen)
            leaves = np.flatnonzero(numbers < 0)
            for leaf in leaves:
                self._finish(domains.take(np.array([leaf])))
            rest = np.flatnonzero(numbers >= 0)
            if len(rest) and self.sample is None:
                children = domains.take(rest).split(numbers[rest])
                self._receive(self.relaxed.bound(children, _BRANCH))
        if self.sample is not None:
            return self._answer("sample")
        return self._unknown("rounding leaves it open") if self.stuck else self._answer("proved")

    def _receive(self, bound: Bound) -> None:
        """Bounded branches: those that are not closed stay open; their points may be samples."""
        self.nodes += len(bound.high)
        rows = np.flatnonzero(~(bound.high < 0))  # NaN stays open, too
        self._try(bound.delta[rows])
        domains = bound.domains.take(rows)
        self.open = domains if self.open is None else Domains.joined([self.open, domains])
        self.high = np.concatenate([self.high, bound.high[rows]])
        self.missed = np.concatenate([self.missed, bound.missed[rows]])

    def _drop(self, rows: NDArray[np.int64]) -> None:
        assert self.open is not None
        kept = np.setdiff1d(np.arange(len(self.high)), rows)
        self.open = self.open.take(kept)
        self.high, self.missed = self.high[kept], self.missed[kept]

    def _numbers(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The ReLU to split in each of some branches, −1 where none is open."""
        assert self.open is not None
        low, high = self.open.low[rows], self.open.high[rows]
        score, open_ = self.missed[rows], self.open.open[rows]
        width = np.where(open_, np.minimum(-low, high), -1.0)
        if not width.shape[1]:
            return np.full(len(rows), -1)
        numbers = np.where(score.max(1) > 0, score.argmax(1), width.argmax(1))
        return np.where(open_.any(1), numbers, -1)

    def _try(self, deltas: Array) -> None:
        """Points of the relaxation, where the network may say that they are samples."""
        if not len(deltas) or self.sample is not None:
            return
        deltas = self.ascent.fitted(deltas, self.free[None])
        reached = self.relaxed.form.run(deltas)[1] @ self.relaxed.goals.T
        margin = reached.min(1) if self.relaxed.together else reached.max(1)
        for row in np.argsort(-margin)[:2]:
            if margin[row] > 0 and self.sample is None:
                self.sample = self.ascent.sample(deltas[row])

    def _finish(self, leaf: Domains) -> None:
        """All is decided in a branch: its points are a polytope, and the nearest tells."""
        form, together = self.relaxed.form, self.relaxed.together
        signed = np.flatnonzero(leaf.sign[0])
        chosen = self.relaxed.goals if together else leaf.weights @ self.relaxed.goals
        heads = np.concatenate([chosen, leaf.sign[0, signed, None] * form.rows[signed]])
        folded, _ = form.folded(leaf.low[0] >= 0, leaf.low[0] < 0, heads)
        functions = folded.heads[:, : 1 + form.inputs]
        sizes = np.maximum(np.linalg.norm(functions[:, 1:], axis=1), 1e-12)
        C, d = functions[:, 1:] / sizes[:, None], -functions[:, 0] / sizes
        enclosure = self.relaxed.enclosure
        for inside in (-1.0, 1.0, 1e3):  # first with room for rounding, then a hair inside
            need = d + inside * self.relaxed.slack / sizes
            most = enclosure.radius * (1 + 1e-9)
            box, norm = enclosure.box, enclosure.norm
            found = nearest(C, need, box, norm, beta=np.zeros(len(d)), most=most)
            if inside < 0 and found.beyond:
                return
            if not found.beyond:
                self._try(found.delta[None])
            if self.sample is not None:
                return
        self.stuck += 1

    def _answer(self, verdict: str, reason: str = "") -> Answer:
        left = self.stuck + (0 if self.open is None else len(self.open))
        left = 0 if verdict == "proved" else left
        return Answer(verdict, self.sample, self.undecided, self.nodes, left, reason=reason)

    def _unknown(self, reason: str) -> Answer:
        return self._answer("unknown", reason)
