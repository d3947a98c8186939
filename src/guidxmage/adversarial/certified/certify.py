"""The certified minimum: the smallest adversarial perturbation, and proof that it is that."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from math import inf, isfinite, nan
from time import monotonic
from typing import overload

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from guidxmage.adversarial.certified.branch import Bounder, Node
from guidxmage.adversarial.certified.case import (
    Case,
    check_size,
    free_entries,
    goal_of,
    in_double,
    one_image,
    rival_of,
)
from guidxmage.adversarial.certified.decision import CertifiedDecision, decided
from guidxmage.adversarial.certified.enclosure import Enclosure
from guidxmage.adversarial.certified.nearest_point import length
from guidxmage.adversarial.certified.relaxation import Bounds, tightened
from guidxmage.adversarial.heuristic.attack import attack
from guidxmage.adversarial.heuristic.target_model import as_explainer, refuse_other_outputs
from guidxmage.engine.capture.as_found import running
from guidxmage.errors import InputError
from guidxmage.explainer import Explainer
from guidxmage.inputs.input_space import Images
from guidxmage.reports.short_repr import short_repr

Array = NDArray[np.float64]
Progress = Callable[[int, float, float], None]

# Gradients for the attack before the search.
_ATTACK = 40


@dataclass(frozen=True)
class CertifiedMinimum:
    """The smallest adversarial perturbation of one image, as far as it is known.

    lower_bound ≤ the least size ≤ upper_bound, which is the size of `adversarial` (C, H, W;
    float64; None where none is known, upper_bound is inf then). proved: the two agree to the
    relative `tolerance`; both inf where it is proved that no perturbation within the box and mask
    changes the answer. Everything is about the network in float64; the bounds hold up to the
    rounding of float64 sums. attack_size: what `attack` had found, inf for nothing, NaN where a
    sample was given. to_class: of `adversarial`, -1 without one. relus: in the network, written as
    ReLUs; undecided: those of them that the search had to deal with. nodes: branches bounded, left:
    still open; solver_passes: nearest points computed. history: (nodes, lower, upper) whenever a
    bound moved. reason: why the search stopped, empty where it is proved.
    """

    adversarial: Tensor | None
    norm_name: str
    lower_bound: float
    upper_bound: float
    proved: bool
    tolerance: float
    attack_size: float
    from_class: int
    to_class: int
    relus: int
    undecided: int
    nodes: int
    left: int
    solver_passes: int
    history: tuple[tuple[int, float, float], ...]
    reason: str

    __repr__ = short_repr

    @property
    def size(self) -> float:
        """The size of `adversarial`; the least there is where it is proved."""
        return self.upper_bound


@overload
def certify(
    model: nn.Module | Explainer,
    image: Images,
    label: int | None = None,
    *,
    norm: str = "l2",
    target: int | None = None,
    mask: Tensor | None = None,
    seconds: float = 60,
    max_nodes: int = 100_000,
    tolerance: float = 1e-6,
    upper: Tensor | None = None,
    progress: Progress | None = None,
    within: None = None,
) -> CertifiedMinimum: ...


@overload
def certify(
    model: nn.Module | Explainer,
    image: Images,
    label: int | None = None,
    *,
    norm: str = "l2",
    target: int | None = None,
    mask: Tensor | None = None,
    seconds: float = 60,
    max_nodes: int = 100_000,
    upper: Tensor | None = None,
    progress: Progress | None = None,
    within: float,
    rather_than: int | None = None,
) -> CertifiedDecision: ...


def certify(
    model: nn.Module | Explainer,
    image: Images,
    label: int | None = None,
    *,
    norm: str = "l2",
    target: int | None = None,
    mask: Tensor | None = None,
    seconds: float = 60,
    max_nodes: int = 100_000,
    tolerance: float = 1e-6,
    upper: Tensor | None = None,
    progress: Progress | None = None,
    within: float | None = None,
    rather_than: int | None = None,
) -> CertifiedMinimum | CertifiedDecision:
    """The certified smallest perturbation of an image in [0, 1] that changes the answer.

    For small networks: some hundred ReLUs whose decision a perturbation of this size can change.
    The network is written as ReLUs; best-first, branches with ever more ReLUs decided are bounded
    from below by convex relaxations. model, image, label, target, mask: as for `attack`, for a
    single image. norm: "l2" or "linf" (needs scipy). upper: a known adversarial image; by default
    `attack` looks for one. The search stops after `seconds` (those of the attack not counted) or
    `max_nodes`, with the bounds reached. progress is called with nodes, lower and upper bound.

    within: only decide whether a perturbation of at most this size changes the answer, which is
    much quicker; the search ends as soon as it is proved that none does, or a sample is found, and
    a `CertifiedDecision` says which. Here progress is told the bounds 0 and inf, and rather_than
    may name the only class that counts as another answer.

    Raises InputError for unusable input, UnsupportedOperatorError for networks that are not
    piecewise linear or that jump. The network and the global random state are untouched.
    """
    check_size(norm, "within", within)
    if not (seconds > 0 and max_nodes > 0 and tolerance > 0):
        raise InputError("seconds, max_nodes and tolerance must be above 0")
    if rather_than is not None and (within is None or target is not None):
        raise InputError("rather_than needs within, and no target")
    explainer = as_explainer(model)
    refuse_other_outputs(explainer)  # what is computed in float64 is explained as class scores
    explainer = in_double(explainer)
    with running(explainer.model):
        X = one_image(explainer, image)
        budget = _ATTACK if upper is None and within is None else 1  # it checks arguments, too
        found = attack(explainer, X, label, norm=norm, targets=target, mask=mask, budget=budget)
        goal = goal_of(found.from_class, label, target)
        rival = rival_of(rather_than, int(goal.classes), explainer.run(X))
        case = Case(explainer, X, goal, norm, free_entries(mask, X), rival)
        size = float(found.norm[0]) if bool(found.success[0]) else inf
        starts = [] if upper is None else [explainer.read(upper)]
        starts += [found.adversarial[0]] if isfinite(size) else []
        if within is not None:
            tell = None if progress is None else lambda nodes: progress(nodes, 0.0, inf)
            return decided(case, within, starts, (seconds, max_nodes), tell)
        attacked = size if upper is None else nan
        search = _Search(case, tolerance, progress)
        if bool(found.already[0]):
            return search.certificate("", attacked, unchanged=True)
        return search.certificate(search.run(starts, seconds, max_nodes), attacked)


# Points are tried a little farther out than where a relaxation or a region has its nearest point.
_FARTHER = np.array([0, 1e-9, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 3e-3, 0.01, 0.02, 0.05, 0.1])


class _Search:
    """Best-first over branches, from the one with the smallest lower bound."""

    def __init__(self, case: Case, tolerance: float, progress: Progress | None) -> None:
        self.case, self.tolerance, self.progress = case, tolerance, progress
        self.best: Tensor | None = None
        self.upper, self.floor = inf, inf
        self.lower = 0.0
        self.waiting: list[tuple[float, int, Node]] = []
        self.number = count()
        self.nodes = self.relus = self.undecided = 0
        self.history: list[tuple[int, float, float]] = []
        self.deadline = inf
        self.bounder = Bounder(case.box, case.norm, self.offer, self.late, tolerance)

    def late(self) -> bool:
        """Whether the time is up."""
        return monotonic() > self.deadline

    def offer(self, delta: Array) -> float:
        """Try a perturbation, and ones a little larger; returns the size of the best sample."""
        size = length(delta, self.case.norm)
        scales = 1 + _FARTHER[size * (1 + _FARTHER) < self.upper]
        if not size or not len(scales):
            return self.upper
        for _ in range(3):
            Z = self.case.images(scales[:, None] * delta)
            reached = np.flatnonzero(self.case.margins(Z) > 0)
            if not len(reached):
                break
            first = int(reached[0])
            self._keep(Z[first])
            if not first or scales[first] - scales[first - 1] < 1e-7:
                break
            scales = np.linspace(scales[first - 1], scales[first], 10)[1:-1]
        return self.upper

    def _keep(self, Z: Tensor) -> None:
        """A sample, if the network says so of it alone and it is smaller than the best."""
        size = length(self.case.delta(Z), self.case.norm)
        if size < self.upper and self.case.margins(Z[None])[0] > 0:
            self.best, self.upper = Z, size
            self.bounder.best = size

    def run(self, starts: Sequence[Tensor], seconds: float, max_nodes: int) -> str:
        """Search from known samples; why it stopped, empty where nothing is left to search."""
        for start in starts:
            self.offer(self.case.delta(start))
        self.deadline = monotonic() + seconds
        self._plant()
        while self.waiting:
            self._note()
            if self.waiting[0][0] >= self.bounder.enough:
                break
            if self.late():
                return f"the {seconds:g} seconds are over"
            if self.nodes >= max_nodes:
                return f"{max_nodes} branches have been bounded"
            branch = heapq.heappop(self.waiting)[2]
            children = branch.children()
            if not children:  # all is decided, and rounding keeps it from being closed
                self.floor = min(self.floor, branch.size)
            for child in children:
                self._bound(child)
        self._note()
        return "" if self._proved() else "rounding leaves a gap above the tolerance"

    def _plant(self) -> None:
        """The first branches: one for each way to reach the goal."""
        form = self.case.form()
        self.relus = len(form)
        enclosure = Enclosure(self.case.box, self.case.norm, self.bounder.radius)
        bounds = tightened(form, Bounds.unknown(len(form)), enclosure)
        self.undecided = int(bounds.open.sum())
        for goals in self.case.goals(form):
            self._bound(Node.root(form, bounds, goals))

    def _bound(self, branch: Node) -> None:
        self.nodes += 1
        self.bounder.raise_size(branch)
        if branch.closed:
            self.floor = min(self.floor, branch.size)
        else:
            heapq.heappush(self.waiting, (branch.size, next(self.number), branch))

    def _note(self) -> None:
        """What is proved by now: closed branches count with what was proved of them."""
        first = self.waiting[0][0] if self.waiting else inf
        self.lower = max(self.lower, min(first, self.floor, self.upper))
        if not self.history or self.history[-1][1:] != (self.lower, self.upper):
            self.history.append((self.nodes, self.lower, self.upper))
            if self.progress is not None:
                self.progress(self.nodes, self.lower, self.upper)

    def _proved(self) -> bool:
        if not isfinite(self.upper):
            return not self.waiting and not isfinite(self.lower)
        return self.upper - self.lower <= self.tolerance * self.upper

    def certificate(
        self, reason: str, attacked: float, *, unchanged: bool = False
    ) -> CertifiedMinimum:
        """What was found and proved; `unchanged` where the image itself reaches the goal."""
        if unchanged:
            self.best, self.upper = self.case.X[0].clone(), 0.0
        own = int(self.case.logits(self.case.X).argmax())
        Z = self.best
        return CertifiedMinimum(
            adversarial=Z,
            norm_name=self.case.norm,
            lower_bound=self.lower,
            upper_bound=self.upper,
            proved=unchanged or self._proved(),
            tolerance=self.tolerance,
            attack_size=attacked,
            from_class=own,
            to_class=-1 if Z is None else int(self.case.logits(Z[None]).argmax()),
            relus=self.relus,
            undecided=self.undecided,
            nodes=self.nodes,
            left=len(self.waiting),
            solver_passes=self.bounder.passes,
            history=tuple(self.history),
            reason=reason,
        )
