"""Every measure against cases that can be computed by hand, and on a network with planted truth."""

from __future__ import annotations

import math
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from torch import nn

from guidxmage.engine.symbolic import StepLength, SymbolicModel
from guidxmage.evaluation.measures import MEASURES
from guidxmage.evaluation.measures.case import attenuated, draw_rectangles
from guidxmage.evaluation.measures.completeness import completeness
from guidxmage.evaluation.measures.complexity import complexity
from guidxmage.evaluation.measures.cost import MIB, peak_bytes
from guidxmage.evaluation.measures.curves import area, blurred, curves, mixtures, ranking
from guidxmage.evaluation.measures.directional import OnPath, directional, on_path, verdict
from guidxmage.evaluation.measures.magnitude import magnitude, rank_correlation, relative_error
from guidxmage.evaluation.measures.objects import localisation, object_signs
from guidxmage.evaluation.measures.randomisation import randomisation, shuffled
from tests.evaluated import BAD, GOOD, SIDE, Planted, case, claimed, explained, truth


class Threshold(nn.Module):
    """f = relu(x₀ − 0.6) + 0.5·relu(x₁ − 0.1) of an image of two pixels; class 1 scores 0."""

    def __init__(self, first: float = 0.6) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 1)
        self.head = nn.Linear(4, 2)
        with torch.no_grad():
            self.conv.weight.fill_(1)
            self.conv.bias.copy_(torch.tensor([-first, -0.1]))
            self.head.weight.zero_()
            self.head.bias.zero_()
            self.head.weight[0, 0] = 1  # the first map at the first pixel
            self.head.weight[0, 3] = 0.5  # the second map at the second pixel

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.conv(x.mean(1, keepdim=True))).flatten(1))


def two_pixels(first: float = 1.0, second: float = 0.5) -> torch.Tensor:
    return torch.tensor([[[first, second]]]).double().expand(3, 1, 2).clone()


def only_first() -> np.ndarray:
    return np.array([[True, False]])


# --- directional agreement -----------------------------------------------------------------------


def test_epsilon_is_the_largest_power_of_two_on_the_path() -> None:
    # x₀ = 1 becomes 1 − ε; relu(x₀ − 0.6) turns off at ε = 0.4, so that ε = 1/4 is the largest.
    found = on_path(case(Threshold(), two_pixels()), only_first())
    assert found.exponent == 2
    assert found.change == pytest.approx(-0.25, abs=1e-12)
    assert found.predicted == pytest.approx(-0.25, abs=1e-7)
    # With the threshold at 0.99 it turns off at 0.01: 2^−7 = 0.0078.
    assert on_path(case(Threshold(0.99), two_pixels()), only_first()).exponent == 7


def test_the_trail_has_the_last_word(monkeypatch: pytest.MonkeyPatch) -> None:
    of = case(Threshold(), two_pixels())
    for length in (math.inf, 0.0):  # too long a step, and a tie
        monkeypatch.setattr(SymbolicModel, "step_length", lambda *_, s=length: StepLength(s))
        assert on_path(of, only_first()).exponent == 2


def test_without_decisions_everything_is_on_the_path() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(6, 2)).eval()
    found = on_path(case(network, two_pixels()), only_first())
    assert found.exponent == 0


def test_right_and_wrong_claims() -> None:
    of = case(Threshold(), two_pixels())
    right = directional(of, claimed([[1.0, -1.0]]))
    assert (right["path"], right["path_negative"]) == (True, False)
    assert [right[f"finite_{eps}"] for eps in ("0.001", "0.01", "0.1", "1")] == [True] * 4
    wrong = directional(of, claimed([[-1.0, 0.0]]))
    assert wrong["path"] is False  # nothing is said to support the class
    assert wrong["pixels"] == 0
    assert wrong["path_negative"] is False


def test_what_is_not_used_supports_nothing() -> None:
    of = case()
    outside = np.ones((SIDE, SIDE))
    outside[GOOD] = outside[BAD] = 0
    found = directional(of, claimed(outside))
    assert found["path"] is False
    assert found["predicted"] == 0


def test_a_change_within_rounding_is_undecided() -> None:
    of = case()
    assert verdict(of, OnPath(None), -1, claims=True) is None
    assert verdict(of, OnPath(40, 1e-18, -1e-18), -1, claims=True) is None
    assert verdict(of, OnPath(4, -1e-3, -1e-3), -1, claims=True) is True
    assert verdict(of, OnPath(4, -1e-3, -1e-3), 1, claims=True) is False
    assert verdict(of, OnPath(4, 0.0, 0.0), -1, claims=True) is False


def test_a_cam_claims_what_is_above_half_its_maximum() -> None:
    cam = claimed([[0.2, 0.5, 0.51, 1.0]], "grad-cam")
    assert cam.positive().tolist() == [[False, False, True, True]]
    assert cam.negative() is None


def test_attenuation_scales_pixels_of_all_channels() -> None:
    found = attenuated(two_pixels(), only_first(), 0.25)
    assert found[:, 0, 0].tolist() == [0.75] * 3
    assert found[:, 0, 1].tolist() == [0.5] * 3


