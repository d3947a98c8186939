"""EfficientNet-Lite (Tan & Le 2019, the variant without squeeze-excite and with ReLU6).

Every operator is affine or piecewise linear, so explanations of these networks are exact on a
region. Published weights were trained in TensorFlow, whose "same" padding is uneven for strides.
"""

from __future__ import annotations

import math
import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn


@dataclass(frozen=True)
class Variant:
    """How a network of the family is scaled, and the side of the square images it was made for."""

    width: float
    depth: float
    resolution: int
    dropout: float


VARIANTS = {
    "efficientnet_lite0": Variant(1.0, 1.0, 224, 0.2),
    "efficientnet_lite1": Variant(1.0, 1.1, 240, 0.2),
    "efficientnet_lite2": Variant(1.1, 1.2, 260, 0.3),
}


@dataclass(frozen=True)
class _Stage:
    """Blocks that share kernel size, expansion and width; the first of them has the stride."""

    repeats: int
    kernel: int
    stride: int
    expansion: int
    channels: int


_STAGES = (
    _Stage(1, 3, 1, 1, 16),
    _Stage(2, 3, 2, 6, 24),
    _Stage(2, 5, 2, 6, 40),
    _Stage(3, 3, 2, 6, 80),
    _Stage(3, 5, 1, 6, 112),
    _Stage(4, 5, 2, 6, 192),
    _Stage(1, 3, 1, 6, 320),
)
# The lite family scales neither the stem nor the head.
_STEM_CHANNELS = 32
_HEAD_CHANNELS = 1280


class ConvNorm(nn.Module):
    """Convolution with TensorFlow's "same" padding, batch-norm and, if wanted, ReLU6."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int = 1,
        *,
        groups: int = 1,
        activate: bool = True,
    ) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride
        # With stride 1 and an odd kernel "same" is symmetric, so that the convolution can do it.
        padding = kernel // 2 if stride == 1 else 0
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.01)
        self.activation = nn.ReLU6() if activate else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) → (B, outputs, ⌈H / stride⌉, ⌈W / stride⌉)."""
        if self.stride > 1:
            top, bottom = self._padding(x.shape[2])
            left, right = self._padding(x.shape[3])
            x = F.pad(x, (left, right, top, bottom))
        y: Tensor = self.activation(self.norm(self.conv(x)))
        return y

    def _padding(self, size: int) -> tuple[int, int]:
        """Before and after: what ⌈size / stride⌉ outputs need, the odd one goes after."""
        outputs = -(-size // self.stride)
        total = max((outputs - 1) * self.stride + self.kernel - size, 0)
        return total // 2, total - total // 2


class Block(nn.Module):
    """Inverted residual: expand 1×1, depthwise, project 1×1; the image is added where it fits."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.expand = ConvNorm(inputs, hidden, 1) if expansion > 1 else nn.Identity()
        self.depthwise = ConvNorm(hidden, hidden, kernel, stride, groups=hidden)
        self.project = ConvNorm(hidden, outputs, 1, activate=False)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) → (B, outputs, ⌈H / stride⌉, ⌈W / stride⌉)."""
        y: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + y if self.residual else y


class EfficientNetLite(nn.Module):
    """EfficientNet-Lite classifier: (B, 3, H, W) normalised images → (B, num_classes) scores.

    ``width`` multiplies the channels, ``depth`` the blocks of a stage.
    """

    def __init__(
        self, width: float = 1.0, depth: float = 1.0, dropout: float = 0.2, num_classes: int = 1000
    ) -> None:
        super().__init__()
        self.stem = ConvNorm(3, _STEM_CHANNELS, 3, stride=2)
        channels = _STEM_CHANNELS
        blocks: list[nn.Module] = []
        for stage in _STAGES:
            outputs = _scaled_channels(stage.channels, width)
            scaled = stage not in (_STAGES[0], _STAGES[-1])
            for number in range(math.ceil(stage.repeats * depth) if scaled else stage.repeats):
                stride = stage.stride if number == 0 else 1
                blocks.append(Block(channels, outputs, stage.kernel, stride, stage.expansion))
                channels = outputs
        self.blocks = nn.Sequential(*blocks)
        self.head = ConvNorm(channels, _HEAD_CHANNELS, 1)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(_HEAD_CHANNELS, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Class scores (logits)."""
        x = self.head(self.blocks(self.stem(x)))
        scores: Tensor = self.classifier(self.dropout(x.mean((2, 3))))
        return scores


def efficientnet_lite(name: str, num_classes: int = 1000) -> EfficientNetLite:
    """A network of VARIANTS by name, with freshly drawn weights, in training mode."""
    variant = VARIANTS[name]
    return EfficientNetLite(variant.width, variant.depth, variant.dropout, num_classes)


def _scaled_channels(channels: int, width: float) -> int:
    """Channels × width, rounded to a multiple of 8 and never down by more than 10 %."""
    wanted = channels * width
    rounded = max(8, int(wanted + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * wanted else rounded + 8


# --- names in the published weight files ---------------------------------------------------------

_PUBLISHED_NAMES = {
    "_conv_stem": "stem.conv",
    "_bn0": "stem.norm",
    "_conv_head": "head.conv",
    "_bn1": "head.norm",
    "_fc": "classifier",
}
_PUBLISHED_BLOCK_NAMES = {
    "_expand_conv": "expand.conv",
    "_bn0": "expand.norm",
    "_depthwise_conv": "depthwise.conv",
    "_bn1": "depthwise.norm",
    "_project_conv": "project.conv",
    "_bn2": "project.norm",
}
_PUBLISHED = re.compile(r"(?P<block>_blocks\.(?P<number>\d+)\.)?(?P<layer>_\w+)\.(?P<tensor>\w+)")


def rename_published(weights: Mapping[str, Tensor]) -> OrderedDict[str, Tensor]:
    """The same tensors under this module's names; names that are not published ones stay."""
    return OrderedDict((_renamed(name), tensor) for name, tensor in weights.items())


def _renamed(name: str) -> str:
    match = _PUBLISHED.fullmatch(name)
    if match is None:
        return name
    known = _PUBLISHED_BLOCK_NAMES if match["block"] else _PUBLISHED_NAMES
    if match["layer"] not in known:
        return name
    prefix = f"blocks.{match['number']}." if match["block"] else ""
    return f"{prefix}{known[match['layer']]}.{match['tensor']}"
