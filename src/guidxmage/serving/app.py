"""The routes: thin, and never computing on the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from guidxmage.errors import GuidXmageError
from guidxmage.files.untrusted import Array, parsed_json
from guidxmage.serving.assets import Asset, page_assets
from guidxmage.serving.desk import Desk
from guidxmage.serving.guard import Guard, Policy
from guidxmage.serving.making import Photo
from guidxmage.serving.replies import JSON_TYPE, RefusedError, json_bytes
from guidxmage.serving.uploads import check_photo, read_upload
from guidxmage.serving.work_queue import Job

_CHUNK = 2**18
# Bodies that are in memory at once while they come in, and results that are read at once.
_RECEIVING, _READING = 4, 2
# An answer that a browser may keep, if it asks every time whether it still holds.
_ASK_AGAIN = "private, no-cache"
LARGEST_QUESTION = 2**26
# A question is a few fields, the runs of an area and a text; the rest would only take time.
_MOST_FIELDS, _MOST_RUNS = 2**10, 2**23


@dataclass(frozen=True)
class Serving:
    """What the page is made of. info: what it is told of the server."""

    desk: Desk
    policy: Policy
    info: dict[str, Any]


def largest_bodies(upload: int) -> dict[str, int]:
    """Path → bytes: of uploads so many, beside what frames them, and of questions."""
    return {"/api/photos": upload + 2**14, r"/api/results/[\w-]+/questions": LARGEST_QUESTION}


def create_app(serving: Serving) -> Guard:
    """The whole page behind its guard."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    _add_errors(app)
    _add_page(app, serving)
    receiving = asyncio.Semaphore(_RECEIVING)
    _add_results(app, serving.desk, receiving)
    _add_work(app, serving.desk, receiving)
    return Guard(app, serving.policy)


class ArrayReply(Response):
    """The raw bytes of an array, little-endian, a piece at a time."""

    def __init__(self, values: Array, tag: str) -> None:
        plain = np.ascontiguousarray(values)
        little = plain.astype(plain.dtype.newbyteorder("<"), copy=False)
        flat: Any = little.reshape(-1).view(np.uint8)
        self._bytes = memoryview(flat)
        super().__init__(media_type="application/octet-stream")
        self.headers["content-length"] = str(len(self._bytes))
        self.headers["etag"] = tag
        self.headers["cache-control"] = _ASK_AGAIN

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # noqa: ARG002
        """Send it; others come to their turn between the pieces."""
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        for begin in range(0, max(len(self._bytes), 1), _CHUNK):
            end = begin + _CHUNK
            body = bytes(self._bytes[begin:end])
            more = end < len(self._bytes)
            await send({"type": "http.response.body", "body": body, "more_body": more})
            await asyncio.sleep(0)


def _json(document: Any, status: int = 200) -> Response:
    return Response(json_bytes(document), status, media_type=JSON_TYPE)


def _error(status: int, sentence: str) -> Response:
    return _json({"error": sentence}, status)


def _tagged(request: Request, tag: str, make: Callable[[], Response]) -> Response:
    """The answer, or that the browser has it already."""
    if tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers={"etag": tag, "cache-control": _ASK_AGAIN})
    return make()


def _add_errors(app: FastAPI) -> None:
    async def refused(_: Request, error: Any) -> Response:
        return _error(error.status, str(error))

    async def bad_input(_: Request, error: Any) -> Response:
        return _error(400, str(error))

    async def gone(_: Request, error: Any) -> Response:  # noqa: ARG001
        return _error(400, "the connection was closed")

    async def http(_: Request, error: Any) -> Response:
        words = {404: "there is nothing here", 405: "this is not what can be done here"}
        return _error(error.status_code, words.get(error.status_code, str(error.detail)))

    async def invalid(_: Request, error: Any) -> Response:  # noqa: ARG001
        return _error(422, "the request is not of the form that is expected")

    app.add_exception_handler(RefusedError, refused)
    app.add_exception_handler(GuidXmageError, bad_input)
    app.add_exception_handler(ClientDisconnect, gone)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(RequestValidationError, invalid)


