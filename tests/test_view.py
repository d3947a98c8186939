"""Pictures of contributions: colours, sums, stated numbers, files."""

from __future__ import annotations

import os
import pickle
import re
import subprocess
import sys
import threading
import warnings
from dataclasses import dataclass, field, replace
from html import unescape
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from matplotlib.text import Text
from PIL import Image

from guidxmage.errors import InputError
from guidxmage.view import (
    Panel,
    distribution_map,
    figure,
    glyphs,
    map_image,
    overlay_image,
    panel_html,
    save_figure,
    shared_scale,
    smooth_contributions,
    thresholds,
)
from guidxmage.view.bars import Bars
from guidxmage.view.canvas import average, fitted, strongest
from guidxmage.view.colors import BLUE, CYAN, GREEN, RED, YELLOW
from guidxmage.view.maps import default_sigma, paled
from guidxmage.view.outlines import LETTER_WIDTH, LINE_HEIGHT, name_places, outlined
from guidxmage.view.panel import brief, decimals, number, parts, shorten


@dataclass
class Row:
    name: str
    sum: float
    pixels: int = 10
    label: int = 0


@dataclass
class Table:
    rows: list[Row]
    rest: Row = field(default_factory=lambda: Row("rest", 0.25))

    def __iter__(self):
        return iter(self.rows)


def make_panel(shape=(3, 20, 30), *, seed=0, image=True, **changes) -> Panel:
    values = np.random.default_rng(seed).normal(size=shape)
    photo = Image.new("RGB", (shape[-1], shape[-2]), (200, 120, 40)) if image else None
    bias = 6.31
    score = float(values.sum()) + bias
    panel = Panel(photo, values, "tabby", 281, score, bias, 2e-6, 4e-5, "exact on region")
    return replace(panel, **changes)


def words(fig) -> list[str]:
    return [text.get_text() for text in fig.findobj(Text) if text.get_text()]


def pictures(fig) -> list[np.ndarray]:
    """The pictures of a figure, row by row; colour bars hold none."""
    images = [image for axes in fig.axes for image in axes.images]
    return [np.asarray(image.get_array()) for image in images]


def bar_lengths(fig) -> list[float]:
    """The bars of a figure with one row, from top to bottom."""
    return [container[0].get_width() for axes in fig.axes for container in axes.containers]


# Colours


def test_bands_in_order_and_on_their_thresholds():
    assert thresholds(2.0) == (0.2, 1.0)
    above = np.nextafter
    values = np.array([[0.0, 0.2, above(0.2, 1), 1.0, above(1.0, 2), 50.0]])
    expected = [GREEN, GREEN, YELLOW, YELLOW, RED, RED]
    assert distribution_map(values, scale=2.0)[0].tolist() == [list(c) for c in expected]
    mirrored = [GREEN, GREEN, CYAN, CYAN, BLUE, BLUE]
    assert distribution_map(-values, scale=2.0)[0].tolist() == [list(c) for c in mirrored]


def test_continuous_passes_through_the_five_colours_and_saturates():
    values = np.array([[-9.0, -2.0, -1.0, 0.0, 1.0, 2.0, 9.0]])
    colors = distribution_map(values, scale=2.0, style="continuous")[0].tolist()
    assert colors == [list(c) for c in (BLUE, BLUE, CYAN, GREEN, YELLOW, RED, RED)]
    halfway = distribution_map([[0.5]], scale=2.0, style="continuous")[0, 0]
    assert np.abs(halfway - (np.array(GREEN) + YELLOW) / 2).max() <= 0.5


def test_colours_are_recognisable():
    for color, strong, weak in [
        (RED, [0], [1, 2]),
        (YELLOW, [0, 1], [2]),
        (GREEN, [1], [0, 2]),
        (CYAN, [1, 2], [0]),
        (BLUE, [2], [0, 1]),
    ]:
        assert min(color[c] for c in strong) > max(color[c] for c in weak)


@pytest.mark.parametrize("style", ["bands", "continuous"])
@pytest.mark.parametrize("scale", [None, 0.0, 1e-300, 1.0, 1e300])
def test_zero_is_exactly_green(style, scale):
    values = np.array([[0.0, -0.0, 3.0, -5.0]])
    assert (distribution_map(values, scale, style)[0, :2] == GREEN).all()
    assert (distribution_map(np.zeros((2, 3, 4)), scale, style) == GREEN).all()


