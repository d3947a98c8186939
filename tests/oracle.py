"""The engine in a hundred lines: PyTorch's export, an interpreter, and autograd.

Along its execution trail a piecewise-linear network is affine in the image X, and linear in X and
its constants c together: biases, shifts, bounds. So Euler's identity splits the score exactly,

    f = ⟨∂f/∂X, X⟩ + Σ ⟨∂f/∂c, c⟩,

once every constant that is added somewhere is a leaf of autograd. It is slow and holds all
intermediate values, but it shares no line with the engine: the tests compare the two.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import Interpreter, Node

aten = torch.ops.aten


class Oracle(Interpreter):
    """Runs an exported network on one image (1, …), with every added constant as a leaf."""

    def __init__(self, model: nn.Module, image: Tensor) -> None:
        exported = torch.export.export(model, (image,), strict=False).run_decompositions({})
        super().__init__(exported.graph_module)
        self._state = (*exported.state_dict.values(), *exported.constants.values())
        self.leaves: list[tuple[str, Tensor]] = []
        self.image = image.clone().requires_grad_()
        given = {**exported.state_dict, **exported.constants}
        signature = exported.graph_signature.input_specs
        self._inputs = [given.get(spec.target, self.image) for spec in signature]

    def scores(self) -> Tensor:
        """Class scores (classes,); autograd knows how they came about."""
        with torch.enable_grad():
            (scores,) = self.run(*self._inputs)
        return scores[0]

    def explain(self, score: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Δ of one score (1, …), and the share of the bias of every operator that adds to it."""
        wanted = [self.image, *(leaf for _, leaf in self.leaves)]
        weights, *slopes = torch.autograd.grad(
            score, wanted, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        shares: dict[str, float] = {}
        for slope, (node, leaf) in zip(slopes, self.leaves, strict=True):
            shares[node] = shares.get(node, 0.0) + (slope * leaf).sum().item()
        return weights, shares

    def leaf(self, constant: Any, like: Tensor) -> Tensor:
        """A constant that autograd is asked about."""
        made = torch.as_tensor(constant, dtype=like.dtype).detach().clone().requires_grad_()
        self.leaves.append((self._node, made))
        return made

    def run_node(self, n: Node) -> Any:
        """One operator; what it adds goes by its name."""
        self._node = n.name
        return super().run_node(n)

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """An operator as it is, but for those that add a constant."""
        own = _WITH_CONSTANTS.get(target)
        if own is not None:
            return own(self, *args, **kwargs)
        if target in _JOINING:  # what is no value of the image stands beside one
            like = next(part for part in _parts(args) if _moves(part))
            args = tuple(self._beside(arg, like) for arg in args)
        return super().call_function(target, args, kwargs)

    def _beside(self, arg: Any, like: Tensor) -> Any:
        if isinstance(arg, list):
            return [self._beside(one, like) for one in arg]
        constant = isinstance(arg, Tensor) and arg.is_floating_point() and not _moves(arg)
        return self.leaf(arg, like) if constant else arg


def _weighted(function: Callable[..., Tensor], dims: int) -> Callable[..., Tensor]:
    """A convolution or linear layer: its bias is added afterwards."""

    def run(o: Oracle, x: Tensor, weight: Tensor, bias: Tensor | None = None, *rest: Any) -> Tensor:
        y = function(x, weight, None, *rest)
        return y if bias is None else y + o.leaf(bias, x).reshape(-1, *[1] * dims)

    return run


def _batch_norm(o: Oracle, x: Tensor, *args: Any) -> tuple[Tensor]:
    gamma, beta, mean, variance, _, eps = args
    scale = (1 if gamma is None else gamma) / (variance + eps).sqrt()
    shift = (0 if beta is None else beta) - mean * scale
    shape = (-1, *[1] * (x.ndim - 2))
    return (x * scale.reshape(shape) + o.leaf(shift, x).reshape(shape),)


def _added(sign: int) -> Callable[..., Tensor]:
    def run(o: Oracle, x: Any, y: Any, *, alpha: float = 1) -> Tensor:
        like = x if _moves(x) else y
        x, y = (part if _moves(part) else o.leaf(part, like) for part in (x, y))
        return x + sign * alpha * y

    return run


def _parts(args: Any) -> list[Any]:
    return [one for arg in args for one in (arg if isinstance(arg, list) else [arg])]


def _moves(part: Any) -> bool:
    return isinstance(part, Tensor) and part.requires_grad and not isinstance(part, nn.Parameter)


def _bounded(o: Oracle, x: Tensor, low: Any = None, high: Any = None) -> Tensor:
    if low is not None:
        x = torch.where(x > low, x, o.leaf(low, x))
    return x if high is None else torch.where(x < high, x, o.leaf(high, x))


def _padded(o: Oracle, x: Tensor, pad: list[int], *rest: Any) -> Tensor:
    if rest and isinstance(rest[0], str) and rest[0] != "constant":
        return F.pad(x, pad, *rest)
    value = rest[-1] if rest and not isinstance(rest[-1], str) else None
    frame = F.pad(torch.zeros_like(x), pad, value=1.0)
    return F.pad(x, pad) + frame * o.leaf(value or 0.0, x)


_JOINING = {
    aten.cat.default,
    aten.stack.default,
    aten.maximum.default,
    aten.minimum.default,
    aten.where.self,
    aten.slice_scatter.default,
    aten.select_scatter.default,
}
_WITH_CONSTANTS: dict[Any, Callable[..., Any]] = {
    aten.conv1d.default: _weighted(aten.conv1d.default, 1),
    aten.conv2d.default: _weighted(aten.conv2d.default, 2),
    aten.conv3d.default: _weighted(aten.conv3d.default, 3),
    aten.conv2d.padding: _weighted(aten.conv2d.padding, 2),
    aten.linear.default: _weighted(aten.linear.default, 0),
    aten._native_batch_norm_legit_no_training.default: _batch_norm,
    aten.add.Tensor: _added(1),
    aten.sub.Tensor: _added(-1),
    aten.rsub.Scalar: lambda o, x, y, alpha=1: o.leaf(y, x) - alpha * x,
    aten.hardtanh.default: lambda o, x, low=-1.0, high=1.0: _bounded(o, x, low, high),
    aten.relu6.default: lambda o, x: _bounded(o, x, 0.0, 6.0),
    aten.threshold.default: lambda o, x, limit, value: torch.where(x > limit, x, o.leaf(value, x)),
    aten.clamp.default: _bounded,
    aten.clamp_min.default: _bounded,
    aten.clamp_max.default: lambda o, x, high: _bounded(o, x, None, high),
    aten.constant_pad_nd.default: _padded,
    aten.pad.default: _padded,
}
