"""Beyond one label: every target is a linear functional of the outputs, and explained exactly."""

from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from guidxmage import Explainer, Explanation, InputError, OffTrailError, Preprocessing
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

Pair = namedtuple("Pair", ["first", "second"])


@dataclass
class Record:
    """What some libraries return."""

    logits: Tensor
    other: Tensor


class Body(nn.Module):
    """A small piecewise-linear network; `read` makes its output of a map (B, 8, h, w)."""

    def __init__(self, channels: int, read: Any, stride: int = 2) -> None:
        super().__init__()
        torch.manual_seed(11)
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, stride, 1), nn.ReLU()
        )
        self.head = nn.Conv2d(8, channels, 1)
        self.read = read

    def forward(self, x: Tensor) -> Any:
        return self.read(self.head(self.body(x)))


def _double(model: nn.Module) -> nn.Module:
    return model.double().eval()


def _anchors() -> Tensor:
    """Of 8×8 cells: the middle of each, and a box as wide as four."""
    places = torch.arange(8, dtype=torch.float64) * 4 + 2
    y, x = torch.meshgrid(places, places, indexing="ij")
    sizes = torch.full_like(x, 16)
    return torch.stack([x, y, sizes, sizes], -1).reshape(64, 4)


ANCHORS = _anchors()


def _detector(threshold: float = -0.1) -> Explainer:
    model = _double(Body(7, lambda m: {"raw": m.flatten(2)}))
    output = Boxes(
        boxes=lambda o: o["raw"][:, :4].transpose(1, 2) * 10 + ANCHORS,
        scores=lambda o: o["raw"][:, 4:].transpose(1, 2),
        form="cxcywh",
        threshold=threshold,
    )
    return Explainer(model, output=output, labels=["cat", "dog", "cup"])


def _segmenter(labels: list[str] | None = None) -> Explainer:
    model = _double(Body(5, lambda m: {"out": m * 10, "aux": m}))
    return Explainer(model, output=Segmentation("out"), labels=labels)


def _regressor() -> Explainer:
    model = _double(Body(2, lambda m: m.mean((2, 3))))
    return Explainer(model, output=Regression(names=("age", "mass"), units=("years", "kg")))


def _encoder() -> Explainer:
    return Explainer(_double(Body(6, lambda m: m.mean((2, 3)))), output=Embedding())


