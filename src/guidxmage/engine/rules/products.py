"""Products of two values that both depend on the image: gated channels, attention.

x·y is made affine as α·x·y₀ + β·x₀·y (x₀, y₀ on X), plus a constant where α + β ≠ 1. The tangent
has α = β = 1. By default one factor is frozen: the one that comes from a sigmoid or a softmax;
failing that, of two values multiplied element by element, the smaller one; else each has half.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import prod
from typing import Any

import torch
from torch import Tensor

from guidxmage.engine.calls.call import Call, Frame, Hole
from guidxmage.engine.rules import rows
from guidxmage.engine.rules.matrices import einsum_pull, product_pull, why_not_by_letters
from guidxmage.engine.rules.places import by_letters, multiplied
from guidxmage.engine.rules.rows import RowTest
from guidxmage.engine.rules.smooth import active_values, applied, scaled, tangent, transposed
from guidxmage.engine.rules.table import PRODUCTS, Plain, Rule, Traits, holes, linear, register
from guidxmage.engine.trail.gates import Gates

aten = torch.ops.aten
Shares = tuple[float, float]
# From a cotangent, a factor's hole, the other factor and the place of the first of them.
Back = Callable[[Frame, Tensor, Hole, Tensor, int], Tensor]


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


def _factors(f: Frame, shares: Shares) -> tuple[Tensor | None, Tensor | None]:
    """x₀ and y₀ for the images, as far as they were kept."""
    kept = iter(f.numbers())
    return (next(kept) if shares[1] else None), (next(kept) if shares[0] else None)


def _pull_by(back: Back, elementwise: bool) -> Callable[..., list[Tensor | None]]:
    """To each factor that is not frozen its share of what `back` gives."""

    def pull(f: Frame, g: Tensor, *args: Any, **kw: Any) -> list[Tensor | None]:
        x, y = holes(args)
        shares = _shares(f, f.smooth().convention, [x.shape, y.shape], elementwise)
        x0, y0 = _factors(f, shares)
        return [
            None if other is None else back(f, g, part, other, place) * shares[place]
            for place, (part, other) in enumerate(((x, y0), (y, x0)))
        ]

    return pull


def _times_back(f: Frame, g: Tensor, hole: Hole, other: Tensor, place: int) -> Tensor:
    return scaled(f, g, other).sum_to_size(hole.shape)


def _any_back(f: Frame, g: Tensor, hole: Hole, other: Tensor, place: int) -> Tensor:
    fixed = f.for_rows(other)

    def factor(v: Tensor) -> Tensor:
        return applied(f, [v, fixed] if place == 0 else [fixed, v])

    (found,) = transposed(factor, [hole.zeros()], g)
    assert found is not None
    return found


def _product(elementwise: bool, rows: RowTest, back: Back) -> Rule:
    """back: the cotangent of one factor, written out."""

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

    def push(f: Frame, *args: Any, **kw: Any) -> Tensor:
        x, y = active_values(f, args)
        shares = _shares(f, f.smooth().convention, [x.shape, y.shape], elementwise)
        x0, y0 = _factors(f, shares)
        parts = []
        if y0 is not None:
            parts.append(shares[0] * applied(f, [x, f.for_rows(y0)]))
        if x0 is not None:
            parts.append(shares[1] * applied(f, [f.for_rows(x0), y]))
        return sum(parts[1:], parts[0])

    def constant(f: Frame, *args: Any, **kw: Any) -> Tensor | None:
        if f.smooth().convention != "tangent":
            return None
        return -applied(f, [f.for_rows(value) for value in f.numbers()])

    def refuse(call: Call) -> str | None:
        return None if len(call.inputs) == 2 else "it multiplies more than two values"

    return Rule(
        "gate",
        push,
        _pull_by(_times_back if elementwise else _any_back, elementwise),
        record=record,
        constant=constant,
        terms=lambda f, *args, **kw: 4 if elementwise else 2 * holes(args)[0].shape[-1],
        refuse=refuse,
        family="products",
        rows=rows,
        plain=Plain(pull=_pull_by(back, elementwise)),
    )


def _matrix_back(f: Frame, g: Tensor, hole: Hole, other: Tensor, place: int) -> Tensor:
    fixed = f.for_rows(other)
    return product_pull(g, *((hole, fixed) if place == 0 else (fixed, hole)))


def _letters_back(f: Frame, g: Tensor, hole: Hole, other: Tensor, place: int) -> Tensor:
    """Each factor's letters from those of the output and of the other factor."""
    (mine, theirs), output = _letters(f.call)
    if place:
        mine, theirs = theirs, mine
    return einsum_pull(g, output, [(f.for_rows(other), theirs)], (hole, mine))


