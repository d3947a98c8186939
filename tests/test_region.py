"""Where decisions flip along lines, against bisection on the network's own decisions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn

from guidxmage.engine.capture.capture import capture
from guidxmage.engine.linear_regions.walk import Lines, Stretch, piece, walk
from guidxmage.engine.program.program import Program
from guidxmage.engine.rules import RULES
from guidxmage.engine.rules.breakpoints import interval, overtaking, threshold
from guidxmage.errors import InputError, UnsupportedOperatorError
from tests.laws import captured, random_like
from tests.lines import check_pieces, check_walk, first_change, line, recorded, walked
from tests.networks import SMALL_INPUTS, SMALL_NETWORKS
from tests.test_laws import CASES, conv, of, properties

DECISIONS = [
    name
    for name in CASES
    if name.startswith(("max_pool", "adaptive_max", "relu", "leaky", "abs", "threshold", "rrelu"))
    or name.startswith(("prelu", "hardtanh", "clamp", "maximum", "minimum", "amax", "amin"))
    or name in ("max", "min", "fmax", "fmin")
]


def program_of(module: nn.Module, shape: tuple[int, ...]) -> Program:
    return captured(module, random_like((2, *shape), 0))[0]


def zeros(rows: int) -> Tensor:
    return torch.zeros(rows, dtype=torch.float64)


def rounded(lines: Lines, levels: int) -> Lines:
    """Points and directions of few values, so that decisions tie and flip together."""
    start, direction = ((part * levels).round() / levels for part in (lines.start, lines.direction))
    return Lines(start, direction)


# --- every operator that decides -----------------------------------------------------------------


def test_every_operator_that_decides_is_reached_and_knows_where_it_flips() -> None:
    """But those of which a walk says that it does not know."""
    known = {name: rule for name, rule in RULES.items() if rule.kind == "decision"}
    deciding = {name for name, rule in known.items() if rule.crossings is not None}
    assert all(known[name].traits.unproved for name in set(known) - deciding)
    reached = set()
    for name in DECISIONS:
        make, shape = CASES[name]
        reached |= {call.op for call in program_of(make(), shape).calls}
    # Captured as another spelling of an operator that is reached.
    spellings = {"aten.relu6.default", "aten.prelu.default", "aten._prelu_kernel.default"}
    # A clamp with other bounds and a slope; test_gates.py has it.
    spellings |= {"aten.hardsigmoid.default"}
    assert deciding - reached <= spellings


@pytest.mark.parametrize("name", DECISIONS)
def test_the_next_flip_is_the_one_that_bisection_finds(name: str) -> None:
    make, shape = CASES[name]
    program = program_of(make(), shape)
    lines = line(shape, 40, rows=3)
    trail = program.record(lines.start).trail
    ahead = piece(program, trail, lines, zeros(3), recorded=True).ahead
    for row, flip in enumerate(ahead.describe(program, trail)):
        own = lines.take(slice(row, row + 1))
        expected = first_change(program, own)
        if flip is None:
            assert expected == float("inf")
            continue
        assert flip.s == pytest.approx(expected, rel=1e-9)
        around = torch.tensor([1 - 1e-7, 1 + 1e-7], dtype=torch.float64) * flip.s
        _, trails = recorded(program, own, around)
        before, after = trails.image(0), trails.image(1)
        assert bool(before.same(trail.image(row)))
        # One decision differs just behind, and it is the one that is named. Overlapping windows
        # flip together; of those the first is named.
        together = int(before.distance(after).total)
        assert together == 1 or (together > 1 and "max_pool" in name)
        (difference,) = before.first_difference(after)
        assert difference is not None
        assert (difference.site, difference.position) == (flip.site, flip.position)
        crossed = ahead.take(slice(row, row + 1)).cross(before)
        assert int(crossed.distance(after).total) == together - 1
        words = {call.site: RULES[call.op].choices for call in program.calls}[flip.site]
        for word, taken in ((flip.before, before), (flip.after, after)):
            chosen = taken[flip.site]
            flat = torch.arange(chosen.count).reshape(chosen.shape)[flip.position].reshape(1)
            number = int(chosen.choice(torch.tensor([0]), flat))
            assert word == (words[number] if words else number)


@pytest.mark.parametrize("name", [name for name in DECISIONS if name != "threshold"])
def test_operators_are_walked_through(name: str) -> None:
    make, shape = CASES[name]
    program = program_of(make(), shape)
    assert check_walk(program, line(shape, 41)) > 0
    for levels in (1, 3):
        check_walk(program, rounded(line(shape, 41 + levels), levels))


@given(
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    dilation=st.integers(1, 2),
    ceil_mode=st.booleans(),
    padded=st.booleans(),
    size=st.tuples(st.integers(5, 8), st.integers(5, 8)),
    levels=st.sampled_from([None, 1, 2]),
    seed=st.integers(0, 99),
)
@properties
def test_max_pools(kernel, stride, dilation, ceil_mode, padded, size, levels, seed) -> None:
    padding = [k // 2 if padded else 0 for k in kernel]
    assume(
        all(n + 2 * p > dilation * (k - 1) for n, p, k in zip(size, padding, kernel, strict=True))
    )
    pool = nn.MaxPool2d(kernel, stride, padding, dilation, ceil_mode=ceil_mode)
    lines = line((2, *size), seed)
    check_walk(program_of(pool, (2, *size)), rounded(lines, levels) if levels else lines)


@given(
    out=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    size=st.tuples(st.integers(3, 8), st.integers(3, 8)),
    levels=st.sampled_from([None, 1, 2]),
    seed=st.integers(0, 99),
)
@properties
def test_adaptive_max_pools(out, size, levels, seed) -> None:
    lines = line((2, *size), seed)
    program = program_of(nn.AdaptiveMaxPool2d(out), (2, *size))
    check_walk(program, rounded(lines, levels) if levels else lines)


@given(
    bounds=st.tuples(st.integers(-3, 3), st.integers(-3, 3)),
    closed=st.booleans(),
    levels=st.sampled_from([None, 1, 2]),
    seed=st.integers(0, 99),
)
@properties
def test_clamps(bounds, closed, levels, seed) -> None:
    """Bounds that values lie on, that coincide, and (for clamp) that are crossed."""
    low, high = bounds
    assume(closed or low <= high)
    if closed:
        module = of(lambda m, x: x.clamp(low / 2, high / 2))()
    else:
        module = of(lambda m, x: nn.functional.hardtanh(x, low / 2, high / 2))()
    lines = line((2, 4, 3), seed)
    check_walk(program_of(module, (2, 4, 3)), rounded(lines, levels) if levels else lines)


# --- ties ----------------------------------------------------------------------------------------

TIES: dict[str, list[nn.Module]] = {
    "relu after relu": [nn.ReLU(), nn.ReLU()],
    "pool after relu": [nn.ReLU(), nn.MaxPool2d(3, 2, 1)],
    "pools after relu": [nn.ReLU(), nn.MaxPool2d(2, 1), nn.MaxPool2d(2, 1), nn.ReLU()],
    "hardtanh after relu": [nn.ReLU(), nn.Hardtanh(0, 1), nn.Hardtanh(0, 0.5)],
    "clamp after clamp": [of(lambda m, x: x.clamp(-0.5, 0.5).clamp(-0.5, 0.5).clamp(max=0.25))()],
    "maximum of clipped": [of(lambda m, x: torch.maximum(x.clamp(min=0), x.flip(2).relu()))()],
    "amax of clipped": [of(lambda m, x: x.relu().amax(1))()],
    "abs of relu": [nn.ReLU(), of(lambda m, x: (x - 0.25).abs().relu())()],
}


@pytest.mark.parametrize("name", TIES)
def test_decisions_that_stay_on_their_limit_are_those_of_the_network(name: str) -> None:
    """Behind a flip whole stretches are ties: zeros behind a ReLU that is off."""
    program = program_of(nn.Sequential(*TIES[name]), (2, 6, 6))
    for seed in range(3):
        assert check_walk(program, line((2, 6, 6), 60 + seed)) > 10
        check_walk(program, rounded(line((2, 6, 6), 60 + seed), 2))


def test_ties_by_hand() -> None:
    z, dz = (torch.tensor([[value]], dtype=torch.float64) for value in (0.5, 0.0))
    on, off = torch.tensor([[True]]), torch.tensor([[False]])
    inf = float("inf")
    for ties, expected in ((True, -inf), (False, inf)):
        assert float(threshold(z, dz, 0.5, on, rows=1, ties=ties).s) == expected
        assert float(threshold(z, dz, 0.5, off, rows=1, ties=ties).s) == inf
        assert float(threshold(z, dz, 0.5, off, closed=True, rows=1, ties=ties).s) == expected
        assert float(threshold(z, dz, 0.5, on, closed=True, rows=1, ties=ties).s) == inf
        inside, above, below = (on, off), (off, on), (off, off)
        for low, high, became in ((0.5, 1.0, 0), (0.0, 0.5, 2)):
            found = interval(z, dz, low, high, inside, rows=1, ties=ties, closed=False)
            assert float(found.s) == expected
            assert int(found.choice) == became or not ties
            for planes in (above, below):
                found = interval(z, dz, low, high, planes, rows=1, ties=ties, closed=True)
                assert (float(found.s), int(found.choice)) == (expected, 1)
        for before, s in ((on, expected), (off, inf)):
            assert float(overtaking(dz, dz.clone(), before, ties=ties)) == s


def test_what_looks_like_a_tie_on_a_recorded_trail_is_rounding() -> None:
    program = program_of(nn.ReLU(), (1, 1, 2))
    lines = Lines(zeros(2).reshape(1, 1, 1, 2), torch.tensor([[[[0.0, -1.0]]]]).double())
    trail = program.record(lines.start + 1e-300).trail  # both on, as if recorded a rounding away
    behind = piece(program, trail, lines, zeros(1)).ahead
    assert (float(behind.s), int(behind.position)) == (0, 0)
    recorded_ = piece(program, trail, lines, zeros(1), recorded=True).ahead
    assert (float(recorded_.s), int(recorded_.position)) == (0, 1)


# --- whole networks ------------------------------------------------------------------------------

NETWORKS = (
    *("inplace_relu", "reused_relu", "residual", "dense", "image_used_three_times", "stack"),
    *("overlapping_max_pool", "max_pool_ceil_mode", "max_pool_dilated_rectangular"),
    *("functional_relu_and_pool", "adaptive_max_pool", "amax_over_space", "conv1d", "conv3d"),
    *("batch_norm_used_twice", "relu6", "leaky_relu", "prelu", "maximum_of_branches"),
    *("only_linear_layers", "pad_with_a_value", "no_decision_at_all"),
)


def _network(name: str) -> tuple[Program, tuple[int, ...]]:
    shape = SMALL_INPUTS.get(name, (3, 16, 16))
    return capture(SMALL_NETWORKS[name]().double(), shape), shape


def _short(program: Program, lines: Lines, most: int) -> Lines:
    """A single line, shortened until few decisions differ between its ends."""
    while True:
        _, trails = recorded(program, lines, torch.tensor([0.0, 1.0], dtype=torch.float64))
        if int(trails.image(0).distance(trails.image(1)).total) <= most:
            return lines
        lines = Lines(lines.start, lines.direction / 2)


@pytest.mark.parametrize("name", NETWORKS)
def test_breakpoints_are_those_that_bisection_finds(name: str) -> None:
    program, shape = _network(name)
    for seed in (1, 2):
        crossed = check_walk(program, _short(program, line(shape, seed), 30))
        assert crossed > 3 or name in ("no_decision_at_all", "amax_over_space")


@given(seed=st.integers(0, 999), pool=st.booleans(), six=st.booleans(), levels=st.booleans())
@properties
def test_random_residual_networks(seed, pool, six, levels) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        first, second = nn.Conv2d(1, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
        last = nn.Linear(27, 4)
    if levels:  # weights of few values too: many decisions flip together
        for layer in (first, second):
            layer.weight.data.mul_(4).round_().div_(4)
            layer.bias.data.mul_(4).round_().div_(4)

    def body(m: Any, x: Tensor) -> Tensor:
        y = m.first(x).relu()
        y = y + m.second(y)
        y = nn.functional.relu6(4 * y) if six else y.relu()
        y = nn.functional.max_pool2d(y, 3, 2, 1) if pool else y[:, :, ::2, ::2]
        return m.last(y.flatten(1))

    module = of(body)()
    module.first, module.second, module.last = first, second, last
    lines = line((1, 5, 5), seed)
    lines = rounded(lines, 2) if levels else lines
    lines = Lines(lines.start, lines.direction / 2)
    # Behind the first layer the network's own decision of a tie is rounding.
    (check_pieces if levels else check_walk)(program_of(module, (1, 5, 5)), lines)


def test_directions_without_change() -> None:
    program, shape = _network("residual")
    still = Lines(random_like((1, *shape), 1), torch.zeros(1, *shape, dtype=torch.float64))
    (only,) = walked(program, still)
    assert float(only.piece.ahead.s) == float("inf")
    assert only.piece.ahead.names() == [None]
    assert only.piece.ahead.describe(program, only.trail) == [None]
    assert not only.piece.slope.any()
    assert bool(only.piece.ahead.cross(only.trail).same(only.trail))


# --- many lines at once --------------------------------------------------------------------------


def _by_row(stretches: Sequence[Stretch], rows: int) -> list[list[tuple[float, float, float]]]:
    found: list[list[tuple[float, float, float]]] = [[] for _ in range(rows)]
    for part in stretches:
        for n, row in enumerate(part.rows.tolist()):
            ends = float(part.low[n]), float(part.high[n])
            found[row].append((*ends, float(part.piece.value[n, 0])))
    return found


@pytest.mark.parametrize("chunk", [2, 8])
def test_lines_together_are_walked_as_alone(chunk: int) -> None:
    """Lines of different length: some end long before the others."""
    program, shape = _network("overlapping_max_pool")
    lines = line(shape, 7, rows=5)
    scale = torch.tensor([0.02, 0.0, 0.01, 0.001, 0.03]).double().reshape(-1, 1, 1, 1)
    lines = Lines(lines.start, lines.direction * scale)
    together = _by_row(walked(program, lines, rows=chunk), 5)
    for row in range(5):
        (alone,) = _by_row(walked(program, lines.take(slice(row, row + 1))), 1)
        assert len(alone) == len(together[row])
        assert torch.allclose(
            torch.tensor(alone), torch.tensor(together[row]), rtol=1e-9, atol=1e-12
        )
    assert len({len(part) for part in together}) > 3


def test_a_walk_between_given_ends_from_a_given_trail() -> None:
    program, shape = _network("dense")
    lines = _short(program, line(shape, 3), 30)
    everything = walked(program, lines)
    low, high = torch.tensor([0.25]).double(), torch.tensor([0.75]).double()
    _, trail = recorded(program, lines, low)
    part = list(walk(program, lines, low, high, trail=trail))
    assert (float(part[0].low), float(part[-1].high)) == (0.25, 0.75)
    inside = [float(s.high) for s in everything if 0.25 < float(s.high) < 0.75]
    assert [float(s.high) for s in part[:-1]] == pytest.approx(inside, abs=1e-12)


def test_the_cap_is_kept_and_told() -> None:
    program, shape = _network("dense")
    lines = _short(program, line(shape, 3), 30)
    everything = walked(program, lines)
    capped = walked(program, lines, cap=4)
    assert [bool(part.capped) for part in capped] == [False] * 3 + [True]
    assert float(capped[-1].high) == float(everything[3].high) < 1
    enough = walked(program, lines, cap=len(everything))
    assert len(enough) == len(everything)
    assert not enough[-1].capped.any()
    with pytest.raises(InputError, match="at least one region; the cap is 0"):
        walked(program, lines, cap=0)


# --- what cannot be walked -----------------------------------------------------------------------


def test_an_operator_without_crossings_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    program, shape = _network("overlapping_max_pool")
    rule = replace(RULES["aten.max_pool2d.default"], crossings=None)
    monkeypatch.setitem(RULES, "aten.max_pool2d.default", rule)
    with pytest.raises(UnsupportedOperatorError, match=r"aten\.max_pool2d\.default at '.*' has no"):
        walked(program, line(shape, 1))


def test_an_operator_that_is_not_piecewise_linear_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    rule = replace(RULES["aten.relu.default"], kind="gate")
    monkeypatch.setitem(RULES, "aten.relu.default", rule)
    program = program_of(nn.ReLU(), (2, 3, 3))
    lines = line((2, 3, 3), 1)
    trail = program.record(lines.start).trail
    with pytest.raises(UnsupportedOperatorError, match=r"aten\.relu\.default .*not piecewise"):
        piece(program, trail, lines, zeros(1))


def test_jumps_are_not_walked_over_but_reached() -> None:
    program, shape = _network("threshold")
    with pytest.raises(UnsupportedOperatorError, match=r"aten\.threshold\.default.*jumps"):
        walked(program, line(shape, 1))
    level = program_of(nn.Threshold(0.3, 0.3), (2, 4, 4))  # continuous: nothing jumps
    assert check_walk(level, line((2, 4, 4), 1)) > 5


class _OneImage(nn.Module):
    """A network with a fixed number of images, one; `bare` decides without an axis of images."""

    def __init__(self, bare: bool) -> None:
        super().__init__()
        self.conv, self.last = conv(2, 1, 3, 3), nn.Linear(48, 4).double()
        self.bare = bare

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        y = y.squeeze(0).relu() if self.bare else y.relu()
        return self.last(y.reshape(1, 48))


def test_networks_for_one_image_at_a_time() -> None:
    program = capture(_OneImage(bare=False).eval(), (1, 6, 6))
    assert not program.batched
    lines = line((1, 6, 6), 5, rows=3)
    together = _by_row(walked(program, lines), 3)
    for row in range(3):
        own = lines.take(slice(row, row + 1))
        assert _by_row(walked(program, own), 1) == [together[row]]
        ends = torch.tensor([part[1] for part in together[row]], dtype=torch.float64)
        logits = torch.cat([program.record(own.at(s[None])).logits for s in ends[:-1]])
        values = [
            part.piece.logits(part.high)[list(part.rows).index(row), 0]
            for part in walked(program, lines)
            if row in part.rows
        ]
        assert torch.allclose(torch.stack(values)[:-1], logits[:, 0], rtol=1e-10, atol=1e-12)


def test_decisions_without_an_axis_of_images() -> None:
    """What has no dimension for the batch belongs to the one image."""
    model = _OneImage(bare=False).eval()
    program = capture(model, (1, 6, 6))
    model.bare = True
    bare = capture(model, (1, 6, 6))
    for rows in (1, 3):
        lines = line((1, 6, 6), 5, rows=rows)
        assert _by_row(walked(bare, lines), rows) == _by_row(walked(program, lines), rows)
