"""Reports that ask a network in the browser: a served page, with the graph beside it."""

from __future__ import annotations

import base64
import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from guidxmage import Explainer
from guidxmage.analysis.erasing import erase
from guidxmage.cli import app
from guidxmage.export import export
from guidxmage.export.module import USUAL
from guidxmage.inputs.preprocessing import Preprocessing
from guidxmage.inputs.reference import filling
from guidxmage.viewer.report_network import RUNTIME
from tests.browsing import Watched, browser, until
from tests.npm_packages import onnxruntime_web
from tests.reported import SIZE, explained, small_explainer
from tests.shown_numbers import areas_address, printed
from tests.viewer_tools import run_modules

pytest.importorskip("matplotlib")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")


def explainer() -> Explainer:
    return small_explainer(SIZE)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two results, and graphs of their network without a whole map and with one."""
    folder = tmp_path_factory.mktemp("made")
    explained(folder, ["a.png", "b.png"], explainer())
    export(explainer(), folder / "net.onnx", target="given")
    outputs = (*USUAL, "bound")
    export(explainer(), folder / "deep.onnx", target="given", outputs=outputs, depth="default")
    return folder


def run(*words: object) -> Any:
    return CliRunner().invoke(app, ["report", *map(str, words)])


@pytest.fixture(scope="module")
def served(
    made: Path, tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> Iterator[tuple[str, Path]]:
    """The address of a report with its network, and the folder that it is in.

    Beside it is deep.html, whose graph has a whole map.
    """
    folder = tmp_path_factory.mktemp("served")
    for page, graph in (("report", "net"), ("deep", "deep")):
        done = run(
            made / "results", "--out", folder / f"{page}.html", "--ort",
            onnxruntime_web(pytestconfig), "--with-network", made / f"{graph}.onnx",
        )  # fmt: skip
        assert done.exit_code == 0, done.output
        assert "network in" in done.stdout
        assert ("export it with --depth default" in done.stderr) == (graph == "net")
    with server(folder) as address:
        yield f"{address}/report.html", folder


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """As `python -m http.server` serves a folder."""
    own = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = Thread(target=own.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{own.server_port}"
    own.shutdown()
    own.server_close()
    thread.join()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser() as opened:
        yield opened


@pytest.fixture
def watched(chromium: Any, served: tuple[str, Path]) -> Iterator[Watched]:
    """The report, opened; nothing may go wrong, and nothing may leave this computer."""
    found = Watched(chromium, viewport={"width": 1280, "height": 900})
    found.address = served[0]
    found.page.goto(found.address)
    found.page.wait_for_selector("[data-line]")
    yield found
    found.page.wait_for_timeout(50)
    assert found.complaints == []
    assert found.outside(served[0].rsplit("/", 1)[0]) == []
    found.close()


def number(text: str | None) -> float:
    return float((text or "nan").replace("−", "-"))


def value(page: Any, place: str, name: str) -> float:
    return number(page.locator(f"{place} [data-value='{name}']").first.text_content())


def erased(page: Any, fill: str) -> None:
    """Press the button, and wait for what comes."""
    panel = page.locator("[data-question=erase]")
    if panel.get_attribute("open") is None:
        panel.locator("summary").first.click()
    page.evaluate("document.querySelector('[data-gx=erase-result]').replaceChildren()")
    panel.locator("select").last.select_option(fill)
    panel.get_by_role("button", name="Erase and check").click()
    page.wait_for_selector("[data-gx=erase-result] [data-value=after]", timeout=60_000)


def check_erased(page: Any, explanation: Any, mask: Any, fill: str) -> None:
    """What stands in the page is what Python's `erase` says."""
    erased(page, fill)
    wanted = erase(explanation, torch.from_numpy(mask > 0), fill)
    rounding = 1e-6 * float(explanation.logits.abs().max())
    for name in ("before", "predicted", "after", "predicted_change", "real_change", "gap"):
        expected = getattr(wanted, name)
        # The sixth digit may be another one where the seventh was rounded.
        allowed = 1e-5 * abs(expected) + 10 * rounding
        found = value(page, "[data-gx=erase-result]", name)
        assert abs(found - expected) <= allowed, (fill, name)
    text = page.inner_text("[data-gx=erase-result]")
    assert str(int(mask.sum())) in text
    assert wanted.fill in text
    assert wanted.answer_after[1] in text
    assert value(page, "[data-gx=erase-result]", "before") == number(printed(wanted.before))
    assert page.locator("[data-gx=erase-result] [data-value=flipped]").count() == 0


