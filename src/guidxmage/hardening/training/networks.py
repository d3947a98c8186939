"""Piecewise-linear networks for 32×32 RGB images, by name, and networks of the user's own."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from guidxmage.errors import InputError
from guidxmage.models.python_models import call_factory
from guidxmage.models.torchvision_import import import_torchvision

# Mean and standard deviation of the channels of CIFAR-10's training images.
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


class Normalise(nn.Module):
    """Subtract a mean and divide by a standard deviation, channel by channel, (B, C, H, W)."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if len(mean) != len(std) or not mean or not all(value > 0 for value in std):
            raise InputError(
                "the normalisation needs one mean and one positive standard deviation per channel"
            )
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """The images as the network behind it expects them."""
        return (x - self.mean) / self.std


def names() -> list[str]:
    """The names `build` knows; "module:function" is taken too."""
    return list(_BUILDERS)


def build(
    name: str,
    classes: int,
    *,
    width: float = 1.0,
    seed: int,
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
) -> nn.Module:
    """A network from images (B, 3, 32, 32) in [0, 1] to scores (B, classes), with random weights.

    The normalisation (mean, std) is its first layer. `width` multiplies the numbers of channels.
    "module:function" or "file.py:function" calls the user's own function with the number of
    classes; its network normalises by itself and has no width. The seed decides the weights, and
    the global random state stays as it is. Raises InputError for an unknown name, a network whose
    width is fixed, or an unusable function; MissingExtraError where torchvision is needed.
    """
    if classes < 2:
        raise InputError(f"a classifier needs at least 2 classes, not {classes}")
    if not 0 < width < float("inf"):
        raise InputError(f"the width is a positive factor, not {width}")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        if ":" in name:
            return _own(name, classes, width)
        if name not in _BUILDERS:
            raise InputError(
                f"there is no network {name!r}; choose one of {', '.join(_BUILDERS)}, "
                "or name your own as 'module:function'"
            )
        normalise = Normalise(mean, std)
        body = _BUILDERS[name](classes, width)
        return nn.Sequential(OrderedDict(normalise=normalise, body=body))


def file_name(name: str) -> str:
    """A network's name as a part of file names."""
    return name.replace(":", "-").replace("/", "-")


def _own(spec: str, classes: int, width: float) -> nn.Module:
    _refuse_width(spec, width)
    made = call_factory(spec, classes)
    if not isinstance(made, nn.Module):
        raise InputError(f"{spec} returned a {type(made).__name__} where an nn.Module is expected")
    return made


def _refuse_width(name: str, width: float) -> None:
    if width != 1:
        raise InputError(f"{name} has no width to choose; leave the width at 1")


def _channels(count: int, width: float) -> int:
    return max(1, round(count * width))


# --- AlexNet -------------------------------------------------------------------------------------


def _alexnet(classes: int, width: float) -> nn.Module:
    """AlexNet's five convolutions and three overlapping max-pools, with small first kernels."""
    c1, c2, c3, c4, hidden = (_channels(count, width) for count in (64, 192, 384, 256, 1024))

    def pool() -> nn.Module:
        return nn.MaxPool2d(3, stride=2)

    layers: list[nn.Module] = [
        *_rectified(3, c1, 5), pool(),
        *_rectified(c1, c2, 5), pool(),
        *_rectified(c2, c3, 3), *_rectified(c3, c4, 3), *_rectified(c4, c4, 3), pool(),
        nn.Flatten(),
        nn.Dropout(), nn.Linear(c4 * 9, hidden), nn.ReLU(),
        nn.Dropout(), nn.Linear(hidden, hidden), nn.ReLU(),
        nn.Linear(hidden, classes),
    ]  # fmt: skip
    return _initialised(nn.Sequential(*layers))


def _rectified(inputs: int, outputs: int, kernel: int) -> tuple[nn.Module, nn.Module]:
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2), nn.ReLU()


