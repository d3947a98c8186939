"""The whole score on the picture: its sums at every depth, and where it lies."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from networks import TORCHVISION_PIECEWISE_LINEAR, imagenet_photos, network
from random_networks import RandomNetwork, images
from torch import Tensor, nn

from guidxmage import Explainer, Explanation, InputError, UnsupportedOperatorError
from guidxmage.attribution.depths import Depth, chosen
from guidxmage.attribution.placement import Placement, smoothed
from guidxmage.engine.kernels import loops


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def made(seed: int, *parts: nn.Module) -> nn.Sequential:
    """A sequence of layers with weights from a seed, in float64."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        for part in parts:
            for inner in part.modules():
                if isinstance(inner, nn.BatchNorm2d):
                    nn.init.normal_(inner.weight)
                    nn.init.normal_(inner.bias)
                    inner.running_mean.normal_()  # type: ignore[union-attr]
                    inner.running_var.uniform_(0.3, 2)  # type: ignore[union-attr]
                elif hasattr(inner, "reset_parameters"):
                    inner.reset_parameters()
    return nn.Sequential(*parts).double().eval()


def check_sums(found: Explanation, relative: float = 1e-10) -> None:
    """Σ whole + unplaced = score, at every depth, and what follows from it."""
    axes = int(found.batched) + int(found.several)
    for one in found.placements:
        total = one.whole.flatten(axes).sum(-1) + one.unplaced
        size = one.whole.flatten(axes).abs().sum(-1) + one.unplaced.abs() + found.score.abs()
        assert one.whole.dtype == torch.float64
        assert bool(((total - found.score.double()).abs() <= relative * size).all()), one.depth
        assert bool((one.residual.abs() <= one.residual_bound).all()), one.depth
        parts = sum(one.unplaced_by_layer.values(), torch.zeros_like(one.unplaced))
        assert torch.allclose(parts, one.unplaced, rtol=1e-12, atol=1e-12)
        if one.depth.site == "input":
            A = found.pixel_contributions().double()
            assert torch.allclose(A + one.placed_bias, one.whole, rtol=0, atol=1e-12)
            left = one.placed_bias.flatten(axes).sum(-1) + one.unplaced
            close = torch.allclose(left, found.bias, rtol=1e-9, atol=relative * float(size.max()))
            assert close, "all of the bias is placed, or said to have no place"


def every_depth(explainer: Explainer, X: Tensor) -> list[str]:
    return [one.site for one in explainer.depths(X)]


