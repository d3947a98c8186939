"""What smooth operators have in common: numbers recorded on the image make them affine.

Beyond ReLU there is no region in which the network is affine. A smooth operator is replaced by an
affine one that gives the same value at X: the *tangent*, or a *secant*, in which what scales the
flow (x ↦ x·g, statistics, attention) is frozen at what it is on X.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from guidxmage.engine.calls.call import BatchSize, Call, Frame, Ref
from guidxmage.engine.rules.table import BY_AUTOGRAD, Plain, Rule
from guidxmage.engine.trail.gates import Gates


def scaled(f: Frame, v: Tensor, gate: Tensor) -> Tensor:
    """v ⊙ gate, where every recorded image scales its own rows."""
    if v.ndim != gate.ndim:
        return v * f.for_rows(gate)
    return f.gate(v, gate)


def applied(f: Frame, values: Sequence[Tensor]) -> Tensor:
    """The operator itself on these active inputs, in order of appearance."""
    queue = iter(values)

    def filled(arg: Any) -> Any:
        if isinstance(arg, Ref):
            return next(queue)
        if isinstance(arg, BatchSize):
            return arg.of_rows(f.rows)
        return [filled(item) for item in arg] if isinstance(arg, list | tuple) else arg

    result: Tensor = f.call.run(*[filled(arg) for arg in f.call.args])
    return result


def active_values(f: Frame, args: Sequence[Any]) -> list[Tensor]:
    """The arguments that are computed from the image, lists searched too."""
    found: list[Tensor] = []

    def search(given: Any, arg: Any) -> None:
        if isinstance(given, Ref):
            found.append(arg)
        elif isinstance(given, list | tuple):
            for item, own in zip(given, arg, strict=True):
                search(item, own)

    for given, arg in zip(f.call.args, args, strict=False):
        search(given, arg)
    return found


def transposed(
    function: Callable[..., Tensor], at: Sequence[Tensor], g: Tensor
) -> list[Tensor | None]:
    """The vector-Jacobian product of a function at some inputs; None for a mask."""
    with torch.enable_grad():
        leaves = [value.detach() for value in at]
        moving = [leaf.requires_grad_() for leaf in leaves if leaf.is_floating_point()]
        found = iter(torch.autograd.grad(function(*leaves), moving, g))
    return [next(found) if leaf.requires_grad else None for leaf in leaves]


def tangent(
    function: Callable[..., Tensor] | None = None,
    *,
    runs: Callable[[Tensor], bool] = lambda x: True,
    **extras: Any,
) -> Rule:
    """A rule for any smooth operator: its first-order expansion at X, whatever the convention.

    function(frame, *active inputs) stands in for the operator where its own kernel has no
    derivatives; the recorded value is the operator's, where its kernel `runs` on such an input.
    """

    def of(f: Frame) -> Callable[..., Tensor]:
        if function is None:
            return lambda *values: applied(f, values)
        return lambda *values: function(f, *values)

    def slope(f: Frame, at: Sequence[Tensor], directions: Sequence[Tensor]) -> Tensor:
        """Of what is a number; a mask stays as it is."""
        moving = [n for n, part in enumerate(at) if part.is_floating_point()]

        def moved(*values: Tensor) -> Tensor:
            changed = dict(zip(moving, values, strict=True))
            return of(f)(*(changed.get(n, part) for n, part in enumerate(at)))

        ends = tuple(at[n] for n in moving), tuple(directions[n] for n in moving)
        result: Tensor = torch.func.jvp(moved, *ends)[1]
        return result

    def record(f: Frame, *args: Any, **kw: Any) -> tuple[Tensor, Gates]:
        at = [part.clone() for part in active_values(f, args)]
        value = f.call.run(*args) if runs(at[0]) else of(f)(*at)
        return value, Gates("tangent", (*at, value - slope(f, at, at)))

    def push(f: Frame, *args: Any, **kw: Any) -> Tensor:
        at = [f.for_rows(part) for part in f.numbers()[:-1]]
        return slope(f, at, active_values(f, args))

    def pull(f: Frame, g: Tensor, *args: Any, **kw: Any) -> list[Tensor | None]:
        return transposed(of(f), [f.for_rows(part) for part in f.numbers()[:-1]], g)

    def constant(f: Frame, *args: Any, **kw: Any) -> Tensor:
        return f.for_rows(f.numbers()[-1])

    extras.setdefault("terms", lambda f, *args, **kw: 8)
    extras.setdefault("plain", Plain(refused=BY_AUTOGRAD))
    return Rule("gate", push, pull, record=record, constant=constant, **extras)


def refuse_several_outputs(call: Call) -> str | None:
    """For operators of which only the first output is understood."""
    return None if call.output in (None, 0) else "its second output is used"