# --- erase and check ------------------------------------------------------------------------------


def test_an_erased_area_is_what_python_says(watched: Watched, made: Path) -> None:
    """Predicted by the map that is stored, and computed by the graph here."""
    page = watched.page
    mask = np.zeros(SIZE, dtype=int)
    mask[5:20, 8:30] = 1
    page.goto(f"{watched.address}#photo=0001&{areas_address([mask])}")
    page.reload()
    page.wait_for_selector("[data-gx=stage]")
    explanation = explainer().explain(made / "photos" / "a.png")
    for fill in ("zero", "black", "blur"):
        check_erased(page, explanation, mask, fill)
    # The gap is no rounding, or the two numbers would prove nothing.
    assert abs(value(page, "[data-gx=erase-result]", "gap")) > 1e-4
    assert "the graph does not count them" in page.inner_text("[data-gx=erase-result]")
    attack = page.text_content("[data-question=attack]")
    assert "guid-xmage serve" in attack, "what the graph cannot answer is said as elsewhere"


def test_another_class_is_explained(watched: Watched, made: Path) -> None:
    """By its pixels: the graph has no maps at other depths."""
    page = watched.page
    page.goto(f"{watched.address}#photo=0002")
    page.wait_for_selector("[data-gx=stage]")
    explanation = explainer().explain(made / "photos" / "b.png")
    other = int(explanation.logits.argsort()[0])
    name = small_explainer().labels[other]  # type: ignore[index]
    page.fill("[data-gx=class-search]", name)
    page.get_by_role("button", name=f"Explain {name}", exact=True).click()
    page.wait_for_selector("[data-target='1'][aria-pressed=true]", timeout=60_000)
    asked = explainer().explain(made / "photos" / "b.png", other)
    for key, expected in (
        ("score", asked.score),
        ("on-picture", asked.contributions.sum(dtype=torch.float64)),
        ("unplaced", asked.bias),
    ):
        assert value(page, "[data-gx=sum]", key) == pytest.approx(
            float(expected), rel=1e-5, abs=1e-5
        )


# --- a photo that is dropped ----------------------------------------------------------------------


def dropped(page: Any, photo: Path) -> None:
    page.set_input_files("#gx-report-photo", photo)
    page.wait_for_selector("[data-gx=stage]", timeout=60_000)
    page.wait_for_selector("[data-gx=stage][data-ready]")


def check_dropped(page: Any, photo: Path) -> Any:
    """Logits, sums and contributions under the cursor are those of `explain`."""
    found = explainer().explain(photo)
    near = {"rel": 2e-5, "abs": 1e-5 * float(found.logits.abs().max())}
    total = found.contributions.sum(dtype=torch.float64)
    for key, expected in (("score", found.score), ("on-picture", total), ("unplaced", found.bias)):
        assert value(page, "[data-gx=sum]", key) == pytest.approx(float(expected), **near), key
    residual = value(page, "[data-gx=sum]", "residual")
    assert abs(residual) <= float(found.residual_bound)
    logits = page.locator("[data-gx=classes] .gx-class-list .gx-value").all_text_contents()
    ordered = found.logits.sort(descending=True).values
    assert [number(one) for one in logits] == pytest.approx(ordered.tolist(), **near)
    largest = float(found.contributions.abs().max())
    page.focus("[data-gx=stage]")
    for step in ("ArrowRight", "Shift+ArrowUp", "ArrowLeft", "Shift+ArrowLeft", "ArrowDown"):
        page.keyboard.press(step)
        row, column = (int(value(page, "[data-gx=cursor]", key)) for key in ("row", "column"))
        for channel in range(3):
            shown = value(page, "[data-gx=cursor]", f"contributions.{channel}")
            own = float(found.contributions[channel, row, column])
            assert shown == pytest.approx(own, abs=2e-5 * largest), (row, column)
            weight = value(page, "[data-gx=cursor]", f"weights.{channel}")
            own = float(found.weights[channel, row, column])
            assert weight == pytest.approx(
                own, rel=1e-4, abs=1e-5 * float(found.weights.abs().max())
            )
    return found


