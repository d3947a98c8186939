"""The page in a real browser: by mouse and by keyboard alone, and open to everybody."""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.shown_numbers import areas_address, check_areas, check_pixels, printed, random_areas
from tests.viewer_tools import missing, program

pytest.importorskip("fastapi")
pytest.importorskip("httpx")

from tests.served import Served, photo_bytes, serving, small_explainer

try:
    from playwright.sync_api import Browser, Page, expect, sync_playwright
except ImportError:
    Browser = Page = Any


@dataclass
class Visit:
    """A page that is open, and what happened beside what is seen."""

    page: Page
    server: Served
    console: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    @property
    def own(self) -> str:
        return f"http://127.0.0.1:{self.server.place.port}/"

    def open(self, path: str = "") -> None:
        self.page.goto(self.own + path)
        expect(self.page.locator("#network")).to_contain_text("small")

    def choose(self, *names: str, content: bytes | None = None) -> None:
        files: Any = [
            {"name": name, "mimeType": "image/png", "buffer": content or photo_bytes()}
            for name in names
        ]
        self.page.set_input_files("#file", files)

    def result(self, name: str) -> Any:
        found = self.page.get_by_role("link", name=name, exact=True).first
        expect(found).to_be_visible(timeout=30_000)
        return found

    def shows(self, name: str) -> None:
        """The viewer is open."""
        expect(self.page.locator("[data-gx=stage]")).to_be_visible(timeout=30_000)
        expect(self.page.locator("#viewer")).to_contain_text(name)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    try:
        import playwright  # noqa: F401
    except ImportError:
        missing("playwright")
    path = program("chromium")
    with sync_playwright() as runner:
        found = runner.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    from guidxmage.serving.questions import answer

    with serving(answerer=answer) as found:
        yield found


@pytest.fixture
def visit(browser: Browser, server: Served) -> Iterator[Visit]:
    """A new page; nothing may come from, or go, elsewhere."""
    page = browser.new_page()
    found = Visit(page, server)
    page.on("console", lambda one: found.console.append(f"{one.type}: {one.text}"))
    page.on("pageerror", lambda error: found.console.append(f"error: {error}"))
    page.on("request", lambda request: found.asked.append(request.url))
    yield found
    assert all(url.startswith(found.own) for url in found.asked), found.asked
    page.close()


def quiet(visit: Visit) -> None:
    """Nothing was complained of."""
    assert not [line for line in visit.console if line.startswith(("error", "warning"))]


def dropped(page: Page, kind: str, name: str) -> None:
    """Drop, or paste, a photo as a browser does."""
    page.evaluate(
        """([kind, name, text]) => {
            const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
            const data = new DataTransfer();
            data.items.add(new File([bytes], name, { type: "image/png" }));
            const event = kind === "drop"
                ? new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true })
                : new ClipboardEvent("paste", { clipboardData: data, bubbles: true });
            document.body.dispatchEvent(event);
        }""",
        [kind, name, base64.b64encode(photo_bytes()).decode()],
    )


def test_photos_come_in_every_way(visit: Visit) -> None:
    visit.open()
    visit.choose("chosen.png", "second.png")
    visit.result("chosen.png")
    visit.result("second.png")
    dropped(visit.page, "drop", "dropped.png")
    visit.result("dropped.png")
    dropped(visit.page, "paste", "pasted.png")
    visit.result("pasted.png").click()
    visit.shows("pasted.png")
    quiet(visit)


def test_a_result_is_opened_and_left(visit: Visit) -> None:
    visit.open()
    visit.choose("cat.png")
    visit.result("cat.png").click()
    visit.shows("cat.png")
    assert "?result=" in visit.page.url
    visit.page.reload()
    visit.shows("cat.png")
    visit.page.go_back()
    expect(visit.page.locator("#list")).to_be_visible()
    expect(visit.page.locator("[data-gx=stage]")).to_have_count(0)
    visit.page.go_forward()
    visit.shows("cat.png")
    visit.page.get_by_role("button", name="All photos").click()
    expect(visit.page.locator("#list")).to_be_visible()
    quiet(visit)


def test_the_keyboard_alone(visit: Visit) -> None:
    """A photo is given, explained, opened, looked at and left without a mouse."""
    page = visit.page
    page.on("filechooser", lambda _: None)  # so that the browser opens none of its own
    visit.open()
    page.bring_to_front()
    keys = page.keyboard

    def walk_to(selector: str) -> None:
        for _ in range(120):
            if page.evaluate(f"document.activeElement?.matches({selector!r}) ?? false"):
                return
            keys.press("Tab")
        raise AssertionError(f"{selector} is not reached by Tab")

    walk_to(".gs-skip")
    walk_to("#file")
    with page.expect_file_chooser() as chooser:
        keys.press("Enter")
    chooser.value.set_files(
        [{"name": "keys.png", "mimeType": "image/png", "buffer": photo_bytes()}]
    )
    link = visit.result("keys.png")
    identity = link.get_attribute("href")
    walk_to(f'a[href="{identity}"]')
    keys.press("Enter")
    visit.shows("keys.png")
    walk_to("[data-gx=stage]")
    row = page.locator('[data-gx=cursor] [data-value="row"]')
    before = row.text_content()
    keys.press("ArrowDown")
    expect(row).not_to_have_text(before or "")
    for _ in range(120):
        if page.evaluate("document.activeElement?.id") == "back":
            break
        keys.press("Shift+Tab")
    keys.press("Enter")
    expect(page.locator("#list")).to_be_visible()
    assert page.evaluate("document.activeElement.getAttribute('href')") == identity
    quiet(visit)