# --- the sum -------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), masks=st.booleans(), double=st.booleans())
def test_the_score_is_the_sum_at_every_depth(seed: int, masks: bool, double: bool) -> None:
    dtype = torch.float64 if double else torch.float32
    explainer = Explainer(RandomNetwork(seed, masks=masks).to(dtype))
    X = images(seed, 3, dtype)
    try:
        wanted = every_depth(explainer, X[:1])
        together = explainer.explain(X, ("top", 2), depth=wanted)
    except UnsupportedOperatorError:
        reject()
    small = 1e-10 if double else 1e-4
    check_sums(together, small)
    alone = explainer.explain(X[1], "top1", depth=wanted)
    check_sums(alone, small)
    for one, other in zip(together.placements, alone.placements, strict=True):
        scale = float(other.whole.abs().max()) + 1e-300
        assert float((one.whole[1, 0] - other.whole).abs().max()) <= small * max(scale, 1) * 10


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "mobilenet_v2", "squeezenet1_1"])
def test_networks_of_torchvision(name: str) -> None:
    side = TORCHVISION_PIECEWISE_LINEAR[name]
    explainer = Explainer(network(name, torch.float64))
    X = drawn(1, 2, 3, side, side).abs().clamp(max=1)
    found = explainer.explain(X, ("top", 2), depth="all")
    check_sums(found)
    assert len(found.placements) >= 4
    share = found.unplaced.abs() / found.score.double().abs()
    assert float(share.max()) <= 0.02, "what is behind a global average has no place"


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("compiled", [True, False])
def test_with_and_without_compiled_loops(
    compiled: bool, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not compiled:
        monkeypatch.setattr(loops, "compiled", lambda: None)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        explainer = Explainer(network("mobilenet_v2", torch.float64))
        X = drawn(2, 3, 64, 64)
        found = explainer.explain(X, depth="all")
        check_sums(found)
    finally:
        torch.set_num_threads(before)
    alike = Explainer(network("mobilenet_v2", torch.float64)).explain(X, depth="all")
    for one, other in zip(found.placements, alike.placements, strict=True):
        assert torch.allclose(one.whole, other.whole, rtol=0, atol=1e-12)


def test_layouts_give_the_same_maps() -> None:
    explainer = Explainer(network("mobilenet_v2", torch.float64))
    X = drawn(3, 2, 3, 64, 64)
    plain = explainer.explain(X, depth="all")
    last = explainer.explain(X.contiguous(memory_format=torch.channels_last), depth="all")
    for one, other in zip(plain.placements, last.placements, strict=True):
        assert torch.allclose(one.whole, other.whole, rtol=0, atol=1e-12)


def test_contrasts_and_cotangents_are_linear() -> None:
    explainer = Explainer(network("resnet18", torch.float64))
    X = drawn(4, 3, 64, 64)
    a, b = (explainer.explain(X, t, depth=["input", 16]) for t in (3, 7))
    found = explainer.explain(X, ("contrast", 3, 7), depth=["input", 16])
    check_sums(found)
    for one, left, right in zip(found.placements, a.placements, b.placements, strict=True):
        assert torch.allclose(one.whole, left.whole - right.whole, rtol=0, atol=1e-11)
        assert torch.allclose(one.unplaced, left.unplaced - right.unplaced, rtol=0, atol=1e-11)
    g = drawn(5, 1000)
    check_sums(explainer.explain(X, g, depth="all"))


def test_later_is_the_same_as_at_once() -> None:
    explainer = Explainer(network("resnet18", torch.float64))
    X = drawn(6, 2, 3, 64, 64)
    at_once = explainer.explain(X, ("top", 2), depth=["default", "input"])
    later = explainer.explain(X, ("top", 2))
    for one in at_once.placements:
        other = later.at(one.depth.site)
        assert torch.allclose(one.whole, other.whole, rtol=0, atol=1e-12)
        assert torch.allclose(one.placed_bias, other.placed_bias, rtol=0, atol=1e-12)
    assert later.at().depth.site == "input"
    assert torch.equal(later.whole, later.at("input").whole)
    part = later[1][0]
    assert torch.allclose(part.whole, later.whole[1, 0], rtol=0, atol=1e-12)
    with pytest.raises(InputError, match="without its network"):
        _ = pickle.loads(pickle.dumps(later)).at(2)


# --- its two ends --------------------------------------------------------------------------------


def test_the_last_cut_is_the_signed_class_activation_map() -> None:
    """Gradient times activation of the last feature map, from PyTorch's own autograd."""
    model = network("resnet18", torch.float64)
    X = drawn(7, 1, 3, 64, 64)
    kept: dict[str, Tensor] = {}
    model.layer4.register_forward_hook(lambda m, args, out: kept.update(out=out))
    logits = model(X)
    target = int(logits.argmax())
    (slope,) = torch.autograd.grad(logits[0, target], kept["out"])
    cam = (slope * kept["out"]).sum(1)[0].detach()
    found = Explainer(network("resnet18", torch.float64)).explain(X[0], target, depth="layer4")
    (one,) = found.placements
    assert one.depth.grid == (2, 2)
    spread = cam.repeat_interleave(32, 0).repeat_interleave(32, 1) / 32**2
    assert torch.allclose(one.whole, spread, rtol=0, atol=1e-14)
    assert float(one.placed_bias.abs().max()) == 0
    bias = model.fc.bias[target].double()
    assert torch.allclose(one.unplaced, bias, rtol=0, atol=1e-12)
    assert list(one.unplaced_by_layer) == ["fc"]


def test_bias_terms_are_those_of_fullgrad() -> None:
    """∂f/∂(output of a convolution) · bias, as autograd has it, position by position."""
    model = made(1, nn.Conv2d(3, 5, 3, 1, 1), nn.ReLU(), nn.Conv2d(5, 6, 3, 2, 1), nn.ReLU())
    model = nn.Sequential(*model, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4).double())
    X = drawn(8, 1, 3, 8, 8)
    values, x = [], X
    for layer in model:
        x = layer(x)
        values.append(x)
    slopes = torch.autograd.grad(x[0, 2], [values[0], values[2]])
    terms = [
        (slope * conv.bias[:, None, None]).sum(1)[0].detach()
        for slope, conv in zip(slopes, (model[0], model[2]), strict=True)
    ]
    expected = terms[0] + terms[1].repeat_interleave(2, 0).repeat_interleave(2, 1) / 4
    found = Explainer(model.eval()).explain(X[0], 2, depth=["input", "1", "2"])
    at_input, behind_first, behind_second = found.placements
    assert torch.allclose(at_input.placed_bias, expected, rtol=0, atol=1e-14)
    assert torch.allclose(behind_first.placed_bias, expected - terms[0], rtol=0, atol=1e-14)
    assert float(behind_second.placed_bias.abs().max()) == 0


@pytest.mark.parametrize("cut", range(1, 8))
def test_a_cut_is_the_explanation_of_what_is_behind_it(cut: int) -> None:
    """The activations' part is Δ ⊙ a of the rest of the network, explained by itself."""
    parts = [
        nn.Conv2d(3, 6, 3, 1, 1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 8, 3, 2, 1),
        nn.BatchNorm2d(8),
        nn.ReLU6(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 4, 1),
    ]
    rest = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)]
    model = made(2, *parts, *rest)
    X = drawn(9, 3, 16, 16)
    head, tail = model[:cut], nn.Sequential(*model[cut:])
    with torch.no_grad():
        a = head(X[None])[0]
    behind = Explainer(copy.deepcopy(tail).eval()).explain(a, 1)
    found = Explainer(model).explain(X, 1, depth=str(cut - 1))
    (one,) = found.placements
    own = behind.contributions.sum(0)
    times = 16 // own.shape[0]
    spread = own.repeat_interleave(times, 0).repeat_interleave(times, 1) / times**2
    assert torch.allclose(one.whole - one.placed_bias, spread, rtol=0, atol=1e-12)
    total = one.placed_bias.sum() + one.unplaced
    assert torch.allclose(total, behind.bias, rtol=0, atol=1e-12)


