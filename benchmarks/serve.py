"""Many clients at once on the page of `guid-xmage serve`.

    python benchmarks/serve.py --keep 20 --json benchmarks/results/serve-cpu.jsonl

A server with EfficientNet-Lite0 in a process of its own, and clients that do what pages do: look at
the list, open results with all arrays, send photos, ask for other classes and erased areas, and
follow their work four times a second. A row is a kind of request: how many, how many failed (a full
queue counts as one), and how long they took; the last row is the server's memory.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import os
import random
import re
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import result_table
import torch
from PIL import Image

from guidxmage import __version__
from guidxmage.models.calibration import natural_like_images

MEGABYTE = 2**20


@dataclass
class Trial:
    """What was asked, and what came back."""

    url: str
    until: float
    photo: bytes
    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    failures: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    memory: list[int] = field(default_factory=list)
    received: int = 0

    @property
    def over(self) -> bool:
        return time.monotonic() > self.until


class Client:
    """One page that is open."""

    def __init__(self, trial: Trial, number: int) -> None:
        self.trial, self.random = trial, random.Random(number)
        self.http = httpx.AsyncClient(base_url=trial.url, timeout=60)

    async def run(self) -> None:
        """Do what pages do, until the time is over."""
        await asyncio.sleep(self.random.random())
        actions = (self.look, self.look, self.open, self.send, self.ask)
        while not self.trial.over:
            await self.random.choice(actions)()
        await self.http.aclose()

    async def request(self, kind: str, method: str, path: str, **options: Any) -> Any:
        """One request, with its time; None where it failed."""
        began = time.perf_counter()
        try:
            response = await self.http.request(method, path, **options)
            failure = "" if response.status_code < 400 else response.text
        except httpx.HTTPError as error:
            response, failure = None, repr(error)
        self.trial.seconds[kind].append(time.perf_counter() - began)
        # What another client's photos have pushed out of memory is rightly not there.
        if failure and response is not None and response.status_code == 404:
            return None
        if failure:
            self.trial.failures[kind].append(failure)
            return None
        assert response is not None
        self.trial.received += len(response.content)
        return response

    async def look(self) -> None:
        """The page and its list."""
        for kind, path in (("page", "/"), ("page", "/assets/viewer.js"), ("info", "/api/info")):
            await self.request(kind, "GET", path)
        listed = await self.listed()
        for entry in listed[-8:]:
            await self.request("thumbnail", "GET", f"/api/results/{entry['id']}/thumbnail")
        await asyncio.sleep(0.5)

    async def listed(self) -> list[dict[str, Any]]:
        response = await self.request("list", "GET", "/api/results")
        return [] if response is None else response.json()

    async def any_result(self) -> str | None:
        ready = [one["id"] for one in await self.listed() if one["state"] == "ready"]
        return self.random.choice(ready) if ready else None

    async def open(self) -> None:
        """All that the viewer needs of a result."""
        result = await self.any_result()
        if result is None:
            return await self.send()
        place = f"/api/results/{result}"
        response = await self.request("manifest", "GET", f"{place}/manifest")
        for name in [] if response is None else response.json()["arrays"]:
            await self.request("array", "GET", f"{place}/arrays/{name}")
        return await asyncio.sleep(1)

    async def send(self) -> None:
        """A photo, followed until it is explained."""
        files = {"photo": ("photo.jpg", self.trial.photo, "image/jpeg")}
        await self.follow(await self.request("upload", "POST", "/api/photos", files=files))

    async def ask(self) -> None:
        """A question about a result, followed until it is answered."""
        result = await self.any_result()
        if result is None:
            return await self.send()
        area = {"runs": [self.random.randrange(40_000), 5_000]}
        area["runs"].append(224 * 224 - sum(area["runs"]))
        question = self.random.choice(
            (
                {"kind": "explain", "target": self.random.randrange(20), "against": -1},
                {"kind": "erase", "target": 0, "area": area, "fill": "zero"},
            )
        )
        path = f"/api/results/{result}/questions"
        return await self.follow(await self.request("question", "POST", path, json=question))

    async def follow(self, submitted: Any) -> None:
        """Work until it ends, or the trial does."""
        if submitted is None:
            return
        job = submitted.json()["job"]
        while not self.trial.over:
            response = await self.request("job", "GET", f"/api/jobs/{job}")
            if response is None:
                return
            told = response.json()
            if told["state"] == "failed":
                self.trial.failures["work"].append(told["error"])
            if told["state"] not in ("waiting", "running"):
                self.trial.seconds["work"].append(0.0)
                return
            await asyncio.sleep(0.25)


async def watch(trial: Trial, pid: int) -> None:
    """The server's memory, once a second."""
    while not trial.over:
        trial.memory.append(resident(pid))
        await asyncio.sleep(1)


