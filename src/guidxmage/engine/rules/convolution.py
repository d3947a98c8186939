"""Convolutions, and the fastest exact way to transpose each of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from guidxmage.engine.calls.call import Call, Frame, Hole, Kept, is_active
from guidxmage.engine.rules import rows
from guidxmage.engine.rules.affine import per_channel
from guidxmage.engine.rules.places import Places, Window, through_windows
from guidxmage.engine.rules.table import FOLDED, Plain, Rule, Traits, register

aten = torch.ops.aten
IntList = Sequence[int]
Transposed = Callable[[Tensor], Tensor]


def symmetric_padding(padding: IntList | str, weight: Tensor, dilation: IntList) -> list[int]:
    """Padding as numbers; "same" with an uneven total is refused when the call is captured."""
    if padding == "valid":
        return [0] * (weight.ndim - 2)
    if padding == "same":
        totals = [
            d * (k - 1) for d, k in zip(each(dilation, weight), weight.shape[2:], strict=True)
        ]
        return [total // 2 for total in totals]
    assert not isinstance(padding, str)
    return each(padding, weight)


def each(value: IntList, weight: Tensor) -> list[int]:
    """A number for every dimension of a kernel, from one for all or one for each."""
    return list(value) * (weight.ndim - 2) if len(value) == 1 else list(value)


def _refuse_convolution(call: Call) -> str | None:
    weight, padding = call.args[1], call.args[4] if len(call.args) > 4 else (0,)
    if any(map(is_active, call.args[1:3])):
        return "its weight depends on the image"
    if padding == "same" and not isinstance(weight, Kept):
        dilation = each(call.args[5] if len(call.args) > 5 else (1,), weight)
        if any(d * (k - 1) % 2 for d, k in zip(dilation, weight.shape[2:], strict=True)):
            return "padding='same' is uneven for this kernel; pad explicitly with F.pad"
    return None


def _convolution(f: Frame, x: Tensor, *args: Any) -> Tensor:
    c = Geometry.of(f, x, *args)
    zeros = [0] * len(c.stride)
    return aten.convolution(
        x, c.weight, None, c.stride, c.padding, c.dilation, False, zeros, c.groups
    )


def _convolution_pull(f: Frame, g: Tensor, x: Hole, *args: Any) -> list[Tensor]:
    single = g.ndim < args[0].ndim  # an image without a batch
    given = replace(x, shape=(1, *x.shape)) if single else x
    out = (1, *f.shape) if single else f.shape
    geometry = replace(f, shape=out)
    way = f.prepare("transposed", lambda: transposed(Geometry.of(geometry, given, *args)))
    return [way(g[None])[0] if single else way(g)]


def _plain_convolution_pull(f: Frame, g: Tensor, x: Hole, *args: Any) -> list[Tensor]:
    """The transposed convolution as an operator of its own."""
    single = g.ndim < args[0].ndim
    given = replace(x, shape=(1, *x.shape)) if single else x
    c = Geometry.of(replace(f, shape=(1, *f.shape)) if single else f, given, *args)
    reached = zip(c.out[1:], c.stride, c.padding, c.dilation, c.weight.shape[2:], strict=True)
    beyond = [
        size - ((out - 1) * s - 2 * p + d * (k - 1) + 1)
        for size, (out, s, p, d, k) in zip(c.size[1:], reached, strict=True)
    ]
    weight, geometry = c.weight, (c.stride, c.padding, c.dilation, True, beyond, c.groups)
    apart = c.groups == c.size[0] == c.out[0] and max(c.stride) == 1
    if apart and min(c.flipped_padding) >= 0:  # onnxruntime is several times as fast so
        weight = weight.flip(list(range(2, weight.ndim)))
        geometry = (c.stride, c.flipped_padding, c.dilation, False, [0] * len(beyond), c.groups)
    pulled = aten.convolution(g[None] if single else g, weight, None, *geometry)
    return [pulled[0] if single else pulled]


def convolution_gain(f: Frame, x: Hole, weight: Tensor, *rest: Any) -> float:
    """The largest 2-norm of the weights that one input, or one output, is multiplied by."""
    squares = weight.detach().double().square().flatten(2).sum(2)
    return float(torch.maximum(squares.sum(0).max(), squares.sum(1).max()).sqrt())


def convolution_terms(f: Frame, x: Hole, weight: Tensor, *rest: Any) -> int:
    """Products summed for one output, and transposed for one input."""
    return prod(weight.shape[1:]) + weight.shape[0] * prod(weight.shape[2:])


def channel_bias(f: Frame, bias: Tensor | None, weight: Tensor) -> Tensor | None:
    """A bias that broadcasts against the output, which may be that of a single image."""
    if bias is None or len(f.shape) == weight.ndim:
        return per_channel(bias, weight.ndim)
    return bias.reshape(-1, *[1] * (weight.ndim - 2))


# --- transposition -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Geometry:
    """A convolution without its bias; `size` is its input's (channels, *positions)."""

    weight: Tensor
    size: tuple[int, ...]
    out: tuple[int, ...]
    stride: list[int]
    padding: list[int]
    dilation: list[int]
    groups: int

    @classmethod
    def of(
        cls,
        f: Frame,
        x: Hole | Tensor | Places,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: IntList = (1,),
        padding: IntList | str = (0,),
        dilation: IntList = (1,),
        groups: int = 1,
    ) -> Geometry:
        """From a call's own arguments."""
        return cls(
            weight,
            x.shape[1:],
            f.shape[1:],
            each(stride, weight),
            symmetric_padding(padding, weight, dilation),
            each(dilation, weight),
            groups,
        )

    @property
    def flipped_padding(self) -> list[int]:
        """Padding of the convolution with the flipped kernel that transposes stride 1."""
        kernel = self.weight.shape[2:]
        return [
            d * (k - 1) - p for d, k, p in zip(self.dilation, kernel, self.padding, strict=True)
        ]


