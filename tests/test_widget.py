"""The widget: messages between kernel and views, and its module in a browser, beside NumPy."""

from __future__ import annotations

import json
import queue
import shutil
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

from guidxmage import Explainer, Explanation, InputError, MissingExtraError
from guidxmage.viewer import widget as module
from guidxmage.viewer.answers import Answer
from guidxmage.viewer.scene import Scene
from guidxmage.viewer.widget import Conversation, notebook_module
from tests.test_erasing import photo
from tests.test_questions import SEEN, box, layers, runs
from tests.viewer_tools import missing

pytest.importorskip("anywidget")


@pytest.fixture(scope="module")
def explainer() -> Explainer:
    return Explainer(layers(), preprocessing=SEEN, labels=["ant", "bee", "cow", "doe"])


@pytest.fixture(scope="module")
def explanation(explainer: Explainer) -> Explanation:
    return explainer.explain(photo(), depth=["default", "input"])


class Notebook:
    """Stands for a frontend: what widgets publish comes into a queue."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import comm
        from comm.base_comm import BaseComm

        said = self.said = queue.Queue()  # type: ignore[var-annotated]

        class Published(BaseComm):
            def publish_msg(
                self, msg_type: str, data: Any = None, metadata: Any = None, buffers: Any = None,
                **keys: Any,
            ) -> None:  # fmt: skip
                assert isinstance(json.dumps(data, allow_nan=False), str)
                said.put((msg_type, data, list(buffers or [])))

        monkeypatch.setattr(comm, "create_comm", Published)

    def say(self, widget: Any, content: Any) -> None:
        message = {"content": {"data": {"method": "custom", "content": content}}, "buffers": []}
        widget._handle_msg(message)

    def heard(self, id_: str, timeout: float = 60) -> tuple[dict[str, Any], list[bytes], list[Any]]:
        """The last message under an id, its buffers, and the progress before it."""
        progress, end = [], time.monotonic() + timeout
        while True:
            kind, data, buffers = self.said.get(timeout=max(0.01, end - time.monotonic()))
            content = data.get("content", {}) if kind == "comm_msg" else {}
            if content.get("id") != id_:
                continue
            if content["kind"] != "progress":
                return content, buffers, progress
            progress.append(content["text"])


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> Notebook:
    return Notebook(monkeypatch)


# --- the Python side ------------------------------------------------------------------------------


def test_a_widget_gives_its_arrays_when_asked(explanation: Explanation, notebook: Notebook) -> None:
    shown = explanation.widget(name="noise.png")
    manifest = shown.manifest
    assert manifest["name"] == "noise.png"
    assert shown.asks
    assert "objects" in manifest["arrays"]
    assert manifest["objects"]["source"] == "auto"
    assert set(manifest["evidence"]) == {"versions", "fingerprints"}
    assert manifest["depths"]
    while True:  # the layout is a widget of its own, and is opened first
        kind, opened, _ = notebook.said.get(timeout=5)
        assert kind == "comm_open"
        if opened["state"]["_model_module"] == "anywidget":
            break
    assert opened["state"]["manifest"] == manifest
    assert opened["state"]["_esm"] == notebook_module()
    assert len(json.dumps(opened["state"]["manifest"])) < 100_000, "arrays come one by one"
    for name, described in manifest["arrays"].items():
        notebook.say(shown, {"id": f"a-{name}", "kind": "array", "name": name})
        message, buffers, _ = notebook.heard(f"a-{name}")
        assert message["kind"] == "array"
        values = np.frombuffer(buffers[0], described["dtype"]).reshape(described["shape"])
        if name == "weights.0":
            assert np.array_equal(values, explanation.weights)
    notebook.say(shown, {"id": "b", "kind": "array", "name": "/etc/passwd"})
    message, buffers, _ = notebook.heard("b")
    assert message["kind"] == "failed"
    assert "no array" in message["error"]


def test_questions_are_answered_in_the_kernel(explanation: Explanation, notebook: Notebook) -> None:
    shown = explanation.widget(None)
    erase = {"kind": "erase", "target": 0, "area": runs(box(6, 6)), "fill": "black"}
    notebook.say(shown, {"id": "1", "kind": "ask", "question": erase})
    message, buffers, progress = notebook.heard("1")
    assert message["kind"] == "answer"
    assert progress
    assert message["answer"]["before"] == float(explanation.score)
    assert message["arrays"] == {"picture": {"dtype": "uint8", "shape": [20, 24, 3]}}
    assert len(buffers[0]) == 20 * 24 * 3
    other = (int(explanation.target) + 1) % 4
    notebook.say(
        shown, {"id": "2", "kind": "ask", "question": {"kind": "explain", "target": other}}
    )
    message, buffers, _ = notebook.heard("2")
    assert message["answer"]["number"] == 1
    assert sorted(message["arrays"]) == ["placed.1.0", "weights.1", "whole.1.0"]
    assert len(buffers) == 3
    assert len(shown.manifest["targets"]) == 2
    notebook.say(shown, {"id": "3", "kind": "array", "name": "weights.1"})
    assert notebook.heard("3")[0]["kind"] == "array"
    notebook.say(shown, {"id": "4", "kind": "ask", "question": {"kind": "explain", "target": 9}})
    message, _, _ = notebook.heard("4")
    assert message == {"id": "4", "kind": "failed", "error": message["error"]}
    assert "no class 9" in message["error"]


def test_widgets_live_side_by_side(explainer: Explainer, notebook: Notebook) -> None:
    several = explainer.explain(photo(), ("top", 3)).widget(None)
    lone = explainer.explain(photo((40, 21))).widget(None)
    assert len(several.manifest["targets"]) == 3
    assert len(lone.manifest["targets"]) == 1
    for number, one in enumerate((several, lone)):
        question = {"kind": "erase", "target": 0, "area": runs(box(3, 3)), "fill": "zero"}
        notebook.say(one, {"id": str(number), "kind": "ask", "question": question})
    found = [notebook.heard(str(number))[0] for number in (0, 1)]
    assert found[0]["answer"]["before"] != found[1]["answer"]["before"]
    several.close()
    notebook.say(lone, {"id": "x", "kind": "array", "name": "input"})
    assert notebook.heard("x")[0]["kind"] == "array"


def test_a_batch_is_to_be_indexed(explainer: Explainer) -> None:
    batch = explainer.explain([photo(), photo((40, 21))])
    with pytest.raises(InputError, match="index the explanation first"):
        batch.widget()
    assert batch[1].widget(None).manifest["targets"]


def test_loaded_explanations_are_shown_and_answer_with_their_explainer(
    explanation: Explanation, explainer: Explainer, notebook: Notebook, tmp_path: Any
) -> None:
    explanation.save(tmp_path / "kept")
    erase = {"kind": "erase", "target": 0, "area": runs(box(6, 6)), "fill": "black"}
    loaded = Explanation.load(tmp_path / "kept")
    notebook.say(loaded.widget(None), {"id": "1", "kind": "ask", "question": erase})
    assert "without its network" in notebook.heard("1")[0]["error"]
    again = loaded.widget(None, explainer=explainer)
    notebook.say(again, {"id": "2", "kind": "ask", "question": erase})
    assert notebook.heard("2")[0]["kind"] == "answer"


def test_without_anywidget_a_sentence_and_the_rich_display(
    explanation: Explanation, monkeypatch: pytest.MonkeyPatch
) -> None:
    module._widget_class.cache_clear()
    monkeypatch.setitem(sys.modules, "anywidget", None)
    with pytest.raises(MissingExtraError, match=r"guid-xmage\[notebook\]"):
        explanation.widget()
    assert "<table" in explanation._repr_html_() or "<img" in explanation._repr_html_()
    module._widget_class.cache_clear()


def test_importing_the_package_stays_light() -> None:
    told = (
        "import sys, guidxmage\n"
        "print([name for name in ('torch', 'numpy', 'anywidget') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


# --- conversations --------------------------------------------------------------------------------


class Slow:
    """Answers when it is told to."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.scene = Scene({"targets": []})
        self.go, self.began, self.error = threading.Event(), threading.Event(), error

    def __call__(self, question: Any, say: Any, stop: Any) -> Answer:
        self.began.set()
        say("thinking", 0.5)
        while not self.go.wait(0.01):
            stop()
        if self.error is not None:
            raise self.error
        return Answer({"kind": "erase"}, {"picture": np.zeros((2, 2, 3), np.uint8)})