def test_channels_are_summed_before_they_are_coloured():
    contributions = np.array([[[1.0, 5.0]], [[-1.0, 0.0]], [[0.0, -4.9]]])
    assert distribution_map(contributions, 0.15)[0].tolist() == [list(GREEN), list(RED)]


def test_float32_is_summed_in_double_precision():
    contributions = np.array([1e8, 1.0, -1e8], dtype=np.float32).reshape(3, 1, 1)
    assert shared_scale([contributions]) == 1.0


def test_shared_scale_is_symmetric_the_largest_and_ignores_zeros():
    values = np.zeros((30, 100))
    values[:2] = np.arange(1, 201).reshape(2, 100)
    expected = np.percentile(np.arange(1, 201), 99.5)
    assert shared_scale([values]) == shared_scale([-values]) == pytest.approx(expected)
    assert shared_scale([values, values / 2, np.zeros((2, 2))]) == pytest.approx(expected)
    assert shared_scale([values / 2, -values]) == pytest.approx(expected)
    assert shared_scale([np.zeros((3, 4, 4))]) == 0.0
    lone = np.zeros((100, 100))
    lone[3, 4] = -7.0
    assert shared_scale([lone]) == 7.0


@pytest.mark.parametrize(
    "contributions",
    [
        np.zeros(5),
        np.zeros((2, 3, 4, 4)),
        np.zeros((3, 0, 4)),
        np.full((2, 2), np.nan),
        np.full((2, 2), np.inf),
        np.full((2, 2), "a"),
        np.zeros((2, 2), dtype=complex),
    ],
)
def test_unusable_contributions_are_refused(contributions):
    with pytest.raises(InputError):
        distribution_map(contributions)


def test_unusable_options_are_refused():
    values = np.ones((3, 3))
    for scale in (-1.0, np.nan, np.inf):
        with pytest.raises(InputError, match="scale"):
            distribution_map(values, scale)
    with pytest.raises(InputError, match="style"):
        distribution_map(values, style="rainbow")
    with pytest.raises(InputError, match="at least one map"):
        shared_scale([])
    for sigma in (-1.0, np.nan, np.inf):
        with pytest.raises(InputError, match="sigma"):
            smooth_contributions(values, sigma)
    for labels in (np.zeros((3, 2), int), np.zeros((3, 3))):
        with pytest.raises(InputError, match="labels"):
            smooth_contributions(values, 1.0, labels)


# Smoothing


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_smoothing_keeps_the_sum_of_every_region(data):
    shape = data.draw(hnp.array_shapes(min_dims=2, max_dims=2, max_side=14))
    finite = st.floats(-1e6, 1e6)
    values = data.draw(hnp.arrays(np.float64, shape, elements=finite))
    labels = data.draw(hnp.arrays(np.int64, shape, elements=st.sampled_from([-3, 0, 4, 900])))
    sigma = data.draw(st.floats(0, 40))
    tolerance = 1e-12 * np.abs(values).sum()
    assert smooth_contributions(values, sigma).sum() == pytest.approx(values.sum(), abs=tolerance)
    smooth = smooth_contributions(values, sigma, labels)
    for label in np.unique(labels):
        region = labels == label
        assert smooth[region].sum() == pytest.approx(values[region].sum(), abs=tolerance)


def test_one_pixel_spreads_as_a_gaussian_normalised_inside_the_image():
    values = np.zeros((1, 9))
    values[0, 1] = 2.0
    weights = np.exp(-((np.arange(9) - 1.0) ** 2) / (2 * 1.5**2))
    weights[8] = 0.0  # beyond four sigma
    spread = smooth_contributions(values, 1.5)[0]
    np.testing.assert_allclose(spread, 2.0 * weights / weights.sum(), atol=1e-14)


def test_smoothing_is_linear_and_stays_inside_regions():
    rng = np.random.default_rng(1)
    one, two = rng.normal(size=(2, 12, 17))
    labels = np.zeros((12, 17), int)
    labels[:, 8:] = 1
    smooth = smooth_contributions(one + 3 * two, 2.0, labels)
    apart = smooth_contributions(one, 2.0, labels) + 3 * smooth_contributions(two, 2.0, labels)
    np.testing.assert_allclose(smooth, apart, atol=1e-12)
    one[:, 8:] = 0
    assert (smooth_contributions(one, 2.0, labels)[:, 8:] == 0).all()
    assert (smooth_contributions(one, 2.0)[:, 8:] != 0).any()


