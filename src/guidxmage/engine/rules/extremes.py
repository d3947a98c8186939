"""The largest or smallest: of two values, or along dimensions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from guidxmage.engine.calls.call import Frame, Hole, is_active
from guidxmage.engine.rules import breakpoints as crossing
from guidxmage.engine.rules import rows
from guidxmage.engine.rules.affine import leading, spreading
from guidxmage.engine.rules.breakpoints import Crossings, halves
from guidxmage.engine.rules.choices import AlongDimensions, OfTwo
from guidxmage.engine.rules.places import summed_over
from guidxmage.engine.rules.table import Plain, Rule, Traits, register
from guidxmage.engine.trail.decisions import Decisions
from guidxmage.engine.trail.dense import Dense

# --- the larger or smaller of two ----------------------------------------------------------------


def _pick(choose_first: Callable[[Tensor, Tensor], Tensor], sign: int) -> Rule:
    """Elementwise maximum (sign +1) or minimum (−1) of two operands, one possibly constant."""

    def masks(f: Frame) -> tuple[Tensor, Tensor]:
        first = f.taken().plane()
        return first, 1 - first

    def record(f: Frame, x: Tensor, y: Tensor) -> tuple[Tensor, Decisions]:
        value = f.call.run(x, y)
        return value, Decisions.from_bits(choose_first(x, y).expand(f.shape))

    def push(f: Frame, x: Tensor, y: Tensor) -> Tensor:
        parts = [
            f.gate(part.expand(f.shape), mask)
            for part, mask, ref in zip((x, y), masks(f), f.call.args, strict=True)
            if is_active(ref)
        ]
        return sum(parts[1:], parts[0])

    def pull(f: Frame, g: Tensor, x: Any, y: Any) -> list[Tensor]:
        return [
            f.gate(g, mask).sum_to_size(part.shape)
            for part, mask in zip((x, y), masks(f), strict=True)
            if isinstance(part, Hole)
        ]

    def constant(f: Frame, x: Any, y: Any) -> Tensor | None:
        hole = x if isinstance(x, Hole) else y
        for part, mask in zip((x, y), masks(f), strict=True):
            if not isinstance(part, Hole):
                return f.for_rows(mask.to(hole.dtype)) * leading(part, f, hole)
        return None

    def crossings(f: Frame, x: Tensor, y: Tensor) -> Crossings:
        (zx, dx), (zy, dy) = (
            halves(part) if is_active(ref) else (part, torch.zeros_like(part))
            for part, ref in zip((x, y), f.call.args, strict=True)
        )
        first = f.taken().plane().view(torch.bool)
        z, dz = (sign * (a - b).expand(first.shape) for a, b in ((zx, zy), (dx, dy)))
        return crossing.threshold(z, dz, 0, first, rows=f.rows, ties=f.ties, closed=True)

    return Rule(
        "decision",
        push,
        pull,
        record=record,
        constant=constant,
        crossings=crossings,
        choices=("second", "first"),
        growth=lambda f, x, y, **kw: (
            spreading(f, x, y) if isinstance(x, Hole) and isinstance(y, Hole) else None
        ),
        rows=rows.elementwise,
        choice=OfTwo(sign),
        traits=Traits(residues="fillings"),
    )


register("aten.maximum.default aten.fmax.default", _pick(lambda x, y: x >= y, +1))
register("aten.minimum.default aten.fmin.default", _pick(lambda x, y: x <= y, -1))


# --- the largest or smallest along dimensions ----------------------------------------------------


def _reduced_dims(dims: Any, ndim: int) -> list[int]:
    listed = [dims] if isinstance(dims, int) else list(dims or range(1, ndim))
    return sorted(d % ndim for d in listed)


def _to_last(tensor: Tensor, dims: Sequence[int]) -> Tensor:
    """Reduced dimensions moved to the end and flattened into one."""
    kept = [d for d in range(tensor.ndim) if d not in dims]
    return tensor.permute(*kept, *dims).flatten(len(kept)) if kept else tensor.flatten()


def _reduction(argument: Callable[[Tensor], Tensor], sign: int) -> Rule:
    """The largest (sign +1) or smallest (−1) along dimensions; the trail keeps which operand."""

    def record(f: Frame, x: Tensor, dims: Any = (), *rest: Any) -> tuple[Tensor, Decisions]:
        lines = _to_last(x, _reduced_dims(dims, x.ndim))
        taken = argument(lines)
        return f.call.run(x, dims, *rest), Decisions.from_index(taken, lines.shape[-1])

    def plain_record(f: Frame, x: Tensor, dims: Any = (), *rest: Any) -> tuple[Tensor, Dense]:
        lines = _to_last(x, _reduced_dims(dims, x.ndim))
        return f.call.run(x, dims, *rest), Dense.of(argument(lines))

    def push(f: Frame, x: Tensor, dims: Any = (), *rest: Any) -> Tensor:
        lines = _to_last(x, _reduced_dims(dims, x.ndim))
        index = f.for_rows(f.taken().index())[..., None]
        return lines.gather(-1, index).reshape(f.shape)

    def pull(f: Frame, g: Tensor, x: Hole, dims: Any = (), *rest: Any) -> list[Tensor]:
        reduced = _reduced_dims(dims, len(x.shape))
        kept = [d for d in range(len(x.shape)) if d not in reduced]
        index = f.for_rows(f.taken().index())[..., None]
        length = prod(x.shape[d] for d in reduced)
        lines = g.new_zeros(*index.shape[:-1], length)
        lines.scatter_add_(-1, index, g.reshape(index.shape))
        moved = lines.reshape([x.shape[d] for d in (*kept, *reduced)])
        order = [(*kept, *reduced).index(d) for d in range(len(x.shape))]
        return [moved.permute(order)]

    def crossings(f: Frame, x: Tensor, dims: Any = (), *rest: Any) -> Crossings:
        z, dz = (_to_last(part, _reduced_dims(dims, x.ndim)) * sign for part in halves(x))
        index = f.taken().index()[..., None]
        gap, rate = z.gather(-1, index) - z, dz - dz.gather(-1, index)
        before = torch.arange(z.shape[-1], device=z.device) < index
        s, rival = crossing.overtaking(gap, rate, before, ties=f.ties).min(-1)
        return crossing.earliest(s, f.rows, lambda position: crossing.at(rival, position))

    return Rule(
        "decision",
        push,
        pull,
        record=record,
        stepwise=lambda call: call.output == 1,  # where the extreme lies
        crossings=crossings,
        growth=lambda f, *args, **kw: 1,
        rows=rows.along(1),
        choice=AlongDimensions(sign),
        plain=Plain(record=plain_record),
        places=summed_over,
        traits=Traits(residues="nothing"),
    )


register("aten.amax.default aten.max.dim", _reduction(lambda lines: lines.argmax(-1), +1))
register("aten.amin.default aten.min.dim", _reduction(lambda lines: lines.argmin(-1), -1))
