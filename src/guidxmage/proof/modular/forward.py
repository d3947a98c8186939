"""The network run on residues along a trail, without the product's rules.

Affine calls are PyTorch's own operators, on whole numbers; decisions are applied by what is written
here. It is what the pull is checked against, so it shares as little code with it as it can.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import inf, prod
from typing import Any

import torch
from torch import Tensor

from guidxmage.engine.calls.call import Call, last_uses
from guidxmage.engine.program.program import Program
from guidxmage.engine.rules import rule_of, traits_of
from guidxmage.engine.trail.decisions import Decisions
from guidxmage.engine.trail.trail import Trail
from guidxmage.proof.modular.field import Field
from guidxmage.proof.modular.operators import (
    BATCH_NORM,
    divisor,
    multiplies,
    short,
)
from guidxmage.proof.modular.residues import norm_residues, residue_calls


def logits_of(program: Program, trail: Trail, Z: Tensor, field: Field) -> Tensor:
    """The logits (1, classes) of an image of residues Z (1, *input shape) that follows the trail.

    program: the captured network itself, of any dtype.
    """
    values: dict[int, Tensor] = {0: Z}
    calls = residue_calls(program, field)
    expired = last_uses(program.calls, program.result)
    small = {0}  # values known to be reduced
    for own, call, done in zip(program.calls, calls, expired, strict=True):
        if multiplies(own):
            for id_ in set(call.inputs) - small:
                values[id_] = field.reduce(values[id_])
                small.add(id_)
        value = _value(program, own, call, call.arguments(values, 1), trail, field)
        if multiplies(own):
            value = field.reduce(value)
        if multiplies(own) or (traits_of(own).moves and small.issuperset(own.inputs)):
            small.add(call.id)
        values[call.id] = value
        for id_ in done:
            del values[id_]
    return field.reduce(values[program.result])


def _value(  # noqa: PLR0917
    program: Program, own: Call, call: Call, args: list[Any], trail: Trail, field: Field
) -> Tensor:
    rule = rule_of(own)
    if rule is not None and rule.kind == "decision":
        return _decided(own, call, args, trail.decisions[own.site])
    if own.op == BATCH_NORM:
        scale, shift = norm_residues(own, field)
        normed: Tensor = args[0] * scale + shift
        return normed
    common = divisor(program, own)
    if common == 1:
        result: Tensor = call.run(*args)
        return result
    multiple = field.reduce(args[0] * field.inverse(common)) * common
    averaged: Tensor = call.run(multiple, *args[1:])
    return averaged.round()


# --- decisions -----------------------------------------------------------------------------------


def _decided(own: Call, call: Call, args: list[Any], decisions: Decisions) -> Tensor:
    """What is left of an operator when its decisions are given."""
    name, x = short(own), args[0]
    if name.startswith(("max_pool", "adaptive_max_pool")):
        return _picked(own, x, decisions.index())
    if name in ("amax", "amin", "max", "min"):
        return _along(own, x, decisions.index(), tuple(call.sizes(1)))
    on = decisions.plane(0).bool()
    if name in ("maximum", "minimum"):
        return torch.where(on, *_aligned(x, args[1]))
    if name == "relu":
        return torch.where(on, x, 0)
    if name == "abs":
        return torch.where(on, x, -x)
    if name == "leaky_relu":
        return torch.where(on, x, x * (args[1] if len(args) > 1 else call_default(own)))
    if name in ("prelu", "_prelu_kernel"):
        slope = args[1].reshape(1, -1, *[1] * (x.ndim - 2)) if name == "prelu" else args[1]
        return torch.where(on, x, x * slope)
    if name == "threshold":
        return torch.where(on, x, torch.as_tensor(float(args[2]), dtype=x.dtype))
    above = decisions.plane(1).bool()
    # A side without a bound is never taken; any number stands for it.
    low, high = (torch.tensor(float(bound or 0)).to(x) for bound in bounds_of(name, args))
    return torch.where(on, x, torch.where(above, high, low))


def call_default(call: Call) -> float:
    """Leaky ReLU's slope where the call leaves it out: it has no residue of its own then."""
    raise LookupError(f"{call.op} at '{call.site}' states no slope")


