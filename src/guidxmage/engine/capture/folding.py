"""Rewrite a program for the symbolic runs: the same values, with fewer and larger operations.

The recorded run keeps the user's own operators: folding first would change the rounding of
pre-activations and so flip decisions close to zero.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from guidxmage.engine.calls.call import Call, Ref
from guidxmage.engine.rules.affine import batch_norm_affine
from guidxmage.engine.rules.convolution import PADDED, padded_conv2d

_BATCH_NORM = "aten._native_batch_norm_legit_no_training.default"
# Relative to the largest; below it dividing by the scale would cost digits.
_SMALLEST_SCALE = 1e-4


def fold(calls: Sequence[Call], result: int) -> tuple[Call, ...]:
    """Batch-norms merged into the convolutions around them, zeros around an image with the next
    convolution, concatenations built step by step.
    """
    calls = _fold_forward(_fold_backward(calls, result), result)
    return tuple(_chain_concatenations(_fold_padding(calls, result)))


def _fold_backward(calls: Sequence[Call], result: int) -> tuple[Call, ...]:
    """The same values with every convolution that feeds only a batch-norm merged into it."""
    uses = Counter(id_ for call in calls for id_ in call.inputs)
    by_id = {call.id: call for call in calls}
    folded: dict[int, Call] = {}
    dropped: set[int] = set()
    for call in calls:
        if call.op != _BATCH_NORM:
            continue
        source = by_id.get(call.inputs[0])
        if source and _is_convolution(source) and uses[source.id] == 1 and source.id != result:
            folded[call.id] = _merged(source, call)
            dropped.add(source.id)
    return tuple(folded.get(call.id, call) for call in calls if call.id not in dropped)


def _fold_forward(calls: Sequence[Call], result: int) -> tuple[Call, ...]:
    """Batch-norm → ReLU → convolution: the scale moves past the ReLU into the weight.

    Under a trail a ReLU is a diagonal of zeros and ones, which commutes with the scale; what is
    left of the batch-norm adds shift/scale.
    """
    users: dict[int, list[Call]] = {}
    for call in calls:
        for id_ in call.inputs:
            users.setdefault(id_, []).append(call)
    changed: dict[int, Call] = {}
    for call in calls:
        if call.op != _BATCH_NORM:
            continue
        chain = _only_users(call, users)
        if len(chain) < 2 or chain[0].op != "aten.relu.default" or not _is_convolution(chain[1]):
            continue
        scale, shift = _affine_of(call)
        if call.id == result or chain[0].id == result or not _divisible(scale):
            continue
        changed[call.id] = _without_scale(call, shift / scale)
        changed[chain[1].id] = _input_scaled(chain[1], scale)
    return tuple(changed.get(call.id, call) for call in calls)


def _only_users(call: Call, users: dict[int, list[Call]]) -> list[Call]:
    """The next calls, as long as each value is used exactly once; two at most."""
    found: list[Call] = []
    while len(found) < 2 and len(users.get(call.id, ())) == 1:
        call = users[call.id][0]
        found.append(call)
    return found


def _divisible(scale: Tensor) -> bool:
    size = scale.abs()
    return bool(size.min() > _SMALLEST_SCALE * size.max())


def _without_scale(norm: Call, constant: Tensor) -> Call:
    image, mean, ndim = norm.args[0], norm.args[3], len(norm.shape)
    added = constant.to(mean.dtype).reshape(1, -1, *[1] * (ndim - 2))
    return replace(
        norm,
        op="aten.add.Tensor",
        target=torch.ops.aten.add.Tensor,
        args=(image, added),
        output=None,
    )


def _input_scaled(convolution: Call, scale: Tensor) -> Call:
    image, weight, *rest = convolution.args
    groups = rest[4] if len(rest) > 4 else 1
    grouped = weight.double().unflatten(0, (groups, -1))
    scales = scale.reshape(groups, 1, -1, *[1] * (weight.ndim - 2))
    scaled = (grouped * scales).flatten(0, 1).to(weight.dtype)
    return replace(convolution, args=(image, scaled, *rest))


def _fold_padding(calls: Sequence[Call], result: int) -> tuple[Call, ...]:
    """The same values with zeros that are padded for one convolution only merged into it.

    Transposed, it need not compute what it would send to them.
    """
    uses = Counter(id_ for call in calls for id_ in call.inputs)
    by_id = {call.id: call for call in calls}
    folded: dict[int, Call] = {}
    dropped: set[int] = set()
    for call in calls:
        source = by_id.get(call.inputs[0]) if call.op == "aten.conv2d.default" else None
        pad = _zeros_around(source) if source and uses[source.id] == 1 else None
        if source is None or pad is None or source.id == result or len(call.inputs) > 1:
            continue
        _, weight, *given = call.args
        defaults = [None, [1], [0], [1], 1]
        rest = [*given, *defaults[len(given) :], pad]
        folded[call.id] = replace(
            call, op=PADDED, target=padded_conv2d, args=(source.args[0], weight, *rest)
        )
        dropped.add(source.id)
    return tuple(folded.get(call.id, call) for call in calls if call.id not in dropped)


def _zeros_around(call: Call) -> list[int] | None:
    """(left, right, top, bottom) of a call that pads images with zeros, else None."""
    if call.op not in ("aten.pad.default", "aten.constant_pad_nd.default"):
        return None
    pad, rest = call.args[1], call.args[2:]
    plain = all(value in ("constant", None, 0) for value in rest) and not call.kwargs
    if not plain or len(call.shape) != 4 or len(pad) > 4:
        return None
    if not all(isinstance(width, int) and width >= 0 for width in pad):
        return None
    return [*pad, *[0] * (4 - len(pad))]


def _chain_concatenations(calls: Sequence[Call]) -> Iterator[Call]:
    """cat(a, b, c) after cat(a, b) becomes cat(cat(a, b), c).

    In a densely connected block every value is then pulled once instead of once per later layer.
    """
    earlier: dict[Any, int] = {}
    for call in calls:
        chained = call
        if call.op == "aten.cat.default" and all(isinstance(part, Ref) for part in call.args[0]):
            ids, dims = tuple(part.id for part in call.args[0]), call.args[1:]
            lengths = range(len(ids) - 1, 1, -1)
            known = next((n for n in lengths if (ids[:n], dims) in earlier), 0)
            earlier.setdefault((ids, dims), call.id)
            if known:
                first = Ref(earlier[ids[:known], dims])
                chained = replace(call, args=([first, *call.args[0][known:]], *dims))
        yield chained


def _is_convolution(call: Call) -> bool:
    plain = ("aten.conv1d.", "aten.conv2d.", "aten.conv3d.")  # a transposed weight lies otherwise
    return call.op.startswith(plain) and len(call.inputs) == 1


def _merged(convolution: Call, norm: Call) -> Call:
    image, weight, *others = convolution.args
    bias, rest = (others[0], others[1:]) if others else (None, [])
    scale, shift = _affine_of(norm)
    offsets = [(norm.site, shift)]
    if bias is not None:
        offsets.insert(0, (convolution.site, bias.double() * scale))
    column = (-1, *[1] * (weight.ndim - 1))
    return replace(
        convolution,
        id=norm.id,
        shape=norm.shape,
        args=(
            image,
            (weight.double() * scale.reshape(column)).to(weight.dtype),
            None,
            *rest,
        ),
        offsets=tuple((site, _per_channel(c, weight)) for site, c in offsets),
    )


def _affine_of(norm: Call) -> tuple[Tensor, Tensor]:
    _, gamma, beta, mean, variance, _, eps = norm.args
    return batch_norm_affine(gamma, beta, mean, variance, eps)


def _per_channel(vector: Tensor, weight: Tensor) -> Tensor:
    return vector.to(weight.dtype).reshape(1, -1, *[1] * (weight.ndim - 2))
