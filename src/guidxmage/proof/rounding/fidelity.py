"""Whether the trail and the program are those of the network as it is deployed.

A decision is *ambiguous* where its margin is within the error that rounding made in its layer:
exact arithmetic might decide otherwise there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from guidxmage.engine.calls.call import Call
from guidxmage.engine.capture.execution import plain_run
from guidxmage.engine.program.program import Program
from guidxmage.engine.program.steps import Recording
from guidxmage.engine.rules import is_stepwise, rule_of
from guidxmage.engine.trail.decisions import Decisions
from guidxmage.engine.trail.trail import Trail
from guidxmage.errors import InputError
from guidxmage.proof.rounding.margins import Margins, margins_of

LISTED = 20
# float32's unit roundoff over float64's: by so much smaller are the errors of a float64 run.
_NARROWER = 2.0**-29
# How many times the error that this machine's rounding shows another machine's may be.
_SLACK = 8.0


@dataclass(frozen=True)
class Doubt:
    """One ambiguous decision: where, its margin, and the error of its layer."""

    site: str
    position: tuple[int, ...]
    margin: float
    error: float


@dataclass(frozen=True)
class TrailFidelity:
    """Which decisions exact arithmetic might take otherwise.

    decisions: in all; ambiguous: of them; ties: windows whose two best are the same number in both
    precisions, which choose alike for every purpose but the region's; by_site: ambiguous decisions
    per call site; listed: the closest of them. changed: decisions that the other precision took
    otherwise. moved, moved_by_other: relative change of Δ were all ambiguous decisions flipped, or
    were all taken as in the other precision.
    """

    decisions: int
    ambiguous: int
    ties: int
    by_site: dict[str, int]
    listed: tuple[Doubt, ...]
    changed: int
    moved: float
    moved_by_other: float


@dataclass(frozen=True)
class ModelFidelity:
    """Whether the captured program gives what the user's module gives.

    identical: bit for bit; difference: the largest between two logits, and what of it rounding
    explains, where they differ: some modules run kernels in evaluation mode that have no operators.
    """

    identical: bool
    difference: float
    explained: float
    dtype: str
    device: str
    layout: str
    tf32: bool
    torch: str
    threads: int


@torch.no_grad()
def model_fidelity(model: nn.Module, program: Program, X: Tensor, logits: Tensor) -> ModelFidelity:
    """Run the module on X (1, …), and compare its logits with those of the program (classes,)."""
    own = plain_run(model, X, program.writes)[0]
    weights = [p for p in model.parameters() if p.ndim == 4]
    last = [p for p in weights if p.is_contiguous(memory_format=torch.channels_last)]
    mixed = [p for p in weights if not p.is_contiguous()]
    return ModelFidelity(
        identical=bool(torch.equal(own, logits.to(own))),
        difference=float((own.double() - logits.to(own).double()).abs().max()),
        explained=0.0,
        dtype=str(program.dtype).removeprefix("torch."),
        device=program.device.type,
        layout="channels last" if mixed and len(last) == len(weights) else "contiguous",
        tf32=bool(program.header.get("tf32", False)),
        torch=str(torch.__version__),
        threads=torch.get_num_threads(),
    )


@dataclass(frozen=True)
class Run:
    """One run of an image (1, …): its recording and all values by call (0: X), reals in float64."""

    recording: Recording
    values: Mapping[int, Tensor]

    @classmethod
    def of(cls, program: Program, X: Tensor, *, norms: bool = False) -> Run:
        """Run a program on X, in its own precision."""
        X = X.to(program.dtype)
        values: dict[int, Tensor] = {0: X.double()}

        def keep(call: Call, value: Tensor) -> None:
            real = value.is_floating_point()  # else a mask, or positions
            values[call.id] = value.to(torch.float64, copy=True) if real else value.clone()

        return cls(program.record(X, norms=norms, visit=keep), values)

    @property
    def trail(self) -> Trail:
        """The decisions of this run."""
        return self.recording.trail


@dataclass(frozen=True)
class Runs:
    """An image run in the deployed precision and in the other one.

    narrow: the deployed one is float32, so that float64 shows its very errors; else they are taken
    to be by the ratio of the precisions smaller than those of float32.
    """

    program: Program
    deployed: Run
    other: Run

    @classmethod
    def of(cls, program: Program, wide: Program, X: Tensor) -> Runs:
        """wide: of the two precisions the float64 program, unfolded."""
        from guidxmage.engine.program.precision import narrowed

        other = narrowed(wide) if program.dtype == torch.float64 else wide
        return cls(program, Run.of(program, X, norms=True), Run.of(other, X))

    def error(self, call: Call) -> float:
        """The largest error that rounding made in what a call is given."""
        own, other = self.deployed.values, self.other.values
        scale = 1.0 if self.program.dtype == torch.float32 else _NARROWER
        return scale * max(float((own[i] - other[i]).abs().max()) for i in call.inputs)

    def margins(self, call: Call, run: Run) -> Margins | None:
        """How narrowly a call decided in one of the runs, as the deployed one decided."""
        if call.keeps:  # what it is compared with is no value of a run in real numbers
            return None
        entry = self.deployed.trail.decisions[call.site]
        return margins_of(call, [run.values[i] for i in call.inputs], entry)


@dataclass(frozen=True)
class Doubts:
    """The ambiguous decisions of one image, whatever is explained of it.

    Counts as in `TrailFidelity`; flipped: the trail with all ambiguous decisions taken otherwise.
    """

    ambiguous: dict[str, int]
    ties: int
    listed: tuple[Doubt, ...]
    changed: int
    flipped: Trail
    other: Trail

    @classmethod
    def of(cls, runs: Runs) -> Doubts:
        """Compare a program with its counterpart in the other precision."""
        trail = runs.deployed.trail
        flipped, by_site = dict(trail.decisions), {}
        listed: list[Doubt] = []
        ties = 0
        for call in _deciding(runs.program):
            margins = runs.margins(call, runs.deployed)
            rivals = None if margins is None else runs.margins(call, runs.other)
            if margins is None or rivals is None:
                continue
            entry, error = trail.decisions[call.site], runs.error(call)
            tied = (margins.gap == 0) & (rivals.gap == 0) & margins.among_several
            open_ = (margins.gap <= error) & ~tied & (error > 0)
            ties += int(tied.sum())
            count = int(open_.sum())
            if count:
                by_site[call.site] = count
                flipped[call.site] = _flipped(entry, open_, margins)
                listed += _listed(call, entry, open_, margins, error)
        changed = trail.without_branches().hamming(runs.other.trail).values()
        return cls(
            ambiguous=by_site,
            ties=ties,
            listed=tuple(sorted(listed, key=lambda doubt: doubt.margin)[:LISTED]),
            changed=sum(int(n.sum()) for n in changed),
            flipped=replace(trail, decisions=flipped),
            other=runs.other.trail,
        )


def trail_fidelity(
    runs: Runs, wide: Program, cotangent: Tensor, weights: Tensor | None = None
) -> TrailFidelity:
    """Which decisions of one image are in doubt, and what Δ of a cotangent (1, classes) owes them.

    weights: Δ in float64 along the recorded trail, where it is known.
    """
    return fidelity_of(Doubts.of(runs), runs.deployed.trail, wide, cotangent, weights)


def fidelity_of(
    doubts: Doubts, trail: Trail, wide: Program, cotangent: Tensor, weights: Tensor | None
) -> TrailFidelity:
    """`trail_fidelity` where the doubts about the image's decisions are known."""

    def delta(one: Trail) -> Tensor:
        return wide.pull(one, cotangent.double()).weights

    def moved(other: Trail) -> float:
        own = delta(trail) if weights is None else weights
        size = float(torch.linalg.vector_norm(own))
        return float(torch.linalg.vector_norm(delta(other) - own)) / size if size else 0.0

    return TrailFidelity(
        decisions=trail.count,
        ambiguous=sum(doubts.ambiguous.values()),
        ties=doubts.ties,
        by_site=doubts.ambiguous,
        listed=doubts.listed,
        changed=doubts.changed,
        moved=moved(doubts.flipped) if doubts.ambiguous else 0.0,
        moved_by_other=moved(doubts.other) if doubts.changed else 0.0,
    )