def _places(f: Frame, x: Places, weight: Tensor, *args: Any) -> Places:
    """A cell for every position of the kernel's centre."""
    return _around_centres(f, x, Geometry.of(f, x, weight, *args))


def _around_centres(f: Frame, x: Places, c: Geometry) -> Places:
    sizes = [d * (k - 1) + 1 for d, k in zip(c.dilation, c.weight.shape[2:], strict=True)]
    windows = [Window.of(*one) for one in zip(sizes, c.stride, c.padding, strict=True)]
    return through_windows(x, f.shape, windows)


def transposed(c: Geometry) -> Transposed:
    """All ways compute the same sums; on a CPU in float32 the plain one is far from the fastest."""
    if c.weight.ndim != 4 or c.weight.device.type != "cpu":
        return backward(c)
    if prod(c.weight.shape[2:]) == 1 and c.padding == [0, 0] and c.groups == 1:
        return pointwise(c)
    if not can_pack(c.weight):
        return backward(c)
    if c.stride == [1, 1] and min(c.flipped_padding) >= 0:
        by_group = c.weight.unflatten(0, (c.groups, -1)).transpose(1, 2)
        flipped = by_group.flatten(0, 1).flip(2, 3)
        return packed(flipped, c.out, c.flipped_padding, c.dilation, c.groups)
    if _is_subpixel(c):
        return subpixel(c)
    return strided(c) or backward(c)


def backward(c: Geometry) -> Transposed:
    """PyTorch's own backward operator, for any device, dtype and geometry."""
    layout = torch.channels_last if c.weight.ndim == 4 else torch.contiguous_format
    if c.groups > 1 and c.weight.dtype == torch.float64 and c.weight.device.type == "cpu":
        layout = torch.contiguous_format  # group by group there; channels last takes 4 × as long
    weight = c.weight.contiguous(memory_format=layout)

    def transposed(g: Tensor) -> Tensor:
        # Of its input the operator reads only shape and layout; nothing is written there.
        placeholder = torch.empty(
            len(g), *c.size, dtype=g.dtype, device=g.device, memory_format=layout
        )
        pulled: Tensor = aten.convolution_backward(
            g.contiguous(memory_format=layout),
            placeholder,
            weight,
            None,
            c.stride,
            c.padding,
            c.dilation,
            False,
            [0] * len(c.stride),
            c.groups,
            [True, False, False],
        )[0]
        return pulled

    return transposed


