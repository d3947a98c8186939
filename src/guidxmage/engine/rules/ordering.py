"""Numbers put in order along a dimension, or picked by their rank: sort, topk, median."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from guidxmage.engine.calls.call import Call, Frame, Hole
from guidxmage.engine.rules.rows import RowTest
from guidxmage.engine.rules.table import Plain, Rule, Traits, register
from guidxmage.engine.trail.decisions import Decisions
from guidxmage.engine.trail.dense import Dense


def _ranked(place: int, default: int = -1) -> Rule:
    """An operator that returns numbers and where they lay along the dimension in argument `place`.

    The trail keeps where they lay.
    """

    def dimension(f: Frame, args: tuple[Any, ...], kw: Any) -> int:
        found = args[place - 1] if len(args) >= place else kw.get("dim", default)
        return int(found)

    def laid_out(f: Frame, args: tuple[Any, ...], kw: Any, ndim: int) -> tuple[int, bool]:
        """The dimension, and whether it is missing in the output."""
        return dimension(f, args, kw) % ndim, len(f.shape) < ndim

    def record(f: Frame, x: Tensor, *args: Any, **kw: Any) -> tuple[Tensor, Decisions]:
        value, index = f.call.target(x, *args, **kw)
        return value, Decisions.from_index(index, x.shape[dimension(f, args, kw)])

    def plain_record(f: Frame, x: Tensor, *args: Any, **kw: Any) -> tuple[Tensor, Dense]:
        value, index = f.call.target(x, *args, **kw)
        return value, Dense.of(index)

    def push(f: Frame, x: Tensor, *args: Any, **kw: Any) -> Tensor:
        dim, missing = laid_out(f, args, kw, x.ndim)
        index = f.for_rows(f.taken().index())
        index = index.unsqueeze(dim) if missing else index
        found = x.gather(dim, index)
        return found.squeeze(dim) if missing else found

    def pull(f: Frame, g: Tensor, x: Hole, *args: Any, **kw: Any) -> list[Tensor]:
        dim, missing = laid_out(f, args, kw, len(x.shape))
        index = f.for_rows(f.taken().index())
        if missing:
            index, g = index.unsqueeze(dim), g.unsqueeze(dim)
        return [g.new_zeros(x.shape).scatter_add_(dim, index, g)]

    def second(call: Call) -> bool:
        return call.output == 1

    return Rule(
        "decision",
        push,
        pull,
        record=record,
        stepwise=second,
        rows=along_one(place, default),
        plain=Plain(record=plain_record),
        traits=Traits(unproved="no independent run of it is written"),
    )


def along_one(place: int, default: int) -> RowTest:
    """Along another dimension than the first, which may be given by name."""
    return lambda call, shapes: (
        bool(call.shape)
        and all(shape[0] == call.shape[0] for shape in shapes)
        and (call.args[place] if len(call.args) > place else call.kwargs.get("dim", default))
        % len(shapes[0])
        != 0
    )


register("aten.sort.default aten.median.dim aten.nanmedian.dim aten.mode.default", _ranked(1))
register("aten.cummax.default aten.cummin.default", _ranked(1))
register("aten.sort.stable", _ranked(1))
register("aten.topk.default aten.kthvalue.default", _ranked(2))
