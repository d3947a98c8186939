"""Proofs by z3: a right symbolic model is proved, a wrong one refuted by a witness that replays."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from math import nextafter
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from guidxmage import Explainer
from guidxmage.errors import InputError, UnsupportedOperatorError
from guidxmage.proof.rational.chain import exact_model
from guidxmage.proof.rational.deadline import Deadline, OutOfTimeError
from guidxmage.proof.rational.formula import Line, Names, rational, term
from guidxmage.proof.rational.smt import Claim, claim_of, printed_difference, prove
from guidxmage.proof.rational.solver import Solver
from guidxmage.proof.rational.vnnlib import adversarial, decimal, path_condition, region
from tests.blobs import trained_on_blobs
from tests.test_cli import folder, run  # noqa: F401, the fixture of its name

z3 = pytest.importorskip("z3")
BOTH = pytest.mark.parametrize("one_formula", [False, True], ids=["chain", "whole"])


class Branches(nn.Module):
    """Batch-norm, groups, dilation, cat, add, overlapping max-pool, averages, clamps."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 2, 3, padding=2, dilation=2, bias=False)
        self.norm = nn.BatchNorm2d(2)
        self.second = nn.Conv2d(2, 2, 3, padding=1, groups=2, stride=2)
        self.head = nn.Linear(6, 3)
        with torch.no_grad():
            self.norm.running_var.mul_(0.7)
            self.norm.running_mean.add_(0.1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.norm(self.first(x)).relu()
        b = nn.functional.leaky_relu(self.second(a), 0.1)
        c = nn.functional.avg_pool2d(nn.functional.relu6(a + a), 3, 2, 1)
        d = nn.functional.max_pool2d(a, 3, 2, 1).clamp(0.1, 0.6)
        joined = torch.cat([b, c, torch.maximum(d, c)], 1)
        return self.head(joined.mean((2, 3)))


def small_net() -> nn.Module:
    layers = [nn.Conv2d(1, 3, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(12, 8), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(8, 4))


def claimed(model: nn.Module, X: Tensor, target: int = 0) -> tuple[Explainer, Claim]:
    explainer = Explainer(model.eval().requires_grad_(False).double())
    program = explainer.network(X.shape).program
    cotangent = torch.zeros(program.classes).double()
    cotangent[target] = 1
    return explainer, claim_of(program, X.double(), cotangent)


@pytest.fixture(scope="module")
def trained() -> Claim:
    """A network that was trained, and a photo that it gets right."""
    explainer, images = trained_on_blobs(small_net, 6)
    best = explainer.logits(images).argmax(1).tolist()
    claims = (claimed(explainer.model, x, t)[1] for x, t in zip(images, best, strict=True))
    return next(claim for claim in claims if len(claim.exact.row) > 20)


def fractions(X: Tensor) -> list[Fraction]:
    return [Fraction(v) for v in X.double().flatten().tolist()]


@BOTH
def test_the_right_model_of_a_trained_network_is_proved(trained: Claim, one_formula: bool) -> None:
    proof = prove(trained, one_formula=one_formula)
    assert proof.verdict == "proved"
    assert proof.contains_photo
    assert {answer for _, answer, _ in proof.steps} == {"unsat"}


def one_ulp(claim: Claim) -> Line:
    n, c = next(iter(claim.exact.row.items()))
    shifted = c + Fraction(nextafter(float(c), 1e9)) - Fraction(float(c))
    return Line({**claim.exact.row, n: shifted}, claim.exact.constant)


def lost_bias(claim: Claim) -> Line:
    return Line(claim.exact.row)


def flipped_decision(claim: Claim) -> Line:
    first = claim.network.layers[-2].first  # the last ReLU
    wrong = {**claim.choices, first: [1 - c for c in claim.choices[first]]}
    return exact_model(claim.network, wrong, claim.cotangent)


@BOTH
@pytest.mark.parametrize("mistake", [one_ulp, lost_bias, flipped_decision])
def test_a_wrong_model_is_refuted_and_the_witness_replays(
    trained: Claim, mistake: Any, one_formula: bool
) -> None:
    wrong = replace(trained, model=mistake(trained))
    proof = prove(wrong, one_formula=one_formula)
    assert proof.verdict == "refuted"
    witness = proof.witness
    assert witness is not None
    Z = list(witness.image)
    assert witness.claimed == wrong.model.at(Z)
    assert witness.claimed != witness.exact == trained.exact.at(Z)
    if one_formula:
        assert witness.follows
        assert wrong.follows(Z)
        assert witness.exact == wrong.score(Z)
        assert witness.network == pytest.approx(float(witness.exact), abs=1e-9)


def test_the_rational_network_is_the_network() -> None:
    torch.manual_seed(1)
    X = torch.rand(1, 6, 6).double()
    explainer, claim = claimed(Branches(), X)
    values = claim.network.run(fractions(X))
    logits = [float(values[n]) for n in claim.network.logits]
    assert logits == pytest.approx(explainer.logits(X.double()).tolist(), rel=1e-12)
    assert claim.exact.at(fractions(X)) == claim.score(fractions(X))
    explanation = explainer.explain(X.double(), 0)
    assert printed_difference(claim, explanation.weights, float(explanation.bias), 1e-13).holds
    assert not printed_difference(claim, explanation.weights, 0.0, 1e-13).holds
    assert prove(claim).verdict == "proved"


def test_coefficients_are_the_weights_themselves() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(2, 2, 2), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(2, 2))
    _, claim = claimed(network, torch.rand(2, 3, 3))
    weight, linear = network[0].weight.double(), network[3].weight.double()
    expected = [Fraction(0)] * 18
    for o in range(2):
        for i in range(2):
            for y in range(2):
                for x in range(2):
                    w = Fraction(float(weight[o, i, y, x])) * Fraction(float(linear[0, o])) / 4
                    for dy in range(2):
                        for dx in range(2):
                            expected[i * 9 + (y + dy) * 3 + x + dx] += w
    assert [claim.exact.row.get(n, 0) for n in range(18)] == expected


@BOTH
@pytest.mark.parametrize("case", ["ties", "dead", "zero weights"])
def test_degenerate_networks(case: str, one_formula: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 1, 2), nn.ReLU(), nn.MaxPool2d(2, 1), nn.Flatten(),
                          nn.Linear(4, 2))  # fmt: skip
    with torch.no_grad():
        if case == "dead":
            model[0].bias.fill_(-100)
        elif case == "zero weights":
            model[0].weight.zero_()
            model[0].bias.zero_()
        else:
            model[0].weight.abs_()
    _, claim = claimed(model, torch.full((1, 4, 4), 0.5))
    proof = prove(claim, one_formula=one_formula)
    assert proof.verdict == "proved"
    assert proof.contains_photo