def can_pack(weight: Tensor) -> bool:
    """Whether oneDNN's prepacked kernels take this weight."""
    return (
        weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and torch.backends.mkldnn.is_available()
        and hasattr(aten, "mkldnn_reorder_conv2d_weight")
        and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
    )


def packed(
    weight: Tensor, size: Sequence[int], padding: IntList, dilation: IntList, groups: int = 1
) -> Transposed:
    """A stride-1 convolution whose weight lies ready in the order its kernel reads it."""
    ready = aten.mkldnn_reorder_conv2d_weight(
        weight.contiguous().to_mkldnn(), padding, [1, 1], dilation, groups, [1, *size]
    )

    def convolved(g: Tensor) -> Tensor:
        g = g.contiguous(memory_format=torch.channels_last)
        result: Tensor = torch.ops.mkldnn._convolution_pointwise(
            g, ready, None, padding, [1, 1], dilation, groups, "none", [], ""
        )
        return result

    return convolved


def strided(c: Geometry) -> Transposed | None:
    """`backward` with a weight that lies ready; None where this PyTorch does not have it."""
    namespace = torch.ops.mkldnn
    names = ("_reorder_convolution_transpose_weight", "_convolution_transpose_pointwise")
    if not all(hasattr(namespace, name) for name in names):
        return None
    reached = [
        (out - 1) * s - 2 * p + d * (k - 1) + 1
        for out, s, p, d, k in zip(
            c.out[1:], c.stride, c.padding, c.dilation, c.weight.shape[2:], strict=True
        )
    ]
    beyond = [size - end for size, end in zip(c.size[1:], reached, strict=True)]
    geometry = (c.padding, beyond, c.stride, c.dilation, c.groups)
    ready = namespace._reorder_convolution_transpose_weight(
        c.weight.detach().contiguous(), *geometry, [1, *c.out]
    )

    def transposed(g: Tensor) -> Tensor:
        g = g.contiguous(memory_format=torch.channels_last)
        pulled: Tensor = namespace._convolution_transpose_pointwise(
            g, ready, None, *geometry, "none", [], ""
        )
        return pulled

    return transposed


def pointwise(c: Geometry) -> Transposed:
    """A 1×1 convolution, a matrix product; a stride's positions in between get nothing."""
    weight = c.weight.detach().flatten(1)
    outputs, inputs = weight.shape

    def product(g: Tensor) -> Tensor:
        rows, _, height, width = g.shape
        flat = g.permute(0, 2, 3, 1).reshape(-1, outputs)  # a view of what lies channels last
        return torch.mm(flat, weight).view(rows, height, width, inputs).permute(0, 3, 1, 2)

    def spread(g: Tensor) -> Tensor:
        pulled = torch.empty(
            len(g), *c.size, dtype=g.dtype, memory_format=torch.channels_last
        ).zero_()
        pulled[:, :, :: c.stride[0], :: c.stride[1]] = product(g)
        return pulled

    return product if c.stride == [1, 1] else spread


# Below it the s² phases fill the vector units that a convolution back to 3 channels leaves empty.
_FEW_CHANNELS = 4
# Single-precision numbers that one instruction works on (AVX2).
_VECTOR = 8


def _is_subpixel(c: Geometry) -> bool:
    plain = c.groups == 1 and c.dilation == [1, 1] and c.stride[0] == c.stride[1]
    return plain and c.size[0] <= _FEW_CHANNELS


