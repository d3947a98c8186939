"""What is known of every operator that has a counterpart modulo primes: its constants, its sums."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import lcm, prod
from typing import cast

from torch import Tensor

from guidxmage.engine.calls.call import Call
from guidxmage.engine.program.program import Program
from guidxmage.engine.rules import rule_of
from guidxmage.errors import UnsupportedOperatorError

BATCH_NORM = "aten._native_batch_norm_legit_no_training.default"
# Constants among the arguments of these calls enter the sum: they are replaced by residues.
WEIGHTED = frozenset(
    [
        "conv1d",
        "conv2d",
        "conv3d",
        "conv_transpose1d",
        "conv_transpose2d",
        "conv_transpose3d",
        "linear",
        "addmm",
        "mm",
        "matmul",
        "bmm",
        "mul",
        "add",
        "sub",
        "rsub",
        "addcmul",
        "prelu",
        "_prelu_kernel",
    ]
)
# These add, move or choose and have no constants that enter the sum (or only 0).
_PLAIN = frozenset(
    [
        "neg",
        "sum",
        "clone",
        "contiguous",
        "alias",
        "detach",
        "lift_fresh_copy",
        "dropout",
        "feature_dropout",
        "view",
        "reshape",
        "flatten",
        "unflatten",
        "_unsafe_view",
        "squeeze",
        "unsqueeze",
        "permute",
        "transpose",
        "t",
        "expand",
        "slice",
        "select",
        "split",
        "split_with_sizes",
        "chunk",
        "unbind",
        "narrow",
        "index_select",
        "flip",
        "roll",
        "pixel_shuffle",
        "pixel_unshuffle",
        "channel_shuffle",
        "index",
        "cat",
        "stack",
        "relu",
        "abs",
        "amax",
        "amin",
        "max",
        "min",
        "max_pool1d",
        "max_pool2d",
        "max_pool3d",
        "max_pool1d_with_indices",
        "max_pool2d_with_indices",
        "max_pool3d_with_indices",
        "adaptive_max_pool1d",
        "adaptive_max_pool2d",
        "adaptive_max_pool3d",
        "zeros_like",
        "ones_like",
        "new_zeros",
        "zeros",
        "ones",
        "type_as",
        "repeat_interleave",
        "im2col",
        "col2im",
        "unfold",
        "tril",
        "triu",
    ]
)
# These overwrite a part, or choose: what they put in may be a constant.
OVERWRITING = frozenset(
    ["slice_scatter", "select_scatter", "copy", "where", "masked_fill", "maximum", "minimum"]
)
# Constants whose residues keep their order, because rules compare them.
BOUNDED = frozenset(
    ["hardtanh", "relu6", "clamp", "clamp_min", "clamp_max", "leaky_relu", "threshold"]
)
_AVERAGES = frozenset(
    [
        "avg_pool1d",
        "avg_pool2d",
        "avg_pool3d",
        "adaptive_avg_pool1d",
        "adaptive_avg_pool2d",
        "adaptive_avg_pool3d",
        "mean",
    ]
)
_KNOWN = WEIGHTED | _PLAIN | OVERWRITING | BOUNDED | _AVERAGES | {"constant_pad_nd", "pad"}


def short(call: Call) -> str:
    """An operator's name without namespace and overload."""
    return call.op.split(".")[1]


# These only hand numbers on, one for each: what is reduced stays so, forwards and transposed.
_HANDING_ON = frozenset(
    [
        "clone",
        "contiguous",
        "alias",
        "detach",
        "dropout",
        "feature_dropout",
        "view",
        "reshape",
        "flatten",
        "unflatten",
        "_unsafe_view",
        "squeeze",
        "unsqueeze",
        "permute",
        "transpose",
        "t",
        "neg",
        "relu",
        "abs",
        "relu6",
        "hardtanh",
        "clamp",
        "clamp_min",
        "clamp_max",
    ]
)


def hands_on(call: Call) -> bool:
    """Whether a call only moves numbers, or drops some."""
    return short(call) in _HANDING_ON


def reduced_cotangents(program: Program) -> frozenset[int]:
    """The calls whose cotangents come in reduced: from one call alone, which leaves them so."""
    users: dict[int, list[Call]] = {}
    for call in program.calls:
        for id_ in call.inputs:
            users.setdefault(id_, []).append(call)
    found = {program.result} if program.result not in users else set()
    for call in reversed(program.calls):
        own = users.get(call.id, [])
        if len(own) == 1 and (multiplies(own[0]) or (hands_on(own[0]) and own[0].id in found)):
            found.add(call.id)
    return frozenset(found)


def multiplies(call: Call) -> bool:
    """Whether a call multiplies residues: what enters it must be reduced, and what comes out."""
    name = short(call)
    if name in ("add", "sub", "rsub"):  # with a factor for the second operand
        return len(call.args) > 2 or call.kwargs.get("alpha", 1) != 1
    return name in WEIGHTED | _AVERAGES or name == "leaky_relu" or call.op == BATCH_NORM


def without_rule(calls: Iterable[Call]) -> Call | None:
    """The first call that has no modular counterpart."""
    for call in calls:
        rule = rule_of(call)
        known = short(call) in _KNOWN or call.op == BATCH_NORM or not call.inputs
        if not known or rule is None or rule.kind == "gate" or "training" in call.kwargs:
            return call
    return None


def longest_sum(program: Program) -> int:
    """The most products that one entry of any value or cotangent sums, with room to spare."""
    longest = max(program.classes, 1024)
    for call in program.calls:
        for arg in call.args:
            if isinstance(arg, Tensor) and short(call) in WEIGHTED and arg.ndim > 1:
                longest = max(longest, prod(arg.shape[1:]), arg.numel() // arg.shape[1])
        if short(call) in _AVERAGES:
            longest = max(longest, 2 * divisor(program, call))
    return 2 * longest


def divisor(program: Program, call: Call) -> int:
    """A common multiple of the whole numbers by which a call divides; 1 where it divides by none.

    Raises UnsupportedOperatorError where that multiple is too large for exact arithmetic.
    """
    name = short(call)
    if name not in _AVERAGES:
        return 1
    shape = program.shapes(1)[call.inputs[0]]
    if name == "mean":
        dims = call.args[1] if len(call.args) > 1 and call.args[1] else range(len(shape))
        found = prod(shape[d] for d in cast("Sequence[int]", dims))
    elif name.startswith("adaptive"):
        out = program.shapes(1)[call.id]
        found = _adaptive_multiple(shape[-_dims(name) :], out[-_dims(name) :])
    else:
        found = _window_multiple(call, _dims(name))
    if found > 2**24:
        raise UnsupportedOperatorError(f"{call.op} at '{call.site}' averages in too many ways")
    return found


def _dims(name: str) -> int:
    return int(name[-2])


def _adaptive_multiple(size: Sequence[int], out: Sequence[int]) -> int:
    """The least common multiple of the windows' sizes, dimension by dimension."""
    found = 1
    for n, m in zip(size, out, strict=True):
        found *= lcm(*(-(-(o + 1) * n // m) - o * n // m for o in range(m)))
    return found


def _window_multiple(call: Call, dims: int) -> int:
    kernel = list(call.args[1]) * (dims if len(call.args[1]) == 1 else 1)
    if len(call.args) > 6 and call.args[6]:
        return int(call.args[6])
    padding = call.args[3] if len(call.args) > 3 else [0]
    ceil_mode = len(call.args) > 4 and bool(call.args[4])
    if not any(padding) and not ceil_mode:
        return prod(kernel)
    return prod(lcm(*range(1, k + 1)) for k in kernel)
