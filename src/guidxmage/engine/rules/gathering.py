"""Affine operators without a way of their own: they are run for every loop, or followed by number.

Gathering and scattering by constant positions, sampling at a constant grid, blends, products with
constant vectors. Positions and grids that change by steps are constants along a trail, too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from guidxmage.engine.calls.call import Call, Frame, Hole, Kept, is_active
from guidxmage.engine.rules import rows
from guidxmage.engine.rules.matrices import product_pull
from guidxmage.engine.rules.picking import selection_pull
from guidxmage.engine.rules.places import moved, resized
from guidxmage.engine.rules.smooth import active_values, applied
from guidxmage.engine.rules.table import UNWRITTEN, Plain, Rule, Traits, fill, holes, register
from guidxmage.errors import UnsupportedOperatorError

_UNPROVED = Traits(unproved="no independent run of it is written", exact=True)


def _refuse_active(places: Sequence[int]) -> Callable[[Call], str | None]:
    """These arguments must not depend on the image."""

    def refuse(call: Call) -> str | None:
        given = [call.args[n] for n in places if n < len(call.args)]
        parts = [one for arg in given for one in (arg if isinstance(arg, list | tuple) else [arg])]
        if any(map(is_active, parts)):
            return "what should be constant in it depends on the image"
        return None

    return refuse


def _one_factor(*places: int) -> Callable[[Call], str | None]:
    """A product of which one factor alone may depend on the image."""

    def refuse(call: Call) -> str | None:
        active = sum(is_active(call.args[place]) for place in places)
        return "it multiplies values that depend on the image" if active > 1 else None

    return refuse


def _at_zero(f: Frame, args: Sequence[Any]) -> Tensor:
    """The output where all active inputs, given as holes, are 0."""
    return f.call.run(*fill(args, [hole.zeros() for hole in holes(args)]))


def _linear_part(f: Frame, *args: Any, **_: Any) -> Tensor:
    moving = active_values(f, args)
    return applied(f, moving) - applied(f, [torch.zeros_like(part) for part in moving])


def _by_derivative(f: Frame, g: Tensor, *args: Any, **_: Any) -> list[Tensor]:
    with torch.enable_grad():
        inputs = [hole.zeros().requires_grad_() for hole in holes(args)]
        try:
            return list(torch.autograd.grad(f.call.run(*fill(args, inputs)), inputs, g))
        except RuntimeError as error:  # some combinations of sizes have no derivative there
            raise UnsupportedOperatorError(
                f"this network cannot be explained: PyTorch cannot transpose {f.call.op} at "
                f"'{f.call.site}' on tensors of these sizes"
            ) from error


def _by_number(f: Frame, g: Tensor, *args: Any, **_: Any) -> list[Tensor]:
    """Where each number of the output comes from is told by numbering the inputs.

    PyTorch's own derivatives count a number twice that is written twice to one place.
    """
    given = holes(args)
    ends = [0]
    for hole in given:
        ends.append(ends[-1] + prod(hole.shape))
    numbered = [
        torch.arange(first + 1, last + 1, dtype=torch.float64, device=g.device).reshape(hole.shape)
        for first, last, hole in zip(ends, ends[1:], given, strict=False)
    ]
    constant = [
        torch.zeros_like(a, dtype=torch.float64)
        if isinstance(a, Tensor) and a.is_floating_point()
        else a
        for a in args
    ]
    sources = f.call.run(*fill(constant, numbered)).long()
    total = g.new_zeros(ends[-1] + 1).index_add_(0, sources.flatten(), g.flatten())[1:]
    parts = total.split([prod(hole.shape) for hole in given])
    return [part.reshape(hole.shape) for part, hole in zip(parts, given, strict=True)]


def _affine(test: rows.RowTest | None, pull: Any = _by_derivative, **extras: Any) -> Rule:
    """Numbering is made of operators that can be exported; derivatives are not."""
    extras.setdefault("plain", None if pull is _by_number else Plain(refused=UNWRITTEN))
    return Rule(
        "affine",
        _linear_part,
        pull,
        constant=lambda f, *args, **kw: _at_zero(f, args),
        rows=test,
        traits=_UNPROVED,
        **extras,
    )


def _sums(f: Frame, *args: Any, **_: Any) -> int:
    """As many products as the inputs have numbers for one of the output, at the most."""
    return 2 + max(prod(hole.shape) for hole in holes(args)) // max(1, f.shape[0] if f.shape else 1)


# --- transposes, written out ---------------------------------------------------------------------

_PICKED = Plain(pull=selection_pull)


def _gather_pull(f: Frame, g: Tensor, x: Hole, dim: int, index: Tensor, **_: Any) -> list[Tensor]:
    return [x.zeros().scatter_add(dim, index, g)]


def _take_pull(f: Frame, g: Tensor, x: Hole, index: Tensor) -> list[Tensor]:
    return [x.zeros().flatten().scatter_add(0, index.flatten(), g.flatten()).reshape(x.shape)]


def _added_pull(
    f: Frame, g: Tensor, base: Any, dim: int, index: Tensor, source: Any, *, alpha: float = 1
) -> list[Tensor]:
    """What is added at places comes from those places."""
    found = [g] if isinstance(base, Hole) else []
    if not isinstance(source, Hole):
        return found
    if "index_add" in f.call.op:
        return [*found, g.index_select(dim, index) * alpha]
    inside = g.gather(dim, index)  # the index may be smaller than the source
    sides = [(0, n - m) for n, m in zip(source.shape, inside.shape, strict=True)]
    return [*found, functional.pad(inside, [n for side in reversed(sides) for n in side])]


def _record_scatter(f: Frame, *args: Any) -> tuple[Tensor, None]:
    return f.call.run(*_as_wide(args)), None


def _scatter_pull(f: Frame, g: Tensor, *args: Any) -> list[Tensor]:
    index, source = args[2:]
    sides = [(0, n - m) for n, m in zip(source.shape, index.shape, strict=True)]
    if not any(more for _, more in sides):
        return _by_number(f, g, *args)
    found = _by_number(f, g, *_as_wide(args))
    if isinstance(source, Hole):
        found[-1] = functional.pad(found[-1], [n for side in reversed(sides) for n in side])
    return found


def _as_wide(args: Sequence[Any]) -> list[Any]:
    """What is scattered as large as the index is: ONNX wants it so."""
    *others, index, source = args
    inside = tuple(slice(size) for size in index.shape)
    if isinstance(source, Hole):
        return [*others, index, replace(source, shape=tuple(index.shape))]
    return [*others, index, source[inside]]


def _blended_pull(f: Frame, g: Tensor, a: Any, b: Any, share: Any) -> list[Tensor]:
    sides = ((a, 1 - share), (b, share))
    return [(g * part).sum_to_size(s.shape) for s, part in sides if isinstance(s, Hole)]


def _added_product_pull(
    f: Frame, g: Tensor, base: Any, a: Any, b: Any, *, beta: float = 1, alpha: float = 1
) -> list[Tensor]:
    found = [(g * beta).sum_to_size(base.shape)] if isinstance(base, Hole) else []
    if isinstance(a, Hole) or isinstance(b, Hole):
        found.append(product_pull(g * alpha, a, b))
    return found


# --- numbers that are moved ----------------------------------------------------------------------


def _copied(call: Call, shapes: Sequence[Any]) -> bool:
    """Each image once, whatever is done to its other dimensions."""
    repeats = call.args[1]
    return len(repeats) == len(shapes[0]) and repeats[0] == 1


register("aten.repeat.default", _affine(_copied, places=moved, plain=_PICKED))
register("aten.rot90.default", _affine(rows.along(2, (0, 1)), places=moved, plain=_PICKED))
register("aten.diagonal.default", _affine(rows.swapped_away(2), places=moved, plain=_PICKED))
register(
    "aten.diag_embed.default", _affine(rows.swapped_away(2, -2, -1), places=moved, plain=_PICKED)
)
register(
    "aten.gather.default",
    _affine(
        rows.along(1),
        refuse=_refuse_active([2]),
        places=moved,
        plain=Plain(pull=_gather_pull),
    ),
)
register(
    "aten.take.default",
    _affine(rows.never, refuse=_refuse_active([1]), plain=Plain(pull=_take_pull)),
)
register(
    "aten.scatter.src",
    replace(
        _affine(rows.along(1), _by_number, refuse=_refuse_active([2])),
        constant=lambda f, *args: _at_zero(f, _as_wide(args)),
        plain=Plain(record=_record_scatter, pull=_scatter_pull),
    ),
)
register(
    "aten.scatter.value aten.index_copy.default aten.index_fill.int_Scalar",
    _affine(rows.along(1), _by_number, refuse=_refuse_active([2])),
)
register(
    "aten.masked_scatter.default",
    _affine(rows.never, _by_number, refuse=_refuse_active([1])),
)


def _indexed(call: Call, shapes: Sequence[Any]) -> bool:
    """x[:, index] = …, with positions that are not those of images."""
    fixed = not any(isinstance(index, Kept) for index in call.args[1])
    apart = fixed and bool(call.args[1]) and call.args[1][0] is None
    return apart and rows.elementwise(call, shapes[:1])


def _refuse_adding(call: Call) -> str | None:
    refused = _refuse_active([1])(call)
    adds = len(call.args) > 3 and bool(call.args[3])
    return refused or ("it adds where it writes" if adds else None)


register(
    "aten.index_put.default",
    _affine(_indexed, _by_number, refuse=_refuse_adding),
)
for _dims in (2, 3):
    register(
        f"aten.max_unpool{_dims}d.default",
        _affine(rows.spatial, _by_number, refuse=_refuse_active([1]), places=resized),
    )


# --- numbers that are added up -------------------------------------------------------------------

register(
    "aten.index_add.default aten.scatter_add.default",
    _affine(rows.along(1), terms=_sums, refuse=_refuse_active([2]), plain=Plain(pull=_added_pull)),
)
register("aten.trace.default", _affine(rows.never, terms=_sums))
for _dims in (2, 3):
    register(
        f"aten.grid_sampler_{_dims}d.default",
        _affine(
            rows.with_dimensions(_dims + 2),
            terms=lambda f, *args, **kw: 64,
            refuse=_refuse_active([1]),
        ),
    )
register(
    "aten.lerp.Scalar",
    _affine(rows.elementwise, terms=lambda f, *args, **kw: 4, plain=Plain(pull=_blended_pull)),
)
register(
    "aten.lerp.Tensor",
    _affine(
        rows.elementwise,
        terms=lambda f, *args, **kw: 4,
        refuse=_refuse_active([2]),
        plain=Plain(pull=_blended_pull),
    ),
)
register(
    "aten.baddbmm.default",
    _affine(
        rows.elementwise,
        terms=_sums,
        refuse=_one_factor(1, 2),
        plain=Plain(pull=_added_product_pull),
    ),
)
register(
    "aten.addbmm.default aten.addmv.default aten.addr.default",
    _affine(rows.never, terms=_sums, refuse=_one_factor(1, 2)),
)
register(
    "aten.mv.default aten.dot.default aten.vdot.default aten.ger.default aten.linalg_cross.default",
    _affine(rows.never, terms=_sums, refuse=_one_factor(0, 1)),
)
register(
    "aten._trilinear.default",
    _affine(rows.never, terms=_sums, refuse=_one_factor(0, 1, 2)),
)
