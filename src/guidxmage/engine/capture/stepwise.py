"""Which values of a captured run change by steps only: along a trail they are constants."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from guidxmage.engine.calls.call import Branch, Call, Kept, Ref, is_source, leaves
from guidxmage.engine.rules import PRODUCTS, RULES, is_stepwise


def with_kept(order: Sequence[Call | Branch]) -> tuple[Call | Branch, ...]:
    """The calls, in order of execution, with `Kept` where they take such a value."""
    stepwise: set[int] = set()
    sources: set[int] = set()  # constants that grow with the number of images
    found: list[Call | Branch] = []
    for one in order:
        if isinstance(one, Branch):
            found.append(one)
            continue
        call = replace(one, args=_marked(one.args, stepwise))
        if sources and _wants_constants(call):
            call = replace(call, args=_marked(call.args, sources))
        if is_source(call):
            sources.add(call.id)
            if _is_whole(call):
                stepwise.add(call.id)
        elif is_stepwise(call):
            stepwise.add(call.id)
        found.append(call)
    return tuple(found)


def _wants_constants(call: Call) -> bool:
    """Whether it is another operator where some of its arguments are constants: a product, say."""
    rule = RULES.get(call.op)
    refuses = rule is not None and rule.refuse is not None and rule.refuse(call) is not None
    return call.op in PRODUCTS or refuses


def _is_whole(source: Call) -> bool:
    """Whether a constant is made of whole numbers or truth values alone."""
    tensors = [arg for arg in leaves(source.args) if isinstance(arg, Tensor)]
    return bool(tensors) and not any(one.is_floating_point() for one in tensors)


def linear_calls(calls: Sequence[Call], result: int) -> tuple[Call, ...]:
    """The calls without those that compute what the trail keeps; the result stays."""
    return tuple(call for call in calls if call.id == result or not is_stepwise(call))


def _marked(arg: Any, kept: set[int]) -> Any:
    if isinstance(arg, Ref):
        return Kept(arg.id) if arg.id in kept else arg
    if isinstance(arg, list | tuple):
        return type(arg)(_marked(one, kept) for one in arg)
    return arg