def resident(pid: int) -> int:
    """Bytes of memory that a process has, by Linux's /proc."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


async def together(trial: Trial, clients: int, pid: int) -> None:
    """All clients, and the watch."""
    first = Client(trial, -1)
    await first.send()  # captures the network, so that all of them meet a warm one
    trial.seconds.clear()
    await asyncio.gather(watch(trial, pid), *(Client(trial, n).run() for n in range(clients)))


def photo() -> bytes:
    """A photo-like picture as JPEG."""
    image = natural_like_images(1, 480, torch.Generator().manual_seed(1))[0]
    pixels = (image.clamp(0, 1) * 255).byte().permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


def rows_of(trial: Trial) -> list[dict[str, Any]]:
    """A row a kind of request, and one of the memory."""
    rows: list[dict[str, Any]] = []
    for kind, seconds in trial.seconds.items():
        if kind == "work":
            continue
        ordered = sorted(seconds)
        rows.append(
            {
                "request": kind,
                "count": len(ordered),
                "failures": len(trial.failures[kind]),
                "median": round(median(ordered), 4),
                "p99": round(ordered[int(0.99 * (len(ordered) - 1))], 4),
                "slowest": round(ordered[-1], 4),
            }
        )
    ended, megabytes = len(trial.seconds["work"]), [size // MEGABYTE for size in trial.memory]
    memory = {"first": megabytes[0], "half": megabytes[len(megabytes) // 2], "last": megabytes[-1]}
    rows.append(
        {
            "work": ended,
            "failures": len(trial.failures["work"]),
            "received_mb": trial.received // MEGABYTE,
            "memory_mb": {**memory, "largest": max(megabytes)},
        }
    )
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """As Markdown."""
    lines = [
        "| request | count | failures | median, s | 99 %, s | slowest, s |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows[:-1]:
        numbers = " | ".join(f"{row[key]:.3f}" for key in ("median", "p99", "slowest"))
        lines.append(f"| {row['request']} | {row['count']} | {row['failures']} | {numbers} |")
    last = rows[-1]
    return "\n".join(
        [
            *lines,
            "",
            f"work done: {last['work']}, failed: {last['failures']}; "
            f"sent {last['received_mb']} MB; memory in MB: {last['memory_mb']}",
        ]
    )


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--clients", type=int, default=30)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--keep", type=int, default=50, help="results in memory")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    command = [sys.executable, "-m", "guidxmage.cli", "serve", "--no-open", "--port", "0"]
    with subprocess.Popen(
        [*command, "--keep", str(options.keep)], stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        found = re.search(r"http://\S+", server.stdout.readline())
        if found is None:
            sys.exit("the server did not start")
        trial = Trial(found[0], time.monotonic() + options.seconds, photo())
        try:
            asyncio.run(together(trial, options.clients, server.pid))
        finally:
            server.terminate()
    rows = rows_of(trial)
    print(table(rows))
    for kind, sentences in trial.failures.items():
        for sentence in sorted(set(sentences))[:5]:
            print(f"{kind}: {sentence}")
    if options.json:
        conditions = {
            "guid-xmage": __version__,
            "torch": torch.__version__,
            "cores": os.cpu_count(),
            "clients": options.clients,
            "seconds": options.seconds,
            "keep": options.keep,
        }
        result_table.write(options.json, conditions, rows)


if __name__ == "__main__":
    main()
