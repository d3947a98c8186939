"""Any number of a network can be attacked, and its smallest change certified."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from guidxmage import Explainer, InputError, Preprocessing
from guidxmage.adversarial import attack, certify, margin
from guidxmage.outputs import Box, BoxSide, Mask, Pixel, Regression, Similarity, Value
from tests.test_outputs import ANCHORS, AREA, OTHER, Body, X, _detector, _encoder, _segmenter


def _nearly() -> Explainer:
    """A detector that has its best box by a hair."""
    return _detector(threshold=0.27)


CASES: list[tuple[Any, Any, float | None]] = [
    (_nearly, Box(0), None),
    (_detector, Box(0, rather_than="suppressed"), None),
    (_detector, BoxSide(0, "left"), -0.2),
    (_detector, BoxSide(0, "left"), 0.2),
    (_segmenter, Pixel(9, 9, against="runner-up"), None),
    (_segmenter, Mask(AREA), -1.0),
    (_encoder, Similarity(OTHER, torch.ones(6)), -0.002),
]


@pytest.mark.parametrize(("make", "target", "move"), CASES)
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_the_number_passes_its_level(make: Any, target: Any, move: Any, norm: str) -> None:
    explainer = make()
    before = explainer.explain(X, target)
    result = attack(margin(explainer, X, target, move), X, norm=norm, budget=60)
    assert bool(result.success[0]), result.notes
    flat = explainer.logits(result.adversarial[0])
    after = float(flat @ before.symbolic_model.cotangent[0, 0])
    score = float(before.score)
    if move is None:
        level = 0.27 if isinstance(target, Box) and target.rather_than is None else 0.0
        assert (after - level) * (score - level) <= 1e-9
    else:
        assert (after - score) / move >= 1 - 1e-9
    assert float(result.norm[0]) > 0


def test_scores_are_the_distance_to_the_level() -> None:
    explainer = _detector()
    score = float(explainer.explain(X, BoxSide(0, "left")).score)
    falling, rising = (margin(explainer, X, BoxSide(0, "left"), move) for move in (-3.0, 2.0))
    for made, wanted in ((falling, 3.0), (rising, 2.0)):
        assert made.logits(X).tolist() == pytest.approx([wanted, 0.0])
        assert made.labels == ("box 0 (dog): left", "changed")
    found = falling.explain(X, 0)
    assert torch.allclose(found.weights, explainer.explain(X, BoxSide(0, "left")).weights)
    assert float(found.score) == pytest.approx(3.0)
    assert score == pytest.approx(float(explainer.explain(X, "box:0:left").score))


def test_the_smallest_change_of_a_number_is_certified() -> None:
    torch.manual_seed(2)
    model = nn.Sequential(nn.Flatten(), nn.Linear(9, 6), nn.ReLU(), nn.Linear(6, 2)).double().eval()
    explainer = Explainer(model, output=Regression(names=("age", "mass")))
    image = torch.full((1, 3, 3), 0.5, dtype=torch.float64)
    made = margin(explainer, image, Value("mass"), move=0.05)
    proved = certify(made, image, 0, seconds=30)
    assert proved.proved
    assert proved.lower_bound == pytest.approx(proved.upper_bound, rel=1e-5)
    Z = proved.adversarial
    assert Z is not None
    moved = float(explainer.logits(Z.reshape(1, 3, 3))[1] - explainer.logits(image)[1])
    assert moved == pytest.approx(0.05, rel=1e-4)


def test_pixels_of_a_preprocessed_network() -> None:
    known = Preprocessing(resize=32, crop=(32, 32), mean=(0.4,) * 3, std=(0.3,) * 3)
    model = Body(2, lambda m: m.mean((2, 3))).eval()
    explainer = Explainer(model, preprocessing=known, output=Regression(names=("age", "mass")))
    photo = np.random.default_rng(1).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    before = float(explainer.explain(photo, "value:age").score)
    made = margin(explainer, photo, Value("age"), move=0.02)
    assert made.space == "pixels"
    result = attack(made, explainer.read(photo), budget=40, quantise=True)
    after = float(explainer.logits(result.adversarial[0])[0])
    assert after - before >= 0.02 * (1 - 1e-4)


@pytest.mark.parametrize(
    ("make", "target", "move", "sentence"),
    [
        (_detector, BoxSide(0, "left"), None, "a number without a boundary"),
        (_encoder, Similarity(OTHER), None, "a number without a boundary"),
        (_detector, Box(0), 0.0, "move is 0.0"),
        (_detector, Box(0), float("nan"), "move is nan"),
        (_detector, [Box(0), Box(1)], None, "one image and one target"),
        (_detector, Box(99), None, "there is no box 99"),
    ],
)
def test_what_cannot_be_changed(make: Any, target: Any, move: Any, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        margin(make(), X, target, move)


def test_other_outputs_are_attacked_by_one_of_their_numbers() -> None:
    with pytest.raises(InputError, match=r"adversarial\.margin"):
        attack(_detector(), X)
    assert len(ANCHORS) == 64
