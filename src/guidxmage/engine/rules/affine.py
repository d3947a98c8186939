"""Affine operators with weights or constants: linear, batch-norm, arithmetic, reductions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import Any

import torch
from torch import Tensor

from guidxmage.engine.calls.call import Call, Frame, Hole, is_active
from guidxmage.engine.rules import rows
from guidxmage.engine.rules.places import summed_over
from guidxmage.engine.rules.table import Plain, Rule, Traits, holes, linear, register, transpose_of

aten = torch.ops.aten


def per_channel(vector: Tensor | None, ndim: int) -> Tensor | None:
    """A vector over channels as a tensor that broadcasts against (rows, channels, …)."""
    return None if vector is None else vector.reshape(1, -1, *[1] * (ndim - 2))


def largest_line(weight: Tensor) -> float:
    """The largest 2-norm of a row or column of matrices (…, n, m).

    Multiplied by the 2-norm of an input, or of a cotangent, it bounds that of all the products.
    """
    squares = weight.detach().double().square()
    if weight.ndim < 2:
        return float(squares.sum().sqrt())
    return float(torch.maximum(squares.sum(-1).max(), squares.sum(-2).max()).sqrt())


def largest(value: Any) -> float:
    """The largest size of a number or of a tensor's entries."""
    if not isinstance(value, Tensor):
        return abs(float(value))
    if value.dtype == torch.bool:
        return float(value.any())
    return float(value.detach().abs().max())


def spreading(f: Frame, *args: Any) -> float:
    """By how much broadcasting to the output's shape makes the 2-norm of an input larger."""
    return float(max(prod(f.shape) / max(1, prod(hole.shape)) for hole in holes(args))) ** 0.5


# --- batch-norm in evaluation mode ---------------------------------------------------------------


