"""The steps of a program's runs, and what they leave behind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from torch import Tensor

from guidxmage.engine.call import Call, Frame, Hole
from guidxmage.engine.ledger import Constant, Switched, spread_of
from guidxmage.engine.rules.table import Rule
from guidxmage.engine.trail import Trail


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
    of the rounding error, in units of the unit roundoff squared; maps: site → (R, *positions) when
    they were asked for.
    """

    weights: Tensor
    sites: tuple[str, ...]
    shares: Tensor
    variance: Tensor
    maps: dict[str, Tensor]

    @property
    def bias_by_site(self) -> dict[str, Tensor]:
        """Site → (R,)."""
        return dict(zip(self.sites, self.shares.unbind(-1), strict=True))


@dataclass
class Step:
    """One call of a run: its rule, its output's shape, its arguments with holes for active inputs.

    In a pull, `wanted` tells that the call which computed the input has use for the sums and norms
    of what this one sends back.
    """

    call: Call
    rule: Rule
    shape: tuple[int, ...]
    holes: list[Any]
    wanted: bool = False
    _constants: list[Constant] | None = None
    _noise: tuple[float, float] | None = None

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
        return Switched(
            self.call.site,
            factor,
            frame.taken().planes[plane],
            summed=lambda g: frame.sums_where(g, plane),
            gated=lambda g: frame.switched(g, plane),
            make=lambda: make(frame, *self.holes, **self.call.kwargs),
        )

    def noise(self, frame: Frame, constants: list[Constant]) -> tuple[float, float]:
        """Terms summed for one output value, per value, and the size that constants add to it."""
        if self._noise is None:
            count = self.rule.terms
            assert count is not None
            per_image = prod(frame.shape) // frame.rows
            spread = sum(spread_of(constant.value) for constant in constants) * per_image**0.5
            self._noise = count(frame, *self.holes, **self.call.kwargs) / per_image, spread
        return self._noise


@dataclass(frozen=True)
class Recorded:
    """One call of the recorded run, and what is to be noted and forgotten with it.

    owned: its input may be overwritten. measured: its output's norms are taken; measures: it takes
    those of its input, value number `measures`, on the way. expired: values not needed any more.
    """

    call: Call
    rule: Rule
    convention: str
    owned: bool
    measured: bool
    measures: int | None
    expired: tuple[int, ...]


def described(
    calls: Sequence[tuple[Call, Rule]],
    shapes: Mapping[int, tuple[int, ...]],
    blanks: Mapping[int, Hole],
    rows: int,
) -> list[Step]:
    """The steps of calls in order of execution; shapes and holes are those of all values."""
    steps: list[Step] = []
    summed: set[int] = set()  # values of whose cotangents sums or norms are wanted
    for call, rule in calls:
        wanted = rule.measures and not summed.isdisjoint(call.inputs)
        steps.append(Step(call, rule, shapes[call.id], call.arguments(blanks, rows), wanted))
        if call.op == "aten.add.Tensor":  # a constant's share, or what it passes on to its inputs
            own = len(call.inputs) == 1 or not summed.isdisjoint(call.inputs)
        else:
            own = bool(call.offsets) or rule.terms is not None
        if own:
            summed.add(call.id)
    return steps


def constants_of(frame: Frame, rule: Rule, holes: list[Any]) -> list[Constant]:
    """What a call adds whatever its input, with the call site each part comes from."""
    constants = [Constant(site, value) for site, value in frame.call.offsets]
    if rule.constant is not None:
        value = rule.constant(frame, *holes, **frame.call.kwargs)
        if value is not None:
            constants.append(Constant(frame.call.site, value, rule.kind != "affine"))
    return constants