# --- where it lies -------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), rows=st.integers(0, 3), columns=st.integers(0, 3))
def test_a_shifted_image_shifts_the_map(seed: int, rows: int, columns: int) -> None:
    """Circular padding makes the network equivariant to shifts of its stride."""
    around = {"padding": 1, "padding_mode": "circular"}
    model = made(
        seed,
        nn.Conv2d(2, 4, 3, **around),
        nn.ReLU(),
        nn.Conv2d(4, 5, 3, stride=2, **around),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(5, 3),
    )
    X = drawn(seed, 2, 16, 16)
    shift = (4 * rows, 4 * columns)
    explainer = Explainer(model)
    one = explainer.explain(X, 1, depth="all")
    other = explainer.explain(X.roll(shift, (1, 2)), 1, depth="all")
    for left, right in zip(one.placements, other.placements, strict=True):
        assert torch.allclose(left.whole.roll(shift, (0, 1)), right.whole, rtol=0, atol=1e-12)


class Module(nn.Module):
    """Layers by name, and a function of them."""

    def __init__(self, run: Callable[[Any, Tensor], Tensor], **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)
        self.run = run

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


def module(seed: int, run: Callable[[Any, Tensor], Tensor], **parts: nn.Module) -> nn.Module:
    made(seed, *parts.values())
    return Module(run, **parts).double().eval()


def constants_only(run: Callable[[Any, Tensor], Tensor], size: int, **parts: nn.Module) -> Tensor:
    """The map of a network's constants: its whole map for the image 0."""
    own = Module(run, **parts).double().eval()
    found = Explainer(own).explain(torch.zeros(1, size, size).double(), 0, depth="input")
    check_sums(found)
    return found.whole


def pointed(out: int, stride: int = 1, kernel: int = 1, padding: int = 0) -> nn.Conv2d:
    """A convolution that adds 1 everywhere and sees nothing."""
    conv = nn.Conv2d(1, out, kernel, stride, padding)
    nn.init.zeros_(conv.weight)
    nn.init.ones_(conv.bias)
    return conv


def test_a_crop_lies_where_it_was_cut() -> None:
    size = 16
    found = constants_only(
        lambda m, x: m.conv(x)[:, :, 2:10, 5:9].sum((2, 3)), size, conv=pointed(1)
    )
    expected = torch.zeros(size, size).double()
    expected[2:10, 5:9] = 1
    assert torch.allclose(found, expected, rtol=0, atol=1e-12)


def test_padding_beyond_the_picture_counts_at_its_edge() -> None:
    found = constants_only(
        lambda m, x: m.conv(F.pad(x, (2, 2, 2, 2))).sum((2, 3)), 8, conv=pointed(1)
    )
    assert found.sum() == 12 * 12
    inner = found[1:-1, 1:-1]
    assert torch.allclose(inner, torch.ones_like(inner), rtol=0, atol=1e-12)
    assert float(found[0, 3]) == 3
    assert float(found[0, 0]) == 9


@pytest.mark.parametrize("padding", ["torch", "tensorflow"])
def test_strides_cut_the_picture_into_cells(padding: str) -> None:
    """However the windows are padded, a grid of 4 on 16 pixels has cells of 4 pixels."""

    def run(m: Any, x: Tensor) -> Tensor:
        if padding == "tensorflow":
            x = m.second(F.pad(m.first(F.pad(x, (0, 1, 0, 1))), (0, 1, 0, 1)))
        else:
            x = m.second(m.first(x))
        return (x * m.mask).sum((2, 3))

    own = Module(
        run,
        first=nn.Conv2d(1, 1, 3, 2, int(padding == "torch")),
        second=pointed(1, 2, 3, int(padding == "torch")),
    )
    own.register_buffer(
        "mask", torch.zeros(4, 4).index_put((torch.tensor(1), torch.tensor(2)), torch.tensor(1.0))
    )
    found = Explainer(own.double().eval()).explain(
        torch.zeros(1, 16, 16).double(), 0, depth="input"
    )
    expected = torch.zeros(16, 16).double()
    expected[4:8, 8:12] = 1 / 16
    assert torch.allclose(found.placed_bias, expected, rtol=0, atol=1e-12)


def test_windows_without_padding_lie_around_their_centres() -> None:
    """28 pixels, a kernel of 5 and a pool of 2: 12 cells of 2 pixels, from pixel 2 on."""

    def run(m: Any, x: Tensor) -> Tensor:
        return m.second(F.max_pool2d(m.first(x), 2))[:, :, 0, 0]

    own = {"first": nn.Conv2d(1, 1, 5).double(), "second": pointed(1).double()}
    found = Explainer(Module(run, **own).eval()).explain(drawn(1, 1, 28, 28), 0, depth="second")
    (one,) = found.placements
    assert one.depth.grid == (12, 12)
    assert one.depth.stride == pytest.approx(28 / 12, abs=1e-4)
    expected = torch.zeros(28, 28).double()
    expected[2:4, 2:4] = 1 / 4
    assert torch.allclose(one.whole, expected, rtol=0, atol=1e-12)


