"""Random small piecewise-linear networks, and what must be true of their explanations."""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from guidxmage import Explainer, Explanation, UnsupportedOperatorError

Block = Callable[[Tensor], Tensor]
SIZE = (3, 10, 9)
CLASSES = 4


class RandomNetwork(nn.Module):
    """Blocks drawn from a seed, a head, and now and then several views of the image at once."""

    def __init__(self, seed: int, *, masks: bool = False) -> None:
        super().__init__()
        draw, self.masks = random.Random(seed), masks
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.scale = draw.choice([1.0, 1.0, 1.0, 1e-3, 30.0])
            self.views = draw.choice(["one", "one", "one", "stacked", "beside", "halves"])
            self.blocks: list[Block] = []
            self.cancels = False
            channels = SIZE[0]
            for _ in range(draw.randint(2, 5)):
                channels = self._block(draw, channels)
            self.to_head = draw.choice(["average", "largest", "flat", "mean"])
            self.eval()
            with torch.no_grad():
                features = self._features(torch.zeros(1, *SIZE)).shape[1]
            self.head = self._head(draw, features)
        self.eval()

    def _add(self, module: nn.Module) -> nn.Module:
        self.add_module(f"part{len(self._modules)}", module)
        return module

    def _convolution(self, draw: random.Random, channels: int) -> tuple[nn.Module, int]:
        groups = draw.choice([1, 1, channels])
        out = channels * draw.randint(1, 2) if groups > 1 else draw.randint(2, 6)
        kernel = draw.choice([1, 3, 3, (1, 3), 5])
        padding = draw.choice(["same", 1]) if kernel in (1, 3, 5) else 0
        stride = 1 if padding == "same" else draw.choice([1, 2])
        convolution = nn.Conv2d(
            channels, out, kernel, stride, padding, groups=groups, bias=draw.random() < 0.7
        )
        return self._add(convolution), out

    def _norm(self, channels: int) -> nn.Module:
        norm = nn.BatchNorm2d(channels)
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.1, 2)
        return self._add(norm)

    def _activation(self, draw: random.Random, channels: int) -> Block:
        slope = self._add(nn.PReLU(channels))

        def cancelling(x: Tensor) -> Tensor:
            """0.2 wherever x is larger, but for rounding, which then decides among equals."""
            return x - F.relu(x - 0.2)

        kinds: list[Block] = [
            F.relu,
            lambda x: F.relu_(x + 0.1),
            F.relu6,
            lambda x: F.hardtanh(x, -0.4, 0.7),
            lambda x: F.leaky_relu(x, 0.1),
            slope,
            torch.abs,
            lambda x: x.clamp(-0.5, 0.5),
            lambda x: x.clamp_(min=0.05),
            lambda x: F.threshold(x, 0.2, 0.2),
            lambda x: torch.maximum(x, -0.3 * x.flip(3)),
            lambda x: torch.minimum(x, x.mean((2, 3), keepdim=True)),
            cancelling,
        ]
        kind = draw.choice(_MASKS if self.masks and draw.random() < 0.6 else kinds)
        self.cancels = self.cancels or kind is cancelling
        return kind

    def _block(self, draw: random.Random, channels: int) -> int:
        convolution, out = self._convolution(draw, channels)
        norm = self._norm(out) if draw.random() < 0.5 else None
        activation = self._activation(draw, out)
        pool = draw.choice(_POOLS)
        shape = draw.choice(_SHAPES)
        wide = draw.random() < 0.25
        width = 2 * out if wide else out
        residual = out == channels and draw.random() < 0.6

        def run(x: Tensor) -> Tensor:
            if min(x.shape[2:]) < 5:  # nothing is left to take windows of
                return x if x.shape[1] == width else x[:, :1].expand(-1, width, -1, -1)
            y = convolution(x)
            y = y if norm is None else norm(y)
            y = activation(y)
            if residual and y.shape == x.shape:
                y = y + x
            y = shape(y)
            if wide:
                y = torch.cat([y, y.flip(1) * 0.5], 1)
            return pool(y) if min(y.shape[2:]) >= 4 else y

        self.blocks.append(run)
        return width

    def _features(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        if self.to_head == "average":
            return F.adaptive_avg_pool2d(x, 2).flatten(1)
        if self.to_head == "largest":
            return F.adaptive_max_pool2d(x, 2).flatten(1)
        return x.mean((2, 3)) if self.to_head == "mean" else x.flatten(1)

    @staticmethod
    def _head(draw: random.Random, features: int) -> nn.Module:
        kinds: list[Callable[[], list[nn.Module]]] = [
            lambda: [nn.Linear(features, CLASSES)],
            lambda: [nn.Linear(features, 8), nn.Hardtanh(), nn.Linear(8, CLASSES)],
            lambda: [nn.Linear(features, 8), nn.ReLU(), nn.Dropout(), nn.Linear(8, CLASSES)],
            lambda: [nn.Linear(features, 8), nn.ReLU6(), nn.Linear(8, CLASSES, bias=False)],
            lambda: [nn.Linear(features, 8), nn.Hardsigmoid(), nn.Linear(8, CLASSES)],
        ]
        return nn.Sequential(*draw.choice(kinds)())

    def _scores(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self._features(x))
        return scores

    def forward(self, x: Tensor) -> Tensor:
        x = x * self.scale
        if self.views == "stacked":
            return self._scores(torch.cat([x, x.flip(3)])).view(2, len(x), -1).mean(0)
        if self.views == "beside":
            crops = torch.stack([x[..., :9, :], x[..., 1:, :]], 1)
            padded = F.pad(crops.flatten(0, 1), (0, 0, 0, 1))
            return self._scores(padded).unflatten(0, (len(x), 2)).amax(1)
        if self.views == "halves":
            scores = self._scores(torch.cat([x, x.flip(2)]))
            return scores[: len(x)] - 0.5 * scores[len(x) :]
        return self._scores(x)


def _kept_largest(x: Tensor) -> Tensor:
    """Nothing but the five largest of each channel."""
    flat = x.flatten(2)
    places = flat.topk(min(5, flat.shape[2]), 2).indices
    return torch.zeros_like(flat).scatter(2, places, flat.gather(2, places)).view(x.shape)


def _unpooled(x: Tensor) -> Tensor:
    values, places = F.max_pool2d(x, 2, return_indices=True)
    return F.max_unpool2d(values, places, 2, output_size=x.shape[2:])


def _twice_masked(x: Tensor) -> Tensor:
    mask = (x > -0.2) & (x < x.flip(3).abs() + 0.1)
    mask = mask | ~mask.any(1, keepdim=True)
    return x * mask + 0.3 * mask.to(x.dtype)


# Their masks, places and steps are computed from the image.
_MASKS: list[Block] = [
    lambda x: x * (x > 0.1),
    lambda x: torch.where(x > x.flip(2), x, 0.5 * x + 0.1),
    lambda x: x.masked_fill(x < x.mean((2, 3), keepdim=True), 0.2),
    lambda x: F.hardshrink(x, 0.2),
    lambda x: F.softshrink(x, 0.2),
    lambda x: torch.remainder(x, 0.7),
    lambda x: x.clamp(max=x.flip(3).abs()),
    lambda x: x.sort(3).values,
    lambda x: x * torch.sign(x.flip(2)) + torch.round(x),
    lambda x: x * F.one_hot(x.mean((2, 3)).argmax(1), x.shape[1])[:, :, None, None] + 0.1,
    lambda x: (x * (x > 0)).sum(1, keepdim=True) / (x > 0).sum(1, keepdim=True).clamp(min=1) - x,
    _kept_largest,
    _unpooled,
    _twice_masked,
]


def _overwritten(x: Tensor) -> Tensor:
    y = x.clone()
    y[:, :1] = 0.5 * x[:, -1:]
    y[..., 0] += 0.25
    return y


def _ceiling(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 3, 2, ceil_mode=True)


_POOLS: list[Block] = [
    nn.Identity(),
    nn.Identity(),
    nn.MaxPool2d(2),
    nn.MaxPool2d(3, 2, 1),
    _ceiling,
    nn.AvgPool2d(2),
    nn.AvgPool2d(3, 2, 1, count_include_pad=False),
    nn.Upsample(scale_factor=2, mode="nearest"),
]
_SHAPES: list[Block] = [
    lambda x: x,
    lambda x: x,
    lambda x: F.pad(x, (1, 0, 0, 2), value=0.3),
    lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"),
    lambda x: x.transpose(2, 3),
    lambda x: x.roll(1, 3),
    lambda x: x - x.mean(1, keepdim=True),
    _overwritten,
    lambda x: x[..., :-1] if x.shape[3] > 4 else x,
]


def images(seed: int, count: int, dtype: torch.dtype) -> Tensor:
    """Images in about [−1, 1]."""
    generator = torch.Generator().manual_seed(seed + 10_000)
    return torch.randn(count, *SIZE, dtype=dtype, generator=generator)


def check(seed: int, dtype: torch.dtype, *, masks: bool = False) -> Explanation:
    """Every claim on one network; the explanation of its first image and class. AssertionError."""
    model, X = RandomNetwork(seed, masks=masks).to(dtype), images(seed, 3, dtype)
    explainer = Explainer(model)
    together = explainer.explain(X, target="all")
    with torch.no_grad():
        own = model(X.clone())
    size = own.abs().amax(1, keepdim=True) + together.contributions.abs().flatten(2).sum(2)
    size = size.double() + together.bias.abs()
    eps = torch.finfo(dtype).eps
    assert float((together.logits - own).abs().max()) <= 64 * eps * float(size.max()), "score"
    assert bool((together.residual.abs() <= together.residual_bound).all()), "bound"
    assert bool((together.residual.abs() <= 1e6 * eps * size).all()), "completeness"
    shares = torch.stack(list(together.bias_by_layer.values())).sum(0)
    assert bool(((shares - together.bias).abs() <= 1e-9 * size).all()), "shares of the bias"
    assert together.exactness == "on region"
    if dtype == torch.float64:
        _check_weights(model, X, together)
        _check_replay(together, size, follows=not model.cancels and not masks)
    _check_alone(explainer, X, together, 1e5 * eps)
    return together[0][0]


def _check_weights(model: nn.Module, X: Tensor, together: Explanation) -> None:
    # PyTorch's own derivative of hardsigmoid has the digits of float32.
    rough = any(isinstance(module, nn.Hardsigmoid) for module in model.modules())
    for n, image in enumerate(X):
        leaf = image[None].clone().requires_grad_()
        scores = model(leaf)[0]
        for k, score in enumerate(scores):
            (gradient,) = torch.autograd.grad(score, leaf, retain_graph=True)
            apart = (together.weights[n, k] - gradient[0]).abs().max()
            assert float(apart) <= (1e-7 if rough else 1e-10) * max(
                float(gradient.abs().max()), 1e-12
            ), "weights"


def _check_replay(together: Explanation, size: Tensor, *, follows: bool) -> None:
    """Inside the region, right up to its border, the model is the network.

    follows: whether decisions are not of rounding, which may fall otherwise on the next image. A
    mask that does so jumps: then nothing is said of that image.
    """
    model = together.symbolic_model
    direction = torch.randn(model.weights[:, 0].shape, dtype=torch.float64)
    try:
        steps = model.step_length(direction)
        jumps = False
    except UnsupportedOperatorError:  # how far a mask stays the same is not known
        jumps = True
        lengths = torch.full((len(direction),), 1e-9, dtype=torch.float64)
    else:
        assert isinstance(steps, tuple)
        lengths = torch.tensor([min(step.length, 1.0) for step in steps]).double()
    Z = together.input + 0.9 * lengths[:, None, None, None] * direction
    replay = model.replay(Z)
    assert bool(replay.follows.all()) or not follows, "does not follow before the end of the region"
    same = (replay.score - replay.network_score).abs() <= 1e-9 * size
    apart = ~replay.follows if jumps else torch.zeros_like(replay.follows)
    assert bool((same | apart.reshape(len(same), -1)).all()), "replay"


def _check_alone(explainer: Explainer, X: Tensor, together: Explanation, small: float) -> None:
    """One image, one class: the same; in either memory layout."""
    for n, image in enumerate(X):
        k = n % CLASSES
        same = bool(explainer.trail(image).same(together.trail.image(n)).all())
        if not same:  # in float32 the batch may decide an ambiguous case otherwise
            assert X.dtype == torch.float32
            continue
        laid_out = image[None].contiguous(memory_format=torch.channels_last)[0]
        for given in (image, laid_out):
            alone = explainer.explain(given, target=k)
            if not bool(alone.trail.same(together.trail.image(n)).all()):
                continue
            scale = float(together.weights[n, k].abs().max()) + 1e-12
            apart = float((alone.weights - together.weights[n, k]).abs().max())
            assert apart <= small * scale, "weights alone and together"
            size = abs(float(together.bias[n, k])) + abs(float(together.score[n, k]))
            size += float(together.contributions[n, k].abs().sum())
            assert abs(float(alone.bias) - float(together.bias[n, k])) <= small * size, "bias alone"
            assert float(alone.residual.abs()) <= float(alone.residual_bound), "bound alone"


def random_network(seed: int, dtype: torch.dtype) -> tuple[nn.Module, Tensor]:
    """A network and one image (C, H, W) for it."""
    return RandomNetwork(seed).to(dtype), images(seed, 1, dtype)[0]