def test_smoothing_smooths_and_sigma_zero_does_not():
    values = np.random.default_rng(2).normal(size=(40, 60))
    assert smooth_contributions(values, 3.0).std() < 0.2 * values.std()
    np.testing.assert_array_equal(smooth_contributions(values, 0.0), values)
    assert default_sigma((40, 60)) == pytest.approx(0.8)
    np.testing.assert_array_equal(
        smooth_contributions(values), smooth_contributions(values, default_sigma((40, 60)))
    )


# Bare maps


def test_map_image_has_the_native_size_and_colours():
    values = np.array([[4.0, 0.0, -4.0], [0.0, 0.0, 0.0]])
    picture = map_image(values)
    assert (picture.size, picture.mode) == ((3, 2), "RGB")
    assert [picture.getpixel((x, 0)) for x in range(3)] == [RED, GREEN, BLUE]


def test_overlay_shows_the_photograph_where_nothing_happens():
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8))
    values = np.zeros((40, 50))
    values[5, 5], values[30, 40] = 1.0, -1.0
    picture = np.asarray(overlay_image(photo, values, sigma=1.0)).astype(int)
    plain = np.rint(paled(np.asarray(photo))).astype(int)
    np.testing.assert_array_equal(picture[15:20], plain[15:20])
    assert picture[5, 5, 0] > picture[5, 5, 2] + 100
    assert picture[30, 40, 2] > picture[30, 40, 0] + 100
    assert overlay_image(None, values).size == (50, 40)


def test_overlay_refuses_an_image_of_another_size():
    with pytest.raises(InputError, match="5×4 but its contributions are 4×5"):
        overlay_image(Image.new("RGB", (5, 4)), np.zeros((5, 4)))


# Reduction for display


def test_reduction_keeps_the_strongest_value_with_its_sign():
    values = np.zeros((2000, 900))
    values[1234, 567], values[0, 899], values[3, 898] = 5.0, -7.0, 6.0
    small = strongest(values, (448, 202))
    assert small.shape == (448, 202)
    assert (small.max(), small.min()) == (5.0, -7.0)
    assert np.count_nonzero(small) == 2
    np.testing.assert_array_equal(strongest(values[:7, :5], (448, 320)), values[:7, :5])


def test_average_of_blocks():
    values = np.arange(12.0).reshape(2, 6)
    np.testing.assert_allclose(average(values, (1, 3)), [[3.5, 5.5, 7.5]])
    np.testing.assert_allclose(average(np.ones((7, 11)), (3, 4)), np.ones((3, 4)))


def test_fitted_keeps_the_aspect():
    assert fitted((2000, 3000), 448) == (299, 448)
    assert fitted((32, 32), 448) == (448, 448)
    assert fitted((1, 9999), 448) == (1, 448)


def test_outlines_lie_between_regions():
    labels = np.array([[1, 1, 2, 2]] * 4)
    dark = np.zeros((4, 4, 3), dtype=np.uint8)
    drawn = outlined(dark, labels, (8, 8))
    assert (drawn[:, 3] == 255).all()
    assert np.delete(drawn, 3, axis=1).max() == 0
    assert outlined(dark, None, (8, 8)) is dark


def test_a_name_lies_where_its_region_is_widest():
    labels = np.zeros((300, 300), int)
    labels[80:181, 40:241] = 7
    labels[181:300, 40:43] = 7  # a thin tail does not pull the name down
    row, column = name_places(labels, {7: "cat", 8: "not there"}).pop(7)
    assert row == 130
    assert 90 <= column <= 190


def test_a_name_stays_inside_the_picture():
    labels = np.zeros((100, 300), int)
    labels[:5, :5], labels[-5:, -5:] = 1, 2
    half = 8 * LETTER_WIDTH / 2
    places = name_places(labels, {1: "sandwich", 2: "sandwich"})
    for (row, column), sign in zip(places.values(), (1, -1), strict=True):
        assert row == round(LINE_HEIGHT / 2 if sign > 0 else 100 - LINE_HEIGHT / 2)
        assert column == round(half if sign > 0 else 300 - half)