X = torch.rand(3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
OTHER = torch.rand(3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
AREA = np.zeros((32, 32), bool)
AREA[8:20, 4:30] = True

ASKED: list[tuple[Any, Any]] = [
    *((_detector, t) for t in (Box(0), Box(1), Box(0, "cup"), Box(0, rather_than=1))),
    (_detector, Box(0, rather_than="suppressed")),
    *((_detector, BoxSide(0, s)) for s in ("left", "top", "right", "bottom", "width", "center_y")),
    *((_segmenter, t) for t in (Mask(AREA), Mask(AREA, 2), Mask(AREA, 2, 3), Mask(AREA, 2, None))),
    *(
        (_segmenter, t)
        for t in ("top1", Pixel(3, 7), Pixel(31, 31, 1, "runner-up"), Pixel(0, 0, 1, 2))
    ),
    *((_segmenter, t) for t in ((2, 3, 4), torch.linspace(-1, 1, 320).reshape(5, 8, 8))),
    *((_regressor, t) for t in (Value("mass"), Value(0), "value:age")),
    *((_encoder, t) for t in (Similarity(OTHER), Similarity(OTHER, torch.ones(6)))),
]


@pytest.mark.parametrize(
    ("make", "target"), ASKED, ids=lambda v: getattr(v, "__name__", type(v).__name__)
)
def test_every_target_is_exact(make: Any, target: Any) -> None:
    explainer = make()
    found = explainer.explain(X, target, depth="all")
    cotangent = found.symbolic_model.cotangent[0, 0]
    Z = X.clone().requires_grad_()
    flat = explainer.model(Z[None])[0]
    assert float(found.score) == pytest.approx(float((flat @ cotangent).detach()), abs=1e-12)
    (gradient,) = torch.autograd.grad(flat @ cotangent, Z)
    assert torch.allclose(found.weights, gradient, rtol=0, atol=1e-12)
    total = float(found.contributions.sum()) + float(found.bias)
    assert total == pytest.approx(float(found.score), abs=1e-10)
    assert found.exactness == "on region"
    for one in found.placements:
        total = float(one.whole.sum()) + float(one.unplaced)
        assert total == pytest.approx(float(found.score), abs=1e-10)


def test_a_side_is_where_the_box_is() -> None:
    explainer = _detector()
    raw = explainer.model.model(X[None])["raw"][0]
    sides = {}
    for side in ("left", "right", "top", "bottom", "width", "height", "center_x"):
        found = explainer.explain(X, BoxSide(0, side))
        sides[side] = float(found.score)
        assert found.meaning is not None
        assert found.meaning.unit == "px"
    anchor = found.meaning.choice["anchor"]
    x, y, w, h = (raw[:4, anchor] * 10 + ANCHORS[anchor]).tolist()
    assert sides["left"] == pytest.approx(x - w / 2)
    assert sides["bottom"] != pytest.approx(sides["top"])
    assert sides["right"] - sides["left"] == pytest.approx(w) == pytest.approx(sides["width"])
    assert sides["height"] == pytest.approx(h)
    assert sides["center_x"] == pytest.approx(x)
    assert found.meaning.box == pytest.approx((x - w / 2, y - h / 2, x + w / 2, y + h / 2))


def test_shares_of_the_picture_are_pixels() -> None:
    model = _double(Body(6, lambda m: m.flatten(2)))
    pick = {"boxes": lambda o: o[:, :4].mT.sigmoid(), "scores": lambda o: o[:, 4:].mT}
    shares = Explainer(model, output=Boxes(**pick, unit="share", overlap=None, threshold=-9))
    pixels = Explainer(model, output=Boxes(**pick, overlap=None, threshold=-9))
    as_pixels = float(shares.explain(X, BoxSide(0, "left")).score)
    assert as_pixels == pytest.approx(32 * float(pixels.explain(X, BoxSide(0, "left")).score))


def test_what_is_dropped_overlaps_what_is_kept() -> None:
    explainer = _detector()
    found = explainer.explain(X, Box(0, rather_than="suppressed"))
    choice = found.meaning.choice
    raw = explainer.model.model(X[None])["raw"][0, 4:]
    difference = (
        raw[choice["class"], choice["anchor"]] - raw[choice["class"], choice["rather_than"]]
    )
    assert float(found.score) == pytest.approx(float(difference))
    assert float(found.score) > 0


def test_the_margin_over_a_mask_is_summed() -> None:
    explainer = _segmenter(["sky", "tree", "road", "dog", "cat"])
    values = explainer.model.model(X[None])["out"][0]
    found = explainer.explain(X, Mask(AREA, "road", "dog"))
    small = torch.from_numpy(AREA[2::4, 2::4])
    assert float(found.score) == pytest.approx(float((values[2] - values[3])[small].sum()))
    best = values.argmax(0)
    name = ["sky", "tree", "road", "dog", "cat"][int(best[0, 0])]
    ranked = values.sort(0, descending=True).values
    shown = explainer.explain(X, f"mask:{name}")
    margin = (ranked[0] - ranked[1])[best == best[0, 0]].sum()
    assert float(shown.score) == pytest.approx(float(margin))
    assert name in str(shown.target_name)
    assert "runner-up" in str(shown.target_name)


def test_a_mask_of_the_photo_is_cropped_like_the_photo() -> None:
    known = Preprocessing(resize=32, crop=(32, 32), mean=(0.5,) * 3, std=(0.5,) * 3)
    model = _double(Body(5, lambda m: m))
    explainer = Explainer(model, preprocessing=known, output=Segmentation())
    photo = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    mask = np.zeros((64, 96), bool)
    mask[:32, 48:] = True
    found = explainer.explain(photo, Mask(mask, 1))
    cropped = known.crop_labels(mask)
    again = explainer.explain(photo, Mask(cropped, 1))
    assert found.meaning == again.meaning
    assert torch.equal(found.weights, again.weights)


def test_a_single_score_at_each_place_is_binary() -> None:
    explainer = Explainer(_double(Body(1, lambda m: m)), output=Segmentation())
    values = explainer.model.model(X[None])[0, 0]
    for class_, sign in ((1, 1.0), (0, -1.0)):
        found = explainer.explain(X, Mask(np.ones((8, 8), bool), class_))
        assert float(found.score) == pytest.approx(sign * float(values.sum()))


def test_volumes_have_places_too() -> None:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Conv3d(1, 4, 3, 2, 1), nn.ReLU(), nn.Conv3d(4, 3, 1)).double().eval()
    explainer = Explainer(model, output=Segmentation())
    volume = torch.rand(1, 6, 8, 10, dtype=torch.float64)
    values = model(volume[None])[0]
    found = explainer.explain(volume, Pixel(4, 6, 1, z=2))
    assert float(found.score) == pytest.approx(float(values[1, 1, 2, 3]))
    area = np.zeros((6, 8, 10), bool)
    area[:4] = True
    margin = explainer.explain(volume, Mask(area, 2, 0))
    assert float(margin.score) == pytest.approx(float((values[2] - values[0])[:2].sum()))
    for wrong in (Pixel(4, 6), Mask(np.ones((8, 10), bool))):
        with pytest.raises(InputError, match=r"6×8×10 pixels|of the size 3×4×5"):
            explainer.explain(volume, wrong)


def test_the_ranking_of_two_images_is_a_difference_of_cosines() -> None:
    explainer = _encoder()
    a, b = OTHER, X.flip(-1)
    own, first, second = (explainer.logits(image) for image in (X, a, b))
    wanted = own @ (first / first.norm() - second / second.norm())
    assert float(explainer.explain(X, Similarity(a, b)).score) == pytest.approx(float(wanted))
    cosine = torch.nn.functional.cosine_similarity(own, first, dim=0)
    found = explainer.explain(X, Similarity(a))
    assert float(found.score) == pytest.approx(float(cosine))
    assert found.meaning.choice["length"] == pytest.approx(float(own.norm()))


# --- what comes out of a network ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("read", "output"),
    [
        (lambda m: {"a": m.mean((2, 3)), "b": m}, "a"),
        (lambda m: (m, m.mean((2, 3))), 1),
        (lambda m: Pair(m, m.mean((2, 3))), "second"),
        (lambda m: Record(m.mean((2, 3)), m), "logits"),
        (lambda m: [m.mean((2, 3))], lambda o: o[0]),
        (lambda m: m.mean((2, 3)), Scores()),
    ],
)
def test_class_scores_are_picked(read: Any, output: Any) -> None:
    plain = Explainer(_double(Body(4, lambda m: m.mean((2, 3)))), labels=list("abcd"))
    picked = Explainer(_double(Body(4, read)), output=output, labels=list("abcd"))
    for target in ("top2", "b", ("contrast", 0, 1), "all", 3):
        one, other = plain.explain(X, target), picked.explain(X, target)
        assert torch.equal(one.weights, other.weights)
        assert one.target_name == other.target_name
        assert list(one.bias_by_layer) == list(other.bias_by_layer)
        if not one.several:
            assert one.probability == other.probability
    batch = torch.stack([X, OTHER])
    assert torch.equal(plain.explain(batch).weights, picked.explain(batch).weights)


