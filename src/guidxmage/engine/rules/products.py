"""Products of two values that both depend on the image: gated channels, attention.

x·y is made affine as α·x·y₀ + β·x₀·y (x₀, y₀ on X), plus a constant where α + β ≠ 1. The tangent
has α = β = 1. By default one factor is frozen: the one that comes from a sigmoid or a softmax;
failing that, of two values multiplied element by element, the smaller one; else each has half.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import Any

import torch
from torch import Tensor

from guidxmage.engine.calls.call import Call, Frame, Hole, is_active
from guidxmage.engine.rules import rows
from guidxmage.engine.rules.places import by_letters, multiplied
from guidxmage.engine.rules.rows import RowTest
from guidxmage.engine.rules.smooth import active_values, applied, scaled, tangent, transposed
from guidxmage.engine.rules.table import (
    BY_AUTOGRAD,
    PRODUCTS,
    Plain,
    Rule,
    Traits,
    holes,
    linear,
    register,
)
from guidxmage.engine.trail.gates import Gates

aten = torch.ops.aten
Shares = tuple[float, float]


def _shares(f: Frame, convention: str, shapes: list[Any], elementwise: bool) -> Shares:
    """α and β."""
    if convention == "tangent":
        return 1, 1
    first, second = (id_ in f.call.gating for id_ in f.call.inputs)
    if first != second:
        return (0, 1) if first else (1, 0)
    sizes = [prod(shape) for shape in shapes]
    if elementwise and sizes[0] != sizes[1]:
        return (0, 1) if sizes[0] < sizes[1] else (1, 0)
    return 0.5, 0.5


def _product(elementwise: bool, rows: RowTest) -> Rule:
    def record(f: Frame, *args: Any, **kw: Any) -> tuple[Tensor, Gates]:
        x, y = active_values(f, args)
        shares = _shares(f, f.convention, [x.shape, y.shape], elementwise)
        # A number without dimensions is kept as one with them.
        kept = [
            v.clone() if v.ndim else v.reshape((1,) * max(1, x.ndim, y.ndim))
            for v, share in zip((x, y), reversed(shares), strict=True)
            if share
        ]
        return f.call.run(*args), Gates(f.convention, tuple(kept))

    def factors(f: Frame, shares: Shares) -> tuple[Tensor | None, Tensor | None]:
        """x₀ and y₀ for the images, as far as they were kept."""
        kept = iter(f.numbers())
        return (next(kept) if shares[1] else None), (next(kept) if shares[0] else None)

    def push(f: Frame, *args: Any, **kw: Any) -> Tensor:
        x, y = active_values(f, args)
        shares = _shares(f, f.smooth().convention, [x.shape, y.shape], elementwise)
        x0, y0 = factors(f, shares)
        parts = []
        if y0 is not None:
            parts.append(shares[0] * applied(f, [x, f.for_rows(y0)]))
        if x0 is not None:
            parts.append(shares[1] * applied(f, [f.for_rows(x0), y]))
        return sum(parts[1:], parts[0])

    def pull(f: Frame, g: Tensor, *args: Any, **kw: Any) -> list[Tensor | None]:
        x, y = holes(args)
        shares = _shares(f, f.smooth().convention, [x.shape, y.shape], elementwise)
        x0, y0 = factors(f, shares)
        found: list[Tensor | None] = [None, None]
        if y0 is not None:
            found[0] = _pulled(f, g, x, y0, 0, elementwise) * shares[0]
        if x0 is not None:
            found[1] = _pulled(f, g, y, x0, 1, elementwise) * shares[1]
        return found

    def constant(f: Frame, *args: Any, **kw: Any) -> Tensor | None:
        if f.smooth().convention != "tangent":
            return None
        return -applied(f, [f.for_rows(value) for value in f.numbers()])

    def refuse(call: Call) -> str | None:
        return None if len(call.inputs) == 2 else "it multiplies more than two values"

    return Rule(
        "gate",
        push,
        pull,
        record=record,
        constant=constant,
        terms=lambda f, *args, **kw: 4 if elementwise else 2 * holes(args)[0].shape[-1],
        refuse=refuse,
        family="products",
        rows=rows,
        plain=None if elementwise else Plain(refused=BY_AUTOGRAD),
    )


def _pulled(
    f: Frame, g: Tensor, hole: Hole, other: Tensor, place: int, elementwise: bool
) -> Tensor:
    """The cotangent of one factor, the other one frozen."""
    if elementwise:
        return scaled(f, g, other).sum_to_size(hole.shape)
    fixed = f.for_rows(other)

    def factor(v: Tensor) -> Tensor:
        return applied(f, [v, fixed] if place == 0 else [fixed, v])

    (found,) = transposed(factor, [hole.zeros()], g)
    assert found is not None
    return found


register("aten.mul.Tensor", _product(elementwise=True, rows=rows.elementwise), PRODUCTS)
register(
    "aten.matmul.default aten.bmm.default aten.mm.default",
    replace(_product(elementwise=False, rows=rows.multiplied), places=multiplied),
    PRODUCTS,
)
register(
    "aten.einsum.default",
    replace(_product(elementwise=False, rows=rows.summed_by_letters), places=by_letters),
    PRODUCTS,
)
register(
    "aten.bmm.default",
    linear(
        lambda f, a, b: a @ b,
        terms=lambda f, a, b, **kw: 2 * a.shape[-1],
        rows=rows.multiplied,
        places=multiplied,
    ),
    traits=Traits(residues="weights", exact=True),
)
register(
    "aten.einsum.default",
    linear(
        lambda f, equation, operands: aten.einsum.default(equation, operands),
        rows=rows.summed_by_letters,
        places=by_letters,
    ),
    traits=Traits(unproved="what it sums is written in its equation"),
)


# --- quotients -----------------------------------------------------------------------------------

_TANGENT = tangent()


def _kept_denominator(f: Frame) -> bool:
    """Whether the denominator is frozen: both parts depend on the image and no tangent is asked."""
    return len(f.call.inputs) == 2 and (f.gates.convention if f.gates else f.convention) == "secant"


def _record_quotient(f: Frame, x: Any, y: Tensor, **kw: Any) -> tuple[Tensor, Gates]:
    if not _kept_denominator(f):
        found: tuple[Tensor, Gates] = _TANGENT.record(f, x, y)  # type: ignore[misc]
        return found
    return f.call.run(x, y), Gates("secant", (y.reciprocal().expand(f.shape),))


register(
    "aten.div.Tensor",
    Rule(
        "gate",
        push=lambda f, x, y: (
            scaled(f, x.expand(f.shape), f.numbers()[0])
            if _kept_denominator(f)
            else _TANGENT.push(f, x, y)
        ),
        pull=lambda f, g, x, y: (
            [scaled(f, g, f.numbers()[0]).sum_to_size(x.shape), None]
            if _kept_denominator(f)
            else _TANGENT.pull(f, g, x, y)
        ),
        record=_record_quotient,
        constant=lambda f, x, y: (
            None if _kept_denominator(f) else _TANGENT.constant(f, x, y)  # type: ignore[misc]
        ),
        terms=lambda f, x, y, **kw: 4,
        family="products",
        rows=rows.elementwise,
    ),
    PRODUCTS,
)


# --- attention -----------------------------------------------------------------------------------


def _weights(q: Tensor, k: Tensor, mask: Any, causal: bool, scale: float | None) -> Tensor:
    """softmax(scale·q·kᵀ + mask), (…, L, S)."""
    logits = q * (q.shape[-1] ** -0.5 if scale is None else scale) @ k.transpose(-2, -1)
    if causal:
        kept = torch.ones(logits.shape[-2:], dtype=torch.bool, device=q.device).tril()
        logits = logits.masked_fill(~kept, -torch.inf)
    if mask is None:
        return logits.softmax(-1)
    logits = logits + mask if mask.is_floating_point() else logits.masked_fill(~mask, -torch.inf)
    # Who may look at nothing gets 0, as from the kernels; a plain softmax would be 0/0.
    blind = (logits == -torch.inf).all(-1, keepdim=True)
    return logits.masked_fill(blind, 0).softmax(-1).masked_fill(blind, 0)


def _settings(args: Sequence[Any], kw: Any) -> tuple[Any, bool, float | None]:
    """Mask, causality and scale, from the arguments after q, k and v: mask, dropout, causality."""
    given: list[Any] = [*args, *[None, 0.0, False][len(args) :]]
    mask, _, causal = given[:3]
    return mask, bool(causal), kw.get("scale")


def _attended(f: Frame, q: Tensor, k: Tensor, v: Tensor, mask: Any = None) -> Tensor:
    fixed, causal, scale = _settings(f.call.args[3:], f.call.kwargs)
    mask = fixed if mask is None else mask
    return _weights(q, k, mask, causal, scale) @ v


_TANGENT_ATTENTION = tangent(_attended)


def _record_attention(
    f: Frame, q: Tensor, k: Tensor, v: Tensor, *args: Any, **kw: Any
) -> tuple[Tensor, Gates]:
    if f.convention == "tangent":
        found: tuple[Tensor, Gates] = _TANGENT_ATTENTION.record(f, q, k, v, *args)  # type: ignore
        return found
    value = f.call.run(q, k, v, *args)
    return value, Gates("secant", (_weights(q, k, *_settings(args, kw)),))


def _frozen(f: Frame) -> bool:
    return f.smooth().convention == "secant"


def _refuse_attention(call: Call) -> str | None:
    dropout = call.args[4] if len(call.args) > 4 else 0.0
    if dropout:
        return "it drops attention at random"
    if call.kwargs.get("enable_gqa"):
        return "it shares keys between groups of queries"
    if not is_active(call.args[2]):
        return "its values do not depend on the image"
    return None


def _flow(f: Frame, g: Tensor, v: Hole) -> list[Tensor | None]:
    """To the values alone, not to queries, keys and a mask that are computed at run time.

    Heads may share their values: what flows to them is added up.
    """
    found: list[Tensor | None] = [None] * len(f.call.inputs)
    before = sum(is_active(arg) for arg in f.call.args[:2])
    found[before] = (f.for_rows(f.numbers()[0]).transpose(-2, -1) @ g).sum_to_size(v.shape)
    return found


register(
    "aten.scaled_dot_product_attention.default",
    Rule(
        "gate",
        push=lambda f, q, k, v, *args, **kw: (
            f.for_rows(f.numbers()[0]) @ v
            if _frozen(f)
            else _TANGENT_ATTENTION.push(f, q, k, v, *args)
        ),
        pull=lambda f, g, q, k, v, *args, **kw: (
            _flow(f, g, v) if _frozen(f) else _TANGENT_ATTENTION.pull(f, g, q, k, v, *args)
        ),
        record=_record_attention,
        constant=lambda f, q, k, v, *args, **kw: (
            None if _frozen(f) else _TANGENT_ATTENTION.constant(f, q, k, v, *args)  # type: ignore
        ),
        terms=lambda f, q, k, v, *args, **kw: 2 * (q.shape[-1] + k.shape[-2]),
        refuse=_refuse_attention,
        family="products",
        rows=rows.attended,
    ),
)