def test_the_edge_of_the_picture_bounds_a_region():
    row, column = name_places(np.ones((101, 301), int), {1: "all"})[1]
    assert row == 50
    assert 50 <= column <= 250


def test_names_keep_clear_of_each_other_while_there_is_room():
    labels = np.zeros((100, 400), int)
    labels[40:52], labels[52:64] = 1, 2
    (upper, left), (lower, right) = name_places(labels, {1: "rug", 2: "floor"}).values()
    assert 40 <= upper < 52 <= lower < 64
    assert lower - upper < LINE_HEIGHT
    assert abs(right - left) >= int((3 + 5) / 2 * LETTER_WIDTH)
    # Without room each name keeps to its own region.
    labels[:, 30:] = 0
    (upper, _), (lower, _) = name_places(labels, {1: "rug", 2: "floor"}).values()
    assert 40 <= upper < 52 <= lower < 64


def test_named_objects_are_found_on_the_input():
    labels = np.zeros((32, 32), int)
    labels[:, 16:] = 3
    table = Table([Row("cat", 2.0, label=3), Row("a very long name of a rug", -1.0)])
    panel = make_panel((3, 32, 32), objects=table, labels=labels)
    fig = figure([panel])
    at = {text.get_text(): text.get_position() for text in fig.texts}
    assert {"cat", "a very long n…"} <= set(at)
    assert "rest" not in at
    picture = fig.axes[0].get_position()
    assert picture.x0 + picture.width / 2 < at["cat"][0] < picture.x1
    assert picture.x0 < at["a very long n…"][0] < picture.x0 + picture.width / 2
    assert picture.y0 < at["cat"][1] < picture.y1
    assert (pictures(fig)[0][:, 223] == 255).all()
    plain = pictures(figure([make_panel((3, 32, 32), objects=table)]))[0]
    assert plain.shape == (32, 32, 3)
    assert (pictures(figure([make_panel((3, 32, 32), labels=labels)]))[0] == plain).all()
    assert "cat" not in {text.get_text() for text in figure([replace(panel, labels=None)]).texts}


def test_a_name_wider_than_its_picture_is_left_out():
    shape = (400, 30)
    table = Table([Row("hippopotamus", 2.0, label=1), Row("x", 1.0, label=2)])
    labels = np.ones(shape, int)
    labels[200:] = 2
    fig = figure([make_panel(shape, objects=table, labels=labels)])
    at = {text.get_text() for text in fig.texts}
    assert "x" in at
    assert "hippopotamus" not in at


# Words


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (0, 3, "0"),
        (0.05137, 3, "0.0514"),
        (-0.000785, 3, "−7.85e−4"),
        (2e-6, 1, "2e−6"),
        (120.4, 2, "120"),
        (3.2e7, 2, "3.2e7"),
    ],
)
def test_brief(value, digits, text):
    assert brief(value, digits) == text


def test_numbers_keep_three_digits_of_the_largest():
    assert [decimals(v) for v in (0.0, 9.4, 711.0, 1109.5, 13652.0, 0.05, 5e-7)] == [
        2, 2, 2, 1, 0, 4, 9,
    ]  # fmt: skip
    assert number(-0.5, 2) == "−0.50"
    assert number(3.0, 1, sign=True) == "+3.0"
    assert number(2.5e7, 0, sign=True) == "+2.500e7"
    assert number(-0.004, 2, sign=True) == number(0.0, 2, sign=True) == "0.00"
    assert number(-0.006, 2, sign=True) == "−0.01"


def test_long_names_are_shortened_to_one_line():
    assert shorten("a\n b\tc", 10) == "a b c"
    assert shorten("tabby, tabby cat", 7) == "tabby…"
    assert len(shorten("x" * 100, 19)) == 19


# The figure


def test_figure_states_its_numbers():
    panel = make_panel(contributions=np.full((1, 20, 30), 3.10 / 600), score=9.41, residual=-2e-6)
    texts = words(figure([panel], title="A title"))
    assert "A title" in texts
    assert "tabby (class 281)" in texts
    assert (
        "score 9.41 = Σ pixels 3.10 + bias 6.31  (residual 2e−6 ≤ bound 4e−5)"
        "  ·  exact on region" in texts
    )
    assert {"(a)", "(b)", "(c)", "(d)"} <= set(texts)
    assert {"+3.10", "+6.31", "+9.41", "positive pixels", "bias", "score"} <= set(texts)
    assert "saliency map (σ = 0.40 px)" in texts