def test_upsampling_and_transposed_convolutions_make_finer_cells() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        coarse = F.avg_pool2d(x, 4)
        fine = m.third(F.interpolate(m.first(coarse), scale_factor=2)) + m.second(coarse)
        return fine[:, :, 3, 5]

    up = nn.ConvTranspose2d(1, 1, 2, 2)
    nn.init.zeros_(up.weight)
    nn.init.constant_(up.bias, 10.0)
    parts = {"first": pointed(1), "second": up, "third": nn.Conv2d(1, 1, 1)}
    nn.init.ones_(parts["third"].weight)  # type: ignore[arg-type]
    nn.init.constant_(parts["third"].bias, 100.0)  # type: ignore[arg-type]
    found = constants_only(run, 16, **parts)
    expected = torch.zeros(16, 16).double()
    expected[6:8, 10:12] += 110 / 4  # cells of two pixels
    expected[4:8, 8:12] += 1 / 16  # a cell of four
    assert torch.allclose(found, expected, rtol=0, atol=1e-12)


def test_branches_of_different_strides_each_lie_on_their_own_grid() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        fine, coarse = F.relu(m.fine(x)), F.relu(m.coarse(x))
        return m.head(torch.cat([fine.mean((2, 3)), coarse.mean((2, 3))], 1))

    model = module(
        3,
        run,
        fine=nn.Conv2d(2, 3, 3, 2, 1),
        coarse=nn.Conv2d(2, 4, 3, 4, 1),
        head=nn.Linear(7, 3),
    )
    X = drawn(10, 2, 16, 16)
    found = Explainer(model).explain(X, ("top", 2), depth=["input", "fine", "coarse"])
    check_sums(found)
    assert [one.depth.grid for one in found.placements] == [(16, 16), (8, 8), (4, 4)]
    with torch.no_grad():
        values = [F.relu(model.fine(X[None])), F.relu(model.coarse(X[None]))]
    weight = model.head.weight[found.target].double()
    expected = torch.zeros(2, 16, 16).double()
    for value, own, times in zip(values, weight.split([3, 4], 1), (2, 4), strict=True):
        shares = torch.einsum("kc,chw->khw", own, value[0]) / value[0, 0].numel()
        spread = shares.repeat_interleave(times, 1).repeat_interleave(times, 2)
        expected += spread.detach() / times**2
    assert torch.allclose(found.at("coarse").whole, expected, rtol=0, atol=1e-12)


def test_patches_of_a_transformer_lie_where_they_were_cut() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches = nn.Conv2d(3, 8, 4, 4)
            self.register_buffer("token", drawn(11, 1, 1, 8))
            self.register_buffer("places", drawn(12, 1, 17, 8))
            self.mix = nn.Linear(8, 8)
            self.head = nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.patches(x).flatten(2).transpose(1, 2)
            x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.places
            x = x + F.relu(self.mix(x))
            return self.head(x[:, 1:].mean(1) + 0.1 * x[:, 0])

    model = Tokens().double().eval()
    made(4, *list(model.children()))
    X = drawn(13, 3, 16, 16)
    found = Explainer(model).explain(X, 1, depth=["input", "mix"])
    check_sums(found)
    behind = found.at("mix")
    assert behind.depth.grid == (4, 4)
    with torch.no_grad():
        x = model.patches(X[None]).flatten(2).transpose(1, 2)
        x = torch.cat([model.token, x], 1) + model.places
        z = model.mix(x)
        weight = model.head.weight[1]
        shares = ((F.relu(z) + x) @ weight)[0]
    cells = shares[1:].reshape(4, 4) / 16
    expected = cells.repeat_interleave(4, 0).repeat_interleave(4, 1) / 16
    assert torch.allclose(behind.whole, expected, rtol=0, atol=1e-12)
    token = 0.1 * shares[0] + model.head.bias[1]
    assert torch.allclose(behind.unplaced, token, rtol=0, atol=1e-12)