def conversation(answers: Any) -> tuple[Conversation, Any]:
    said: Any = queue.Queue()
    found = Conversation(answers.scene, answers, lambda message, _: said.put(message))

    def heard() -> Any:
        while (message := said.get(timeout=10))["kind"] == "progress":
            pass
        return message

    return found, heard


def test_a_question_is_taken_back() -> None:
    slow = Slow()
    own, heard = conversation(slow)
    own.hear({"id": "1", "kind": "ask", "question": {}})
    assert slow.began.wait(10)
    own.hear({"id": "2", "kind": "ask", "question": {}})  # waits for the first
    own.hear({"id": "2", "kind": "cancel"})
    assert heard() == {"id": "2", "kind": "failed", "error": "Cancelled."}
    own.hear({"id": "1", "kind": "cancel"})
    assert heard() == {"id": "1", "kind": "failed", "error": "Cancelled."}
    own.hear({"id": "1", "kind": "cancel"})  # nobody minds


def test_closing_takes_every_question_back() -> None:
    slow = Slow()
    own, heard = conversation(slow)
    own.hear({"id": "1", "kind": "ask", "question": {}})
    assert slow.began.wait(10)
    own.close()
    assert heard()["error"] == "Cancelled."


@pytest.mark.parametrize(
    "error", [RuntimeError("a network\nraises"), MemoryError(), InputError("no")]
)
def test_whatever_goes_wrong_is_a_sentence_and_the_next_is_answered(error: Any) -> None:
    slow = Slow(error)
    own, heard = conversation(slow)
    slow.go.set()
    own.hear({"id": "1", "kind": "ask", "question": {}})
    message = heard()
    assert message["kind"] == "failed"
    assert "\n" not in message["error"]
    slow.error = None
    own.hear({"id": "2", "kind": "ask", "question": {}})
    assert heard()["kind"] == "answer"