def subpixel(c: Geometry) -> Transposed:
    """A strided convolution, one stride-1 convolution for all s² phases of its input's positions.

    With i + p = s·q + r and k = s·m + r, Σ_k g[(i + p − k)/s]·w[k] = Σ_m g[q − m]·w[s·m + r].
    After Shi et al., Real-Time Single Image and Video Super-Resolution (2016).
    """
    s = c.stride[0]
    taps = [-(-k // s) for k in c.weight.shape[2:]]
    grown = [s * t - k for t, k in zip(taps, c.weight.shape[2:], strict=True)]
    full = functional.pad(c.weight, (0, grown[1], 0, grown[0]))
    phases = full.reshape(*c.weight.shape[:2], taps[0], s, taps[1], s).permute(1, 3, 5, 0, 2, 4)
    kernel = phases.flatten(0, 2).flip(2, 3)
    count = len(kernel)
    # Filled up to whole vectors: 12 channels take a third longer than 16.
    kernel = functional.pad(kernel, (0, 0, 0, 0, 0, 0, 0, -count % _VECTOR))
    convolved = packed(kernel, c.out, [t - 1 for t in taps], [1, 1])

    def transposed(g: Tensor) -> Tensor:
        plane = functional.pixel_shuffle(convolved(g)[:, :count].contiguous(), s)
        # The plane starts at −padding; what no window reached beyond its end is zero.
        (top, left), (height, width) = c.padding, c.size[1:]
        plane = plane[:, :, top : top + height, left : left + width]
        missing = (width - plane.shape[3], height - plane.shape[2])
        return functional.pad(plane, (0, missing[0], 0, missing[1]))

    return transposed


register(
    "aten.conv1d.default aten.conv2d.default aten.conv3d.default"
    " aten.conv1d.padding aten.conv2d.padding aten.conv3d.padding",
    Rule(
        "affine",
        push=_convolution,
        pull=_convolution_pull,
        constant=lambda f, x, weight, bias=None, *rest: channel_bias(f, bias, weight),
        terms=convolution_terms,
        gain=convolution_gain,
        refuse=_refuse_convolution,
        rows=rows.weighted,
        places=_places,
        plain=Plain(pull=_plain_convolution_pull),
    ),
    traits=Traits(residues="weights", exact=True, fresh=True),
)


# --- with zeros around the image first -----------------------------------------------------------

PADDED = "guidxmage.padded_conv2d"


def padded_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, *rest: Any) -> Tensor:
    """conv2d of an image with zeros around it; `rest` ends with (left, right, top, bottom)."""
    return torch.conv2d(functional.pad(x, rest[-1]), weight, bias, *rest[:-1])


def _padded(f: Frame, x: Tensor, *args: Any) -> Tensor:
    return _convolution(f, functional.pad(x, args[-1]), *args[:-1])


def _padded_pull(f: Frame, g: Tensor, x: Hole, *args: Any) -> list[Tensor]:
    def make() -> Transposed:
        left, right, top, bottom = args[-1]
        rows, channels, height, width = x.shape
        size = (rows, channels, top + height + bottom, left + width + right)
        return cropped(Geometry.of(f, replace(x, shape=size), *args[:-1]), args[-1])

    return [f.prepare("transposed", make)(g)]


def cropped(c: Geometry, pad: IntList) -> Transposed:
    """`transposed` without what the zeros (left, right, top, bottom) around the image are sent."""
    left, right, top, bottom = pad
    height, width = c.size[1] - top - bottom, c.size[2] - left - right
    if c.stride != [1, 1] and c.weight.ndim == 4 and can_pack(c.weight):
        padding = [c.padding[0] + top, c.padding[1] + left]
        own = replace(c, size=(c.size[0], height, width), padding=padding)
        way = subpixel(own) if _is_subpixel(own) else strided(own)
        if way is not None:
            return way
    whole = transposed(c)
    return lambda g: whole(g)[:, :, top : top + height, left : left + width]


def _padded_places(f: Frame, x: Places, weight: Tensor, *args: Any) -> Places:
    left, _, top, _ = args[-1]
    c = Geometry.of(f, x, weight, *args[:-1])
    return _around_centres(f, x, replace(c, padding=[c.padding[0] + top, c.padding[1] + left]))


FOLDED[PADDED] = Rule(
    "affine",
    push=_padded,
    pull=_padded_pull,
    constant=lambda f, x, weight, bias, *rest: per_channel(bias, weight.ndim),
    terms=convolution_terms,
    gain=convolution_gain,
    places=_padded_places,
)