def _add_page(app: FastAPI, serving: Serving) -> None:
    assets = page_assets()

    def sent(request: Request, asset: Asset) -> Response:
        headers = {"etag": asset.tag, "cache-control": _ASK_AGAIN}
        make = lambda: Response(asset.content, media_type=asset.kind, headers=headers)  # noqa: E731
        return _tagged(request, asset.tag, make)

    @app.get("/")
    async def page(request: Request) -> Response:
        return sent(request, assets["page.html"])

    @app.get("/assets/{name}")
    async def asset(request: Request, name: str) -> Response:
        if name not in assets:
            raise RefusedError(404, "there is nothing here")
        return sent(request, assets[name])

    @app.get("/favicon.ico")
    async def icon(request: Request) -> Response:
        return sent(request, assets["icon.svg"])

    @app.get("/api/info")
    async def info() -> Response:
        return _json({**serving.info, "queue": serving.desk.queue.counts()})


def _add_results(app: FastAPI, desk: Desk, receiving: asyncio.Semaphore) -> None:
    reading = asyncio.Semaphore(_READING)
    gallery = desk.gallery

    async def taken(work: Callable[..., Any], *arguments: Any) -> Any:
        """The result of what may take a moment, in a thread; of a few at once."""
        async with reading:
            return await asyncio.to_thread(work, *arguments)

    @app.get("/api/results")
    async def results() -> Response:
        return _json(gallery.each(desk.listed))

    @app.get("/api/results/{identity}/manifest")
    async def manifest(identity: str) -> Response:
        held = await taken(gallery.held, identity)
        return _json(held.scene.manifest)

    @app.get("/api/results/{identity}/arrays/{name}")
    async def array(request: Request, identity: str, name: str) -> Response:
        held = await taken(gallery.held, identity)
        values = held.scene.arrays.get(name)
        if values is None:
            raise RefusedError(404, "there is no array of this name in the result")
        tag = f'"{held.tag}-{name}"'
        return _tagged(request, tag, lambda: ArrayReply(values, tag))

    @app.get("/api/results/{identity}/thumbnail")
    async def thumbnail(identity: str) -> Response:
        content = await taken(gallery.picture, identity)
        return Response(content, media_type="image/png")

    @app.delete("/api/results/{identity}")
    async def remove(identity: str) -> Response:
        gallery.remove(identity)
        return _json({"removed": identity})

    @app.post("/api/results/{identity}/questions")
    async def question(request: Request, identity: str) -> Response:
        held = await taken(gallery.held, identity)
        async with receiving:
            body = await request.body()
            asked = await taken(_question, body)
        return _json({"job": desk.ask(held, asked, len(body)).id}, 202)


def _question(body: bytes) -> dict[str, Any]:
    """A question as JSON. Raises RefusedError, and InputError for what is no JSON."""
    if sum(map(body.count, (b"[", b"{", b":"))) > _MOST_FIELDS or body.count(b",") > _MOST_RUNS:
        raise RefusedError(400, "the question has more parts than any that is answered here")
    try:
        found = parsed_json(body.decode("utf-8"), "the question")
    except UnicodeDecodeError:
        raise RefusedError(400, "the question is no text in UTF-8") from None
    if not isinstance(found, dict) or not isinstance(found.get("kind"), str):
        raise RefusedError(400, "a question is an object with a kind")
    return found


def _add_work(app: FastAPI, desk: Desk, receiving: asyncio.Semaphore) -> None:
    def submitted(job: Job) -> Response:
        return _json({"job": job.id}, 202)

    @app.post("/api/photos")
    async def upload(request: Request) -> Response:
        async with receiving:
            found = await read_upload(request.headers.get("content-type", ""), request.stream())
            await asyncio.to_thread(check_photo, found)
            return submitted(desk.explain_upload(Photo(found.name, content=found.content)))

    @app.post("/api/photos/{identity}")
    async def explain(identity: str) -> Response:
        return submitted(desk.explain_listed(identity))

    @app.get("/api/jobs/{identity}")
    async def job(identity: str) -> Response:
        return _json(desk.told(desk.job(identity)))

    @app.get("/api/jobs/{identity}/arrays/{name}")
    async def job_array(identity: str, name: str) -> Response:
        outcome = desk.job(identity).outcome
        values = None if outcome is None else outcome.arrays.get(name)
        if values is None:
            raise RefusedError(404, "there is no array of this name in the answer")
        return ArrayReply(np.asarray(values), f'"{identity}-{name}"')

    @app.delete("/api/jobs/{identity}")
    async def cancel(identity: str) -> Response:
        found = desk.job(identity)
        desk.queue.cancel(found)
        return _json(desk.told(found))