def test_a_dropped_photo_is_explained_and_erased(watched: Watched, tmp_path: Path) -> None:
    page = watched.page
    photo = tmp_path / "c.png"
    rng = np.random.default_rng(5)
    Image.fromarray(rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)).save(photo)
    dropped(page, photo)
    assert page.inner_text("h1") == "c.png"
    found = check_dropped(page, photo)
    # This graph has no whole map, and so nothing is said of one.
    assert layers_on(page) == ["distribution", "photo"]
    assert not page.locator("[data-value=whole], [data-value=placed]").count()
    assert not page.locator("[data-layer=whole]").is_visible()
    assert "bound" not in page.inner_text(".gx-areas")
    page.focus("[data-gx=stage]")
    for key in ("r", "Enter", "Shift+ArrowRight", "Shift+ArrowDown", "Enter"):
        page.keyboard.press(key)
    page.wait_for_selector("[data-gx=areas] .gx-chosen")
    until(page, "document.querySelector('[data-gx=areas] .gx-chosen [data-value=pixels]') !== null")
    mask = np.zeros(SIZE, dtype=int)
    row, column = (int(value(page, "[data-gx=cursor]", key)) for key in ("row", "column"))
    mask[row - 10 : row + 1, column - 10 : column + 1] = 1  # ten pixels right and down to there
    check_erased(page, found, mask, "zero")
    # Of pixels that are the reference the graph tells no weights, and says so where they count.
    panel = page.locator("[data-question=erase]")
    panel.locator("select").last.select_option("black")
    panel.get_by_role("button", name="Erase and check").click()
    page.wait_for_selector("[data-question=erase] .gx-error:not([hidden])")
    assert "export it with weights" in page.inner_text("[data-question=erase] .gx-error")
    page.click("[data-gx=report-back]")
    page.wait_for_selector("[data-line]")


def layers_on(page: Any) -> list[str]:
    """From the uppermost."""
    found: list[str] = page.locator("[data-layer]:has(input:checked)").evaluate_all(
        "rows => rows.map((row) => row.dataset.layer)"
    )
    return found


def near(found: Any) -> dict[str, float]:
    """What another runtime's rounding may make of numbers that are printed to six digits."""
    return {"rel": 2e-5, "abs": 1e-5 * float(found.logits.abs().max())}


def check_whole(page: Any, found: Any, areas: dict[str, Any]) -> None:
    """Sums, map, areas and bounds at the graph's depth are those of `explain`."""
    (one,) = found.placements
    until(page, "!document.querySelector('.gx-areas').hasAttribute('aria-busy')")
    shown = {key: value(page, "[data-gx=sum]", key) for key in ("score", "on-picture", "unplaced")}
    own = {"score": found.score, "on-picture": one.whole.sum(), "unplaced": one.unplaced}
    assert shown == pytest.approx(
        {key: float(number) for key, number in own.items()}, **near(found)
    )
    residual = value(page, "[data-gx=sum]", "residual")
    assert 0 < abs(residual) <= 2 * float(one.residual_bound)
    assert shown["score"] == pytest.approx(
        shown["on-picture"] + shown["unplaced"] + residual, rel=1e-5
    )
    drawn = one.smoothed().numpy()
    ticks = page.locator("[data-gx=legend] .gx-ticks span").all_text_contents()
    assert number(ticks[-1]) == pytest.approx(abs(drawn).max() * drawn.size / 100, rel=6e-3)
    sums = {name: float(drawn[mask].sum()) for name, mask in areas.items()}
    sums |= {"no place": float(one.unplaced), "total": float(found.score)}
    table = {name: value(page, f"[data-area='{name}']", "whole") for name in sums}
    assert table == pytest.approx(sums, **near(found))
    assert "within the bound of rounding" in page.inner_text(".gx-areas")
    bound = re.search(r"residual at this depth\n?(\S+), bound (\S+)", evidence(page))
    assert bound is not None
    assert 0.25 <= number(bound[2]) / float(one.residual_bound) <= 4
    largest = float(one.whole.abs().max())
    page.focus("[data-gx=stage]")
    for step in ("ArrowRight", "Shift+ArrowUp", "ArrowLeft", "Shift+ArrowLeft"):
        page.keyboard.press(step)
        row, column = (int(value(page, "[data-gx=cursor]", key)) for key in ("row", "column"))
        under = value(page, "[data-gx=cursor]", "whole")
        assert under == pytest.approx(float(one.whole[row, column]), abs=2e-5 * largest)


def evidence(page: Any) -> str:
    return str(page.locator("[data-gx=evidence]").evaluate(
        "panel => { panel.open = true; return panel.innerText; }"
    ))  # fmt: skip