@pytest.mark.parametrize(
    ("residual", "words_of_it"),
    [
        (4e-5, "(residual 4e−5 ≤ bound 4e−5)"),
        (-6e-5, "(residual 6e−5 > bound 4e−5)"),
        (0.0, "(residual 0 ≤ bound 4e−5)"),
    ],
)
def test_a_residual_beyond_its_bound_is_stated(residual, words_of_it):
    assert words_of_it in make_panel(residual=residual).equation()


def test_figure_states_thresholds_and_scale():
    texts = words(figure([make_panel()], scale=2.0))
    assert "changes at ±0.200 (0.1 s), ±1.00 (0.5 s)" in texts
    assert "s = 2.00 as given" in texts
    assert {"−1.00", "−0.200", "0.200", "1.00"} <= set(texts)
    panels = [make_panel(seed=1), make_panel(seed=2, shape=(3, 9, 9))]
    scale = shared_scale(panel.contributions for panel in panels)
    texts = words(figure(panels, style="continuous"))
    assert f"s = {brief(scale, 3)}: ≥ 99.5 % of non-zero values within ±s" in texts
    assert {brief(-scale, 3), brief(scale / 2, 3)} <= set(texts)


def test_rows_share_one_scale():
    weak = make_panel(contributions=np.full((3, 20, 30), 0.01))
    strong = make_panel(contributions=np.full((3, 20, 30), 1.0))
    rows = pictures(figure([weak, strong]))
    assert len(rows) == 6
    assert (rows[1] == GREEN).all()
    assert (rows[4] == RED).all()
    # The same holds of the smoothed values: the weak row shows the photograph.
    ground = paled(np.asarray(weak.image))
    assert np.abs(rows[2] - ground).max() < 12 < np.abs(rows[5] - ground).max()


def test_saliency_scale_can_be_shared_between_figures():
    weak = make_panel(contributions=np.full((1, 20, 30), 0.01))
    alone = pictures(figure([weak]))[2]
    shared = figure([weak], saliency_scale=1.0)
    assert np.abs(pictures(shared)[2] - paled(np.asarray(weak.image))).max() < 12
    assert (pictures(shared)[2] != alone).any()
    assert "s = 1.00 as given" in words(shared)
    assert pictures(shared)[1].tolist() == pictures(figure([weak]))[1].tolist()
    with pytest.raises(InputError, match="scale"):
        figure([weak], saliency_scale=-1.0)


def test_figure_shows_the_distribution_map_pixel_by_pixel():
    panel = make_panel()
    for style in ("bands", "continuous"):
        shown = pictures(figure([panel], style=style))[1]
        np.testing.assert_array_equal(shown, distribution_map(panel.contributions, style=style))


def test_figure_smooths_inside_the_regions_of_a_panel():
    values, labels = np.zeros((448, 448)), np.zeros((448, 448), int)
    values[:, 220:224], labels[:, 224:] = 1.0, 1
    panel = make_panel(values.shape, contributions=values, image=False)
    free = pictures(figure([panel]))[2]
    bound = pictures(figure([replace(panel, labels=labels)]))[2]
    assert (free[:, 224:230] != free[0, -1]).any()
    assert (bound[:, 224:] == bound[0, -1]).all()
    assert (bound[:, 223] == 255).all()


def test_objects_are_ranked_and_the_small_ones_summed_up():
    rows = [Row(f"object {k}", (-1) ** k * float(k)) for k in range(1, 12)]
    table = Table(rows)
    bars = parts(make_panel(objects=table))
    assert [bar.value for bar in bars[:8]] == [10, 8, 6, 4, -5, -7, -9, -11]
    assert (bars[8].name, bars[8].value) == ("3 others", -1 + 2 - 3)
    assert (bars[9].name, bars[9].value) == ("rest", 0.25)
    assert len(parts(make_panel(objects=Table(rows[:8])))) == 9
    assert parts(make_panel(objects=Table(rows[:9])))[8].name == "1 other"
    assert len(parts(make_panel(objects=Table(rows[:2], Row("rest", 0.0, pixels=0))))) == 2


