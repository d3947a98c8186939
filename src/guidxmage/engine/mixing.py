"""Whether a network keeps the images of a batch apart, as seen from its calls and by trying."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from guidxmage.engine.call import BatchSize, Call
from guidxmage.errors import UnsupportedOperatorError


def refuse_mixing(
    model: nn.Module, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> None:
    """Two random images must have the scores together that they have alone."""
    generator = torch.Generator().manual_seed(0)
    pair = torch.rand(shape, generator=generator, dtype=dtype).to(device)
    with torch.no_grad():
        together = model(pair)
        alone = torch.cat([model(pair[:1]), model(pair[1:])])
    if not torch.allclose(together, alone, rtol=1e-3, atol=1e-3 * float(alone.abs().max())):
        raise UnsupportedOperatorError(
            "this network cannot be explained: it mixes the images of a batch"
        )


def rows_stay_apart(calls: Sequence[Call]) -> bool:
    """Whether every value keeps the images of a batch apart, in its first dimension."""
    shapes = [call.shape or (0,) for call in calls]
    first_alone = all(
        isinstance(head, BatchSize) and not any(isinstance(n, BatchSize) for n in tail)
        for head, *tail in shapes
    )
    return first_alone and not any(map(_runs_along_rows, calls))


# Operators that keep the shape and work along dimensions: which argument names these.
_ALONG = dict.fromkeys(("softmax", "_softmax", "log_softmax", "_log_softmax", "flip"), 1)
_ALONG |= dict.fromkeys(("roll", "slice_scatter", "select_scatter"), 2)


def _runs_along_rows(call: Call) -> bool:
    """Whether an operator works along the first dimension, which its shape does not tell."""
    name, ndim = call.op.split(".")[1], len(call.shape)
    if name == "scaled_dot_product_attention":
        return ndim < 3
    if name not in _ALONG or (name == "slice_scatter" and _takes_all(*call.args[3:])):
        return False
    dims = call.args[_ALONG[name]] if len(call.args) > _ALONG[name] else []
    listed = [dims] if isinstance(dims, int) else list(dims)
    return not listed or any(dim % ndim == 0 for dim in listed)


def _takes_all(start: Any = None, end: Any = None, step: int = 1) -> bool:
    """Whether a slice is the whole dimension, as `x[:, 0] = …` writes for the images."""
    return not start and (end is None or end == sys.maxsize) and step == 1
