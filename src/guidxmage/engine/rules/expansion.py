"""Operators of PyTorch that have no rule of their own: their first-order expansion at X.

Whatever has a derivative is affine to first order. The score is reproduced at X, no region is
claimed, and images are run one by one, since nothing is known of how the operator treats a batch.
"""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from guidxmage.engine.calls.call import Call, Frame, is_active, leaves
from guidxmage.engine.rules.smooth import active_values, applied, transposed
from guidxmage.engine.rules.table import BY_AUTOGRAD, OTHERS, Plain, Rule
from guidxmage.engine.trail.gates import Gates
from guidxmage.errors import UnsupportedOperatorError


def _terms(f: Frame, *args: Any, **_: Any) -> int:
    """As many as for a product with a matrix; more is not known."""
    return 8 + max(prod(f.shape), *(prod(getattr(part, "shape", ())) for part in leaves(args)))


def _slope(f: Frame, at: list[Tensor], directions: list[Tensor]) -> Tensor:
    """The Jacobian times directions: the derivative of its transpose, which is what is pulled."""
    with torch.enable_grad():
        inputs = [part.detach().requires_grad_() for part in at]
        value = applied(f, inputs)
        g = torch.zeros_like(value).requires_grad_()
        pulled = torch.autograd.grad(value, inputs, g, create_graph=True, allow_unused=True)
        parts = [
            (part * direction).sum()
            for part, direction in zip(pulled, directions, strict=True)
            if part is not None and part.requires_grad
        ]
        if not parts:
            return torch.zeros_like(value)
        return torch.autograd.grad(sum(parts[1:], parts[0]), g)[0]


def _record(f: Frame, *args: Any, **_: Any) -> tuple[Tensor, Gates]:
    value = f.call.run(*args)
    at = [part.clone() for part in active_values(f, args)]
    real = all(part.is_floating_point() for part in (value, *at))
    try:
        constant = value - _slope(f, at, at) if real else value
    except (RuntimeError, NotImplementedError) as error:
        raise _refused(f.call, "PyTorch knows no derivative of it that serves here") from error
    if not real:
        raise _refused(f.call, "it computes other than real numbers from the image")
    # There is one image, whatever the first dimension counts.
    return value, Gates("tangent", tuple(part[None] for part in (*at, constant)))


def _refused(call: Call, why: str) -> UnsupportedOperatorError:
    return UnsupportedOperatorError(
        f"this network cannot be explained: {call.op} at '{call.site}' has no rule, and {why}"
    )


def _kept(f: Frame) -> list[Tensor]:
    return [plane[0] for plane in f.smooth().planes]


def _push(f: Frame, *args: Any, **_: Any) -> Tensor:
    return _slope(f, _kept(f)[:-1], active_values(f, args))


def _pull(f: Frame, g: Tensor, *_: Any, **__: Any) -> list[Tensor | None]:
    # Some of PyTorch's derivatives read a gradient in another layout than they were given one.
    return transposed(
        lambda *values: applied(f, values), _kept(f)[:-1], g.reshape(f.shape).contiguous()
    )


_EXPANSION = Rule(
    "gate",
    _push,
    _pull,
    record=_record,
    constant=lambda f, *args, **kw: _kept(f)[-1],
    terms=_terms,
    plain=Plain(refused=BY_AUTOGRAD),
)


def _expanded(call: Call) -> Rule | None:
    """The rule for an operator of PyTorch's own that writes nowhere and stays in one precision."""
    target = call.target
    if not isinstance(target, OpOverload) or target._schema.is_mutable:
        return None
    plain = all(str(one.type) == "Tensor" for one in target._schema.returns)
    named = list(leaves(dict(call.kwargs)))
    if not plain or any(isinstance(one, torch.dtype) or is_active(one) for one in named):
        return None
    return _EXPANSION


OTHERS.append(_expanded)
