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
from guidxmage.adversarial.certified.nearest_point import inside
from guidxmage.adversarial.certified.relaxation import Bounds, tightened
from guidxmage.engine.linear_regions.relu_form import ReluForm
from guidxmage.errors import InputError
from guidxmage.reports.short_repr import short_repr

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]

# Steps of the descent for the whole problem, and for each of its branches.
_ROOT, _BRANCH, _LEAF = 20, 6, 40
# So many ReLUs of a branch are tried before it is split.
_TRIED = 3
# A batch of branches costs about this many products, and holds so many branches at most.
_PRODUCTS, _MOST = 4e7, 128
# All branches together take no more memory than this, in bytes.
_MEMORY = 2e9
# Networks with more ReLUs than this are not bounded.
MOST_RELUS = 20_000
# Lines are fitted to each open ReLU of a level where this product of ReLUs is not exceeded.
_WORTH_FITTING = 200_000


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
        if not np.isfinite(sizes).all():
            raise InputError("the network's weights are too large or not finite: it has no bounds")
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
        enclosure = self.enclosure(free)
        bounds = tightened(self.form, self.bounds, enclosure)
        relaxed, bounds = self._folded(self._fitted(bounds, enclosure), enclosure)
        self.form, self.goals, self.bounds = relaxed.form, relaxed.goals, bounds

    def _folded(self, bounds: Bounds, enclosure: Enclosure) -> tuple[Relaxed, Bounds]:
        """The problem without the ReLUs that are decided."""
        form, kept = self.form.folded(bounds.on, bounds.off, self.goals)
        return self._relaxed(form, form.heads, enclosure), bounds.take(kept)

    def _relaxed(self, form: ReluForm, goals: Array, enclosure: Enclosure) -> Relaxed:
        return Relaxed(form, goals, enclosure, together=self.together, slack=self.slack)

    def _fitted(self, bounds: Bounds, enclosure: Enclosure) -> Bounds:
        """Closer bounds in levels of a few open ReLUs: the lines are fitted to each of them."""
        form, bounds = self.form, Bounds(bounds.low.copy(), bounds.high.copy())
        for level in form.levels[1:]:
            numbers = level.start + np.flatnonzero(bounds.open[level])
            if not 0 < len(numbers) * len(form) <= _WORTH_FITTING:
                continue
            goals = np.concatenate([form.rows[numbers], -form.rows[numbers]])
            relaxed = Relaxed(form, goals, enclosure, together=False, slack=self.slack)
            roots = Domains.roots(bounds, np.eye(len(goals)))
            high, low = np.split(relaxed.bound(roots, _ROOT, enough=inf).high, 2)
            bounds.high[numbers] = np.fmin(bounds.high[numbers], high)
            bounds.low[numbers] = np.fmax(bounds.low[numbers], -low)
        return bounds

    def roots(self, bounds: Bounds) -> Domains:
        """One branch for each way to reach the goal."""
        count = len(self.goals)
        weights = np.full((1, count), 1 / count) if self.together else np.eye(count)
        return Domains.roots(bounds, weights)

    def root(self, free: Flags, steps: int = _ROOT) -> tuple[Relaxed, Bound]:
        """The problem without any branching, with the ReLUs' bounds for exactly that set."""
        enclosure = self.enclosure(free)
        relaxed = self._relaxed(self.form, self.goals, enclosure)
        bounds = tightened(self.form, self.bounds, enclosure)
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
        if not (bound.high < 0).all():
            known = bound.domains
            bounds = Bounds(known.low[0], known.high[0])
            relaxed, bounds = self._folded(
                self._fitted(bounds, relaxed.enclosure), relaxed.enclosure
            )
            bound = relaxed.bound(self.roots(bounds), _ROOT)
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
            domains, missed = self.open.take(chosen), self.missed[chosen]
            self._drop(chosen)
            numbers = self._numbers(domains, missed)
            self._finish_all(domains.take(np.flatnonzero(numbers < 0)))
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

    def _numbers(self, domains: Domains, missed: Array) -> NDArray[np.int64]:
        """The ReLU to split in each of some branches, −1 where none is open.

        Of those where the lines miss most, the one whose worse side is bounded best.
        """
        if not missed.shape[1]:
            return np.full(len(domains), -1)
        width = np.where(domains.open, np.minimum(-domains.low, domains.high), -1.0)
        widest = np.where(domains.open.any(1), width.argmax(1), -1)
        k = min(_TRIED, missed.shape[1])
        tried = np.argsort(-missed, axis=1)[:, :k]
        rows = np.repeat(np.arange(len(domains)), k)
        sides = self.relaxed.bound(domains.take(rows).split(tried.flatten()), 0).high
        worse = np.maximum(*np.split(sides, 2)).reshape(-1, k)
        worse = np.where(np.take_along_axis(missed, tried, 1) > 0, worse, np.inf)
        best = np.take_along_axis(tried, worse.argmin(1)[:, None], 1)[:, 0]
        return np.where(missed.max(1) > 0, best, widest)

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

    def _finish_all(self, leaves: Domains) -> None:
        """Branches where all is decided: fitting multipliers for longer closes most."""
        if not len(leaves):
            return
        bound = self.relaxed.bound(leaves, _LEAF)
        for row in np.flatnonzero(~(bound.high < 0)):
            if self.sample is None:
                self._finish(bound.domains.take(np.array([row])))

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
        for room in (-1.0, 1.0, 1e3):  # first with room for rounding, then a hair inside
            need = d + room * self.relaxed.slack / sizes
            most = enclosure.radius * (1 + 1e-9)
            box, norm = enclosure.box, enclosure.norm
            found = inside(C, need, box, norm, most)
            if room < 0 and found.beyond:
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