# --- magnitudes, objects, completeness -----------------------------------------------------------


def test_magnitudes_of_a_linear_network_are_exact() -> None:
    of = case(nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, 2)).eval())
    found = magnitude(of, explained("guid-xmage", of))
    assert found["spearman"] == pytest.approx(1)
    assert found["relative_error"] == pytest.approx(0, abs=1e-4)
    opposite = magnitude(of, claimed(-explained("guid-xmage", of).values))
    assert opposite["spearman"] == pytest.approx(-1)
    assert opposite["relative_error"] == pytest.approx(2, abs=1e-4)
    assert magnitude(of, claimed(np.ones((SIDE, SIDE)), "random"))["relative_error"] is None


def test_relative_error_and_rank_correlation() -> None:
    assert relative_error(np.array([1.0, 3.0, 9.0]), np.array([2.0, 2.0, 0.0])) == 0.5
    assert relative_error(np.ones(2), np.zeros(2)) is None
    assert rank_correlation(np.array([1, 2, 3.0]), np.array([10, 30, 20.0])) == pytest.approx(0.5)
    assert rank_correlation(np.ones(3), np.arange(3.0)) is None


def test_rectangles_have_a_quarter_to_half_of_each_side() -> None:
    for mask in draw_rectangles((16, 20), 50, np.random.default_rng(0)):
        rows, columns = mask.any(1).sum(), mask.any(0).sum()
        assert mask.sum() == rows * columns
        assert 4 <= rows <= 8
        assert 5 <= columns <= 10


def test_object_signs() -> None:
    of = case(mask=truth())
    # GOOD raises the score, the background holds BAD and lowers it.
    assert object_signs(of, explained("guid-xmage", of))["signs_0.01"] == 1
    assert object_signs(of, claimed(np.ones((SIDE, SIDE)), "edges"))["signs_0.01"] == 0.5
    assert object_signs(of, claimed(-explained("guid-xmage", of).values))["signs_0.01"] == 0
    assert object_signs(case(), claimed(np.ones((SIDE, SIDE)))) == {}


def test_localisation_by_hand() -> None:
    of = case(Threshold(), two_pixels(), mask=only_first())
    found = localisation(of, claimed([[3.0, 1.0]]))
    assert found == {"mass": 0.75, "pointing": True, "rank": 1.0, "area": 0.5}
    found = localisation(of, claimed([[-3.0, 1.0]]))
    assert found == {"mass": 0.0, "pointing": False, "rank": 0.0, "area": 0.5}
    assert localisation(of, claimed([[-3.0, -1.0]]))["mass"] is None


def test_completeness_by_hand() -> None:
    # f = 0.4·1 + 0.5·0.4 = 0.6 with bias −0.6 − 0.05; black scores 0.
    of = case(Threshold(), two_pixels())
    assert of.score == pytest.approx(0.6)
    ours = completeness(of, claimed([[1.0, 0.25]]))
    assert ours["gap"] == pytest.approx(0, abs=1e-6)
    assert ours["share"] == pytest.approx(1.25 / 0.6)
    assert completeness(of, claimed([[1.0, 0.25]], "lrp"))["gap"] == pytest.approx(0.65 / 0.6)
    fair = completeness(of, claimed([[0.4, 0.2]], "integrated-gradients"))
    assert fair["gap"] == pytest.approx(0, abs=1e-6)
    assert completeness(of, claimed([[1.0, 0.25]], "grad-cam")) == {}


# --- curves, complexity, sanity, cost ------------------------------------------------------------


def test_area_and_order() -> None:
    assert area(np.array([1.0, 0.5, 0.0])) == 0.5
    assert area(np.array([1.0, 0.0, 0.0])) == 0.25
    values = np.array([[0.0, 2.0], [1.0, 2.0]])
    orders = {tuple(ranking(values, np.random.default_rng(seed))) for seed in range(20)}
    assert orders == {(1, 3, 2, 0), (3, 1, 2, 0)}


def test_mixtures_replace_pixels_in_order() -> None:
    before, after = torch.zeros(3, 4, 5), torch.ones(3, 4, 5)
    found = mixtures(before, after, np.arange(20))
    assert found.mean((1, 2, 3)).tolist() == pytest.approx([step / 10 for step in range(11)])
    assert found[5, 0].flatten().tolist() == [1.0] * 10 + [0.0] * 10
    assert torch.allclose(blurred(torch.full((3, 30, 30), 0.25)), torch.tensor(0.25))
    assert blurred(torch.rand(3, 4, 5)).shape == (3, 4, 5)


def test_curves_end_where_they_must() -> None:
    of = case()
    found = curves(of, explained("guid-xmage", of))
    start = float(of.fast.scores(of.image[None]).double().softmax(1)[0, 0])
    black = float(of.fast.scores(torch.zeros_like(of.image)[None]).double().softmax(1)[0, 0])
    deletion, insertion = found["deletion_curve"], found["insertion_curve"]
    assert isinstance(deletion, list)
    assert isinstance(insertion, list)
    assert (deletion[0], deletion[-1]) == pytest.approx((start, black))
    assert insertion[-1] == pytest.approx(start)