@pytest.mark.parametrize(
    "message", [None, 1, "ask", {}, {"id": 3}, {"id": "1"}, {"id": "1", "kind": 5}]
)
def test_what_is_no_message_is_passed_over(message: Any) -> None:
    own, _ = conversation(Slow())
    own.hear(message)


def test_a_view_that_is_gone_hurts_nobody() -> None:
    def closed(message: Any, _: Any) -> None:
        raise RuntimeError("the comm is closed")

    slow = Slow()
    slow.go.set()
    Conversation(slow.scene, slow, closed).hear({"id": "1", "kind": "ask", "question": {}})
    own, heard = conversation(slow)
    own.hear({"id": "2", "kind": "ask", "question": {}})
    assert heard()["kind"] == "answer"


def test_in_marimo_questions_are_answered_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    marimo: Any = type(sys)("marimo")
    marimo.running_in_notebook = lambda: True
    monkeypatch.setitem(sys.modules, "marimo", marimo)
    slow, threads = Slow(), []
    slow.go.set()
    said: list[Any] = []

    def send(message: Any, _: Any) -> None:
        said.append(message)
        threads.append(threading.current_thread())

    Conversation(slow.scene, slow, send).hear({"id": "1", "kind": "ask", "question": {}})
    assert [one["kind"] for one in said] == ["progress", "answer"]
    assert set(threads) == {threading.current_thread()}


# --- a browser ------------------------------------------------------------------------------------

PAGE = """<!doctype html><meta charset="utf-8"><title>widget</title>
<link rel="stylesheet" href="/widget.css">
<main><div id="one"></div><div id="two"></div></main>
<script type="module" src="/page.js"></script>"""
FRONTEND = """
import widget from "/widget.js";
const state = await (await fetch("/state")).json();
const listeners = new Set();
const model = {
  get: (name) => state[name],
  send: (content) => { fetch("/hear", { method: "POST", body: JSON.stringify(content) }); },
  on: (event, listener) => { listeners.add(listener); },
  off: (event, listener) => { listeners.delete(listener); },
};
window.listening = () => listeners.size;
window.closing = [];
for (const id of ["one", "two"]) {
  window.closing.push(await widget.render({ model, el: document.getElementById(id) }));
}
window.ready = true;
for (;;) {
  const reply = await fetch("/said");
  if (reply.status === 204) continue;
  const whole = await reply.arrayBuffer();
  const view = new DataView(whole);
  const head = view.getUint32(0, true);
  const { content, sizes } = JSON.parse(new TextDecoder().decode(new Uint8Array(whole, 4, head)));
  let at = 4 + head;
  const buffers = sizes.map((size) => { at += size; return new DataView(whole, at - size, size); });
  for (const listener of [...listeners]) listener(content, buffers);
}
"""


class Frontend(ThreadingHTTPServer):
    """Gives a page one widget in two views, as a notebook does."""

    daemon_threads = True

    def __init__(self, notebook: Notebook, widget: Any) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.notebook, self.widget = notebook, widget
        self.files = {
            "/": ("text/html", PAGE),
            "/page.js": ("text/javascript", FRONTEND),
            "/widget.js": ("text/javascript", notebook_module()),
            "/widget.css": ("text/css", widget._css),
            "/state": ("application/json", json.dumps({"manifest": widget.manifest, "asks": True})),
            "/favicon.ico": ("image/x-icon", ""),
        }
        threading.Thread(target=self.serve_forever, daemon=True).start()