def unexplained(runs: Runs, stored: Trail) -> str | None:
    """Why a stored trail of the image is not one of it; None where rounding explains all of it.

    Another machine sums in another order, and may take decisions otherwise whose margin is within
    the error of their layer: no others, and of several choices no other than the second best.
    """
    recorded = runs.deployed.trail
    try:
        if bool(recorded.same(stored).all()):
            return None
        differing = [site for site in recorded if not bool(recorded[site].same(stored[site]).all())]
    except (InputError, ValueError):
        return "it is of another network"
    calls = {call.site: call for call in _deciding(runs.program)}
    for site in differing:
        where = recorded[site].differs(stored[site])
        if site not in calls:  # what Python was told, or a value that changes by steps
            return f"{int(where.sum())} values at {site} are not those of the image"
        margins = runs.margins(calls[site], runs.deployed)
        where = where if margins is None else where.reshape(margins.gap.shape)
        if margins is None or float(margins.gap[where].max()) > _SLACK * runs.error(calls[site]):
            return f"{int(where.sum())} decisions at {site} are not those of the image"
        if not bool(_flipped(recorded[site], where, margins).same(stored[site]).all()):
            return f"{int(where.sum())} decisions at {site} are none that the image could take"
    return _other_gates(runs, stored)


def _other_gates(runs: Runs, stored: Trail) -> str | None:
    """Why numbers at smooth operators are not those of the image."""
    for site, gate in runs.deployed.trail.gates.items():
        wide = runs.other.trail.gates[site]
        pairs = zip(gate.planes, wide.planes, stored.gates[site].planes, strict=True)
        for own, other, given in pairs:
            error = float((own.double() - other.double()).abs().max())
            size = float(own.double().abs().max())
            least = torch.finfo(own.dtype).eps * size
            if float((own.double() - given.double()).abs().max()) > _SLACK * max(error, least):
                return f"the numbers at {site} are not those of the image"
    return None


