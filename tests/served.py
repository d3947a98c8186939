"""A server of the page in a thread, with a small network."""

from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from guidxmage.errors import InputError
from guidxmage.explainer import Explainer
from guidxmage.jobs.explain_photos import Job
from guidxmage.serving.app import Serving, create_app, largest_bodies
from guidxmage.serving.desk import Desk
from guidxmage.serving.gallery import Gallery
from guidxmage.serving.guard import Policy
from guidxmage.serving.making import Maker
from guidxmage.serving.server import Place, place_at, server_of
from guidxmage.serving.work_queue import Limits, WorkQueue


class Small(nn.Module):
    """A small network that can be told to wait, or to fail, on every run."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            nn.Conv2d(3, 6, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten()
        )
        self.last = nn.Linear(96, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.layers(x))  # type: ignore[no-any-return]


class Echo:
    """A stub in place of the questions: it answers, waits, or raises, as it is asked."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.asked: list[str] = []

    def __call__(
        self, explainer: Any, held: Any, question: Any, say: Any, stop: Callable[[], None]
    ) -> Any:
        kind = question["kind"]
        self.asked.append(question.get("name", kind))
        if kind == "wait":  # as long as it may, stage after stage
            while not self.go_on.wait(0.01):
                say("waiting for a word", 0.5)
                stop()
        elif kind == "deaf":  # as work that never comes to its next stage
            self.go_on.wait(20)
        elif kind == "bad":
            raise InputError("this question has no answer")
        elif kind == "broken":
            raise ZeroDivisionError("one by nought")
        elif kind == "exit":
            raise SystemExit(3)
        return _Answer(
            {"kind": kind, "nan": float("nan"), "score": 1.5, "size": len(str(question))}
        )


@dataclass
class _Answer:
    json: dict[str, Any]

    @property
    def arrays(self) -> dict[str, Any]:
        return {"picture": np.arange(12, dtype=np.uint8).reshape(2, 2, 3)}


@dataclass
class Served:
    """A running server. client: knows its address."""

    client: httpx.Client
    place: Place
    desk: Desk
    echo: Echo

    def upload(self, content: bytes | None = None, name: str = "photo.png") -> httpx.Response:
        return self.client.post(
            "/api/photos", files={"photo": (name, content or photo_bytes(), "image/png")}
        )

    def ended(self, response: httpx.Response, seconds: float = 60.0) -> dict[str, Any]:
        """What became of the work that the response names."""
        assert response.status_code == 202, response.text
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            told = self.told(response)
            if told["state"] not in ("waiting", "running"):
                return told
            time.sleep(0.02)
        raise AssertionError(f"still {told}")

    def told(self, response: httpx.Response) -> dict[str, Any]:
        found: dict[str, Any] = self.client.get(f"/api/jobs/{response.json()['job']}").json()
        return found

    def result(self) -> str:
        """The id of a photo that is explained."""
        return str(self.ended(self.upload())["result"])

    def ask(self, result: str, **question: Any) -> httpx.Response:
        return self.client.post(f"/api/results/{result}/questions", content=json.dumps(question))


def small_explainer(model: nn.Module | None = None) -> Explainer:
    return Explainer((model or Small()).eval(), name="small", labels=["a", "b", "c", "d"])


def photo_bytes(size: tuple[int, int] = (40, 30), kind: str = "PNG") -> bytes:
    y, x = np.mgrid[: size[1], : size[0]]
    array = np.stack([x * 6 % 256, y * 8 % 256, (x * y) % 256], -1).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(array).save(file, kind)
    return file.getvalue()


@contextmanager
def serving(
    *,
    explainer: Explainer | None = None,
    limits: Limits | None = None,
    gallery: Gallery | None = None,
    policy: Callable[[Place, dict[str, int]], Policy] = Place.policy,
    out: Path | None = None,
    answerer: Any = None,
    upload: int = 2**20,
    host: str = "127.0.0.1",
) -> Iterator[Served]:
    echo = Echo()
    place = place_at(host, 0)
    job = Job(objects="none", source={"model": "small"})
    queue = WorkQueue(limits or Limits())
    maker = Maker(explainer or small_explainer(), job, answerer or echo, out)
    desk = Desk(maker, gallery or Gallery(), queue)
    info = {"version": "0", "network": "small", "weights": "", "limit_bytes": upload}
    app = create_app(Serving(desk, policy(place, largest_bodies(upload)), info))
    server = server_of(app)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [place.socket]}, daemon=True)
    thread.start()
    base = f"http://127.0.0.1:{place.port}"
    try:
        while not server.started:
            time.sleep(0.01)
        with httpx.Client(base_url=base, timeout=30) as client:
            yield Served(client, place, desk, echo)
    finally:
        echo.go_on.set()
        server.should_exit = True
        thread.join(10)
        queue.close()
