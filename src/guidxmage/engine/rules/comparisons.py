"""Operators whose values change by steps only: comparisons, signs, rounding, positions.

Where their values do not change, neither does what they let through: along a trail they are
constants, which the trail keeps. `x * (x > 0)` is then x times a constant mask.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from guidxmage.engine.calls.call import Call, Frame, is_active
from guidxmage.engine.rules import rows
from guidxmage.engine.rules.affine import largest, spreading
from guidxmage.engine.rules.ordering import along_one
from guidxmage.engine.rules.rows import RowTest
from guidxmage.engine.rules.table import Rule, Traits, linear, register
from guidxmage.errors import UnsupportedOperatorError


def _refuse_quotient(call: Call) -> str | None:
    whole = call.kwargs.get("rounding_mode") is None
    return "it divides by what depends on the image" if whole and is_active(call.args[1]) else None


def always(call: Call) -> bool:
    """For what is so of every call: its value jumps, say."""
    return True


def stepwise(test: RowTest) -> Rule:
    """A rule for an operator of which nothing but its value is needed."""
    return Rule(
        "step",
        push=lambda f, *args, **kw: None,
        pull=lambda f, g, *args, **kw: [],
        jumps=always,
        stepwise=always,
        rows=test,
        traits=Traits(unproved="its value is kept, not computed, along a trail"),
    )


_COMPARED = " ".join(
    f"aten.{name}.{kind}"
    for name in ("gt", "ge", "lt", "le", "eq", "ne")
    for kind in ("Scalar", "Tensor")
)
register(
    f"{_COMPARED} aten.sign.default aten.sgn.default aten.signbit.default aten.heaviside.default"
    " aten.floor.default aten.ceil.default aten.round.default aten.round.decimals"
    " aten.trunc.default aten.floor_divide.default aten.floor_divide.Scalar"
    " aten.isnan.default aten.isinf.default aten.isfinite.default aten.logical_not.default"
    " aten.logical_and.default aten.logical_or.default aten.logical_xor.default"
    " aten.bitwise_not.default aten.bitwise_and.Tensor aten.bitwise_or.Tensor"
    " aten.bitwise_xor.Tensor aten.searchsorted.Tensor aten.bucketize.Tensor",
    stepwise(rows.elementwise),
)
for _divided in ("Tensor_mode", "Scalar_mode"):
    register(
        f"aten.div.{_divided}",
        linear(
            lambda f, x, y, **kw: x / y,
            pull=lambda f, g, x, y, **kw: [(g / y).sum_to_size(x.shape)],
            terms=lambda f, x, y, **kw: spreading(f, x) ** 2,
            gain=lambda f, x, y, **kw: spreading(f, x) * largest(1 / y),
            stepwise=lambda call: call.kwargs.get("rounding_mode") is not None,
            refuse=_refuse_quotient,
            rows=rows.elementwise,
        ),
        traits=Traits(unproved="it divides by what may have no inverse", exact=True, factors=True),
    )


def _is_whole(dtype: torch.dtype | None) -> bool:
    return dtype is not None and not dtype.is_floating_point and not dtype.is_complex


def _in_one_precision(f: Frame, x: Tensor, **_: Any) -> Tensor:
    value: Tensor = f.call.run(x)
    if value.dtype != x.dtype and x.is_floating_point():
        name = str(value.dtype).removeprefix("torch.")
        raise UnsupportedOperatorError(
            f"this network cannot be explained: a part of it, at '{f.call.site}', is computed in "
            f"{name}; bring the whole network into one precision"
        )
    return value


register(
    "aten._to_copy.default",
    linear(
        lambda f, x, **kw: x,
        pull=lambda f, g, x, **kw: [g],
        record=_in_one_precision,
        stepwise=lambda call: _is_whole(call.kwargs.get("dtype")),
        rows=rows.elementwise,
    ),
    traits=Traits(unproved="no independent run of it is written", exact=True),
)
register(
    "aten.argmax.default aten.argmin.default aten.any.dim aten.any.dims aten.all.dim aten.all.dims"
    " aten.count_nonzero.dim_IntList",
    stepwise(rows.along(1)),
)
register("aten.argsort.default aten.argsort.stable", stepwise(along_one(1, -1)))