def test_without_objects_positive_and_negative_pixels_are_shown():
    panel = make_panel(contributions=np.array([[[1.0, -2.0, 4.0]]]), image=False)
    assert [part.value for part in parts(panel)] == [5.0, -2.0]


def test_bars_of_unequal_groups_say_how_much_longer_they_are_drawn():
    small = Table([Row("cat", 0.2)], Row("rest", -0.1))
    panel = make_panel(
        contributions=np.full((1, 1, 1), 0.1), image=False, objects=small, score=9.41
    )
    bars = Bars.of(panel)
    assert bars.magnification() == (20, 1)
    cat, _, _, _, score = bar_lengths(figure([panel]))
    assert cat / score == pytest.approx(20 * 0.2 / 9.41)
    assert "bars above the line are drawn 20× longer" in words(figure([panel]))
    large = replace(panel, objects=Table([Row("cat", 100.0)], Row("rest", -99.9)))
    assert Bars.of(large).magnification() == (1, 10)
    cat, _, _, _, score = bar_lengths(figure([large]))
    assert score / cat == pytest.approx(10 * 9.41 / 100.0)
    assert Bars.of(replace(panel, objects=Table([Row("cat", 6.0)]))).note() == (
        "all bars on one scale"
    )


def test_bars_have_the_sign_and_colour_of_their_values():
    table = Table([Row("cat", 2.0), Row("rug", -1.0)])
    fig = figure([make_panel(objects=table)])
    (axes,) = [axes for axes in fig.axes if axes.containers]
    bars = [container[0] for container in axes.containers]
    cat, rest, rug = bars[0], bars[2], bars[1]
    assert cat.get_width() == pytest.approx(-2 * rug.get_width())
    assert rest.get_width() == pytest.approx(cat.get_width() / 8)
    assert np.allclose(np.array(cat.get_facecolor()[:3]) * 255, RED)
    assert np.allclose(np.array(rug.get_facecolor()[:3]) * 255, BLUE)


def test_zero_maps_are_green_and_say_so():
    panel = make_panel(contributions=np.zeros((3, 20, 30)))
    fig = figure([panel])
    assert (pictures(fig)[1] == GREEN).all()
    assert "s = 0: every value is zero" in words(fig)


@pytest.mark.parametrize(
    ("shape", "image"),
    [
        ((3, 32, 32), True),
        ((1, 28, 28), False),
        ((13, 40, 60), False),
        ((3, 20, 1000), True),
        ((3, 900, 7), True),
        ((1, 1, 1), True),
        ((30, 40), True),
        ((2000, 3000), True),
    ],
)
def test_any_shape_renders_at_a_bounded_width(shape, image, tmp_path):
    fig = figure([make_panel(shape, image=image)])
    path = save_figure(fig, tmp_path / "figure.png")
    with Image.open(path) as drawn:
        assert drawn.width <= 2000
        assert drawn.height <= 1000
    assert max(max(picture.shape) for picture in pictures(fig)) <= 448
    assert any("no picture" in text for text in words(fig)) is not image


def test_a_thumbnail_is_enlarged_without_blur(tmp_path):
    panel = make_panel((1, 2, 2), contributions=np.array([[[9.0, -9.0], [0.0, 9.0]]]))
    path = save_figure(figure([panel], scale=1.0), tmp_path / "figure.png")
    with Image.open(path) as drawn:
        counts = {color: n for n, color in drawn.convert("RGB").getcolors(1 << 20)}
    # Each of the four pixels is a square of 224.
    assert counts[RED] >= 2 * 224 * 224
    assert min(counts[BLUE], counts[GREEN]) >= 224 * 224


def test_a_lone_strong_pixel_of_a_large_photo_stays_visible(tmp_path):
    values = np.zeros((1, 1500, 2200))
    values[0, 777, 1333] = 1.0
    fig = figure([make_panel(values.shape, contributions=values)])
    assert (pictures(fig)[1] == RED).all(axis=-1).sum() == 1
    assert any("strongest of 5×5 px" in text for text in words(fig))


def test_names_are_literal_text(tmp_path):
    panel = make_panel(class_name="$x^$ \\frac_ <b>\n&", objects=Table([Row("$bad", 1.0)]))
    fig = figure([panel], title="$\\no$")
    save_figure(fig, tmp_path / "figure.png")
    assert "$x^$ \\frac_ <b> & (class 281)" in words(fig)
    assert "$bad" in words(fig)


