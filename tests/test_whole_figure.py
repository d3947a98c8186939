"""The whole score on the picture: what is drawn, what is said, and that it adds up."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.text import Text
from PIL import Image
from scipy.ndimage import gaussian_filter
from torch import nn

from guidxmage import Contrast, Explainer, Explanation, InputError, Preprocessing
from guidxmage.objects.label_map import LabelMap
from guidxmage.view import Panel, PlacedMap, figure, panel_html, save_figure, whole_image
from guidxmage.view.canvas import Canvas
from guidxmage.view.diverging import diverging, over_photo
from guidxmage.view.outlines import LINE_HEIGHT, name_places
from guidxmage.view.panel import whole_balance, whole_parts
from guidxmage.view.placed import in_order
from guidxmage.view.reflecting import reflecting
from tests.test_certificate import seeded
from tests.test_view import Row as PlainRow
from tests.test_view import Table, bar_lengths, make_panel, pictures, words

LABELS = ["cat", "dog", "eel", "fox"]


class Row(PlainRow):
    """An object on which something of the whole map lies."""

    def __init__(self, name: str, total: float, whole: float, **more: Any) -> None:
        super().__init__(name, total, **more)
        self.whole = whole


def placed(shape: tuple[int, int] = (20, 30), seed: int = 5, **changes: Any) -> PlacedMap:
    values = np.random.default_rng(seed).normal(size=shape)
    made = PlacedMap("layer.2", (5, 8), 4.0, 3.0, values, 0.08)
    return replace(made, **changes)


def whole_panel(shape: tuple[int, ...] = (3, 20, 30), **changes: Any) -> Panel:
    size = (shape[-2], shape[-1])
    depths = (placed(size), placed(size, 6, site="input", grid=size, stride=1.0))
    score = depths[0].total + 0.08
    given = {"depths": depths, "score": score, "sentence": "tabby 9.4: on the picture +9.3"}
    return make_panel(shape, **{**given, **changes})


def network() -> nn.Module:
    return seeded(
        nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 6, 3, 2, 1), nn.ReLU(),
        nn.Conv2d(6, 6, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(6, 4),
    )  # fmt: skip


@pytest.fixture(scope="module")
def explainer() -> Explainer:
    way = Preprocessing(mean=(0.4, 0.5, 0.6), std=(0.25, 0.2, 0.3))
    return Explainer(network(), preprocessing=way, labels=LABELS, name="tiny", dtype=torch.float64)


def photo(seed: int = 3) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(0, 256, (16, 24, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def explanation(explainer: Explainer) -> Explanation:
    return explainer.explain(photo(), target="top1", depth=["default", "all"])


# --- colours -------------------------------------------------------------------------------------


def test_zero_is_white_and_both_signs_are_as_strong() -> None:
    colors = diverging(np.array([-2.0, -1.0, 0.0, 1.0, 2.0]), 1.0).astype(int)
    assert (colors[2] == 255).all()
    assert (colors[0] == colors[1]).all()
    assert (colors[3] == colors[4]).all()
    blue, red = colors[1], colors[3]
    assert blue[2] > blue[0] + 80
    assert red[0] > red[2] + 80
    # In grey both are as dark, so that the sign must be told otherwise: by text.
    luminance = np.array([0.299, 0.587, 0.114])
    assert abs(blue @ luminance - red @ luminance) < 20


def test_colours_differ_for_colour_blind_readers() -> None:
    """Without red cones (a projection by Viénot, Brettel and Mollon) both signs stay apart."""
    to_lms = np.array(
        [[17.8824, 43.5161, 4.11935], [3.45565, 27.1554, 3.86714], [0.03, 0.184, 1.467]]
    )
    protan = np.array([[0, 2.02344, -2.52581], [0, 1, 0], [0, 0, 1]])
    deutan = np.array([[1, 0, 0], [0.494207, 0, 1.24827], [0, 0, 1]])
    ends = diverging(np.array([-1.0, -0.5, 0.5, 1.0]), 1.0).astype(float)
    for missing in (protan, deutan):
        seen = (np.linalg.inv(to_lms) @ missing @ to_lms @ ends.T).T
        assert all(np.abs(a - b).max() > 60 for a, b in combinations(seen, 2))


def test_the_photograph_lies_beneath() -> None:
    ground = np.zeros((4, 6, 3), np.uint8)
    ground[:, 3:] = 255
    over = over_photo(ground, np.zeros((4, 6)), 1.0)
    assert (over[:, 3:] == 255).all()
    assert 150 < over[0, 0, 0] < 230
    assert (over_photo(None, np.zeros((4, 6)), 0.0) == 255).all()


@pytest.mark.parametrize("sigma", [0.0, 1.5, 23.9, 24.0, 40.0, 300.0])
def test_smoothing_keeps_the_sum_whichever_way_it_is_computed(sigma: float) -> None:
    values = np.random.default_rng(0).normal(size=(3, 40, 55))
    smooth = reflecting(values, [sigma, sigma], (1, 2))
    wanted = gaussian_filter(values, sigma, mode="reflect", axes=(1, 2)) if sigma else values
    np.testing.assert_allclose(smooth, wanted, atol=1e-14)
    np.testing.assert_allclose(smooth.sum((1, 2)), values.sum((1, 2)), atol=1e-10)


def test_maps_are_drawn_in_score_per_hundredth_of_the_picture() -> None:
    for size in ((20, 30), (500, 900)):
        flat = placed(size, values=np.full(size, 7.0 / (size[0] * size[1])))
        np.testing.assert_allclose(flat.drawn(448), 0.07, rtol=1e-9)
    hill = np.exp(-(((np.mgrid[:900, :700] - 350) / 200) ** 2).sum(0))
    one = placed((900, 700), values=hill)
    assert one.drawn(448).mean() * 100 == pytest.approx(one.total, rel=1e-2)
    small = placed((30, 20))
    assert small.drawn(448).mean() * 100 == pytest.approx(small.total, rel=1e-10)


def test_the_bare_map_has_a_pixel_for_each_pixel() -> None:
    ground = np.asarray(Image.new("RGB", (30, 20), (200, 120, 40)))
    assert whole_image(placed(), ground).shape == (20, 30, 3)
    pale = whole_image(placed(), ground, scale=1e9).reshape(-1, 3)
    assert np.ptp(pale, axis=0).max() == 0


# --- the page ------------------------------------------------------------------------------------


def test_the_page_states_its_numbers() -> None:
    panel = whole_panel(probability=0.951, contributions=np.full((1, 20, 30), 0.5 / 600))
    fig = figure([panel], title="cat.jpg — net", about="space: pixels  ·  2026-11-30")
    said = words(fig)
    assert {"cat.jpg — net", "space: pixels  ·  2026-11-30", "probability 95.1 %"} <= set(said)
    whole, equation = panel.depths[0].total, panel.equation()
    assert f"score {whole + 0.08:.2f}".replace("-", "−") in equation
    assert "Σ pixels 0.50" in equation
    assert f"placed bias {whole - 0.5:.2f}".replace("-", "−") in equation
    assert "no place 0.08" in equation
    assert any(equation in text for text in said)
    assert "the whole score, cut at stride 4 (layer.2)" in said
    assert {"(a)", "(b)", "(c)", "(d)", "the pixels alone", "on the picture", "no place"} <= set(
        said
    )
    assert {"pixels", "20×30 pixels, Σ "} & {text[:15] for text in said}
    assert any(text.startswith("5×8 cells, Σ") for text in said)
    assert any("smoothed, σ = 3.0 px" in text for text in said)
    assert any(text.endswith("picture\N{NO-BREAK SPACE}+9.3") for text in said)


def test_all_whole_maps_share_one_scale() -> None:
    strong, weak = placed(), placed(values=placed().values / 100)
    fig = figure([whole_panel(depths=(strong, weak))])
    # Input, the map, and the strip from fine to coarse, then distribution and saliency map.
    shown = pictures(fig)
    assert len(shown) == 6
    main, first, second = shown[1:4]
    assert first.std() == pytest.approx(main.std(), rel=0.05)
    assert second.std() < 0.1 * first.std()
    scale = float(np.abs(strong.drawn(672)).max())
    given = pictures(figure([whole_panel(depths=(strong, weak))], whole_scale=scale))
    assert (given[1] == main).all()
    assert "as given" in " ".join(words(figure([whole_panel()], whole_scale=2.0)))
    with pytest.raises(InputError, match="scale"):
        figure([whole_panel()], whole_scale=-1.0)


def test_an_input_that_rows_share_is_drawn_once() -> None:
    same = [whole_panel(seed=n) for n in range(3)]
    assert len(pictures(figure(same))) == 3 * 5 + 1
    other = replace(same[1], image=Image.new("RGB", (30, 20), (1, 2, 3)))
    assert len(pictures(figure([same[0], other, same[2]]))) == 3 * 5 + 3
    assert words(figure(same)).count("(a)") == 1


def test_one_depth_has_no_strip() -> None:
    fig = figure([whole_panel(depths=(placed(),))])
    assert "the same score at every depth" not in words(fig)
    assert len(pictures(fig)) == 4


def test_depths_lie_in_order_and_in_lines() -> None:
    grids = [(n, n) for n in (7, 112, 14, 28)]
    mixed = [placed(grid=grid, site=f"s{grid}") for grid in grids]
    pixel = placed(site="input", grid=(112, 112))
    assert [one.grid[0] for one in in_order([*mixed, pixel])] == [112, 112, 28, 14, 7]
    assert in_order([*mixed, pixel])[0].is_pixels
    many = tuple(placed(site=f"layer{n}", grid=(n, n)) for n in range(2, 20))
    shown = pictures(figure([whole_panel(depths=many)]))
    assert len(shown) == 2 + len(many) + 2


def test_without_whole_maps_the_figure_is_the_papers() -> None:
    mixed = [whole_panel(), make_panel()]
    assert len(pictures(figure(mixed))) == 6
    assert "the pixels alone" not in words(figure(mixed))


@pytest.mark.parametrize(
    ("shape", "image"),
    [((3, 32, 32), True), ((1, 28, 28), False), ((3, 20, 1000), True), ((3, 900, 7), True),
     ((1, 1, 1), True), ((3, 2000, 3000), True)],
)  # fmt: skip
def test_any_shape_has_a_page(shape: tuple[int, ...], image: bool, tmp_path: Path) -> None:
    fig = figure([whole_panel(shape, image=None if not image else _picture(shape))])
    with Image.open(save_figure(fig, tmp_path / "figure.png")) as drawn:
        assert drawn.width <= 2000
        assert drawn.height <= 2400
    assert max(max(picture.shape) for picture in pictures(fig)) <= 672


def _picture(shape: tuple[int, ...]) -> Image.Image:
    return Image.new("RGB", (shape[-1], shape[-2]), (200, 120, 40))


def test_maps_of_another_size_are_refused() -> None:
    with pytest.raises(InputError, match="20×31 but the contributions are 20×30"):
        whole_panel(depths=(placed((20, 31)),))
    with pytest.raises(InputError, match="sigma"):
        placed(sigma=-1.0)
    with pytest.raises(InputError, match="NaN"):
        placed(values=np.full((20, 30), np.nan))


def test_bars_of_the_whole_and_of_the_pixels_show_the_same_objects() -> None:
    rows = [Row(f"object {n}", (-1.0) ** n, float(n), label=n) for n in range(12)]
    panel = whole_panel(objects=Table(rows, Row("rest", 0.25, 0.5)))
    named = [part.name for part in whole_parts(panel)]
    assert named == [f"object {n}" for n in range(11, 3, -1)] + ["4 others", "rest"]
    assert [part.value for part in whole_parts(panel)][-2:] == [0 + 1 + 2 + 3, 0.5]
    assert [part.name for part in whole_balance(panel)] == ["on the picture", "no place", "score"]
    lengths = bar_lengths(figure([panel]))
    assert len(lengths) == 10 + 3 + 10 + 4
    assert lengths[:8] == sorted(lengths[:8], reverse=True)


# --- labels --------------------------------------------------------------------------------------


def extents(fig: Any) -> list[tuple[str, Any]]:
    fig.canvas.draw()
    renderer = fig.canvas.get_renderer()
    texts = [one for one in fig.findobj(Text) if one.get_text().strip() and one.get_visible()]
    return [(one.get_text(), one.get_window_extent(renderer)) for one in texts]


NAMES = [
    "cup",
    "a very long name of a silver spoon that lies in front",
    "猫の皿",
    "größer",
    "x" * 60,
]


@pytest.mark.parametrize("count", [0, 3, 8, 30])
def test_no_text_lies_over_another_or_beyond_the_page(count: int) -> None:
    labels = (np.arange(64)[:, None] // 8 * 8 + np.arange(64)[None] // 8).astype(int) % max(
        count, 1
    )
    rows = [Row(NAMES[n % 5] + str(n), 1.0 - n, 2.0 + n, label=n) for n in range(count)]
    sentence = (
        "tabby 9.41: " + ", ".join(f"{row.name[:20]} +2.5" for row in rows) + ", no place +0.1"
    )
    objects = {"objects": Table(rows, Row("rest", 0.5, 0.2)), "labels": labels} if count else {}
    panels = [
        whole_panel(
            (3, 64, 64), class_name="a class " * 9, sentence=sentence, note="n" * 90, **objects
        )
        for _ in range(2)
    ]
    fig = figure(panels, title="t" * 300, about="  ·  ".join(["space: pixels"] * 30))
    found = extents(fig)
    width, height = fig.get_size_inches() * fig.dpi
    for text, box in found:
        assert box.x0 >= 0, text
        assert box.x1 <= width + 1, text
        assert 0 <= box.y0 <= box.y1 <= height, text
    for (one, a), (other, b) in combinations(found, 2):
        across = min(a.x1, b.x1) - max(a.x0, b.x0)
        down = min(a.y1, b.y1) - max(a.y0, b.y0)
        # Boxes of letters that reach below and above the line may touch.
        assert across <= 2 or down <= 5, (one, other)


def test_names_are_never_written_over_each_other() -> None:
    labels = np.arange(16)[:, None].repeat(200, 1).repeat(3, 0).astype(int)
    places = name_places(labels, {n: f"name {n}" for n in range(16)})
    assert len(places) < 16
    for (row, column), (other_row, other_column) in combinations(places.values(), 2):
        assert abs(row - other_row) >= LINE_HEIGHT - 1 or abs(column - other_column) > 50


def test_texts_are_shortened_and_wrapped_by_their_width() -> None:
    canvas = Canvas(400, 100)
    assert canvas.shortened("short", 200) == "short"
    cut = canvas.shortened("w" * 100, 200)
    assert cut.endswith("…")
    assert canvas.width_of(cut) <= 200 < canvas.width_of(cut[:-1] + "w…")
    lines = canvas.wrapped("one two three four five six seven eight nine ten", 120)
    assert " ".join(lines) == "one two three four five six seven eight nine ten"
    assert all(canvas.width_of(line) <= 120 for line in lines)
    assert canvas.width_of("猫猫") > 0


# --- explanations --------------------------------------------------------------------------------


def masks() -> LabelMap:
    labels = np.zeros((16, 24), dtype=np.int32)
    labels[2:9, 3:12], labels[8:14, 14:22], labels[:2] = 1, 2, 255
    return LabelMap(labels, {0: "table", 1: "cup", 2: "spoon"})


@pytest.mark.parametrize("space", ["pixels", "photo", "input"])
def test_objects_rest_and_no_place_are_the_score(explainer: Explainer, space: Any) -> None:
    found = explainer.explain(photo(), ("top", 2), space=space, depth=["default", "all"])
    for part in found.split():
        for one in part.placements:
            table = part.objects(masks(), depth=one.depth.site)
            rows = [*table.rows, table.rest]
            total = sum(row.whole or 0.0 for row in rows) + float(one.unplaced)
            assert total == pytest.approx(float(part.score), rel=1e-10)
            for row in rows:
                assert row.whole == pytest.approx(row.whole_positive + row.whole_negative)
                assert row.bias == pytest.approx(row.whole - row.sum)


def test_the_figure_takes_what_is_stored_else_what_can_be_made(
    explainer: Explainer, explanation: Explanation, tmp_path: Path
) -> None:
    plain = explainer.explain(photo())
    assert plain.panels()[0].depths == ()
    made = plain._with_depths().panels()[0].depths
    stored = explanation.panels()[0].depths
    assert [one.site for one in made] == [one.site for one in stored]
    for one, other in zip(made, stored, strict=True):
        np.testing.assert_allclose(one.values, other.values, atol=1e-12)
    assert "the pixels alone" in words(plain.figure())
    assert "the pixels alone" not in words(plain.figure(later=False))
    # Loaded without its network: the paper's panels alone, as before.
    alone = Explanation.load(plain.save(tmp_path / "plain"))
    assert len(pictures(alone.figure(masks()))) == 3
    assert "2026" not in " ".join(words(alone.figure(date="2026-11-30")))
    kept = Explanation.load(explanation.save(tmp_path / "kept"))
    assert pictures(kept.figure())[1].tolist() == pictures(explanation.figure())[1].tolist()


def test_the_heading_says_what_photo_when_and_in_which_space(explanation: Explanation) -> None:
    said = words(explanation.figure(photo="cat.jpg", date="2026-11-30"))
    assert any(text.startswith("cat.jpg — tiny") for text in said)
    (about,) = [text for text in said if text.startswith("space: ")]
    assert "24×16" in about
    assert about.endswith("2026-11-30")
    share = float(explanation.logits.softmax(-1).max())
    assert f"probability {100 * share:.1f} %" in said


def test_probabilities_are_of_classes_alone(explainer: Explainer) -> None:
    found = explainer.explain(photo())
    assert found.probability == pytest.approx(float(found.logits.softmax(-1).max()))
    assert explainer.explain(photo(), Contrast(0, 1)).probability is None
    assert explainer.explain(photo(), torch.ones(4).double()).probability is None
    for last, share in ((nn.Softmax(1), True), (nn.Sigmoid(), False)):
        smooth = Explainer(nn.Sequential(network(), last).eval().double())
        one = smooth.explain(torch.rand(3, 16, 24).double())
        assert one.probability == (pytest.approx(float(one.score)) if share else None)
    single = seeded(nn.Flatten(), nn.Linear(12, 1))
    assert Explainer(single).explain(torch.rand(3, 2, 2)).probability is None


def test_sentences(explainer: Explainer, explanation: Explanation) -> None:
    said = explanation.sentence(masks())
    score = float(explanation.score)
    assert re.fullmatch(r"\w+ -?[\d.]+: (\w+ [+-]?[\d.]+, )+no place [+-]?[\d.]+", said), said
    numbers = [float(one) for one in re.findall(r"[ ]([+-]?[\d.]+)(?:,|$)", said)]
    assert sum(numbers) == pytest.approx(score, abs=0.06 * len(numbers))
    assert explanation.sentence().split(": ")[1].startswith("on the picture")
    assert explainer.explain(photo()).sentence().split(": ")[1].startswith("pixels")
    with pytest.raises(InputError, match="one image"):
        explainer.explain(photo(), "top2").sentence()


def test_the_notebook_shows_the_whole_map_first(explainer: Explainer) -> None:
    page = explainer.explain(photo())._repr_html_()
    assert "<th>placed bias</th><th>no place</th>" in page
    plain = panel_html([make_panel()])
    assert "<th>bias</th>" in plain