def batch_norm_affine(
    weight: Tensor | None, bias: Tensor | None, mean: Tensor, variance: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """Scale and shift of evaluation-mode batch-norm, in float64."""
    scale = (variance.double() + eps).rsqrt()
    if weight is not None:
        scale = scale * weight.double()
    shift = -mean.double() * scale
    return scale, shift if bias is None else shift + bias.double()


def _scale_and_shift(f: Frame, x: Hole | Tensor, args: Sequence[Any]) -> tuple[Tensor, Tensor]:
    weight, bias, mean, variance, eps = *args[:4], args[-1]

    def make() -> tuple[Tensor, Tensor]:
        scale, shift = batch_norm_affine(weight, bias, mean, variance, eps)
        ndim = len(x.shape)
        return tuple(per_channel(v.to(x.dtype), ndim) for v in (scale, shift))  # type: ignore

    return f.prepare("scale_and_shift", make)


def _record_batch_norm(
    f: Frame,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    momentum: float,
    eps: float,
) -> Tensor:
    # The dispatching operator that nn.BatchNorm calls, so that the kernel is the user's own.
    cudnn = torch.backends.cudnn.enabled
    return torch.batch_norm(x, weight, bias, mean, variance, False, momentum, eps, cudnn)


register(
    "aten._native_batch_norm_legit_no_training.default",
    Rule(
        "affine",
        record=_record_batch_norm,
        push=lambda f, x, *args: x * _scale_and_shift(f, x, args)[0],
        pull=lambda f, g, x, *args: [g * _scale_and_shift(f, x, args)[0]],
        constant=lambda f, x, *args: _scale_and_shift(f, x, args)[1],
        refuse=lambda call: None if call.output == 0 else "its batch statistics are used",
        terms=lambda f, *args, **kw: 2,
        gain=lambda f, x, *args, **kw: largest(_scale_and_shift(f, x, args)[0]),
        sums=False,
        rows=rows.with_dimensions(2),
    ),
    traits=Traits(residues="norm", exact=True, fresh=True),
)


# --- arithmetic ----------------------------------------------------------------------------------


def leading(value: Any, f: Frame, like: Hole) -> Tensor:
    """A number or constant tensor with the output's number of dimensions and an input's dtype."""
    if isinstance(value, Tensor):
        tensor = value.to(like.device, like.dtype)
    else:  # filled in where it is needed: a copy to a GPU would wait
        tensor = torch.full((), value, dtype=like.dtype, device=like.device)
    return tensor.reshape(*[1] * (len(f.shape) - tensor.ndim), *tensor.shape)


def _add(sign: int) -> Rule:
    """x + alpha·y or x − alpha·y, either of them possibly constant, with broadcasting."""

    def factors(alpha: float) -> tuple[float, float]:
        return 1, sign * alpha

    def push(f: Frame, x: Any, y: Any, *, alpha: float = 1) -> Tensor:
        parts = [
            part if factor == 1 else part * factor
            for part, factor, ref in zip((x, y), factors(alpha), f.call.args, strict=False)
            if is_active(ref)
        ]
        return sum(parts[1:], parts[0]).expand(f.shape)

    def pull(f: Frame, g: Tensor, x: Any, y: Any, *, alpha: float = 1) -> list[Tensor]:
        pulled = []
        for part, factor in zip((x, y), factors(alpha), strict=True):
            if isinstance(part, Hole):
                own = g if factor == 1 else g * factor
                pulled.append(own if own.shape == part.shape else own.sum_to_size(part.shape))
        return pulled

    def constant(f: Frame, x: Any, y: Any, *, alpha: float = 1) -> Tensor | None:
        (hole,) = holes((x, y))[:1]
        for part, factor in zip((x, y), factors(alpha), strict=True):
            if not isinstance(part, Hole):
                return leading(part, f, hole) * factor
        return None

    return Rule(
        "affine",
        push,
        pull,
        constant=constant,
        terms=lambda f, x, y, alpha=1: spreading(f, x, y) ** 2,
        gain=lambda f, x, y, alpha=1: spreading(f, x, y) * max(1.0, abs(alpha)),
        sums=False,
        rows=rows.elementwise,
    )


def _record_add(f: Frame, x: Any, y: Any, *, alpha: float = 1) -> Tensor:
    if f.owned and x.shape == f.shape and isinstance(y, Tensor) and y.dtype == x.dtype:
        return x.add_(y, alpha=alpha)
    return f.call.run(x, y)


_TERMS = Traits(residues="terms", exact=True, factors=True)
register(
    "aten.add.Tensor", replace(_add(+1), record=_record_add), traits=replace(_TERMS, fresh=True)
)
register("aten.add.Scalar", _add(+1), traits=_TERMS)
register("aten.sub.Tensor aten.sub.Scalar", _add(-1), traits=_TERMS)

register(
    "aten.rsub.Scalar",
    Rule(
        "affine",
        push=lambda f, x, y, alpha=1: -alpha * x,
        pull=lambda f, g, x, y, alpha=1: [-alpha * g],
        constant=lambda f, x, y, alpha=1: leading(y, f, x),
        terms=lambda f, x, y, alpha=1: 1,
        gain=lambda f, x, y, alpha=1: max(1.0, abs(alpha)),
        sums=False,
        rows=rows.elementwise,
    ),
    traits=_TERMS,
)


def _refuse_product(call: Call) -> str | None:
    if len(call.inputs) > 1:
        return "it multiplies two values that both depend on the image"
    return None


def _refuse_quotient(call: Call) -> str | None:
    return "it divides by a value that depends on the image" if is_active(call.args[1]) else None


def _product_pull(f: Frame, g: Tensor, x: Any, y: Any) -> list[Tensor]:
    hole, factor = (x, y) if isinstance(x, Hole) else (y, x)
    return [(g * factor).sum_to_size(hole.shape)]


register(
    "aten.mul.Tensor aten.mul.Scalar",
    linear(
        lambda f, x, y: x * y,
        pull=_product_pull,
        terms=lambda f, x, y, **kw: spreading(f, x, y) ** 2,
        gain=lambda f, x, y, **kw: spreading(f, x, y) * largest(y if isinstance(x, Hole) else x),
        sums=False,
        refuse=_refuse_product,
        rows=rows.elementwise,
    ),
    traits=Traits(residues="weights", exact=True, factors=True),
)


def _refuse_product_of_two(call: Call) -> str | None:
    both = all(is_active(arg) for arg in call.args[1:3])
    return "it multiplies two values that depend on the image" if both else None


def _scaled_and_added(f: Frame, base: Any, a: Any, b: Any, value: float = 1) -> Tensor:
    """The linear part of base + value·a·b: what is constant moves nothing."""
    moved = value * a * b if any(map(is_active, f.call.args[1:3])) else 0
    if is_active(f.call.args[0]):
        moved = moved + base
    assert isinstance(moved, Tensor)
    return moved.expand(f.shape)


def _scaled_and_added_pull(
    f: Frame, g: Tensor, base: Any, a: Any, b: Any, value: float = 1
) -> list[Tensor]:
    sides = ((base, 1), (a, b), (b, a))
    return [
        (g if part is base else g * factor * value).sum_to_size(part.shape)
        for part, factor in sides
        if isinstance(part, Hole)
    ]


def _added_constants(f: Frame, base: Any, a: Any, b: Any, value: float = 1) -> Tensor | None:
    """The base or the product, whichever does not depend on the image."""
    if isinstance(base, Tensor):
        return base.expand(f.shape)
    return None if isinstance(a, Hole) or isinstance(b, Hole) else (value * a * b).expand(f.shape)


def _added_gain(f: Frame, base: Any, a: Any, b: Any, value: float = 1) -> float:
    factor = next((largest(part) for part in (a, b) if isinstance(part, Tensor)), 1.0)
    return spreading(f, base, a, b) * max(1.0, abs(value) * factor)


register(
    "aten.addcmul.default",
    Rule(
        "affine",
        _scaled_and_added,
        transpose_of(_scaled_and_added),
        plain=Plain(pull=_scaled_and_added_pull),
        constant=_added_constants,
        terms=lambda f, *args, **kw: 2 * spreading(f, *args) ** 2,
        gain=_added_gain,
        sums=False,
        refuse=_refuse_product_of_two,
        rows=rows.elementwise,
    ),
    traits=Traits(residues="product", exact=True, factors=True),
)
register(
    "aten.div.Tensor aten.div.Scalar",
    linear(
        lambda f, x, y: x / y,
        pull=lambda f, g, x, y: [(g / y).sum_to_size(x.shape)],
        terms=lambda f, x, y, **kw: spreading(f, x) ** 2,
        gain=lambda f, x, y, **kw: spreading(f, x) * largest(1 / y),
        sums=False,
        refuse=_refuse_quotient,
        rows=rows.elementwise,
    ),
    traits=Traits(unproved="it divides by what may have no inverse", exact=True, factors=True),
)
register(
    "aten.neg.default",
    linear(
        lambda f, x: -x,
        pull=lambda f, g, x: [-g],
        growth=lambda f, *args, **kw: 1,
        rows=rows.elementwise,
    ),
    traits=Traits(residues="nothing", exact=True, moves=True),
)


# --- reductions ----------------------------------------------------------------------------------


def _reduced(x: Hole, dims: Any) -> list[int]:
    return sorted(d % len(x.shape) for d in (dims or range(len(x.shape))))


def _mean_pull(
    f: Frame, g: Tensor, x: Hole, dims: Any = None, keep: bool = False, **_: Any
) -> list[Tensor]:
    count = prod(x.shape[dim] for dim in _reduced(x, dims))
    return [_sum_pull(f, g, x, dims, keep)[0] / count]


def _sum_pull(
    f: Frame, g: Tensor, x: Hole, dims: Any = None, keep: bool = False, **_: Any
) -> list[Tensor]:
    if not keep:
        for dim in _reduced(x, dims):
            g = g.unsqueeze(dim)
    return [g.expand(x.shape)]


def _reduced_terms(f: Frame, x: Hole, *rest: Any, **_: Any) -> int:
    return prod(x.shape) // prod(f.shape)


register(
    "aten.mean.dim",
    linear(
        lambda f, x, *args, **kw: aten.mean.dim(x, *args, **kw),
        pull=_mean_pull,
        terms=_reduced_terms,
        gain=lambda f, x, *args, **kw: prod(f.shape) / prod(x.shape),
        rows=rows.along(1),
        places=summed_over,
    ),
    traits=Traits(residues="nothing", averages=True, carries=True),
)
register(
    "aten.cumsum.default",
    linear(
        lambda f, x, dim: f.call.run(x, dim),
        terms=lambda f, x, dim: x.shape[dim],
        gain=lambda f, x, dim: x.shape[dim],
        rows=rows.along(1),
        plain=Plain(pull=lambda f, g, x, dim: [g.flip(dim).cumsum(dim).flip(dim)]),
    ),
    traits=Traits(residues="nothing", exact=True),
)
register(
    "aten.sum.dim_IntList",
    linear(
        lambda f, x, *args, **kw: aten.sum.dim_IntList(x, *args, **kw),
        pull=_sum_pull,
        terms=_reduced_terms,
        gain=lambda f, x, *args, **kw: 1,
        rows=rows.along(1),
        places=summed_over,
    ),
    traits=Traits(residues="nothing", exact=True),
)
