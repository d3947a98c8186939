"""Networks for small images (CIFAR size), piecewise linear, with their normalisation inside."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from guidxmage.errors import InputError
from guidxmage.models.python_models import load_python_model
from guidxmage.models.torchvision_import import import_torchvision

# Means and deviations of CIFAR-10's channels, which many photographs share roughly.
_MEAN, _STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def build(name: str, classes: int, *, seed: int = 0, width: float = 1.0) -> nn.Module:
    """A new network for images (B, 3, H, W) in [0, 1], in eval mode: see NETWORKS.

    Or one of your own, as "module:function" or "file.py:function", called without arguments. width
    scales the numbers of channels. Raises InputError for other names, MissingExtraError where
    torchvision is needed. The global random state is left untouched.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if name in NETWORKS:
            return nn.Sequential(_Normalise(), NETWORKS[name](classes, width)).eval()
        if ":" in name:
            return load_python_model(name).model
    raise InputError(
        f"network {name!r} is unknown; choose from {', '.join(NETWORKS)} or give module:function"
    )


class _Normalise(nn.Module):
    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(_MEAN)[:, None, None])
        self.register_buffer("std", torch.tensor(_STD)[:, None, None])

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


def _alexnet(classes: int, width: float) -> nn.Module:
    """AlexNet's five convolutions and overlapping pools at strides for 32 × 32."""
    a, b, c = _scaled(width, 64, 128, 256)
    return nn.Sequential(
        *(nn.Conv2d(3, a, 3, stride=2, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(a, b, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(b, c, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(c, b, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(b, b, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()),
        *(nn.Dropout(0.2), nn.Linear(4 * b, 2 * c), nn.ReLU()),
        *(nn.Dropout(0.2), nn.Linear(2 * c, classes)),
    )


class _Block(nn.Module):
    """Two convolutions and a shortcut, which drops every other pixel and adds empty channels."""

    def __init__(self, into: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(into, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.stride, self.missing = stride, out - into

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x[:, :, :: self.stride, :: self.stride]
        if self.missing:
            shortcut = nn.functional.pad(shortcut, (0, 0, 0, 0, 0, self.missing))
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + shortcut)


def _resnet20(classes: int, width: float) -> nn.Module:
    """He et al. 2016, section 4.2: three stages of three blocks, shortcuts without weights."""
    sizes = _scaled(width, 16, 32, 64)
    layers: list[nn.Module] = [
        nn.Conv2d(3, sizes[0], 3, 1, 1, bias=False),
        nn.BatchNorm2d(sizes[0]),
        nn.ReLU(),
    ]
    into = sizes[0]
    for stage, out in enumerate(sizes):
        for number in range(3):
            layers.append(_Block(into, out, 2 if stage and not number else 1))
            into = out
    network = nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(into, classes)
    )
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
    return network


def _resnet18(classes: int, width: float) -> nn.Module:
    """torchvision's, with a stem that keeps the size, as usual on CIFAR."""
    import_torchvision()
    from torchvision.models.resnet import BasicBlock, ResNet

    if width != 1.0:
        raise InputError("resnet18 has one width; choose resnet20 for a narrower network")
    network: nn.Module = ResNet(BasicBlock, [2, 2, 2, 2], num_classes=classes)
    network.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
    network.maxpool = nn.Identity()
    return network


def _densenet(classes: int, width: float) -> nn.Module:
    """torchvision's DenseNet with growth 12 and three blocks (Huang et al. 2017, for CIFAR)."""
    import_torchvision()
    from torchvision.models.densenet import DenseNet

    (growth,) = _scaled(width, 12)
    network: nn.Module = DenseNet(growth, (4, 4, 4), 2 * growth, bn_size=4, num_classes=classes)
    features = network.get_submodule("features")
    features.conv0 = nn.Conv2d(3, 2 * growth, 3, 2, 1, bias=False)
    features.pool0 = nn.Identity()
    return network


def _scaled(width: float, *channels: int) -> list[int]:
    if not width > 0:
        raise InputError(f"width is {width}; give a factor above 0")
    return [max(1, round(width * count)) for count in channels]


NETWORKS: dict[str, Callable[[int, float], nn.Module]] = {
    "alexnet": _alexnet,
    "resnet20": _resnet20,
    "resnet18": _resnet18,
    "densenet": _densenet,
}
