"""Sixty-four kinds of models, each small, and what comes of them: docs/kinds.md.

    python benchmarks/kinds.py [--check]

Each is explained on two images of 3 × 12 × 12 together, all classes, in float64. *Jacobian* is the
largest difference between the weights and autograd's gradient, over the largest weight: it is
rounding where the answer holds on a region; where it holds at the input alone, the convention for
smooth operators may set other weights on purpose. The residual is |score − ΣA − b|.
"""

from __future__ import annotations

import argparse
import copy
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from guidxmage import Explainer
from guidxmage.errors import GuidXmageError

PAGE = Path(__file__).parent.parent / "docs" / "kinds.md"
TEXT = """# Kinds of models

<!-- Written by `python benchmarks/kinds.py`; do not edit. -->

{about}

{count}

| kind | outcome | Jacobian | residual |
| --- | --- | ---: | ---: |
{rows}
"""


class Net(nn.Module):
    """A trunk, a head, and a forward pass that is a function of both and the images."""

    def __init__(self, forward: Callable[[Any, Tensor], Any], **modules: nn.Module) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        self.head = nn.Linear(6, 4)
        self.register_buffer("flag", torch.ones((), dtype=torch.bool))
        self.register_buffer("mask", torch.arange(36).reshape(6, 6) % 3 > 0)
        self.register_buffer("codes", torch.linspace(-1, 1, 30).reshape(5, 6))
        for name, module in modules.items():
            self.add_module(name, module)
        self.how = forward

    def forward(self, x: Tensor) -> Any:
        return self.how(self, x)

    def plain(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(self.trunk(x).mean((2, 3)))
        return found


def net(forward: Callable[[Any, Tensor], Any], **modules: nn.Module) -> nn.Module:
    return Net(forward, **modules).double().eval()


def sequential(*layers: nn.Module) -> nn.Module:
    own = [nn.Conv2d(3, 6, 3, padding=1), *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*own, nn.Linear(6, 4)).double().eval()


def plain() -> nn.Module:
    return net(lambda s, x: s.plain(x))


class KeywordOnly(Net):
    def forward(self, *, images: Tensor) -> Any:
        return self.plain(images)


class Straight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ARG004
        return x.relu() * 2

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:  # noqa: ARG004
        return g


def unpooled(s: Any, x: Tensor) -> Tensor:
    y, index = F.max_pool2d(s.trunk(x), 2, return_indices=True)
    found: Tensor = s.head(F.max_unpool2d(y, index, 2).mean((2, 3)))
    return found


def in_place(s: Any, x: Tensor) -> Tensor:
    y = s.trunk(x)
    y[:, :2] = 0.5
    y += 1
    found: Tensor = s.head(y.mean((2, 3)))
    return found


def tokens(s: Any, x: Tensor) -> Tensor:
    found: Tensor = s.trunk(x).flatten(2).transpose(1, 2)
    return found


def crops(s: Any, x: Tensor) -> Tensor:
    both = s.plain(torch.cat([x[..., :10], x[..., 2:]]))
    return (both[: len(x)] + both[len(x) :]) / 2


def with_nan() -> nn.Module:
    model = plain()
    model.head.weight.data[0, 0] = torch.nan  # type: ignore[union-attr, operator]
    return model


def hooked() -> nn.Module:
    model = plain()
    model.trunk.register_forward_hook(lambda *given: given[2] * 2)  # type: ignore[union-attr]
    return model


def exported() -> nn.Module:
    many = {0: torch.export.Dim("images", min=1, max=64)}
    found: nn.Module = torch.export.export(plain(), (images(),), dynamic_shapes=(many,)).module()
    return found


ENCODER = {"d_model": 6, "nhead": 2, "dim_feedforward": 12, "batch_first": True}
KINDS: dict[str, Callable[[], Any]] = {
    "plain CNN": plain,
    "batch-norm": lambda: sequential(nn.BatchNorm2d(6), nn.ReLU()),
    "group norm": lambda: sequential(nn.GroupNorm(2, 6), nn.ReLU()),
    "instance norm": lambda: sequential(nn.InstanceNorm2d(6), nn.ReLU()),
    "instance norm with running statistics": lambda: sequential(
        nn.InstanceNorm2d(6, track_running_stats=True), nn.ReLU()
    ),
    "local response norm": lambda: sequential(nn.ReLU(), nn.LocalResponseNorm(3)),
    "PReLU": lambda: sequential(nn.PReLU(6)),
    "leaky ReLU in place": lambda: sequential(nn.LeakyReLU(0.1, inplace=True)),
    "ReLU6": lambda: sequential(nn.ReLU6()),
    "Hardswish": lambda: sequential(nn.Hardswish()),
    "SiLU": lambda: sequential(nn.SiLU()),
    "GELU": lambda: sequential(nn.GELU()),
    "Hardshrink": lambda: sequential(nn.Hardshrink(0.2)),
    "Softshrink": lambda: sequential(nn.Softshrink(0.2)),
    "Maxout": lambda: net(lambda s, x: s.head(torch.max(s.trunk(x), -s.trunk(x)).mean((2, 3)))),
    "GLU": lambda: net(lambda s, x: s.head(F.glu(s.trunk(x).repeat(1, 2, 1, 1), 1).mean((2, 3)))),
    "squeeze and excite": lambda: net(
        lambda s, x: s.head(
            (s.trunk(x) * s.se(s.trunk(x).mean((2, 3)))[:, :, None, None]).mean((2, 3))
        ),
        se=nn.Sequential(nn.Linear(6, 3), nn.ReLU(), nn.Linear(3, 6), nn.Sigmoid()),
    ),
    "blur pool": lambda: net(
        lambda s, x: s.head(F.avg_pool2d(F.pad(s.trunk(x), [1] * 4, "reflect"), 3, 2).mean((2, 3)))
    ),
    "LP pool": lambda: sequential(nn.ReLU(), nn.LPPool2d(2, 2)),
    "max-unpool": lambda: net(unpooled),
    "pixel shuffle": lambda: net(
        lambda s, x: s.head(F.pixel_unshuffle(F.pixel_shuffle(s.trunk(x)[:, :4], 2), 2)
                            .repeat(1, 2, 1, 1)[:, :6].mean((2, 3)))
    ),
    "upsampling, bicubic": lambda: net(
        lambda s, x: s.head(F.interpolate(s.trunk(x), scale_factor=2, mode="bicubic").mean((2, 3)))
    ),
    "generalised-mean pooling": lambda: net(
        lambda s, x: s.head((s.trunk(x) + 0.1).pow(3).mean((2, 3)).pow(1 / 3))
    ),
    "statistics pooling": lambda: net(lambda s, x: s.head(s.trunk(x).std((2, 3)))),
    "top-k pooling": lambda: net(lambda s, x: s.head(s.trunk(x).flatten(2).topk(5)[0].mean(2))),
    "median pooling": lambda: net(lambda s, x: s.head(s.trunk(x).flatten(2).median(2).values)),
    "sorting": lambda: net(lambda s, x: s.head(s.trunk(x).flatten(2).sort(2).values[..., 20:35:3]
                                               .sum(2))),
    "attention": lambda: net(
        lambda s, x: s.head(s.mha(tokens(s, x), tokens(s, x), tokens(s, x))[0].mean(1)),
        mha=nn.MultiheadAttention(6, 2, batch_first=True),
    ),
    "transformer": lambda: net(
        lambda s, x: s.head(s.layer(tokens(s, x)).mean(1)),
        layer=nn.TransformerEncoderLayer(**ENCODER),  # type: ignore[arg-type]
    ),
    "multi-query attention": lambda: net(
        lambda s, x: s.head(F.scaled_dot_product_attention(
            tokens(s, x)[:, None].repeat(1, 2, 1, 1), tokens(s, x)[:, None], tokens(s, x)[:, None]
        ).mean((1, 2)))
    ),
    "linear attention": lambda: net(
        lambda s, x: s.head((tokens(s, x) @ (tokens(s, x).mT @ tokens(s, x))).mean(1))
    ),
    "RNN of ReLUs": lambda: net(
        lambda s, x: s.head(s.rnn(tokens(s, x))[0][:, -1]),
        rnn=nn.RNN(6, 6, nonlinearity="relu", batch_first=True),
    ),
    "LSTM": lambda: net(
        lambda s, x: s.head(s.rnn(tokens(s, x))[0][:, -1]), rnn=nn.LSTM(6, 6, batch_first=True)
    ),
    "GRU": lambda: net(
        lambda s, x: s.head(s.rnn(tokens(s, x))[0][:, -1]), rnn=nn.GRU(6, 6, batch_first=True)
    ),
    "spatial transformer": lambda: net(
        lambda s, x: s.plain(F.grid_sample(
            x,
            F.affine_grid(s.where(x.mean((2, 3))).view(-1, 2, 3), x.shape, align_corners=False),
            align_corners=False,
        )),
        where=nn.Linear(3, 6),
    ),
    "vector quantisation": lambda: net(
        lambda s, x: s.head(s.codes[torch.cdist(s.trunk(x).mean((2, 3)), s.codes).argmin(1)]
                            + s.trunk(x).mean((2, 3)))
    ),
    "mixture of experts, hard": lambda: net(
        lambda s, x: s.plain(x) * F.one_hot(s.plain(x.flip(3)).argmax(1), 4)
    ),
    "prototypes (distances)": lambda: net(
        lambda s, x: -torch.cdist(s.trunk(x).mean((2, 3)), s.codes)
    ),
    "cosine classifier": lambda: net(
        lambda s, x: F.normalize(s.trunk(x).mean((2, 3)), dim=1) @ F.normalize(s.codes, dim=1).t()
    ),
    "mask computed from the image": lambda: net(
        lambda s, x: s.head((s.trunk(x) * (s.trunk(x) > 0.1)).mean((2, 3)))
    ),
    "where": lambda: net(lambda s, x: s.plain(torch.where(x > 0.5, x, 0.3 * x))),
    "mask kept as buffer": lambda: net(lambda s, x: s.head(s.trunk(x)[:, :, s.mask].mean(2))),
    "flag kept as buffer": lambda: net(lambda s, x: s.plain(x) if s.flag else s.plain(-x)),
    "branch on the image": lambda: net(
        lambda s, x: s.plain(x) if x.mean() > 0 else s.plain(-x)
    ),
    "written in place": lambda: net(in_place),
    "input written in place": lambda: net(lambda s, x: s.plain(x.sub_(0.5).div_(0.2))),
    "binarised weights": lambda: net(
        lambda s, x: F.linear(s.trunk(x).mean((2, 3)), s.head.weight.sign(), s.head.bias)
    ),
    "quantised activations (straight through)": lambda: net(
        lambda s, x: s.plain(x + (torch.round(x * 15) / 15 - x).detach())
    ),
    "flips in one batch (TTA)": lambda: net(
        lambda s, x: s.plain(torch.cat([x, x.flip(3)])).unflatten(0, (2, -1)).mean(0)
    ),
    "crops in one batch": lambda: net(crops),
    "gradient checkpoints": lambda: net(
        lambda s, x: s.head(checkpoint(s.trunk, x, use_reentrant=False).mean((2, 3)))
    ),
    "weight norm": lambda: net(
        lambda s, x: s.plain(s.wn(x)), wn=parametrizations.weight_norm(nn.Conv2d(3, 3, 3))
    ),
    "spectral norm": lambda: net(
        lambda s, x: s.plain(s.sn(x)), sn=parametrizations.spectral_norm(nn.Conv2d(3, 3, 3))
    ),
    "forward hook": hooked,
    "own autograd function": lambda: net(lambda s, x: s.plain(Straight.apply(x))),
    "DataParallel": lambda: nn.DataParallel(plain()),
    "torch.compile": lambda: torch.compile(plain()),
    "torch.export": exported,
    "a dictionary of outputs": lambda: net(lambda s, x: {"logits": s.plain(x)}),
    "TorchScript": lambda: torch.jit.trace(plain(), images()),
    "keyword-only forward": lambda: KeywordOnly(lambda s, x: s.plain(x)).double().eval(),
    "random noise": lambda: net(lambda s, x: s.plain(x + 0.1 * torch.randn_like(x))),
    "Fourier layer": lambda: net(lambda s, x: s.plain(torch.fft.fft2(x).abs())),
    "weights that are not numbers": with_nan,
}  # fmt: skip


def images() -> Tensor:
    return torch.rand(2, 3, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def outcome(make: Callable[[], Any]) -> tuple[str, str, str]:
    """What comes of a kind: exactness or refusal, distance from the Jacobian, residual."""
    torch.manual_seed(0)
    try:
        model = make()
        explanation = Explainer(model).explain(images(), target="all")
    except GuidXmageError as error:
        return f"refused: {error}", "", ""
    twin, X = copy.deepcopy(model) if isinstance(model, Net) else model, images()
    dense = torch.stack([
        torch.autograd.functional.jacobian(
            lambda z, n=n: twin(torch.cat([X[:n], z[None], X[n + 1 :]]))[n], X[n].clone()
        )
        for n in range(len(X))
    ])  # fmt: skip
    off = float((explanation.weights - dense).abs().max() / dense.abs().max())
    residual = float(explanation.residual.abs().max())
    return str(explanation.exactness), f"{off:.0e}", f"{residual:.0e}"


def page() -> str:
    """The whole page."""
    found = {name: outcome(make) for name, make in KINDS.items()}
    explained = [one for one in found.values() if one[1]]
    count = (
        f"**{len(explained)} of {len(found)} kinds explained, "
        f"{sum(one[0] == 'on region' for one in explained)} on their region; the others are "
        "refused in a sentence.**"
    )
    rows = "\n".join(
        f"| {name} | {' | '.join(one.replace('|', '/') for one in cells)} |"
        for name, cells in found.items()
    )
    assert __doc__ is not None
    about = __doc__.partition("\n\n")[2].partition("\n\n")[2].strip()
    return TEXT.format(about=about, count=count, rows=rows)


def main() -> int:
    """Write the page; with --check only tell whether outcomes are those of the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    made = page()
    if not parser.parse_args().check:
        PAGE.write_text(made, encoding="utf-8")
        return 0
    mine, theirs = (outcomes(text) for text in (made, PAGE.read_text(encoding="utf-8")))
    for name in mine:
        if mine[name] != theirs.get(name):
            print(f"{name}: {mine[name]}, not {theirs.get(name)}")
    return int(mine != theirs)


def outcomes(text: str) -> dict[str, str]:
    """What a page says of each kind."""
    cells = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return {line[0]: line[1] for line in cells}


if __name__ == "__main__":
    sys.exit(main())
