"""What changes by steps only: kept in the trail, and put in place as a constant for a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from guidxmage.engine.calls.call import Branch, Call, is_source
from guidxmage.engine.rules import is_stepwise
from guidxmage.engine.trail.decisions import Decisions
from guidxmage.engine.trail.trail import Trail


def kept_ids(calls: Sequence[Call], result: int) -> frozenset[int]:
    """The values that change by steps and that other calls take as constants, or the result."""
    stepwise = {call.id for call in calls if is_stepwise(call)}
    read = {id_ for call in calls if call.id not in stepwise for id_ in call.keeps}
    return frozenset(read | ({result} & stepwise))


def where_steps_are(branches: Sequence[Branch], calls: Sequence[Call], kept: Set[int]) -> list[str]:
    """What changes by steps on a way through the images, in words."""
    steps = [call for call in calls if call.id in kept and not is_source(call)]
    return [f"the network branches at '{one.site}'" for one in branches] + [
        f"the network takes a mask or positions at '{call.site}', and may jump," for call in steps
    ]


def values_kept(
    calls: Sequence[Call], kept: Set[int], trail: Trail, rows: int, dtype: torch.dtype
) -> dict[int, Tensor]:
    """Those values for the rows of a run along a trail; constants are made anew."""
    found = {}
    for call in calls:
        if call.id in kept:
            own = None if is_source(call) else trail[call.site]
            found[call.id] = (
                call.run(*call.arguments({}, rows))
                if own is None
                else kept_value(call, own, rows, dtype)
            )
    return found


def kept_entry(value: Tensor, rows: int) -> Decisions:
    """A value as an entry of the trail of `rows` images, to the bit."""
    value = value.detach()
    apart = value if value.ndim and len(value) % rows == 0 else value[None]
    whole = value.dtype == torch.bool
    entry = Decisions.from_bits(apart) if whole else Decisions.of_numbers(apart)
    return entry.per_image(rows)  # several parts of an image may lie in the first dimension


def kept_value(call: Call, entry: Decisions, rows: int, dtype: torch.dtype) -> Tensor:
    """The value of a call for the rows of a run, from its entry; floating numbers in `dtype`."""
    if entry.kind == "index":
        value = entry.index()
    elif entry.kind == "bits":
        value = entry.plane().bool()
    else:
        value = entry.numbers()
        value = value.to(dtype) if value.is_floating_point() else value
    value = value.reshape(call.sizes(entry.images))
    repeats = rows // entry.images
    return value if repeats == 1 else value.repeat(repeats, *[1] * (value.ndim - 1))


def bound_calls(calls: Sequence[Call], kept: Mapping[int, Tensor], result: int) -> tuple[Call, ...]:
    """Calls with kept values in their places; those that compute such values are left out."""
    found = [call.bound(kept) for call in calls if not is_stepwise(call)]
    if result in kept:
        own = next(call for call in calls if call.id == result)
        found.append(replace(own, op="kept", target=_itself, args=(kept[result],), output=None))
    return tuple(found)


def _itself(value: Tensor, *_: Any, **__: Any) -> Tensor:
    return value