def test_windows_that_are_shifted_and_taken_apart_keep_their_places() -> None:
    """As in Swin: roll, cut into windows, join, roll back; the map is that without it all."""

    def swin(m: Any, x: Tensor) -> Tensor:
        x = m.patches(x).permute(0, 2, 3, 1)
        x = x.roll((-1, -1), (1, 2))
        n = len(x)
        w = x.view(n, 2, 2, 2, 2, 6).permute(0, 1, 3, 2, 4, 5).reshape(n * 4, 4, 6)
        w = F.relu(m.inner(w))
        x = w.view(n, 2, 2, 2, 2, 6).permute(0, 1, 3, 2, 4, 5).reshape(n, 4, 4, 6)
        return m.head(x.roll((1, 1), (1, 2)).mean((1, 2)))

    def plain(m: Any, x: Tensor) -> Tensor:
        x = m.patches(x).permute(0, 2, 3, 1)
        return m.head(F.relu(m.inner(x)).mean((1, 2)))

    parts = {"patches": nn.Conv2d(3, 6, 4, 4), "inner": nn.Linear(6, 6), "head": nn.Linear(6, 3)}
    one, other = module(5, swin, **parts), module(5, plain, **parts)
    X = drawn(14, 2, 3, 16, 16)
    left, right = (Explainer(m).explain(X, 1, depth=["input", "inner"]) for m in (one, other))
    check_sums(left)
    for a, b in zip(left.placements, right.placements, strict=True):
        assert torch.allclose(a.whole, b.whole, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dims", [1, 3])
def test_signals_and_volumes(dims: int) -> None:
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
    pool = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)[dims - 1]
    model = made(6, conv(2, 4, 3, 2, 1), nn.ReLU(), conv(4, 4, 3, 1, 1), nn.ReLU(), pool(1))
    model = nn.Sequential(*model, nn.Flatten(), nn.Linear(4, 3).double()).eval()
    X = drawn(15, 2, 2, *[8] * dims)
    found = Explainer(model).explain(X, ("top", 2), depth="all")
    check_sums(found)
    assert found.whole.shape == (2, 2, *[8] * dims)
    assert found.placements[-1].depth.grid == (4,) * dims
    assert found.placements[-1].smoothed().shape == found.whole.shape


def test_what_mixes_all_positions_has_no_place() -> None:
    model = made(7, nn.Flatten(), nn.Linear(48, 9), nn.ReLU(), nn.Linear(9, 3))
    found = Explainer(model).explain(drawn(16, 3, 4, 4), 0, depth="input")
    check_sums(found)
    assert torch.allclose(found.unplaced, found.bias, rtol=0, atol=1e-12)
    assert set(found.unplaced_by_layer) == {"1", "3"}


def test_values_that_the_trail_keeps() -> None:
    """Masks and positions are constants along a trail, of each image its own."""

    def run(m: Any, x: Tensor) -> Tensor:
        x = m.first(x)
        x = x * (x > 0.1)
        best = x.flatten(2).argmax(2, keepdim=True)
        picked = x.flatten(2).gather(2, best)[..., 0]
        return m.head(x.mean((2, 3)) + picked)

    model = module(8, run, first=nn.Conv2d(2, 4, 3, 1, 1), head=nn.Linear(4, 3))
    X = drawn(17, 3, 2, 6, 6)
    explainer = Explainer(model)
    found = explainer.explain(X, ("top", 2), depth=["input", "first"])
    check_sums(found)
    for row in range(3):
        alone = explainer.explain(X[row], ("top", 2), depth=["input", "first"])
        for one, other in zip(found.placements, alone.placements, strict=True):
            assert torch.allclose(one.whole[row], other.whole, rtol=0, atol=1e-12)


# --- which cut is meant --------------------------------------------------------------------------


def test_depths_are_listed_from_the_image_on() -> None:
    explainer = Explainer(network("resnet18"))
    found = explainer.depths((3, 64, 64))
    assert found[0] == Depth("input", (64, 64), 1.0, round(64 / 14, 4))
    strides = [one.stride for one in found]
    assert strides == sorted(strides)
    assert {32.0, 16.0, 8.0, 4.0, 2.0, 1.0} == set(strides)
    assert str(found[1]) == "conv1: 32×32 cells, stride 2" or found[1].grid == (32, 32)


def test_names_strides_and_words() -> None:
    explainer = Explainer(network("resnet18", torch.float64))
    X = drawn(18, 3, 64, 64)
    found = explainer.explain(X, depth=["layer3", 16, "default", "layer2.0.conv1", 32])
    sites = [one.depth.site for one in found.placements]
    assert sites == ["layer3.1.relu#2", "layer2.0.conv1", "layer4.1.relu#2"]
    check_sums(found)
    inside = found.placements[1]  # two values cross there: the block's and the shortcut's
    assert inside.depth.grid == (8, 8)
    every = explainer.explain(X, depth="all")
    grids = [one.depth.grid[0] for one in every.placements]
    assert grids == [64, 32, 16, 8, 4, 2]


