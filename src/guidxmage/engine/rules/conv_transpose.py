"""Transposed convolutions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from guidxmage.engine.calls.call import Frame, Hole
from guidxmage.engine.rules import rows
from guidxmage.engine.rules.convolution import (
    channel_bias,
    convolution_gain,
    convolution_terms,
    each,
)
from guidxmage.engine.rules.places import Places, Window, through_windows
from guidxmage.engine.rules.table import Rule, Traits, register

aten = torch.ops.aten
IntList = Sequence[int]

# --- transposed convolutions ---------------------------------------------------------------------


def _transposed(
    f: Frame,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: IntList = (1,),
    padding: IntList = (0,),
    output_padding: IntList = (0,),
    groups: int = 1,
    dilation: IntList = (1,),
) -> Tensor:
    geometry = [each(value, weight) for value in (stride, padding, dilation)]
    return aten.convolution(x, weight, None, *geometry, True, each(output_padding, weight), groups)


def _transposed_pull(
    f: Frame,
    g: Tensor,
    x: Hole,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: IntList = (1,),
    padding: IntList = (0,),
    output_padding: IntList = (0,),
    groups: int = 1,
    dilation: IntList = (1,),
) -> list[Tensor]:
    """The convolution whose transpose it is; output padding wider than a stride makes it longer."""
    geometry = [each(value, weight) for value in (stride, padding, dilation)]
    zeros = [0] * (weight.ndim - 2)
    pulled = aten.convolution(g, weight, None, *geometry, False, zeros, groups)
    inside = (slice(None), slice(None), *(slice(size) for size in x.shape[2:]))
    return [pulled[inside]]


def _places(
    f: Frame,
    x: Places,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: IntList = (1,),
    padding: IntList = (0,),
    output_padding: IntList = (0,),
    groups: int = 1,
    dilation: IntList = (1,),
) -> Places:
    """Cells as many times finer as the stride is large."""
    given = [each(value, weight) for value in (dilation, padding, stride)]
    sizes = zip(weight.shape[2:], *given, strict=True)
    windows = [Window.transposed(d * (k - 1) + 1, s, p) for k, d, p, s in sizes]
    return through_windows(x, f.shape, windows)


register(
    "aten.conv_transpose1d.default aten.conv_transpose2d.input aten.conv_transpose3d.input",
    Rule(
        "affine",
        push=_transposed,
        pull=_transposed_pull,
        constant=lambda f, x, weight, bias=None, *rest: channel_bias(f, bias, weight),
        terms=convolution_terms,
        gain=convolution_gain,
        refuse=lambda call: (
            None if isinstance(call.args[1], Tensor) else "its weight depends on the image"
        ),
        rows=rows.weighted,
        places=_places,
    ),
    traits=Traits(residues="weights", exact=True),
)