def test_one_score_an_image() -> None:
    explainer = Explainer(_double(Body(1, lambda m: m.mean((1, 2, 3)))), output=Scores())
    found = explainer.explain(X, 0)
    assert float(found.score) == pytest.approx(float(explainer.model.model(X[None])[0]))


def test_several_labels_have_no_probability_among_all() -> None:
    model = _double(Body(4, lambda m: m.mean((2, 3))))
    assert Explainer(model, output=Scores(multi_label=True)).explain(X, 1).probability is None
    assert Explainer(model, output=Scores()).explain(X, 1).probability is not None


def test_lists_and_batches_of_targets() -> None:
    explainer = _detector()
    found = explainer.explain(
        torch.stack([X, X]), ("targets", [Box(0), BoxSide(0, "left"), "box:1"])
    )
    assert found.weights.shape[:2] == (2, 3)
    assert found.target_name[0] == found.target_name[1]
    parts = found.split()
    assert [part.meaning.unit for part in parts[:3]] == ["", "px", ""]
    alone = explainer.explain(X, BoxSide(0, "left"))
    assert torch.allclose(parts[4].weights, alone.weights, rtol=0, atol=1e-13)
    assert parts[4].target_name == alone.target_name
    assert torch.equal(found[0][1].weights, parts[1].weights)
    words = explainer.explain(X, "box:0,box:0:left")
    each = explainer.explain(torch.stack([X, OTHER]), [Box(0), BoxSide(0, "left")])
    assert torch.allclose(each[0].weights, found[0][0].weights, rtol=0, atol=1e-13)
    assert each[1].meaning.unit == "px"
    assert words.target_name == [
        "box 0: " + found.target_name[0][0].split(": ")[1],
        alone.target_name,
    ]


def test_what_an_image_offers_can_be_asked() -> None:
    for make in (_detector, _segmenter, _regressor):
        explainer = make()
        offers = explainer.targets(X)
        assert offers
        for words, _ in offers:
            explainer.explain(X, words)


