"""guid-xmage serve: every route, and what must not get through."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi")
pytest.importorskip("httpx")

import torch
from torch import Tensor
from typer.testing import CliRunner, Result

from guidxmage.cli import app
from guidxmage.jobs.explain_photos import Job, explain_photos
from guidxmage.serving.gallery import Entry, Gallery
from guidxmage.serving.guard import SECURITY_HEADERS
from guidxmage.serving.held import summary_of_saved
from guidxmage.serving.server import is_loopback, place_at
from guidxmage.serving.uploads import display_name
from guidxmage.serving.work_queue import FullError, Limits, Outcome, Say, Stop, WorkQueue
from guidxmage.serving.work_queue import Job as QueuedJob
from tests.served import Served, Small, photo_bytes, serving, small_explainer


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with serving() as found:
        yield found


@pytest.fixture(scope="module")
def result(server: Served) -> str:
    return server.result()


def sentence(response: Any, status: int) -> str:
    """The one sentence of an error."""
    assert response.status_code == status, response.text
    document = response.json()
    assert list(document) == ["error"]
    assert document["error"]
    assert "\n" not in document["error"]
    return str(document["error"])


# --- routes --------------------------------------------------------------------------------------


def test_the_page_and_its_files(server: Served) -> None:
    page = server.client.get("/")
    assert page.status_code == 200
    files = re.findall(r'(?:src|href)="(/assets/[^"]+)"', page.text)
    assert {"/assets/page.js", "/assets/page.css", "/assets/viewer.css"} <= set(files)
    for file in [*files, "/assets/viewer.js", "/favicon.ico"]:
        found = server.client.get(file)
        assert found.status_code == 200, file
        again = server.client.get(file, headers={"if-none-match": found.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
    assert "style=" not in page.text
    assert not re.search(r"<script(?![^>]*src=)|\son\w+=", page.text)


def test_every_answer_has_the_security_headers(server: Served, result: str) -> None:
    for path in ("/", "/api/info", "/nothing", f"/api/results/{result}/arrays/input"):
        headers = server.client.get(path).headers
        assert all(headers[name] == value for name, value in SECURITY_HEADERS.items())
        assert "cache-control" in headers
        assert "server" not in headers
    assert SECURITY_HEADERS["content-security-policy"].startswith("default-src 'self';")
    refused = server.client.get("/", headers={"host": "evil.example"})
    assert refused.headers["content-security-policy"]


def test_a_photo_becomes_a_result(server: Served) -> None:
    told = server.ended(server.upload(name="a cat.png"))
    assert (told["state"], told["fraction"], told["place"]) == ("done", 1.0, 0)
    listed = {one["id"]: one for one in server.client.get("/api/results").json()}
    own = listed[told["result"]]
    assert (own["name"], own["state"], own["origin"]) == ("a cat.png", "ready", "upload")
    assert abs(own["residual"]) < 1e-4
    place = f"/api/results/{told['result']}"
    manifest = server.client.get(f"{place}/manifest").json()
    assert manifest["size"] == [30, 40]
    assert manifest["targets"][0]["score"] == own["score"]
    assert manifest["evidence"]["photo_sha256"]
    thumbnail = server.client.get(f"{place}/thumbnail")
    assert thumbnail.content.startswith(b"\x89PNG")
    assert server.client.delete(place).json() == {"removed": told["result"]}
    assert "no such result" in sentence(server.client.get(f"{place}/manifest"), 404)


def test_arrays_are_the_numbers_themselves(server: Served, result: str) -> None:
    place = f"/api/results/{result}"
    manifest = server.client.get(f"{place}/manifest").json()
    scene = server.desk.gallery.held(result).scene
    assert set(manifest["arrays"]) == set(scene.arrays)
    for name, described in manifest["arrays"].items():
        found = server.client.get(f"{place}/arrays/{name}")
        values = np.frombuffer(found.content, described["dtype"]).reshape(described["shape"])
        assert np.array_equal(values, scene.arrays[name]), name
        assert found.headers["content-type"] == "application/octet-stream"
        tag = found.headers["etag"]
        again = server.client.get(f"{place}/arrays/{name}", headers={"if-none-match": tag})
        assert (again.status_code, again.content) == (304, b"")
    assert "no array" in sentence(server.client.get(f"{place}/arrays/nothing"), 404)


def test_a_question_is_answered(server: Served, result: str) -> None:
    response = server.ask(result, kind="hello")
    told = server.ended(response)
    answer = told["answer"]
    assert (answer["kind"], answer["score"], answer["nan"]) == ("hello", 1.5, None)
    assert answer["arrays"] == {"picture": {"dtype": "uint8", "shape": [2, 2, 3]}}
    found = server.client.get(f"/api/jobs/{response.json()['job']}/arrays/picture")
    assert found.content == bytes(range(12))
    missing = server.client.get(f"/api/jobs/{response.json()['job']}/arrays/other")
    assert "no array" in sentence(missing, 404)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("bad", "this question has no answer"),
        ("broken", "the answer failed: ZeroDivisionError: one by nought"),
        ("exit", "the answer failed: SystemExit: 3"),
    ],
)
def test_a_failed_question_is_a_sentence(
    server: Served, result: str, kind: str, words: str
) -> None:
    told = server.ended(server.ask(result, kind=kind))
    assert (told["state"], told["error"]) == ("failed", words)
    assert server.ended(server.ask(result, kind="hello"))["state"] == "done"


@pytest.mark.parametrize("path", ["/nothing", "/docs", "/openapi.json", "/redoc", "/assets/../x"])
def test_nothing_else_is_there(server: Served, path: str) -> None:
    sentence(server.client.get(path), 404)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/results/x/manifest"),
        ("GET", "/api/results/x/arrays/input"),
        ("GET", "/api/results/x/thumbnail"),
        ("DELETE", "/api/results/x"),
        ("POST", "/api/results/x/questions"),
        ("POST", "/api/photos/x"),
        ("GET", "/api/jobs/x"),
        ("DELETE", "/api/jobs/x"),
        ("GET", "/api/jobs/x/arrays/y"),
        ("GET", "/api/results/%2e%2e%2fetc/manifest"),
        ("GET", "/assets/%2e%2e%2fapp.py"),
    ],
)
def test_unknown_ids(server: Served, method: str, path: str) -> None:
    sentence(server.client.request(method, path), 404)


def test_wrong_methods(server: Served) -> None:
    sentence(server.client.put("/api/photos"), 405)
    sentence(server.client.get("/api/photos"), 405)


# --- who may ask ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "192.168.1.7", "a b", ""]
)
def test_a_wrong_host_is_refused(server: Served, host: str) -> None:
    response = server.client.get("/api/results", headers={"host": host})
    assert "address" in sentence(response, 421)


def test_hosts_of_this_machine(server: Served) -> None:
    for host in ("localhost", "127.0.0.1:1", "[::1]:8765", "LOCALHOST:9000"):
        assert server.client.get("/api/info", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:1"},
        {"origin": "file://"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site", "sec-fetch-mode": "no-cors"},
    ],
)
def test_other_pages_are_refused(server: Served, result: str, headers: dict[str, str]) -> None:
    for method, path in (("GET", "/api/results"), ("POST", "/api/photos"), ("DELETE", "/api/x")):
        response = server.client.request(method, path, headers=headers)
        assert "other pages" in sentence(response, 403)


def test_the_own_page_is_not_refused(server: Served) -> None:
    own = f"http://127.0.0.1:{server.place.port}"
    headers = {"origin": own, "sec-fetch-site": "same-origin"}
    assert server.client.get("/api/results", headers=headers).status_code == 200
    opened = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    assert server.client.get("/", headers=opened).status_code == 200


def test_another_machine_needs_the_token() -> None:
    with serving(host="0.0.0.0") as server:
        token = server.place.token
        assert token is not None
        assert len(token) >= 32
        assert f"?token={token}" in server.place.url
        for given in ({}, {"x-guid-xmage-token": "wrong"}, {"cookie": "guid-xmage=é"}):
            for path in ("/", "/api/results", "/assets/page.js", "/?token=wrong", "/api/x?token="):
                raw = {key: value.encode("latin-1") for key, value in given.items()}
                assert "token" in sentence(server.client.get(path, headers=raw), 401)
        assert "token" in sentence(server.client.get(f"/api/results?token={token}"), 401)
        headers = {"x-guid-xmage-token": token}
        assert server.client.get("/api/results", headers=headers).status_code == 200
        first = server.client.get("/", params={"token": token})
        assert (first.status_code, first.headers["location"]) == (303, "/")
        cookie = first.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
        assert str(server.place.port) in cookie
        assert server.client.get("/api/results").status_code == 200, "the cookie is kept"
        assert server.client.get("/", headers={"host": "192.168.1.7:80"}).status_code == 200
        sentence(server.client.get("/", headers={"host": "evil.example"}), 421)


def test_a_token_on_this_machine() -> None:
    place = place_at("127.0.0.1", 0, token=True)
    place.socket.close()
    assert place.token
    assert f"/?token={place.token}" in place.url
    policy = place.policy({})
    assert policy.token == place.token
    assert not policy.addresses


def test_what_counts_as_this_machine() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.8.8.8", "::1", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "10.0.0.1", "localhost.evil.example")))


# --- what is sent --------------------------------------------------------------------------------


def _bomb(width: int, height: int) -> bytes:
    """A PNG of a few hundred kilobytes at most with that many black pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        crc = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(3 * width + 1)) for _ in range(min(height, 2000)))
    body = rows + packer.flush()
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def _resident() -> int:
    """Bytes of memory that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("size", [(30000, 30000), (8000, 9000)])
def test_a_decompression_bomb(server: Served, size: tuple[int, int]) -> None:
    words = sentence(server.upload(_bomb(*size), "bomb.png"), 400)
    assert "bomb.png" in words
    assert "too large" in words or "million are taken" in words


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("stated", [True, False])
def test_200_megabytes_are_refused_early(server: Served, stated: bool) -> None:
    piece, count = bytes(2**20), 200
    head = b'--x\r\nContent-Disposition: form-data; name="photo"; filename="a.png"\r\n\r\n'
    before, largest = _resident(), 0

    def pieces() -> Iterator[bytes]:
        nonlocal largest
        yield head
        for _ in range(count):
            largest = max(largest, _resident())
            yield piece

    headers = {"content-type": "multipart/form-data; boundary=x"}
    if stated:
        headers["content-length"] = str(len(head) + len(piece) * count)
    response = server.client.post("/api/photos", content=pieces(), headers=headers)
    assert sentence(response, 413) == "this is more than the 1.02 MB that are taken"
    assert largest - before < 60 * 2**20
    assert server.client.get("/api/info").status_code == 200


def test_an_upload_at_the_limit(server: Served) -> None:
    """What is inside the limit is read, and only then found to be no photo."""
    assert "not an image" in sentence(server.upload(bytes(2**20), "x.png"), 400)
    sentence(server.upload(bytes(2**20 + 2**15), "x.png"), 413)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("notes.txt", b"no photo at all", "not an image"),
        ("empty.png", b"", "empty"),
        ("x.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image"),
        ("x.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
        ("page.html", b"<script>alert(1)</script>", "not an image"),
    ],
)
def test_what_is_no_photo(server: Served, name: str, content: bytes, words: str) -> None:
    response = server.client.post("/api/photos", files={"photo": (name, content)})
    found = sentence(response, 400)
    assert words in found
    assert found.startswith(name)


def test_a_photo_that_ends_early(server: Served) -> None:
    told = server.ended(server.upload(photo_bytes((300, 200))[:2000], "half.png"))
    assert told["state"] == "failed"
    assert told["error"].startswith("half.png is damaged or incomplete")


@pytest.mark.parametrize(
    ("stated", "shown"),
    [
        ("../../etc/passwd", "passwd"),
        ("..\\..\\boot.ini", "boot.ini"),
        ("/etc/shadow", "shadow"),
        ("..", "photo"),
        ("", "photo"),
        ("a\nb\x1b[31m.png", "a"),
        ("<img src=x onerror=alert(1)>", "<img src=x onerror=alert(1)>"),
    ],
)
def test_names_are_no_paths(server: Served, stated: str, shown: str) -> None:
    assert display_name(stated).startswith(shown)
    assert len(display_name("n" * 10_000)) <= 100
    if stated and "\n" not in stated:
        told = server.ended(server.upload(name=stated))
        entries = {one["id"]: one["name"] for one in server.client.get("/api/results").json()}
        assert entries[told["result"]] == display_name(stated)


@pytest.mark.parametrize(
    ("content_type", "body", "status"),
    [
        ("application/json", b"{}", 415),
        ("multipart/form-data", b"", 415),
        ("multipart/form-data; boundary=x", b"--y\r\n\r\n", 400),
        ("multipart/form-data; boundary=x", b"", 400),
        (f"multipart/form-data; boundary={'x' * 500}", b"--x", 400),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="photo"; filename="a.png"\r\n\r\nabc',
            400,
        ),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="other"\r\n\r\nabc\r\n--x--\r\n',
            400,
        ),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="photo"\r\n\r\nabc\r\n' * 2
            + b"--x--\r\n",
            400,
        ),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="o"\r\n\r\nabc\r\n' * 20 + b"--x--\r\n",
            400,
        ),
    ],
)
def test_broken_uploads(server: Served, content_type: str, body: bytes, status: int) -> None:
    response = server.client.post(
        "/api/photos", content=body, headers={"content-type": content_type}
    )
    sentence(response, status)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "no JSON"),
        (b"{", "no JSON"),
        (b"[1, 2]", "an object with a kind"),
        (b'{"kind": 3}', "an object with a kind"),
        (b'{"kind": "hello", "x": NaN}', "no finite number"),
        (b'{"kind": "hello", "x": ' + b"9" * 5000 + b"}", "no finite number"),
        (b'{"kind": "hello", "x": 1e999}', "no finite number"),
        (b'{"kind": "hello", "kind": "bye"}', "twice"),
        (b'{"kind": "hello", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "more parts"),
        (b'{"kind": "hello", "x": [' + b"[], " * 5_000_000 + b"0]}", "more parts"),
        (b'{"kind": "hello", "x": [' + b"0, " * 10_000_000 + b"0]}", "more parts"),
        (b'{"kind": "hello", "x": ' + b"[" * 100 + b"]" * 100 + b"}", "deep"),
        (b'{"kind": "\\ud800"}', "characters"),
        (b"\xff\xfe", "UTF-8"),
    ],
)
def test_malformed_questions(server: Served, result: str, body: bytes, words: str) -> None:
    response = server.client.post(f"/api/results/{result}/questions", content=body)
    assert words in sentence(response, 400)
    assert server.ended(server.ask(result, kind="hello"))["state"] == "done"


def test_bodies_where_none_belongs(server: Served) -> None:
    response = server.client.request("DELETE", "/api/jobs/x", content=bytes(2**17))
    sentence(response, 413)
    raw = f"POST /api/photos HTTP/1.1\r\nhost: localhost\r\ncontent-length: {'9' * 30}"
    with socket.create_connection(("127.0.0.1", server.place.port), 5) as connection:
        connection.sendall(raw.encode() + b"\r\n\r\n")
        assert b" 4" in connection.recv(100)


def test_a_request_that_never_ends() -> None:
    from dataclasses import replace

    def impatient(place: Any, sizes: dict[str, int]) -> Any:
        return replace(place.policy(sizes), patience=0.3)

    with serving(policy=impatient) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.place.port, timeout=10)
        connection.putrequest("POST", "/api/photos")
        connection.putheader("content-type", "multipart/form-data; boundary=x")
        connection.putheader("content-length", "1000")
        connection.endheaders(b"--x\r\n")
        assert connection.getresponse().status == 408


def test_a_request_that_comes_in_drops() -> None:
    from dataclasses import replace

    def impatient(place: Any, sizes: dict[str, int]) -> Any:
        return replace(place.policy(sizes), slowest=0.5)

    with serving(policy=impatient) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.place.port, timeout=10)
        connection.putrequest("POST", "/api/photos")
        connection.putheader("content-type", "multipart/form-data; boundary=x")
        connection.putheader("content-length", "1000")
        connection.endheaders(b"--x\r\n")
        for _ in range(8):
            time.sleep(0.1)
            with contextlib.suppress(OSError):
                connection.send(b"a")
        assert connection.getresponse().status == 408


def test_a_photo_that_is_removed_while_it_is_explained(tmp_path: Path) -> None:
    class Slow(Small):
        def forward(self, x: Tensor) -> Tensor:
            time.sleep(0.1)
            return super().forward(x)

    (tmp_path / "one.png").write_bytes(photo_bytes())
    gallery = Gallery()
    entry = gallery.add(Entry("one.png", photo=tmp_path / "one.png"))
    with serving(explainer=small_explainer(Slow()), gallery=gallery) as server:
        response = server.client.post(f"/api/photos/{entry.id}")
        again = server.client.post(f"/api/photos/{entry.id}")
        assert again.json() == response.json(), "it stands in the queue once"
        server.client.delete(f"/api/results/{entry.id}")
        assert server.ended(response)["state"] == "done"
        assert server.client.get("/api/results").json() == []


def test_closed_connections(server: Served, result: str) -> None:
    """Half a request, and a large answer that nobody waits for."""
    large = f"GET /api/results/{result}/arrays/input HTTP/1.1\r\nhost: localhost\r\n\r\n"
    half = "POST /api/photos HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000\r\n"
    half += "content-type: multipart/form-data; boundary=x\r\n\r\n--x\r\n"
    for raw in (large, half, "nonsense\r\n\r\n", ""):
        for _ in range(3):
            with socket.create_connection(("127.0.0.1", server.place.port), 5) as connection:
                connection.sendall(raw.encode())
    assert server.client.get("/api/info").status_code == 200


# --- work ----------------------------------------------------------------------------------------


def test_work_is_done_in_order_and_can_be_cancelled() -> None:
    with serving() as server:
        result = server.result()
        first = server.ask(result, kind="wait", name="first")
        second = server.ask(result, kind="hello", name="second")
        third = server.ask(result, kind="hello", name="third")
        fourth = server.ask(result, kind="hello", name="fourth")
        while server.told(first)["state"] == "waiting":
            time.sleep(0.01)
        assert server.told(second)["place"] == 1
        assert server.told(fourth)["place"] == 3
        assert server.client.get("/api/info").json()["queue"] == {"waiting": 3, "running": 1}
        gone = server.client.delete(f"/api/jobs/{third.json()['job']}").json()
        assert (gone["state"], gone["error"]) == ("cancelled", "it was cancelled")
        assert server.told(fourth)["place"] == 2
        while server.told(first)["text"] != "waiting for a word":
            time.sleep(0.01)
        assert server.told(first)["fraction"] == 0.5
        server.client.delete(f"/api/jobs/{first.json()['job']}")
        assert server.told(first)["state"] == "cancelled"
        assert server.ended(fourth)["state"] == "done"
        assert server.ended(second)["state"] == "done"
        assert server.echo.asked == ["first", "second", "fourth"]
        after = server.client.delete(f"/api/jobs/{second.json()['job']}").json()
        assert after["state"] == "done", "what has ended stays as it is"


@pytest.mark.parametrize("kind", ["wait", "deaf"])
def test_the_time_limit(kind: str) -> None:
    """Also of work that does not listen: others go on."""
    with serving(limits=Limits(seconds=0.3)) as server:
        result = server.ended(server.upload()).get("result")
        if result is None:  # the first photo took longer: the network is known by now
            result = server.result()
        told = server.ended(server.ask(result, kind=kind))
        assert told["state"] == "failed"
        assert "took longer than the 0.3 s" in told["error"]
        assert server.ended(server.ask(result, kind="hello"), 5)["state"] == "done"


def test_work_that_never_comes_back() -> None:
    """Others go on, however many follow it; and where nothing can go on, that is said."""
    queue, go_on = WorkQueue(Limits(seconds=0.2)), threading.Event()

    def ended(name: str, *, deaf: bool = False) -> QueuedJob:
        def work(say: Say, stop: Stop) -> Outcome:
            if deaf:
                go_on.wait(20)
            return Outcome(name)

        job, until = queue.submit(name, work), time.monotonic() + 5
        while not job.ended:
            assert time.monotonic() < until, f"{name} is still {job.state}"
            time.sleep(0.01)
        return job

    for _ in range(2):
        assert "took longer than the 0.2 s" in str(ended("deaf", deaf=True).error)
        assert [ended("quick").state for _ in range(3)] == ["done"] * 3
    waiting: list[QueuedJob] = []
    timer = threading.Timer(
        0.05, lambda: waiting.append(queue.submit("next", lambda *_: Outcome()))
    )
    timer.start()
    ended("deaf", deaf=True)
    assert "start the server again" in str(waiting[0].error)
    with pytest.raises(FullError, match="start the server again"):
        queue.submit("another", lambda *_: Outcome())
    go_on.set()  # and all of them come back
    time.sleep(0.2)
    assert [ended("quick").state for _ in range(3)] == ["done"] * 3
    queue.close()


def test_the_queue_is_bounded() -> None:
    with serving(limits=Limits(waiting=2, waiting_bytes=10_000)) as server:
        result = server.result()
        running = server.ask(result, kind="wait")
        while server.told(running)["state"] == "waiting":
            time.sleep(0.01)
        assert server.ask(result, kind="hello").status_code == 202
        large = server.ask(result, kind="hello", more="x" * 10_000)
        assert "the queue is full" in sentence(large, 503)
        assert server.ask(result, kind="hello").status_code == 202
        assert "the queue is full" in sentence(server.ask(result, kind="hello"), 503)
        server.echo.go_on.set()
        assert server.ended(running)["state"] == "done"


def test_ended_work_is_forgotten() -> None:
    with serving(limits=Limits(kept=2)) as server:
        result = server.result()
        asked = [server.ask(result, kind="hello") for _ in range(4)]
        assert server.ended(asked[-1])["state"] == "done"
        server.ask(result, kind="hello")
        sentence(server.client.get(f"/api/jobs/{asked[0].json()['job']}"), 404)
    with serving(limits=Limits(kept_seconds=0.05)) as server:
        asked = [server.ask(server.result(), kind="hello")]
        time.sleep(0.3)
        sentence(server.client.get(f"/api/jobs/{asked[0].json()['job']}"), 404)


class Moody(Small):
    """Fails for dark photos."""

    def forward(self, x: Tensor) -> Tensor:
        if float(x.mean()) < 0.01:
            raise ZeroDivisionError("too dark for me")
        return super().forward(x)


def test_a_network_that_raises() -> None:
    from io import BytesIO

    from PIL import Image

    dark = BytesIO()
    Image.new("RGB", (40, 30)).save(dark, "PNG")
    with serving(explainer=small_explainer(Moody())) as server:
        told = server.ended(server.upload(dark.getvalue(), "dark.png"))
        assert told["state"] == "failed"
        assert "too dark for me" in told["error"]
        assert server.ended(server.upload())["state"] == "done", "the server goes on"


def test_other_requests_are_answered_while_a_photo_is_explained() -> None:
    class Slow(Small):
        def forward(self, x: Tensor) -> Tensor:
            until = time.monotonic() + 0.2
            while time.monotonic() < until:
                torch.mm(torch.ones(200, 200), torch.ones(200, 200))
            return super().forward(x)

    with serving(explainer=small_explainer(Slow())) as server:
        response = server.upload()
        times = []
        while server.told(response)["state"] in ("waiting", "running"):
            began = time.perf_counter()
            assert server.client.get("/api/results").status_code == 200
            times.append(time.perf_counter() - began)
        assert server.ended(response)["state"] == "done"
        assert len(times) > 3
        assert max(times) < 1


def test_the_oldest_results_are_forgotten() -> None:
    with serving(gallery=Gallery(keep=2)) as server:
        results = [server.result() for _ in range(4)]
        there = [one["id"] for one in server.client.get("/api/results").json()]
        assert there == results[2:]
        sentence(server.client.get(f"/api/results/{results[0]}/manifest"), 404)
        server.client.get(f"/api/results/{results[2]}/manifest")  # is looked at
        latest = server.result()
        there = [one["id"] for one in server.client.get("/api/results").json()]
        assert there == [results[2], latest]
    with serving(gallery=Gallery(most_bytes=1)) as server:
        results = [server.result() for _ in range(3)]
        there = [one["id"] for one in server.client.get("/api/results").json()]
        assert there == results[2:]


# --- photos and results of the command line -----------------------------------------------------


def test_listed_photos_and_saved_results(tmp_path: Path) -> None:
    (tmp_path / "one.png").write_bytes(photo_bytes())
    (tmp_path / "bad.png").write_bytes(b"none")
    explainer = small_explainer()
    job = Job(objects="none", source={"model": "small"})
    outcome = next(iter(explain_photos(explainer, [tmp_path / "one.png"], tmp_path / "out", job)))
    assert outcome.folder is not None
    gallery = Gallery()
    photo = gallery.add(Entry("one.png", photo=tmp_path / "one.png"))
    bad = gallery.add(Entry("bad.png", photo=tmp_path / "bad.png"))
    name, summary = summary_of_saved(outcome.folder)
    saved = gallery.add(Entry(name, saved=outcome.folder, summary=summary))
    with serving(explainer=explainer, gallery=gallery) as server:
        states = [one["state"] for one in server.client.get("/api/results").json()]
        assert states == ["new", "new", "ready"]
        for entry in (photo, saved):
            thumbnail = server.client.get(f"/api/results/{entry.id}/thumbnail")
            assert thumbnail.content.startswith(b"\x89PNG")
        sentence(server.client.get(f"/api/results/{bad.id}/thumbnail"), 400)
        early = server.client.get(f"/api/results/{photo.id}/manifest")
        assert "not explained yet" in sentence(early, 409)
        told = server.ended(server.client.post(f"/api/photos/{photo.id}"))
        assert (told["state"], told["result"]) == ("done", photo.id)
        failed = server.ended(server.client.post(f"/api/photos/{bad.id}"))
        assert "bad.png is not an image" in failed["error"]
        listed = server.client.get("/api/results").json()
        assert [one["state"] for one in listed] == ["ready", "failed", "ready"]
        assert "bad.png" in listed[1]["error"]
        sentence(server.client.post(f"/api/photos/{saved.id}"), 409)
        own, other = (
            server.client.get(f"/api/results/{one.id}/manifest").json() for one in (photo, saved)
        )
        assert own["targets"][0]["score"] == other["targets"][0]["score"]
        assert other["evidence"]["verify"].startswith("guid-xmage verify ")
        assert server.ended(server.ask(saved.id, kind="hello"))["state"] == "done"
        assert server.desk.gallery.held(saved.id).joined
        server.client.delete(f"/api/results/{photo.id}")
        assert (tmp_path / "one.png").exists(), "files stay where they are"


def test_questions_need_the_network_of_a_result(tmp_path: Path) -> None:
    (tmp_path / "one.png").write_bytes(photo_bytes())
    job = Job(objects="none", source={"model": "small"})
    other = Small()
    with torch.no_grad():
        other.last.weight += 1
    made = explain_photos(small_explainer(other), [tmp_path / "one.png"], tmp_path / "out", job)
    outcome = next(iter(made))
    gallery = Gallery()
    entry = gallery.add(Entry("one.png", saved=outcome.folder))
    with serving(gallery=gallery) as server:
        assert server.client.get(f"/api/results/{entry.id}/manifest").status_code == 200
        told = server.ended(server.ask(entry.id, kind="hello"))
        assert "was explained with another network" in told["error"]


def test_a_damaged_result_is_a_sentence(tmp_path: Path) -> None:
    gallery = Gallery()
    (tmp_path / "result").mkdir()
    (tmp_path / "result" / "manifest.json").write_text("{}")
    entry = gallery.add(Entry("x", saved=tmp_path / "result"))
    with serving(gallery=gallery) as server:
        sentence(server.client.get(f"/api/results/{entry.id}/manifest"), 400)
        sentence(server.client.get(f"/api/results/{entry.id}/thumbnail"), 400)
        assert server.client.get("/api/results").status_code == 200


def test_results_are_saved_where_that_is_asked_for(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    out = tmp_path / "kept"
    with serving(out=out) as server:
        told = server.ended(server.upload(name="../../a cat.png"))
        assert told["state"] == "done", told
        manifest = server.client.get(f"/api/results/{told['result']}/manifest").json()
        assert manifest["targets"]
        assert server.ended(server.ask(told["result"], kind="hello"))["state"] == "done"
    names = sorted(path.name for path in out.iterdir() if not path.name.startswith("."))
    assert len(names) == 2
    assert names[1] == "uploaded-photos"
    assert names[0].startswith("a cat-")
    assert (out / names[0] / "manifest.json").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work, temporary = tmp_path / "work", tmp_path / "temporary"
    work.mkdir()
    temporary.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    with serving(upload=2**23) as server:
        noise = np.random.default_rng(0).integers(0, 256, (900, 1200, 3), dtype=np.uint8)
        from io import BytesIO

        from PIL import Image

        large = BytesIO()
        Image.fromarray(noise).save(large, "PNG")
        assert large.tell() > 2 * 2**20, "more than is kept in memory by default"
        told = server.ended(server.upload(large.getvalue(), "../large.png"))
        server.ended(server.ask(told["result"], kind="hello", more="x" * 2**21))
        server.client.get(f"/api/results/{told['result']}/thumbnail")
        server.upload(_bomb(30000, 30000), "../../bomb.png")
        assert not list(work.iterdir())
        assert not list(temporary.iterdir())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["temporary", "work"]


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
def test_many_clients_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The trial of the benchmarks, a small one."""
    import asyncio

    from tests.test_benchmarks import script

    trial = script("benchmarks/serve.py")
    with serving(gallery=Gallery(keep=3)) as server:
        own = trial.Trial(str(server.client.base_url), time.monotonic() + 3, photo_bytes())
        asyncio.run(trial.together(own, 6, os.getpid()))
    assert not own.failures
    rows = trial.rows_of(own)
    assert {"list", "job", "upload"} <= {row.get("request") for row in rows}
    assert rows[-1]["work"] > 0
    assert "| upload |" in trial.table(rows)


