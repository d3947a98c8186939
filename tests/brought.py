"""Functions that networks bring beside layers, for images (B, 3, 6, 6): masks, positions, order.

m has what `tests.test_laws.Apply` keeps: w (5, 4), c (1, 3, 1, 1), square (6, 6).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Function = Callable[[Any, Tensor], Tensor]
PLACES = torch.tensor([0, 3, 3, 7, 20])
APART = torch.tensor([0, 3, 7, 20])


def flat(x: Tensor) -> Tensor:
    return x.flatten(2)


def spread(index: Tensor, x: Tensor) -> Tensor:
    """Positions (n,) for each image and channel."""
    return index.expand(len(x), 3, len(index))


GRIDS = {
    dims: torch.rand(1, *(5, 4, 3)[3 - dims :], dims, generator=torch.Generator().manual_seed(2))
    for dims in (2, 3)
}


def grid(x: Tensor, dims: int = 2) -> Tensor:
    return GRIDS[dims].double().expand(len(x), *GRIDS[dims].shape[1:]) * 2 - 1


def assigned(x: Tensor, mask: Any, value: float) -> Tensor:
    y = x.clone()
    y[mask] = value
    return y


def rewritten(x: Tensor) -> Tensor:
    y = flat(x).clone()
    y[:, :, APART] = y[:, :, APART] * 2 + 1
    return y


def each(function: Callable[[Tensor], Tensor]) -> Function:
    """A function of single images, one after the other."""
    return lambda m, x: torch.stack([function(one) for one in x])


def unpooled(x: Tensor, dims: int, size: int, stride: int) -> Tensor:
    pool, back = (F.max_pool2d, F.max_unpool2d) if dims == 2 else (F.max_pool3d, F.max_unpool3d)
    y, index = pool(x, size, stride, return_indices=True)  # type: ignore[operator]
    return back(y, index, size, stride)  # type: ignore[operator]


def fractional(x: Tensor, dims: int) -> Tensor:
    pool = F.fractional_max_pool2d if dims == 2 else F.fractional_max_pool3d
    samples = torch.full((len(x), x.shape[1], dims), 0.3, dtype=x.dtype)
    return pool(x, 2, output_size=(3,) * dims, _random_samples=samples)  # type: ignore[no-any-return]


COMPARISONS: dict[str, Function] = {
    name: lambda m, x, f=compare: x * f(x, 0.3) - x.flip(3) * f(x, x.flip(2))
    for name, compare in {
        "gt": torch.gt, "ge": torch.ge, "lt": torch.lt, "le": torch.le, "eq": torch.eq,
        "ne": torch.ne,
    }.items()
}  # fmt: skip
STEPS: dict[str, Function] = {
    name: lambda m, x, f=step: x * f(x)
    for name, step in {
        "sign": torch.sign,
        "sgn": torch.sgn,
        "signbit": torch.signbit,
        "heaviside": lambda x: torch.heaviside(x.detach(), x.new_zeros(())),
        "floor": torch.floor,
        "ceil": torch.ceil,
        "round": torch.round,
        "round to decimals": lambda x: torch.round(x, decimals=1),
        "trunc": torch.trunc,
        "floor divide": lambda x: torch.floor_divide(x.detach(), 0.3),
        "floor divide by a tensor": lambda x: torch.floor_divide(x.detach(), torch.tensor(0.3)),
        "divide and floor": lambda x: torch.div(x, 0.3, rounding_mode="floor"),
        "divide and cut": lambda x: torch.div(x, torch.tensor(0.3), rounding_mode="trunc"),
        "finite": torch.isfinite,
        "not infinite": lambda x: ~torch.isinf(x),
        "not nan": lambda x: torch.isnan(x).logical_not(),
        "and": lambda x: (x > -0.5) & (x < 0.5),
        "or": lambda x: (x < -0.5) | (x > 0.5),
        "exclusive or": lambda x: (x < -0.5) ^ (x < 0.5),
        "logical and": lambda x: (x > -0.5).logical_and(x < 0.5),
        "logical or": lambda x: (x < -0.5).logical_or(x > 0.5),
        "logical exclusive or": lambda x: (x < -0.5).logical_xor(x < 0.5),
        "any": lambda x: (x > 1).any(2, keepdim=True),
        "any of two": lambda x: (x > 2).any((2, 3), keepdim=True),
        "all": lambda x: (x > -1).all(2, keepdim=True),
        "all of two": lambda x: (x > -2).all((2, 3), keepdim=True),
        "as number": lambda x: (x > 0).to(x.dtype),
        "as whole number": lambda x: (3 * x).to(torch.int64),
        "count": lambda x: (x > 0).count_nonzero((2, 3))[..., None, None],
        "bucket": lambda x: torch.bucketize(x.detach(), torch.tensor([-0.5, 0.0, 0.5]).double()),
        "searched": lambda x: torch.searchsorted(torch.tensor([-0.5, 0.5]).double(), x.detach()),
    }.items()
}
MASKED: dict[str, Function] = {
    "where": lambda m, x: torch.where(x > 0.5, x, 0.3 * x),
    "where of two": lambda m, x: torch.where(x > x.flip(3), x, 2.0),
    "masked fill": lambda m, x: x.masked_fill(x < 0.2, 0.1),
    "masked fill in place": lambda m, x: (x * 1).masked_fill_(x < 0.2, 0.1),
    "masked mean": lambda m, x: (x * (x > 0.1)).sum((2, 3)) / (x > 0.1).sum((2, 3)).clamp(min=1),
}
PLACED: dict[str, Function] = {
    "argmax and gather": lambda m, x: flat(x).gather(2, flat(x).argmax(2, keepdim=True)),
    "argmin of another": lambda m, x: flat(x).gather(2, flat(x.abs()).argmin(2, keepdim=True)),
    "argsort and gather": lambda m, x: flat(x).gather(2, flat(x.flip(2)).argsort(2)) * 2,
    "stable argsort": lambda m, x: flat(x).gather(2, flat(x.flip(2)).argsort(dim=2, stable=True)),
    "positions of maxima": lambda m, x: flat(x.flip(2)).gather(
        2, flat(x).max(2, keepdim=True).indices
    ),
    "topk positions": lambda m, x: flat(x.flip(2)).gather(2, flat(x).topk(4, 2).indices),
    "gather": lambda m, x: flat(x).gather(2, spread(PLACES, x)),
    "take along": lambda m, x: torch.take_along_dim(flat(x), spread(PLACES, x), 2),
    "scatter": lambda m, x: flat(x).scatter(2, spread(APART, x), flat(x)[:, :, :4] * 2),
    "scatter a number": lambda m, x: flat(x).scatter(2, spread(APART, x), 0.7),
    "scatter and add": lambda m, x: flat(x).scatter_add(
        2, spread(PLACES, x), flat(x)[:, :, 1:6] * 2
    ),
    "index add": lambda m, x: flat(x).index_add(2, PLACES, flat(x)[:, :, 1:6], alpha=3),
    "index copy": lambda m, x: flat(x).index_copy(2, APART, flat(x)[:, :, 1:5] * 2),
    "index fill": lambda m, x: flat(x).index_fill(2, APART, 0.7),
    "index put": lambda m, x: rewritten(x),
    "assigned by a constant mask": lambda m, x: assigned(
        x, (slice(None), slice(None), m.square > 0), 0.5
    ),
    "unpooled": lambda m, x: unpooled(x, 2, 2, 2),
    "unpooled volume": lambda m, x: unpooled(x[:, None].repeat(1, 1, 2, 1, 1)[:, :, :4], 3, 2, 2),
}  # fmt: skip
ORDERED: dict[str, Function] = {
    "sort": lambda m, x: flat(x).sort(2).values * torch.arange(36),
    "sort downwards": lambda m, x: x.sort(dim=3, descending=True, stable=True)[0] * m.square,
    "topk": lambda m, x: flat(x).topk(5, 2).values * torch.arange(5),
    "median": lambda m, x: flat(x).median(2).values,
    "median, kept": lambda m, x: x.median(3, keepdim=True).values,
    "nan-median": lambda m, x: flat(x).nanmedian(2).values,
    "mode": lambda m, x: x.mode(3).values,
    "kth value": lambda m, x: flat(x).kthvalue(30, 2).values,
    "cumulative maximum": lambda m, x: x.cummax(2).values,
    "cumulative minimum": lambda m, x: x.cummin(3).values,
    "least and largest": lambda m, x: torch.cat(x.aminmax(dim=3), 2),
}
PIECES: dict[str, Function] = {
    "fmax": lambda m, x: torch.fmax(x, x.flip(3) / 2),
    "fmin": lambda m, x: torch.fmin(x, torch.tensor(0.3).double()),
    "hardshrink": lambda m, x: F.hardshrink(x, 0.4),
    "softshrink": lambda m, x: F.softshrink(x, 0.4),
    "remainder": lambda m, x: torch.remainder(x, 0.7),
    "remainder of a tensor": lambda m, x: torch.remainder(x, m.c.abs() + 0.5),
    "fmod": lambda m, x: torch.fmod(x, 0.7),
    "fmod of a tensor": lambda m, x: torch.fmod(x, m.c.abs() + 0.5),
    "frac": lambda m, x: torch.frac(2 * x),
    "lower bound from the image": lambda m, x: x.clamp(min=x.flip(3) / 2),
    "upper bound from the image": lambda m, x: x.clamp(max=x.flip(3) / 2),
    "bounds from the image": lambda m, x: x.clamp(x.flip(3) / 2 - 0.3, x.flip(3) / 2),
    "a constant within bounds": lambda m, x: m.c.clamp(x - 0.3, x + 0.2),
    "bounds that are none": lambda m, x: x.clamp(
        torch.where(m.square > 0, m.square, -torch.inf), torch.tensor(torch.inf).double()
    ),
    "no bound beside one from the image": lambda m, x: x.clamp(
        torch.tensor(-torch.inf).double(), x.flip(3) / 2
    ),
    "lower bounds": lambda m, x: torch.clamp_min(x, m.c),
    "upper bounds": lambda m, x: torch.clamp_max(x, m.c),
    "fractional pool": lambda m, x: fractional(x, 2),
    "fractional pool of volumes": lambda m, x: fractional(x[:, None].repeat(1, 1, 2, 1, 1), 3),
}
AFFINE: dict[str, Function] = {
    "repeat": lambda m, x: x[:, :1].repeat(1, 2, 1, 2),
    "tile": lambda m, x: x[:, :1].tile(1, 3, 1, 1),
    "rot90": lambda m, x: torch.rot90(x, 1, (2, 3)),
    "diagonal": lambda m, x: x.diagonal(dim1=2, dim2=3),
    "diagonal matrix": lambda m, x: torch.diag_embed(x[..., 0]),
    "lerp": lambda m, x: torch.lerp(x, x.flip(3), 0.3),
    "lerp by a tensor": lambda m, x: torch.lerp(x, x.flip(3), m.c),
    "baddbmm": lambda m, x: torch.baddbmm(m.square[None], x[:, 0], m.square.expand(len(x), 6, 6)),
    "sampled": lambda m, x: F.grid_sample(x, grid(x), align_corners=False),
    "volume sampled": lambda m, x: F.grid_sample(x[:, None], grid(x, 3), align_corners=True),
    "divided, no rounding": lambda m, x: torch.div(x, m.c, rounding_mode=None),
    "divided by a number": lambda m, x: torch.div(x, 0.3, rounding_mode=None),
    "layout": lambda m, x: x.to(memory_format=torch.channels_last),
}
# Nothing is known of how they treat a batch.
ONE_BY_ONE: dict[str, Function] = {
    "take": each(lambda x: x.take(APART)),
    "assigned by a mask": lambda m, x: assigned(x, x < 0.2, 0.5),
    "quantile": lambda m, x: flat(x).quantile(0.75, 2),
    "trace": each(lambda x: torch.stack([x[0].trace(), x[1].trace()])),
    "addbmm": lambda m, x: torch.stack(
        [torch.addbmm(m.square, one, m.square.expand(3, 6, 6)) for one in x]
    ),
    "addmv": lambda m, x: torch.stack([torch.addmv(m.square[0], m.square, one[0, 0]) for one in x]),
    "addr": lambda m, x: torch.stack([torch.addr(m.square, one[0, 0], m.square[1]) for one in x]),
    "mv": lambda m, x: torch.stack([m.square.mv(one[0, 0]) for one in x]),
    "dot": lambda m, x: torch.stack(
        [torch.stack([m.square[0].dot(one[0, 0]), one[1, 0].vdot(m.square[1])]) for one in x]
    ),
    "outer": lambda m, x: torch.stack([torch.ger(one[0, 0], m.square[0]) for one in x]),
    "cross": lambda m, x: torch.linalg.cross(x, m.c.expand(1, 3, 6, 6), dim=1),
    "bilinear": lambda m, x: F.bilinear(
        m.square[:1].expand(len(x) * 18, 6), x.flatten(0, 2), m.square.expand(2, 6, 6)
    ).reshape(len(x), 36),
    "bits": lambda m, x: x * ((3 * x).to(torch.int64) & 1 | 2 ^ (~(3 * x).to(torch.int64) & 4)),
}  # fmt: skip
ON_REGION = {
    **COMPARISONS, **STEPS, **MASKED, **PLACED, **ORDERED, **PIECES, **AFFINE,
}  # fmt: skip

# Smooth ones, for positive images: with the tangent they have autograd's gradient.
SMOOTH: dict[str, Function] = {
    **{
        name: lambda m, x, name=name: getattr(torch, name)(x)
        for name in (
            "exp2", "tan", "sinh", "cosh", "asinh", "erfc", "sinc", "log10", "nan_to_num",
            "lgamma", "digamma",
        )
    },
    **{
        name: lambda m, x, name=name: getattr(torch, name)(0.9 * torch.tanh(x))
        for name in ("asin", "acos", "atanh", "erfinv")
    },
    "acosh": lambda m, x: torch.acosh(x + 1.5),
    "logit": lambda m, x: torch.logit(torch.sigmoid(x), 1e-3),
    "base to the power": lambda m, x: 2**x,
    "to the power": lambda m, x: x.pow(x.flip(3)),
    "logaddexp": lambda m, x: torch.logaddexp(x, x.flip(3)),
    "logaddexp2": lambda m, x: torch.logaddexp2(x, x.flip(3)),
    "atan2": lambda m, x: torch.atan2(x, x.flip(3)),
    "hypot": lambda m, x: torch.hypot(x, x.flip(3)),
    "addcdiv": lambda m, x: torch.addcdiv(x, x.flip(3), x.flip(2) + 1, value=0.5),
    "xlogy": lambda m, x: torch.xlogy(x, x.flip(3)),
    "cumulative product": lambda m, x: x.cumprod(2),
    "logcumsumexp": lambda m, x: x.logcumsumexp(2),
    "variance and mean": lambda m, x: sum(torch.var_mean(x, (2, 3))),  # type: ignore[return-value]
    "deviation and mean": lambda m, x: sum(torch.std_mean(x, (2, 3))),  # type: ignore[return-value]
    "root by power": lambda m, x: (x - 0.5).relu().add(0.1).pow(0.5),
    "glu": lambda m, x: F.glu(torch.cat([x, x.flip(3)], 1), 1),
}  # fmt: skip
# Without a rule of their own: expanded at the image, one image at a time.
EXPANDED: dict[str, Function] = {
    "distances": lambda m, x: torch.cdist(x[:, 0], m.square),
    "vector quantisation": lambda m, x: (
        x.mean((2, 3)) @ m.w[:3] + m.w[torch.cdist(x.mean((2, 3)), m.w[:, :3]).argmin(1)]
    ),
    "blend by the image": lambda m, x: torch.lerp(x, x.flip(3), x.flip(2)),
    "product of three": lambda m, x: torch.einsum("bchw,bchw,bchw->bc", x, x.flip(3), x.flip(2)),
    "baddbmm of the image": lambda m, x: torch.baddbmm(x[:, 0], x[:, 1], x[:, 2]),
    "addcmul of two": lambda m, x: torch.addcmul(x, x.flip(3), x.flip(2), value=0.5),
    "kernel from the image": lambda m, x: torch.cat(
        [F.conv2d(one[None], one[:, :3, :3].expand(2, 3, 3, 3)) for one in x]
    ),
    "spatial transformer": lambda m, x: F.grid_sample(
        x,
        F.affine_grid(0.2 * x.mean((1, 2, 3))[:, None, None] + m.w[:2, :3], (len(x), 3, 6, 6),
                      align_corners=False),
        align_corners=False,
    ),
    "inverse": lambda m, x: torch.linalg.inv(x[..., :3, :3] + 3 * torch.eye(3)),
    "determinant": lambda m, x: torch.det(x[..., :3, :3] + torch.eye(3)),
    "exponential of a matrix": lambda m, x: torch.linalg.matrix_exp(x[..., :3, :3] / 10),
    "norm limited": lambda m, x: torch.renorm(x.mean((2, 3)), 2, 0, 0.3),
    "largest of an image": lambda m, x: torch.stack([one[0] - one.max() for one in x]),
}  # fmt: skip
