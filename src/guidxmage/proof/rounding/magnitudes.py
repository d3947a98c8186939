"""A program whose weights are replaced by their magnitudes, so that nothing in it cancels.

With absolute values a run of ones bounds what any row sums; with squares a run carries variances.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from guidxmage.engine.calls.call import Call
from guidxmage.engine.program.program import Program
from guidxmage.engine.rules import rule_of, traits_of
from guidxmage.engine.rules.affine import batch_norm_affine, per_channel
from guidxmage.proof.modular.operators import BATCH_NORM, short, without_rule

Magnitude = Callable[[Tensor], Tensor]


def with_magnitudes(program: Program, magnitude: Magnitude) -> Program:
    """The program with `torch.abs` or `torch.square` of all weights; differences become sums."""
    calls = tuple(_call(call, magnitude) for call in program.calls)
    made = replace(program, calls=calls, symbolic_calls=calls)
    for call in program.calls:
        if call.op == BATCH_NORM:
            _, gamma, beta, mean, variance, _, eps = call.args
            scale, _ = batch_norm_affine(gamma, beta, mean, variance, eps)
            view = per_channel(magnitude(scale).to(program.dtype), len(call.shape))
            assert view is not None
            made._prepared[call.id, "scale_and_shift"] = view, torch.zeros_like(view)
    return made


def without_magnitudes(program: Program) -> Call | None:
    """The first call whose coefficients `with_magnitudes` does not know, or None."""
    return next((call for call in program.calls if not _is_known(call)), None)


def _is_known(call: Call) -> bool:
    """Quotients are, and blends, whose coefficients are at least their squares."""
    rule = rule_of(call)
    if rule is not None and rule.kind == "affine" and (rule.traits.factors or rule.traits.blends):
        return True
    return without_rule([call]) is None


def _call(call: Call, magnitude: Magnitude) -> Call:
    name = short(call)
    if name in ("neg", "abs"):
        return replace(call, op="aten.clone.default", target=torch.ops.aten.clone.default)
    numbers = traits_of(call).factors  # elsewhere they say sizes and limits
    args = tuple(_changed(arg, magnitude, numbers) for arg in call.args)
    kwargs = {key: _changed(value, magnitude, numbers) for key, value in call.kwargs.items()}
    if name in ("sub", "rsub"):
        add = torch.ops.aten.add.Tensor
        return replace(call, op="aten.add.Tensor", target=add, args=args[:2], kwargs=kwargs)
    return replace(call, args=args, kwargs=kwargs)


def _changed(arg: Any, magnitude: Magnitude, numbers: bool) -> Any:
    if isinstance(arg, Tensor):
        return magnitude(arg) if arg.is_floating_point() else arg
    if numbers and isinstance(arg, int | float):
        return float(magnitude(torch.tensor(arg, dtype=torch.float64)))
    if isinstance(arg, list):
        return [_changed(item, magnitude, numbers) for item in arg]
    return arg
