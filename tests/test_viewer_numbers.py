"""The viewer's numbers, colours and areas are those of Python."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from guidxmage.attribution.placement import smoothed
from guidxmage.view.colors import ASCENDING, color_index, colorize, shared_scale
from guidxmage.view.diverging import diverging, over_photo
from guidxmage.view.maps import overlay, smooth_contributions
from tests.viewer_tools import run_modules

torch = pytest.importorskip("torch")
SHAPES = [(1, 1), (1, 7), (9, 1), (2, 2), (13, 17), (40, 31)]


def wild(rng: np.random.Generator, size: int) -> Any:
    """Numbers of every size, zeros and repetitions among them."""
    values = rng.normal(size=size) * 10.0 ** rng.integers(-12, 12, size)
    values[rng.random(size) < 0.2] = 0
    values[rng.random(size) < 0.1] = 0.125
    return values


def test_pixels_are_summed_in_order(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    arrays = {f"a{n}": wild(rng, 3 * h * w).astype(np.float32) for n, (h, w) in enumerate(SHAPES)}
    found = run_modules(
        tmp_path,
        "pixelValues from numbers",
        """for (const [name, values] of Object.entries(known))
          save(name, pixelValues(values, 3, values.length / 3));""",
        **arrays,
    )
    for name, values in arrays.items():
        assert np.array_equal(found[name], values.reshape(3, -1).sum(0, dtype=np.float64))


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_contributions_are_bit_equal(tmp_path: Path, kind: type) -> None:
    rng = np.random.default_rng(2)
    weights, given, reference = (wild(rng, 500).astype(kind) for _ in range(3))
    found = run_modules(
        tmp_path,
        "contributionsOf from numbers",
        """const { weights, input, reference } = known;
        save("alone", contributionsOf(weights, input, null));
        save("against", contributionsOf(weights, input, reference));""",
        weights=weights, input=given, reference=reference,
    )  # fmt: skip
    assert found["alone"].dtype == kind
    assert np.array_equal(found["alone"], weights * given)
    assert np.array_equal(found["against"], weights * (given - reference))


def test_the_scale_is_numpys_percentile(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    maps = {f"m{size}": wild(rng, size) for size in (1, 2, 3, 7, 200, 201, 399, 5000, 60001)}
    maps |= {
        "zeros": np.zeros(50),
        "even": np.full(77, -2.5),
        "sorted": np.arange(4000.0),
        "turned": np.arange(4000.0)[::-1],
        "wave": np.sin(np.arange(9999.0)) * 1e300,
    }
    script = "for (const name in known) answer[name] = percentileScale(known[name]);"
    found = run_modules(tmp_path, "percentileScale from numbers", script, **maps)
    for name, values in maps.items():
        assert found[name] == shared_scale([values.reshape(1, -1)]), name


def test_bands_change_where_pythons_do(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    scale = 0.7
    edges = [0.1 * scale, 0.5 * scale, np.nextafter(0.1 * scale, 1), np.nextafter(0.5 * scale, 1)]
    values = np.concatenate([rng.normal(size=300), edges, np.negative(edges), [0.0, -0.0]])
    found = run_modules(
        tmp_path,
        "bandOf from numbers",
        """save("bands", Int32Array.from(known.values, (v) => bandOf(v, given.scale, 0.1, 0.5)));
        save("signs", Int32Array.from(known.values, (v) => bandOf(v, 0, 0.1, 0.5)));""",
        values=values, scale=scale,
    )  # fmt: skip
    assert np.array_equal(found["bands"], color_index(values, scale))
    assert np.array_equal(found["signs"], color_index(values, 0.0))


def test_numbers_are_printed_as_python_prints_them(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    bits = rng.integers(0, 2**63, 4000, dtype=np.int64).view(np.float64)
    halves = (rng.integers(100000, 1000000, 2000) + 0.5) * 2.0 ** rng.integers(-3, 4, 2000)
    special = [0.0, -0.0, np.inf, -np.inf, np.nan, 5e-324, 1.7976931348623157e308, 999999.5, 1e6,
               100000.5, 100001.5, 0.0001, 0.00001, 0.000099999949, 0.1000005, 123456.5, 9.9999995,
               1e5, 1.0, -1.5, 1e-4, 1e22, 1e21, 2.0**53, 0.5, 1e-7]  # fmt: skip
    values = np.concatenate([wild(rng, 4000), bits[np.isfinite(bits)], halves, special])
    values = np.concatenate([values, -values])
    script = "answer.texts = Array.from(known.values, format6);"
    found = run_modules(tmp_path, "format6 from numbers", script, values=values)
    expected = [format(value, ".6g").replace("-", "−") for value in values.tolist()]
    wrong = [(v, a, b) for v, a, b in zip(values, found["texts"], expected, strict=True) if a != b]
    # A not-a-number has no sign here.
    assert [one for one in wrong if one[0] == one[0]] == []


def test_sums_over_masks(tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    values, mask = wild(rng, 3000), (rng.random(3000) < 0.4).astype(np.uint8)
    found = run_modules(
        tmp_path,
        "sumOver from numbers",
        """answer.part = sumOver(known.values, known.mask);
        answer.all = sumOver(known.values, null);
        answer.none = sumOver(known.values, new Uint8Array(known.mask.length));""",
        values=values, mask=mask,
    )  # fmt: skip
    for name, inside in {"part": mask > 0, "all": mask < 2, "none": mask > 1}.items():
        own = values[inside]
        assert found[name]["pixels"] == own.size
        for key, part in {"sum": own, "positive": own[own > 0], "negative": own[own < 0]}.items():
            assert found[name][key] == pytest.approx(part.sum(), rel=1e-12, abs=1e-3)


WIDTHS = [0.0, 0.05, 0.4, 1.0, 3.3, 8.0, 18.3, 24.0, 60.0, 500.0]


@pytest.mark.parametrize("shape", [*SHAPES, (3, 300)])
def test_reflecting_gaussians(tmp_path: Path, shape: tuple[int, int]) -> None:
    values = np.random.default_rng(7).normal(size=shape)
    found = run_modules(
        tmp_path,
        "reflecting from smoothing",
        """for (const [i, sigma] of given.sigmas.entries())
          save(`s${i}`, await reflecting(known.values, ...given.shape, sigma));""",
        values=values, shape=shape, sigmas=WIDTHS,
    )  # fmt: skip
    for number, sigma in enumerate(WIDTHS):
        expected = smoothed(torch.from_numpy(values), sigma).numpy()
        got = found[f"s{number}"].reshape(shape)
        np.testing.assert_allclose(got, expected, rtol=0, atol=2e-12, err_msg=f"sigma {sigma}")
        assert got.sum() == pytest.approx(values.sum(), abs=1e-10)


def test_wide_gaussians_over_long_lines(tmp_path: Path) -> None:
    values = np.random.default_rng(8).normal(size=(2, 3000)).astype(np.float32)
    found = run_modules(
        tmp_path,
        "reflecting from smoothing",
        'save("smooth", await reflecting(known.values, 2, 3000, 430));',
        values=values,
    )
    expected = smoothed(torch.from_numpy(values), 430.0).numpy()
    np.testing.assert_allclose(found["smooth"].reshape(2, 3000), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [*SHAPES, (5, 400)])
def test_spreading(tmp_path: Path, shape: tuple[int, int]) -> None:
    values = np.random.default_rng(9).normal(size=shape)
    sigmas = [0.0, 0.1, 0.125, 0.375, 0.8, 2.5, 9.0, 25.0, 90.0]
    found = run_modules(
        tmp_path,
        "spread from smoothing",
        """for (const [i, sigma] of given.sigmas.entries())
          save(`s${i}`, await spread(known.values, ...given.shape, sigma));""",
        values=values, shape=shape, sigmas=sigmas,
    )  # fmt: skip
    for number, sigma in enumerate(sigmas):
        expected = smooth_contributions(values, sigma)
        got = found[f"s{number}"].reshape(shape)
        np.testing.assert_allclose(got, expected, rtol=0, atol=2e-12, err_msg=f"sigma {sigma}")


def test_smoothing_gives_way_and_can_be_ended(tmp_path: Path) -> None:
    found = run_modules(
        tmp_path,
        "reflecting from smoothing",
        """const values = new Float64Array(1500 * 1500).fill(1);
        let turns = 0;
        const clock = setInterval(() => { turns += 1; }, 1);
        await reflecting(values, 1500, 1500, 40);
        clearInterval(clock);
        answer.turns = turns;
        const ending = new AbortController();
        setTimeout(() => ending.abort(), 5);
        answer.ended = await reflecting(values, 1500, 1500, 40, ending.signal).then(
          () => "not ended", (error) => error.name);""",
    )
    assert found["turns"] > 3
    assert found["ended"] == "AbortError"


def test_colors_are_those_of_the_pictures(tmp_path: Path) -> None:
    rng = np.random.default_rng(10)
    shape = (23, 31)
    scale = 0.8
    values = rng.normal(size=shape)
    values.flat[:12] = [0, -0.0, scale, -scale, scale / 2, -scale / 2, 9, -9, 0.08, -0.08, 0.4, 0.1]
    photo = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
    painted = run_modules(
        tmp_path,
        "PALETTES, paintBands, paintContinuous, paintSaliency, paintWhole from colors",
        """for (const scale of [given.scale, 0]) {
          const paper = PALETTES.paper;
          const paint = (name, run) => {
            const out = new Uint8ClampedArray(4 * known.values.length);
            run(out);
            save(name + (scale > 0 ? "" : "0"), out);
          };
          const { values, photo } = known;
          paint("bands", (out) => paintBands(values, scale, 0.1, 0.5, paper, out));
          paint("continuous", (out) => paintContinuous(values, scale, paper, out));
          paint("saliency", (out) => paintSaliency(photo, values, scale, paper, out));
          paint("alone", (out) => paintSaliency(null, values, scale, paper, out));
          paint("whole", (out) => paintWhole(values, scale, paper, out));
          paint("over", (out) => paintWhole(values, scale, paper, out, photo));
        }
        answer.bands = PALETTES.paper.bands;
        answer.blind = PALETTES.blind.bands;""",
        values=values, photo=photo, scale=scale,
    )  # fmt: skip
    assert painted["bands"].shape == (values.size * 4,)
    assert painted.values["bands"] == ASCENDING.tolist()
    assert len({tuple(color) for color in painted["blind"]}) == 5
    for end, own in {"": scale, "0": 0.0}.items():
        expected = {
            "bands": colorize(values, own),
            "continuous": colorize(values, own, "continuous"),
            "saliency": overlay(photo, values, own),
            "alone": overlay(None, values, own),
            "whole": diverging(values, own),
            "over": over_photo(photo, values, own),
        }
        for name, picture in expected.items():
            got = painted[name + end].reshape(*shape, 4)
            assert np.array_equal(got[..., :3], picture), name + end
            assert (got[..., 3] == 255).all()


def test_areas_drawn_by_hand(tmp_path: Path) -> None:
    rng = np.random.default_rng(11)
    h, w = 21, 34
    outlines = [(rng.random((n, 2)) * 50 - 8).tolist() for n in (3, 4, 5, 9)]
    strokes = [(rng.random((n, 2)) * 40 - 3).tolist() for n in (1, 2, 6)]
    boxes = [[3, 4, 10, 20], [-5, -5, 2, 100], [10, 20, 3, 4], [25, 0, 30, 5], [0, 0, 20, 33]]
    found = run_modules(
        tmp_path,
        "brushMask, polygonMask, rectangleMask from areas",
        """const { h, w } = given;
        given.outlines.forEach((points, i) => save(`o${i}`, polygonMask(h, w, points)));
        given.strokes.forEach((points, i) => {
          save(`b${i}`, brushMask(h, w, points, 3.2));
          save(`f${i}`, brushMask(h, w, points, 0.1));
        });
        given.boxes.forEach((box, i) => save(`r${i}`, rectangleMask(h, w, ...box)));""",
        h=h, w=w, outlines=outlines, strokes=strokes, boxes=boxes,
    )  # fmt: skip
    y, x = np.mgrid[:h, :w] + 0.5
    for number, outline in enumerate(outlines):
        crossings = np.zeros((h, w), dtype=int)
        for (x1, y1), (x2, y2) in zip(outline, outline[1:] + outline[:1], strict=True):
            crosses = (y1 <= y) != (y2 <= y)
            crossings += crosses & (x >= x1 + (y - y1) / (y2 - y1) * (x2 - x1))
        assert np.array_equal(found[f"o{number}"].reshape(h, w), crossings % 2)
    for number, stroke in enumerate(strokes):
        points = np.array(stroke)
        inside = np.zeros((h, w), dtype=bool)
        for start, end in zip(points[[0, *range(len(points) - 1)]], points, strict=True):
            for part in np.linspace(0, 1, 2000):
                at = start + part * (end - start)
                inside |= np.hypot(x - at[0], y - at[1]) <= 3.2
        assert (found[f"b{number}"].reshape(h, w) != inside).sum() <= 2
        passed = [(px, py) for px, py in stroke if 0 <= px < w and 0 <= py < h]
        assert all(found[f"f{number}"].reshape(h, w)[int(py), int(px)] for px, py in passed)
    for number, (top, left, bottom, right) in enumerate(boxes):
        rows, columns = sorted((top, bottom)), sorted((left, right))
        expected = np.zeros((h, w), dtype=np.uint8)
        expected[max(rows[0], 0) : rows[1] + 1, max(columns[0], 0) : columns[1] + 1] = 1
        assert np.array_equal(found[f"r{number}"].reshape(h, w), expected)


def test_runs_come_back_as_the_mask(tmp_path: Path) -> None:
    rng = np.random.default_rng(12)
    masks = {f"m{n}": (rng.random(n) < 0.3).astype(np.uint8) for n in (1, 2, 50, 999)}
    masks |= {"none": np.zeros(5, np.uint8), "all": np.ones(5, np.uint8)}
    found = run_modules(
        tmp_path,
        "fromRuns, toRuns from areas",
        """for (const name in known) {
          answer[name] = toRuns(known[name]);
          save(name, fromRuns(answer[name], known[name].length));
        }
        answer.short = fails(() => fromRuns([3, 4], 8));
        answer.odd = fails(() => fromRuns([-3, 11], 8));""",
        **masks,
    )
    for name, mask in masks.items():
        assert np.array_equal(found[name], mask)
        runs = found.values[name]
        assert sum(runs) == mask.size
        assert sum(runs[1::2]) == mask.sum()
        assert all(run > 0 for run in runs[1:])
    assert found["short"] == "An area describes 7 pixels, but the picture has 8."
    assert "-3" in found["odd"]


def test_named_areas_add_up(tmp_path: Path) -> None:
    found = run_modules(
        tmp_path,
        "Areas, rectangleMask from areas",
        """const areas = new Areas(12);
        answer.names = [areas.add("face", rectangleMask(3, 4, 0, 0, 1, 1)),
          areas.add("face", rectangleMask(3, 4, 1, 1, 2, 2)), areas.add(" ", new Uint8Array(12))];
        answer.renamed = [areas.rename("face 2", "ear"), areas.rename("area", "ear"),
          areas.rename("ear", " "), areas.rename("none", "x")];
        save("owners", areas.owners());
        save("rest", areas.rest());
        answer.owned = areas.owned().map(({ name, mask }) => [name, [...mask]]);
        areas.remove("face");
        answer.left = areas.list.map((one) => one.name);
        answer.gone = areas.mask("face");""",
    )
    assert found["names"] == ["face", "face 2", "area"]
    assert found["renamed"] == ["ear", "ear 2", "ear", "none"]
    assert found["owners"].tolist() == [0, 0, -1, -1, 0, 0, 1, -1, -1, 1, 1, -1]
    assert np.array_equal(found["rest"], found["owners"] == -1)
    assert [name for name, _ in found["owned"]] == ["face", "ear", "ear 2"]
    masks = np.array([mask for _, mask in found["owned"]])
    assert ((masks.sum(0) + found["rest"]) == 1).all()
    assert found["left"] == ["ear", "ear 2"]
    assert found["gone"] is None


def test_tables_are_csv_and_no_formulas(tmp_path: Path) -> None:
    rows = [["area", "sum"], ['a "b", c', -1.5], ["=1+1", 3], ["@x\ny", None], ["−3", 1e-17]]
    script = "answer.text = areasCsv(given.rows);"
    text = run_modules(tmp_path, "areasCsv from areas", script, rows=rows)["text"]
    assert text.endswith("\r\n")
    assert list(csv.reader(io.StringIO(text, newline=""))) == [
        ["area", "sum"], ['a "b", c', "-1.5"], ["'=1+1", "3"], ["'@x\ny", ""], ["−3", "1e-17"],
    ]  # fmt: skip


def test_arrays_are_read_once_and_checked(tmp_path: Path) -> None:
    found = run_modules(
        tmp_path,
        "Arrays from arrays",
        """let reads = 0;
        const manifest = { arrays: { good: { dtype: "float32", shape: [2, 3] },
          short: { dtype: "float32", shape: [9] }, odd: { dtype: "float8", shape: [1] },
          late: { dtype: "uint8", shape: [1] } } };
        const array = async (name) => {
          reads += 1;
          if (name === "late" && reads < 5) throw new Error("not yet");
          return new Float32Array([1, 2, 3, 4, 5, 6]).buffer.slice(0, name === "late" ? 1 : 24);
        };
        const arrays = new Arrays({ manifest, array });
        const said = async (name) => arrays.get(name).then(() => null, (error) => error.message);
        answer.values = [...(await arrays.get("good")), ...(await arrays.get("good"))];
        answer.reads = reads;
        answer.short = await said("short");
        answer.odd = await said("odd");
        answer.late = [await said("late"), await said("late")];
        answer.none = [await said("none"), await said("toString"), arrays.has("toString")];
        arrays.add("more", { dtype: "int32", shape: [1] }, new Int32Array([7]).buffer);
        answer.more = [arrays.has("more"), [...(await arrays.get("more"))]];
        const two = { dtype: "int32", shape: [2] };
        answer.bad = fails(() => arrays.add("m", two, new ArrayBuffer(4)));
        """,
    )
    assert found["values"] == [1, 2, 3, 4, 5, 6] * 2
    assert found["reads"] == 1
    assert "24 bytes" in found["short"]
    assert "needs 36" in found["short"]
    assert "float8" in found["odd"]
    assert found["late"] == ["not yet", None]
    assert found["none"] == ["This explanation has no array “none”.",
                             "This explanation has no array “toString”.", False]  # fmt: skip
    assert found["more"] == [True, [7]]
    assert "needs 8" in found["bad"]


def test_the_check_itself_would_see_a_wrong_gaussian() -> None:
    """The comparison is with scipy's, and a little wider one differs from it by more."""
    values = np.random.default_rng(7).normal(size=(40, 31))
    near = gaussian_filter(values, 3.3001, mode="reflect") - gaussian_filter(values, 3.3)
    assert np.abs(near).max() > 1e-6