def test_complexity_of_extremes() -> None:
    of = case()
    flat = complexity(of, claimed(np.ones((4, 4))))
    assert flat["entropy"] == pytest.approx(1)
    assert flat["gini"] == pytest.approx(0)
    single = complexity(of, claimed([[0.0, 0.0], [0.0, -2.0]]))
    assert single["entropy"] == 0
    assert single["gini"] == pytest.approx(0.75)
    halves = complexity(of, claimed([[1.0, 1.0], [0.0, 0.0]]))
    assert halves["entropy"] == pytest.approx(math.log(2) / math.log(4))
    assert halves["gini"] == pytest.approx(0.5)
    assert complexity(of, claimed(np.zeros((2, 2))))["gini"] is None


def test_randomisation_tells_maps_from_pictures() -> None:
    of = case()
    edges = randomisation(of, explained("edges", of))
    assert edges["random_weights"] == pytest.approx(1)
    assert edges["random_logit"] == pytest.approx(1)
    ours = randomisation(of, explained("guid-xmage", of))
    assert isinstance(ours["random_weights"], float)
    assert abs(ours["random_weights"]) < 0.5


def test_shuffled_keeps_values_and_the_original() -> None:
    of = case()
    own = dict(of.fast.whole.named_parameters())
    before = {name: tensor.clone() for name, tensor in own.items()}
    other = shuffled(of.fast, 1)
    for name, tensor in other.whole.named_parameters():
        assert torch.equal(tensor.flatten().sort().values, own[name].flatten().sort().values)
        assert torch.equal(own[name], before[name])
    assert not torch.equal(other.whole.network.head.weight, of.fast.whole.network.head.weight)
    assert other.explainer.model is other.whole.network


def test_peak_counts_what_is_held_at_once(capfd: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        first = torch.ones(2**20)
        second = first + 1
        del first
        (second * 2).sum()

    assert peak_bytes(work) / MIB == pytest.approx(8, abs=0.1)
    assert capfd.readouterr().err == ""


# --- planted truth -------------------------------------------------------------------------------

BEST = {
    "spearman": max, "insertion": max, "road": max, "faithfulness": max, "mass": max, "rank": max,
    "signs_0.01": max, "deletion": min, "relative_error": min, "gap": min,
}  # fmt: skip


def test_the_truth_is_recovered() -> None:
    of = case(mask=truth())
    values = explained("guid-xmage", of).values
    expected = np.zeros((SIDE, SIDE))
    image = of.image.numpy()
    expected[GOOD] = np.tensordot([1.0, 0.5, 0.25], image, 1)[GOOD]
    expected[BAD] = -0.5 * np.tensordot([0.5, 1.0, 0.5], image, 1)[BAD]
    assert np.abs(values - expected).max() < 1e-6


def test_every_measure_ranks_a_wrong_map_last() -> None:
    for package in ("quantus", "pytorch_grad_cam", "scipy"):
        if not find_spec(package):
            pytest.skip(f"{package} is not installed")
    of = case(mask=truth())
    right = explained("guid-xmage", of)
    noise = np.random.default_rng(0).normal(size=right.values.shape)
    maps = {"right": right.values, "random": noise, "wrong": -right.values}
    names = [name for name in MEASURES if name not in ("cost", "randomisation", "complexity")]
    found = {
        name: {
            key: value
            for measure in names
            for key, value in MEASURES[measure].take(of, claimed(values)).items()
        }
        for name, values in maps.items()
    }
    assert found["right"]["path"] is True
    assert found["right"]["path_negative"] is True
    assert found["wrong"]["path"] is False
    assert found["wrong"]["path_negative"] is False
    for eps in ("0.001", "0.01", "0.1", "1"):
        assert found["right"][f"finite_{eps}"] is True
        assert found["wrong"][f"finite_{eps}"] is False
    for key, best in BEST.items():
        worst = min if best is max else max
        values = {name: figures[key] for name, figures in found.items()}
        # ROAD fills pixels in from their neighbours, which takes little from a noisy picture.
        assert key == "road" or values["right"] == best(values.values()), (key, values)
        assert values["wrong"] == worst(values.values()), (key, values)
        assert values["right"] != values["wrong"], key


def test_measures_leave_the_network_and_the_draws_alone() -> None:
    if not (find_spec("quantus") and find_spec("pytorch_grad_cam")):
        pytest.skip("the libraries are not installed")
    network = Planted().eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    of = case(network, mask=truth())
    torch.manual_seed(3)
    np.random.seed(3)
    states = torch.get_rng_state(), np.random.get_state()[1].copy()
    for measure in MEASURES.values():
        measure.take(of, explained("guid-xmage", of))
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in network.parameters())
    assert not any(module._forward_hooks for module in network.modules())
