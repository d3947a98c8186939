"""Questions about an explained photo, as they come from outside: answers, and refusals."""

from __future__ import annotations

import base64
import json
import threading
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn

from guidxmage import Explainer, Explanation, GuidXmageError, InputError, Preprocessing
from guidxmage.serving.asked import MOST_GRADIENTS, Area, read_question
from guidxmage.serving.notebook import KernelAnswers, explainer_of
from guidxmage.serving.questions import FEW_TARGETS, HELD, MOST_TARGETS
from guidxmage.viewer.answers import Answer, StoppedError
from guidxmage.viewer.scene import scene_of
from tests.networks import imagenet_photos
from tests.test_erasing import image, network, photo, smooth

SIZE = (20, 24)
SEEN = Preprocessing(resize=SIZE, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))


def layers() -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d((16, 20)), network(5)).eval()


@pytest.fixture(scope="module")
def explainer() -> Explainer:
    return Explainer(layers(), preprocessing=SEEN, labels=["ant", "bee", "cow", "doe"])


def held(explainer: Explainer, space: Any = None, depth: Any = None) -> KernelAnswers:
    explanation = explainer.explain(photo(), space=space, depth=depth)
    return KernelAnswers(explanation, scene_of(explanation, parts=False), explainer)


def ask(held: KernelAnswers, question: Any) -> Answer:
    said: list[tuple[str, float | None]] = []
    found = held(question, lambda *words: said.append(words), lambda: None)
    json.dumps(found.json, allow_nan=False)
    for values in found.arrays.values():
        assert values.flags["C_CONTIGUOUS"]
        assert values.dtype.name in ("float32", "float64", "uint8", "uint16", "int32")
    return found


def runs(mask: Any) -> dict[str, Any]:
    """As the page writes an area."""
    flat = np.asarray(mask).ravel()
    edges = np.flatnonzero(np.diff(flat)) + 1
    lengths = np.diff([0, *edges, flat.size]).tolist()
    return {"runs": [0, *lengths] if flat[0] else lengths}


def box(height: int, width: int, *, size: tuple[int, int] = SIZE) -> np.ndarray[Any, Any]:
    area = np.zeros(size, bool)
    area[3 : 3 + height, 2 : 2 + width] = True
    return area


@given(st.integers(1, 9), st.integers(1, 9), st.data())
def test_areas_are_read_as_the_page_writes_them(height: int, width: int, data: Any) -> None:
    bits = data.draw(st.lists(st.booleans(), min_size=height * width, max_size=height * width))
    mask = np.array(bits).reshape(height, width)
    area = Area(**runs(mask))
    if mask.any():
        assert np.array_equal(area.mask((height, width)), mask)
    else:
        with pytest.raises(InputError, match="no pixel"):
            area.mask((height, width))


# --- erase ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", ["pixels", "photo", "input"])
@pytest.mark.parametrize("fill", ["zero", "black", "blur"])
def test_erase_is_what_the_model_says(explainer: Explainer, space: str, fill: str) -> None:
    own = held(explainer, space)
    size = own.explanation.input.shape[-2:]
    area = box(9, 8, size=tuple(size))
    found = ask(own, {"kind": "erase", "target": 0, "area": runs(area), "fill": fill})
    values, part = found.json, own.explanation
    assert values["pixels"] == 72
    assert values["before"] == float(part.score)
    assert values["gap"] == values["after"] - values["predicted"]
    assert values["flipped"] == sum(n for _, n, _ in values["flipped_by_layer"])
    assert values["decisions"] == sum(of for _, _, of in values["flipped_by_layer"])
    picture = found.arrays["picture"]
    assert picture.shape == (*size, 3)
    assert np.array_equal(picture[~area], np.asarray(part.picture())[~area])
    if (space, fill) == ("pixels", "black"):
        X = torch.where(torch.from_numpy(area), torch.zeros(()), part.input)
        with torch.no_grad():
            logits = explainer.model(explainer.to_input(X[None]))[0]
        assert values["after"] == float(logits[int(part.target)])
        assert values["answer_after"][0] == int(logits.argmax())


@pytest.mark.parametrize("space", ["pixels", "photo", "input"])
def test_another_photos_pixels(explainer: Explainer, space: str) -> None:
    own = held(explainer, space)
    size = tuple(own.explanation.input.shape[-2:])
    area = box(5, 6, size=size)
    rgb = np.random.default_rng(0).integers(0, 256, (7, 9, 3)).astype(np.uint8)
    question = {
        "kind": "erase",
        "target": 0,
        "area": runs(area),
        "fill": "photo",
        "photo": {"box": [2, 1, 7, 9], "rgb": base64.b64encode(rgb.tobytes()).decode()},
    }
    picture = ask(own, question).arrays["picture"]
    assert np.array_equal(picture[area], rgb[1:6, 1:7].reshape(-1, 3))


