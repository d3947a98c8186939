"""A set of units that are free together grows for as long as it is proved that nothing changes.

A unit is a pixel, a superpixel or an object. Bounds are tried first, on many units at once, then
climbs that show units to be needed, then branching. What is shown to be needed stays so when more
is free, and what is proved for a set holds for its subsets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import monotonic

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from guidxmage.adversarial.certified.ascent import Ascent
from guidxmage.adversarial.certified.decision import Answer, Decider

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]
Numbers = NDArray[np.int64]

NEEDED, IRRELEVANT, UNKNOWN = "needed", "irrelevant", "unknown"
# Descent steps of a bound that is tried on many units at once.
_STEPS = 8
# A question gets this share of an equal part of the time that is left, and no less than so many s.
_SHARE, _LEAST = 4.0, 0.05
# So many rows are climbed from at a time.
_ROWS = 256


@dataclass
class Growth:
    """The units decided so far.

    ascent: climbs for the case; decider: None where the network is too large to be bounded. units
    (n,): the number of the unit of each entry, −1 for entries that stay fixed. order: of the units,
    or None for the smallest contribution first. free (U,): irrelevant together.
    """

    ascent: Ascent
    decider: Decider | None
    units: Numbers
    count: int
    order: Sequence[int] | None
    until: float
    tell: Callable[[list[str]], None] | None = None
    verdicts: list[str] = field(default_factory=list)
    samples: dict[int, Tensor] = field(default_factory=dict)
    queries: int = 0
    nodes: int = 0
    last: Answer = field(default_factory=lambda: Answer("proved"))
    start: Array | None = None

    def __post_init__(self) -> None:
        self.verdicts = [UNKNOWN] * self.count
        self.free = np.zeros(self.count, dtype=bool)

    # --- what is known -----------------------------------------------------------------------

    @property
    def late(self) -> bool:
        """Whether the time is over."""
        return monotonic() > self.until

    def waiting(self) -> list[int]:
        """Units that are not decided, in order."""
        numbers = range(self.count) if self.order is None else self.order
        return [n for n in numbers if self.verdicts[n] == UNKNOWN]

    def entries(self, more: Sequence[int] | Numbers = ()) -> Flags:
        """The entries (n,) of the free units and some more."""
        chosen = self.free.copy()
        chosen[np.asarray(more, dtype=np.int64)] = True
        return np.asarray((self.units >= 0) & chosen[self.units])

    def single(self, free: Flags, until: float) -> str:
        """Whether no change of just these entries (n,) flips the answer.

        Returns "proved", "refuted" or "unknown".
        """
        self.queries += 1
        start = np.zeros((1, len(free)))
        if self.ascent.sample(self.ascent.climb(start, free[None])[0]) is not None:
            return "refuted"
        if self.decider is None:
            return "unknown"
        answer = self.decider.ask(free, min(self.until, until))
        self.nodes += answer.nodes
        return "refuted" if answer.verdict == "sample" else answer.verdict

    # --- the search --------------------------------------------------------------------------

    def run(self) -> None:
        """Until every unit is decided or the time is over."""
        if self.decider is None:
            self._climb()
            return
        while not self.late and self._by_bounds():
            pass
        share = _SHARE
        while not self.late and self.waiting():
            self._climb()
            self._by_branches(share)
            share *= 4

    def _by_bounds(self) -> bool:
        """Free as many units as one bound allows; whether there were any."""
        assert self.decider is not None
        waiting = self.waiting()
        if not waiting:
            return False
        self.decider.narrow(self.entries(waiting))
        if self.order is None:
            waiting = self._ranked(waiting)
        low, high = 0, len(waiting) + 1
        size = len(waiting)
        while high - low > 1 and not self.late:
            if self._bounded(waiting[:size]):
                low = size
            else:
                high = size
            size = (low + high) // 2
        self._release(waiting[:low], Answer("proved", nodes=1))
        return low > 0

    def _bounded(self, more: Sequence[int]) -> bool:
        """Whether bounds alone prove that some more units may be free."""
        assert self.decider is not None
        self.queries += 1
        self.nodes += 1
        found = self.decider.root(self.entries(more), _STEPS)[1]
        return bool((found.high < 0).all())

    def _ranked(self, waiting: list[int]) -> list[int]:
        """Units by what they contribute at most to a goal, as a share of what that goal lacks."""
        assert self.decider is not None
        relaxed, found = self.decider.root(self.entries(waiting), _STEPS)
        functions = relaxed.functions(found.domains)
        box = relaxed.enclosure.box.within(self.ascent.radius)
        slopes = functions[:, 1:]
        gains = np.maximum(slopes * box.high, slopes * box.low)
        here = relaxed.form.run(np.zeros((1, len(box.low))))[1][0]
        lacks = found.domains.weights @ np.maximum(-(relaxed.goals @ here), 0)
        shares = (gains / np.maximum(lacks, 1e-12)[:, None]).max(0)
        inside = self.units >= 0
        totals = np.bincount(self.units[inside], shares[inside], self.count)
        self.start = found.delta[int(found.high.argmax())]
        return sorted(waiting, key=lambda n: float(totals[n]))

    def _release(self, units: Sequence[int], answer: Answer) -> None:
        """These units are irrelevant, together with those that are free."""
        if not len(units):
            return
        for unit in units:
            self.verdicts[unit] = IRRELEVANT
        self.free[np.asarray(units)] = True
        self.last = answer
        self._news()

    def _keep(self, unit: int, sample: Tensor) -> None:
        self.verdicts[unit] = NEEDED
        self.samples[unit] = sample
        self._news()

    def _news(self) -> None:
        if self.tell is not None:
            self.tell(self.verdicts)

    def _climb(self) -> None:
        """Look for samples for each waiting unit by itself, beside those that are free."""
        waiting = self.waiting()
        starts = [np.zeros(len(self.units))]
        starts += [] if self.start is None else [self.start]
        for first in range(0, len(waiting), _ROWS):
            for start in starts:
                if self.late:
                    return
                chosen = [n for n in waiting[first : first + _ROWS] if n not in self.samples]
                if not chosen:
                    break
                free = np.stack([self.entries([unit]) for unit in chosen])
                best = self.ascent.climb(np.repeat(start[None], len(chosen), 0), free)
                self._try(chosen, best)

    def _try(self, units: Sequence[int], deltas: Array) -> None:
        """Keep those perturbations (m, n) of m units that the network says are samples."""
        margins = self.ascent.case.margins(self.ascent.case.images(deltas))
        for row in np.flatnonzero(margins > 0).tolist():
            sample = self.ascent.sample(deltas[row])
            if sample is not None:
                self._keep(units[row], sample)

    def _by_branches(self, share: float) -> None:
        """Decide the waiting units by branching, several at once while that works."""
        waiting, size = self.waiting(), 1
        while waiting and not self.late:
            batch = waiting[:size]
            answer = self._ask(batch, share, len(waiting))
            if answer.verdict == "proved":
                self._release(batch, answer)
                waiting = waiting[size:]
                size *= 2
                self._climb_again(waiting)
                waiting = [n for n in waiting if self.verdicts[n] == UNKNOWN]
            elif len(batch) > 1:
                size = max(1, len(batch) // 2)
                self._learn(answer, waiting)
                waiting = [n for n in waiting if self.verdicts[n] == UNKNOWN]
            else:
                if answer.sample is not None:
                    self._keep(batch[0], answer.sample)
                    self._learn(answer, waiting)
                waiting = [n for n in waiting[1:] if self.verdicts[n] == UNKNOWN]

    def _ask(self, batch: Sequence[int], share: float, parts: int) -> Answer:
        assert self.decider is not None
        self.queries += 1
        now = monotonic()
        allowed = max(_LEAST, share * (self.until - now) / max(parts, 1))
        answer = self.decider.ask(self.entries(batch), min(self.until, now + allowed))
        self.nodes += answer.nodes
        return answer

    def _climb_again(self, waiting: Sequence[int]) -> None:
        if waiting:
            self._climb()

    def _learn(self, answer: Answer, waiting: Sequence[int]) -> None:
        """A sample for a batch may be one for single units, too."""
        if answer.sample is None:
            return
        delta = self.ascent.case.delta(answer.sample)
        self.start = delta
        units = [n for n in waiting if self.verdicts[n] == UNKNOWN][:_ROWS]
        if units:
            free = np.stack([self.entries([unit]) for unit in units])
            self._try(units, np.where(free, delta, 0))
