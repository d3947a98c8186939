"""Fold evaluation-mode batch-norm into the convolution before it, for the symbolic runs only.

The recorded run keeps the user's own operators: folding first would change the rounding of
pre-activations and so flip decisions close to zero.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from guidxmage.engine.call import Call
from guidxmage.engine.rules.affine import batch_norm_affine

_BATCH_NORM = "aten._native_batch_norm_legit_no_training.default"


def fold_batch_norm(calls: Sequence[Call], result: int) -> tuple[Call, ...]:
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


def _is_convolution(call: Call) -> bool:
    return call.op.startswith("aten.conv") and len(call.inputs) == 1


def _merged(convolution: Call, norm: Call) -> Call:
    image, weight, *others = convolution.args
    bias, rest = (others[0], others[1:]) if others else (None, [])
    _, gamma, beta, mean, variance, _, eps = norm.args
    scale, shift = batch_norm_affine(gamma, beta, mean, variance, eps)
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


def _per_channel(vector: Tensor, weight: Tensor) -> Tensor:
    return vector.to(weight.dtype).reshape(1, -1, *[1] * (weight.ndim - 2))