def test_a_batch_norm_that_folding_moves_is_cut_as_it_is() -> None:
    """Batch-norm, ReLU, convolution: the values in between are those of the user's network."""
    parts = [nn.Conv2d(3, 5, 1), nn.MaxPool2d(2), nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, 4, 1)]
    model = made(9, *parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    X = drawn(19, 1, 3, 8, 8)
    values, x = [], X
    for layer in model:
        x = layer(x)
        values.append(x)
    found = Explainer(model).explain(X[0], 1, depth=["2", "3", "input"])
    check_sums(found)
    slopes = torch.autograd.grad(x[0, 1], [values[2], values[3]])
    for one, slope, value in zip(found.placements, slopes, values[2:4], strict=False):
        own = (slope * value).sum(1)[0].detach()
        spread = own.repeat_interleave(2, 0).repeat_interleave(2, 1) / 4
        assert torch.allclose(one.whole - one.placed_bias, spread, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("depth", "words"),
    [
        ("layer9", "a layer called 'layer9'"),
        ("layer44", "did you mean 'layer4'"),
        (5, "no cut of stride 5"),
        (-1, "no cut of stride -1"),
        (float("nan"), "no cut of stride nan"),
        ([], "the list of depths is empty"),
        (True, "not understood"),
        ({"a": 1}, "not understood"),
        (10**400, "no cut of stride inf"),
        (np.array([1, 1]), "not understood"),
        (torch.tensor([1.0, 2.0]), "not understood"),
        ("fc", "nothing lies on the picture any more"),
        ("", "a layer called ''"),
    ],
)
def test_a_depth_that_there_is_not(depth: Any, words: str) -> None:
    explainer = Explainer(network("resnet18"))
    with pytest.raises(InputError, match=words):
        explainer.explain(torch.zeros(3, 64, 64), depth=depth)


def test_what_is_no_picture() -> None:
    model = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3)).eval()
    explainer = Explainer(nn.Sequential(nn.Flatten(), *model).eval())
    with pytest.raises(InputError):
        Explainer(model).explain(torch.zeros(2, 6), depth="input")
    assert [one.site for one in explainer.depths((1, 2, 3))] == ["input", "0"]


def test_the_network_is_left_as_it_was() -> None:
    model = network("resnet18")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = Explainer(model).explain(torch.rand(3, 64, 64), depth="all")
    assert not model.training
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not any(one.whole.requires_grad for one in found.placements)


# --- smoothing, and other spaces -----------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1000),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    sigma=st.floats(0, 60),
)
def test_smoothing_keeps_the_sum(seed: int, height: int, width: int, sigma: float) -> None:
    values = drawn(seed, 2, height, width)
    found = smoothed(values, sigma, 1)
    for own, other in zip(values, found, strict=True):
        assert abs(float(own.sum() - other.sum())) <= 1e-12 * float(own.abs().sum())
    flat = smoothed(torch.ones(height, width).double(), sigma)
    assert torch.allclose(flat, torch.ones_like(flat), rtol=0, atol=1e-12)


@pytest.mark.parametrize("sigma", [-1, float("nan"), float("inf")])
def test_a_smoothing_that_is_none(sigma: float) -> None:
    with pytest.raises(InputError, match="number of pixels"):
        smoothed(torch.ones(3, 3), sigma)


@pytest.mark.parametrize("space", ["pixels", "input", "photo"])
@pytest.mark.parametrize("reference", [None, 0.25])
def test_every_space_has_the_same_sum(space: str, reference: float | None) -> None:
    explainer = Explainer.load("efficientnet_lite0", dtype=torch.float64)
    photo = imagenet_photos()[0][0]
    found = explainer.explain(
        photo, ("top", 2), depth=["input", "default"], space=space, reference=reference
    )
    check_sums(found)
    assert found.whole.shape[1:] == found.contributions.shape[2:]
    later = explainer.explain(photo, ("top", 2), space=space, reference=reference)
    for one in found.placements:
        other = later.at(one.depth.site)
        assert torch.allclose(one.whole, other.whole, rtol=0, atol=1e-11)
        assert torch.allclose(one.placed_bias, other.placed_bias, rtol=0, atol=1e-11)
        assert one.sigma == pytest.approx(other.sigma)


def test_the_whole_map_does_not_depend_on_the_reference() -> None:
    explainer = Explainer(network("resnet18", torch.float64))
    X = drawn(20, 3, 64, 64)
    one, other = (explainer.explain(X, 1, depth="input", reference=r) for r in (None, 0.5))
    assert torch.allclose(one.whole, other.whole, rtol=0, atol=1e-13)
    assert not torch.allclose(one.placed_bias, other.placed_bias, rtol=0, atol=1e-3)


def test_a_photo_that_is_smaller_than_what_is_seen_of_it(tmp_path: Any) -> None:
    """The crop reaches beyond the photo: what lies there counts at its edge."""
    from PIL import Image

    from guidxmage.inputs.photo_map import PhotoMap
    from guidxmage.inputs.preprocessing import Preprocessing

    photo = Image.new("RGB", (20, 12), (200, 30, 90))
    there = PhotoMap.of(Preprocessing(crop=16), photo, torch.float64)
    maps = drawn(21, 2, 16, 16)
    carried = there.shares(maps)
    assert carried.shape == (2, 12, 20)
    assert torch.allclose(carried.sum((1, 2)), maps.sum((1, 2)), rtol=0, atol=1e-12)


# --- files ---------------------------------------------------------------------------------------


