"""Whether the trail and the program are those of the network as it is deployed.

A decision is *ambiguous* where its margin is within the error that rounding made in its layer:
exact arithmetic might decide otherwise there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from guidxmage.engine.call import Call
from guidxmage.engine.decisions import Decisions
from guidxmage.engine.program import Program
from guidxmage.engine.rules import rule_of
from guidxmage.engine.trail import Trail
from guidxmage.proof.margins import Margins, margins_of

LISTED = 20
# float32's unit roundoff over float64's: by so much smaller are the errors of a float64 run.
_NARROWER = 2.0**-29


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

    identical: bit for bit; difference: the largest between two logits.
    """

    identical: bool
    difference: float
    dtype: str
    device: str
    layout: str
    tf32: bool
    torch: str
    threads: int


@torch.no_grad()
def model_fidelity(model: nn.Module, program: Program, X: Tensor, logits: Tensor) -> ModelFidelity:
    """Run the module on the same input, (1, …), and compare its logits (classes,)."""
    own = model(X)[0]
    weights = [p for p in model.parameters() if p.ndim == 4]
    last = [p for p in weights if p.is_contiguous(memory_format=torch.channels_last)]
    mixed = [p for p in weights if not p.is_contiguous()]
    return ModelFidelity(
        identical=bool(torch.equal(own, logits.to(own))),
        difference=float((own.double() - logits.to(own).double()).abs().max()),
        dtype=str(program.dtype).removeprefix("torch."),
        device=program.device.type,
        layout="channels last" if mixed and len(last) == len(weights) else "contiguous",
        tf32=bool(program.header.get("tf32", False)),
        torch=str(torch.__version__),
        threads=torch.get_num_threads(),
    )


def trail_fidelity(
    program: Program, wide: Program, trail: Trail, X: Tensor, cotangent: Tensor
) -> TrailFidelity:
    """Compare a program with its counterpart in the other precision, on X (1, …).

    wide: of the two the float64 one, unfolded; its pull tells how far Δ moves.
    """
    own = _outputs(program, X)
    other_trail, other = _other(program, wide, X)
    scale = 1.0 if program.dtype == torch.float32 else _NARROWER
    flipped = dict(trail.decisions)
    doubts: list[Doubt] = []
    by_site: dict[str, int] = {}
    ties = 0
    for call in program.calls:
        rule = rule_of(call)
        if rule is None or rule.kind != "decision":
            continue
        error = scale * max(float((own[i] - other[i]).abs().max()) for i in call.inputs)
        entry = trail.decisions[call.site]
        margins = margins_of(call, [own[i] for i in call.inputs], entry)
        if margins is None:
            continue
        rivals = margins_of(call, [other[i] for i in call.inputs], entry)
        assert rivals is not None
        tied = (margins.gap == 0) & (rivals.gap == 0) & margins.among_several
        open_ = (margins.gap <= error) & ~tied & (error > 0)
        ties += int(tied.sum())
        count = int(open_.sum())
        if count:
            by_site[call.site] = count
            flipped[call.site] = _flipped(entry, open_, margins)
            doubts += _listed(call, entry, open_, margins, error)
    changed = sum(int(n.sum()) for n in trail.hamming(other_trail).values())
    return TrailFidelity(
        decisions=trail.count,
        ambiguous=sum(by_site.values()),
        ties=ties,
        by_site=by_site,
        listed=tuple(sorted(doubts, key=lambda doubt: doubt.margin)[:LISTED]),
        changed=changed,
        moved=_moved(wide, trail, replace(trail, decisions=flipped), cotangent),
        moved_by_other=_moved(wide, trail, other_trail, cotangent) if changed else 0.0,
    )


def _other(program: Program, wide: Program, X: Tensor) -> tuple[Trail, dict[int, Tensor]]:
    """The run in the other precision: its trail and all values."""
    if program.dtype == torch.float64:
        from guidxmage.engine.precision import narrowed

        other = narrowed(wide)
    else:
        other = wide
    return other.record(X.to(other.dtype), norms=False).trail, _outputs(other, X.to(other.dtype))


def _outputs(program: Program, X: Tensor) -> dict[int, Tensor]:
    """Every value of a run in float64."""
    found: dict[int, Tensor] = {0: X.double()}

    def keep(call: Call, value: Tensor) -> None:
        found[call.id] = value.to(torch.float64, copy=True)

    program.record(X, norms=False, visit=keep)
    return found


def _flipped(entry: Decisions, where: Tensor, margins: Margins) -> Decisions:
    """The same site with the decisions in some places taken the other way."""
    if entry.kind == "index":
        index = torch.where(where, margins.other, entry.index())
        return Decisions.from_index(index, 2 ** len(entry.planes))
    planes = [entry.plane(number).bool() for number in range(len(entry.planes))]
    inside = planes[0] ^ where
    if len(planes) == 1:
        return Decisions.from_bits(inside)
    # Out of the inside one leaves for the nearer bound; from below or above one comes in.
    above = torch.where(where, planes[0] & margins.other.bool(), planes[1])
    return Decisions.from_bits(inside, above)


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


def _moved(wide: Program, trail: Trail, other: Trail, cotangent: Tensor) -> float:
    """Relative 2-norm by which Δ differs between two trails of one image."""
    pulls: list[Any] = [wide.pull(one, cotangent.double()).weights for one in (trail, other)]
    size = float(torch.linalg.vector_norm(pulls[0]))
    return float(torch.linalg.vector_norm(pulls[1] - pulls[0])) / size if size else 0.0