def explain_class(page: Any, name: str, number: int) -> None:
    """Ask for one more class, and wait until it is shown."""
    page.fill("[data-gx=class-search]", name)
    page.get_by_role("button", name=f"Explain {name}", exact=True).click()
    page.wait_for_selector(f"[data-target='{number}'][aria-pressed=true]", timeout=60_000)
    until(page, "!document.querySelector('[data-gx=stage]').hasAttribute('aria-busy')")


def test_a_dropped_photo_lies_whole_on_the_picture(watched: Watched, tmp_path: Path) -> None:
    """Where the graph has the whole map, it is what is seen first."""
    page = watched.page
    page.goto(watched.address.replace("report.html", "deep.html"))
    photo = tmp_path / "d.png"
    rng = np.random.default_rng(7)
    Image.fromarray(rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)).save(photo)
    dropped(page, photo)
    assert layers_on(page) == ["whole", "photo"]
    page.focus("[data-gx=stage]")
    for key in ("r", "Enter", "Shift+ArrowRight", "Shift+ArrowDown", "Enter"):
        page.keyboard.press(key)
    page.wait_for_selector("[data-gx=areas] .gx-chosen [data-value=pixels]")
    row, column = (int(value(page, "[data-gx=cursor]", key)) for key in ("row", "column"))
    mask = np.zeros(SIZE, dtype=bool)
    mask[row - 10 : row + 1, column - 10 : column + 1] = True
    name = page.locator("[data-gx=areas] .gx-chosen").get_attribute("data-area")
    best = explainer().explain(photo, depth="default")
    areas = {name: mask, "rest": ~mask}
    check_whole(page, best, areas)
    # Of the placed bias the graph says nothing, and no more does the page.
    assert not page.locator("[data-value=placed]").count()
    assert not page.locator("[data-layer=placed]").is_visible()
    assert "placed" not in page.inner_text(".gx-viewer").lower()
    index = int(best.logits.argsort()[0])
    explain_class(page, str(small_explainer().labels[index]), 1)  # type: ignore[index]
    other = explainer().explain(photo, index, depth="default")
    check_whole(page, other, areas)
    page.select_option("[data-gx=rather]", "0")
    until(page, "!document.querySelector('.gx-areas').hasAttribute('aria-busy')")
    apart = float((other.whole - best.whole).sum())
    assert value(page, "[data-gx=sum]", "on-picture") == pytest.approx(apart, **near(best))
    assert value(page, "[data-area=rest]", "whole") == pytest.approx(
        float((other.placements[0].smoothed() - best.placements[0].smoothed())[~mask].sum()),
        **near(best),
    )


def test_another_class_of_a_stored_photo_lies_whole(watched: Watched, made: Path) -> None:
    """At the depth that both have; at others it is said that there is no map."""
    page = watched.page
    photo = made / "photos" / "b.png"
    at = watched.address.replace("report.html", "deep.html") + "#photo=0002"
    page.goto(f"{at}&d=0&l=photo:1,whole:1")  # the pixels' depth, which the graph has not
    page.wait_for_selector("[data-gx=stage][data-ready]")
    best = explainer().explain(photo, depth="default")
    index = int(best.logits.argsort()[0])
    slider = page.locator("[data-gx=depths]")
    assert slider.input_value() == "0"
    explain_class(page, str(small_explainer().labels[index]), 1)  # type: ignore[index]
    assert layers_on(page) == ["whole", "photo"]
    there = slider.input_value()
    assert there != "0"
    other = explainer().explain(photo, index, depth="default")
    check_whole(page, other, {"rest": np.ones(SIZE, dtype=bool)})
    assert page.locator("[data-value=placed]").all_text_contents() == ["–"] * 4
    page.select_option("[data-gx=rather]", "0")  # which Python explained, at every depth
    apart = float((other.whole - best.whole).sum())
    assert value(page, "[data-gx=sum]", "on-picture") == pytest.approx(apart, **near(best))
    page.select_option("[data-gx=rather]", "-1")
    slider.fill("0")
    until(page, "!document.querySelector('.gx-areas').hasAttribute('aria-busy')")
    assert "by its pixels" in page.inner_text("[data-gx=sum]")
    assert value(page, "[data-gx=sum]", "unplaced") == pytest.approx(
        float(other.bias), **near(best)
    )
    assert set(page.locator("[data-value=whole]").all_text_contents()) == {"–"}
    assert "none of this class at this depth" in page.inner_text("[data-layer=whole]")
    assert page.inner_text("[data-gx=legend]") == "No map is shown."
    assert value(page, "[data-area=total]", "sum") == pytest.approx(
        float(other.score), **near(best)
    )