def test_saved_and_read_again(tmp_path: Any) -> None:
    explainer = Explainer(network("resnet18"))
    X = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    found = explainer.explain(X, ("top", 2), depth=["default", "input"])
    read = Explanation.load(found.save(tmp_path / "found"))
    assert len(read.placements) == 2
    for one, other in zip(found.placements, read.placements, strict=True):
        assert one.depth == other.depth
        for name in ("whole", "placed_bias", "unplaced", "residual", "residual_bound"):
            assert torch.equal(getattr(one, name), getattr(other, name))
        assert one.unplaced_by_layer.keys() == other.unplaced_by_layer.keys()
    with pytest.raises(InputError, match="without its network"):
        read.at(8)
    again = Explanation.load(tmp_path / "found", explainer)
    check_sums(again, 1e-4)
    assert again.certificate()[0].holds
    assert again.at(8).depth.grid == (8, 8)


def test_a_changed_map_is_noticed() -> None:
    from dataclasses import replace

    explainer = Explainer(network("resnet18"))
    found = explainer.explain(torch.rand(3, 64, 64), depth=["default"])
    assert found.certificate()[0].holds
    (one,) = found.placements

    def changed(**parts: Any) -> Explanation:
        return replace(found, placements=(replace(one, **parts),))

    moved = one.whole.clone()
    moved[0, 0] += 0.01
    moved[5, 5] -= 0.01
    forgeries: list[dict[str, Any]] = [
        {"whole": moved},
        {"placed_bias": moved},
        {"unplaced": one.unplaced + 0.01},
        {"unplaced_by_layer": {k: v + 0.01 for k, v in one.unplaced_by_layer.items()}},
        {"unplaced_by_layer": {}},
        {"residual": one.residual + 0.01},
        {"residual_bound": one.residual_bound * 2},
        {"sigma": 3.0},
        {"depth": replace(one.depth, stride=4.0)},
        {"whole": one.whole * torch.nan},
    ]
    for parts in forgeries:
        certificate = changed(**parts).certificate()[0]
        assert any(reason.startswith("placements") for reason in certificate.reasons), parts


def test_no_depth_of_a_network_of_several_inputs() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(6, 2)

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.head(torch.cat([a, b], 1))

    with pytest.raises(InputError, match="no picture"):
        Explainer(Two().eval()).explain((torch.zeros(1, 3), torch.zeros(1, 3)), depth="input")


def test_cuts_of_a_program_are_found_once() -> None:
    """Nothing that a program keeps refers to it, so that it is freed with the last reference."""
    explainer = Explainer(network("resnet18"))
    program = explainer.network((3, 64, 64)).program
    chosen(program, ["all", "layer2.0.conv1"])
    kept = vars(program)["_prepared"]
    assert "depths" in kept
    assert not any(value is program for value in kept.values())
    assert isinstance(explainer.explain(torch.rand(3, 64, 64), depth=4).at(), Placement)


# --- found by trials -----------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["reflect", "circular", "replicate"])
def test_a_layer_of_several_operators_is_cut_behind_the_last(mode: str) -> None:
    """A convolution that pads in another mode is a pad and a convolution."""
    first = nn.Conv2d(3, 4, 3, padding=1, padding_mode=mode)
    model = made(11, first, nn.ReLU(), nn.Flatten(), nn.Linear(256, 3))
    X = drawn(21, 1, 3, 8, 8)
    a = model[:1](X).detach().requires_grad_()
    (slope,) = torch.autograd.grad(model[1:](a)[0, 1], a)
    found = Explainer(model).explain(X[0], 1, depth="0")
    one = found.at()
    assert one.depth.grid == (8, 8)
    own = (a * slope).sum(1)[0].detach()
    assert torch.allclose(one.whole - one.placed_bias, own, rtol=0, atol=1e-13)
    listed = Explainer(model).depths((3, 8, 8))
    again = Explainer(model).explain(X[0], 1, depth=listed)
    assert [one.depth for one in again.placements] == listed
    check_sums(again)
    assert again.certificate(primes=1)[0].holds


def test_layers_may_be_called_as_depths_are() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.all = nn.Conv2d(3, 4, 3, 2, 1)
            self.input = nn.Conv2d(4, 4, 3, 1, 1)
            self.default = nn.Conv2d(4, 4, 1)
            self.fc = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.default(self.input(self.all(x))).mean((2, 3)))

    explainer = Explainer(Named().double().eval())
    X = drawn(22, 3, 8, 8)
    listed = explainer.depths(X)
    sites = ["input", "all (layer)", "input (layer)", "default (layer)"]
    assert [one.site for one in listed] == sites
    found = explainer.explain(X, 1, depth=listed)
    assert [one.depth for one in found.placements] == listed
    check_sums(found)
    assert found.certificate(primes=1)[0].holds
    named = explainer.explain(X, 1, depth="input (layer)")
    assert torch.equal(named.whole, found.placements[2].whole)
    assert found.at("input").depth.grid == (8, 8)


def test_a_network_that_was_changed_is_noticed() -> None:
    model = network("resnet18", torch.float64)
    explainer = Explainer(model)
    found = explainer.explain(drawn(23, 3, 64, 64), 1)
    with torch.no_grad():
        for parameter in explainer.model.parameters():
            parameter.mul_(1.01)
    with pytest.raises(InputError, match="not as it was"):
        found.at("input")
    explainer.model.float()
    with pytest.raises(InputError, match="not as it was"):
        found.at(16)


