"""Operators that put rows and columns around a plane."""

from __future__ import annotations

from collections.abc import Sequence
from math import isinf
from typing import Any

import torch
from torch import Tensor

from guidxmage.engine.calls.call import Frame, Hole
from guidxmage.engine.rules import rows
from guidxmage.engine.rules.picking import selection_pull
from guidxmage.engine.rules.places import padded
from guidxmage.engine.rules.table import Plain, Rule, Traits, register, transpose_of

aten = torch.ops.aten


def _mode(args: Sequence[Any]) -> str:
    return next((arg for arg in args if isinstance(arg, str)), "constant")


def _any_pad(f: Frame, x: Tensor, pad: Sequence[int], *rest: Any) -> Tensor:
    """aten.pad; where it pads with a constant, with zeros (the constant is a term of its own)."""
    return _constant_pad(f, x, pad) if _mode(rest) == "constant" else f.call.run(x, pad, *rest)


_any_pad_transposed = transpose_of(_any_pad)


def _any_pad_pull(f: Frame, g: Tensor, x: Hole, pad: Sequence[int], *rest: Any) -> list[Tensor]:
    if _mode(rest) == "constant":
        return _constant_pad_pull(f, g, x, pad)
    return _any_pad_transposed(f, g, x, pad, *rest)


def _plain_pad_pull(f: Frame, g: Tensor, x: Hole, pad: Sequence[int], *rest: Any) -> list[Tensor]:
    """Reflected, repeated or wrapped numbers are added to where they come from."""
    way = _constant_pad_pull if _mode(rest) == "constant" else selection_pull
    return way(f, g, x, pad, *rest)


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


def _pad_growth(f: Frame, x: Hole, pad: Sequence[int], *rest: Any) -> float | None:
    """Zeros add nothing; nor does what is infinite and no maximum ever takes."""
    value = rest[-1] if rest and not isinstance(rest[-1], str) else None
    plain = _mode(rest) == "constant" and (not value or isinf(value))
    return 1.0 if plain else None


register(
    "aten.constant_pad_nd.default",
    Rule(
        "affine",
        _constant_pad,
        _constant_pad_pull,
        constant=_padded_value,
        growth=_pad_growth,
        rows=rows.padded,
        places=padded,
    ),
    traits=Traits(residues="padding", exact=True),
)
register(
    "aten.pad.default",
    Rule(
        "affine",
        _any_pad,
        _any_pad_pull,
        plain=Plain(pull=_plain_pad_pull),
        constant=_padded_value,
        growth=_pad_growth,
        rows=rows.padded,
        places=padded,
    ),
    traits=Traits(residues="padding", exact=True),
)
