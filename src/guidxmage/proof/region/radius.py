"""How large a ball around an image lies inside its region.

The region is an intersection of half-spaces: decision i is kept while its margin m_i is not used
up by the change of its input, ⟨row_i, Z − X⟩. So the largest L2 ball has radius min m_i/‖row_i‖₂,
and the largest L∞ ball min m_i/‖row_i‖₁. For few inputs all rows are computed, some columns at a
time. For many, ‖row_i‖₁ is bounded by one run of ones through the absolute weights: sound, but
loose, by orders of magnitude in deep networks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import product
from math import inf
from typing import Any

import numpy as np
import torch
from torch import Tensor

from guidxmage.attribution.attribution import Attribution
from guidxmage.engine.calls.call import Call
from guidxmage.engine.capture.user_model import untouched
from guidxmage.engine.program.precision import widened
from guidxmage.engine.program.program import Program
from guidxmage.engine.rules import rule_of
from guidxmage.engine.rules.choices import OfWindows
from guidxmage.engine.symbolic import Network
from guidxmage.engine.trail.decisions import Decisions
from guidxmage.engine.trail.trail import Trail
from guidxmage.errors import InputError, UnsupportedOperatorError
from guidxmage.proof.modular.forward import windows_of
from guidxmage.proof.rounding.magnitudes import with_magnitudes, without_magnitudes
from guidxmage.proof.rounding.margins import margins_of, shifted

MOST_COLUMNS = 4096
_CHUNK = 32


@dataclass(frozen=True)
class Validity:
    """Balls around the image in which every decision stays as it is, in the explained space.

    l2, linf: radii; inf where no decision depends on the image. method: "exact" (no larger ball
    does) or "lower bound" (the region reaches at least as far). site, position: of the decision
    that is nearest in L∞.
    """

    l2: float
    linf: float
    method: str
    site: str
    position: tuple[int, ...]

    def __str__(self) -> str:
        where = f" ({self.site} at {list(self.position)})" if self.site else ""
        return f"region: {self.words()}{where}"

    def words(self) -> str:
        """Both radii, and whether they are exact."""
        sign = "=" if self.method == "exact" else "≥"
        return f"L2 radius {sign} {self.l2:.3g}, L∞ radius {sign} {self.linf:.3g}"

    def to_json(self) -> dict[str, Any]:
        """As JSON values; infinite radii are null."""
        found = asdict(self)
        return {key: None if value == inf else value for key, value in found.items()}


def validity_radius(explanation: Attribution, *, columns: int = MOST_COLUMNS) -> Validity:
    """The largest balls around a single explained image that lie in its region.

    columns: up to so many input numbers all rows of the path condition are computed, which takes
    as many affine runs. Margins are those of float64. Raises InputError for a batch, a photo's own
    space and explanations without their network; UnsupportedOperatorError for operators without
    regions, and for networks that branch on what they compute from the image.
    """
    network = explanation.symbolic_model.network
    if network is None or network.model is None:
        raise InputError(
            "load the explanation with its explainer to ask how far its region reaches"
        )
    if explanation.batched or explanation.space == "photo":
        raise InputError("validity radii are of a single image, in pixels or the network's input")
    program = network.program
    program.refuse_branches()
    exact = explanation.input.numel() <= columns
    refused = program.smooth[0] if program.smooth else None
    if not exact and refused is None:  # weights are replaced by their magnitudes
        refused = without_magnitudes(program)
    if refused is not None:
        raise UnsupportedOperatorError(
            f"{refused.op} at '{refused.site}' has no rule for how far its decisions reach"
        )
    with untouched(network.model):
        wide = widened(program)
        half_spaces = _HalfSpaces(
            wide, explanation.trail, network, explanation.input[None].double()
        )
        return half_spaces.exact() if exact else half_spaces.bounded()


class _HalfSpaces:
    """The path condition of one image: margins, and how large the rows are."""

    def __init__(self, program: Program, trail: Trail, network: Network, Z: Tensor) -> None:
        self.program, self.trail, self.network, self.Z = program, trail, network, Z
        self.calls = [c for c in program.calls if _decides(c)]
        # Where images are stacked along the first dimension, directions are taken one by one.
        alone = all(shape[:1] == (1,) for shape in program.shapes(1).values())
        self.rows = _CHUNK if program.batched and alone else 1
        X = network.to_input(Z)
        values = self._run(program, X, affine=True)
        other = program.record(X, norms=False).trail
        self.gaps = {call.id: self._gap(call, values, other) for call in self.calls}

    def _run(self, program: Program, start: Tensor, *, affine: bool) -> dict[int, Tensor]:
        """What decisions are taken on, in a run along the trail: call → its inputs' values."""
        wanted = {id_ for call in self.calls for id_ in call.inputs}
        found: dict[int, Tensor] = {0: start}

        def keep(call: Call, value: Tensor) -> None:
            if call.id in wanted:
                found[call.id] = value.clone()

        program.push(self.trail, start, affine=affine, visit=keep)
        return found

    def _gap(self, call: Call, values: dict[int, Tensor], other: Trail) -> Tensor:
        """Distances to the other decisions, like the input; (P, …) for windows' P competitors."""
        entry = self.trail.decisions[call.site]
        inputs = [values[id_] for id_ in call.inputs]
        if _is_window(call):
            taken, rest = _competitors(call, inputs[0], entry)
            gap = taken - rest
        else:
            margins = margins_of(call, inputs, entry)
            if margins is None:
                raise UnsupportedOperatorError(
                    f"{call.op} at '{call.site}' has no rule for how far its decisions reach"
                )
            gap = margins.gap
        # Where float64 decides otherwise, the image is not in the region that was recorded.
        changed = entry.differs(other.decisions[call.site])
        own = gap.shape[1:] if _is_window(call) else gap.shape
        return gap.clamp(min=0).masked_fill(changed.reshape(own), 0)

    def exact(self) -> Validity:
        """All rows: their 1- and 2-norms, columns added up chunk by chunk."""
        sums = {id_: torch.zeros_like(gap) for id_, gap in self.gaps.items()}
        squares = {id_: torch.zeros_like(gap) for id_, gap in self.gaps.items()}
        for directions in self._columns():
            values = self._run(self.program, directions, affine=False)
            for call in self.calls:
                rate = self._rates(call, values)
                sums[call.id] += rate.abs().sum(0)
                squares[call.id] += rate.square().sum(0)
        roots = {id_: square.sqrt() for id_, square in squares.items()}
        l2, _ = self._nearest(roots)
        linf, where = self._nearest(sums)
        return Validity(l2, linf, "exact", *where)

    def _columns(self) -> Iterator[Tensor]:
        """Unit steps of every number of the explained image, as the network's input moves."""
        count = self.Z.numel()
        origin = self.network.to_input(torch.zeros_like(self.Z))
        for first in range(0, count, self.rows):
            size = min(self.rows, count - first)
            steps = torch.zeros(size, count, dtype=self.Z.dtype)
            steps[torch.arange(size), torch.arange(first, first + size)] = 1
            yield self.network.to_input(steps.reshape(size, *self.Z.shape[1:])) - origin

    def _rates(self, call: Call, values: dict[int, Tensor]) -> Tensor:
        """How the decisions' inputs move with each of R directions, (R, *shape of the gap)."""
        inputs = [values[id_] for id_ in call.inputs]
        if not _is_window(call):
            moved = inputs[0] if len(inputs) == 1 else inputs[0] - inputs[1]
            return moved.reshape(-1, *self.gaps[call.id].shape)
        entry = self.trail.decisions[call.site]
        own = inputs[0].reshape(-1, *self.program.shapes(1)[call.inputs[0]])
        pairs = [_competitors(call, one, entry, missing=0.0) for one in own]
        return torch.stack([taken - rest for taken, rest in pairs])

    def bounded(self) -> Validity:
        """One run of ones through the absolute weights bounds every row's 1-norm."""
        ones = torch.ones_like(self.Z)
        origin = self.network.to_input(torch.zeros_like(self.Z))
        start = (self.network.to_input(ones) - origin).abs()
        absolute = with_magnitudes(self.program, torch.abs)
        values = self._run(absolute, start, affine=False)
        norms = {}
        for call in self.calls:
            inputs = [values[id_] for id_ in call.inputs]
            entry = self.trail.decisions[call.site]
            if _is_window(call):
                taken, rest = _competitors(call, inputs[0], entry, missing=0.0)
                norms[call.id] = taken + rest
            else:
                norms[call.id] = inputs[0] if len(inputs) == 1 else inputs[0] + inputs[1]
        radius, where = self._nearest(norms)
        # The run of ones rounds, too; and an L2 ball lies in the L∞ ball of the same radius.
        radius *= 1 - 1e-6
        return Validity(radius, radius, "lower bound", *where)

    def _nearest(self, norms: dict[int, Tensor]) -> tuple[float, tuple[str, tuple[int, ...]]]:
        best: float = inf
        where: tuple[str, tuple[int, ...]] = ("", ())
        for call in self.calls:
            gap, norm = self.gaps[call.id], norms[call.id].reshape(self.gaps[call.id].shape)
            distance = torch.where(norm > 0, gap / norm.clamp(min=1e-300), inf)
            least = float(distance.min()) if distance.numel() else inf
            if least < best:
                place = np.unravel_index(int(distance.argmin()), tuple(distance.shape))
                shape = self.trail.decisions[call.site].shape
                best, where = least, (call.site, tuple(int(i) for i in place)[-len(shape) :])
        return best, where


