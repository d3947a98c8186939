"""Networks and photos that the tests share: torchvision's families, tiny pitfalls, unfit models."""

from __future__ import annotations

import copy
import zlib
from collections.abc import Callable
from functools import cache
from importlib import resources
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from guidxmage.models import load_model

# Name → side of the square test image: as small as the architecture allows.
TORCHVISION_PIECEWISE_LINEAR: dict[str, int] = {
    "alexnet": 96,
    "vgg11": 64,
    "vgg16": 64,
    "vgg11_bn": 64,
    "resnet18": 96,
    "resnet50": 96,
    "resnext50_32x4d": 96,
    "wide_resnet50_2": 64,
    "densenet121": 96,
    "squeezenet1_0": 96,
    "squeezenet1_1": 96,
    "googlenet": 96,
    "inception_v3": 96,
    "mobilenet_v2": 96,
    "mnasnet1_0": 96,
    "shufflenet_v2_x1_0": 96,
}


# A test process goes through all of them, and would end up with every one in memory.
_KEPT_BYTES = 2**27
_kept: dict[str, nn.Module] = {}


def network(name: str, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A fresh copy of a named network with calibrated random weights, in evaluation mode.

    Those of moderate size are kept for the next test that asks; larger ones are made again.
    """
    if name in _kept:
        return copy.deepcopy(_kept[name]).to(dtype)
    model = load_model(name, weights="none").model
    if sum(parameter.nbytes for parameter in model.parameters()) > _KEPT_BYTES:
        return model.to(dtype)
    _kept[name] = model
    return copy.deepcopy(model).to(dtype)


# --- photos --------------------------------------------------------------------------------------

_MEAN = torch.tensor((0.485, 0.456, 0.406)).reshape(3, 1, 1)
_STD = torch.tensor((0.229, 0.224, 0.225)).reshape(3, 1, 1)


def imagenet_photos() -> list[tuple[Image.Image, int]]:
    """The 20 labelled ImageNet photos of the foolbox package, with their class index."""
    folder = resources.files("foolbox") / "data"
    files = sorted(file.name for file in folder.iterdir() if file.name.startswith("imagenet_"))
    photos = []
    for name in files:
        with (folder / name).open("rb") as stream:
            photos.append(
                (Image.open(stream).convert("RGB"), int(name.split("_")[2].split(".")[0]))
            )
    return photos


@cache
def _photo_pixels(n: int, size: int) -> Tensor:
    import numpy as np
    from PIL import ImageOps

    photos = [photo for photo, _ in imagenet_photos()[:n]]
    if len(photos) < n:
        raise ValueError(f"there are {len(photos)} photos, not {n}")
    fitted = [np.asarray(ImageOps.fit(photo, (size, size))) for photo in photos]
    return torch.from_numpy(np.stack(fitted)).permute(0, 3, 1, 2).float().div(255).contiguous()


def photo_batch(
    n: int, size: int, dtype: torch.dtype = torch.float32, *, normalised: bool = True
) -> Tensor:
    """n ≤ 20 real photos (n, 3, size, size); ImageNet-normalised, or pixels in [0, 1]."""
    pixels = _photo_pixels(n, size).clone()
    return ((pixels - _MEAN) / _STD if normalised else pixels).to(dtype)


# --- tiny networks -------------------------------------------------------------------------------

CLASSES = 5
SMALL_NETWORKS: dict[str, Callable[[], nn.Module]] = {}
"""Name → factory of a piecewise-linear network with 5 classes, the same weights on every call."""

SMALL_INPUTS: dict[str, tuple[int, ...]] = {}
"""Input shapes (without the batch) of the networks that do not take (3, 16, 16)."""

BAD_NETWORKS: dict[str, Callable[[], nn.Module]] = {}
"""Networks for (B, 3, 16, 16) that must be refused."""

Body = Callable[[Any, Tensor], Any]


class Net(nn.Module):
    """Named layers and constants, a function that uses them, and a linear layer on its result."""

    def __init__(self, body: Body, shape: tuple[int, ...], **parts: nn.Module | Tensor) -> None:
        super().__init__()
        self.body = body
        for name, part in parts.items():
            if isinstance(part, nn.Module):
                self.add_module(name, part)
            else:
                self.register_buffer(name, part)
        self.eval()
        with torch.no_grad():
            features = body(self, torch.zeros(2, *shape))
        self.classifier = nn.Linear(features[0].numel(), CLASSES).eval()

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.classifier(self.body(self, x).flatten(1))
        return scores


def _reproducible(name: str, make: Callable[[], nn.Module]) -> nn.Module:
    """`make()` with weights that depend on the name alone; batch-norm far from the identity."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(zlib.crc32(name.encode()))
        model = make()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.3, 1.5)
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, 0, 0.3)
    return model


