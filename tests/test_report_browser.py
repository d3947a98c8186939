"""Reports opened from disk in a real browser."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from guidxmage.jobs import report_results as reporting
from guidxmage.jobs.saved_scene import saved_scene
from tests.browsing import Watched, browser, until
from tests.reported import SIZE, explained, masks_for
from tests.shown_numbers import areas_address, check_areas, check_pixels, random_areas

pytest.importorskip("matplotlib")
NAMES = ["a.png", "b.png", "c.png"]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("made")
    masks = masks_for(folder / "masks", [Path(name) for name in NAMES[:2]])
    both = explained(folder, NAMES[:2], objects=masks, target="top2", certify=True)
    return [*both, *explained(folder / "more", NAMES[2:])]


@pytest.fixture(scope="module")
def report(results: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report") / "report.html"
    reporting.report_results(results, out, title="Three photos")
    return out


@pytest.fixture
def watched(chromium: Any, report: Path) -> Iterator[Watched]:
    """The report, opened; at the end nothing may have gone wrong."""
    found = Watched(chromium, viewport={"width": 1280, "height": 900})
    found.address = report.as_uri()
    found.page.goto(found.address)
    found.page.wait_for_selector("[data-line]")
    yield found
    found.page.wait_for_timeout(50)
    assert found.complaints == []
    assert found.outside(report.as_uri()) == []
    found.close()


def order(page: Any) -> list[str]:
    return page.eval_on_selector_all(
        "[data-line]",
        "rows => rows.map((row) => row.querySelector('a span').firstChild.textContent)",
    )


def photo(page: Any, number: int, more: str = "") -> None:
    """Open a photo by its address."""
    page.evaluate("hash => { location.hash = hash; }", f"#photo={number:04d}{more}")
    page.wait_for_selector("[data-gx=stage]")


# --- the list ------------------------------------------------------------------------------------


def test_the_list_is_sorted_by_keyboard(watched: Watched, results: list[Path]) -> None:
    page = watched.page
    assert order(page) == NAMES
    summaries = [saved_scene(folder)[1] for folder in results]
    keys = {"score": "score", "residual": "residual", "object": "object_share",
            "background": "background_share", "name": "name"}  # fmt: skip
    for key, of in keys.items():
        there = [one for one in summaries if one[of] is not None]
        last = [one["name"] for one in summaries if one[of] is None]
        rising = [one["name"] for one in sorted(there, key=lambda one: one[of])]
        falling = rising[::-1]
        page.focus(f"[data-sort={key}]")
        for _ in range(2):
            page.keyboard.press("Enter")
            head = page.locator(f"th:has([data-sort={key}])")
            wanted = rising if head.get_attribute("aria-sort") == "ascending" else falling
            assert order(page) == wanted + last, key
            assert page.evaluate("document.activeElement.dataset.sort") == key
        assert page.locator("[aria-sort]").count() == 1
    assert "sort=name" in page.evaluate("location.hash")


def test_the_list_is_filtered_and_kept_in_the_address(watched: Watched) -> None:
    page = watched.page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.dataset.gx") == "report-find"
    page.keyboard.type("B.PNG results")
    assert order(page) == ["b.png"]
    assert page.inner_text(".gx-report-count") == "1 of 3 photos"
    page.reload()
    page.wait_for_selector("[data-line]")
    assert order(page) == ["b.png"]
    page.fill("[data-gx=report-find]", "nothing like it")
    assert order(page) == []


def test_photos_are_opened_and_left_by_keyboard(watched: Watched) -> None:
    page = watched.page
    page.focus("[data-photo='0002']")
    page.keyboard.press("Enter")
    page.wait_for_selector("[data-gx=stage]")
    assert page.inner_text("h1") == "b.png"
    assert page.evaluate("document.activeElement.textContent") == "b.png"
    assert page.title() == "b.png – Three photos"
    page.focus("[data-gx=report-next]")
    page.keyboard.press("Enter")
    until(page, "document.querySelector('h1').textContent === 'c.png'")
    assert page.locator("[data-gx=report-next]").count() == 0, "it is the last"
    page.focus("[data-gx=report-previous]")
    page.keyboard.press("Enter")
    until(page, "document.querySelector('h1').textContent === 'b.png'")
    page.focus("[data-gx=report-back]")
    page.keyboard.press("Enter")
    page.wait_for_selector("[data-line]")
    assert page.evaluate("document.activeElement.dataset.photo") == "0002"
    page.go_back()
    page.wait_for_selector("[data-gx=stage]")
    page.go_back()
    page.go_back()
    page.go_back()
    page.wait_for_selector("[data-line]")


def test_the_view_of_a_photo_is_in_its_address(watched: Watched, report: Path) -> None:
    page = watched.page
    photo(page, 1)
    page.focus("[data-gx=stage]")
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    until(page, f"location.hash.includes('k={SIZE[0] // 2},{SIZE[1] // 2 + 3}')")
    address = page.evaluate("location.hash")
    assert address.startswith("#photo=0001&")
    page.goto("about:blank")
    page.goto(report.as_uri() + address)
    page.wait_for_selector("[data-gx=stage]")
    assert page.inner_text("[data-gx=cursor] [data-value=column]") == str(SIZE[1] // 2 + 3)
    watched.requests.clear()


def test_areas_come_back_whatever_they_are_called(watched: Watched) -> None:
    page = watched.page
    photo(page, 1)
    page.focus("[data-gx=stage]")
    for key in ("r", "Enter", "Shift+ArrowRight", "ArrowDown", "Enter"):
        page.keyboard.press(key)
    for name in ("nose!", "a~b", "50 %", "1*2-3.4", "</b>"):
        page.fill(".gx-edit input", name)
        page.keyboard.press("Enter")
        until(page, f"document.querySelector('.gx-chosen')?.dataset.area === {name!r}")
        page.wait_for_timeout(400)
        address = page.evaluate("location.href")
        page.goto("about:blank")
        page.goto(address)
        page.wait_for_selector("[data-gx=areas] .gx-chosen")
        assert page.get_attribute("[data-gx=areas] .gx-chosen", "data-area") == name
    watched.requests.clear()


def test_an_address_that_makes_no_sense_costs_nothing_else(watched: Watched) -> None:
    """Neither the rest of what it says, nor time and memory."""
    page = watched.page
    endless = "-".join(["0.0*lflr"] * 40)
    for areas in (endless, "%FF", "1.2.3", "a~0.1-zz*zzzzz"):
        page.goto("about:blank")
        began = time.monotonic()
        page.goto(f"{watched.address}#photo=0001&t=1&p=blind&a=a~{areas}")
        page.wait_for_selector("[data-gx=stage]")
        page.wait_for_selector("[data-gx=areas] [data-area=total]")
        assert time.monotonic() - began < 4
        assert page.get_attribute("[data-target='1']", "aria-pressed") == "true"
    watched.requests.clear()


def test_long_names_make_no_page_wide(watched: Watched) -> None:
    page = watched.page
    page.set_viewport_size({"width": 390, "height": 800})
    photo(page, 1)
    page.evaluate(
        "document.querySelectorAll('.gx-target-name, .gx-class-name, [data-gx=rather] option')"
        ".forEach((one) => { one.textContent = 'x'.repeat(200); })"
    )
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_the_band_under_the_cursor_wears_the_palette(watched: Watched) -> None:
    page = watched.page
    photo(page, 1, "&p=blind&b=0,0&k=3,4")
    until(page, "document.querySelector('[data-gx=cursor] [data-value=band]').textContent !== '–'")
    colour = page.evaluate("getComputedStyle(document.querySelector('.gx-band')).borderLeftColor")
    adds = page.inner_text("[data-gx=cursor] [data-value=band]") == "adds strongly"
    assert colour == ("rgb(170, 14, 38)" if adds else "rgb(24, 82, 158)")


def test_the_look_goes_along_to_the_next_photo(watched: Watched) -> None:
    page = watched.page
    photo(page, 1, "&p=blind&h=dark&l=photo:1,distribution:0.5&k=1,2")
    page.wait_for_selector("body[data-theme=dark]")
    page.click("[data-gx=report-next]")
    until(page, "document.querySelector('h1').textContent === 'b.png'")
    found = page.evaluate("location.hash")
    assert "p=blind" in found
    assert "h=dark" in found
    assert "k=1,2" not in found
    page.click("[data-gx=report-back]")
    page.wait_for_selector("[data-line]")
    assert page.get_attribute("body", "data-theme") == "dark"


# --- the numbers ---------------------------------------------------------------------------------


def test_fifty_pixels_are_numpys(watched: Watched, results: list[Path]) -> None:
    photo(watched.page, 1)
    check_pixels(watched.page, saved_scene(results[0])[0])


def test_twenty_areas_are_numpys(watched: Watched, results: list[Path]) -> None:
    masks = random_areas(SIZE)
    photo(watched.page, 2, f"&{areas_address(masks)}")
    check_areas(watched.page, saved_scene(results[1])[0], masks)


def test_the_evidence_is_there(watched: Watched, results: list[Path]) -> None:
    page = watched.page
    scene, _ = saved_scene(results[0])
    photo(page, 1)
    page.click("[data-gx=evidence] summary")
    text = page.inner_text("[data-gx=evidence]")
    evidence = scene.manifest["evidence"]
    assert evidence["verify"] in text
    assert evidence["photo_sha256"] in text
    assert evidence["fingerprints"]["image"] in text
    assert evidence["certificate"][0] in text
    assert "residual" in text


def test_questions_say_what_they_need(watched: Watched) -> None:
    photo(watched.page, 1)
    text = watched.page.text_content("[data-gx=questions]")
    assert "guid-xmage serve" in text


def test_nothing_from_outside_can_be_loaded(chromium: Any, report: Path) -> None:
    """The policy of the page holds, whoever tries."""
    found = Watched(chromium)
    found.page.goto(report.as_uri())
    tried = found.page.evaluate(
        """async () => {
          const image = new Image();
          const loaded = new Promise((resolve) => {
            image.onload = () => resolve("loaded");
            image.onerror = () => resolve("refused");
          });
          image.src = "https://example.org/a.png";
          const fetched = fetch("https://example.org/").then(() => "loaded", () => "refused");
          return [await loaded, await fetched];
        }"""
    )
    assert tried == ["refused", "refused"]
    assert all("Content Security Policy" in words or "CSP" in words for words in found.complaints)
    found.close()


# --- paper ---------------------------------------------------------------------------------------


def test_list_and_photo_are_printed(watched: Watched, tmp_path: Path) -> None:
    page = watched.page
    listed = page.pdf(format="A4")
    assert listed.startswith(b"%PDF")
    photo(page, 1)
    page.wait_for_timeout(300)
    shown = page.pdf(format="A4")
    assert shown.startswith(b"%PDF")
    page.emulate_media(media="print")
    assert page.locator("[data-gx=report-back]").is_hidden()
    assert page.locator("[data-gx=stage]").is_visible()


# --- data beside the page ------------------------------------------------------------------------


def test_data_beside_the_page_is_loaded_when_needed(
    chromium: Any, results: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reporting, "MOST_PHOTOS", 2)
    out = tmp_path / "many & more.html"
    reporting.report_results(results, out, title="Beside")
    found = Watched(chromium)
    page = found.page
    page.goto(out.as_uri())
    page.wait_for_selector("[data-line]")
    assert found.outside(out.as_uri()) == []
    page.click("[data-photo='0002']")
    page.wait_for_selector("[data-gx=stage]")
    loaded = [address for address in found.requests if address.endswith(".js")]
    assert len(loaded) == 1
    assert loaded[0].endswith("_data/0002.js")
    assert found.outside(tmp_path.as_uri()) == []
    assert found.complaints == []
    data = tmp_path / "many & more_data"
    shutil.copy(data / "0002.js", data / "0003.js")
    page.click("[data-gx=report-next]")
    assert re.search("does not hold the data of c.png", page.inner_text("[role=alert]"))
    text = (data / "0001.js").read_text()
    (data / "0001.js").write_text(re.sub(r'", "[0-9a-f]{16}"', '", "0000000000000000"', text))
    page.evaluate("location.hash = '#photo=0001'")
    until(page, "document.querySelector('[role=alert]')?.textContent.includes('another report')")
    shutil.rmtree(data)
    page.evaluate("location.hash = '#photo=0002'")
    until(page, "document.querySelector('[role=alert]')?.textContent.includes('cannot be read')")
    found.close()
