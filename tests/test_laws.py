"""Every operator's rule against the dense Jacobian, the adjoint identity and its own operator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from guidxmage.engine.program.program import Program
from guidxmage.engine.rules import RULES
from tests.brought import ON_REGION, ONE_BY_ONE
from tests.laws import captured, check_adjoint, check_all, close, random_like

properties = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


class Apply(nn.Module):
    """A function of the image as a module, with a few constant tensors at hand."""

    def __init__(self, function: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        for name, shape in {"w": (5, 4), "c": (1, 3, 1, 1), "square": (6, 6)}.items():
            self.register_buffer(name, random_like(shape, len(name)))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def conv(dims: int, *args: Any, **kwargs: Any) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[dims](*args, **kwargs).double()


def linear_layer(inputs: int, outputs: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(inputs)
        return nn.Linear(inputs, outputs).double()


def conv_transpose(dims: int, *args: Any, **kwargs: Any) -> nn.Module:
    kinds = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return kinds[dims](*args, **kwargs).double()


NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


def batch_norm(kind: Callable[[int], nn.Module] = nn.BatchNorm2d) -> nn.Module:
    norm = kind(3).double().eval()
    for number, tensor in enumerate((norm.weight, norm.bias, norm.running_mean, norm.running_var)):
        tensor.data = random_like((3,), number + 9)
    norm.running_var = norm.running_var.abs() + 0.5
    return norm


IMAGE, LINE, VOLUME, ROW = (3, 6, 6), (3, 9), (3, 4, 4, 4), (4,)
DIMS = {1: LINE, 2: IMAGE, 3: VOLUME}


def of(function: Callable[[Any, Tensor], Tensor]) -> Callable[[], nn.Module]:
    return lambda: Apply(function)


def written(base: Tensor, part: Tensor) -> Tensor:
    """The base with its first channel overwritten in place."""
    base[:, :1] = part
    return base


def widely(base: Tensor, part: Tensor) -> Tensor:
    """The base with its first two channels overwritten by one."""
    base[:, :2] = part
    return base


def upsample(**kwargs: Any) -> Callable[[], nn.Module]:
    return of(lambda m, x: F.interpolate(x, scale_factor=2, **kwargs))


# Case → (module, image shape). The operators that the cases reach are compared with the table.
CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    **{f"conv{d}d": (lambda d=d: conv(d, 3, 4, 3, padding=1), DIMS[d]) for d in DIMS},
    **{f"conv{d}d same": (lambda d=d: conv(d, 3, 4, 3, padding="same"), DIMS[d]) for d in DIMS},
    **{
        f"conv_transpose{d}d": (lambda d=d: conv_transpose(d, 3, 4, 3, 2, 1, 1), DIMS[d])
        for d in DIMS
    },
    "linear": (lambda: nn.Linear(4, 5), ROW),
    "linear on 3-d": (of(lambda m, x: F.linear(x, m.square, m.square[0])), (3, 6)),
    "addmm": (of(lambda m, x: torch.addmm(m.w[:, 0], x, m.w.t())), ROW),
    "mm": (of(lambda m, x: torch.mm(x, m.w.t())), ROW),
    "matmul": (of(lambda m, x: x @ m.square), IMAGE),
    "matmul left": (of(lambda m, x: m.square @ x), IMAGE),
    "batch_norm": (batch_norm, IMAGE),
    "batch_norm 1d": (lambda: batch_norm(nn.BatchNorm1d), LINE),
    "batch_norm of rows": (lambda: batch_norm(nn.BatchNorm1d), (3,)),
    "batch_norm 3d": (lambda: batch_norm(nn.BatchNorm3d), VOLUME),
    **{
        f"batch_norm after conv_transpose{d}d": (
            lambda d=d: nn.Sequential(
                conv_transpose(d, 3, 3, 2, 2), batch_norm(NORMS[d]), nn.ReLU()
            ),
            DIMS[d],
        )
        for d in DIMS
    },
    **{
        f"conv_transpose{d}d after batch_norm": (
            lambda d=d: nn.Sequential(batch_norm(NORMS[d]), nn.ReLU(), conv_transpose(d, 3, 2, 2)),
            DIMS[d],
        )
        for d in DIMS
    },
    "add constant": (of(lambda m, x: m.c + x + 0.25), IMAGE),
    "add scaled": (of(lambda m, x: torch.add(x, x * 2, alpha=3)), IMAGE),
    "add broadcast": (of(lambda m, x: x + x.mean((2, 3), keepdim=True)), IMAGE),
    "add scalar": (of(lambda m, x: torch.ops.aten.add.Scalar(x, 0.5)), IMAGE),
    "sub": (of(lambda m, x: m.c - (x - 0.5) - x.flip(2)), IMAGE),
    "sub scalar": (of(lambda m, x: torch.ops.aten.sub.Scalar(x, 0.5)), IMAGE),
    "rsub": (of(lambda m, x: torch.ops.aten.rsub.Scalar(x, 0.7)), IMAGE),
    "mul": (of(lambda m, x: x * m.c * 0.3), IMAGE),
    "mul scalar": (of(lambda m, x: torch.ops.aten.mul.Scalar(x, 0.5)), IMAGE),
    "div": (of(lambda m, x: x / m.c / 3), IMAGE),
    "div scalar": (of(lambda m, x: torch.ops.aten.div.Scalar(x, 0.5)), IMAGE),
    "neg": (of(lambda m, x: -x), IMAGE),
    "mean": (of(lambda m, x: x.mean((2, 3))), IMAGE),
    "sum": (of(lambda m, x: x.sum((1, 3), keepdim=True)), IMAGE),
    "running sums": (of(lambda m, x: x.cumsum(2).cumsum(-1)), IMAGE),
    "clone": (of(lambda m, x: x.clone() * 2), IMAGE),
    "dropout": (lambda: nn.Sequential(nn.Dropout(), nn.Dropout2d()), IMAGE),
    "reshape": (of(lambda m, x: x.reshape(x.shape[0], 2, 9, 6).unflatten(2, (3, 3))), IMAGE),
    "squeeze": (of(lambda m, x: x[:, :1].squeeze(1).unsqueeze(2).squeeze(2)), IMAGE),
    "permute": (of(lambda m, x: x.permute(0, 3, 1, 2).transpose(1, 3)), IMAGE),
    "expand": (of(lambda m, x: x[:, :1].expand(-1, 4, -1, -1) * 2), IMAGE),
    "slice": (of(lambda m, x: x[:, 1:, ::2, -3:] + x[:, 0:1, :3, 2:5]), IMAGE),
    "select": (of(lambda m, x: x[:, 1]), IMAGE),
    "split": (of(lambda m, x: torch.cat(x.split([1, 2], 1)[::-1], 1)), IMAGE),
    "split even": (of(lambda m, x: torch.cat(x.split(2, 3)[::-1], 3)), IMAGE),
    "chunk": (of(lambda m, x: torch.cat(x.chunk(2, 2)[::-1], 2)), IMAGE),
    "unbind": (of(lambda m, x: x.unbind(1)[2] - x.unbind(1)[0]), IMAGE),
    "narrow": (of(lambda m, x: x.narrow(2, 1, 3)), IMAGE),
    "index": (of(lambda m, x: x[:, [2, 0, 1, 0]]), IMAGE),
    "index_select": (of(lambda m, x: x.index_select(1, torch.tensor([2, 2, 0]))), IMAGE),
    "flip": (of(lambda m, x: x.flip((2, 3))), IMAGE),
    "roll": (of(lambda m, x: x.roll((1, 2), (2, 3))), IMAGE),
    "pixel_shuffle": (of(lambda m, x: F.pixel_shuffle(x, 2)), (4, 3, 3)),
    "pixel_unshuffle": (of(lambda m, x: F.pixel_unshuffle(x, 2)), IMAGE),
    "channel_shuffle": (of(lambda m, x: F.channel_shuffle(x, 2)), (4, 3, 3)),
    "cat constant": (
        of(lambda m, x: torch.cat([x, m.c.expand(x.shape[0], 3, 6, 6), 2 * x], 1)),
        IMAGE,
    ),
    "unfold": (of(lambda m, x: F.unfold(x, 3, padding=1, stride=2)), IMAGE),
    "fold": (of(lambda m, x: F.fold(F.unfold(2 * x, 3, padding=1), 6, 3, padding=1)), IMAGE),
    "unfold along a dimension": (of(lambda m, x: x.unfold(3, 3, 2).unfold(2, 2, 2)), IMAGE),
    "where": (of(lambda m, x: torch.where(m.c > 0, x, x.flip(2))), IMAGE),
    "where constant": (
        of(lambda m, x: torch.where(m.c > 0, 0.5, torch.where(m.c < -1, x, m.c))),
        IMAGE,
    ),
    "where scalar": (of(lambda m, x: torch.where(m.c > 0, x, 0.5)), IMAGE),
    "masked_fill": (of(lambda m, x: x.masked_fill(m.c > 0, 0.7)), IMAGE),
    "masked_fill by a constant": (of(lambda m, x: x.masked_fill(m.c > 0, m.w[0, 0])), IMAGE),
    "addcmul": (of(lambda m, x: torch.addcmul(x, m.c, x.flip(2), value=0.5)), IMAGE),
    "addcmul to a constant": (of(lambda m, x: torch.addcmul(m.c, x, m.c)), IMAGE),
    "addcmul of constants": (of(lambda m, x: torch.addcmul(x, m.c, m.c, value=2)), IMAGE),
    "repeat_interleave": (of(lambda m, x: x.repeat_interleave(2, 2)), IMAGE),
    "repeat_interleave of images": (
        of(lambda m, x: x.repeat_interleave(2, 0).reshape(x.shape[0], 2, 3, 6, 6) * m.c),
        IMAGE,
    ),
    "type_as": (of(lambda m, x: torch.cat([x.type_as(m.c), m.c.type_as(x) * x], 1)), IMAGE),
    "tril": (of(lambda m, x: x.tril() + 2 * x.triu(1)), IMAGE),
    "copy into a part": (of(lambda m, x: written(2 * x, x[:, :1].flip(2))), IMAGE),
    "copy of a channel into two": (of(lambda m, x: widely(2 * x, x[:, :1].flip(2))), IMAGE),
    "copy of a constant into a part": (of(lambda m, x: written(2 * x, m.c[:, :1])), IMAGE),
    "pad below everything": (
        of(lambda m, x: F.max_pool2d(F.pad(x, (0, 1, 0, 1), value=-torch.inf), 3, 2)),
        (3, 5, 5),
    ),
    "slice_scatter": (
        of(lambda m, x: torch.slice_scatter(2 * x, x[:, :2].flip(3), 1, 0, 3, 2)),
        IMAGE,
    ),
    "slice_scatter on a constant": (
        of(lambda m, x: torch.slice_scatter(m.c.expand(x.shape[0], 3, 6, 6), x[:, :2], 1, 1)),
        IMAGE,
    ),
    "slice_scatter of a constant": (
        of(lambda m, x: torch.slice_scatter(x, m.c.expand(x.shape[0], 3, 6, 6)[:, :1], 1, 1, 2)),
        IMAGE,
    ),
    "select_scatter": (of(lambda m, x: torch.select_scatter(x, 3 * x[:, 0], 1, 2)), IMAGE),
    "stack": (of(lambda m, x: torch.stack([x, -x, 2 * x], 2)), IMAGE),
    "pad": (of(lambda m, x: F.pad(x, (1, 2, 0, 1), value=0.3)), IMAGE),
    "pad crop": (of(lambda m, x: F.pad(x, (-1, 2, 0, 1))), IMAGE),
    "pad reflect": (of(lambda m, x: F.pad(x, (1, 2, 2, 1), mode="reflect")), IMAGE),
    "pad replicate": (of(lambda m, x: F.pad(x, (1, 2, 2, 1), mode="replicate")), IMAGE),
    **{
        f"adaptive_avg_pool{d}d {n}": (
            of(lambda m, x, d=d, n=n: getattr(F, f"adaptive_avg_pool{d}d")(x, n)),
            DIMS[d],
        )
        for d in DIMS
        for n in (1, 3)
    },
    **{
        f"avg_pool{d}d": (of(lambda m, x, d=d: getattr(F, f"avg_pool{d}d")(x, 2)), DIMS[d])
        for d in DIMS
    },
    **{
        f"max_pool{d}d": (of(lambda m, x, d=d: getattr(F, f"max_pool{d}d")(x, 3, 2, 1)), DIMS[d])
        for d in DIMS
    },
    **{
        f"max_pool{d}d with indices": (
            of(lambda m, x, d=d: getattr(F, f"max_pool{d}d")(x, 2, 1, return_indices=True)[0]),
            DIMS[d],
        )
        for d in DIMS
    },
    **{
        f"adaptive_max_pool{d}d": (
            of(lambda m, x, d=d: getattr(F, f"adaptive_max_pool{d}d")(x, 3)),
            DIMS[d],
        )
        for d in DIMS
    },
    "nearest 1d": (upsample(mode="nearest"), LINE),
    "nearest 2d": (upsample(mode="nearest"), IMAGE),
    "nearest 3d": (upsample(mode="nearest"), VOLUME),
    "nearest exact": (upsample(mode="nearest-exact"), IMAGE),
    "nearest exact 1d": (upsample(mode="nearest-exact"), LINE),
    "nearest exact 3d": (upsample(mode="nearest-exact"), VOLUME),
    "linear 1d": (upsample(mode="linear"), LINE),
    "bilinear": (upsample(mode="bilinear"), IMAGE),
    "trilinear": (upsample(mode="trilinear"), VOLUME),
    "bicubic": (upsample(mode="bicubic", align_corners=True), IMAGE),
    "bilinear antialias": (
        of(lambda m, x: F.interpolate(x, (4, 3), mode="bilinear", antialias=True)),
        IMAGE,
    ),
    "bicubic antialias": (
        of(lambda m, x: F.interpolate(x, (4, 3), mode="bicubic", antialias=True)),
        IMAGE,
    ),
    "relu": (nn.ReLU, IMAGE),
    "relu in place": (lambda: nn.Sequential(conv(2, 3, 4, 3), nn.ReLU(inplace=True)), IMAGE),
    "leaky_relu": (lambda: nn.LeakyReLU(0.2), IMAGE),
    "abs": (of(lambda m, x: x.abs()), IMAGE),
    "threshold": (lambda: nn.Threshold(0.3, -1.5), IMAGE),
    "rrelu": (nn.RReLU, IMAGE),
    "prelu": (lambda: nn.PReLU(3, 0.3), IMAGE),
    "hardtanh": (lambda: nn.Hardtanh(-0.4, 0.7), IMAGE),
    **{
        f"{name} on a vector": (
            lambda kind=kind: nn.Sequential(linear_layer(4, 24), kind, linear_layer(24, 3)),
            ROW,
        )
        for name, kind in {
            "relu": nn.ReLU(),
            "hardtanh": nn.Hardtanh(-0.3, 0.4),
            "relu6": nn.ReLU6(),
            "clamp": Apply(lambda m, x: x.clamp(-0.2, 0.3)),
            "clamp in place": Apply(lambda m, x: x.clamp_(-0.2, 0.3)),
            "threshold": nn.Threshold(0.1, 0.1),
            "leaky_relu": nn.LeakyReLU(0.2),
            "prelu": nn.PReLU(24),
        }.items()
    },
    "relu6": (of(lambda m, x: F.relu6(x * 5)), IMAGE),
    "clamp": (of(lambda m, x: x.clamp(-0.3, 0.6)), IMAGE),
    "clamp low": (of(lambda m, x: x.clamp(min=0.1)), IMAGE),
    "clamp tensor": (of(lambda m, x: torch.clamp(x, m.c - 1, m.c)), IMAGE),
    "clamp_min": (of(lambda m, x: x.clamp_min(-0.2)), IMAGE),
    "clamp_max": (of(lambda m, x: x.clamp_max(0.2)), IMAGE),
    "maximum": (of(lambda m, x: torch.maximum(x, 2 * x.flip(2))), IMAGE),
    "maximum constant": (of(lambda m, x: torch.maximum(m.c, x)), IMAGE),
    "minimum": (of(lambda m, x: torch.minimum(x, m.c)), IMAGE),
    "amax": (of(lambda m, x: x.amax((1, 3))), IMAGE),
    "amin": (of(lambda m, x: x.amin(2, keepdim=True)), IMAGE),
    "max": (of(lambda m, x: x.max(1).values), IMAGE),
    "bmm": (of(lambda m, x: torch.bmm(x[:, 0], m.square.expand(x.shape[0], 6, 6))), IMAGE),
    "einsum": (of(lambda m, x: torch.einsum("bcij,jk->bcik", x, m.square)), IMAGE),
    "constants like": (
        of(
            lambda m, x: torch.cat(
                [x, torch.zeros_like(x), torch.ones_like(x), torch.full_like(x, 0.3)], 1
            )
        ),
        IMAGE,
    ),
    "min": (of(lambda m, x: x.min(3, keepdim=True).values), IMAGE),
}


# Other spellings of operators in CASES.
CASES |= {name: (of(function), IMAGE) for name, function in ON_REGION.items()}
OTHER_SPELLINGS = {
    "aten.view.default",
    "aten.contiguous.default",
    "aten.alias.default",
    "aten.detach.default",
    "aten.lift_fresh_copy.default",
    "aten.dropout.default",
    "aten.feature_dropout.default",
    "aten.reshape.default",
    "aten.flatten.using_ints",
    "aten.unflatten.int",
    "aten._unsafe_view.default",
    "aten.squeeze.default",
    "aten.squeeze.dims",
    "aten.t.default",
    "aten.chunk.default",
    "aten.narrow.default",
    "aten.constant_pad_nd.default",
    "aten.relu6.default",
    "aten.prelu.default",
    "aten._prelu_kernel.default",
    "aten.mul.Scalar",
    "aten.add.Scalar",
    "aten.sub.Scalar",
    "aten.div.Scalar",
    "aten.div.Scalar_mode",
    "aten.floor_divide.Scalar",
    "aten.masked_scatter.default",  # in test_brought.py, for one image
    "aten.rsub.Scalar",
    "aten.hardsigmoid.default",  # in test_gates.py: PyTorch's own derivative has few digits
}


@pytest.mark.parametrize("name", CASES)
def test_laws(name: str) -> None:
    make, shape = CASES[name]
    for seed in (0, 1):
        check_all(make(), random_like((2, *shape), seed + 20), seed)


def test_every_rule_is_reached() -> None:
    reached = set()
    alone = [(of(function), IMAGE) for function in ONE_BY_ONE.values()]
    for make, shape in [*CASES.values(), *alone]:
        program, _ = captured(make(), random_like((2, *shape), 0))
        reached |= {call.op for call in program.calls}
    piecewise_linear = {name for name, rule in RULES.items() if rule.kind != "gate"}
    missing = piecewise_linear - reached - OTHER_SPELLINGS
    assert not missing, f"no case reaches {sorted(missing)}"


# --- properties ----------------------------------------------------------------------------------


@given(
    groups=st.integers(1, 3),
    per_group=st.integers(1, 2),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    dilation=st.integers(1, 2),
    bias=st.booleans(),
    size=st.tuples(st.integers(4, 9), st.integers(4, 9)),
)
@properties
def test_convolutions(groups, per_group, kernel, stride, padding, dilation, bias, size) -> None:
    assume(
        all(n + 2 * p > dilation * (k - 1) for n, p, k in zip(size, padding, kernel, strict=True))
    )
    channels = groups * per_group
    module = conv(
        2, channels, 2 * groups, kernel, stride, padding, dilation, groups=groups, bias=bias
    )
    check_all(nn.Sequential(module, nn.ReLU()), random_like((2, channels, *size), 3))


@given(
    dims=st.sampled_from([1, 3]),
    groups=st.integers(1, 2),
    kernel=st.integers(1, 3),
    stride=st.integers(1, 3),
    padding=st.integers(0, 2),
    dilation=st.integers(1, 2),
)
@properties
def test_convolutions_of_lines_and_volumes(dims, groups, kernel, stride, padding, dilation) -> None:
    size = (7,) if dims == 1 else (5, 3, 4)
    assume(min(size) + 2 * padding > dilation * (kernel - 1))
    module = conv(dims, groups, 2 * groups, kernel, stride, padding, dilation, groups=groups)
    check_all(nn.Sequential(module, nn.ReLU()), random_like((2, groups, *size), 3))


@given(
    dims=st.integers(1, 3),
    groups=st.integers(1, 2),
    kernel=st.integers(1, 3),
    stride=st.integers(1, 3),
    padding=st.integers(0, 2),
    output_padding=st.integers(0, 2),
    dilation=st.integers(1, 3),
    bias=st.booleans(),
)
@properties
def test_transposed_convolutions(
    dims, groups, kernel, stride, padding, output_padding, dilation, bias
) -> None:
    size = {1: (5,), 2: (4, 3), 3: (3, 2, 3)}[dims]
    assume(output_padding < max(stride, dilation))
    reach = dilation * (kernel - 1) + output_padding + 1 - 2 * padding
    assume((min(size) - 1) * stride + reach > 0)
    module = conv_transpose(
        dims, 2 * groups, groups, kernel, stride, padding, output_padding, groups, bias, dilation
    )
    check_all(nn.Sequential(module, nn.ReLU()), random_like((2, 2 * groups, *size), 3))


@given(
    dims=st.sampled_from([1, 3]),
    kernel=st.integers(1, 3),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 2),
    ceil_mode=st.booleans(),
    average=st.booleans(),
    include=st.booleans(),
)
@properties
def test_pools_of_lines_and_volumes(
    dims, kernel, stride, dilation, ceil_mode, average, include
) -> None:
    size, padding = ((8,) if dims == 1 else (5, 4, 3)), kernel // 2
    if average:
        kind = {1: nn.AvgPool1d, 3: nn.AvgPool3d}[dims]
        pool = kind(kernel, stride, padding, ceil_mode, include)
    else:
        assume(min(size) + 2 * padding > dilation * (kernel - 1))
        kind = {1: nn.MaxPool1d, 3: nn.MaxPool3d}[dims]
        pool = kind(kernel, stride, padding, dilation, ceil_mode=ceil_mode)
    check_all(pool, random_like((2, 2, *size), 4))


def test_a_transposed_convolution_by_hand() -> None:
    """Stride 2 lays the kernel (1, 10) at every other place: x = (2, 3) gives (2, 20, 3, 30)."""
    module = nn.ConvTranspose1d(1, 1, 2, 2).double()
    module.weight.data = torch.tensor([[[1.0, 10.0]]], dtype=torch.float64)
    module.bias.data.fill_(0.5)
    x = torch.tensor([[[2.0, 3.0]]], dtype=torch.float64)
    program, recording = captured(module, x)
    assert recording.logits.tolist() == [[2.5, 20.5, 3.5, 30.5]]
    pulled = program.pull(recording.trail, torch.tensor([[1.0, 2.0, 0.0, 3.0]]).double())
    assert pulled.weights.tolist() == [[[21.0, 30.0]]]
    assert [v.tolist() for v in pulled.bias_by_site.values()] == [[3.0]]


@given(
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    dilation=st.integers(1, 2),
    ceil_mode=st.booleans(),
    padded=st.booleans(),
    size=st.tuples(st.integers(5, 9), st.integers(5, 9)),
)
@properties
def test_max_pools(kernel, stride, dilation, ceil_mode, padded, size) -> None:
    padding = [k // 2 if padded else 0 for k in kernel]
    assume(
        all(n + 2 * p > dilation * (k - 1) for n, p, k in zip(size, padding, kernel, strict=True))
    )
    pool = nn.MaxPool2d(kernel, stride, padding, dilation, ceil_mode=ceil_mode)
    check_all(nn.Sequential(conv(2, 2, 3, 1), pool), random_like((2, 2, *size), 4))


@given(
    kernel=st.integers(1, 3),
    stride=st.integers(1, 3),
    ceil_mode=st.booleans(),
    include=st.booleans(),
    divisor=st.sampled_from([None, 3]),
)
@properties
def test_average_pools(kernel, stride, ceil_mode, include, divisor) -> None:
    pool = nn.AvgPool2d(kernel, stride, kernel // 2, ceil_mode, include, divisor)
    check_all(pool, random_like((2, 2, 7, 6), 5))


@given(bias=st.booleans(), relu=st.booleans(), seed=st.integers(0, 99))
@properties
def test_folding_batch_norm_changes_nothing(bias, relu, seed) -> None:
    module = nn.Sequential(
        conv(2, 2, 3, 3, bias=bias), batch_norm(), nn.ReLU() if relu else nn.Identity()
    )
    x = random_like((2, 2, 6, 6), seed)
    program, recording = captured(module, x)
    assert len(program.symbolic_calls) == len(program.calls) - 1
    plain = replace(program, symbolic_calls=program.calls)
    u = random_like(tuple(recording.logits.shape), seed + 1)
    folded, unfolded = (p.pull(recording.trail, u) for p in (program, plain))
    close(folded.weights, unfolded.weights)
    assert list(folded.bias_by_site) == list(unfolded.bias_by_site)
    for site, value in folded.bias_by_site.items():
        assert torch.allclose(value, unfolded.bias_by_site[site], rtol=1e-10, atol=1e-12)


# --- ties and zeros ------------------------------------------------------------------------------


@given(levels=st.integers(1, 3), seed=st.integers(0, 20))
@properties
def test_ties_follow_the_kernel(levels, seed) -> None:
    """Images of few values: replay still reproduces the network, and autograd's winner is ours."""
    x = (random_like((2, 2, 7, 7), seed) * levels).round() / levels
    module = nn.Sequential(nn.MaxPool2d(3, 2, 1), nn.ReLU())
    program, recording = captured(module, x)
    close(program.push(recording.trail, x, affine=True) + 1, recording.logits + 1)
    check_adjoint(program, recording, x, seed)
    z = x.clone().requires_grad_()
    u = random_like(tuple(recording.logits.shape), seed)
    (gradient,) = torch.autograd.grad(module(z).flatten(1), z, u)
    close(program.pull(recording.trail, u).weights + 1, gradient + 1)


