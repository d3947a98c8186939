"""The steps of a program's runs, and what they leave behind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from torch import Tensor

from guidxmage.engine.calls.call import Branch, Call, Frame, Hole, Ref, last_uses
from guidxmage.engine.calls.constants import Constant, Switched
from guidxmage.engine.program.bias import Noise, spread_of
from guidxmage.engine.rules.table import Rule
from guidxmage.engine.trail.decisions import Decisions
from guidxmage.engine.trail.gates import Gates
from guidxmage.engine.trail.trail import Trail
from guidxmage.errors import OffTrailError


class OtherBranchError(OffTrailError):
    """An image makes the network take another branch than the one that was captured."""


@dataclass(frozen=True)
class Recording:
    """What a concrete run leaves: logits (B, classes), the trail, and output norms for rounding."""

    logits: Tensor
    trail: Trail
    norms: dict[int, Tensor]


@dataclass(frozen=True)
class Pulled:
    """What a transposed run gives for R = K·B rows.

    weights (R, *input shape); sites and their shares of the bias (R, sites), float64; variance (R,)
    of the rounding error, in units of the unit roundoff squared, and `worst` (R,), its size if all
    errors pull in one direction, in units of the roundoff; watched: what one who looked on found,
    (R, …) by name.
    """

    weights: Tensor
    sites: tuple[str, ...]
    shares: Tensor
    variance: Tensor
    worst: Tensor
    watched: dict[str, Tensor]

    @property
    def bias_by_site(self) -> dict[str, Tensor]:
        """Site → (R,)."""
        return dict(zip(self.sites, self.shares.unbind(-1), strict=True))


@dataclass
class Step:
    """One call of a run: its rule, its output's shape, its arguments with holes for active ones."""

    call: Call
    rule: Rule
    shape: tuple[int, ...]
    holes: list[Any]
    _constants: list[Constant] | None = None
    _noise: Noise | None = None

    def constants(self, frame: Frame) -> list[Constant]:
        """The call's constants, kept where they do not depend on the decisions."""
        if self._constants is not None:
            return self._constants
        if self.rule.switched is not None:
            found = self.rule.switched(*self.holes, **self.call.kwargs)
            if found is not None:
                return [self._switched(frame, *found)]
        constants = constants_of(frame, self.rule, self.holes)
        if self.rule.kind == "affine" or self.rule.constant is None:
            self._constants = constants
        return constants

    def _switched(self, frame: Frame, plane: int, factor: float) -> Switched:
        """A number times one plane of the call's decisions."""
        make = self.rule.constant
        assert make is not None
        reading = replace(frame, owned=False)  # what is summed here is sent on afterwards
        return Switched(
            self.call.site,
            factor,
            frame.taken().planes[plane],
            gated=lambda g: reading.switched(g, plane),
            make=lambda: make(reading, *self.holes, **self.call.kwargs),
        )

    def noise(self, frame: Frame, constants: list[Constant]) -> Noise:
        """How the call rounds; the same in every run."""
        if self._noise is None:
            rule, kwargs = self.rule, self.call.kwargs
            assert rule.terms is not None
            per_image = max(1, prod(frame.shape) // frame.rows)
            spread = sum(spread_of(constant.weighed) for constant in constants) * per_image**0.5
            terms = rule.terms(frame, *self.holes, **kwargs)
            gain = rule.gain(frame, *self.holes, **kwargs) if rule.gain is not None else 0.0
            self._noise = Noise(terms, per_image, spread, gain, rule.sums)
        return self._noise


@dataclass(frozen=True)
class Recorded:
    """One call of the recorded run, and what is to be noted and forgotten with it.

    rule: None for what only a branch depends on. owned: its input may be overwritten. measured: its
    output's norms are taken. expired: values not needed any more. branch: what Python was told by
    the call.
    """

    call: Call
    rule: Rule | None
    convention: str
    owned: bool
    measured: bool
    expired: tuple[int, ...]
    branch: Branch | None = None


def recorded_run(  # noqa: PLR0917
    order: Sequence[Call | Branch],
    result: int,
    rules: Mapping[int, Rule],
    fresh: Set[int],
    measured: Set[int],
    conventions: Mapping[str, str],
) -> tuple[Recorded, ...]:
    """The steps of a recorded run.

    rules: of the calls that the result depends on, by value. fresh: values in memory of their own;
    measured: those whose norms are needed.
    """
    run = [one.call if isinstance(one, Branch) else one for one in order]
    uses: Counter[int | None] = Counter(id_ for call in run for id_ in call.reads)
    steps = []
    for one, call, expired in zip(order, run, last_uses(run, result), strict=True):
        branch = one if isinstance(one, Branch) else None
        rule = rules.get(call.id) if branch is None else None
        # A fresh tensor that nothing else, no view either, uses.
        first = call.args[0] if call.args else None
        source = first.id if isinstance(first, Ref) else None
        owned = source in fresh and uses[source] == 1
        convention = conventions.get(rule.family, "") if rule else ""
        needed = call.id in measured
        steps.append(Recorded(call, rule, convention, owned, needed, expired, branch))
    return tuple(steps)


def described(
    calls: Sequence[tuple[Call, Rule]],
    shapes: Mapping[int, tuple[int, ...]],
    blanks: Mapping[int, Hole],
    rows: int,
) -> list[Step]:
    """The steps of calls in order of execution; shapes and holes are those of all values."""
    return [Step(call, rule, shapes[call.id], call.arguments(blanks, rows)) for call, rule in calls]


def constants_of(frame: Frame, rule: Rule, holes: list[Any]) -> list[Constant]:
    """What a call adds whatever its input, with the call site each part comes from."""
    constants = [Constant(site, value) for site, value in frame.call.offsets]
    if rule.constant is not None:
        value = rule.constant(frame, *holes, **frame.call.kwargs)
        if value is not None:
            constants.append(Constant(frame.call.site, value, rule.kind != "affine"))
    return constants


def told(branch: Branch, args: list[Any]) -> Decisions | Gates:
    """The branch that Python takes, which must be the captured one."""
    if not branch.same(branch.now(args)):
        raise OtherBranchError(
            f"an image makes the network take another branch at '{branch.site}' than the image "
            "that was explained; explain it by itself"
        )
    return branch.entry()