def test_time_is_limited_and_unknown_is_not_proved(trained: Claim) -> None:
    proof = prove(trained, one_formula=True, seconds=0.001)
    assert proof.verdict == "unknown"
    assert "not proved: unknown after 0.001 s" in proof.reason


LARGER = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.AdaptiveAvgPool2d(20), nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(),
        nn.MaxPool2d(2), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(576, 3)
    ).eval()
"""


@pytest.mark.parametrize("options", [[], ["--one-formula"]])
def test_the_time_is_that_of_writing_too(folder: Path, options: list[str]) -> None:  # noqa: F811
    """Without a limit on what is written down this one takes a minute."""
    (folder / "larger.py").write_text(LARGER, encoding="utf-8")
    start = monotonic()
    result = run("prove", "photo.png", "--model", "larger.py:build", "--timeout", "1", *options)
    assert monotonic() - start < 40
    assert result.exit_code == 1, result.stderr
    assert "not proved: unknown after 1 s, in which not all was written down" in result.stdout
    found = json.loads((folder / "proof" / "proof.json").read_text(encoding="utf-8"))
    assert (found["verdict"], found["files"], found["printed"]) == ("unknown", {}, None)
    vnnlib = run("prove", "photo.png", "--model", "larger.py:build", "--timeout", "0.1",
                 "--format", "vnnlib", "--out", "queries")  # fmt: skip
    assert vnnlib.exit_code == 2
    assert "give a longer --timeout" in vnnlib.stderr


def test_a_solver_that_takes_too_long_is_ended() -> None:
    """What z3 does not look at the clock for: reading a formula of some megabytes."""
    terms = " ".join(f"(* {n}.0 x_{n % 7})" for n in range(300_000))
    declared = "".join(f"(declare-fun x_{n} () Real)\n" for n in range(7))
    text = f"(set-logic QF_LRA)\n{declared}(assert (> (+ {terms}) 0.0))\n(check-sat)\n"
    with Solver() as solver:
        start = monotonic()
        answer = solver.ask(text, 0.05)
        assert monotonic() - start < 20
        assert (answer.verdict, answer.reason) == ("unknown", "after 0.05 s")
        assert solver.ask("(check-sat)", 5).reason == "z3 ended without an answer"


def test_a_deadline_stops_what_it_watches() -> None:
    assert list(Deadline(60).watch(range(200))) == list(range(200))
    with pytest.raises(OutOfTimeError):
        list(Deadline(0).watch([1]))
    with pytest.raises(OutOfTimeError):
        sum(Deadline(0.05).watch(range(10**9)))


def test_what_cannot_be_proved_about_is_refused() -> None:
    X = torch.rand(1, 4, 4)
    larger = nn.Upsample(scale_factor=2, mode="bilinear")
    model = nn.Sequential(larger, nn.Flatten(), nn.Linear(64, 2))
    with pytest.raises(UnsupportedOperatorError, match="upsample"):
        claimed(model, X)
    explainer = Explainer(nn.Sequential(nn.Flatten(), nn.Linear(16, 2)).eval().double())
    program = explainer.network(X.shape).program
    with pytest.raises(InputError, match="finite image"):
        claim_of(program, X[:, :2], torch.ones(2))


def test_numbers_are_written_exactly() -> None:
    assert rational(Fraction(-1, 3)) == "(- (/ 1.0 3.0))"
    assert rational(Fraction(2)) == "2.0"
    line = Line({0: Fraction(1), 5: Fraction(-2)}, Fraction(1, 2))
    assert term(line, Names(3)) == "(+ x_0 (* (- 2.0) v_2) (/ 1.0 2.0))"
    for value in (0.1, -3e-5, 12345.678):
        assert float(decimal(Fraction(value))) == value


def parsed(text: str) -> list[Any]:
    """The s-expressions of a file."""
    body = "\n".join(line.partition(";")[0] for line in text.splitlines())
    stack: list[list[Any]] = [[]]
    for token in body.replace("(", " ( ").replace(")", " ) ").split():
        if token == "(":
            stack.append([])
        elif token == ")":
            done = stack.pop()
            stack[-1].append(done)
        else:
            stack[-1].append(token)
    assert len(stack) == 1
    return stack[0]


def test_vnnlib_region_holds_for_the_photo_alone(trained: Claim) -> None:
    commands = parsed(region(trained))
    inputs = trained.network.inputs
    assert commands[:2] == [["declare-const", "X_0", "Real"], ["declare-const", "X_1", "Real"]]
    assert {c[0] for c in commands} == {"declare-const", "assert"}
    assert len(commands) == inputs + len(path_condition(trained))
    x = fractions(trained.image)
    assert all(condition.holds(x) for condition in path_condition(trained))
    far = [1 - v for v in x]
    assert trained.follows(far) == all(c.holds(far) for c in path_condition(trained))


def test_vnnlib_adversarial_query(trained: Claim) -> None:
    commands = parsed(adversarial(trained, 0.125))
    bounds = [c[1] for c in commands if c[0] == "assert"][:-1]
    x = fractions(trained.image)
    assert len(bounds) == 2 * len(x)
    for relation, name, number in bounds:
        value = float(x[int(name.removeprefix("X_"))])
        assert float(number) == pytest.approx(value + (0.125 if relation == "<=" else -0.125))
    choice = commands[-1][1]
    assert choice[0] == "or"
    assert len(choice) == len(trained.network.logits)


def test_the_query_has_the_box_of_the_attack(folder: Path) -> None:  # noqa: F811
    """Pixels within eps and in [0, 1], as the normalised network takes them."""
    (folder / "scaled.py").write_text(TINY + SCALED, encoding="utf-8")
    pixels = np.zeros((4, 4, 3), np.uint8)
    pixels[1:, :, 1], pixels[:, :, 2] = 255, 128
    Image.fromarray(pixels).save(folder / "flat.png")
    result = run("prove", "flat.png", "--model", "scaled.py:build", "--format", "vnnlib",
                 "--eps", "0.125", "--out", "box")  # fmt: skip
    assert result.exit_code == 0, result.stdout + result.stderr
    text = (folder / "box" / "adversarial.vnnlib").read_text(encoding="utf-8")
    bounds = [c[1] for c in parsed(text) if c[0] == "assert"][:-1]
    x = torch.from_numpy(pixels).permute(2, 0, 1).double().flatten() / 255
    for relation, name, number in bounds:
        end = x[int(name.removeprefix("X_"))] + (0.125 if relation == "<=" else -0.125)
        assert float(number) == pytest.approx((float(end.clamp(0, 1)) - 0.5) / 0.25, abs=1e-12)


TINY = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.AdaptiveAvgPool2d(4), nn.Conv2d(3, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3)
    ).eval()
"""


