"""Certificates: right explanations pass on many networks, planted bugs are caught."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from guidxmage import Explainer
from guidxmage.engine.capture.capture import capture
from guidxmage.engine.program.precision import widened
from guidxmage.engine.program.program import Program
from guidxmage.engine.rules.table import RULES
from guidxmage.engine.trail.decisions import Decisions
from guidxmage.engine.trail.trail import Trail
from guidxmage.errors import InputError
from guidxmage.explanation import Explanation
from guidxmage.models import load_model
from guidxmage.proof.certificate import certify
from guidxmage.proof.evidence.again import made_again
from guidxmage.proof.modular.field import Field, random_field
from guidxmage.proof.modular.forward import logits_of
from guidxmage.proof.modular.identity import Identity, prove_identity
from guidxmage.proof.modular.operators import reduced_cotangents
from guidxmage.proof.rounding.deviations import DEVIATIONS, SITE_DEVIATIONS, RoundingModel, unit_of
from guidxmage.proof.rounding.fidelity import Run, Runs, trail_fidelity, unexplained
from guidxmage.proof.rounding.numeric import exact_run, ledger
from tests.laws import random_like
from tests.networks import SMALL_NETWORKS
from tests.random_networks import random_network


def seeded(*layers: nn.Module) -> nn.Module:
    """The same weights every time, batch-norms with statistics that are not 0 and 1."""
    draw = torch.Generator().manual_seed(7)
    network = nn.Sequential(*layers)
    for module in network.modules():
        for name, tensor in [*module._parameters.items(), *module._buffers.items()]:
            if tensor is not None and tensor.is_floating_point():
                values = (
                    torch.randn(tensor.shape, generator=draw) / max(1, tensor[0].numel()) ** 0.5
                )
                tensor.data.copy_(values.abs() + 0.5 if name == "running_var" else values)
    return network.eval()


class Scaled(nn.Module):
    """The image times a number."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


class Branches(nn.Module):
    """Values used twice, concatenated, added and scaled."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 3, 3, padding=1)
        self.second = nn.Conv2d(3, 3, 3, padding=1, groups=3)
        self.last = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x).relu()
        z = self.second(y) * 0.3 - y + 0.7
        return self.last(torch.cat([y, z.clamp(-0.5, 1.25)], 1).mean((2, 3)))


class Patches(nn.Module):
    """Parts overwritten, patches in columns, constant masks, a pool padded with −∞."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 3, 3, padding=1)
        self.last = nn.Linear(27, 4)
        self.register_buffer("fill", torch.rand(3, 9))

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x).relu().clone()
        y[:, :, 0] = self.fill
        y[:, 1, 3:6] = y[:, 0, 3:6] * 0.5
        y = y.masked_fill(torch.eye(9, dtype=torch.bool), 0.3)
        y = torch.where(torch.ones(9, 9).tril(1).bool(), y, 0.7 * y) + y.triu()
        y = nn.functional.max_pool2d(nn.functional.pad(y, (0, 1, 0, 1), value=-torch.inf), 2)
        y = torch.addcmul(self.fill[:1, :1], y, self.fill[:, None, :1], value=0.6)
        z = nn.functional.unfold(y, 3, stride=2)
        return self.last(z.mean(2))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "pools": lambda: seeded(
        nn.Conv2d(2, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, padding=1, ceil_mode=True),
        nn.AvgPool2d(3, 1, padding=1, count_include_pad=False),
        nn.AdaptiveAvgPool2d((2, 3)),
        nn.Flatten(),
        nn.Linear(24, 4),
    ),
    "activations": lambda: seeded(
        nn.Conv2d(2, 4, 3, stride=2, dilation=2, padding=2, padding_mode="zeros"),
        nn.LeakyReLU(0.1),
        nn.Conv2d(4, 4, 1),
        nn.PReLU(4),
        nn.Hardtanh(-1.5, 1.25),
        nn.ConvTranspose2d(4, 3, 2, stride=2),
        nn.ReLU6(),
        nn.ConstantPad2d(1, 0.2),
        nn.AdaptiveMaxPool2d(3),
        nn.Flatten(),
        nn.Linear(27, 4),
    ),
    "saturated": lambda: seeded(
        Scaled(40.0),
        nn.Conv2d(2, 4, 3),
        nn.ReLU6(),
        nn.Conv2d(4, 4, 3),
        nn.Hardtanh(0, 2.5),
        nn.Flatten(),
        nn.Linear(100, 4),
    ),
    "branches": lambda: seeded(Branches()),
    "patches": lambda: seeded(Patches()),
}


