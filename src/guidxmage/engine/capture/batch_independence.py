"""Whether every value of a program keeps the images of a batch apart, proved call by call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from guidxmage.engine.calls.call import BatchSize, Call, is_source, leaves
from guidxmage.engine.rules import RULES, rule_of


def rows_stay_apart(calls: Sequence[Call], input_shape: Sequence[int]) -> bool:
    """Whether each row of every value depends on the same row of the images alone.

    For a program whose numbers are those of any number of images. What is not known to keep images
    apart counts as not doing so.
    """
    shapes: dict[int, tuple[Any, ...]] = {0: (BatchSize(1, 0), *input_shape)}
    for call in calls:
        shapes[call.id] = call.shape
        if not _counts_images(call.shape) or not _keeps_apart(call, shapes):
            return False
    return True


def _grows(call: Call) -> bool:
    given = leaves((call.args, dict(call.kwargs)))
    return any(isinstance(one, BatchSize) for one in given)


def _counts_images(shape: Sequence[Any]) -> bool:
    """Whether the first dimension is a multiple of the number of images, and no other grows."""
    if not shape or any(isinstance(size, BatchSize) for size in shape[1:]):
        return False
    first = shape[0]
    return isinstance(first, BatchSize) and first.slope > 0 and first.offset == 0


def _keeps_apart(call: Call, shapes: Mapping[int, tuple[Any, ...]]) -> bool:
    # What is computed of masks and indices alone treats them as it would treat numbers.
    rule = rule_of(call) if call.inputs or not call.keeps else RULES.get(call.op)
    # Elsewhere the number of images is a number like any other: another network for each.
    if rule is None or (not rule.traits.sized and _grows(call)):
        return False
    if is_source(call):
        return True
    test = rule.rows
    return test is not None and test(call, [shapes[id_] for id_ in call.reads])
