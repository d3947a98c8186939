"""What the viewer is fed with are Python's own numbers, and they add up."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

from guidxmage import Explainer, Explanation, InputError, Preprocessing
from guidxmage.objects.label_map import LabelMap
from guidxmage.viewer.scene import Scene, scene_of

SPACES = ["pixels", "photo", "input"]


def _network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 5),
    ).eval()


@pytest.fixture(scope="module", params=[torch.float32, torch.float64])
def explainer(request: pytest.FixtureRequest) -> Explainer:
    known = Preprocessing(resize=12, crop=(12, 12), mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))
    return Explainer(_network(), preprocessing=known, dtype=request.param)


def _photo() -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (20, 17, 3), dtype=np.uint8)


def _explained(explainer: Explainer, space: str) -> Explanation:
    return explainer.explain(_photo(), [1, 2], space=space, depth="all")


def _contributions(scene: Scene, number: int) -> np.ndarray:
    """As the viewer computes them."""
    arrays = scene.arrays
    if f"contributions.{number}" in arrays:
        return arrays[f"contributions.{number}"]
    X = arrays["input"]
    counted = X - arrays["reference"] if "reference" in arrays else X
    return arrays[f"weights.{number}"] * counted


@pytest.mark.parametrize("space", SPACES)
def test_arrays_are_those_of_the_explanation(explainer: Explainer, space: str) -> None:
    found = _explained(explainer, space)
    scene = scene_of(found, name="x.png")
    for number, part in enumerate(found):
        assert np.array_equal(scene.arrays[f"weights.{number}"], part.weights.numpy())
        assert np.array_equal(_contributions(scene, number), part.contributions.numpy())
    assert np.array_equal(scene.arrays["input"], found.input.numpy())
    picture = found.picture()
    assert picture is not None
    assert np.array_equal(scene.arrays["picture"], np.asarray(picture))


@pytest.mark.parametrize("space", SPACES)
def test_every_depth_adds_up_to_the_score(explainer: Explainer, space: str) -> None:
    scene = scene_of(_explained(explainer, space))
    described = scene.manifest
    assert described["depths"][0]["site"] == "input"
    assert described["depth"] == 0
    for t, target in enumerate(described["targets"]):
        A = _contributions(scene, t).astype(np.float64)
        assert A.sum() + target["bias"] + target["residual"] == pytest.approx(target["score"])
        for d, depth in enumerate(target["depths"]):
            whole = scene.arrays[f"whole.{t}.{d}"].astype(np.float64)
            total = whole.sum() + depth["unplaced"] + depth["residual"]
            assert total == pytest.approx(target["score"], abs=1e-5)
        at_input = A.sum(0) + scene.arrays[f"placed.{t}.0"]
        assert at_input == pytest.approx(scene.arrays[f"whole.{t}.0"], abs=1e-6)


def test_strides_grow_with_the_depth(explainer: Explainer) -> None:
    strides = [
        one["stride"] for one in scene_of(_explained(explainer, "pixels")).manifest["depths"]
    ]
    assert strides == sorted(strides)


def test_the_depth_asked_for_first_is_shown_first(explainer: Explainer) -> None:
    found = explainer.explain(_photo(), 1, depth=[2, "input"])
    described = scene_of(found).manifest
    assert described["depths"][described["depth"]]["site"] == found.placements[0].depth.site
    assert described["depth"] == 1


def test_bytes_are_little_endian_and_described(explainer: Explainer) -> None:
    scene = scene_of(_explained(explainer, "pixels"))
    for name, about in scene.manifest["arrays"].items():
        read = np.frombuffer(scene.bytes_of(name), np.dtype(about["dtype"]).newbyteorder("<"))
        assert np.array_equal(read.reshape(about["shape"]), scene.arrays[name])
    assert set(scene.manifest["arrays"]) == set(scene.arrays)
    with pytest.raises(InputError, match="no array 'nothing'"):
        scene.bytes_of("nothing")


def test_the_manifest_is_plain_json(explainer: Explainer) -> None:
    described = scene_of(_explained(explainer, "pixels")).manifest
    assert json.loads(json.dumps(described, allow_nan=False)) == described


def test_objects_and_superpixels(explainer: Explainer) -> None:
    labels = np.zeros((12, 12), np.int32)
    labels[2:5, 3:9] = 300
    scene = scene_of(_explained(explainer, "pixels"), LabelMap(labels, {300: "cat"}))
    assert scene.manifest["objects"]["names"] == {"0": "background", "300": "cat"}
    assert scene.arrays["objects"].dtype == np.uint16
    assert np.array_equal(scene.arrays["objects"], labels)
    assert scene.arrays["superpixels"].shape == (12, 12)
    with pytest.raises(InputError, match="of size"):
        scene_of(_explained(explainer, "photo"), LabelMap(labels))


def test_a_target_more(explainer: Explainer) -> None:
    found = _explained(explainer, "pixels")
    first, second = found
    scene = scene_of(first).with_target(second)
    both = scene_of(found)
    assert scene.manifest == both.manifest
    assert all(np.array_equal(values, both.arrays[name]) for name, values in scene.arrays.items())


def test_what_is_no_picture_is_refused() -> None:
    volumes = Explainer(nn.Sequential(nn.Conv3d(1, 2, 3), nn.Flatten(), nn.Linear(2, 2)).eval())
    with pytest.raises(InputError, match="channels × height × width"):
        scene_of(volumes.explain(torch.rand(1, 3, 3, 3), 0))
    line = Explainer(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)).eval())
    with pytest.raises(InputError, match="index the explanation first"):
        scene_of(line.explain(torch.rand(2, 1, 3, 4)))


def test_names_are_short_lines_that_turn_nothing() -> None:
    """Whatever files of labels and masks hold."""
    labels = ["x" * 10_000, "a\nb", "\u202eback", " ", "plain"]
    explainer = Explainer(_network(), labels=labels, name="net\u202e" * 200)
    regions = LabelMap(np.zeros((12, 12), dtype=np.uint8), {0: "sky\u202e", 1: "y" * 999, 2: ""})
    found = explainer.explain(torch.rand(3, 12, 12), "all")
    manifest = scene_of(found, regions, name="photo\u2067" * 200).manifest
    classes = {index: name for index, name, _ in manifest["classes"]}
    assert classes == {
        0: "x" * 199 + "…", 1: "a", 2: "\\u202eback", 3: "class 3", 4: "plain",
    }  # fmt: skip
    assert {one["target"]: one["name"] for one in manifest["targets"]} == classes
    assert manifest["objects"]["names"] == {"0": "sky\\u202e", "1": "y" * 199 + "…"}
    for name in (manifest["name"], manifest["network"]):
        assert len(name) == 200
        assert name.isprintable()