def _refuse_letters(call: Call, convention: str) -> str | None:
    return why_not_by_letters(*_letters(call))


def _letters(call: Call) -> tuple[list[str], str]:
    """Of the operands and the output; empty where the equation does not name the output."""
    given, _, output = str(call.args[0]).replace(" ", "").partition("->")
    return given.split(","), output


register(
    "aten.mul.Tensor",
    _product(elementwise=True, rows=rows.elementwise, back=_times_back),
    PRODUCTS,
)
register(
    "aten.matmul.default aten.bmm.default aten.mm.default",
    replace(
        _product(elementwise=False, rows=rows.multiplied, back=_matrix_back), places=multiplied
    ),
    PRODUCTS,
)
_BY_LETTERS = _product(elementwise=False, rows=rows.summed_by_letters, back=_letters_back)
assert _BY_LETTERS.plain is not None
register(
    "aten.einsum.default",
    replace(
        _BY_LETTERS,
        places=by_letters,
        plain=replace(_BY_LETTERS.plain, refuse=_refuse_letters),
    ),
    PRODUCTS,
)
register(
    "aten.bmm.default",
    linear(
        lambda f, a, b: a @ b,
        plain=Plain(pull=lambda f, g, a, b: [product_pull(g, a, b)]),
        terms=lambda f, a, b, **kw: 2 * a.shape[-1],
        rows=rows.multiplied,
        places=multiplied,
    ),
    traits=Traits(residues="weights", exact=True),
)


def _einsum_pull(f: Frame, g: Tensor, equation: str, operands: Sequence[Any]) -> list[Tensor]:
    letters, output = _letters(f.call)
    pairs = list(zip(operands, letters, strict=True))
    fixed = [(one, own) for one, own in pairs if isinstance(one, Tensor)]
    return [einsum_pull(g, output, fixed, pair) for pair in pairs if isinstance(pair[0], Hole)]


register(
    "aten.einsum.default",
    linear(
        lambda f, equation, operands: aten.einsum.default(equation, operands),
        plain=Plain(pull=_einsum_pull, refuse=_refuse_letters),
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


def _plain_quotient(f: Frame, x: Any, y: Tensor, **kw: Any) -> tuple[Tensor, Gates]:
    """Of a tangent: what depends on the image, and the quotient as often as the slope lacks it."""
    if _kept_denominator(f):
        return _record_quotient(f, x, y)
    value, given = f.call.run(x, y), active_values(f, (x, y))
    return value, Gates("tangent", (*given, value if len(given) > 1 else 2 * value))


def _plain_quotient_pull(f: Frame, g: Tensor, x: Any, y: Hole) -> list[Tensor | None]:
    if _kept_denominator(f):
        return [scaled(f, g, f.numbers()[0]).sum_to_size(x.shape), None]
    *above, below = (f.for_rows(part) for part in f.numbers()[:-1])
    numerator = above[0] if above else x
    to_y = (-g * numerator / (below * below)).sum_to_size(y.shape)
    return [(g / below).sum_to_size(x.shape), to_y] if above else [to_y]


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
        plain=Plain(record=_plain_quotient, pull=_plain_quotient_pull),
    ),
    PRODUCTS,
)