def small(name: str, body: Body, *shape: int, **parts: Callable[[], nn.Module | Tensor]) -> None:
    """Enter a tiny network; its parts are made by callables, for a fresh copy on every call."""

    def make() -> nn.Module:
        built = {key: part() for key, part in parts.items()}
        return Net(body, shape or (3, 16, 16), **built)

    SMALL_NETWORKS[name] = lambda: _reproducible(name, make)
    if shape:
        SMALL_INPUTS[name] = shape


def conv(*args: Any, **kwargs: Any) -> Callable[[], nn.Module]:
    return lambda: nn.Conv2d(*args, **kwargs)


# Decisions: how a ReLU may be written.
small(
    "inplace_relu",
    lambda m, x: m.relu2(m.conv2(m.relu1(m.conv1(x)))),
    conv1=conv(3, 6, 3),
    conv2=conv(6, 8, 3, stride=2),
    relu1=lambda: nn.ReLU(inplace=True),
    relu2=lambda: nn.ReLU(inplace=True),
)


def _view_before_inplace(m: Any, x: Tensor) -> Any:
    y = m.conv1(x)
    early = y[:, :2]
    y.relu_()
    return torch.cat([early, m.conv2(y)], 1)


small(
    "view_read_after_inplace_relu",
    _view_before_inplace,
    conv1=conv(3, 4, 3),
    conv2=conv(4, 4, 3, padding=1),
)


def _copy_before_inplace(m: Any, x: Tensor) -> Any:
    y = m.conv(x)
    early = y.clone()
    return F.relu(y, inplace=True) + 0.5 * early


small("copy_kept_before_inplace_relu", _copy_before_inplace, conv=conv(3, 4, 3))
small(
    "reused_relu",
    lambda m, x: m.relu(m.conv2(m.relu(m.conv1(x)))),
    conv1=conv(3, 6, 3),
    conv2=conv(6, 8, 3),
    relu=nn.ReLU,
)
small(
    "functional_relu_and_pool",
    lambda m, x: F.max_pool2d(F.relu(m.conv2(F.max_pool2d(F.relu(m.conv1(x)), 2))), 2),
    conv1=conv(3, 6, 3, padding=1),
    conv2=conv(6, 8, 3, padding=1),
)
small("relu_on_the_image", lambda m, x: F.relu(m.conv(F.relu(x - 0.4))), conv=conv(3, 4, 3))
small("no_decision_at_all", lambda m, x: m.conv(x), conv=conv(3, 4, 5, stride=3))
small("reused_convolution", lambda m, x: m.c(F.relu(m.c(F.relu(m.c(x))))), c=conv(3, 3, 3))


# Topology: residual, dense, branches.
def _residual(m: Any, x: Tensor) -> Tensor:
    y = F.relu(m.stem(x))
    y += m.conv2(F.relu(m.conv1(y)))
    return F.relu(y)


small(
    "residual", _residual, stem=conv(3, 6, 3), conv1=conv(6, 6, 3, padding=1), conv2=conv(6, 6, 1)
)


def _dense(m: Any, x: Tensor) -> Tensor:
    a = F.relu(m.conv1(x))
    b = F.relu(m.conv2(torch.cat([x, a], 1)))
    return torch.cat([x, a, b, a], 1)


small("dense", _dense, conv1=conv(3, 4, 3, padding=1), conv2=conv(7, 4, 3, padding=1))
small(
    "image_used_three_times",
    lambda m, x: F.relu(m.conv1(x)) + m.conv2(x) + F.relu(m.conv3(x)),
    conv1=conv(3, 4, 3, padding=1),
    conv2=conv(3, 4, 1),
    conv3=conv(3, 4, 5, padding=2),
)
small(
    "stack",
    lambda m, x: torch.stack([F.relu(m.conv1(x)), m.conv2(x)], 1),
    conv1=conv(3, 3, 3),
    conv2=conv(3, 3, 3),
)