def test_results_are_saved_and_read(tmp_path: Path) -> None:
    explainer = _detector()
    found = explainer.explain(torch.stack([X, OTHER]), [Box(0), BoxSide(0, "top")])
    again = Explanation.load(found.save(tmp_path / "boxes"), explainer)
    assert again.output == "boxes"
    assert again.meanings == found.meanings
    assert again.target_name == found.target_name
    assert torch.equal(again.weights, found.weights)
    plain = _segmenter().explain(X, "top1")
    assert Explanation.load(plain.save(tmp_path / "mask")).meaning == plain.meaning


def test_figures_and_certificates_are_there_for_other_outputs() -> None:
    found = _detector().explain(X, BoxSide(0, "left"))
    assert found.figure() is not None
    (evidence,) = found.certificate()
    assert evidence.holds


def test_inside_near_and_elsewhere_add_up(tmp_path: Path) -> None:
    found = _detector().explain(X, BoxSide(0, "left"), depth="default")
    table = found.objects()
    assert {row.name for row in table} <= {"inside", "near", "elsewhere"}
    assert table.whole + table.unplaced == pytest.approx(float(found.score), abs=1e-9)
    left, top, right, bottom = found.meaning.box
    middles = np.arange(32) + 0.5
    wide = ((middles >= left) & (middles <= right)).sum()
    tall = ((middles >= top) & (middles <= bottom)).sum()
    assert table["inside"].pixels == wide * tall
    masked = _segmenter().explain(X, Mask(AREA, 1))
    assert masked.objects()["inside"].pixels == 16 * AREA[2::4, 2::4].sum(), "cells of the output"
    two = _detector().explain(X, [Box(0), Box(1)])
    assert "inside" not in two.regions().names.values(), "they are about two places"


def test_boxes_lie_on_the_photo_as_well() -> None:
    known = Preprocessing(resize=32, crop=(32, 32), mean=(0.5,) * 3, std=(0.5,) * 3)
    model = _detector().model.model
    pick = {
        "boxes": lambda o: o["raw"][:, :4].transpose(1, 2) * 10 + ANCHORS,
        "scores": lambda o: o["raw"][:, 4:].transpose(1, 2),
    }
    output = Boxes(**pick, form="cxcywh", threshold=-9)
    explainer = Explainer(model, preprocessing=known, output=output)
    photo = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    found = explainer.explain(photo, Box(0), space="photo")
    labels = found.regions().labels
    left, top, right, bottom = found.meaning.box
    # The photo is halved, and 8 of its 48 columns are cut off on each side.
    rows, columns = np.nonzero(labels == 1)
    assert abs(columns.min() / 2 - 8 - max(left, 0)) <= 1
    assert abs((columns.max() + 1) / 2 - 8 - min(right, 32)) <= 1
    assert abs(rows.min() / 2 - max(top, 0)) <= 1
    assert abs((rows.max() + 1) / 2 - min(bottom, 32)) <= 1


def test_slices_of_a_volume_are_drawn(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv3d(1, 3, 3, padding=1), nn.ReLU()).eval()
    explainer = Explainer(model, output=Segmentation())
    found = explainer.explain(torch.rand(1, 30, 6, 5), Pixel(2, 3, 1, z=29))
    found.slices().savefig(tmp_path / "slices.png")
    assert (tmp_path / "slices.png").stat().st_size > 1000
    with pytest.raises(InputError, match="depth × height × width"):
        _detector().explain(X, Box(0)).slices()


# --- what there is not -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "target", "sentence"),
    [
        (_detector, Box(99), "there is no box 99; kept are 0"),
        (_detector, Box(True), "there is no box True"),
        (_detector, BoxSide(0, "middle"), "a box has no 'middle'; choose one of left, top"),
        (_detector, Box(0, "bird"), "no class is called 'bird'; there is cat, dog, cup"),
        (_detector, "box:x", "box 'x' is no number"),
        (_detector, Mask(AREA), "Mask is asked of Segmentation; this explainer's output is Boxes"),
        (_detector, [], "the list of targets is empty"),
        (_detector, "cat:1", "is not understood; write"),
        (_segmenter, Mask(np.zeros((32, 32), bool), 1), "the mask is empty"),
        (_segmenter, Mask(np.zeros((7, 9), bool), 1), "the mask is 7×9; give one of 8×8"),
        (
            _segmenter,
            Mask(np.zeros((32, 32)), 1),
            "a mask holds true or false for each pixel, of the size 8×8",
        ),
        (_segmenter, Mask(9), "class 9 is out of range: there are class 0 to 4"),
        (_segmenter, Pixel(32, 0), "there is no pixel y = 32, x = 0"),
        (_segmenter, Pixel(-1, 0), "there is no pixel y = -1"),
        (_segmenter, (5, 0, 0), "there is no entry (5, 0, 0); the output is (batch, 5, 8, 8)"),
        (_segmenter, torch.ones(5), "a cotangent of shape (5,) does not fit"),
        (_segmenter, torch.full((5, 8, 8), torch.nan), "holds NaN"),
        (_segmenter, 2.5, "is not understood"),
        (_regressor, Value("height"), "no value is called 'height'; there is age, mass"),
        (_regressor, Value(7), "value 7 is out of range"),
        (_encoder, "top1", "what is this image to be like?"),
        (_encoder, Similarity(torch.ones(3)), "a vector of 3 numbers is compared"),
        (_encoder, Similarity(torch.zeros(6)), "the vector to compare with is 0"),
    ],
)
def test_a_target_that_there_is_not(make: Any, target: Any, sentence: str) -> None:
    with pytest.raises(InputError) as error:
        make().explain(X, target)
    assert sentence in str(error.value)