def test_a_single_pixel_has_no_places() -> None:
    model = made(12, nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Flatten(), nn.Linear(4, 3))
    explainer = Explainer(model)
    found = explainer.explain(drawn(24, 3, 1, 1), 1)
    for depth in ("input", "all", "default", 1, "0"):
        with pytest.raises(InputError, match="a single pixel"):
            explainer.explain(drawn(24, 3, 1, 1), 1, depth=depth)
        if depth != "all":
            with pytest.raises(InputError, match="a single pixel"):
                found.at(depth)
    table = found.objects(torch.ones(1, 1, dtype=torch.int64).numpy())
    assert table.whole is None  # type: ignore[union-attr]


@pytest.mark.parametrize("depth", [["0", "input"], [], {1}, {"a": 1}, np.array([1.0, 2.0]), "all"])
def test_at_gives_one_depth(depth: Any) -> None:
    found = Explainer(network("resnet18")).explain(torch.rand(3, 64, 64))
    with pytest.raises(InputError, match="one depth"):
        found.at(depth)


@pytest.mark.parametrize("stride", [np.int64(8), np.float32(8), torch.tensor(8), 8.0])
def test_strides_of_other_libraries(stride: Any) -> None:
    found = Explainer(network("resnet18")).explain(torch.rand(3, 64, 64), depth=stride)
    assert found.at().depth.grid == (8, 8)


@pytest.mark.parametrize("sigma", ["a", [1], (1, 1), torch.ones(2), None, True])
def test_a_sigma_that_is_no_number(sigma: Any) -> None:
    with pytest.raises(InputError, match="number of pixels"):
        smoothed(torch.ones(3, 3), sigma)


def test_a_very_wide_gaussian_gives_the_mean() -> None:
    values = drawn(25, 5, 7)
    found = smoothed(values, 1e9)
    assert torch.allclose(found, values.mean().expand(5, 7), rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [31, 32])
def test_windows_that_tile_the_picture_lie_where_they_look(size: int) -> None:
    """Three pools of 2: a unit sees eight pixels, whatever is left over at the end."""

    def run(m: Any, x: Tensor) -> Tensor:
        for _ in range(3):
            x = F.max_pool2d(x, 2)
        return m.add(x)[:, :, 0, 0]

    found = constants_only(run, size, add=pointed(1))
    expected = torch.zeros(size, size).double()
    expected[:8, :8] = 1 / 64
    assert torch.allclose(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "kind",
    {
        "glu": lambda y: F.glu(y, 1),
        "var": lambda y: y.var(1, keepdim=True),
        "norm": lambda y: y.norm(dim=1, keepdim=True),
        "logsumexp": lambda y: y.logsumexp(1),
        "topk": lambda y: y.topk(2, 1).values,
    }.items(),
    ids=lambda kind: kind[0],
)
def test_operators_over_channels_keep_places(kind: tuple[str, Callable[[Tensor], Tensor]]) -> None:
    model = module(
        13, lambda m, x: kind[1](m.first(x)).flatten(1)[:, :16], first=nn.Conv2d(3, 4, 1)
    )
    explainer = Explainer(model)
    found = explainer.explain(drawn(26, 3, 4, 4), 1, depth="input")
    check_sums(found)
    assert float(found.unplaced.abs()) <= 1e-12
    assert explainer.depths((3, 4, 4))[-1].grid == (4, 4)


def test_shuffled_pixels_are_cells_of_their_own() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        fine = F.pixel_shuffle(m.coarse(F.avg_pool2d(x, 4)), 2)
        return m.add(fine)[:, 0, 1, 0][:, None]

    coarse = nn.Conv2d(1, 4, 1, bias=False)
    found = constants_only(run, 8, coarse=coarse, add=pointed(1))
    expected = torch.zeros(8, 8).double()
    expected[2:4, 0:2] = 1 / 4
    assert torch.allclose(found, expected, rtol=0, atol=1e-12)


def test_named_targets_of_single_images_in_chunks() -> None:
    X = drawn(27, 3, 3, 64, 64)
    model = network("resnet18", torch.float64)
    one, other = (
        Explainer(model, batch_rows=rows).explain(X, ["top1", 1, 2], depth="default")
        for rows in (2, 32)
    )
    assert torch.equal(one.target, other.target)
    assert torch.allclose(one.whole, other.whole, rtol=0, atol=1e-12)


def test_a_score_that_no_pixel_moves() -> None:
    """A class of a constant score: all of it is without a place."""

    def run(m: Any, x: Tensor) -> Tensor:
        scores = m.head(F.relu(m.first(x)).mean((2, 3)))
        return torch.cat([scores, scores.new_full((len(x), 1), 2.5)], 1)

    model = module(14, run, first=nn.Conv2d(3, 4, 3, 2, 1), head=nn.Linear(4, 2))
    found = Explainer(model).explain(drawn(28, 2, 3, 8, 8), ("classes", [2, 0]), depth="all")
    check_sums(found)
    for one in found.placements:
        assert float(one.whole[:, 0].abs().max()) == 0
        assert torch.allclose(one.unplaced[:, 0], torch.full((2,), 2.5).double())