# Pooling.
small(
    "overlapping_max_pool",
    lambda m, x: m.pool(F.relu(m.conv(x))),
    conv=conv(3, 6, 3, padding=1),
    pool=lambda: nn.MaxPool2d(3, 2, padding=1),
)
small(
    "max_pool_ceil_mode",
    lambda m, x: m.pool2(F.relu(m.conv(m.pool1(x)))),
    conv=conv(3, 6, 3, padding=1),
    pool1=lambda: nn.MaxPool2d(3, 2, ceil_mode=True),
    pool2=lambda: nn.MaxPool2d(3, 2, padding=1, ceil_mode=True),
)
small(
    "max_pool_dilated_rectangular",
    lambda m, x: m.pool(m.conv(x)),
    conv=conv(3, 6, 3),
    pool=lambda: nn.MaxPool2d((2, 3), stride=(1, 2), dilation=(2, 1)),
)
small(
    "average_pools",
    lambda m, x: m.pool2(F.relu(m.conv(m.pool1(x)))),
    conv=conv(3, 6, 3, padding=1),
    pool1=lambda: nn.AvgPool2d(3, 2, padding=1, ceil_mode=True, count_include_pad=False),
    pool2=lambda: nn.AvgPool2d(2, divisor_override=3),
)
small(
    "adaptive_average_pool",
    lambda m, x: m.pool(F.relu(m.conv(x))),
    conv=conv(3, 6, 3),
    pool=lambda: nn.AdaptiveAvgPool2d((3, 5)),
)
small(
    "global_average_pool",
    lambda m, x: F.adaptive_avg_pool2d(F.relu(m.conv(x)), 1),
    conv=conv(3, 6, 3),
)
small(
    "adaptive_max_pool",
    lambda m, x: m.pool(m.conv(x)),
    conv=conv(3, 6, 3),
    pool=lambda: nn.AdaptiveMaxPool2d((3, 5)),
)
small("amax_over_space", lambda m, x: m.conv(x).amax((2, 3)), conv=conv(3, 8, 3))
small("amin_over_channels", lambda m, x: m.conv(x).amin(1), conv=conv(3, 8, 3))
small("max_over_one_dimension", lambda m, x: m.conv(x).max(3).values, conv=conv(3, 8, 3))
small("mean_over_space", lambda m, x: F.relu(m.conv(x)).mean((2, 3)), conv=conv(3, 8, 3))
small(
    "sum_over_channels",
    lambda m, x: F.relu(m.conv(x)).sum(1, keepdim=True),
    conv=conv(3, 8, 3),
)
small(
    "bilinear_upsample",
    lambda m, x: F.interpolate(
        F.relu(m.conv(x)), scale_factor=2, mode="bilinear", align_corners=False
    ),
    conv=conv(3, 4, 3, stride=2),
)
small(
    "nearest_upsample",
    lambda m, x: F.relu(m.conv(F.interpolate(x, size=(24, 20), mode="nearest"))),
    conv=conv(3, 4, 3, stride=2),
)