def _deciding(program: Program) -> list[Call]:
    """The calls that decide."""
    rules = ((call, rule_of(call)) for call in program.calls)
    return [
        call
        for call, rule in rules
        if rule is not None and rule.kind == "decision" and not is_stepwise(call)
    ]


def _flipped(entry: Decisions, where: Tensor, margins: Margins) -> Decisions:
    """The same site with the decisions in some places taken the other way."""
    if entry.kind == "index":
        index = torch.where(where, margins.other, entry.index())
        return Decisions.from_index(index, 2 ** len(entry.planes)).per_image(entry.images)
    planes = [entry.plane(number).bool() for number in range(len(entry.planes))]
    inside = planes[0] ^ where
    if len(planes) == 1:
        return Decisions.from_bits(inside).per_image(entry.images)
    # Out of the inside one leaves for the nearer bound; from below or above one comes in.
    above = torch.where(where, planes[0] & margins.other.bool(), planes[1])
    return Decisions.from_bits(inside, above).per_image(entry.images)


def _listed(
    call: Call, entry: Decisions, where: Tensor, margins: Margins, error: float
) -> list[Doubt]:
    flat = where.flatten().nonzero()[:, 0]
    gaps = margins.gap.flatten()[flat]
    order = gaps.argsort()[:LISTED].tolist()
    return [
        Doubt(
            call.site,
            tuple(int(i) for i in np.unravel_index(int(flat[n]), _shape(entry))),
            float(gaps[n]),
            error,
        )
        for n in order
    ]


def _shape(entry: Decisions) -> Sequence[int]:
    return entry.shape or (1,)
