"""Smooth activations, element by element: GELU, SiLU, sigmoid, tanh, powers and the like."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from guidxmage.engine.calls.call import Call, Frame, Hole, is_active
from guidxmage.engine.kernels import loops
from guidxmage.engine.rules import rows
from guidxmage.engine.rules.affine import leading
from guidxmage.engine.rules.slopes import BY_SLOPE, recorded_slope
from guidxmage.engine.rules.smooth import scaled, tangent
from guidxmage.engine.rules.table import Plain, Rule, Traits, register
from guidxmage.engine.rules.tangents import (
    GLU,
    LENGTH,
    LOG_SOFTMAX,
    LOGSUMEXP,
    SOFTMAX,
    SPREAD,
    other_norm,
    written,
)
from guidxmage.engine.trail.gates import Gates


def _slope(f: Frame, x: Tensor, *args: Any) -> Tensor:
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        return torch.autograd.grad(f.call.run(leaf, *args).sum(), leaf)[0]


def _at_origin(f: Frame, x: Tensor | Hole, *args: Any) -> tuple[float, float]:
    """The operator's value and slope at 0."""

    def make() -> tuple[float, float]:
        zero = torch.zeros(1, dtype=x.dtype, device=x.device)
        return float(f.call.run(zero, *args)), float(_slope(f, zero, *args))

    found: tuple[float, float] = f.prepare("origin", make)
    return found


def _secant(f: Frame, x: Tensor, value: Tensor, *args: Any) -> Tensor:
    """(f(x) − f(0)) / x; near 0, where the quotient loses its digits, the slope there."""
    at_zero, slope = _at_origin(f, x, *args)
    near = torch.finfo(x.dtype).tiny if at_zero == 0 else torch.finfo(x.dtype).eps ** 0.5
    slope = slope if abs(slope) < float("inf") else 0.0
    done = loops.secants(x, value, at_zero, near, slope)
    if done is not None:
        return done
    return torch.where(x.abs() > near, (value - at_zero) / x, slope)


def _record(f: Frame, x: Tensor, *args: Any, **kw: Any) -> tuple[Tensor, Gates]:
    value = f.call.run(x, *args)
    if f.convention == "secant":
        return value, Gates("secant", (_secant(f, x, value, *args),))
    slope = _slope(f, x, *args)
    return value, Gates("tangent", (slope, value - slope * x))


def _constant(f: Frame, x: Hole, *args: Any, **kw: Any) -> Tensor | None:
    if f.smooth().convention == "tangent":
        return f.for_rows(f.numbers()[1])
    at_zero = _at_origin(f, x, *args)[0]
    return leading(at_zero, f, x) if at_zero else None


def _plain_record(f: Frame, x: Tensor, *args: Any, **kw: Any) -> tuple[Tensor, Gates]:
    return (_record if f.convention == "secant" else recorded_slope)(f, x, *args, **kw)


_ACTIVATION = Rule(
    "gate",
    push=lambda f, x, *args, **kw: scaled(f, x, f.numbers()[0]),
    pull=lambda f, g, x, *args, **kw: [scaled(f, g, f.numbers()[0])],
    record=_record,
    constant=_constant,
    terms=lambda f, x, *args, **kw: 8,
    family="activations",
    rows=rows.elementwise,
    plain=Plain(record=_plain_record),
)
register(
    "aten.silu.default aten.gelu.default aten.hardswish.default aten.mish.default"
    " aten.elu.default aten.selu.default aten.celu.default aten.softplus.default"
    " aten.tanh.default aten.log_sigmoid.default aten.exp.default"
    " aten.expm1.default aten.sin.default aten.cos.default aten.erf.default aten.atan.default"
    " aten.square.default aten.sqrt.default",
    _ACTIVATION,
)
register("aten.sigmoid.default", _ACTIVATION, traits=Traits(scales=True))


def _refuse_power_of_image(call: Call) -> str | None:
    exponent = call.args[1]
    return None if isinstance(exponent, int | float) else "its exponent is not a number"


# Without a value at 0 there is no secant from there.
register(
    "aten.log.default aten.log1p.default aten.log2.default aten.rsqrt.default"
    " aten.reciprocal.default",
    tangent(family="activations", rows=rows.elementwise, plain=BY_SLOPE),
)


def _record_power(f: Frame, x: Tensor, exponent: float) -> tuple[Tensor, Gates]:
    """A root has no slope at 0: nothing flows there."""
    value = f.call.run(x, exponent)
    slope = _slope(f, x, exponent)
    if 0 < exponent < 1:
        slope = slope.masked_fill(x == 0, 0)
    return value, Gates("tangent", (slope, value - slope * x))


register(
    "aten.pow.Tensor_Scalar",
    Rule(
        "gate",
        push=_ACTIVATION.push,
        pull=_ACTIVATION.pull,
        record=_record_power,
        constant=lambda f, x, exponent: f.for_rows(f.numbers()[1]),
        terms=_ACTIVATION.terms,
        family="activations",
        plain=Plain(record=recorded_slope),
        refuse=_refuse_power_of_image,
        rows=rows.elementwise,
    ),
)

register(
    "aten.exp2.default aten.tan.default aten.sinh.default aten.cosh.default aten.asinh.default"
    " aten.asin.default aten.acos.default aten.acosh.default aten.atanh.default aten.erfc.default"
    " aten.erfinv.default aten.sinc.default aten.log10.default aten.logit.default"
    " aten.pow.Scalar aten.pow.Tensor_Tensor aten.logaddexp.default aten.logaddexp2.default"
    " aten.atan2.default aten.hypot.default aten.addcdiv.default aten.xlogy.Tensor"
    " aten.nan_to_num.default aten.lgamma.default aten.digamma.default",
    tangent(family="activations", rows=rows.elementwise, plain=BY_SLOPE),
)


def _with_constants(f: Frame, moving: Sequence[Tensor]) -> list[Any]:
    """The arguments of a call with these for the active ones."""
    queue = iter(moving)
    return [next(queue) if is_active(arg) else arg for arg in f.call.args]


def _distances(a: Tensor, b: Tensor, order: float, *_: Any) -> Tensor:
    return torch.linalg.vector_norm(a.unsqueeze(-2) - b.unsqueeze(-3), order, dim=-1)


# The distances of pairs; their own kernel has no second derivatives.
register(
    "aten._cdist_forward.default",
    tangent(
        lambda f, *moving: _distances(*_with_constants(f, moving)),
        rows=rows.never,
    ),
)

# Several numbers into one: no convention but the tangent.
register(
    "aten.softmax.int aten._softmax.default",
    tangent(rows=rows.along(1), plain=written(SOFTMAX)),
    traits=Traits(scales=True),
)
register(
    "aten.log_softmax.int aten._log_softmax.default",
    tangent(rows=rows.along(1), plain=written(LOG_SOFTMAX)),
)
register("aten.logsumexp.default", tangent(rows=rows.along(1), plain=written(LOGSUMEXP)))
register(
    "aten.var_mean.correction aten.std_mean.correction aten.var.correction aten.std.correction",
    tangent(rows=rows.along(1), plain=written(SPREAD)),
)
register(
    "aten.cumprod.default aten.logcumsumexp.default aten.prod.dim_int",
    tangent(rows=rows.along(1)),
)
register("aten.glu.default", tangent(rows=rows.along(1, -1), plain=written(GLU)))
register(
    "aten.linalg_vector_norm.default aten.norm.ScalarOpt_dim",
    tangent(rows=rows.along(2), plain=written(LENGTH, other_norm)),
)