# Convolutions.
small(
    "depthwise_grouped_dilated",
    lambda m, x: m.dilated(F.relu(m.grouped(F.relu(m.depthwise(x))))),
    depthwise=conv(3, 6, 3, groups=3, padding=1),
    grouped=conv(6, 8, 3, groups=2, stride=2, padding=1),
    dilated=conv(8, 4, 3, dilation=2, padding=(1, 2), bias=False),
)
small(
    "padding_same",
    lambda m, x: m.conv2(F.relu(m.conv1(x))),
    conv1=conv(3, 4, 3, padding="same"),
    conv2=conv(4, 4, 5, padding="same", dilation=2),
)
small(
    "stride_leaves_a_border",
    lambda m, x: F.relu(m.conv(x)),
    conv=conv(3, 4, 3, stride=4),
)
small(
    "conv1d",
    lambda m, x: F.max_pool1d(F.relu(m.norm(m.conv(x))), 3, 2, 1),
    3,
    32,
    conv=lambda: nn.Conv1d(3, 6, 5, padding=2, stride=2),
    norm=lambda: nn.BatchNorm1d(6),
)
small(
    "conv3d",
    lambda m, x: F.avg_pool3d(F.max_pool3d(F.relu(m.norm(m.conv(x))), 2), (1, 2, 2)),
    2,
    6,
    8,
    8,
    conv=lambda: nn.Conv3d(2, 4, 3, padding=1),
    norm=lambda: nn.BatchNorm3d(4),
)
small("one_channel", lambda m, x: F.relu(m.conv(x)), 1, 12, 20, conv=conv(1, 6, 3))
small(
    "only_linear_layers",
    lambda m, x: F.relu(m.fc2(F.relu(m.fc1(x.flatten(1))))),
    fc1=lambda: nn.Linear(768, 20),
    fc2=lambda: nn.Linear(20, 12, bias=False),
)
small(
    "transposed_layouts",
    lambda m, x: m.fc(F.relu(m.conv(x)).permute(0, 2, 3, 1)).transpose(1, 3),
    conv=conv(3, 6, 3),
    fc=lambda: nn.Linear(6, 4),
)


