"""Pooling and resampling: averages are affine, maxima are decisions stored as window positions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import prod
from typing import Any

import torch
from torch import Tensor

from guidxmage.engine.calls.call import Call, Frame, Hole, is_active
from guidxmage.engine.kernels import loops
from guidxmage.engine.kernels.layout import is_channels_last
from guidxmage.engine.rules import breakpoints as crossing
from guidxmage.engine.rules import rows
from guidxmage.engine.rules.averages import adaptive_pull, windows_pull
from guidxmage.engine.rules.breakpoints import Crossings, halves
from guidxmage.engine.rules.choices import OfWindows
from guidxmage.engine.rules.maxima import added_at, evenly
from guidxmage.engine.rules.places import pooled, resized
from guidxmage.engine.rules.resampling import resampled_pull
from guidxmage.engine.rules.table import Plain, Rule, Traits, linear, register, transpose_of
from guidxmage.engine.trail.decisions import Decisions
from guidxmage.engine.trail.dense import Dense

aten = torch.ops.aten


# --- averages and resampling ---------------------------------------------------------------------


def _applied(f: Frame, x: Tensor, *args: Any) -> Tensor:
    return f.call.run(x, *args)


_applied_transposed = transpose_of(_applied)


def _window_terms(f: Frame, x: Hole, *args: Any) -> int:
    return max(1, prod(x.shape) // prod(f.shape))


def _window_gain(f: Frame, x: Hole, *args: Any) -> float:
    """Averages weigh by at most 1 altogether, a bicubic curve by less than 2 in each direction."""
    return 2.0 * max(1.0, prod(f.shape) / prod(x.shape)) ** 0.5


def _adaptive_average_pull(f: Frame, g: Tensor, x: Hole, size: Sequence[int]) -> list[Tensor]:
    if all(n == 1 for n in size):
        return [(g / prod(x.shape[-len(size) :])).expand(x.shape)]
    return _applied_transposed(f, g, x, size)


register(
    "aten.adaptive_avg_pool1d.default aten.adaptive_avg_pool2d.default"
    " aten.adaptive_avg_pool3d.default",
    linear(
        _applied,
        pull=_adaptive_average_pull,
        plain=Plain(pull=adaptive_pull),
        terms=_window_terms,
        gain=_window_gain,
        rows=rows.spatial,
        places=resized,
    ),
    traits=Traits(residues="nothing", averages=True),
)
_windowed = linear(
    _applied,
    terms=_window_terms,
    gain=_window_gain,
    rows=rows.spatial,
    places=resized,
    plain=Plain(pull=resampled_pull),
)
register(
    "aten.avg_pool1d.default aten.avg_pool3d.default",
    replace(_windowed, places=pooled, plain=Plain(pull=windows_pull)),
    traits=Traits(residues="nothing", averages=True),
)
register(
    "aten.upsample_nearest1d.vec aten.upsample_nearest2d.vec aten.upsample_nearest3d.vec"
    " aten._upsample_nearest_exact1d.vec aten._upsample_nearest_exact2d.vec"
    " aten._upsample_nearest_exact3d.vec aten.upsample_linear1d.vec aten.upsample_bilinear2d.vec"
    " aten.upsample_trilinear3d.vec",
    _windowed,
    traits=Traits(unproved="its coefficients are computed inside PyTorch", blends=True),
)
register(
    "aten.upsample_bicubic2d.vec aten._upsample_bilinear2d_aa.vec aten._upsample_bicubic2d_aa.vec",
    _windowed,
    traits=Traits(unproved="its coefficients are computed inside PyTorch"),
)


def _average_pull_2d(
    f: Frame,
    g: Tensor,
    x: Hole,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> list[Tensor]:
    options = (kernel, stride, padding, ceil_mode, count_include_pad, divisor_override)
    return [aten.avg_pool2d_backward(g, _placeholder(g, x), *options)]


def _placeholder(g: Tensor, x: Hole) -> Tensor:
    """Stands for an input of which a backward kernel reads only shape and layout."""
    layout = torch.channels_last if is_channels_last(g) else torch.contiguous_format
    return torch.empty(x.shape, dtype=g.dtype, device=g.device, memory_format=layout)


register(
    "aten.avg_pool2d.default",
    linear(
        _applied,
        pull=_average_pull_2d,
        plain=Plain(pull=windows_pull),
        terms=_window_terms,
        gain=_window_gain,
        rows=rows.spatial,
        places=pooled,
    ),
    traits=Traits(residues="nothing", averages=True),
)


# --- max-pooling over windows --------------------------------------------------------------------


@dataclass(frozen=True)
class Windows:
    """Where the windows of a max-pool lie in the flattened input plane.

    Position p of the window of output o is input `base[o] + offsets[p]`; `positions` inverts
    `offsets`. A window-local position needs a few bits where the flat index takes eight bytes.
    `inside` (positions, *output plane) tells which positions are in the window: not padding, and
    not beyond the end of a window that is shorter than the longest.
    """

    base: Tensor
    offsets: Tensor
    positions: Tensor
    inside: Tensor

    @classmethod
    def make(
        cls,
        plane: Sequence[int],
        starts: Sequence[Sequence[int]],
        reach: Sequence[Sequence[int]],
        ends: Sequence[Sequence[int]] | None = None,
    ) -> Windows:
        """From the start of every window and the steps within a window, for each dimension.

        `ends` are the inputs before which windows end, where that is not the end of the plane.
        """
        strides = [prod(plane[d + 1 :]) for d in range(len(plane))]
        base = _grid_sum(starts, strides)
        offsets = _grid_sum(reach, strides).flatten()
        small = torch.uint8 if len(offsets) <= 256 else torch.int64
        positions = torch.zeros(int(offsets.max()) + 1, dtype=small)
        for position in reversed(range(len(offsets))):
            positions[offsets[position]] = position
        ends = ends or [[n] * len(start) for n, start in zip(plane, starts, strict=True)]
        return cls(base, offsets, positions, _inside(starts, reach, ends))

    def to(self, device: torch.device) -> Windows:
        """The same geometry on another device."""
        tensors = (self.base, self.offsets, self.positions, self.inside)
        return Windows(*(tensor.to(device) for tensor in tensors))

    def localise(self, flat: Tensor) -> Tensor:
        """Window positions from the kernel's flat indices (…, *output plane)."""
        return self.positions.take(flat - self.base)

    def decisions(self, flat: Tensor) -> Decisions:
        """The same of (B, …, *output plane), packed."""
        count = len(self.offsets)
        planes = loops.pack_positions(flat, self.base, self.positions, count)
        if planes is None:
            return Decisions.from_index(self.localise(flat), count)
        return Decisions("index", tuple(flat.shape[1:]), planes)

    def flatten(self, local: Tensor) -> Tensor:
        """Flat input indices from window positions."""
        return self.offsets.take(local).add_(self.base)

    def rivals(self, z: Tensor, dz: Tensor, local: Tensor, *, ties: bool) -> tuple[Tensor, Tensor]:
        """Where along a line another position of each window overtakes the one taken, and which.

        z and dz are (…, inputs of the plane), local (…, *output plane), as are both results.
        """
        taken = self.flatten(local).flatten(-self.base.ndim)
        top, rise = z.gather(-1, taken), dz.gather(-1, taken)
        first, winner = torch.full_like(top, torch.inf), torch.zeros_like(taken)
        # As many positions at a time as keep the gathered values near the size of the plane.
        step = max(1, 2 * z.shape[-1] // self.base.numel())
        for start in range(0, len(self.offsets), step):
            offsets, inside = self.offsets[start : start + step], self.inside[start : start + step]
            flat = (self.base.flatten() + offsets[:, None]).masked_fill_(~inside.flatten(1), 0)
            gap, rate = top[..., None, :] - z[..., flat], dz[..., flat] - rise[..., None, :]
            number = self.positions.take(offsets).long()[:, None]
            before = number < local.flatten(-self.base.ndim)[..., None, :]
            s = crossing.overtaking(gap, rate, before, ties=ties)
            best, which = s.masked_fill_(~inside.flatten(1), torch.inf).min(-2)
            position = number[:, 0].take(which)
            winner = torch.where(best < first, position, winner)
            first = torch.minimum(first, best)
        return first.reshape(local.shape), winner.reshape(local.shape)


def _inside(
    starts: Sequence[Sequence[int]], reach: Sequence[Sequence[int]], ends: Sequence[Sequence[int]]
) -> Tensor:
    """Whether position p of the window of output o is an input, bool (positions, *outputs)."""
    dims = len(starts)
    result = torch.ones([1] * (2 * dims), dtype=torch.bool)
    for d in range(dims):
        inputs = torch.tensor(list(reach[d]))[:, None] + torch.tensor(list(starts[d]))
        shape = [1] * (2 * dims)
        shape[d], shape[dims + d] = inputs.shape
        result = result & ((inputs >= 0) & (inputs < torch.tensor(list(ends[d])))).reshape(shape)
    return result.flatten(0, dims - 1)


def _grid_sum(axes: Sequence[Sequence[int]], strides: Sequence[int]) -> Tensor:
    """Σ_d axes[d][i_d]·strides[d] over the grid of all (i_1, …)."""
    sums = [sum(i * s for i, s in zip(point, strides, strict=True)) for point in product(*axes)]
    return torch.tensor(sums).reshape([len(axis) for axis in axes])


def strided_windows(plane: Sequence[int], out: Sequence[int], args: Sequence[Any]) -> Windows:
    """max_pool's geometry; `args` are kernel, stride, padding, dilation, ceil_mode."""
    dims = len(plane)
    given = dict(zip(("kernel", "stride", "padding", "dilation"), args, strict=False))
    kernel = _each(given["kernel"], dims)
    stride = _each(given.get("stride") or kernel, dims)
    padding = _each(given.get("padding", 0), dims)
    dilation = _each(given.get("dilation", 1), dims)
    starts = [[o * stride[d] - padding[d] for o in range(out[d])] for d in range(dims)]
    reach = [[k * dilation[d] for k in range(kernel[d])] for d in range(dims)]
    return Windows.make(plane, starts, reach)


def adaptive_windows(plane: Sequence[int], out: Sequence[int], args: Sequence[Any]) -> Windows:
    """adaptive_max_pool's geometry: window o covers ⌊o·n/m⌋ … ⌈(o+1)·n/m⌉ − 1."""
    starts = [[o * n // m for o in range(m)] for n, m in zip(plane, out, strict=True)]
    ends = [[-(-(o + 1) * n // m) for o in range(m)] for n, m in zip(plane, out, strict=True)]
    reach = [
        range(max(b - a for a, b in zip(*one, strict=True)))
        for one in zip(starts, ends, strict=True)
    ]
    return Windows.make(plane, starts, reach, ends)


def _each(value: Any, dims: int) -> list[int]:
    values = [value] if isinstance(value, int) else list(value)
    return values * dims if len(values) == 1 else values


def _max_pool(dims: int, with_indices: Callable[..., Any], geometry: Callable[..., Any]) -> Rule:
    """A max-pool over `dims` dimensions; overlapping windows are transposed by scatter-add."""

    def windows(f: Frame, plane: Sequence[int], args: Sequence[Any], device: Any) -> Windows:
        return f.prepare("windows", lambda: geometry(plane, f.shape[-dims:], args).to(device))

    def flat(f: Frame, plane: Sequence[int], args: Sequence[Any], device: Any) -> Tensor:
        local = f.taken().index()
        return f.for_rows(windows(f, plane, args, device).flatten(local))

    def record(f: Frame, x: Tensor, *args: Any) -> tuple[Tensor, Decisions]:
        value, indices = with_indices(x, *args)
        return value, windows(f, x.shape[-dims:], args, x.device).decisions(indices)

    def push(f: Frame, x: Tensor, *args: Any) -> Tensor:
        index = flat(f, x.shape[-dims:], args, x.device)
        gathered = x.flatten(-dims).gather(-1, index.flatten(-dims))
        return gathered.reshape(f.shape)

    def pull(f: Frame, g: Tensor, x: Hole, *args: Any) -> list[Tensor]:
        if dims == 2 and is_channels_last(g) and f.taken().shape == g.shape[1:]:
            own = windows(f, x.shape[-dims:], args, g.device)
            spread = _placeholder(g, x).zero_()
            if loops.add_at_maxima(g, f.taken().planes, (own.base, own.offsets), spread):
                return [spread]
        index = flat(f, x.shape[-dims:], args, g.device)
        if geometry is strided_windows and dims == 2:
            return [_scatter_add_2d(g, index, x, args)]
        return [added_at(index, g, x, dims)]

    def plain_record(f: Frame, x: Tensor, *args: Any) -> tuple[Tensor, Dense]:
        value, indices = evenly(f, x, dims) or with_indices(x, *args)
        return value, Dense.of(indices)

    def plain_pull(f: Frame, g: Tensor, x: Hole, *args: Any) -> list[Tensor]:
        return [added_at(f.for_rows(f.taken().index()), g, x, dims)]

    def crossings(f: Frame, x: Tensor, *args: Any) -> Crossings:
        z, dz = (part.flatten(-dims) for part in halves(x))
        geometry_ = windows(f, x.shape[-dims:], args, x.device)
        s, winner = geometry_.rivals(z, dz, f.taken().index(), ties=f.ties)
        return crossing.earliest(s, f.rows, lambda position: crossing.at(winner, position))

    return Rule(
        "decision",
        push,
        pull,
        record=record,
        crossings=crossings,
        growth=_overlap if geometry is strided_windows else None,
        rows=rows.spatial,
        choice=OfWindows(dims, geometry),
        plain=Plain(record=plain_record, pull=plain_pull),
        places=pooled if geometry is strided_windows else resized,
        traits=Traits(residues="nothing"),
    )


def _fractional(dims: int) -> Rule:
    """Windows that lie where an argument says; the trail keeps the place of each maximum."""

    def flat(f: Frame) -> Tensor:
        return f.for_rows(f.taken().numbers()).flatten(-dims)

    def record(f: Frame, x: Tensor, *args: Any) -> tuple[Tensor, Decisions]:
        value, index = f.call.target(x, *args)
        return value, Decisions.of_numbers(index)

    def plain_record(f: Frame, x: Tensor, *args: Any) -> tuple[Tensor, Dense]:
        value, index = f.call.target(x, *args)
        return value, Dense.of(index)

    def push(f: Frame, x: Tensor, *args: Any) -> Tensor:
        return x.flatten(-dims).gather(-1, flat(f)).reshape(f.shape)

    def pull(f: Frame, g: Tensor, x: Hole, *args: Any) -> list[Tensor]:
        spread = x.zeros().flatten(-dims).scatter_add_(-1, flat(f), g.flatten(-dims))
        return [spread.reshape(x.shape)]

    return Rule(
        "decision",
        push,
        pull,
        record=record,
        stepwise=_gives_positions,
        refuse=lambda call: "its windows depend on the image" if is_active(call.args[3]) else None,
        rows=lambda call, shapes: rows.spatial(call, shapes[:1]),
        traits=Traits(unproved="its windows lie where numbers say"),
        plain=Plain(record=plain_record),
        places=resized,
    )


def _overlap(f: Frame, x: Hole, kernel: Any, stride: Any = (), *rest: Any) -> float:
    """Every input is the largest of as many windows as it lies in, at most."""
    dims = len(_each(kernel, 1)) if not isinstance(kernel, int) else 1
    sizes, steps = _each(kernel, dims), _each(stride or kernel, dims)
    return float(prod(-(-k // s) for k, s in zip(sizes, steps, strict=True))) ** 0.5


def _gives_positions(call: Call) -> bool:
    """Whether it is the call that returns where the maxima lie."""
    return call.output == 1


def _scatter_add_2d(g: Tensor, index: Tensor, x: Hole, args: Sequence[Any]) -> Tensor:
    """PyTorch's own parallel scatter-add kernel; of its input it reads only the shape."""
    defaults: list[Any] = [None, [], [0], [1], False]
    given = [*args, *defaults[len(args) :]]
    return aten.max_pool2d_with_indices_backward(g, _placeholder(g, x), *given, index)


for _dims in (1, 2, 3):
    _adaptive = getattr(aten, f"adaptive_max_pool{_dims}d").default
    _strided = getattr(aten, f"max_pool{_dims}d_with_indices").default
    register(
        f"aten.max_pool{_dims}d.default aten.max_pool{_dims}d_with_indices.default",
        replace(_max_pool(_dims, _strided, strided_windows), stepwise=_gives_positions),
    )
    register(
        f"aten.adaptive_max_pool{_dims}d.default",
        _max_pool(_dims, _adaptive, adaptive_windows),
    )


for _dims in (2, 3):
    register(f"aten.fractional_max_pool{_dims}d.default", _fractional(_dims))