def _aligned(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    first, second = torch.broadcast_tensors(a, b)
    return first, second


def bounds_of(name: str, args: Sequence[Any]) -> tuple[float | None, float | None]:
    """A clamp's two bounds, None for none; args as the operator has them, the input first."""
    given = list(args[1:])
    if name == "relu6":
        given = [0, 6]
    if name == "hardtanh":
        given = [*given, *[-1, 1][len(given) :]]
    if name == "clamp_max":
        given = [None, given[0]]
    low, high = (*given, None, None)[:2]
    return (None if low in (None, -inf) else low), (None if high in (None, inf) else high)


def _along(call: Call, x: Tensor, index: Tensor, shape: tuple[int, ...]) -> Tensor:
    """amax and its like: the operand taken along the reduced dimensions."""
    given = call.args[1] if len(call.args) > 1 else list(range(x.ndim))
    dims = sorted(d % x.ndim for d in ([given] if isinstance(given, int) else given))
    kept = [d for d in range(x.ndim) if d not in dims]
    flat = x.permute(*kept, *dims).flatten(len(kept))
    taken = flat.gather(-1, index.reshape(*flat.shape[:-1], 1))
    return taken.reshape(shape)


def _picked(call: Call, x: Tensor, local: Tensor) -> Tensor:
    """Max-pooling: the recorded position of every window, counted row by row within it."""
    dims = int(call.op.split("max_pool")[1][0])
    plane, out = x.shape[-dims:], local.shape[-dims:]
    starts, reach, _ = windows_of(call, dims, plane, out)
    steps = torch.tensor([prod(plane[d + 1 :]) for d in range(dims)])
    within = torch.tensor([[s * k for s, k in zip(steps.tolist(), point, strict=True)]
                           for point in product(*reach)]).sum(1)  # fmt: skip
    base = torch.zeros((), dtype=torch.int64)
    for d in range(dims):
        shape = [-1 if d == e else 1 for e in range(dims)]
        base = base + (torch.tensor(starts[d]) * steps[d]).reshape(shape)
    flat = within[local] + base
    return x.flatten(-dims).gather(-1, flat.flatten(-dims)).reshape(*x.shape[:-dims], *out)


def windows_of(
    call: Call, dims: int, plane: Sequence[int], out: Sequence[int]
) -> tuple[list[list[int]], list[list[int]], list[list[int]]]:
    """Where windows start, the steps within the longest, and before what they end, by dimension."""
    if "adaptive" in call.op:
        starts = [[o * n // m for o in range(m)] for n, m in zip(plane, out, strict=True)]
        ends = [[-(-(o + 1) * n // m) for o in range(m)] for n, m in zip(plane, out, strict=True)]
        lengths = [
            max(b - a for a, b in zip(*one, strict=True)) for one in zip(starts, ends, strict=True)
        ]
        return starts, [list(range(length)) for length in lengths], ends
    kernel, stride, padding, dilation = (
        [*args] * (dims if len(args) == 1 else 1) for args in _pool_arguments(call)
    )
    starts = [[o * stride[d] - padding[d] for o in range(out[d])] for d in range(dims)]
    reach = [[k * dilation[d] for k in range(kernel[d])] for d in range(dims)]
    return starts, reach, [[n] * m for n, m in zip(plane, out, strict=True)]


def _pool_arguments(call: Call) -> list[list[int]]:
    given = list(call.args[1:5])
    defaults: list[Any] = [None, [], [0], [1]]
    kernel, stride, padding, dilation = [*given, *defaults[len(given) :]]
    found = [kernel, stride or kernel, padding, dilation]
    return [[value] if isinstance(value, int) else list(value) for value in found]