def _decides(call: Call) -> bool:
    rule = rule_of(call)
    return rule is not None and rule.kind == "decision"


def _is_window(call: Call) -> bool:
    return _windows(call) is not None


def _windows(call: Call) -> OfWindows | None:
    rule = rule_of(call)
    return rule.choice if rule is not None and isinstance(rule.choice, OfWindows) else None


def _competitors(
    call: Call, x: Tensor, entry: Decisions, missing: float = -inf
) -> tuple[Tensor, Tensor]:
    """What each window of x (rows, …) took and what its P positions offer, (P, rows, …) each.

    Positions outside of the plane, and the one that was taken, are as far away as can be: the
    difference is 0 − `missing` there.
    """
    choice = _windows(call)
    assert choice is not None
    dims = choice.dims
    index = entry.index()
    starts, reach, ends = windows_of(call, dims, x.shape[-dims:], index.shape[-dims:])
    offers = [shifted(x, starts, ends, steps, outside=missing) for steps in product(*reach)]
    stacked = torch.stack(offers)
    taken = stacked.gather(0, index[None])
    own = torch.arange(len(stacked)).reshape(-1, *[1] * index.ndim) == index
    outside = torch.stack(
        [shifted(torch.zeros_like(x), starts, ends, s, outside=1.0) for s in product(*reach)]
    ).bool()
    away = own | outside
    return (
        torch.where(away, torch.zeros_like(taken), taken).expand_as(stacked),
        torch.where(away, torch.full_like(stacked, missing), stacked),
    )