class _Handler(BaseHTTPRequestHandler):
    server: Frontend

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        if self.path == "/said":
            self._said()
            return
        kind, text = self.server.files[self.path]
        self._reply(200, text.encode(), kind)

    def do_POST(self) -> None:
        content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.notebook.say(self.server.widget, content)
        self._reply(204, b"", "text/plain")

    def _said(self) -> None:
        try:
            kind, data, buffers = self.server.notebook.said.get(timeout=1)
        except queue.Empty:
            kind, data, buffers = "", {}, []
        if kind != "comm_msg" or data["method"] != "custom":
            self._reply(204, b"", "text/plain")
            return
        head = {"content": data["content"], "sizes": [len(one) for one in buffers]}
        text = json.dumps(head).encode()
        body = struct.pack("<I", len(text)) + text + b"".join(bytes(one) for one in buffers)
        self._reply(200, body, "application/octet-stream")

    def _reply(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def page(explanation: Explanation, notebook: Notebook) -> Iterator[Any]:
    """A page with one widget in two views; no error may come up in it."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing("Playwright")
    chromium = shutil.which("chromium")
    if chromium is None:
        missing("Chromium")
    server = Frontend(notebook, explanation.widget())
    address = f"http://127.0.0.1:{server.server_port}/"
    errors: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        found = browser.new_page(viewport={"width": 1280, "height": 1600})
        found.on("pageerror", lambda error: errors.append(str(error)))
        found.on("console", lambda one: one.type == "error" and errors.append(one.text))
        found.on("request", lambda one: one.url.startswith(address) or errors.append(one.url))
        found.goto(address)
        found.wait_for_function("window.ready === true")
        yield found
        assert errors == []
        browser.close()
    server.shutdown()


PLACE = ("row", "column")
STEPS = {"ArrowRight": 1, "ArrowLeft": -1}


def printed(value: float) -> str:
    return f"{value:.6g}".replace("-", "−")


def test_the_module_in_a_browser(page: Any, explanation: Explanation) -> None:
    """Numbers under the cursor are NumPy's; a question goes to the kernel and comes back."""
    one = page.locator("#one")
    cursor = one.locator('[data-gx="cursor"]')
    stage = one.locator('[data-gx="stage"]')
    A = explanation.contributions.double().numpy()
    stage.focus()
    row, column = (int(cursor.locator(f'[data-value="{name}"]').text_content()) for name in PLACE)
    for key in ["ArrowRight", "ArrowDown", "ArrowDown", "ArrowLeft"]:
        stage.press(key)
        row, column = row + (key == "ArrowDown"), column + STEPS.get(key, 0)
        expected = printed(float(A[:, row, column].sum()))
        cursor.locator('[data-value="sum"]', has_text=expected).wait_for()
        for name, value in zip(PLACE, (row, column), strict=True):
            assert cursor.locator(f'[data-value="{name}"]').text_content() == str(value)
    one.locator('[data-tool="rectangle"]').click()
    place = stage.bounding_box()
    middle = place["x"] + place["width"] / 2, place["y"] + place["height"] / 2
    page.mouse.move(middle[0] - 40, middle[1] - 40)
    page.mouse.down()
    page.mouse.move(middle[0] + 40, middle[1] + 40)
    page.mouse.up()
    one.locator('[data-gx="areas"] tr.gx-area').wait_for()
    one.get_by_role("button", name="Erase and check").click()
    result = one.locator('[data-gx="erase-result"]')
    result.locator('[data-value="after"]').wait_for()
    assert result.locator('[data-value="before"]').text_content() == printed(
        float(explanation.score)
    )
    one.get_by_role("button", name="Explain ").first.click()
    one.locator(".gx-target").nth(1).wait_for()
    # A view that is closed leaves the other alone.
    assert page.evaluate("window.listening()") == 2
    page.evaluate("window.closing[0]()")
    assert page.evaluate("window.listening()") == 1
    assert page.locator("#one .gx-viewer").count() == 0
    assert page.locator("#two .gx-viewer").count() == 1


PLACE = ("row", "column")
STEPS = {"ArrowRight": 1, "ArrowLeft": -1}


def test_views_go_away_and_leave_the_others(page: Any) -> None:
    assert page.evaluate("window.listening()") == 2
    page.evaluate("window.closing[0]()")
    assert page.evaluate("window.listening()") == 1
    assert page.locator("#one .gx-viewer").count() == 0
    assert page.locator("#two .gx-viewer").count() == 1
