"""Normalisation by statistics of the image itself: layer-, group-, instance- and RMS-norm.

By default the statistics' scale is frozen at what it is on X: x ↦ (x − mean(x))·s·weight + bias. As
a tangent it moves with x as well.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from torch import Tensor

from guidxmage.engine.calls.call import Call, Frame, Hole
from guidxmage.engine.rules import rows
from guidxmage.engine.rules.affine import per_channel
from guidxmage.engine.rules.rows import RowTest
from guidxmage.engine.rules.table import Rule, register
from guidxmage.engine.trail.gates import Gates


@dataclass(frozen=True)
class _Norm:
    """How one call normalises: over the last dimension of `view`; weight and bias broadcast."""

    view: tuple[int, ...]
    weight: Tensor | None
    bias: Tensor | None
    eps: float
    centred: bool = True

    def centre(self, v: Tensor) -> Tensor:
        return v - v.mean(-1, keepdim=True) if self.centred else v

    def scale(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """1/√(variance + eps), and the centred values, in the view."""
        centred = self.centre(x.reshape(self.view))
        return (centred.square().mean(-1, keepdim=True) + self.eps).rsqrt(), centred

    def weighted(self, v: Tensor) -> Tensor:
        return v if self.weight is None else v * self.weight


Layout = Callable[..., _Norm]


def _along(hat: Tensor, v: Tensor) -> Tensor:
    return hat * (hat * v).mean(-1, keepdim=True)


def _rule(layout: Layout, rows: RowTest) -> Rule:
    def record(f: Frame, x: Tensor, *args: Any, **kw: Any) -> tuple[Tensor, Gates]:
        value = f.call.run(x, *args)
        scale, centred = layout(x, *args).scale(x)
        planes = (scale,) if f.convention == "secant" else (scale, centred * scale)
        return value, Gates(f.convention, planes)

    def parts(f: Frame, view: tuple[int, ...]) -> list[Tensor]:
        """Recorded numbers for every row, in the view."""
        repeated = [f.for_rows(plane) for plane in f.numbers()]
        return [p.reshape(*view[:-1], -1) for p in repeated]

    def push(f: Frame, x: Tensor, *args: Any, **kw: Any) -> Tensor:
        norm = layout(x, *args)
        scale, *hat = parts(f, norm.view)
        moved = norm.centre(x.reshape(norm.view)) * scale
        if hat:
            moved = moved - _along(hat[0], moved)
        return norm.weighted(moved.reshape(x.shape))

    def pull(f: Frame, g: Tensor, x: Hole, *args: Any, **kw: Any) -> list[Tensor]:
        norm = layout(x, *args)
        scale, *hat = parts(f, norm.view)
        moved = norm.weighted(g).reshape(norm.view)
        if hat:
            moved = moved - _along(hat[0], moved)
        return [norm.centre(moved * scale).reshape(x.shape)]

    def constant(f: Frame, x: Hole, *args: Any, **kw: Any) -> Tensor | None:
        norm = layout(x, *args)
        if f.smooth().convention == "secant":
            return norm.bias
        hat = parts(f, norm.view)[1]
        rest = norm.weighted(_along(hat, hat).reshape(x.shape))
        return rest if norm.bias is None else rest + norm.bias

    return Rule(
        "gate",
        push,
        pull,
        record=record,
        constant=constant,
        terms=lambda f, x, *args, **kw: layout(x, *args).view[-1],
        family="normalisation",
        rows=rows,
    )


def _layer(
    x: Tensor | Hole, shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5, *_: Any
) -> _Norm:
    kept = tuple(x.shape[: len(x.shape) - len(shape)])
    ndim = len(x.shape)

    def broadcast(w: Tensor | None) -> Tensor | None:
        return None if w is None else w.reshape(*[1] * (ndim - w.ndim), *w.shape)

    return _Norm((*kept, prod(shape)), broadcast(weight), broadcast(bias), eps)


def _rms(x: Tensor | Hole, shape: Any, weight: Any = None, eps: float | None = None) -> _Norm:
    found = _layer(x, shape, weight)
    eps = torch.finfo(x.dtype).eps if eps is None else eps
    return _Norm(found.view, found.weight, None, eps, centred=False)


def _group(
    x: Tensor | Hole, groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5, *_: Any
) -> _Norm:
    view = (x.shape[0], groups, prod(x.shape[1:]) // groups)
    ndim = len(x.shape)
    return _Norm(view, per_channel(weight, ndim), per_channel(bias, ndim), eps)


def _instance(
    x: Tensor | Hole, weight: Any, bias: Any, mean: Any, var: Any, own: bool, momentum: float,
    eps: float, *_: Any,
) -> _Norm:  # fmt: skip
    return _group(x, x.shape[1], weight, bias, eps)


def _refuse_running(call: Call) -> str | None:
    return None if call.args[5] else "it uses running statistics"


_LAYER = _rule(_layer, rows.normalised)


def _record_layer(
    f: Frame,
    x: Tensor,
    shape: Any,
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
    *_: Any,
) -> tuple[Tensor, Gates]:
    if f.convention != "secant":
        found: tuple[Tensor, Gates] = _LAYER.record(f, x, shape, weight, bias, eps)  # type: ignore
        return found
    # The kernel that layer_norm calls: it has the scale at hand.
    value, mean, scale = torch.native_layer_norm(x, shape, weight, bias, eps)
    del mean
    return value, Gates("secant", (scale.reshape(*_layer(x, shape).view[:-1], 1),))


register("aten.layer_norm.default", replace(_LAYER, record=_record_layer))
register("aten.rms_norm.default", _rule(_rms, rows.normalised))
register("aten.group_norm.default", _rule(_group, rows.with_dimensions(2)))
register(
    "aten.instance_norm.default",
    replace(_rule(_instance, rows.with_dimensions(3)), refuse=_refuse_running),
)