def test_relu_at_zero_is_off() -> None:
    _, recording = captured(nn.ReLU(), torch.zeros(2, 3, 4, 4, dtype=torch.float64))
    assert int(recording.trail["0"].plane().sum()) == 0


def test_dead_network_leaves_the_bias() -> None:
    network = nn.Sequential(conv(2, 3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2)).double()
    network[0].bias.data.fill_(-1e3)
    program, recording = captured(network, random_like((2, 3, 6, 6), 0))
    pulled = program.pull(recording.trail, torch.eye(2, dtype=torch.float64))
    assert float(pulled.weights.abs().max()) == 0
    bias = sum(pulled.bias_by_site.values())
    close(bias, recording.logits.diagonal())


# --- the laws can fail ---------------------------------------------------------------------------

_POOLED = nn.Sequential(conv(2, 3, 4, 3), nn.ReLU(), nn.MaxPool2d(3, 2, 1))


_SCATTER = RULES["aten.max_pool2d.default"].pull


def _assigning_pull(frame: Any, g: Tensor, x: Any, *args: Any) -> list[Tensor]:
    """Un-pooling that does not add up where windows overlap, like un-pooling by assignment."""
    windows = _SCATTER(frame, torch.ones_like(g), x, *args)[0]
    return [_SCATTER(frame, g, x, *args)[0] / windows.clamp(min=1)]