def test_figure_refuses_what_it_cannot_draw():
    with pytest.raises(InputError, match="at least one panel"):
        figure([])
    with pytest.raises(InputError, match="scale"):
        figure([make_panel()], scale=-1.0)
    with pytest.raises(InputError, match="style"):
        figure([make_panel()], style="jet")
    with pytest.raises(InputError, match="too many rows"):
        figure([make_panel((1, 4, 4))] * 120)


def test_panels_are_checked_when_made():
    with pytest.raises(InputError, match="30×21 but its contributions are 30×20"):
        replace(make_panel((3, 20, 30)), image=Image.new("RGB", (30, 21)))
    with pytest.raises(InputError, match="labels"):
        make_panel(labels=np.zeros((3, 3), int))
    for name in ("score", "bias", "residual", "residual_bound"):
        with pytest.raises(InputError, match=name):
            make_panel(**{name: float("nan")})


# Global state


def test_settings_of_the_user_neither_change_nor_matter(tmp_path):
    plain = save_figure(figure([make_panel()]), tmp_path / "plain.png").read_bytes()
    strange = {"figure.constrained_layout.use": True, "text.usetex": True, "font.size": 30,
               "xtick.labelsize": 40, "figure.facecolor": "k", "image.origin": "lower"}  # fmt: skip
    with matplotlib.rc_context(strange), warnings.catch_warnings():
        warnings.simplefilter("error")
        before = dict(matplotlib.rcParams)
        changed = save_figure(figure([make_panel()]), tmp_path / "other.png").read_bytes()
        with pytest.raises(InputError):
            figure([])
        assert dict(matplotlib.rcParams) == before
    assert changed == plain


