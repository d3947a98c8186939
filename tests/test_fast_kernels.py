"""What is computed in another order for speed equals the plain way: float32 kernels, rewrites."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st
from torch import Tensor, nn

from guidxmage.engine.calls import constants
from guidxmage.engine.calls.call import Call, Frame, Ref
from guidxmage.engine.capture.capture import capture
from guidxmage.engine.kernels import loops
from guidxmage.engine.kernels.bits import pack_bits, unpack_bits, unpack_channels_last
from guidxmage.engine.kernels.reductions import sums_where
from guidxmage.engine.program.watch import PositionMaps
from guidxmage.engine.rules import convolution, matrices
from guidxmage.engine.rules.convolution import Geometry
from tests.laws import captured, check_all, close, random_like
from tests.test_laws import batch_norm, conv, properties

pair = st.tuples(st.integers(1, 4), st.integers(1, 4))


def close32(a: Tensor, b: Tensor) -> None:
    assert a.shape == b.shape
    close(a.double(), b.double(), 1e-5)


@given(
    kernel=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    stride=st.sampled_from([(1, 1), (2, 2), (4, 4), (1, 2)]),
    padding=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    dilation=st.integers(1, 2),
    channels=st.sampled_from([(3, 8, 1), (1, 5, 1), (6, 4, 1), (6, 4, 2), (5, 5, 5), (3, 9, 3)]),
    size=st.tuples(st.integers(7, 15), st.integers(7, 15)),
)
@example((1, 1), (1, 2), (0, 0), 1, (6, 4, 1), (8, 9))
@properties
def test_transposed_convolutions(kernel, stride, padding, dilation, channels, size) -> None:
    inputs, outputs, groups = channels
    sides = list(zip(size, padding, kernel, strict=True))
    assume(all(n + 2 * p > dilation * (k - 1) for n, p, k in sides))
    weight = random_like((outputs, inputs // groups, *kernel), 1).float()
    x = random_like((2, inputs, *size), 2).float()
    out = nn.functional.conv2d(x, weight, None, stride, padding, dilation, groups).shape
    geometry = Geometry(
        weight, x.shape[1:], out[1:], list(stride), list(padding), [dilation] * 2, groups
    )
    g = random_like(tuple(out), 3).float()
    close32(convolution.transposed(geometry)(g), convolution.backward(geometry)(g))


@pytest.mark.parametrize(
    ("kernel", "stride", "channels", "way"),
    [(3, 1, 8, "packed"), (1, 2, 8, "pointwise"), (7, 2, 3, "subpixel"), (3, 2, 8, "strided")],
)
def test_every_way_is_taken(kernel: int, stride: int, channels: int, way: str) -> None:
    if not convolution.can_pack(torch.empty(1)):
        pytest.skip("this build of PyTorch has no packed convolutions")
    x = torch.randn(1, channels, 14, 14, generator=torch.Generator().manual_seed(0))
    weight = torch.randn(4, channels, kernel, kernel, generator=torch.Generator().manual_seed(1))
    out = nn.functional.conv2d(x, weight, None, stride).shape
    found = convolution.transposed(
        Geometry(weight, x.shape[1:], out[1:], [stride] * 2, [0, 0], [1, 1], 1)
    )
    assert found.__qualname__.startswith(way)


@given(rows=st.integers(1, 4), inputs=st.integers(1, 30), seed=st.integers(0, 99))
@properties
def test_sums_of_rows(rows: int, inputs: int, seed: int) -> None:
    weight = random_like((20, inputs), seed).float()
    g = random_like((rows, 20), seed + 1).float()
    g = g * (random_like((rows, 20), seed + 2) > 0.7)
    close32(matrices.sum_of_rows(g, weight), g @ weight)


def test_a_large_layer_reads_only_the_rows_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loops, "compiled", lambda: None)
    taken: list[int] = []
    plain = matrices.sum_of_rows
    monkeypatch.setattr(matrices, "sum_of_rows", lambda g, w: (taken.append(1), plain(g, w))[1])
    layer = nn.Linear(2048, 600).requires_grad_(False)
    frame: object = None
    hole = torch.empty(2, 2048)
    sparse = torch.zeros(2, 600)
    sparse[0, 5], sparse[1, 7] = 2.0, -1.0
    close32(matrices.linear_pull(frame, sparse, hole, layer.weight)[0], sparse @ layer.weight)
    assert taken
    dense = torch.ones(2, 600)
    close32(matrices.linear_pull(frame, dense, hole, layer.weight)[0], dense @ layer.weight)
    assert len(taken) == 1


@given(channels=st.integers(1, 5), size=pair, images=st.integers(1, 3), seed=st.integers(0, 50))
@properties
def test_bits_spread_channels_last(channels, size, images, seed) -> None:
    shape = (channels, *size)
    packed = pack_bits(random_like((images, *shape), seed) > 0)
    spread = unpack_channels_last(packed, shape)
    assert torch.equal(spread, unpack_bits(packed, shape))
    assert spread.is_contiguous(memory_format=torch.channels_last)


@given(
    dtype=st.sampled_from([torch.float32, torch.float64]),
    channels=st.integers(1, 5),
    size=pair,
    images=st.integers(1, 3),
    targets=st.integers(1, 3),
    layout=st.sampled_from([torch.contiguous_format, torch.channels_last]),
    owned=st.booleans(),
    seed=st.integers(0, 50),
)
@properties
def test_gates_are_products(dtype, channels, size, images, targets, layout, owned, seed) -> None:
    """On one thread, where NumPy multiplies, and on two, where PyTorch does."""
    g = random_like((targets * images, channels, *size), seed).to(dtype)
    g = g.contiguous(memory_format=layout)
    bits = (random_like((images, channels, *size), seed + 1) > 0).to(torch.uint8)
    call = Call(1, "aten.relu.default", torch.relu, (Ref(0),), "relu", tuple(g.shape))
    for threads in (1, 2):
        frame = Frame(call, len(g), tuple(g.shape), {})
        own = g.clone(memory_format=torch.preserve_format)
        with on_threads(threads):
            gated = frame.gate(own, bits, overwrite=owned)
        assert torch.equal(gated, g * bits.repeat(targets, 1, 1, 1))
        assert torch.equal(own, gated if owned else g)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("clamp", [nn.ReLU6(), nn.Hardtanh(0, 1.5), nn.Hardtanh(-1, 2)])
@pytest.mark.parametrize("targets", [1, 2])
@pytest.mark.parametrize("compiled", [True, False])
def test_the_share_of_an_upper_bound(
    dtype: torch.dtype,
    clamp: nn.Module,
    targets: int,
    compiled: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is summed from the bits, or where both bounds add something from a dense constant."""
    if not compiled:
        monkeypatch.setattr(loops, "compiled", lambda: None)
    module = nn.Sequential(conv(2, 3, 5, 3), clamp, conv(2, 5, 4, 2), nn.Flatten()).to(dtype)
    x = 4 * random_like((2, 3, 8, 8), 1).to(dtype)
    program = capture(module.eval(), (3, 8, 8))
    recording = program.record(x)
    u = random_like((targets * 2, recording.logits.shape[1]), 2).to(dtype)
    seen: dict[str, Tensor] = {}
    pulled = program.pull(
        recording.trail, u, visit=lambda call, g: seen.update({call.site: g.clone()})
    )
    (site,) = recording.trail
    with torch.no_grad():
        z = module[0](x)
    low, high = (0, 6) if isinstance(clamp, nn.ReLU6) else (clamp.min_val, clamp.max_val)
    added = (high * (z >= high) + low * (z <= low)).double().repeat(targets, 1, 1, 1)
    expected = (seen[site].double() * added).flatten(1).sum(1)
    assert torch.allclose(pulled.bias_by_site[site], expected, rtol=1e-5, atol=1e-5)
    maps = program.pull(recording.trail, u, watch=PositionMaps()).watched[site]
    assert torch.allclose(maps.flatten(1).sum(1), expected, rtol=1e-5, atol=1e-5)


