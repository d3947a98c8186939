"""Operators that a graph has of its own: the same numbers as `explain`, in onnxruntime too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from guidxmage import Explainer, InputError
from guidxmage.engine.trail.gates import CONVENTIONS
from guidxmage.export import explaining, export
from guidxmage.export.formats import traced
from tests.laws import random_like
from tests.test_export import run_onnx, same
from tests.test_gates import NETWORKS

SIZE = (3, 8, 8)
# What every network has.
ASKED = ("logits", "target", "score", "contributions", "weights", "bias", "residual")


class Patches(nn.Module):
    """Patches, layer norm, attention by a module and by hand, GELU, a softmax that pools."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Linear(12, 8), nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8), nn.SiLU())
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = x.reshape(-1, 3, 4, 2, 4, 2).permute(0, 2, 4, 1, 3, 5).reshape(-1, 16, 12)
        x = self.embed(x)
        y = self.norm(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        x = x + (y @ x.transpose(1, 2) / 3).softmax(-1) @ x
        x = x + self.mlp(x)
        return self.head((x * x.softmax(1)).sum(1))


class Applied(nn.Module):
    """A function of the image, and a linear layer."""

    def __init__(self, function: Callable[..., Tensor], features: int) -> None:
        super().__init__()
        self.function, self.head = function, nn.Linear(features, 5)
        self.register_buffer("places", torch.tensor([3, 0, 2, 0]))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.function(self, x).flatten(1))


def masked(m: Any, x: Tensor) -> Tensor:
    """Masks and positions that the image decides."""
    y = x * (x > 0) + torch.where(x < x.mean((2, 3), keepdim=True), -x, x / 2)
    y = y.masked_fill(y > 1.5, 0.5) + torch.floor(4 * x) / 4
    best = y.mean((2, 3)).argmax(1, keepdim=True)[:, :, None, None]
    return y + y.gather(1, best.expand(-1, 3, 8, 8))


def ordered(m: Any, x: Tensor) -> Tensor:
    """Order, rank and pieces, and numbers that are moved."""
    top, _ = x.topk(3, -1)
    y = torch.cat([x.sort(2).values, top, F.hardshrink(x, 0.3), F.softshrink(x, 0.3)], -1)
    y = y[:, :, m.places] + y.repeat(1, 1, 2, 1)[:, :, 5:9]
    return y.clamp(min=y.mean((1, 2, 3), keepdim=True) - 1)


def resampled(m: Any, x: Tensor) -> Tensor:
    """Up and down, in every way that networks for pictures have."""
    ways: list[dict[str, Any]] = [
        {"size": (5, 11), "mode": "bilinear", "align_corners": True},
        {"scale_factor": (1.5, 2), "mode": "bilinear", "align_corners": False},
        {"scale_factor": 2, "mode": "nearest"},
        {"size": (13, 8), "mode": "bicubic", "align_corners": False},
    ]
    return torch.cat([F.interpolate(x, **way).flatten(1) for way in ways], 1)


MODULES: dict[str, Callable[[], nn.Module]] = {
    "transformer": Patches,
    "masks": lambda: Applied(masked, 192),
    "order": lambda: Applied(ordered, 3 * 4 * 27),
    "resampling": lambda: Applied(resampled, 3 * (55 + 192 + 256 + 104)),
}


def asked_of(name: str) -> tuple[str, ...]:
    """A bound on rounding is not followed where the image decides on masks and positions."""
    return ASKED if name in ("masks", "order") else (*ASKED, "bound")


def explainer_of(name: str, gates: str = "secant", dtype: torch.dtype = torch.float64) -> Explainer:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return Explainer(MODULES[name]().to(dtype).eval(), gates=gates)


WAYS = [*((name, "secant") for name in MODULES), ("transformer", "tangent")]


@pytest.mark.parametrize(("name", "gates"), WAYS)
def test_a_graph_of_any_number_of_images(name: str, gates: str) -> None:
    explainer = explainer_of(name, gates)
    for target in ("top1", ("top", 3)):
        module, _ = explaining(explainer, target, shape=SIZE, outputs=asked_of(name))
        rows = 2 if module.program.batched else 1
        graph = traced(module, torch.zeros(rows, *SIZE, dtype=torch.float64)).module()
        for count in (1, 3):
            X = random_like((count, *SIZE), count)
            for images in X.split(count if module.program.batched else 1):
                same(graph(images), explainer.explain(images, target), 1e-12)


@pytest.mark.parametrize("output", ["bound", "trail"])
def test_what_masks_do_not_allow_is_refused(output: str) -> None:
    with pytest.raises(InputError, match=f"leave out {output}"):
        explaining(explainer_of("masks"), shape=SIZE, outputs=(*ASKED, output))


@pytest.mark.parametrize(("name", "gates"), WAYS)
def test_the_same_in_onnxruntime(name: str, gates: str, tmp_path: Path) -> None:
    """In float32: in float64 it lacks erf and resampling."""
    pytest.importorskip("onnxscript")
    explainer = explainer_of(name, gates, torch.float32)
    path = tmp_path / "graph.onnx"
    written = export(explainer, path, target=("top", 2), shape=SIZE, outputs=asked_of(name))
    several = written.metadata["inputs"][0]["shape"][0] == "batch"
    for X in random_like((4, *SIZE), 40).float().split([1, 3] if several else 1):
        same(run_onnx(path, X), explainer.explain(X, ("top", 2)), 1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_networks(name: str) -> None:
    """Attention, windows, squeeze-excite: by either convention what `explain` gives."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = NETWORKS[name]().double().eval()
    X = random_like((3, 3, 32, 32), 3)
    for gates in CONVENTIONS:
        explainer = Explainer(model, gates=gates)
        asked = ("classes", [0, 3])
        module, _ = explaining(explainer, asked, shape=X.shape[1:], outputs=asked_of(name))
        for images in X.split(3 if module.program.batched else 1):
            with torch.no_grad():
                same(module(images), explainer.explain(images, asked), 1e-12)