def test_neither_matplotlib_nor_scipy_is_imported_before_it_is_needed():
    code = (
        "import sys, guidxmage.view as v; v.map_image([[1.0]]); "
        "assert not {'matplotlib', 'scipy'} & set(sys.modules); "
        "import numpy as np; "
        "v.figure([v.Panel(None, np.ones((1, 4, 4)), 'x', 0, 1, 1, 0, 0, 'at input')]); "
        "assert 'matplotlib.pyplot' not in sys.modules; "
        "assert not any(m.startswith('guidxmage.explan') for m in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_figures_can_be_made_in_threads(tmp_path):
    paths = [tmp_path / f"{k}.svg" for k in range(3)]
    threads = [
        threading.Thread(target=lambda p=path: save_figure(figure([make_panel()]), p))
        for path in paths
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({path.read_bytes() for path in paths}) == 1


# Files


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_equal_figures_give_equal_bytes(tmp_path, suffix):
    table, labels = Table([Row("cat", 2.0)]), np.eye(20, 30, dtype=int)
    first, second = (
        save_figure(
            figure([make_panel(objects=table, labels=labels)]), tmp_path / f"{name}.{suffix}"
        ).read_bytes()
        for name in "ab"
    )
    assert first == second
    other = save_figure(figure([make_panel(seed=9)]), tmp_path / f"c.{suffix}").read_bytes()
    assert other != first
    assert b"CreationDate" not in first
    assert b"dc:date" not in first
    assert first.startswith({"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[suffix])


def test_svg_references_resolve(tmp_path):
    path = save_figure(figure([make_panel()]), tmp_path / "figure.svg")
    elements = list(ElementTree.parse(path).iter())
    names = [e.get("id") for e in elements if e.get("id")]
    assert len(names) == len(set(names))
    used = [
        value.split("#")[1].rstrip(")")
        for element in elements
        for value in element.attrib.values()
        if value.startswith(("#", "url(#")) and not value.startswith("#0")
    ]
    colors = {value for value in used if len(value) == 6 and set(value) <= set("0123456789abcdef")}
    assert used
    assert set(used) - colors <= set(names)


def test_saving_replaces_at_once_and_leaves_nothing_behind(tmp_path, monkeypatch):
    path = tmp_path / "figure.PNG"
    path.write_bytes(b"old")
    fig = figure([make_panel()])

    def refuse(source, target):
        assert os.path.getsize(source) > 1000
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", refuse)
        with pytest.raises(InputError, match="Permission denied"):
            save_figure(fig, path)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["figure.PNG"]
    assert save_figure(fig, str(path)) == path
    assert path.read_bytes().startswith(b"\x89PNG")
    assert os.listdir(tmp_path) == ["figure.PNG"]


def test_unusable_paths_are_refused(tmp_path):
    fig = figure([make_panel()])
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.png").mkdir()
    for path in ("missing/a.png", "file/a.png", "folder.png"):
        with pytest.raises(InputError, match="cannot write"):
            save_figure(fig, tmp_path / path)
    for path in ("a.jpg", "a", "png"):
        with pytest.raises(InputError, match=r"\.png, \.svg or \.pdf"):
            save_figure(fig, tmp_path / path)
    assert sorted(os.listdir(tmp_path)) == ["file", "folder.png"]


# Notebooks


def test_html_is_self_contained_and_escaped():
    panel = make_panel(class_name="<script>alert('x')</script> & co", target=None)
    page = panel_html([panel, make_panel(seed=4)], title='a "title" <i>')
    assert "<script" not in page
    assert "<i>" not in page
    assert 'alt="a &quot;title&quot; &lt;i&gt;"' in page
    assert "&lt;script&gt;" in page
    assert page.count("src=") == page.count("data:image/png;base64,iVBOR") == 1
    assert page.count("<tr>") == 3
    cells = re.findall("<td>(.*?)</td>", page)
    assert unescape(cells[0]) == panel.class_name
    assert cells[1] == ""
    assert cells[4] == "6.31"
    assert cells[9] == "281"


# --- characters that the usual font lacks ---------------------------------------------------------


def named(name: str) -> Panel:
    return Panel(None, np.ones((1, 4, 4)), name, 0, 1.0, 0.5, 0.0, 0.0, "exact on region")


def drawn_texts(panel: Panel) -> tuple[list[Text], list[str]]:
    """The texts of a figure that was drawn, and what matplotlib warned of."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        made = figure([panel], title=panel.class_name)
        made.canvas.draw()
    return made.findobj(Text), [str(one.message) for one in told if "lyph" in str(one.message)]


def _only(monkeypatch: pytest.MonkeyPatch, *families: str) -> None:
    entries = [entry for entry in glyphs.fontManager.ttflist if entry.name in families]
    assert {entry.name for entry in entries} == set(families)
    monkeypatch.setattr(glyphs.fontManager, "ttflist", entries)
    glyphs._family_with.cache_clear()


@pytest.mark.parametrize(
    ("name", "drawn"),
    [
        ("猫", "U+732B"),
        ("猫犬 tabby", "U+732B U+72AC tabby"),
        ("ねこ", "neko"),
        ("ネコ (cat)", "neko (cat)"),
        ("고양이", "goyangi"),
        ("ｃａｔ", "cat"),
        ("größer 100 µm", "größer 100 µm"),
    ],
)
def test_names_in_other_scripts_are_transliterated_where_no_font_has_them(
    name: str, drawn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A font of boxes has every character, and shows none.
    boxes = {e.name for e in glyphs.fontManager.ttflist if e.name.startswith("Last Resort")}
    _only(monkeypatch, "DejaVu Sans", *boxes)
    texts, told = drawn_texts(named(name))
    glyphs._family_with.cache_clear()
    assert told == []
    assert any(drawn in text.get_text() for text in texts)


def test_names_are_drawn_by_a_font_that_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """A character that one of matplotlib's other fonts has stands for those of other scripts."""
    paths = {entry.name: entry.fname for entry in glyphs.fontManager.ttflist}
    usual, other = (
        set(glyphs.get_font(paths[name]).get_charmap()) for name in ("DejaVu Sans", "STIXGeneral")
    )
    rare = next(one for one in map(chr, sorted(other - usual)) if one.isprintable())
    _only(monkeypatch, "DejaVu Sans", "STIXGeneral")
    texts, told = drawn_texts(named(f"cat {rare}"))
    glyphs._family_with.cache_clear()
    assert told == []
    found = [text for text in texts if rare in text.get_text()]
    assert found
    assert all("STIXGeneral" in text.get_fontfamily() for text in found)


def test_figures_can_still_be_pickled() -> None:
    made = figure([named("猫")])
    assert type(pickle.loads(pickle.dumps(made))) is type(made)