def test_no_box_at_all() -> None:
    model = _double(Body(5, lambda m: m.flatten(2).mT))
    pick = {"boxes": lambda o: o[..., :4], "scores": lambda o: o[..., 4:]}
    explainer = Explainer(model, output=Boxes(**pick, threshold=1e9))
    with pytest.raises(InputError, match="no box scores above the threshold"):
        explainer.explain(X, Box(0))
    assert explainer.targets(X) == []


@pytest.mark.parametrize(
    ("read", "output", "sentence"),
    [
        (lambda m: {"a": m, "b": m}, "c", "has no 'c'; there is 'a' and 'b'"),
        (lambda m: (m,), 3, "has no 3; there is index 0 to 0"),
        (lambda m: Pair(m, m), "third", "has no 'third'; there is 'first' and 'second'"),
        (lambda m: {"a": [m]}, "a", "is a list where a tensor is expected"),
        (lambda m: {"a": m.argmax(1)}, "a", "which has no slope"),
        (lambda m: {"a": m.sum()}, "a", "the first dimension must be the batch"),
        (lambda m: m, Boxes("boxes", "scores"), "there is one tensor of shape"),
        (lambda m: m, Segmentation(lambda o: o.mean(1)), "a segmentation is of shape"),
        (lambda m: m, Boxes(lambda o: o, lambda o: o), "boxes are (batch, N, 4)"),
        (lambda m: m, 2.5, "output is 2.5; give a key"),
    ],
)
def test_an_output_that_there_is_not(read: Any, output: Any, sentence: str) -> None:
    with pytest.raises(InputError) as error:
        Explainer(_double(Body(4, read)), output=output).explain(X)
    assert sentence in str(error.value)


# --- choices are decisions ---------------------------------------------------------------------


def test_a_replay_tells_when_a_choice_changes() -> None:
    explainer = _detector()
    found = explainer.explain(X, Box(0))
    Z = torch.stack([X, X + 1e-9, OTHER])
    replay = found.symbolic_model.replay(Z)
    assert replay.choices is not None
    assert replay.choices.tolist() == [True, True, False]
    assert replay.follows.tolist() == found.symbolic_model.follows(Z).tolist()
    assert replay.follows[0]
    assert not replay.follows[2]
    assert float(replay.network_score[2]) != pytest.approx(float(replay.score[2]))


class Bright(nn.Module):
    """A box for each pixel of a row, which scores as bright as the pixel is."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        scores = torch.relu(x + 1).mean(1).flatten(1)[..., None]
        return {
            "boxes": scores.expand(-1, -1, 4) * 0 + ANCHORS[: scores.shape[1]],
            "scores": scores,
        }


def test_a_choice_can_change_on_the_same_trail() -> None:
    explainer = Explainer(Bright().eval(), output=Boxes(overlap=None), dtype=torch.float64)
    dim = torch.tensor([0.5, 0.4]).double().expand(3, 1, 2).clone()
    bright = torch.tensor([0.5, 0.6]).double().expand(3, 1, 2).clone()
    model = explainer.explain(dim, Box(0)).symbolic_model
    replay = model.replay(torch.stack([dim, bright]))
    assert sum(int(site[1]) for site in replay.distance.values()) == 0
    assert replay.choices.tolist() == replay.follows.tolist() == [True, False]
    assert model(dim) == pytest.approx(1.5)
    with pytest.raises(OffTrailError, match="another choice would be made"):
        model(bright)
    assert model(bright, check=False) == pytest.approx(1.5)


def test_class_scores_have_no_choices() -> None:
    explainer = Explainer(_double(Body(4, lambda m: m.mean((2, 3)))))
    found = explainer.explain(X)
    assert found.symbolic_model.replay(X[None]).choices is None
    assert found.meaning is None