def _held(visit: Visit, name: str) -> Any:
    """What the server holds of an uploaded photo, which is open in the viewer."""
    visit.open()
    visit.choose(name)
    visit.result(name).click()
    visit.shows(name)
    identity = re.search(r"result=([\w-]+)", visit.page.url)
    assert identity is not None
    return visit.server.desk.gallery.held(identity[1])


def test_fifty_pixels_are_numpys(visit: Visit) -> None:
    check_pixels(visit.page, _held(visit, "pixels.png").scene)
    quiet(visit)


def test_twenty_areas_are_numpys(visit: Visit) -> None:
    scene = _held(visit, "areas.png").scene
    masks = random_areas(scene.manifest["size"])
    visit.page.goto(visit.page.url.split("#")[0] + "#" + areas_address(masks))
    visit.page.reload()
    visit.shows("areas.png")
    check_areas(visit.page, scene, masks)
    quiet(visit)


@pytest.mark.parametrize("fill", ["zero", "black"])
def test_an_erased_area_is_what_the_network_says(visit: Visit, fill: str) -> None:
    """The page's numbers are those of the network run here, and of Δ and b."""
    held = _held(visit, f"erased-{fill}.png")
    scene, found = held.scene, held.explanation
    mask = np.zeros(scene.manifest["size"], dtype=int)
    mask[5:20, 8:30] = 1
    page = visit.page
    page.goto(page.url.split("#")[0] + "#" + areas_address([mask]))
    page.reload()
    visit.shows(f"erased-{fill}.png")
    panel = page.locator("[data-question=erase]")
    panel.locator("select").last.select_option(fill)
    panel.get_by_role("button", name="Erase and check").click()
    result = panel.locator("[data-gx=erase-result]")
    expect(result.locator("[data-value=after]")).to_be_visible(timeout=30_000)
    X = found.input.clone()
    X[:, torch.from_numpy(mask) > 0] = 0  # both fills: there is no normalisation
    model = visit.server.desk.maker.explainer.model
    with torch.no_grad():
        after = float(model(X[None])[0, int(found.target)])
    predicted = float(found.symbolic_model(X, check=False))
    for name, value in (("after", after), ("predicted", predicted)):
        text = result.locator(f"[data-value={name}]").text_content()
        assert text == printed(value), name
    gap = _number(result.locator("[data-value=gap]").text_content() or "")
    assert gap == pytest.approx(after - predicted, rel=1e-4, abs=1e-5)
    quiet(visit)


def _number(text: str) -> float:
    return float(text.replace("−", "-"))


def test_a_class_is_asked_for(visit: Visit) -> None:
    """A question goes to the server, and its answer comes back with arrays."""
    visit.open()
    visit.choose("asked.png")
    visit.result("asked.png").click()
    visit.shows("asked.png")
    identity = re.search(r"result=([\w-]+)", visit.page.url)
    assert identity is not None
    found = visit.page.evaluate(
        """async (id) => {
            const { sourceOf } = await import("/assets/jobs.js");
            const source = sourceOf(id, {});
            const answer = await source.ask({ kind: "explain", target: 1, against: -1 }, () => 0);
            const bytes = await answer.array(`weights.${answer.number}`);
            return [answer.number, answer.entry.target, [...new Float32Array(bytes)].length];
        }""",
        identity[1],
    )
    assert found[0] >= 0
    assert found[1:] == [1, 3 * 30 * 40]
    failed = visit.page.evaluate(
        """async (id) => {
            const { sourceOf } = await import("/assets/jobs.js");
            try { await sourceOf(id, {}).ask({ kind: "explain", target: 99, against: -1 }); }
            catch (error) { return error.message; }
        }""",
        identity[1],
    )
    assert "no class 99" in failed
    quiet(visit)


def test_an_address_leads_to_its_class_whoever_else_asked(visit: Visit, browser: Browser) -> None:
    """Two tabs ask for classes; each has them in its own order, the server in another."""
    visit.open()
    visit.choose("shared.png")
    visit.result("shared.png").click()
    visit.shows("shared.png")
    tabs = [visit.page, browser.new_page()]
    tabs[1].goto(visit.page.url)
    for page, place in ((tabs[0], -1), (tabs[1], 0)):
        before = page.locator(".gx-target").count()
        page.locator("[data-gx=other-classes] button:has-text('Explain')").nth(place).click()
        expect(page.locator(".gx-target")).to_have_count(before + 1, timeout=20_000)
    chosen = tabs[1].locator(".gx-target[aria-pressed=true] .gx-target-name")
    name = chosen.inner_text()
    tabs[1].wait_for_timeout(500)
    tabs[1].reload()
    expect(chosen).to_have_text(name, timeout=20_000)
    tabs[1].close()