# Batch-norm.
class _PlainBatchNorm(nn.Module):
    """Batch-norm with statistics but without weight and bias."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.randn(6) * 0.3)
        self.register_buffer("variance", torch.rand(6) + 0.3)

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.mean, self.variance)  # type: ignore[arg-type]


small(
    "batch_norm_after",
    lambda m, x: F.relu(m.norm2(m.conv2(F.relu(m.norm1(m.conv1(x)))))),
    conv1=conv(3, 6, 3, bias=False),
    norm1=lambda: nn.BatchNorm2d(6),
    conv2=conv(6, 6, 3),
    norm2=lambda: nn.BatchNorm2d(6),
)
small(
    "batch_norm_before",
    lambda m, x: m.conv2(F.relu(m.norm2(m.conv1(m.norm1(x))))),
    norm1=lambda: nn.BatchNorm2d(3),
    conv1=conv(3, 6, 3, padding=1),
    norm2=lambda: nn.BatchNorm2d(6),
    conv2=conv(6, 4, 3, padding=1),
)
small(
    "batch_norm_used_twice",
    lambda m, x: F.relu(m.norm(m.conv2(F.relu(m.norm(m.conv1(x)))))),
    conv1=conv(3, 6, 3),
    conv2=conv(6, 6, 3),
    norm=lambda: nn.BatchNorm2d(6),
)


def _norm_beside(m: Any, x: Tensor) -> Tensor:
    y = m.conv(x)
    return torch.cat([F.relu(m.norm(y)), F.relu(y)], 1)


small(
    "convolution_read_before_and_after_batch_norm",
    _norm_beside,
    conv=conv(3, 6, 3),
    norm=lambda: nn.BatchNorm2d(6),
)
small(
    "one_convolution_with_two_batch_norms",
    lambda m, x: F.relu(m.norm1(m.conv(x))) + F.relu(m.norm2(m.conv(x))),
    conv=conv(3, 6, 3),
    norm1=lambda: nn.BatchNorm2d(6),
    norm2=lambda: nn.BatchNorm2d(6),
)
small(
    "batch_norm_without_weights",
    lambda m, x: F.relu(m.norm(m.conv(x))),
    conv=conv(3, 6, 3),
    norm=_PlainBatchNorm,
)
small(
    "batch_norm_on_vectors",
    lambda m, x: F.relu(m.norm(m.fc(x.flatten(1)))),
    fc=lambda: nn.Linear(768, 12),
    norm=lambda: nn.BatchNorm1d(12),
)


# Other decisions.
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu6": lambda x: F.relu6(10 * x),
    "hardtanh": lambda x: F.hardtanh(x, -0.2, 0.4),
    "clamp": lambda x: torch.clamp(x, -0.1, 0.3),
    "clamp_min": lambda x: x.clamp(min=-0.1),
    "clamp_max": lambda x: x.clamp_max(0.1),
    "leaky_relu": lambda x: F.leaky_relu(x, 0.2),
    "abs": lambda x: (x - 0.1).abs(),
    "threshold": lambda x: F.threshold(x, 0.1, -0.5),
}
for _name, _function in _ACTIVATIONS.items():
    small(
        _name,
        lambda m, x, function=_function: function(m.conv2(function(m.conv1(x)))),  # type: ignore[misc]
        conv1=conv(3, 6, 3),
        conv2=conv(6, 8, 3),
    )
small(
    "relu6_module_inplace",
    lambda m, x: m.act(10 * m.conv(x)),
    conv=conv(3, 6, 3),
    act=lambda: nn.ReLU6(inplace=True),
)
small(
    "prelu",
    lambda m, x: m.shared(m.conv2(m.per_channel(m.conv1(x)))),
    conv1=conv(3, 6, 3),
    conv2=conv(6, 6, 3),
    per_channel=lambda: _drawn_prelu(6),
    shared=lambda: _drawn_prelu(1),
)


def _drawn_prelu(slopes: int) -> nn.Module:
    layer = nn.PReLU(slopes)
    nn.init.normal_(layer.weight)
    return layer


small(
    "maximum_of_branches",
    lambda m, x: torch.maximum(m.conv1(x), m.conv2(x)),
    conv1=conv(3, 6, 3),
    conv2=conv(3, 6, 3),
)
small(
    "minimum_of_branches",
    lambda m, x: torch.minimum(m.conv1(x), m.conv2(x)),
    conv1=conv(3, 6, 3),
    conv2=conv(3, 6, 3),
)
small(
    "maximum_and_minimum_with_a_constant",
    lambda m, x: torch.minimum(torch.maximum(m.conv(x), m.low), m.high),
    conv=conv(3, 6, 3),
    low=lambda: torch.rand(6, 1, 1) * 0.2 - 0.2,
    high=lambda: torch.rand(1, 14, 14) * 0.2,
)


# Shapes.
def _channel_shuffle(m: Any, x: Tensor) -> Tensor:
    y = F.relu(m.conv1(x))
    rows, channels, height, width = y.shape
    y = y.view(rows, 2, channels // 2, height, width).transpose(1, 2).contiguous()
    return F.relu(m.conv2(y.view(rows, -1, height, width)))


small("channel_shuffle", _channel_shuffle, conv1=conv(3, 8, 3), conv2=conv(8, 4, 3, groups=2))


def _chunk_and_split(m: Any, x: Tensor) -> Tensor:
    left, right = m.conv1(x).chunk(2, 1)
    a, b, c = torch.split(torch.cat([F.relu(left), right], 1), [1, 2, 5], 1)
    return torch.cat([c, F.relu(a), b, left], 1)


small("chunk_and_split", _chunk_and_split, conv1=conv(3, 8, 3))
small(
    "pad_with_a_value",
    lambda m, x: F.relu(m.conv(F.pad(x, (1, 2, 0, 3), value=0.7))),
    conv=conv(3, 6, 3),
)
small(
    "crop_by_negative_padding",
    lambda m, x: F.relu(m.conv(F.pad(x, (-2, 1, -1, -3)))),
    conv=conv(3, 6, 3),
)
small(
    "reflect_and_replicate_padding",
    lambda m, x: m.conv(F.pad(F.pad(x, (2, 1, 1, 2), mode="reflect"), (1,) * 4, mode="replicate")),
    conv=conv(3, 6, 3),
)
small(
    "slices_joined",
    lambda m, x: F.relu(m.conv(torch.cat([x[:, :, ::2], x[:, :, 3:5], x[:, [2, 0, 1], -4:]], 2))),
    conv=conv(3, 6, 3),
)
small(
    "joined_with_a_constant",
    lambda m, x: F.relu(m.conv(torch.cat([x, m.plane.expand(x.shape[0], -1, -1, -1)], 1))),
    conv=conv(5, 6, 3),
    plane=lambda: torch.rand(1, 2, 16, 16),
)
small(
    "flip_and_roll",
    lambda m, x: F.relu(m.conv(x.flip(3) + x.roll(3, 2))),
    conv=conv(3, 6, 3),
)
small("pixel_shuffle", lambda m, x: F.pixel_shuffle(F.relu(m.conv(x)), 2), conv=conv(3, 8, 3))


# Constants.
def _affine_per_channel(m: Any, x: Tensor) -> Tensor:
    planes = [
        torch.unsqueeze(x[:, number], 1) * (std / 0.5) + (mean - 0.5) / 0.5
        for number, (mean, std) in enumerate(((0.485, 0.229), (0.456, 0.224), (0.406, 0.225)))
    ]
    return F.relu(m.conv(torch.cat(planes, 1)))


small("transform_input", _affine_per_channel, conv=conv(3, 6, 3))
small(
    "constants",
    lambda m, x: (
        F.relu(m.conv(((x - m.mean) / m.std * 1.5 + 0.2) / 2 - 0.1)) * m.scale + m.mean[:1]
    ),
    conv=conv(3, 6, 3),
    mean=lambda: torch.rand(3, 1, 1),
    std=lambda: torch.rand(3, 1, 1) + 0.5,
    scale=lambda: torch.randn(6, 1, 1),
)
small(
    "one_minus_x",
    lambda m, x: 0.5 - F.relu(m.conv(1 - x)),
    conv=conv(3, 6, 3),
)
small(
    "negation_and_scaled_sum",
    lambda m, x: torch.add(-F.relu(m.conv1(x)), m.conv2(x), alpha=0.5).sub(m.conv1(x), alpha=2),
    conv1=conv(3, 6, 3),
    conv2=conv(3, 6, 3),
)
small(
    "dropout_in_evaluation_mode",
    lambda m, x: F.dropout(m.drop(F.relu(m.conv(x))), 0.5, training=False),
    conv=conv(3, 6, 3),
    drop=lambda: nn.Dropout2d(0.5),
)


# --- networks that must be refused ---------------------------------------------------------------


class _Wrapped(nn.Module):
    """A small network whose result is changed by a function."""

    def __init__(self, change: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.inner = SMALL_NETWORKS["reused_relu"]()
        self.change = change

    def forward(self, x: Tensor) -> Any:
        return self.change(self.inner(x))


class _Product(nn.Module):
    """Squeeze-and-excite in miniature: two values that depend on the image are multiplied."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, CLASSES, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.conv(x))
        return (y * y.mean((2, 3), keepdim=True)).mean((2, 3))


