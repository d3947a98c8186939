"""Transposed convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

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


@dataclass(frozen=True)
class _Settings:
    """What a call says beside image, weight and bias, a number for every dimension of the kernel.

    geometry: stride, padding and dilation.
    """

    geometry: list[list[int]]
    output_padding: list[int]
    groups: int

    @classmethod
    def of(
        cls,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: IntList = (1,),
        padding: IntList = (0,),
        output_padding: IntList = (0,),
        groups: int = 1,
        dilation: IntList = (1,),
    ) -> _Settings:
        """From the call's own arguments."""
        geometry = [each(value, weight) for value in (stride, padding, dilation)]
        return cls(geometry, each(output_padding, weight), groups)


def _transposed(f: Frame, x: Tensor, weight: Tensor, *args: Any) -> Tensor:
    own = _Settings.of(weight, *args)
    return aten.convolution(x, weight, None, *own.geometry, True, own.output_padding, own.groups)


def _transposed_pull(f: Frame, g: Tensor, x: Hole, weight: Tensor, *args: Any) -> list[Tensor]:
    """The convolution whose transpose it is; output padding wider than a stride makes it longer."""
    own = _Settings.of(weight, *args)
    zeros = [0] * (weight.ndim - 2)
    pulled = aten.convolution(g, weight, None, *own.geometry, False, zeros, own.groups)
    inside = (slice(None), slice(None), *(slice(size) for size in x.shape[2:]))
    return [pulled[inside]]


def _places(f: Frame, x: Places, weight: Tensor, *args: Any) -> Places:
    """Cells as many times finer as the stride is large."""
    sizes = zip(weight.shape[2:], *_Settings.of(weight, *args).geometry, strict=True)
    windows = [Window.transposed(d * (k - 1) + 1, s, p) for k, s, p, d in sizes]
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