# --- the command ---------------------------------------------------------------------------------

NETWORK = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(96, 4)
    ).eval()
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "net.py").write_text(NETWORK, encoding="utf-8")
    (tmp_path / "photo.png").write_bytes(photo_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["serve", "--no-open", "--port", "0", *arguments])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("missing.png",), "missing.png does not exist"),
        (("--model", "nothing"), "nothing"),
        (("--model", "net.py:missing"), "missing"),
        (("--host", "no.such.host.invalid"), "--host no.such.host.invalid is not an address"),
        (("--host", "192.0.2.1"), "--host 192.0.2.1 is not an address"),
        (("--target", "top1", "--model", "net.py:build", "--device", "cuda:77"), "cuda"),
    ],
)
def test_bad_input_is_one_sentence(folder: Path, arguments: tuple[str, ...], words: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert words in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("guid-xmage: ")


def test_a_taken_port(folder: Path) -> None:
    place = place_at("127.0.0.1", 0)
    with contextlib.closing(place.socket):
        result = run("--port", str(place.port))
    assert result.exit_code == 2
    assert result.stderr == (
        f"guid-xmage: port {place.port} of 127.0.0.1 is taken; choose another with --port, or "
        "leave it out\n"
    )


def test_the_next_free_port() -> None:
    first = place_at("127.0.0.1", None)
    with contextlib.closing(first.socket):
        second = place_at("127.0.0.1", None)
        second.socket.close()
    assert second.port > first.port >= 8765


def test_what_is_listed(folder: Path) -> None:
    """Photos and results of folders; pictures in results of any command are no photos."""
    from guidxmage.cli.serve import _listed

    pytest.importorskip("matplotlib")
    for command in ("explain", "attack"):
        options = ["--model", "net.py:build", "--out", f"made/{command}"]
        more = ["--objects", "none"] if command == "explain" else []
        made = CliRunner().invoke(app, [command, "photo.png", *options, *more])
        assert made.exit_code == 0, made.output
    gallery = Gallery()
    photos, saved = _listed([Path()], gallery)
    assert [str(path) for path in photos] == ["photo.png"]
    assert [str(path) for path in saved] == ["made/explain/photo"]
    assert gallery.each(lambda entry: entry.state) == ["ready", "new"]
    photos, _ = _listed([Path("made/explain/photo/figure.png")], Gallery())
    assert len(photos) == 1, "but when it is named"


def test_a_missing_extra(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from guidxmage.cli import serve

    monkeypatch.setattr(serve, "_PACKAGES", ("fastapi", "no_such_package"))
    result = run()
    assert result.exit_code == 2
    assert "no-such-package is needed for this" in result.stderr
    assert "guid-xmage[ui]" in result.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_the_command_from_start_to_end(folder: Path) -> None:
    """A photo and a result of the command line are listed; Ctrl-C ends it."""
    import signal
    import urllib.request

    explained = CliRunner().invoke(
        app, ["explain", "photo.png", "--model", "net.py:build", "--objects", "none"]
    )
    assert explained.exit_code == 0, explained.output
    command = [sys.executable, "-m", "guidxmage.cli", "serve", "photo.png", "explanations"]
    options = ["--model", "net.py:build", "--objects", "none", "--no-open", "--port", "0"]
    with subprocess.Popen(
        [*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        url = re.search(r"http://127\.0\.0\.1:\d+/", line)
        assert url is not None, line
        for _ in range(200):
            try:
                with urllib.request.urlopen(f"{url[0]}api/results", timeout=10) as answer:
                    listed = json.loads(answer.read())
                break
            except OSError:
                time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=30)
    assert [one["state"] for one in listed] == ["ready", "new"]
    assert (process.returncode, rest, errors) == (0, "", "guid-xmage: stopped\n")
    assert sorted(p.name for p in folder.iterdir() if p.name != "__pycache__") == [
        "explanations",
        "net.py",
        "photo.png",
    ]