# --- attack ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", ["pixels", "input"])
@pytest.mark.parametrize("norm", ["l2", "linf", "l1", "l0"])
def test_attack_stays_in_its_area_and_on_the_grid(
    explainer: Explainer, space: str, norm: str
) -> None:
    own = held(explainer, space)
    area = box(14, 18)
    question = {"kind": "attack", "target": 0, "area": runs(area), "norm": norm, "budget": 30}
    found = ask(own, question)
    values, part = found.json, own.explanation
    assert values["success"], values["note"]
    assert values["from"] == [int(part.logits.argmax()), part.top(1)[0][1]]
    picture, delta = found.arrays["picture"], found.arrays["delta"]
    assert delta.dtype == np.float32
    assert not delta[:, ~area].any()
    read = Image.fromarray(picture)
    best = int(explainer.logits(torch.from_numpy(np.asarray(read) / 255).permute(2, 0, 1)).argmax())
    assert best == values["to"][0] != values["from"][0]
    assert np.array_equal(picture[~area], np.asarray(part.picture())[~area])
    assert values["certificate"].startswith("certified")
    assert values["size"] == values["norms"][norm]
    assert values["flipped"] > 0
    assert ("sizes are of pixels" in values["note"]) == (space == "input")


def test_attack_that_fails_has_a_sentence(explainer: Explainer) -> None:
    question = {"kind": "attack", "target": 0, "area": runs(box(1, 1)), "norm": "l2", "budget": 3}
    found = ask(held(explainer), question)
    assert not found.json["success"]
    assert found.json["to"] is None
    assert "no change within 1 pixels" in found.json["sentence"]
    assert not found.arrays
    with pytest.raises(InputError, match='space "pixels"'):
        ask(held(explainer, "photo"), {**question, "area": None})


def test_where_no_pixel_matters_there_is_no_sample() -> None:
    """All units are off for this picture, so that Δ is 0 throughout."""
    dead = nn.Sequential(nn.AdaptiveAvgPool2d((16, 20)), network(3)).eval()
    own = held(Explainer(dead, preprocessing=SEEN))
    assert not own.explanation.weights.any()
    for norm in ("l2", "linf", "l1", "l0"):
        question = {"kind": "attack", "target": 0, "area": AREA, "norm": norm, "budget": 30}
        found = ask(own, question).json
        assert not found["success"]
        assert found["note"].startswith("no adversarial sample")


# --- explain --------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", ["pixels", "photo", "input"])
def test_another_class_is_the_one_that_explaining_gives(explainer: Explainer, space: Any) -> None:
    own = held(explainer, space, ["input", "default"])
    rest = int(own.explanation.logits.argmin())
    for question, target in [
        ({"kind": "explain", "target": rest, "against": -1}, rest),
        ({"kind": "explain", "target": 1, "against": 2}, ("contrast", 1, 2)),
    ]:
        found = ask(own, question)
        direct = explainer.explain(photo(), target, space=space, depth=["input", "default"])
        number = found.json["number"]
        assert np.array_equal(found.arrays[f"weights.{number}"], direct.weights)
        whole = direct.placements[0].whole.float()
        assert np.allclose(found.arrays[f"whole.{number}.0"], whole, atol=1e-6)
        assert found.json["entry"] == own.scene.manifest["targets"][number]
        assert found.json["entry"]["score"] == float(direct.score)
        again = ask(own, question)
        assert again.json == found.json
    assert [one["target"] for one in own.scene.manifest["targets"]][1:] == [rest, 1]
    erased = ask(own, {"kind": "erase", "target": 1, "area": runs(box(4, 4, size=tuple(
        own.explanation.input.shape[-2:]))), "fill": "zero"})  # fmt: skip
    assert erased.json["before"] == own.scene.manifest["targets"][1]["score"]


