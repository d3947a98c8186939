"""Operators that move values without changing them: reshape, permute, slice, concatenate, pad."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import Any

import torch
from torch import Tensor

from guidxmage.engine.calls.call import Call, Frame, Hole, is_active, leaves
from guidxmage.engine.rules import rows
from guidxmage.engine.rules.affine import spreading
from guidxmage.engine.rules.picking import line_pull, selection_pull
from guidxmage.engine.rules.places import moved, resized
from guidxmage.engine.rules.plain import PlainFrame
from guidxmage.engine.rules.table import Plain, Rule, Traits, linear, register, transpose_of

aten = torch.ops.aten
# What most operators here are: they add nothing, round nothing and hand factors on.
SELECTING = Traits(residues="nothing", exact=True, carries=True)
MOVING = replace(SELECTING, moves=True)


def same_size(f: Frame, *args: Any, **kw: Any) -> float | None:
    """What is moved or left out makes nothing larger; constants among it might."""
    return None if any(isinstance(part, Tensor) for part in leaves(args)) else 1.0


# --- identity at inference -----------------------------------------------------------------------


def _refuse_dropout(call: Call) -> str | None:
    return "it is active (train=True)" if bool(call.args[2]) else None


_identity = linear(
    lambda f, x, *args, **kw: x,
    pull=lambda f, g, x, *args, **kw: [g],
    growth=same_size,
    rows=rows.elementwise,
)
register(
    "aten.clone.default aten.contiguous.default aten.alias.default aten.detach.default"
    " aten.lift_fresh_copy.default",
    _identity,
    traits=MOVING,
)
register(
    "aten.dropout.default aten.feature_dropout.default",
    replace(_identity, refuse=_refuse_dropout),
    traits=MOVING,
)


# --- reshaping -----------------------------------------------------------------------------------

_reshaping = linear(
    lambda f, x, *args: x.reshape(f.shape),
    pull=lambda f, g, x, *args: [g.reshape(x.shape)],
    record=lambda f, x, *args: x.reshape(f.shape),
    growth=same_size,
    rows=rows.reshaped,
    places=moved,
)
register(
    "aten.view.default aten.reshape.default aten._unsafe_view.default aten.unflatten.int",
    _reshaping,
    traits=replace(MOVING, sized=True),
)
register(
    "aten.flatten.using_ints aten.squeeze.default aten.squeeze.dim aten.squeeze.dims"
    " aten.unsqueeze.default",
    _reshaping,
    traits=MOVING,
)


def _permute_pull(f: Frame, g: Tensor, x: Hole, order: Sequence[int]) -> list[Tensor]:
    inverse = [0] * len(order)
    for position, dim in enumerate(order):
        inverse[dim % len(order)] = position
    return [g.permute(inverse)]


register(
    "aten.permute.default",
    linear(
        lambda f, x, order: x.permute(order),
        pull=_permute_pull,
        growth=same_size,
        rows=rows.permuted,
        places=moved,
    ),
    traits=MOVING,
)
register(
    "aten.transpose.int",
    linear(
        lambda f, x, a, b: x.transpose(a, b),
        pull=lambda f, g, x, a, b: [g.transpose(a, b)],
        growth=same_size,
        rows=rows.swapped,
        places=moved,
    ),
    traits=MOVING,
)
register(
    "aten.t.default",
    linear(
        lambda f, x: x.t(),
        pull=lambda f, g, x: [g.t()],
        growth=same_size,
        rows=rows.never,
        places=moved,
    ),
    traits=MOVING,
)
register(
    "aten.expand.default",
    linear(
        lambda f, x, *args, **kw: x.expand(f.shape),
        pull=lambda f, g, x, *args, **kw: [g.sum_to_size(x.shape)],
        terms=lambda f, *args, **kw: spreading(f, *args) ** 2,
        gain=lambda f, *args, **kw: spreading(f, *args),
        sums=False,
        growth=lambda f, *args, **kw: spreading(f, *args),
        rows=rows.elementwise,
    ),
    traits=replace(SELECTING, sized=True),
)


# --- selecting -----------------------------------------------------------------------------------


def _selection(f: Frame, x: Tensor, *args: Any) -> Tensor:
    return f.call.run(x, *args)


_PICKED = Plain(pull=selection_pull)
_ALONG = Plain(pull=line_pull)
_SELECTIONS: dict[str, tuple[rows.RowTest, Plain]] = {
    "aten.slice.Tensor": (rows.sliced, _ALONG),
    "aten.select.int aten.narrow.default": (rows.along(1), _ALONG),
    "aten.index_select.default": (rows.along(1), _ALONG),
    "aten.split.Tensor aten.split_with_sizes.default": (rows.along(2, 0), _ALONG),
    "aten.chunk.default": (rows.along(2, 0), _ALONG),
    "aten.unbind.int": (rows.along(1, 0), _ALONG),
    "aten.flip.default": (rows.along(1), Plain(pull=lambda f, g, x, dims: [g.flip(dims)])),
    "aten.roll.default": (
        rows.along(2),
        Plain(pull=lambda f, g, x, shifts, *dims: [g.roll([-n for n in shifts], *dims)]),
    ),
    "aten.repeat_interleave.self_int": (rows.repeated, _PICKED),
    "aten.pixel_shuffle.default aten.pixel_unshuffle.default": (rows.with_dimensions(4), _PICKED),
    "aten.channel_shuffle.default": (rows.with_dimensions(3), _PICKED),
}
for _names, (_rows, _plain) in _SELECTIONS.items():
    _moves = "index_select" not in _names and "repeat" not in _names
    _rule = linear(
        _selection,
        growth=same_size if _moves else None,
        plain=_plain,
        rows=_rows,
        places=resized if "pixel" in _names else moved,
    )
    register(_names, _rule, traits=SELECTING)


# Patches into columns and, adding where they overlap, back.
register(
    "aten.im2col.default",
    linear(
        _selection,
        plain=_PICKED,
        rows=lambda call, shapes: len(shapes[0]) == 4,
        places=moved,
    ),
    traits=SELECTING,
)
register(
    "aten.col2im.default",
    linear(
        _selection,
        plain=Plain(pull=lambda f, g, x, size, *args: [aten.im2col(g, *args)]),
        terms=lambda f, x, size, kernel, *args, **kw: prod(kernel),
        gain=lambda f, *args, **kw: 1,
        rows=lambda call, shapes: len(shapes[0]) == 3,
    ),
    traits=SELECTING,
)
register(
    "aten.unfold.default",
    linear(_selection, plain=_PICKED, rows=rows.along(1), places=moved),
    traits=SELECTING,
)


def _refuse_active_index(call: Call) -> str | None:
    computed = any(is_active(index) for index in call.args[1])
    return "it selects by what is computed from the image" if computed else None


def _index_pull(f: PlainFrame, g: Tensor, x: Hole, indices: Sequence[Any]) -> list[Tensor]:
    """By numbers where the positions are constant, else added at those that the image decides."""
    if not f.by_image:
        return selection_pull(f, g, x, indices)
    return [x.zeros().index_put(tuple(indices), g, accumulate=True)]


register(
    "aten.index.Tensor",
    linear(
        _selection,
        plain=Plain(pull=_index_pull),
        refuse=_refuse_active_index,
        rows=rows.indexed,
        places=moved,
    ),
    traits=SELECTING,
)


# --- joining -------------------------------------------------------------------------------------


def _without_constants(f: Frame, parts: Sequence[Any]) -> list[Tensor]:
    return [
        part if is_active(ref) else torch.zeros_like(part)
        for part, ref in zip(parts, f.call.args[0], strict=True)
    ]


def _joined_constants(f: Frame, parts: Sequence[Any], dim: int = 0) -> Tensor | None:
    if all(isinstance(part, Hole) for part in parts):
        return None
    filled = [part.zeros() if isinstance(part, Hole) else part for part in parts]
    return f.call.run(filled, dim)


def _cat_pull(f: Frame, g: Tensor, parts: Sequence[Any], dim: int = 0) -> list[Tensor]:
    pieces = g.split_with_sizes([part.shape[dim] for part in parts], dim)
    return [piece for piece, part in zip(pieces, parts, strict=True) if isinstance(part, Hole)]


def _stack_pull(f: Frame, g: Tensor, parts: Sequence[Any], dim: int = 0) -> list[Tensor]:
    pieces = g.unbind(dim)
    return [piece for piece, part in zip(pieces, parts, strict=True) if isinstance(part, Hole)]


register(
    "aten.cat.default",
    Rule(
        "affine",
        push=lambda f, parts, dim=0: torch.cat(_without_constants(f, parts), dim),
        pull=_cat_pull,
        constant=_joined_constants,
        growth=same_size,
        rows=rows.joined,
        places=moved,
    ),
    traits=Traits(residues="fillings", exact=True),
)
register(
    "aten.stack.default",
    Rule(
        "affine",
        push=lambda f, parts, dim=0: torch.stack(_without_constants(f, parts), dim),
        pull=_stack_pull,
        constant=_joined_constants,
        growth=same_size,
        rows=rows.joined,
        places=moved,
    ),
    traits=Traits(residues="fillings", exact=True),
)


# --- overwriting a part ---------------------------------------------------------------------------


def _scattered(f: Frame, base: Tensor, source: Tensor, *where: int) -> Tensor:
    """The linear part: a constant base or source moves nothing."""
    base, source = (
        part if is_active(ref) else torch.zeros_like(part)
        for part, ref in zip((base, source), f.call.args[:2], strict=True)
    )
    return f.call.run(base, source, *where)


def _scattered_pull(f: Frame, g: Tensor, base: Any, source: Any, *where: int) -> list[Tensor]:
    """The part that is overwritten is the source's, the rest the base's."""
    part = aten.slice.Tensor if "slice" in f.call.op else aten.select.int
    own = part(g, *where)
    found = []
    if isinstance(base, Hole):
        found.append(f.call.run(g, torch.zeros_like(own), *where))
    return [*found, own] if isinstance(source, Hole) else found


def _scattered_constants(f: Frame, base: Any, source: Any, *where: int) -> Tensor | None:
    if isinstance(base, Hole) and isinstance(source, Hole):
        return None
    filled = [part.zeros() if isinstance(part, Hole) else part for part in (base, source)]
    return f.call.run(*filled, *where)


register(
    "aten.slice_scatter.default aten.select_scatter.default",
    Rule(
        "affine",
        _scattered,
        transpose_of(_scattered),
        plain=Plain(pull=_scattered_pull),
        constant=_scattered_constants,
        rows=rows.written_into,
        places=moved,
    ),
    traits=Traits(residues="fillings", exact=True),
)


# --- choosing by a constant mask -----------------------------------------------------------------


def _refuse_active_mask(place: int) -> Any:
    def refuse(call: Call) -> str | None:
        return "its mask depends on the image" if is_active(call.args[place]) else None

    return refuse


def _chosen(f: Frame, mask: Tensor, yes: Any, no: Any) -> Tensor:
    """The linear part: a constant side moves nothing."""
    refs = f.call.args[1:3]
    yes, no = (p if is_active(ref) else 0.0 for p, ref in zip((yes, no), refs, strict=True))
    return torch.where(mask, yes, no)


def _chosen_constants(f: Frame, mask: Tensor, yes: Any, no: Any) -> Tensor | None:
    if isinstance(yes, Hole) and isinstance(no, Hole):
        return None
    yes, no = (part.zeros() if isinstance(part, Hole) else part for part in (yes, no))
    return torch.where(mask, yes, no)


def _chosen_pull(f: Frame, g: Tensor, mask: Tensor, yes: Any, no: Any) -> list[Tensor]:
    """Each side where it is taken."""
    sides = ((yes, torch.where(mask, g, 0)), (no, torch.where(mask, 0, g)))
    return [sent.sum_to_size(side.shape) for side, sent in sides if isinstance(side, Hole)]


register(
    "aten.where.self aten.where.ScalarSelf aten.where.ScalarOther",
    Rule(
        "affine",
        _chosen,
        transpose_of(_chosen),
        plain=Plain(pull=_chosen_pull),
        constant=_chosen_constants,
        refuse=_refuse_active_mask(0),
        rows=rows.elementwise,
    ),
    traits=Traits(residues="fillings", exact=True),
)


def _kept(f: Frame, x: Tensor, mask: Tensor, value: Any) -> Tensor:
    return x.masked_fill(mask, 0)


register(
    "aten.masked_fill.Scalar aten.masked_fill.Tensor",
    Rule(
        "affine",
        _kept,
        transpose_of(_kept),
        plain=Plain(pull=lambda f, g, x, mask, value: [g.masked_fill(mask, 0)]),
        constant=lambda f, x, mask, value: x.zeros().masked_fill(mask, value),
        refuse=_refuse_active_mask(1),
        rows=rows.elementwise,
    ),
    traits=Traits(residues="fillings", exact=True),
)
register(
    "aten.tril.default aten.triu.default",
    linear(
        _selection,
        plain=Plain(pull=lambda f, g, x, *args: [f.call.run(g, *args)]),
        rows=rows.with_dimensions(3),
    ),
    traits=SELECTING,
)
