"""Attention: softmax(q·kᵀ)·v, of which by default the softmax is frozen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from guidxmage.engine.calls.call import Call, Frame, Hole, is_active
from guidxmage.engine.rules import rows
from guidxmage.engine.rules.smooth import tangent
from guidxmage.engine.rules.table import Plain, Rule, register
from guidxmage.engine.trail.gates import Gates


def _weights(q: Tensor, k: Tensor, mask: Any, causal: bool, scale: float | None) -> Tensor:
    """softmax(scale·q·kᵀ + mask), (…, L, S)."""
    logits = q * _scale(q, scale) @ k.transpose(-2, -1)
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


# --- as a tangent, written out --------------------------------------------------------------------


def _plain_record(
    f: Frame, q: Tensor, k: Tensor, v: Tensor, *args: Any, **kw: Any
) -> tuple[Tensor, Gates]:
    """Of a tangent: q, k, v as far as they depend on the image, and the constant."""
    if f.convention == "secant":
        return _record_attention(f, q, k, v, *args, **kw)
    mask, causal, scale = _settings(args, kw)
    weights = _weights(q, k, mask, causal, scale)
    moving = [is_active(arg) for arg in f.call.args[:2]]
    # Along (q, k, v) the products q·kᵀ grow as often as there are parts of them that move.
    logits = sum(moving) * (q * _scale(q, scale)) @ k.transpose(-2, -1)
    moved = weights * (logits - (weights * logits).sum(-1, keepdim=True))
    kept = [part for part, own in zip((q, k), moving, strict=True) if own]
    return f.call.run(q, k, v, *args), Gates("tangent", (*kept, v, -(moved @ v)))


def _scale(q: Tensor | Hole, scale: float | None) -> float:
    return float(q.shape[-1]) ** -0.5 if scale is None else scale


def _plain_pull(
    f: Frame, g: Tensor, q: Any, k: Any, v: Hole, *args: Any, **kw: Any
) -> list[Tensor | None]:
    if _frozen(f):
        return _flow(f, g, v)
    mask, causal, scale = _settings(args, kw)
    kept = iter([f.for_rows(part) for part in f.numbers()[:-1]])
    q0, k0 = (next(kept) if isinstance(part, Hole) else part for part in (q, k))
    v0 = next(kept)
    weights = _weights(q0, k0, mask, causal, scale)
    found: list[Tensor | None] = []
    sent = g @ v0.transpose(-2, -1)
    inner = weights * (sent - (weights * sent).sum(-1, keepdim=True)) * _scale(q, scale)
    if isinstance(q, Hole):
        found.append((inner @ k0).sum_to_size(q.shape))
    if isinstance(k, Hole):
        found.append((inner.transpose(-2, -1) @ q0).sum_to_size(k.shape))
    return [*found, (weights.transpose(-2, -1) @ g).sum_to_size(v.shape)]


def _refuse_moving_mask(call: Call, convention: str) -> str | None:
    moves = convention == "tangent" and any(map(is_active, call.args[3:4]))
    return 'its mask depends on the image; use gates="secant"' if moves else None


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
        plain=Plain(record=_plain_record, pull=_plain_pull, refuse=_refuse_moving_mask),
    ),
)