@given(
    dtype=st.sampled_from([torch.float32, torch.float64]),
    channels=st.integers(1, 9),
    size=pair,
    images=st.integers(1, 3),
    targets=st.integers(1, 3),
    layout=st.sampled_from([torch.contiguous_format, torch.channels_last]),
    above=st.sampled_from([0.5, 1.5, 9]),
    seed=st.integers(0, 50),
)
@properties
def test_picked_sums(dtype, channels, size, images, targets, layout, above, seed) -> None:
    g = random_like((targets * images, channels, *size), seed).to(dtype)
    bits = random_like((images, channels, *size), seed + 1) > above
    summed = sums_where(g.contiguous(memory_format=layout), pack_bits(bits))
    expected = (g.double() * bits.repeat(targets, 1, 1, 1)).flatten(1).sum(1)
    assert torch.allclose(summed, expected, rtol=1e-12, atol=1e-12)


def test_few_values_are_picked_and_many_multiplied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loops, "compiled", lambda: None)
    picked: list[int] = []
    plain = constants.sums_where
    monkeypatch.setattr(
        constants, "sums_where", lambda g, bits: (picked.append(len(g)), plain(g, bits))[1]
    )
    module = nn.Sequential(nn.ReLU6(), nn.Flatten())
    program = capture(module.eval(), (1, 16, 16))
    for rows, expected in ((2, 1), (9, 0)):  # of 16 rows, two bytes each
        picked.clear()
        x = torch.ones(1, 1, 16, 16)
        x[:, :, :rows] = 7.0
        trail = program.record(x).trail
        added = program.pull(trail, torch.ones(1, 256)).bias_by_site["0"]
        assert float(added) == 6 * int((x > 6).sum())
        assert len(picked) == expected