def test_faults_are_sentences_in_the_page(visit: Visit) -> None:
    visit.open()
    visit.choose("none.png", content=b"this is no photo")
    alert = visit.page.locator("#work .gs-failed")
    expect(alert).to_contain_text("none.png is not an image")
    alert.get_by_role("button").click()
    expect(alert).to_have_count(0)
    visit.choose("large.png", content=bytes(2**20 + 1))
    expect(alert).to_contain_text("at most 1 MB are taken")
    visit.open("?result=nothing")
    expect(visit.page.locator("#opened-note")).to_contain_text("no such result")
    visit.page.get_by_role("button", name="All photos").click()
    expect(visit.page.locator("#list")).to_be_visible()


def test_names_are_never_markup(visit: Visit) -> None:
    visit.open()
    name = "<img src=x onerror=alert(1)>.png"
    visit.choose(name)
    visit.result(name).click()
    visit.shows(name)
    quiet(visit)


def test_work_is_cancelled(browser: Browser) -> None:
    from tests.test_serve import Small

    class Slow(Small):
        def forward(self, x: Any) -> Any:
            time.sleep(0.4)
            return super().forward(x)

    with serving(explainer=small_explainer(Slow())) as server:
        visit = Visit(browser.new_page(), server)
        visit.open()
        visit.choose("first.png", "second.png")
        rows = visit.page.locator("#work li")
        expect(rows.nth(1)).to_contain_text("waiting for 1 piece of work")
        visit.page.get_by_role("button", name="Cancel second.png").click()
        expect(rows).to_have_count(1)
        visit.result("first.png")
        expect(visit.page.get_by_role("link", name="second.png")).to_have_count(0)
        visit.page.close()


def test_a_server_that_is_gone(browser: Browser) -> None:
    with serving() as server:
        visit = Visit(browser.new_page(), server)
        visit.open()
        gone = visit.page.locator("#gone")
        expect(gone).to_be_hidden()
    expect(gone).to_contain_text("The server is gone", timeout=15_000)
    visit.page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_everybody_can_use_it(visit: Visit, scheme: Any, width: int) -> None:
    """axe finds no serious fault, and nothing is wider than the screen."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = visit.page
    page.set_viewport_size({"width": width, "height": 844})
    page.emulate_media(color_scheme=scheme)
    visit.open()

    def check() -> None:
        found = axe.run(page).response["violations"]
        bad = [one for one in found if one["impact"] in ("serious", "critical")]
        places = [(one["id"], [node["target"] for node in one["nodes"]][:5]) for one in bad]
        assert not places
        assert page.evaluate("document.documentElement.scrollWidth") <= width

    check()
    visit.choose("a.png")
    visit.result("a.png")
    visit.choose("none.png", content=b"this is no photo")
    expect(page.locator("#work .gs-failed")).to_be_visible()
    check()
    visit.result("a.png").click()
    visit.shows("a.png")
    check()


def test_nothing_is_kept_in_the_browser(visit: Visit) -> None:
    visit.open()
    kept = visit.page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]")
    assert kept == [0, 0, ""]


def test_a_token_is_needed_only_once(browser: Browser) -> None:
    with serving(host="0.0.0.0") as server:
        visit = Visit(browser.new_page(), server)
        visit.page.goto(visit.own)
        assert "token" in (visit.page.text_content("body") or "")
        visit.page.goto(f"{visit.own}?token={server.place.token}")
        expect(visit.page.locator("#network")).to_contain_text("small")
        assert "token" not in visit.page.url
        visit.choose("photo.png")
        visit.result("photo.png").click()
        visit.shows("photo.png")
        visit.page.close()


def test_listed_photos_are_explained_all_together(browser: Browser, tmp_path: Path) -> None:
    from guidxmage.serving.gallery import Entry, Gallery

    gallery = Gallery()
    for number in range(3):
        path = tmp_path / f"photo-{number}.png"
        path.write_bytes(photo_bytes((40 + number, 30)))
        gallery.add(Entry(path.name, photo=path))
    with serving(gallery=gallery) as server:
        visit = Visit(browser.new_page(), server)
        visit.open()
        visit.page.get_by_role("button", name="Explain photo-1.png").click()
        visit.result("photo-1.png")
        visit.page.get_by_role("button", name="Explain all 2").click()
        visit.result("photo-0.png")
        visit.result("photo-2.png")
        visit.page.get_by_role("button", name="Remove photo-0.png from the list").click()
        expect(visit.page.locator("#results .gs-card")).to_have_count(2)
        assert (tmp_path / "photo-0.png").exists()
        visit.page.close()