class _Constant(nn.Module):
    """Its scores do not depend on the image."""

    def __init__(self) -> None:
        super().__init__()
        self.scores = nn.Parameter(torch.arange(float(CLASSES)))

    def forward(self, x: Tensor) -> Tensor:
        return self.scores.expand(x.shape[0], CLASSES)


def _with_nan() -> nn.Module:
    model = SMALL_NETWORKS["reused_relu"]()
    with torch.no_grad():
        model.get_parameter("conv2.weight")[0, 0, 0, 0] = torch.nan
    return model


def _bad(name: str, make: Callable[[], nn.Module], *, training: bool = False) -> None:
    BAD_NETWORKS[name] = lambda: _reproducible(name, make).train(training)


_bad("tuple_output", lambda: _Wrapped(lambda y: (y, y)))
_bad("dict_output", lambda: _Wrapped(lambda y: {"scores": y, "features": y}))
_bad(
    "no_derivative",
    lambda: _Wrapped(lambda y: torch.linalg.svdvals(y[:, :, None] * y[:, None])),
)
_bad("complex_numbers", lambda: _Wrapped(lambda y: torch.fft.rfft(y).abs()))
_bad("output_of_rank_3", lambda: _Wrapped(lambda y: y.unsqueeze(2)))
_bad("output_of_rank_1", lambda: _Wrapped(lambda y: y.sum(1)))
_bad("mixes_the_batch", lambda: _Wrapped(lambda y: y - y.mean(0, keepdim=True)))
_bad("training_mode", SMALL_NETWORKS["batch_norm_after"], training=True)
_bad("dropout_in_training_mode", SMALL_NETWORKS["dropout_in_evaluation_mode"], training=True)
_bad("half_precision", lambda: SMALL_NETWORKS["reused_relu"]().half())
_bad("nan_weight", _with_nan)
_bad("constant_output", _Constant)
