"""A layer of an LSTM as PyTorch runs it on a CPU in single precision: as one operator.

In double precision, and other kinds of recurrent layers, are taken apart into steps.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from guidxmage.engine.calls.call import Frame, is_active
from guidxmage.engine.rules import rows
from guidxmage.engine.rules.smooth import tangent
from guidxmage.engine.rules.table import register


def _layer(
    x: Tensor,
    w_input: Tensor,
    w_hidden: Tensor,
    b_input: Tensor,
    b_hidden: Tensor,
    hidden: Tensor,
    cell: Tensor,
    reverse: bool,
    *_: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states (T, B, H) of inputs (T, B, I), the last of them and the last cell."""
    steps = x.flip(0) if reverse else x
    given = torch.nn.functional.linear(steps, w_input, b_input + b_hidden)
    h, c = hidden.reshape(x.shape[1], -1), cell.reshape(x.shape[1], -1)
    states = []
    for step in given:
        i, f, g, o = (step + h @ w_hidden.t()).chunk(4, 1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        states.append(h)
    found = torch.stack(states)
    return (found.flip(0) if reverse else found), h.reshape(hidden.shape), c.reshape(cell.shape)


def _output(f: Frame, *moving: Tensor) -> Tensor:
    queue = iter(moving)
    args: list[Any] = [next(queue) if is_active(arg) else arg for arg in f.call.args]
    return _layer(*args)[f.call.output or 0]


# The kernel's own derivative cannot be differentiated again, which its expansion needs; a program
# that was captured in single precision may be run in double precision.
register(
    "aten.mkldnn_rnn_layer.default",
    tangent(_output, runs=lambda x: x.dtype == torch.float32, rows=rows.never),
)