@contextmanager
def on_threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# --- rewrites of the symbolic program ------------------------------------------------------------


class Dense(nn.Module):
    """A densely connected block: every layer reads all values before it."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(nn.ReLU(), conv(2, 3 * (n + 1), 3, 3, padding=1)) for n in range(layers)
        )

    def forward(self, x: Tensor) -> Tensor:
        values = [x]
        for layer in self.layers:
            values.append(layer(torch.cat(values, 1)))
        return torch.cat(values, 1)


def check_rewritten(module: nn.Module, x: Tensor) -> tuple[list[str], list[str]]:
    """The rewritten program pulls what the recorded one does; returns the operators of both."""
    program, recording = captured(module, x)
    plain = replace(program, symbolic_calls=program.calls)
    u = random_like(tuple(recording.logits.shape), 7)
    rewritten, original = (p.pull(recording.trail, u) for p in (program, plain))
    close(rewritten.weights, original.weights)
    assert list(rewritten.bias_by_site) == list(original.bias_by_site)
    for site, value in rewritten.bias_by_site.items():
        assert torch.allclose(value, original.bias_by_site[site], rtol=1e-10, atol=1e-12)
    return [c.op for c in program.symbolic_calls], [c.op for c in program.calls]


@given(
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    stride=st.sampled_from([(1, 1), (2, 2), (3, 3), (1, 2)]),
    padding=st.integers(0, 2),
    dilation=st.integers(1, 2),
    channels=st.sampled_from([(3, 8, 1), (6, 4, 1), (6, 4, 2), (5, 5, 5)]),
    pad=st.lists(st.integers(0, 3), min_size=4, max_size=4),
    size=st.tuples(st.integers(6, 12), st.integers(6, 12)),
)
@properties
def test_zeros_around_are_sent_nothing(
    kernel, stride, padding, dilation, channels, pad, size
) -> None:
    inputs, outputs, groups = channels
    x = random_like((2, inputs, *size), 2).float()
    whole = nn.functional.pad(x, pad)
    assume(all(n > dilation * (k - 1) for n, k in zip(whole.shape[2:], kernel, strict=True)))
    weight = random_like((outputs, inputs // groups, *kernel), 1).float()
    args = (list(stride), [padding] * 2, [dilation] * 2)
    out = nn.functional.conv2d(whole, weight, None, *args, groups).shape
    geometry = Geometry(weight, whole.shape[1:], out[1:], *args, groups)
    g = random_like(tuple(out), 3).float()
    left, _, top, _ = pad
    expected = convolution.backward(geometry)(g)
    expected = expected[:, :, top : top + size[0], left : left + size[1]]
    close32(convolution.cropped(geometry, pad)(g), expected)


@pytest.mark.parametrize(("value", "merged"), [(0, True), (0.5, False)])
def test_zeros_are_merged_into_the_convolution(value: float, merged: bool) -> None:
    for stride, groups in ((1, 1), (2, 1), (2, 3)):
        pad = nn.ConstantPad2d((0, 1, 2, 1), value)
        after = conv(2, 3, 3, 3, stride=stride, groups=groups)
        module = nn.Sequential(nn.ReLU(), pad, after, batch_norm(), nn.ReLU())
        rewritten, _ = check_rewritten(module, random_like((2, 3, 6, 6), 1))
        assert (convolution.PADDED in rewritten) == merged
        check_all(module, random_like((2, 3, 6, 6), 2))


@pytest.mark.parametrize("groups", [1, 3])
def test_a_scale_moves_past_the_relu(groups: int) -> None:
    norm, relu, after = batch_norm(), nn.ReLU(), conv(2, 3, 6, 3, groups=groups)
    module = nn.Sequential(nn.ReLU(), norm, relu, after)
    rewritten, original = check_rewritten(module, random_like((2, 3, 6, 6), 1))
    assert "aten._native_batch_norm_legit_no_training.default" in original
    assert "aten._native_batch_norm_legit_no_training.default" not in rewritten
    check_all(module, random_like((2, 3, 6, 6), 2))


def test_a_scale_of_zero_stays() -> None:
    norm = batch_norm()
    norm.weight.data[1] = 0
    module = nn.Sequential(nn.ReLU(), norm, nn.ReLU(), conv(2, 3, 2, 3))
    rewritten, _ = check_rewritten(module, random_like((2, 3, 6, 6), 1))
    assert "aten._native_batch_norm_legit_no_training.default" in rewritten


def test_concatenations_are_chained() -> None:
    module, x = Dense(4), random_like((2, 3, 5, 5), 3)
    check_rewritten(module, x)
    program, _ = captured(module, x)
    parts = [len(c.args[0]) for c in program.symbolic_calls if c.op == "aten.cat.default"]
    assert parts == [1, 2, 2, 2, 2]
    check_all(module, x)


@pytest.mark.parametrize("compiled", [True, False])
def test_every_site_has_its_own_share(compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not compiled:
        monkeypatch.setattr(loops, "compiled", lambda: None)
    first, last = nn.Conv2d(1, 1, 1), nn.Linear(4, 1)
    for tensor, numbers in (
        (first.weight, [2]), (first.bias, [3]), (last.weight, [1, 10, 100, 1000]), (last.bias, [5]),
    ):  # fmt: skip
        tensor.data = torch.tensor(numbers, dtype=torch.float32).reshape(tensor.shape)
    program = capture(nn.Sequential(first, nn.ReLU6(), nn.Flatten(), last).eval(), (1, 2, 2))
    x = torch.tensor([[1.0, 2.0], [1.0, 3.0]])[None, None]  # 5, 7, 5, 9 before the ReLU6
    recording = program.record(x)
    for norms in (None, recording.norms):
        pulled = program.pull(recording.trail, torch.ones(1, 1), norms)
        shares = [(site, share.tolist()) for site, share in pulled.bias_by_site.items()]
        assert shares == [("0", [3 * 101.0]), ("1", [6 * 1010.0]), ("3", [5.0])]
        assert pulled.weights.flatten().tolist() == [2, 0, 200, 0]
