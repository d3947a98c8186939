"""Outputs and targets as people get them wrong, and numbers that must not be another's."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from guidxmage import Explainer, Explanation, InputError
from guidxmage.adversarial import attack, certify, margin
from guidxmage.attribution.archive import MANIFEST, signed
from guidxmage.jobs.attack_photos import AttackJob, attack_photos
from guidxmage.jobs.explain_photos import Job, explain_photos
from guidxmage.outputs import (
    Box,
    Boxes,
    BoxSide,
    Embedding,
    Mask,
    Pixel,
    Regression,
    Scores,
    Segmentation,
    Similarity,
    Value,
)
from guidxmage.outputs.kinds import Output
from guidxmage.outputs.words import output_of
from tests.test_outputs import ANCHORS, OTHER, Body, X, _detector, _double, _regressor, _segmenter

THREE = torch.stack([X, OTHER, X.flip(-1)])


def _boxes(**settings: Any) -> Explainer:
    pick: dict[str, Any] = {
        "boxes": lambda o: o["raw"][:, :4].transpose(1, 2) * 10 + ANCHORS,
        "scores": lambda o: o["raw"][:, 4:].transpose(1, 2),
        "form": "cxcywh",
        "threshold": -0.5,
    }
    model = _double(Body(7, lambda m: {"raw": m.flatten(2)}))
    return Explainer(model, output=Boxes(**{**pick, **settings}), labels=["cat", "dog", "cup"])


def _centred(m: Tensor) -> Tensor:
    """So that not all places are given to one class."""
    return m - m.mean((2, 3), keepdim=True)


# --- batches ------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [1, 2, 32])
@pytest.mark.parametrize("target", [(2, 3, 4), ("targets", [(2, 3, 4), "pixel:9,20"])])
def test_one_target_for_every_image_of_a_batch(rows: int, target: Any) -> None:
    model = _double(Body(5, lambda m: {"out": m}))
    for count in (2, 3):
        explainer = Explainer(model, output=Segmentation("out"), batch_rows=rows)
        found = explainer.explain(THREE[:count], target)
        for image, own in zip(THREE, found, strict=False):
            alone = explainer.explain(image, target)
            assert torch.allclose(own.weights, alone.weights, rtol=0, atol=1e-13)
            assert own.target_name == alone.target_name


@pytest.mark.parametrize("output", [Segmentation("out"), "out"])
def test_a_cotangent_of_every_image_may_have_the_shape_of_the_outputs(output: Any) -> None:
    explainer = Explainer(_double(Body(5, lambda m: {"out": m})), output=output)
    own = torch.rand(3, 5, 8, 8, dtype=torch.float64)
    wanted = explainer.explain(THREE, own.flatten(1)).weights
    assert torch.equal(explainer.explain(THREE, own).weights, wanted)
    assert torch.equal(explainer.explain(THREE, own.flatten(1).numpy()).weights, wanted)
    assert torch.equal(explainer.explain(THREE[1], own[1]).weights, wanted[1])
    numbers = explainer.explain(THREE, torch.tensor([3, 4, 5]))
    assert numbers.target_name == [f"output number {n}" for n in (3, 4, 5)]


def test_targets_of_other_numbers_in_a_batch() -> None:
    for rows in (1, 32):
        explainer = _segmenter()
        explainer.batch_rows = rows
        with pytest.raises(InputError, match="the same number of targets"):
            explainer.explain(THREE[:2], [("targets", [3]), ("targets", [3, 4])])
    with pytest.raises(InputError, match="2 targets were given for 3 images"):
        _segmenter().explain(THREE, [3, 4])


class _Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(4, 5), nn.Linear(3, 5)

    def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        return {"logits": torch.relu(self.a(x) + self.b(y))}


def test_scores_of_several_inputs_are_picked() -> None:
    model = _Two().double().eval()
    given = (torch.rand(2, 4).double(), torch.rand(2, 3).double())
    found = Explainer(model, output="logits").explain(given, 1)
    assert torch.equal(found.score, model(*given)["logits"][:, 1])
    with pytest.raises(InputError, match="there is 'logits'; give the one that is meant, as in"):
        Explainer(model, output="scores").explain(given, 1)


# --- another number than was meant ------------------------------------------------------------


def test_a_place_in_words_is_one_target() -> None:
    explainer = _segmenter()
    found = explainer.explain(X, "pixel:3,7")
    assert not found.several
    assert torch.equal(found.weights, explainer.explain(X, Pixel(3, 7)).weights)
    assert margin(explainer, X, "pixel:3,7", -0.1).logits(X)[0] == pytest.approx(0.1)


def test_another_box_counts_with_its_own_score() -> None:
    def scores(o: dict[str, Tensor]) -> Tensor:
        raw = o["raw"][:, 4:].transpose(1, 2)
        return raw - raw.mean(1, keepdim=True)

    explainer = _boxes(scores=scores, overlap=None)
    raw = scores(explainer.model.model(X[None]))[0].detach()
    kept = list(explainer.explain(X, [Box(n) for n in range(20)]))
    n = next(n for n, one in enumerate(kept) if _class(one) != _class(kept[0]))
    found = explainer.explain(X, Box(0, rather_than=n))
    assert float(found.score) == pytest.approx(float(kept[0].score - kept[n].score))
    assert str(found.target_name).endswith(str(kept[n].target_name))
    same = explainer.explain(X, Box(0, "dog", rather_than=n))
    first, second = (kept[k].meaning.choice["anchor"] for k in (0, n))
    assert float(same.score) == pytest.approx(float(raw[first, 1] - raw[second, 1]))


def _class(found: Explanation) -> int:
    return int(found.meaning.choice["class"])


def test_a_single_class_has_the_name_of_what_is_there() -> None:
    model = _double(Body(1, _centred))
    explainer = Explainer(model, output=Segmentation(), labels=["dog"])
    there = explainer.explain(X, Mask(np.ones((8, 8), bool), 1))
    assert str(there.target_name).startswith("dog over")
    assert str(explainer.explain(X, Mask("no dog")).target_name).startswith("no dog over")
    for words, _ in explainer.targets(X):
        assert str(explainer.explain(X, words).target_name).startswith(words.split(":")[1])


def test_words_for_what_there_is_mean_that_and_nothing_else() -> None:
    model = _double(Body(5, _centred))
    there = {int(n) for n in model(X[None])[0].argmax(0).unique()}
    first, second = sorted(there)[:2]

    def of(*names: str) -> Explainer:
        labels = list("pqrst")
        labels[first], labels[second] = names
        return Explainer(model, output=Segmentation(), labels=labels)

    for names in (("1", "0"), ("a:b", "c, d"), ("same", "Same"), ("", " "), ("prediction", "x\ny")):
        explainer = of(*names)
        asked = [explainer.explain(X, words) for words, _ in explainer.targets(X)]
        assert {_class(one) for one in asked} == there
    assert _class(of("a:b", "c").explain(X, "mask:a:b")) == first


def test_names_of_a_regression_are_its_own() -> None:
    model = _double(Body(2, lambda m: m.mean((2, 3))))

    def of(*names: str) -> Explainer:
        return Explainer(model, output=Regression(names=names))

    assert of("2020", "2021").explain(X, Value("2021")).target_name == "2021"
    assert of("Age", "age").explain(X, Value("age")).meaning.choice["value"] == 1
    for explainer, target, sentence in (
        (of("age", "age"), "value:age", "several values are called 'age'"),
        (of("a", "b", "c"), "value:a", "3 names were given for 2 numbers"),
    ):
        with pytest.raises(InputError, match=sentence):
            explainer.explain(X, target)


def test_a_volume_is_asked_for_what_is_seen_most() -> None:
    model = nn.Conv3d(1, 3, 1).double().eval()
    with torch.no_grad():
        model.weight.zero_()
        model.weight[2] = 1.0
        model.bias.zero_()
    explainer = Explainer(model, output=Segmentation())
    volume = torch.rand(1, 3, 4, 5, dtype=torch.float64) + 0.1
    assert explainer.explain(volume).meaning.choice["class"] == 2


def test_an_entry_has_no_probability() -> None:
    explainer = Explainer(_double(Body(5, lambda m: m)), output=Scores())
    assert explainer.explain(X, (1, 2, 3)).probability is None


# --- outputs that depend on the image -----------------------------------------------------------


def _dynamic() -> Explainer:
    def above(o: dict[str, Tensor]) -> Tensor:
        return o["raw"][0, 4:].max(0).values > 0.275

    return _boxes(
        boxes=lambda o: (o["raw"][:, :4].transpose(1, 2) * 10 + ANCHORS)[:, above(o)],
        scores=lambda o: o["raw"][:, 4:].transpose(1, 2)[:, above(o)],
    )


def test_another_number_of_boxes_is_another_choice() -> None:
    explainer, fixed = _dynamic(), _boxes()
    other = next(
        image
        for image in (OTHER, X.flip(-1), X * 0.5)
        if len(explainer.logits(image)) != len(explainer.logits(X))
    )
    found = explainer.explain(X, Box(0))
    for image in (other, X):
        again = explainer.explain(image, Box(0))
        assert float(again.score) == pytest.approx(float(fixed.explain(image, Box(0)).score))
    assert found.symbolic_model.follows(torch.stack([X, other])).tolist() == [True, False]
    with pytest.raises(InputError, match="another number of numbers"):
        found.symbolic_model.replay(torch.stack([X, other]))


@pytest.mark.parametrize("change", [{"a": 1.0}, {"a": float("nan")}])
def test_what_cannot_be_explained_offers_nothing(change: dict[str, float]) -> None:
    model = _double(Body(5, lambda m: {"out": m * change["a"]}))
    if change["a"] == 1:
        model.train()
    with pytest.raises(InputError, match=r"training mode|NaN or Inf"):
        Explainer(model, output=Segmentation("out")).targets(X)
    with pytest.raises(InputError, match="could not be run"):
        Explainer(model.eval(), output=lambda o: o["nothing"]).targets(X)
    with pytest.raises(InputError, match="a segmentation is of shape"):
        Explainer(_double(Body(5, lambda m: m.mean((2, 3)))), output=Segmentation()).targets(X)


# --- one sentence -------------------------------------------------------------------------------

WRONG: list[tuple[Callable[[], Explainer], Any, str]] = [
    (_segmenter, "mask:--5", "no names are known"),
    (_segmenter, "mask:²", "no names are known"),
    (_segmenter, "mask:" + "9" * 5000, "no names are known"),
    (_segmenter, "pixel:²,1", "is no place"),
    (_segmenter, Mask([[1], [1, 2]]), "is no array"),
    (_segmenter, Mask(np.arange(1024).reshape(32, 32) == 0), "covers the middle of none of"),
    (_segmenter, Mask, "is not understood"),
    (_segmenter, b"mask", "is not understood"),
    (_segmenter, ("targets", 3), "a list of targets is written"),
    (_segmenter, ("targets", "mask:1"), "a list of targets is written"),
    (_segmenter, Pixel(True, 0), "there is no pixel"),
    (_detector, "box:²", "is no number"),
    (_detector, "box:0:²", "a box has no"),
    (_detector, BoxSide(0, ["left"]), "a box has no"),  # type: ignore[arg-type]
    (lambda: _boxes(background=3), Box(0), "background is 3, but of 3 classes give 0 to 2"),
    (lambda: _boxes(scores=lambda o: o["raw"][:, 7:].mT), Box(0), "boxes are (batch, N, 4) beside"),
    (
        lambda: _boxes(scores=lambda o: o["raw"][:, 6:].mT, background=-1),
        Box(0),
        "background is -1, but of 1 class none would be left",
    ),
    (
        lambda: Explainer(_double(Body(6, lambda m: m.mean((2, 3)))), output=Embedding()),
        Similarity(THREE),
        "one image is compared with, not 3",
    ),
]


def _named(value: Any) -> str:
    """The same in every process: no addresses."""
    return str(getattr(value, "__name__", type(value).__name__))


@pytest.mark.parametrize(("make", "target", "sentence"), WRONG, ids=_named)
def test_a_wrong_target_is_one_sentence(make: Any, target: Any, sentence: str) -> None:
    with pytest.raises(InputError) as error:
        make().explain(X, target)
    assert sentence in str(error.value)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        *(
            (lambda s=setting: Boxes(**s), next(iter(setting)))
            for setting in (
                {"threshold": float("nan")},
                {"threshold": None},
                {"overlap": 2},
                {"overlap": float("nan")},
                {"most": 0},
                {"most": 2.5},
                {"background": 1.5},
                {"background": "dog"},
            )
        ),
        (lambda: Regression(names=3), "names is 3"),  # type: ignore[arg-type]
        (lambda: Regression(names=("a",), units=None), "units is None"),  # type: ignore[arg-type]
        (lambda: output_of("scores:²,multi_label=maybe"), "neither true nor false"),
        (lambda: output_of("regression:names=a,names=b"), "a setting twice"),
        (lambda: Explainer(nn.Flatten().eval(), output=Output), "output is"),
        (lambda: Explainer(nn.Flatten().eval(), labels="labels.txt"), "labels is 'labels.txt'"),
        (lambda: margin(_regressor(), X, "age", "far"), "move is far"),  # type: ignore[arg-type]
    ],
)
def test_a_wrong_setting_is_one_sentence(make: Any, sentence: str) -> None:
    with pytest.raises(InputError) as error:
        make()
    assert sentence in str(error.value)


def test_scores_of_several_axes_are_no_classes_to_attack() -> None:
    dense = Explainer(_double(Body(5, lambda m: m)), output=Scores())
    single = Explainer(Body(5, lambda m: m).eval(), output=Segmentation())
    for run, explainer in ((attack, dense), (certify, dense), (certify, single)):
        with pytest.raises(InputError, match="not class scores; attack"):
            run(explainer, X)  # type: ignore[operator]


# --- results ------------------------------------------------------------------------------------


@pytest.mark.parametrize("attacked", [False, True])
def test_a_result_is_made_anew_when_what_it_is_compared_with_changes(
    tmp_path: Path, attacked: bool
) -> None:
    photo, other = tmp_path / "photo.png", tmp_path / "other.png"
    rng = np.random.default_rng(0)
    for file in (photo, other):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(file)
    explainer = Explainer(_double(Body(6, lambda m: m.mean((2, 3)))), output=Embedding())
    words, out = f"like:{other}", tmp_path / "out"

    def run() -> bool:
        if attacked:
            job = AttackJob(number=words, move=-0.01, budget=1)
            (outcome,) = attack_photos(explainer, [photo], out, job)
        else:
            (outcome,) = explain_photos(explainer, [photo], out, Job(words, "none"))
        assert outcome.error is None
        return outcome.resumed

    assert [run(), run()] == [False, True]
    Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(other)
    assert [run(), run()] == [False, True]


def test_other_functions_are_other_networks() -> None:
    model = _double(Body(5, lambda m: {"out": m.mean((2, 3))}))

    def times(factor: float) -> Callable[[Any], Tensor]:
        return lambda o: o["out"] * factor

    def of(output: Any) -> str:
        return Explainer(model, output=output).fingerprint()

    assert of(lambda o: o["out"]) != of(lambda o: o["out"] * 2)
    assert of(times(2.0)) != of(times(3.0))
    assert of(times(2.0)) == of(times(2.0))
    torch.manual_seed(0)
    assert of(nn.Linear(5, 5)) != of(nn.Linear(5, 5))


def _forged(folder: Path, **choice: Any) -> Path:
    _segmenter().explain(X, Mask(np.ones((8, 8), bool), 1)).save(folder)
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest.pop("digest")
    manifest["results"][0]["meaning"]["choice"].update(choice)
    (folder / MANIFEST).write_text(signed(manifest))
    return folder


@pytest.mark.parametrize(
    "choice",
    [
        {"size": [10**6, 10**6]},
        {"size": [10**4, 10**4], "area": [0, 10**8 + 1]},
        {"size": [-8, -8]},
        {"size": "ab"},
        {"size": None},
        {"size": [0, 0], "area": [0, 0]},
        {"area": [[1]]},
        {"area": "x"},
        {"area": [128, -64]},
    ],
)
def test_a_forged_area_is_one_sentence(tmp_path: Path, choice: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        Explanation.load(_forged(tmp_path / "forged", **choice))


def test_boxes_wherever_they_lie_are_saved_and_drawn(tmp_path: Path) -> None:
    for factor in (1e10, -1.0, 0.0):
        explainer = _boxes(
            boxes=lambda o, f=factor: f * (o["raw"][:, :4].transpose(1, 2) * 10 + ANCHORS)
        )
        found = explainer.explain(X, Box(0))
        again = Explanation.load(found.save(tmp_path / str(factor)))
        assert again.meaning == found.meaning
        assert found.regions().names