def _initialised(network: nn.Module) -> nn.Module:
    """He et al.'s initialisation, without which convolutions without batch-norm hardly start."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return network


# --- VGG -----------------------------------------------------------------------------------------


def _vgg8(classes: int, width: float) -> nn.Module:
    """The first three stages of configuration B of Simonyan & Zisserman 2015, and two linears."""
    layers: list[nn.Module] = []
    inputs = 3
    for count in (64, 128, 256):
        outputs = _channels(count, width)
        layers += [*_rectified(inputs, outputs, 3), *_rectified(outputs, outputs, 3)]
        layers.append(nn.MaxPool2d(2))
        inputs = outputs
    hidden = _channels(1024, width)
    layers += [nn.Flatten(), nn.Dropout(), nn.Linear(inputs * 16, hidden), nn.ReLU()]
    return _initialised(nn.Sequential(*layers, nn.Dropout(), nn.Linear(hidden, classes)))


# --- ResNet --------------------------------------------------------------------------------------


class _Block(nn.Module):
    """Two convolutions and a shortcut without parameters (option A of He et al. 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Sequential(*_normed(inputs, outputs, stride), nn.ReLU())
        self.second = nn.Sequential(*_normed(outputs, outputs, 1))
        self.stride, self.extra = stride, outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        if self.stride > 1:
            shortcut = shortcut[:, :, :: self.stride, :: self.stride]
        if self.extra:
            before = self.extra // 2
            shortcut = nn.functional.pad(shortcut, (0, 0, 0, 0, before, self.extra - before))
        both: Tensor = self.second(self.first(x)) + shortcut
        return nn.functional.relu(both)


def _normed(inputs: int, outputs: int, stride: int) -> tuple[nn.Module, nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
    return convolution, nn.BatchNorm2d(outputs)


def _cifar_resnet(blocks: int, classes: int, width: float) -> nn.Module:
    """The ResNet of section 4.2 of He et al. 2016, 6·blocks + 2 layers deep."""
    widths = [_channels(count, width) for count in (16, 32, 64)]
    layers: list[nn.Module] = [*_normed(3, widths[0], 1), nn.ReLU()]
    inputs = widths[0]
    for stage, outputs in enumerate(widths):
        for block in range(blocks):
            layers.append(_Block(inputs, outputs, 2 if stage and not block else 1))
            inputs = outputs
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes)]
    return _initialised(nn.Sequential(*layers))


def _resnet18(classes: int, width: float) -> nn.Module:
    """torchvision's ResNet-18 with the usual start for small images: 3×3, stride 1, no pool."""
    _refuse_width("resnet18", width)
    network: nn.Module = import_torchvision().models.resnet18(weights=None, num_classes=classes)
    network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    network.maxpool = nn.Identity()
    return network


# --- DenseNet ------------------------------------------------------------------------------------


def _densenet(layers: int, classes: int, width: float) -> nn.Module:
    """DenseNet-BC, growth 12: torchvision's class with a start for small images."""
    growth = _channels(12, width)
    network: nn.Module = import_torchvision().models.DenseNet(
        growth_rate=growth,
        block_config=(layers,) * 3,
        num_init_features=2 * growth,
        num_classes=classes,
    )
    features = network.features
    assert isinstance(features, nn.Sequential)
    start = nn.Conv2d(3, 2 * growth, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(start.weight)
    features.conv0 = start
    for absent in ("norm0", "relu0", "pool0"):
        delattr(features, absent)
    return network


OF_ONE_WIDTH = frozenset({"resnet18"})
"""Names of networks whose numbers of channels are fixed."""
_BUILDERS: dict[str, Callable[[int, float], nn.Module]] = {
    "alexnet": _alexnet,
    "vgg8": _vgg8,
    "resnet20": partial(_cifar_resnet, 3),
    "resnet18": _resnet18,
    "densenet22": partial(_densenet, 3),
    "densenet40": partial(_densenet, 6),
}