class Between(nn.Module):
    """The larger and the smaller of values and constants."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(162, 4)
        self.register_buffer("bounds", torch.rand(2, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        low = torch.minimum(torch.maximum(x, self.bounds * 0.3), self.bounds + 0.2)
        return self.last(torch.minimum(torch.tensor(0.7), low).flatten(1))


NETWORKS["between constants"] = lambda: seeded(Between())
SHAPE = (2, 9, 9)
IMAGES: dict[str, Callable[[], Tensor]] = {
    "noise": lambda: random_like((1, *SHAPE), 1).float(),
    "zeros": lambda: torch.zeros(1, *SHAPE),
    "constant": lambda: torch.full((1, *SHAPE), 0.5),
    "all dead": lambda: torch.full((1, *SHAPE), -1e4),
}


def identity(
    network: nn.Module, X: Tensor, change: Callable[[Program], Program] = lambda p: p
) -> Identity:
    forward = capture(network, tuple(X.shape[1:]))
    backward = change(capture(network, tuple(X.shape[1:])))
    trail = forward.record(X).trail
    cotangent = torch.zeros(forward.classes)
    cotangent[1] = 1
    return prove_identity(forward, backward, (trail, trail), cotangent, seed=3)


# --- arithmetic ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_residues_are_those_of_the_rational_number(dtype: torch.dtype) -> None:
    field = Field(10_007)
    values = torch.tensor([0, 1, -1, 0.1, -3.75, 1e-30, 6.02e23, 5e-324, 2**0.5], dtype=dtype)
    for value, residue in zip(values.tolist(), field.residues(values).tolist(), strict=True):
        exact = Fraction(value)
        expected = exact.numerator * pow(exact.denominator, -1, field.p)
        assert (int(residue) - expected) % field.p == 0
        assert abs(residue) <= field.p // 2


def test_primes_leave_room_for_the_sums() -> None:
    from random import Random

    for terms in (100, 30_000, 3_000_000):
        field = random_field(terms, Random(terms))
        assert all(field.p % d for d in range(2, 1024))
        assert terms * (field.p // 2) ** 2 < 2**53


# --- the identity --------------------------------------------------------------------------------


@pytest.mark.parametrize("image", IMAGES)
@pytest.mark.parametrize("name", NETWORKS)
def test_the_identity_holds(name: str, image: str) -> None:
    found = identity(NETWORKS[name](), IMAGES[image]())
    assert found.holds is True
    assert len(found.primes) == 3


class Whole(nn.Module):
    """Operators whose constants get residues of their own, with whole numbers throughout."""

    def __init__(self) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(5)
        self.register_buffer("c", torch.randint(-4, 5, (3, 4), generator=draw).double())

    def forward(self, x: Tensor) -> Tensor:
        y = torch.addcmul(self.c, x, self.c.flip(0), value=3.0).relu()
        y = y.masked_fill(torch.eye(3, 4, dtype=torch.bool), -2.0)
        y = torch.where(self.c > 0, y, 5.0).slice_scatter(
            self.c[None, :1].expand(len(x), 1, 4), 1, 0, 1
        )
        return nn.functional.pad(y, (1, 0), value=7.0).flatten(1)


def test_residues_are_of_the_network_itself() -> None:
    """Both sides of the identity share them, so it would not notice a constant that is lost."""
    program = capture(Whole().double().eval(), (3, 4))
    Z = torch.randint(-9, 10, (1, 3, 4), generator=torch.Generator().manual_seed(6)).double()
    recording = program.record(Z)
    field = random_field(1024, Random(1))
    found = logits_of(program, recording.trail, field.reduce(Z), field)
    assert torch.equal(found % field.p, recording.logits % field.p)


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1", "googlenet", "shufflenet_v2_x0_5"])
def test_the_identity_holds_on_torchvision(name: str) -> None:
    network = load_model(name, weights="none").model
    found = identity(network, random_like((1, 3, 64, 64), 2).float())
    assert found.holds is True, found.reason


def test_what_is_known_to_be_reduced_comes_from_one_call_that_reduces() -> None:
    program = capture(NETWORKS["branches"](), SHAPE)
    users: dict[int, list[str]] = {}
    for call in program.calls:
        for id_ in call.inputs:
            users.setdefault(id_, []).append(call.op)
    reduced = reduced_cotangents(program)
    assert program.result in reduced
    assert any(call.id in reduced for call in program.calls[:-1])
    for call in program.calls:
        if call.id in reduced and call.id != program.result:
            assert len(users[call.id]) == 1
            assert "cat" not in users[call.id][0]
    # What is used twice is a sum of two cotangents.
    relu = next(call for call in program.calls if call.op == "aten.relu.default")
    assert len(users[relu.id]) > 1
    assert relu.id not in reduced


def test_smooth_networks_are_said_not_to_be_checked() -> None:
    found = identity(seeded(nn.Flatten(), nn.Linear(162, 4), nn.GELU()), IMAGES["noise"]())
    assert found.holds is None
    assert "aten.gelu.default" in found.reason


# --- planted bugs --------------------------------------------------------------------------------


def _next_float(program: Program) -> Program:
    """One weight of one convolution one unit in the last place larger."""

    def changed(arg: Any) -> Any:
        if isinstance(arg, Tensor) and arg.ndim == 4:
            arg = arg.detach().clone()
            arg.view(-1)[5] = torch.nextafter(arg.view(-1)[5], torch.tensor(9.0))
        return arg

    calls = [
        replace(call, args=tuple(map(changed, call.args))) if "conv" in call.op else call
        for call in program.calls
    ]
    return replace(program, calls=tuple(calls))


def test_one_weight_off_by_one_unit_is_caught() -> None:
    assert identity(NETWORKS["pools"](), IMAGES["noise"](), _next_float).holds is False


def _flipped(program: Program, trail: Trail, cotangent: Tensor) -> Trail:
    """The trail with that ReLU off which the score hangs on most."""
    found: dict[str, Tensor] = {}
    program.pull(trail, cotangent[None], visit=lambda call, g: found.update({call.site: g.clone()}))
    site = next(s for s, entry in trail.items() if entry.kind == "bits")
    place = (found[site] * trail[site].plane()).abs().flatten().argmax()[None]
    return trail.flipped([site], place, torch.zeros(1, dtype=torch.int64))


def test_a_flipped_decision_is_caught() -> None:
    program = capture(NETWORKS["pools"](), SHAPE)
    X = IMAGES["noise"]()
    trail = program.record(X).trail
    cotangent = torch.eye(program.classes)[1]
    wrong = _flipped(program, trail, cotangent)
    assert prove_identity(program, program, (trail, trail), cotangent).holds is True
    assert prove_identity(program, program, (trail, wrong), cotangent).holds is False


@pytest.mark.parametrize("op", ["aten.conv2d.default", "aten.linear.default"])
def test_a_lost_bias_is_caught(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RULES, op, replace(RULES[op], constant=None))
    assert identity(NETWORKS["pools"](), IMAGES["noise"]()).holds is False


def test_a_pool_that_assigns_instead_of_adding_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    from guidxmage.engine.rules import pooling

    def assigned(g: Tensor, index: Tensor, x: Any, args: Any) -> Tensor:
        return x.zeros().flatten(-2).scatter(-1, index.flatten(-2), g.flatten(-2)).reshape(x.shape)

    monkeypatch.setattr(pooling, "_scatter_add_2d", assigned)
    assert identity(NETWORKS["pools"](), IMAGES["noise"]()).holds is False


# --- numbers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_the_ledger_explains_the_error_of_the_score(name: str) -> None:
    program = capture(NETWORKS[name](), SHAPE)
    X, wide = IMAGES["noise"](), widened(program)
    recording = program.record(X)
    cotangent = torch.eye(program.classes, dtype=torch.float64)[1:2]
    exact = exact_run(wide, recording.trail, X.double(), cotangent)
    values = Run.of(program, X).values
    entries, bound = ledger(wide, recording.trail, values, exact.cotangents)
    error = float(recording.logits[0, 1]) - exact.score
    assert error != 0
    assert abs(error - sum(entries.values())) < 1e-13
    assert 0 < bound < 1e-10


def test_the_float64_bound_holds_against_exact_fractions() -> None:
    from guidxmage.proof.rational.smt import claim_of

    network = seeded(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 4)).double()
    program, X = capture(network, (1, 6, 6)), random_like((1, 1, 6, 6), 3)
    trail, cotangent = program.record(X).trail, torch.eye(4, dtype=torch.float64)[1:2]
    exact = exact_run(widened(program), trail, X, cotangent)
    _, bound = ledger(widened(program), trail, Run.of(program, X).values, exact.cotangents)
    claim = claim_of(program, X[0], cotangent[0])
    score = claim.score([Fraction(v) for v in X.flatten().tolist()])
    assert abs(Fraction(float(program.record(X).logits[0, 1])) - score) <= Fraction(bound)


def test_margins_of_windows_are_those_of_their_two_best() -> None:
    network = seeded(nn.MaxPool2d(3, 2, padding=1), nn.Flatten(), nn.Linear(50, 3)).double()
    program, X = capture(network, SHAPE), random_like((1, *SHAPE), 4)
    from guidxmage.proof.rounding.margins import margins_of

    entry = next(iter(program.record(X).trail.values()))
    found = margins_of(program.calls[0], [X], entry)
    assert found is not None
    padded = nn.functional.pad(X, (1, 1, 1, 1), value=-torch.inf)
    best = padded.unfold(2, 3, 2).unfold(3, 3, 2).flatten(-2).topk(2)
    torch.testing.assert_close(found.gap, best.values[..., 0] - best.values[..., 1])
    assert torch.equal(found.other, best.indices[..., 1])


def test_a_decision_on_the_edge_is_listed() -> None:
    """A bias that brings one pre-activation to a rounding error from its threshold."""
    network = seeded(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(147, 4))
    X = IMAGES["noise"]()
    with torch.no_grad():
        before = network[0](X)[0, 2, 4, 4]  # type: ignore[operator,index]
        network[0].bias[2] -= before  # type: ignore[index,operator,union-attr]
    program = capture(network, SHAPE)
    cotangent = torch.eye(4)[1:2]
    wide = widened(program)
    found = trail_fidelity(Runs.of(program, wide, X), wide, cotangent)
    assert (found.listed[0].site, found.listed[0].position) == ("1", (2, 4, 4))
    assert found.ambiguous >= 1
    assert found.moved > 1e-3


# --- what rounding explains ----------------------------------------------------------------------


def test_deviations_of_a_layer_by_hand() -> None:
    """Of a linear layer that is given a unit vector: K = 4 + 3 products, and one rounding more."""
    program = widened(capture(seeded(nn.Linear(4, 3)), (4,)))
    trail, cotangent = program.record(torch.ones(1, 4).double()).trail, torch.eye(3)[1:2].double()
    exact = exact_run(program, trail, torch.ones(1, 4).double(), cotangent)
    found = RoundingModel(program).deviations(trail, exact.cotangents)
    assert found is not None
    torch.testing.assert_close(found.weights, 8**0.5 * exact.weights.abs())
    # Of the bias nothing but the sum over a single position is rounded.
    (share,) = exact.sites.values()
    assert found.sites == pytest.approx({"0": abs(share)})


@pytest.mark.parametrize("seed", [0, 1, 3, 4, 5, 6, 7, 8])  # 2 has a hardsigmoid
def test_float32_is_within_its_deviations(seed: int) -> None:
    """Each number within what is allowed for it, and some near enough that the model says much."""
    model, X = random_network(seed, torch.float32)
    program, X = capture(model, tuple(X.shape)), X[None]
    wide, trail = widened(program), program.record(X).trail
    cotangent = torch.eye(program.classes)[1:2]
    exact = exact_run(wide, trail, X.double(), cotangent.double())
    found = RoundingModel(wide).deviations(trail, exact.cotangents)
    assert found is not None
    pulled = program.pull(trail, cotangent)
    off = (pulled.weights.double() - exact.weights).abs()
    unit = unit_of(torch.float32)
    assert bool((off <= DEVIATIONS * unit * found.weights).all())
    assert bool((off >= 1e-3 * unit * found.weights).any()) or not bool(off.any())
    for site, share in pulled.bias_by_site.items():
        off_by = abs(float(share) - exact.sites[site])
        assert off_by <= SITE_DEVIATIONS * unit * found.sites[site]


def test_smooth_operators_have_no_deviations() -> None:
    program = widened(capture(seeded(nn.Flatten(), nn.Linear(162, 4), nn.GELU()), SHAPE))
    assert (
        RoundingModel(program).deviations(program.record(torch.zeros(1, *SHAPE).double()).trail, {})
        is None
    )


# --- whole certificates --------------------------------------------------------------------------


@pytest.fixture
def explanation() -> Explanation:
    return Explainer(NETWORKS["pools"]()).explain(IMAGES["noise"]()[0], target=1)


def test_a_right_explanation_is_certified(explanation: Explanation) -> None:
    (found,) = explanation.certificate(seed=1)
    assert found.holds, found.reasons
    assert found.identity.holds
    assert found.same_trail
    assert found.model.identical
    assert found.rationals.weights is not None
    assert found.rationals.weights < 1e-14
    assert 0 < found.numeric.weights < 1e-5
    assert "certified: identity holds modulo 3 primes" in str(found)
    assert found.to_json()["numeric"]["ledger"]


def test_wrong_weights_are_not_certified(explanation: Explanation) -> None:
    wrong = replace(explanation, weights=explanation.weights * 1.01)
    (found,) = certify(wrong)
    assert not found.holds
    assert any(reason.startswith("weights: off by") for reason in found.reasons)


def test_a_wrong_trail_is_not_certified(explanation: Explanation) -> None:
    network = explanation.symbolic_model.network
    assert network is not None
    wrong = _flipped(network.program, explanation.trail, torch.eye(4)[1])
    (found,) = certify(replace(explanation, trail=wrong))
    assert not found.holds
    assert found.identity.holds is False
    assert not found.same_trail


# Of each dtype; `python -m tests.test_certificate 300` goes through as many as are asked for.
RANDOM = 12


def why_not(seed: int, dtype: torch.dtype) -> tuple[str, ...]:
    """What speaks against the explanation of a random network, all classes at once."""
    model, X = random_network(seed, dtype)
    explanation = Explainer(model).explain(X, target="all")
    return tuple(reason for one in explanation.certificate() for reason in one.reasons)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("seed", range(RANDOM))
def test_random_networks_are_certified(seed: int, dtype: torch.dtype) -> None:
    assert why_not(seed, dtype) == ()


class Row(nn.Module):
    """Values of one image that have several rows in the first dimension, in different ways."""

    def __init__(self, way: Callable[[Row, Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(2, 3, 3), nn.Conv2d(2, 3, 3)
        self.slopes, self.head = nn.PReLU(3), nn.Linear(3, 4)
        self.way = way

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.way(self, x).mean((2, 3)))

    def pair(self, x: Tensor) -> Tensor:
        return torch.stack([self.a(x), self.b(x)], 0)


ROWS: dict[str, Callable[[Row, Tensor], Tensor]] = {
    "sum": lambda s, x: s.pair(x).sum(0),
    "relu, mean": lambda s, x: s.pair(x).relu().mean(0),
    "largest": lambda s, x: s.pair(x).amax(0),
    "smallest": lambda s, x: torch.stack([s.a(x), s.b(x), s.a(-x)]).min(0).values,
    "apart again": lambda s, x: torch.maximum(*s.pair(x).unbind(0)),
    "clamped": lambda s, x: s.pair(x).clamp(-0.1, 0.3).abs().sum(0),
    "one of them": lambda s, x: s.pair(x).relu()[1],
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("way", ROWS)
def test_values_of_several_rows_for_one_image(way: str, dtype: torch.dtype) -> None:
    explainer = Explainer(seeded(Row(ROWS[way])).to(dtype))
    for found in explainer.explain(IMAGES["noise"]()[0].to(dtype), target="top2").certificate():
        assert found.holds, found.reasons
        assert found.identity.holds
        assert found.rationals.weights is not None, found.rationals.reason
        assert found.rationals.weights < 1e-14


def on_the_edge() -> tuple[Explanation, tuple[int, ...]]:
    """An explanation of an image with one decision that rounding takes, and where that is."""
    network = seeded(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(147, 4))
    X = IMAGES["noise"]()
    with torch.no_grad():
        network[0].bias[2] -= network[0](X)[0, 2, 4, 4]  # type: ignore[index,operator,union-attr]
    return Explainer(network).explain(X[0], target=1), (2, 4, 4)


def taken_otherwise(explanation: Explanation, place: tuple[int, ...]) -> Explanation:
    """What another machine explains that takes one decision of the ReLU otherwise."""
    (site,) = explanation.trail
    flat = torch.tensor([int(np.ravel_multi_index(place, explanation.trail[site].shape))])
    choice = explanation.trail[site].choice(torch.zeros(1, dtype=torch.int64), flat)
    trail = explanation.trail.flipped([site], flat, 1 - choice)
    network = explanation.symbolic_model.network
    assert network is not None
    recording = network.program.record(network.to_input(explanation.input[None]))
    return Explanation.of(made_again(explanation, network, recording, trail).explanation)


def test_another_machine_may_take_ambiguous_decisions_otherwise() -> None:
    explanation, place = on_the_edge()
    assert explanation.certificate()[0].same_trail
    other = taken_otherwise(explanation, place)
    assert not torch.equal(other.weights, explanation.weights)
    (found,) = other.certificate()
    assert found.holds, found.reasons
    assert not found.same_trail


def test_a_decision_with_a_margin_is_not_taken_otherwise() -> None:
    explanation, place = on_the_edge()
    (found,) = taken_otherwise(explanation, (1, 3, 3)).certificate()
    assert any(reason.startswith("trail: 1 decisions at 1") for reason in found.reasons)
    # Nor together with one that is ambiguous.
    both = taken_otherwise(taken_otherwise(explanation, place), (1, 3, 3))
    assert not both.certificate()[0].holds


def test_a_window_takes_no_other_than_its_two_best() -> None:
    """Of four positions two are within rounding of each other; neither of the others is taken."""
    network = seeded(nn.Conv2d(1, 1, 1), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4, 3))
    with torch.no_grad():
        network[0].weight.fill_(1 / 3)  # type: ignore[index,operator,union-attr]
    X = torch.arange(16.0).reshape(1, 4, 4) / 16
    X[0, 2, 3] = torch.nextafter(X[0, 3, 3], torch.tensor(0.0))
    explanation = Explainer(network).explain(X, target=1)
    entry = explanation.trail["1"]
    assert entry.index()[0, 0, 1, 1] in (1, 3)
    runs = Runs.of(*_programs(explanation), X[None])
    for position, explained in ((3, True), (1, True), (0, False), (2, False)):
        index = entry.index().clone()
        index[0, 0, 1, 1] = position
        stored = replace(explanation.trail, decisions={"1": Decisions.from_index(index, 4)})
        assert (unexplained(runs, stored) is None) is explained, position


def _programs(explanation: Explanation) -> tuple[Program, Program]:
    network = explanation.symbolic_model.network
    assert network is not None
    return network.program, widened(network.program)


def test_smooth_networks_are_certified_at_their_image() -> None:
    network = seeded(nn.Flatten(), nn.Linear(162, 8), nn.GELU(), nn.Linear(8, 4))
    for found in Explainer(network).explain(IMAGES["noise"]()[0], target=[0, 1]).certificate():
        assert found.holds
        assert found.identity.holds is None
        assert found.trail is None
        assert found.numeric.weights < 1e-5


def test_a_loaded_explanation_needs_its_network(explanation: Explanation, tmp_path: Any) -> None:
    loaded = Explanation.load(explanation.save(tmp_path / "saved"))
    with pytest.raises(InputError, match="does not know its network"):
        loaded.certificate()


def test_nothing_is_left_behind() -> None:
    network = NETWORKS["pools"]()
    explained = Explainer(network).explain(IMAGES["noise"]()[0])
    state, weights = torch.get_rng_state(), [p.clone() for p in network.parameters()]
    explained.certificate()
    assert torch.equal(state, torch.get_rng_state())
    for before, after in zip(weights, network.parameters(), strict=True):
        assert torch.equal(before, after)
        assert after.grad is None


if __name__ == "__main__":
    import sys

    torch.set_num_threads(1)
    for kind in (torch.float32, torch.float64):
        found = {seed: why_not(seed, kind) for seed in range(int(sys.argv[1]))}
        failed = {seed: reasons for seed, reasons in found.items() if reasons}
        print(f"{kind}: {len(found) - len(failed)} of {len(found)} certified", failed)


def test_the_seconds_are_those_of_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of what the certificates of several images and targets have in common."""
    model = SMALL_NETWORKS["overlapping_max_pool"]().double()
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(2)).double()
    explained = Explainer(model).explain(images, ("top", 2))
    now = [0.0]

    def slow(*given: Any) -> Any:
        now[0] += 8
        return capture(*given)

    monkeypatch.setattr("guidxmage.proof.certificate.capture", slow)
    monkeypatch.setattr("guidxmage.proof.certificate.time.perf_counter", lambda: now[0])
    assert [one.seconds for one in certify(explained, primes=1)] == [2.0] * 4
