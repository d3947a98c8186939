"""Operators that move values without changing them: reshape, permute, slice, concatenate, pad."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from guidxmage.engine.call import Call, Frame, Hole, is_active
from guidxmage.engine.rules.table import Rule, linear, register

aten = torch.ops.aten


# --- identity at inference -----------------------------------------------------------------------


def _refuse_dropout(call: Call) -> str | None:
    return "it is active (train=True)" if bool(call.args[2]) else None


_identity = linear(lambda f, x, *args, **kw: x, pull=lambda f, g, x, *args, **kw: [g])
register(
    "aten.clone.default aten.contiguous.default aten.alias.default aten.detach.default"
    " aten.lift_fresh_copy.default",
    _identity,
)
register(
    "aten.dropout.default aten.feature_dropout.default",
    linear(lambda f, x, *args: x, pull=lambda f, g, x, *args: [g], refuse=_refuse_dropout),
)


# --- reshaping -----------------------------------------------------------------------------------

register(
    "aten.view.default aten.reshape.default aten.flatten.using_ints aten.unflatten.int"
    " aten._unsafe_view.default aten.squeeze.default aten.squeeze.dim aten.squeeze.dims"
    " aten.unsqueeze.default",
    linear(
        lambda f, x, *args: x.reshape(f.shape),
        pull=lambda f, g, x, *args: [g.reshape(x.shape)],
        record=lambda f, x, *args: x.reshape(f.shape),
    ),
)


def _permute_pull(f: Frame, g: Tensor, x: Hole, order: Sequence[int]) -> list[Tensor]:
    inverse = [0] * len(order)
    for position, dim in enumerate(order):
        inverse[dim % len(order)] = position
    return [g.permute(inverse)]


register(
    "aten.permute.default",
    linear(lambda f, x, order: x.permute(order), pull=_permute_pull),
)
register(
    "aten.transpose.int",
    linear(
        lambda f, x, a, b: x.transpose(a, b), pull=lambda f, g, x, a, b: [g.transpose(a, b)]
    ),
)
register("aten.t.default", linear(lambda f, x: x.t(), pull=lambda f, g, x: [g.t()]))
register(
    "aten.expand.default",
    linear(
        lambda f, x, *args, **kw: x.expand(f.shape),
        pull=lambda f, g, x, *args, **kw: [g.sum_to_size(x.shape)],
    ),
)


# --- selecting -----------------------------------------------------------------------------------


def _selection(f: Frame, x: Tensor, *args: Any) -> Tensor:
    return f.call.run(x, *args)  # type: ignore[no-any-return]


register(
    "aten.slice.Tensor aten.select.int aten.split.Tensor aten.split_with_sizes.default"
    " aten.chunk.default aten.unbind.int aten.narrow.default aten.index_select.default"
    " aten.flip.default aten.roll.default aten.pixel_shuffle.default aten.pixel_unshuffle.default"
    " aten.channel_shuffle.default",
    linear(_selection),
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
    return f.call.run(filled, dim)  # type: ignore[no-any-return]


def _cat_pull(f: Frame, g: Tensor, parts: Sequence[Any], dim: int = 0) -> list[Tensor]:
    pieces = g.split([part.shape[dim] for part in parts], dim)
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
    ),
)
register(
    "aten.stack.default",
    Rule(
        "affine",
        push=lambda f, parts, dim=0: torch.stack(_without_constants(f, parts), dim),
        pull=_stack_pull,
        constant=_joined_constants,
    ),
)


# --- padding -------------------------------------------------------------------------------------


def _constant_pad(f: Frame, x: Tensor, pad: Sequence[int], *_: Any) -> Tensor:
    return aten.constant_pad_nd(x, pad, 0)


def _constant_pad_pull(f: Frame, g: Tensor, x: Hole, pad: Sequence[int], *_: Any) -> list[Tensor]:
    return [aten.constant_pad_nd(g, [-p for p in pad], 0)]


def _padded_value(f: Frame, x: Hole, pad: Sequence[int], *rest: Any) -> Tensor | None:
    """The pad value around a zero image; `rest` is (value,) or (mode, value)."""
    value = rest[-1] if rest else None
    if not value or isinstance(value, str):
        return None
    one_row = torch.zeros((1, *x.shape[1:]), dtype=x.dtype, device=x.device)
    return aten.constant_pad_nd(one_row, pad, value)


def _refuse_pad_mode(call: Call) -> str | None:
    mode = call.args[2] if len(call.args) > 2 else "constant"
    return None if mode == "constant" else f"padding mode {mode!r} has no rule"


register(
    "aten.constant_pad_nd.default",
    Rule("affine", _constant_pad, _constant_pad_pull, constant=_padded_value),
)
register(
    "aten.pad.default",
    Rule(
        "affine",
        _constant_pad,
        _constant_pad_pull,
        constant=_padded_value,
        refuse=_refuse_pad_mode,
    ),
)
register(
    "aten.reflection_pad1d.default aten.reflection_pad2d.default aten.reflection_pad3d.default"
    " aten.replication_pad1d.default aten.replication_pad2d.default"
    " aten.replication_pad3d.default",
    linear(_selection),
)