def test_many_clients_ask_for_classes_at_once(explainer: Explainer) -> None:
    own = held(explainer)
    numbers: list[int] = []

    def work() -> None:
        found = ask(own, {"kind": "explain", "target": 3, "against": 1})
        numbers.append(found.json["number"])

    threads = [threading.Thread(target=work) for _ in range(6)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert numbers == [1] * 6
    assert len(own.scene.manifest["targets"]) == 2 == 1 + len(own.added)


def test_targets_are_bounded(explainer: Explainer, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MOST_TARGETS >= 10
    monkeypatch.setattr("guidxmage.serving.questions.MOST_TARGETS", 2)
    own = held(explainer)
    classes = [n for n in range(4) if n != int(own.explanation.target)]
    ask(own, {"kind": "explain", "target": classes[0]})
    with pytest.raises(InputError, match="held already"):
        ask(own, {"kind": "explain", "target": classes[1]})
    ask(own, {"kind": "explain", "target": classes[0]})


# --- stopping, other doors ------------------------------------------------------------------------


def test_targets_of_large_photos_are_bounded_by_memory(
    explainer: Explainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = held(explainer, space="photo")
    one = sum(values.nbytes for name, values in asked.scene.arrays.items() if "." in name)
    monkeypatch.setattr("guidxmage.serving.questions.MOST_BYTES", 3 * HELD * one)
    for target in (1, 2, 3):
        with suppress(InputError):
            ask(asked, {"kind": "explain", "target": target})
    assert len(asked.scene.manifest["targets"]) == FEW_TARGETS
    with pytest.raises(InputError, match="3 targets of this photo are held already, and more"):
        ask(asked, {"kind": "explain", "target": 0, "against": 1})


@pytest.mark.parametrize("kind", ["erase", "attack", "explain"])
def test_a_network_that_was_trained_further_is_told(kind: str) -> None:
    model = layers()
    asked = held(Explainer(model, preprocessing=SEEN))
    with torch.no_grad():
        next(model[1].parameters()).mul_(1.1)
    area = runs(np.ones(asked.scene.manifest["size"], dtype=bool))
    questions = {
        "erase": {"target": 0, "area": area, "fill": "black"},
        "attack": {"target": 0, "area": area, "norm": "l2"},
        "explain": {"target": 3},
    }
    with pytest.raises(InputError, match="the network is not as it was"):
        ask(asked, {"kind": kind, **questions[kind]})


@pytest.mark.parametrize("kind", ["erase", "attack", "explain"])
def test_work_stops_when_it_is_no_longer_wanted(explainer: Explainer, kind: str) -> None:
    own = held(explainer)
    more = {
        "erase": {"area": runs(box(2, 2)), "fill": "zero"},
        "attack": {"norm": "l2", "budget": 5},
        "explain": {},
    }
    target = (int(own.explanation.target) + 1) % 4 if kind == "explain" else 0

    def stop() -> None:
        raise StoppedError

    with pytest.raises(StoppedError):
        own({"kind": kind, "target": target, **more[kind]}, lambda *_: None, stop)


def test_an_explanation_knows_its_network_without_its_explainer(explainer: Explainer) -> None:
    for space in ("pixels", "photo", "input"):
        explanation = explainer.explain(photo(), space=space)
        other = explainer_of(explanation)
        assert other.model is explainer.model
        assert (other.space, other.labels) == ("pixels", explainer.labels)
    bare = Explainer(network(), labels=list("abcd")).explain(image())
    assert explainer_of(bare).space == "input"
    own = KernelAnswers(bare, scene_of(bare, parts=False))
    found = ask(own, {"kind": "attack", "target": 0, "norm": "l2", "budget": 20})
    assert found.json["success"]
    assert ask(own, {"kind": "explain", "target": 2, "against": 1}).json["number"] == 1


def test_smooth_networks_say_what_they_cannot(explainer: Explainer) -> None:
    explanation = Explainer(smooth()).explain(image())
    own = KernelAnswers(explanation, scene_of(explanation, parts=False))
    found = ask(own, {"kind": "attack", "target": 0, "norm": "l2", "budget": 30})
    assert found.json["flipped"] is None
    assert "smooth" in found.json["note"]


def test_loaded_explanations_have_no_network_to_ask(explainer: Explainer, tmp_path: Any) -> None:
    explainer.explain(photo()).save(tmp_path / "kept")
    loaded = Explanation.load(tmp_path / "kept")
    own = KernelAnswers(loaded, scene_of(loaded, parts=False))
    with pytest.raises(InputError, match="without its network"):
        ask(own, {"kind": "explain", "target": 1})


# --- data from outside ----------------------------------------------------------------------------

AREA = runs(box(2, 2))
ERASE = {"kind": "erase", "target": 0, "area": AREA, "fill": "zero"}
ATTACK = {"kind": "attack", "target": 0, "area": None, "norm": "l2", "budget": 5}
PATCH = {"box": [3, 2, 2, 2], "rgb": base64.b64encode(bytes(12)).decode()}
REFUSED: dict[str, tuple[Any, str]] = {
    "nothing": (None, "not understood"),
    "a list": ([1], "not understood"),
    "unknown kind": ({"kind": "format the disk"}, "not understood"),
    "more than is known": ({**ERASE, "path": "/etc/passwd"}, "not understood: erase.path"),
    "no area": ({"kind": "erase", "target": 0, "fill": "zero"}, "erase.area"),
    "target is text": ({**ERASE, "target": "0"}, "erase.target"),
    "target is true": ({**ERASE, "target": True}, "erase.target"),
    "target below 0": ({**ERASE, "target": -1}, "erase.target"),
    "no such target": ({**ERASE, "target": 7}, "no target number 7"),
    "runs too short": ({**ERASE, "area": {"runs": [3, 4]}}, "do not make up"),
    "runs too long": ({**ERASE, "area": {"runs": [1, 2**39]}}, "do not make up"),
    "runs overflow": ({**ERASE, "area": {"runs": [0, 2**70]}}, "not understood"),
    "runs below 0": ({**ERASE, "area": {"runs": [-1, 481]}}, "not understood"),
    "many empty runs": ({**ERASE, "area": {"runs": [0] * 9999 + [480]}}, "do not make up"),
    "no runs": ({**ERASE, "area": {"runs": []}}, "not understood"),
    "empty area": ({**ERASE, "area": {"runs": [480]}}, "no pixel"),
    "unknown fill": ({**ERASE, "fill": "cat.png"}, "erase.fill"),
    "photo without pixels": ({**ERASE, "fill": "photo"}, "needs the photo"),
    "photo too short": (
        {**ERASE, "fill": "photo", "photo": {**PATCH, "rgb": "AAAA"}},
        "4 characters where",
    ),
    "photo no base64": (
        {**ERASE, "fill": "photo", "photo": {**PATCH, "rgb": "?" * 16}},
        "no base64",
    ),
    "photo padded": (
        {**ERASE, "fill": "photo", "photo": {**PATCH, "rgb": "AAAAAAAAAAAAAA=="}},
        "fewer than",
    ),
    "photo elsewhere": (
        {**ERASE, "fill": "photo", "photo": {**PATCH, "box": [0, 0, 2, 2]}},
        "does not cover",
    ),
    "photo beyond": (
        {**ERASE, "fill": "photo", "photo": {**PATCH, "box": [19, 2, 2, 2]}},
        "does not lie in",
    ),
    "photo of no size": (
        {**ERASE, "fill": "photo", "photo": {"box": [0, 0, 0, 5], "rgb": ""}},
        "does not lie in",
    ),
    "huge box": (
        {**ERASE, "fill": "photo", "photo": {**PATCH, "box": [0, 0, 2**40, 2**40]}},
        "does not lie in",
    ),
    "unknown norm": ({**ATTACK, "norm": "l3"}, "attack.norm"),
    "no budget": ({**ATTACK, "budget": 0}, "attack.budget"),
    "endless budget": ({**ATTACK, "budget": MOST_GRADIENTS + 1}, "attack.budget"),
    "budget is a half": ({**ATTACK, "budget": 0.5}, "attack.budget"),
    "no such class": ({"kind": "explain", "target": 4}, "no class 4"),
    "no such rival": ({"kind": "explain", "target": 1, "against": 9}, "no class 9"),
    "itself": ({"kind": "explain", "target": 1, "against": 1}, "not compared with itself"),
    "below none": ({"kind": "explain", "target": 1, "against": -2}, "explain.against"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_questions_are_one_sentence(explainer: Explainer, name: str) -> None:
    question, words = REFUSED[name]
    with pytest.raises(InputError, match=words) as caught:
        ask(held(explainer), question)
    assert len(str(caught.value)) < 500
    assert "\n" not in str(caught.value)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["kind", "target", "area", "runs", "fill", "norm", "budget", "against"]
            ),
            inner | st.sampled_from(["erase", "attack", "explain", "zero", "l2"]),
            max_size=5,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(anything)
def test_whatever_comes_is_read_or_refused(question: Any) -> None:
    with suppress(GuidXmageError):
        read_question(question)


@pytest.mark.slow
def test_a_real_network_is_attacked_in_its_object() -> None:
    explainer = Explainer.load()
    explanation = explainer.explain(imagenet_photos()[0][0])
    own = KernelAnswers(explanation, scene_of(explanation, parts=False), explainer)
    area = box(180, 180, size=(224, 224))
    question = {"kind": "attack", "target": 0, "area": runs(area), "norm": "l2", "budget": 10}
    found = ask(own, question)
    assert found.json["success"]
    assert found.json["certificate"].startswith("certified")


def test_pixels_of_one_channel_take_grey() -> None:
    grey = nn.Sequential(nn.Conv2d(1, 3, 3), network()).eval()
    explainer = Explainer(grey, preprocessing=Preprocessing(mean=(0.5,), std=(0.5,)))
    levels = np.random.default_rng(0).integers(0, 256, (18, 22)).astype(np.uint8)
    explanation = explainer.explain(Image.fromarray(levels))
    own = KernelAnswers(explanation, scene_of(explanation, parts=False), explainer)
    rgb = np.full((18, 22, 3), 200, np.uint8)
    area = box(4, 4, size=(18, 22))
    patch = {"box": [0, 0, 18, 22], "rgb": base64.b64encode(rgb.tobytes()).decode()}
    found = ask(own, {**ERASE, "area": runs(area), "fill": "photo", "photo": patch})
    assert (found.arrays["picture"][area] == 200).all()
    assert isinstance(own.explanation.input, Tensor)