def test_photos_of_other_sizes(watched: Watched, tmp_path: Path) -> None:
    """Resized as Pillow does it, transparent ones on white, one that is turned by its EXIF.

    Along one side: where both change, Pillow's versions differ by a grey level.
    """
    page = watched.page
    rng = np.random.default_rng(6)
    values = rng.integers(0, 256, (91, SIZE[1], 4), dtype=np.uint8)
    values[..., 3] = np.where(values[..., 3] > 128, 255, 0)
    Image.fromarray(values, "RGBA").save(tmp_path / "clear.png")
    colours = Image.fromarray(rng.integers(0, 256, (7, 5, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    colours.resize((SIZE[0], 70)).save(tmp_path / "turned.png", exif=exif)
    for name in ("clear.png", "turned.png"):
        dropped(page, tmp_path / name)
        check_dropped(page, tmp_path / name)
        page.click("[data-gx=report-back]")
        page.wait_for_selector("[data-line]")


def test_what_is_no_photo_is_told(watched: Watched, tmp_path: Path) -> None:
    page = watched.page
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n nothing")
    page.set_input_files("#gx-report-photo", tmp_path / "broken.png")
    page.wait_for_selector("[data-gx=report-drop] [role=alert]:not([hidden])")
    text = page.inner_text("[data-gx=report-drop] [role=alert]")
    assert text == "“broken.png” is no photo that this browser can read."
    assert page.locator("[data-line]").count() == 2, "the list stays"


def test_a_dropped_photo_is_taken_back(watched: Watched, made: Path) -> None:
    """Cancelled while the worker or the graph is loaded; the next one is explained."""
    page = watched.page
    held: list[Any] = []

    def hold(route: Any) -> None:
        held.append(route)

    page.route("**/network_worker.js", hold, times=1)
    with page.expect_request("**/network_worker.js"):
        page.set_input_files("#gx-report-photo", made / "photos" / "a.png")
    page.get_by_role("button", name="Cancel").click()
    held[0].continue_()
    page.wait_for_selector("[data-gx=report-drop] [role=alert]:not([hidden])")
    page.route("**/network.onnx", lambda route: None)
    page.set_input_files("#gx-report-photo", made / "photos" / "a.png")
    page.get_by_role("button", name="Cancel").click()
    page.wait_for_selector("[data-gx=report-drop] [role=alert]:not([hidden])")
    assert page.inner_text("[data-gx=report-drop] [role=alert]") == "Cancelled."
    page.unroute("**/network.onnx")
    page.evaluate(
        """async (bytes) => {
          const file = new File([Uint8Array.from(bytes)], "a.png", { type: "image/png" });
          const dataTransfer = new DataTransfer();
          dataTransfer.items.add(file);
          document.body.dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true }));
        }""",
        list((made / "photos" / "a.png").read_bytes()),
    )
    page.wait_for_selector("[data-gx=stage]", timeout=60_000)
    assert page.inner_text("h1") == "a.png"


def test_everybody_can_use_it_on_a_small_screen(watched: Watched, made: Path) -> None:
    """axe finds no serious fault, and nothing is wider than the screen."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = watched.page
    page.set_viewport_size({"width": 390, "height": 844})

    def check() -> None:
        found = axe.run(page).response["violations"]
        bad = [one for one in found if one["impact"] in ("serious", "critical")]
        assert [(one["id"], [node["target"] for node in one["nodes"]]) for one in bad] == []
        assert page.evaluate("document.documentElement.scrollWidth") <= 390

    check()
    dropped(page, made / "photos" / "a.png")
    check()


CASES = [
    ((70, 50), {"resize": 40, "crop": 36}),
    ((50, 71), {"resize": 40, "crop": (36, 31), "interpolation": "bicubic"}),
    ((9, 13), {"resize": (36, 44), "interpolation": "bicubic"}),
    ((91, 60), {"resize": (36, 44)}),
    ((91, 44), {"resize": (36, 44)}),
    ((36, 61), {"resize": (36, 200), "interpolation": "bicubic"}),
    ((333, 200), {"resize": 37, "crop": 24, "crop_starts": "down"}),
    ((30, 20), {"resize": None, "crop": 36}),
    ((61, 47), {"resize": 33, "crop": 20, "interpolation": "nearest"}),
    ((61, 47), {"resize": 33, "crop": 20, "mean": (0.5,), "std": (0.5,)}),
]


@pytest.mark.parametrize(("size", "options"), CASES)
def test_photos_are_resized_as_pillow_does_it(
    size: tuple[int, int], options: Any, tmp_path: Path
) -> None:
    rng = np.random.default_rng(size[0])
    values = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    described = Preprocessing(**options)
    found = run_modules(
        tmp_path,
        "seenPart, inputOf from photo_input",
        """const [height, width] = given.size;
        const photo = { data: known.values, height, width, channels: 3 };
        const seen = seenPart(photo, given.geometry);
        save("seen", seen.data);
        save("pixels", inputOf(seen, given.geometry, "pixels"));
        save("input", inputOf(seen, given.geometry, "input"));
        answer.shape = [seen.height, seen.width];""",
        values=values, size=size, geometry=described.to_dict(),
    )  # fmt: skip
    photo = Image.fromarray(values).convert(described.mode)
    expected = np.asarray(described.crop_image(photo))
    assert found["shape"] == list(expected.shape[:2])
    apart = np.abs(found["seen"].astype(int) - expected.ravel())
    (height, width), _ = described.geometry(size)
    both = described.interpolation != "nearest" and height != size[0] and width != size[1]
    # Versions of Pillow begin with rows or with columns; in between there are bytes.
    assert apart.max() <= (1 if both else 0)
    assert (apart > 0).mean() < 0.3
    seen = found["seen"].reshape(*expected.shape[:2], -1)
    planes = torch.from_numpy(seen).permute(2, 0, 1).float() / 255
    assert np.array_equal(found["pixels"], planes.flatten().numpy())
    own = described.from_pixels(planes).flatten().numpy()
    np.testing.assert_allclose(found["input"], own, rtol=3e-7, atol=3e-7)


def test_fillings_are_those_of_python(tmp_path: Path) -> None:
    """In the network's own space, and from another photo's colours."""
    known = Preprocessing(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))
    grey = Preprocessing(mean=(0.4,), std=(0.2,))
    colours = np.random.default_rng(8).integers(0, 256, (2, 3, 3), dtype=np.uint8)
    rgb = base64.b64encode(colours.tobytes()).decode()
    found = run_modules(
        tmp_path,
        "fillingOf from filling; weightsOf from graph_answers",
        """const life = new AbortController().signal;
        const fillings = async (known, space) => {
          const about = { space, preprocessing: known, shape: [known.mean.length, 4, 5] };
          const X = new Float32Array(known.mean.length * 20);
          for (const fill of ["zero", "black", "photo"]) {
            const question = { fill, photo: { box: [1, 2, 2, 3], rgb: given.rgb } };
            const { values } = await fillingOf(question, X, about, life);
            save(`${fill}.${space}.${known.mean.length}`, values);
          }
        };
        for (const space of ["input", "pixels"]) {
          await fillings(given.known, space);
          await fillings(given.grey, space);
        }
        const graph = { about: { colour: [0.4, 0.5], shape: [2, 1, 2] } };
        const A = Float32Array.of(1, 0, 3, -4);
        const X = Float32Array.of(0.9, 0.4, 1, 0.25);
        save("derived", weightsOf(graph, { weights: null, contributions: A }, X));
        save("given", weightsOf(graph, { weights: X, contributions: A }, X));""",
        rgb=rgb, known=known.to_dict(), grey=grey.to_dict(),
    )  # fmt: skip
    for described in (known, grey):
        channels = len(described.mean)
        pixels = torch.from_numpy(colours / 255).permute(2, 0, 1)
        if channels == 1:
            pixels = torch.tensordot(torch.tensor([0.299, 0.587, 0.114]).double(), pixels, 1)[None]
        X = torch.zeros(channels, 4, 5)
        for space in ("input", "pixels"):
            for fill in ("zero", "black"):
                values = found[f"{fill}.{space}.{channels}"].reshape(channels, 4, 5)
                own = filling(fill, X, space, described)
                np.testing.assert_allclose(values, own.numpy(), rtol=1e-7, atol=0)
            drawn = found[f"photo.{space}.{channels}"].reshape(channels, 4, 5)[:, 1:3, 2:]
            own = pixels if space == "pixels" else described.from_pixels(pixels)
            np.testing.assert_allclose(drawn, own.numpy(), rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(found["derived"], [2, np.nan, 6, 16], rtol=1e-6)
    np.testing.assert_array_equal(found["given"], np.float32([0.9, 0.4, 1, 0.25]))


def test_a_photo_of_another_space_or_size_is_not_asked_about(tmp_path: Path) -> None:
    found = run_modules(
        tmp_path,
        "withGraph from graph_answers",
        """const about = { space: "pixels", shape: [3, 4, 5], fingerprint: "a" };
        const told = (size, space) => {
          const manifest = { size, space, channels: ["r", "g", "b"], evidence: {}, targets: [] };
          const made = withGraph({ manifest, array: null }, { about, hindrance: "" });
          return [Boolean(made.ask), made.instead ?? ""];
        };
        answer.fits = told([4, 5], "pixels");
        answer.photo = told([40, 50], "photo");
        answer.large = told([8, 5], "pixels");""",
    )
    assert found["fits"] == [True, ""]
    for name, words in (("photo", "the space “photo” at 3×40×50"), ("large", "at 3×8×5")):
        assert found[name][0] is False
        assert words in found[name][1]


# --- where it cannot be asked ---------------------------------------------------------------------


def test_from_disk_the_page_says_what_to_do(chromium: Any, served: tuple[str, Path]) -> None:
    found = Watched(chromium)
    found.page.goto((served[1] / "report.html").as_uri())
    found.page.wait_for_selector("[data-line]")
    sentence = "python -m http.server in its folder, and open http://localhost:8000/report.html"
    attack = "needs the network itself"
    assert sentence in found.page.inner_text("[data-gx=report-drop]")
    found.page.click("[data-photo='0001']")
    found.page.wait_for_selector("[data-gx=stage]")
    assert sentence in (found.page.text_content("[data-question=erase]") or "")
    assert attack in (found.page.text_content("[data-question=attack]") or "")
    assert found.complaints == []
    found.close()


def test_without_the_runtime_or_the_graph(
    chromium: Any, served: tuple[str, Path], made: Path, tmp_path: Path
) -> None:
    """Both are told in the page, and the rest of it works."""
    shutil.copytree(served[1], tmp_path / "lost")
    (tmp_path / "lost" / "report_network" / RUNTIME[0]).unlink()
    done = run(
        made / "results", "--out", tmp_path / "none.html", "--with-network", made / "net.onnx"
    )
    assert done.exit_code == 0, done.output
    assert "npm install onnxruntime-web" in done.stderr
    found = Watched(chromium)
    with server(tmp_path) as address:
        found.page.goto(f"{address}/none.html")
        found.page.wait_for_selector("[data-line]")
        assert "npm install onnxruntime-web" in found.page.inner_text("[data-gx=report-drop]")
        assert found.complaints == []
        found.page.goto(f"{address}/lost/report.html")
        found.page.set_input_files("#gx-report-photo", made / "photos" / "a.png")
        found.page.wait_for_selector("[data-gx=report-drop] [role=alert]:not([hidden])")
        text = found.page.inner_text("[data-gx=report-drop] [role=alert]")
        assert "keep the folder report_network beside this page" in text
    found.close()


def test_only_this_form_of_the_report_may_ask(served: tuple[str, Path], made: Path) -> None:
    plain = made / "plain.html"
    assert run(made / "results", "--out", plain).exit_code == 0

    def policy(page: Path) -> str:
        found = re.search(r'Content-Security-Policy" content="([^"]*)"', page.read_text())
        assert found is not None
        return found[1]

    words = ("connect-src", "worker-src", "wasm-unsafe-eval")
    assert not any(word in policy(plain) for word in words)
    assert all(word in policy(served[1] / "report.html") for word in words)
    assert "http" not in policy(served[1] / "report.html")
    both = made / "both.html"
    assert run(made / "results", "--out", both, "--with-network", made / "net.onnx").exit_code == 0
    assert (made / "both_network").is_dir()
    again = run(made / "results", "--out", both)
    assert "both_network belongs to no report any more" in " ".join(again.stderr.split())
    assert "wasm" not in policy(both)


def test_the_policy_holds_in_the_worker(
    chromium: Any, served: tuple[str, Path], tmp_path: Path
) -> None:
    """A worker as the page makes it reads the files beside the page, and nothing else."""
    (tmp_path / "there.txt").write_text("outside")
    asked = """async ([own, other]) => {
      const script = `onmessage = async ({ data }) => {
        const get = (address) =>
          fetch(address, { mode: "no-cors" }).then(() => "read", () => "refused");
        postMessage([await get(data[0]), await get(data[1])]);
      };`;
      const text = new Blob([script], { type: "text/javascript" });
      const worker = new Worker(URL.createObjectURL(text), { type: "module" });
      const told = new Promise((resolve) => { worker.onmessage = ({ data }) => resolve(data); });
      worker.postMessage([own, other]);
      return told;
    }"""
    found = Watched(chromium)
    with server(tmp_path) as other:
        found.page.goto(served[0])
        found.page.wait_for_selector("[data-line]")
        own = served[0].replace("report.html", "report_network/manifest.json")
        assert found.page.evaluate(asked, [own, f"{other}/there.txt"]) == ["read", "refused"]
        assert found.page.evaluate("address => fetch(address).then(() => 1, () => 0)", other) == 0
    found.close()


def test_a_graph_of_another_network_is_not_asked(
    chromium: Any, made: Path, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    """By its hash, or by the score that it gives where the hash is the same."""
    onnx = pytest.importorskip("onnx")
    model = onnx.load(made / "net.onnx")
    tensor = next(one for one in model.graph.initializer if list(one.dims) == [4, 8])
    values = onnx.numpy_helper.to_array(tensor) * np.float32(1.01)
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    onnx.save(model, tmp_path / "changed.onnx")
    said = {**json.loads(model.metadata_props[0].value), "fingerprint": "0" * 64}
    model.metadata_props[0].value = json.dumps(said)
    onnx.save(model, tmp_path / "other.onnx")
    ort = onnxruntime_web(pytestconfig)
    found = Watched(chromium)
    page = found.page
    mask = np.zeros(SIZE, dtype=int)
    mask[3:9, 4:7] = 1
    with server(tmp_path) as address:
        for name in ("changed", "other"):
            words = ["--with-network", tmp_path / f"{name}.onnx", "--ort", ort]
            assert run(made / "results", "--out", tmp_path / f"{name}.html", *words).exit_code == 0
        page.goto(f"{address}/other.html#photo=0001")
        page.wait_for_selector("[data-gx=stage]")
        assert "another network" in (page.text_content("[data-question=erase]") or "")
        page.goto(f"{address}/changed.html#photo=0001&{areas_address([mask])}")
        page.wait_for_selector("[data-gx=stage]")
        page.locator("[data-question=erase] summary").first.click()
        page.get_by_role("button", name="Erase and check").click()
        page.wait_for_selector("[data-question=erase] .gx-error:not([hidden])", timeout=60_000)
        assert "another score" in page.inner_text("[data-question=erase] .gx-error")
    assert found.complaints == []
    found.close()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"target": "the 1 best"}, "--target given"),
        ({"outputs": ["logits"]}, "gives no contributions"),
        ({"preprocessing": {"mean": []}}, "preprocessing that is none"),
        ({"outputs": [*USUAL, "whole", "unplaced"]}, "'depth' is null where"),
        (
            {
                "outputs": [*USUAL, "whole", "unplaced"],
                "depth": {"site": "0", "grid": [9, 11], "stride": 4.0, "sigma": 1e300},
            },
            "a depth that is none",
        ),
        ({"schema": "other"}, "another version"),
    ],
)
def test_graphs_that_a_page_cannot_ask(
    change: dict[str, Any], sentence: str, made: Path, tmp_path: Path
) -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load(made / "net.onnx")
    said = {**json.loads(model.metadata_props[0].value), **change}
    model.metadata_props[0].value = json.dumps(said)
    onnx.save(model, tmp_path / "net.onnx")
    out = tmp_path / "report.html"
    done = run(made / "results", "--out", out, "--with-network", tmp_path / "net.onnx")
    assert done.exit_code == 2
    assert sentence in " ".join(done.stderr.split())
    assert not out.exists()


def test_the_runtime_is_looked_for(made: Path, tmp_path: Path) -> None:
    words = [made / "results", "--out", tmp_path / "report.html"]
    alone = run(*words, "--ort", tmp_path)
    assert alone.exit_code == 2
    assert "--with-network" in alone.stderr
    none = run(*words, "--ort", tmp_path, "--with-network", made / "net.onnx")
    assert none.exit_code == 2
    assert "npm install onnxruntime-web" in " ".join(none.stderr.split())
    assert not list(tmp_path.iterdir())
