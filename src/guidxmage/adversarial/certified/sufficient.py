"""Which pixels fix the answer: whatever happens to the others within a radius, it stays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from time import monotonic
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from guidxmage.adversarial.certified.ascent import Ascent
from guidxmage.adversarial.certified.case import Case, check_size, in_double, one_image, rival_of
from guidxmage.adversarial.certified.decision import MOST_RELUS, CertifiedDecision, Decider
from guidxmage.adversarial.certified.growth import IRRELEVANT, NEEDED, UNKNOWN, Growth
from guidxmage.adversarial.heuristic.target_model import Goal, as_explainer, refuse_other_outputs
from guidxmage.engine.capture.as_found import running
from guidxmage.errors import InputError, UnsupportedOperatorError
from guidxmage.explainer import Explainer
from guidxmage.inputs.input_space import Images
from guidxmage.objects.label_map import IGNORED, read_regions
from guidxmage.reports.short_repr import short_repr

Progress = Callable[[int, int, int], None]

# Single pixels are climbed to only where there are no more than this many.
_MOST_UNITS = 20_000
# The questions about single objects take this share of the time at most.
_SINGLES = 0.3


@dataclass(frozen=True, eq=False)
class SufficientPixels:
    """Which units of an image (pixels, superpixels or objects) fix what the network answers.

    All irrelevant units *together* may change by at most `epsilon` in any way within [0, 1], the
    rest fixed, and the answer stays: `claim` is that proof. A needed unit has a counterexample: an
    image that differs within epsilon in units that are irrelevant and in this one alone, and that
    the network in float64 answers otherwise. Unknown units count as fixed.

    image (C, H, W) float64 in the explained space. norm: "linf" or "l2". rather_than: the class
    that must not pass `from_class`, −1 for any other. parts (H, W) int64: the number of the unit of
    each pixel, −1 for pixels that are left out and stay fixed. names: of the units, () for single
    pixels. verdicts: "needed", "irrelevant" or "unknown", by unit. counterexamples (K, C, H, W)
    float64 and counterexample_of (K,) int64, the unit that each shows to be needed. minimal: every
    unit is decided, so that none can be left out of the sufficient set. suffices and cannot_flip,
    by unit, () for single pixels: "proved", "refuted" or "unknown", whether fixing this unit alone
    fixes the answer, and whether changes of this unit alone leave it. queries: bounds and decisions
    asked for; nodes: branches bounded for them; relus: of the network, 0 where it is not bounded.
    reason: why not all is decided, else empty.
    """

    image: Tensor
    epsilon: float
    norm: str
    from_class: int
    rather_than: int
    parts: Tensor
    names: tuple[str, ...]
    verdicts: tuple[str, ...]
    counterexamples: Tensor
    counterexample_of: Tensor
    claim: CertifiedDecision
    minimal: bool
    suffices: tuple[str, ...]
    cannot_flip: tuple[str, ...]
    queries: int
    nodes: int
    seconds: float
    relus: int
    reason: str

    __repr__ = short_repr

    @property
    def needed(self) -> Tensor:
        """(H, W) bool."""
        return self._where(NEEDED)

    @property
    def irrelevant(self) -> Tensor:
        """(H, W) bool."""
        return self._where(IRRELEVANT)

    @property
    def unknown(self) -> Tensor:
        """(H, W) bool: not decided, pixels that were left out among them."""
        return ~(self.needed | self.irrelevant)

    @property
    def sufficient_set(self) -> Tensor:
        """(H, W) bool: fixing these pixels alone fixes the answer."""
        return ~self.irrelevant

    @property
    def size(self) -> int:
        """How many pixels the sufficient set has."""
        return int(self.sufficient_set.sum())

    def _where(self, verdict: str) -> Tensor:
        chosen = torch.tensor([*(found == verdict for found in self.verdicts), False])
        return chosen[self.parts]


def sufficient(
    model: nn.Module | Explainer,
    image: Images,
    epsilon: float,
    *,
    norm: str = "linf",
    order: str | Sequence[int] = "contribution",
    objects: Any = None,
    rather_than: int | None = None,
    label: int | None = None,
    seconds: float = 60,
    progress: Progress | None = None,
) -> SufficientPixels:
    """Which pixels are proved to be irrelevant together, which are needed, and which unknown.

    model, image: as for `certify`. epsilon: how far each pixel may move ("linf"), or the Euclidean
    length of all changes together ("l2"). order: in which units are tried to be left out;
    "contribution" begins with those that can change the answer least, otherwise all their numbers
    (a pixel's is row · width + column). objects: anything `read_regions` accepts, of the size of
    the image; units are then its objects and the background, pixels labelled 255 stay fixed. label:
    the class that the network must answer; rather_than: the only class that counts as another one.
    The search ends after `seconds`. progress: called with how many units are needed, irrelevant and
    unknown.

    Where the network is too large or not piecewise linear, nothing can be proved: units are needed
    or unknown, and `reason` says why. Raises InputError for unusable input. The network and the
    global random state are untouched.
    """
    began = monotonic()
    check_size(norm, "epsilon", epsilon)
    if not seconds > 0:
        raise InputError("seconds must be above 0")
    explainer = as_explainer(model)
    refuse_other_outputs(explainer)
    explainer = in_double(explainer)
    with running(explainer.model), torch.no_grad():
        X = one_image(explainer, image)
        case = _case(explainer, X, norm, label, rather_than)
        parts, names = _parts(objects, X)
        count = int(parts.max()) + 1
        ordered = _ordered(order, count)
        ascent = Ascent(case, epsilon)
        decider, reason = _decider(case, epsilon)
        units = parts.expand(X[0].shape).flatten().numpy()
        growth = Growth(ascent, decider, units, count, ordered, began + seconds)
        if progress is not None:
            growth.tell = lambda found: progress(*map(found.count, (NEEDED, IRRELEVANT, UNKNOWN)))
        singles = _singles(growth, began + _SINGLES * seconds) if names else ((), ())
        if decider is not None or count <= _MOST_UNITS:
            growth.run()
        return _report(growth, case, (parts, names), singles, (reason, began, seconds))


def _case(
    explainer: Explainer, X: Tensor, norm: str, label: int | None, rather_than: int | None
) -> Case:
    """The question, once it is one."""
    refuse_other_outputs(explainer, X)
    if not (float(X.min()) >= 0 and float(X.max()) <= 1):
        raise InputError("the image has values outside [0, 1]; give one in [0, 1]")
    logits = explainer.run(X)
    if not bool(torch.isfinite(logits).all()):
        raise InputError("the network's scores for this image are not finite")
    own = int(logits.argmax())
    if label is not None and int(label) != own:
        raise InputError(f"the network answers class {own}, not {label}; leave out label")
    rival = rival_of(rather_than, own, logits)
    goal = Goal(torch.tensor([own]), targeted=False)
    free = torch.ones_like(X[0], dtype=torch.bool)
    case = Case(explainer, X, goal, norm, free, rival)
    if not float(case.margin_of(logits)) < 0:
        raise InputError("two classes have the same score for this image: no answer can be fixed")
    return case


def _parts(objects: Any, X: Tensor) -> tuple[Tensor, tuple[str, ...]]:
    """The unit of each pixel (H, W), and the units' names."""
    height, width = X.shape[-2:]
    if objects is None:
        return torch.arange(height * width).reshape(height, width), ()
    regions = read_regions(objects, size=(height, width))
    there = [int(label) for label in np.unique(regions.labels) if label != IGNORED]
    if not there:
        raise InputError("every pixel is ignored (255); label at least one object")
    parts = torch.full((height, width), -1)
    labels = torch.from_numpy(regions.labels.copy())
    for number, label in enumerate(there):
        parts[labels == label] = number
    return parts, tuple(regions.names[label] for label in there)


def _ordered(order: str | Sequence[int], count: int) -> list[int] | None:
    if isinstance(order, str):
        if order != "contribution":
            raise InputError(f"order is {order!r}; give 'contribution' or the units' numbers")
        return None
    numbers = [int(number) for number in order]
    if sorted(numbers) != list(range(count)):
        raise InputError(f"order must hold each number from 0 to {count - 1} once")
    return numbers


def _decider(case: Case, epsilon: float) -> tuple[Decider | None, str]:
    """What bounds the network, or why nothing can."""
    try:
        return Decider(case, epsilon, MOST_RELUS), ""
    except (InputError, UnsupportedOperatorError) as error:
        return None, str(error)


def _singles(growth: Growth, until: float) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """For each unit: whether it alone suffices, and whether it alone cannot flip the answer."""
    inside, number = growth.units >= 0, growth.units
    sets = [inside & (number != unit) for unit in range(growth.count)]
    sets += [number == unit for unit in range(growth.count)]
    found = []
    for place, free in enumerate(sets):
        share = (until - monotonic()) / (len(sets) - place)
        found.append(growth.single(free, monotonic() + max(share, 0)))
    return tuple(found[: growth.count]), tuple(found[growth.count :])


def _report(
    growth: Growth,
    case: Case,
    regions: tuple[Tensor, tuple[str, ...]],
    singles: tuple[tuple[str, ...], tuple[str, ...]],
    how: tuple[str, float, float],
) -> SufficientPixels:
    """What was found; how: why the network is not bounded, when it began, the seconds allowed."""
    reason, began, seconds = how
    parts, names = regions
    minimal = UNKNOWN not in growth.verdicts
    if not (minimal or reason):
        reason = f"the {seconds:g} seconds are over"
    shown = sorted(growth.samples)
    images = [growth.samples[unit] for unit in shown]
    own, relus = int(case.goal.classes), 0 if growth.decider is None else growth.decider.relus
    claim = CertifiedDecision(
        verdict="proved",
        within=growth.ascent.radius,
        norm_name=case.norm,
        adversarial=None,
        size=inf,
        from_class=own,
        to_class=-1,
        relus=relus,
        undecided=growth.last.undecided,
        nodes=growth.last.nodes,
        left=0,
        seconds=growth.last.seconds,
        reason="",
    )
    return SufficientPixels(
        image=case.X[0].clone(),
        epsilon=growth.ascent.radius,
        norm=case.norm,
        from_class=own,
        rather_than=case.rather_than,
        parts=parts,
        names=names,
        verdicts=tuple(growth.verdicts),
        counterexamples=torch.stack(images) if images else case.X[:0].clone(),
        counterexample_of=torch.tensor(shown, dtype=torch.int64),
        claim=claim,
        minimal=minimal,
        suffices=singles[0],
        cannot_flip=singles[1],
        queries=growth.queries,
        nodes=growth.nodes,
        seconds=monotonic() - began,
        relus=relus,
        reason="" if minimal else reason,
    )