@pytest.mark.parametrize(
    ("op", "change"),
    [
        ("aten.max_pool2d.default", {"pull": _assigning_pull}),
        ("aten.relu.default", {"pull": lambda f, g, *a: [g]}),
        ("aten.conv2d.default", {"constant": None}),
        ("aten.conv2d.default", {"push": lambda f, x, w, *a: F.conv2d(x, w * (1 + 1e-9))}),
        ("aten.flatten.using_ints", {"pull": lambda f, g, x, *a: [g.flip(1).reshape(x.shape)]}),
    ],
)
def test_a_broken_rule_is_noticed(op: str, change: dict[str, Any], monkeypatch: Any) -> None:
    x = random_like((2, 3, 9, 9), 1)
    check_all(_POOLED, x)
    monkeypatch.setitem(RULES, op, replace(RULES[op], **change))
    with pytest.raises(AssertionError):
        check_all(_POOLED, x)


def test_a_flipped_decision_is_noticed() -> None:
    x = random_like((2, 3, 9, 9), 1)
    program, recording = captured(_POOLED, x)
    (site,) = [s for s, d in recording.trail.items() if d.kind == "bits"]
    # Flip one decision whose output the pool selects; not every ReLU matters to the result.
    changed = 0
    for byte in range(8):
        recording.trail[site].planes[0][0, byte] ^= 0xFF
        pushed = program.push(recording.trail, x, affine=True)
        changed += not torch.allclose(pushed, recording.logits, rtol=1e-10)
        recording.trail[site].planes[0][0, byte] ^= 0xFF
    assert changed > 0
    assert isinstance(program, Program)