SCALED = """
unscaled = build

def build():
    from guidxmage.inputs.preprocessing import Preprocessing

    return unscaled(), Preprocessing(mean=(0.5,) * 3, std=(0.25,) * 3)
"""


@pytest.mark.parametrize("options", [[], ["--one-formula"]])
def test_the_command_proves(folder: Path, options: list[str]) -> None:  # noqa: F811
    (folder / "tiny.py").write_text(TINY, encoding="utf-8")
    result = run("prove", "photo.png", "--model", "tiny.py:build", "--json", *options)
    assert result.exit_code == 0, result.stdout + result.stderr
    found = json.loads(result.stdout)
    assert found["verdict"] == "proved"
    assert found["printed"]["holds"]
    assert all((folder / "proof" / name).is_file() for name in found["files"])


def test_the_command_says_what_is_not_proved(
    folder: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (folder / "tiny.py").write_text(TINY, encoding="utf-8")
    common = ("prove", "photo.png", "--model", "tiny.py:build")
    late = run(*common, "--timeout", "0.001")
    assert late.exit_code == 1
    assert "not proved: unknown after 0.001 s" in late.stdout
    monkeypatch.setattr("guidxmage.proof.rational.smt.has_solver", lambda: False)
    without = run(*common)
    assert without.exit_code == 1
    assert "pip install z3-solver" in without.stdout
    assert list((folder / "proof" / "smt").iterdir())
    assert run("prove", "none.png", "--model", "tiny.py:build").exit_code == 2
    assert run(*common, "--format", "vnnlib").exit_code == 0
