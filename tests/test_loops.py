"""Compiled loops do what the operations on whole arrays do."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn

from guidxmage import Explainer
from guidxmage.engine.kernels import bits, loops, reductions
from guidxmage.engine.kernels.bits import pack_bits
from guidxmage.engine.kernels.compiled import machine_code
from guidxmage.engine.rules.pooling import strided_windows
from tests.laws import random_like
from tests.test_fast_kernels import on_threads
from tests.test_laws import properties

numba = pytest.importorskip("numba")
pair = st.tuples(st.integers(1, 5), st.integers(1, 5))
dtypes = st.sampled_from([torch.float32, torch.float64])
layouts = st.sampled_from([torch.contiguous_format, torch.channels_last])


@pytest.fixture(scope="module", autouse=True, params=[1, 2, 3])
def _threads(request: pytest.FixtureRequest) -> Iterator[None]:
    """Loops on several threads share the work however little it is."""
    with on_threads(request.param), pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine_code, "_WORTH_WAKING", 1)
        yield


@contextmanager
def whole_arrays() -> Iterator[None]:
    """Without the compiled loops."""
    compiled = loops.compiled
    loops.compiled = lambda: None  # type: ignore[assignment]
    try:
        yield
    finally:
        loops.compiled = compiled


@given(
    dtype=dtypes,
    images=st.integers(1, 3),
    count=st.sampled_from([1, 7, 8, 9, 64, 4095, 4096, 4097, 9001]),
    limit=st.sampled_from([0, 0.1, -1, 6]),
    seed=st.integers(0, 50),
)
@properties
def test_packing(dtype, images, count, limit, seed) -> None:
    values = 4 * random_like((images, count), seed).to(dtype)
    special = torch.tensor([limit, float("nan"), float("inf"), -float("inf"), -0.0, 0.1])
    values[:, : min(count, 6)] = special[:count].to(dtype)
    for closed in (False, True):
        packed = loops.pack_above(values, limit, closed=closed)
        assert packed is not None
        assert torch.equal(packed, pack_bits(values >= limit if closed else values > limit))
    inside, above = loops.pack_interval(values, limit, limit + 1) or (None, None)
    assert torch.equal(inside, pack_bits((values > limit) & (values < limit + 1)))
    assert torch.equal(above, pack_bits(values >= limit + 1))


@given(
    dtype=dtypes,
    images=st.integers(1, 3),
    count=st.sampled_from([1, 9, 4096, 9001]),
    high=st.sampled_from([None, 1.5]),
    seed=st.integers(0, 50),
)
@properties
def test_values_are_clamped_while_packed(dtype, images, count, high, seed) -> None:
    values = 4 * random_like((images, count), seed).to(dtype)
    own = values.clone()
    found = loops.decide(own, 0, high, clamp=True)
    assert found is not None
    assert torch.equal(own, values.clamp(0, high))
    planes = [pack_bits(values > 0)]
    if high is not None:
        planes = [pack_bits((values > 0) & (values < high)), pack_bits(values >= high)]
    assert all(torch.equal(a, b) for a, b in zip(found, planes, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [3, 17, 5003])
def test_clamping_is_that_of_pytorch_to_the_bit(dtype: torch.dtype, count: int) -> None:
    """Not a number stays so, and zero keeps its sign."""
    values = 4 * random_like((3, count), 1).to(dtype)
    values[0, ::2], values[1, ::3], values[2, -1] = -0.0, float("nan"), float("inf")
    whole = {torch.float32: torch.int32, torch.float64: torch.int64}[dtype]
    for high, plain in ((None, torch.relu(values)), (1.5, nn.functional.hardtanh(values, 0, 1.5))):
        own = values.clone()
        assert loops.decide(own, 0, high, clamp=True)
        assert torch.equal(own.view(whole), plain.view(whole))


@given(
    dtype=dtypes,
    channels=st.integers(1, 9),
    size=pair,
    images=st.integers(1, 3),
    targets=st.integers(1, 3),
    layout=layouts,
    above=st.sampled_from([-9, 0, 1.5]),
    seed=st.integers(0, 50),
)
@properties
def test_gates_and_sums(dtype, channels, size, images, targets, layout, above, seed) -> None:
    g = random_like((targets * images, channels, *size), seed).to(dtype)
    g = g.contiguous(memory_format=layout)
    decided = random_like((images, channels, *size), seed + 1) > above
    chosen = decided.repeat(targets, 1, 1, 1)
    packed, own = pack_bits(decided), g.clone(memory_format=torch.preserve_format)
    summed = loops.sums_where(g, packed)
    assert loops.gate(own, packed)
    both = loops.sums_and_norms(g)
    assert torch.equal(own, torch.where(chosen, g, 0))
    expected = torch.where(chosen, g, 0).double().flatten(1).sum(1)
    assert summed is not None
    assert torch.allclose(summed, expected, rtol=1e-12, atol=1e-12)
    if not g.is_contiguous(memory_format=torch.channels_last):
        assert both is None
        return
    assert both is not None
    small = {torch.float32: 1e-5, torch.float64: 1e-13}[dtype]
    assert torch.allclose(both[0], g.double().sum((2, 3)), rtol=small, atol=small)
    assert torch.allclose(both[1], g.double().flatten(1).norm(dim=1), rtol=small)


@given(
    parts=st.tuples(st.integers(0, 3), st.integers(1, 9), st.integers(0, 3)),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    rows=st.integers(1, 3),
    seed=st.integers(0, 50),
)
@properties
def test_channels_are_measured_where_they_lie(parts, size, rows, seed) -> None:
    before, channels, _ = parts
    whole = random_like((rows, sum(parts), *size), seed)
    whole = whole.contiguous(memory_format=torch.channels_last)
    g = whole[:, before : before + channels]
    found = loops.sums_and_norms(g)
    if found is not None:
        assert torch.allclose(found[0], g.sum((2, 3)), rtol=1e-12, atol=1e-12)
        assert torch.allclose(found[1], g.flatten(1).norm(dim=1), rtol=1e-12)
    # Rows of one position or column may be said to lie in any way.
    assert found is not None or min(size) == 1 or rows == 1
    assert loops.sums_and_norms(whole[:, :, 1:]) is None or min(size) == 1 or rows == 1


@given(
    dtype=dtypes,
    plane=st.tuples(st.integers(2, 10), st.integers(2, 10)),
    kernel=pair.map(lambda sides: tuple(min(side, 4) for side in sides)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.integers(0, 1),
    dilation=st.integers(1, 2),
    ceil_mode=st.booleans(),
    channels=st.integers(1, 9),
    rows=st.sampled_from([(1, 1), (2, 1), (2, 3)]),
    seed=st.integers(0, 50),
)
@properties
def test_maxima(
    dtype, plane, kernel, stride, padding, dilation, ceil_mode, channels, rows, seed
) -> None:
    """Where they are taken, packed; and what flows back to there.

    In a plane that is narrower than the window two of its positions have the same distance.
    """
    images, targets = rows
    x = random_like((images, channels, *plane), seed).to(dtype)
    padding = min(padding, min(kernel) // 2)
    args = (kernel, stride, padding, dilation, ceil_mode)
    reach = [dilation * (side - 1) + 1 for side in kernel]
    assume(all(n + 2 * padding >= r for n, r in zip(plane, reach, strict=True)))
    value, taken = torch.ops.aten.max_pool2d_with_indices(x, *args)
    windows = strided_windows(x.shape[2:], value.shape[2:], args)
    decided = windows.decisions(taken)
    with whole_arrays():
        plain = windows.decisions(taken)
    assert (decided.kind, decided.shape) == (plain.kind, plain.shape)
    assert all(torch.equal(a, b) for a, b in zip(decided.planes, plain.planes, strict=True))
    g = random_like((targets * images, *value.shape[1:]), seed + 1).to(dtype)
    last = torch.channels_last
    out = torch.zeros(len(g), *x.shape[1:], dtype=dtype).contiguous(memory_format=last)
    at = windows.base, windows.offsets
    assert loops.add_at_maxima(g.contiguous(memory_format=last), decided.planes, at, out)
    expected = torch.zeros(len(g), channels, plane[0] * plane[1], dtype=dtype)
    expected.scatter_add_(2, taken.repeat(targets, 1, 1, 1).flatten(2), g.flatten(2))
    small = {torch.float32: 1e-5, torch.float64: 1e-13}[dtype]
    assert torch.allclose(out.flatten(2), expected, rtol=small, atol=small)


@given(
    dtype=dtypes,
    at_zero=st.sampled_from([0, 0.5]),
    shape=st.sampled_from([(1, 1), (3, 7), (2, 5, 9)]),
    seed=st.integers(0, 50),
)
@properties
def test_secants(dtype, at_zero, shape, seed) -> None:
    x = random_like(shape, seed).to(dtype)
    x.view(-1)[::3] = torch.tensor([0.0, -0.0, 1e-30, float("inf")], dtype=dtype)[seed % 4]
    value, near = x.sigmoid() - 0.5 + at_zero, 1e-6
    found = loops.secants(x, value, at_zero, near, 0.25)
    assert found is not None
    expected = torch.where(x.abs() > near, (value - at_zero) / x, 0.25)
    assert torch.equal(found, expected)
    turned = x.transpose(0, -1)
    if not turned.is_contiguous():
        assert loops.secants(turned, value.transpose(0, -1), at_zero, near, 0.25) is None


def test_few_bits_are_looked_for() -> None:
    """Where bits are rare only those are visited, in the other order of the memory."""
    g = random_like((2, 9, 6, 7), 1).contiguous(memory_format=torch.channels_last)
    decided = torch.zeros(1, 9, 6, 7, dtype=torch.bool)
    decided[0, 4, 2, 3] = decided[0, 8, 5, 6] = True
    summed = loops.sums_where(g, pack_bits(decided))
    assert summed is not None
    assert torch.allclose(summed, g[:, 4, 2, 3] + g[:, 8, 5, 6], rtol=1e-12)


def test_long_rows_are_cut_into_blocks() -> None:
    """More numbers than a block of decisions holds, in every loop that has blocks."""
    g = random_like((2, 3, 75, 75), 1)
    decided = random_like((1, 3, 75, 75), 2) > 0
    expected = torch.where(decided, g, 0)
    own = g.clone()
    assert loops.gate(own, pack_bits(decided))
    assert torch.equal(own, expected)
    summed = loops.sums_where(g, pack_bits(decided))
    assert summed is not None
    assert torch.allclose(summed, expected.double().flatten(1).sum(1), rtol=1e-12)


@given(
    dtype=dtypes,
    rows=st.integers(1, 3),
    shape=st.sampled_from([(1, 1), (5, 3), (9, 2048), (30, 4100)]),
    share=st.sampled_from([0, 0.3, 1]),
    seed=st.integers(0, 50),
)
@properties
def test_rows_of_a_weight(dtype, rows, shape, share, seed) -> None:
    weight = nn.Parameter(random_like(shape, seed).to(dtype), requires_grad=False)
    g = random_like((rows, shape[0]), seed + 1).to(dtype)
    g = torch.where(torch.rand(g.shape) < share, g, 0)
    summed = loops.sum_of_rows(g, weight)
    assert summed is not None
    small = {torch.float32: 1e-4, torch.float64: 1e-12}[dtype]
    assert torch.allclose(summed, g @ weight, rtol=small, atol=small)


class _Network(nn.Module):
    """All decisions that loops have a part in, a sum of two, channels and positions of any size."""

    def __init__(self) -> None:
        super().__init__()
        norm = nn.BatchNorm2d(12)
        nn.init.uniform_(norm.running_mean, -1, 1)
        nn.init.uniform_(norm.running_var, 0.5, 2)
        self.first = nn.Sequential(nn.Conv2d(3, 12, 3), norm, nn.ReLU6())
        self.second = nn.Sequential(nn.Conv2d(12, 12, 3, padding=1, groups=4), nn.ReLU())
        self.third = nn.Sequential(nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 4, 1))
        self.last = nn.Sequential(
            nn.MaxPool2d(3, 2), nn.Flatten(), nn.Linear(16 * 49, 2048), nn.ReLU(),
            nn.Linear(2048, 600),
        )  # fmt: skip
        nn.init.uniform_(self.third[0].bias, -1, 1)

    def forward(self, x: Tensor) -> Tensor:
        found = self.first(4 * x)
        found = torch.relu(self.second[0](found) + self.second(found) - 0.3 * found)
        result: Tensor = self.last(torch.cat([found, self.third(found)], 1))
        return result


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("target", ["top1", "top3"])
def test_an_explanation_is_the_same(dtype: torch.dtype, images: int, target: str) -> None:
    torch.manual_seed(0)
    network = _Network().to(dtype).eval()
    images_ = random_like((images, 3, 17, 17), 1).to(dtype)
    explainer = Explainer(network)
    ours = explainer.explain(images_, target)
    with whole_arrays():
        plain = explainer.explain(images_, target)
    assert bool(ours.trail.same(plain.trail).all())
    assert torch.equal(ours.logits, plain.logits)
    small = {torch.float32: 1e-5, torch.float64: 1e-13}[dtype]
    scale = float(plain.weights.abs().max())
    assert torch.allclose(ours.weights, plain.weights, rtol=0, atol=small * scale)
    assert torch.allclose(ours.bias, plain.bias, rtol=small, atol=small)
    assert torch.allclose(ours.residual_bound, plain.residual_bound, rtol=1e-4)
    assert bool((ours.residual.abs() <= ours.residual_bound).all())
    for site, share in plain.bias_by_layer.items():
        assert torch.allclose(ours.bias_by_layer[site], share, rtol=small, atol=small)


def test_what_does_not_fit_is_left_to_whole_arrays() -> None:
    packed = pack_bits(torch.ones(1, 8, dtype=torch.bool))
    wide = torch.ones(1, 16)[:, ::2]
    for g in (
        wide,  # with gaps
        torch.ones(1, 8, dtype=torch.float16),
        torch.ones(1, 8, requires_grad=True),
        torch.ones(1, 17),  # more numbers than bits
        torch.ones(3, 8)[:, :0],
    ):
        assert not loops.gate(g, packed)
        assert loops.sums_where(g, packed) is None
    two = pack_bits(torch.ones(2, 8, dtype=torch.bool))
    assert not loops.gate(torch.ones(3, 8), two)
    assert loops.sums_and_norms(torch.ones(2, 3)) is None
    assert loops.pack_above(torch.ones(2, 3, dtype=torch.float16), 0, closed=False) is None


def test_results_are_the_same_on_any_number_of_threads() -> None:
    torch.manual_seed(0)
    network = _Network().eval()
    images = random_like((2, 3, 17, 17), 1).float()
    found = []
    for threads in (1, 2, 3):
        with on_threads(threads):
            explained = Explainer(network).explain(images, "top2")
        found.append((explained.trail, explained.bias, explained.residual_bound))
    for trail, bias, bound in found[1:]:
        assert bool(trail.same(found[0][0]).all())
        small = 1e-6 * float(found[0][1].abs().max())
        assert torch.allclose(bias, found[0][1], rtol=0, atol=small)
        assert torch.allclose(bound, found[0][2], rtol=1e-5)


@given(threads=st.integers(2, 4), rows=st.integers(1, 3), seed=st.integers(0, 20))
@properties
def test_sums_are_the_same_to_the_bit_on_any_number_of_threads(threads, rows, seed) -> None:
    g = random_like((rows, 5, 40, 40), seed).float().contiguous(memory_format=torch.channels_last)
    packed = pack_bits(random_like((rows, 5, 40, 40), seed + 1) > 0)

    def all_sums() -> list[Tensor]:
        flat = g.contiguous().flatten(1)
        summed, normed = loops.sums_and_norms(g) or (g, g)
        return [summed, normed, loops.norms(flat), loops.sums_where(g, packed)]  # type: ignore[list-item]

    with on_threads(1):
        alone = all_sums()
    with on_threads(threads):
        together = all_sums()
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


def _gated(values: list[float], results: Any) -> None:
    g = torch.tensor([values])
    done = loops.gate(g, pack_bits(torch.tensor([[True, False] * 4])))
    results.put((done, machine_code._threads(), g.tolist()))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_process_wakes_no_threads() -> None:
    """Threads of OpenMP do not outlive a fork, and numba ends a child that asks for them."""
    with on_threads(2):
        assert loops.gate(torch.ones(1, 8), pack_bits(torch.ones(1, 8, dtype=torch.bool)))
        context = multiprocessing.get_context("fork")
        results = context.SimpleQueue()
        child = context.Process(target=_gated, args=([1.0] * 8, results))
        child.start()
        child.join(60)
        assert child.exitcode == 0
        assert results.get() == (True, 1, [[1.0, 0.0] * 4])


def test_an_unsafe_layer_of_threads_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numba, "threading_layer", lambda: "workqueue")
    assert not machine_code._is_safe()
    monkeypatch.setattr(machine_code._Threading, "safe", False)
    with on_threads(3):
        assert machine_code._threads() == 1


def test_overlapping_and_strided_values_are_packed() -> None:
    values = random_like((1, 1, 6), 1).expand(4, 5, 6)
    assert torch.equal(bits.pack_above(values), pack_bits(values > 0))
    turned = random_like((2, 5, 6), 1).transpose(1, 2)
    assert torch.equal(bits.pack_above(turned), pack_bits(turned > 0))
    last = random_like((2, 3, 4, 4), 1).contiguous(memory_format=torch.channels_last)
    assert torch.equal(bits.pack_interval(last, 0, 1)[1], pack_bits(last >= 1))


@pytest.fixture
def _forgotten() -> Iterator[None]:
    """Looks for the compiled loops anew, also afterwards."""
    loops.compiled.cache_clear()
    yield
    loops.compiled.cache_clear()


@pytest.mark.usefixtures("_forgotten")
def test_they_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GUIDXMAGE_COMPILED", "0")
    assert loops.compiled() is None
    assert loops.pack_above(torch.ones(1, 8), 0, closed=False) is None


@pytest.mark.usefixtures("_forgotten")
def test_without_numba_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)
    own = "guidxmage.engine.kernels.compiled"
    for name in [name for name in sys.modules if name.startswith(own)]:
        monkeypatch.delitem(sys.modules, name)
    import guidxmage.engine.kernels

    monkeypatch.delattr(guidxmage.engine.kernels, "compiled", raising=False)
    assert loops.compiled() is None
    x = random_like((1, 2, 3, 3), 1)
    assert torch.equal(bits.pack_above(x), pack_bits(x > 0))
    norms = reductions.sums_and_norms(x.contiguous(memory_format=torch.channels_last), 1)
    assert norms[0] is None
    assert torch.allclose(norms[1], x.flatten(1).norm(dim=1))


def test_where_machine_code_cannot_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    from guidxmage.engine.kernels.compiled import machine_code

    def refuses(*, cache: bool = False, **options: bool):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return numba.njit(**options)

    monkeypatch.setattr(machine_code, "njit", refuses)

    @machine_code.compiled
    def doubled(values) -> None:
        values *= 2

    array = torch.ones(3).numpy()
    doubled(array)
    assert array.tolist() == [2, 2, 2]
