"""Photos a second: the bare engine, a data set's engines, and `explain` photo after photo.

All in one run, in turns, on photos of 500 × 375 pixels made here. Beside it: whether memory stays
flat, and with which exponent the cost grows.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import io
import math
import multiprocessing
import os
import platform
import resource
import shutil
import statistics
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import result_table
import torch
from PIL import Image, ImageFilter
from torch import nn

from guidxmage.dataset import DatasetOptions, explain_dataset
from guidxmage.dataset.block import BlockMaker, parquet_of
from guidxmage.dataset.ledger import Ledger, Line
from guidxmage.dataset.making import Scope
from guidxmage.dataset.query import Dataset
from guidxmage.dataset.sources import open_source
from guidxmage.explainer import Explainer
from guidxmage.files.atomic import write_atomically
from guidxmage.inputs.preprocessing import Preprocessing

BLOCK = 32
NAMES = 20_000
# Rows in one of the large shards that questions are asked about.
SHARD = 25_600
# Photos of a run whose seconds are taken off the others': start and capture.
WARM = 512
LOOP = "explain, photo after photo"
DEPTH = ["default", "input"]
PARTS = ("read", "run", "rows", "write")
COMPARED = {
    "local, 1 worker": "bare engine, 1 thread",
    "local, 2 workers": "bare engine, 2 threads",
    "ray, 2 workers": "local, 2 workers",
    LOOP: "local, 2 workers",
}


def save_photos(folder: Path, count: int, size: tuple[int, int] = (500, 375)) -> list[Path]:
    """JPEGs of smoothed noise, which are about as large as photos."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number in range(count):
        path = folder / f"{number:05}.jpg"
        noise = np.random.default_rng(number).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
        Image.fromarray(noise).filter(ImageFilter.GaussianBlur(2)).save(path, quality=90)
        paths.append(path)
    return paths


def small() -> Explainer:
    """A network that takes a millisecond for a photo: what is left is the rest of the work."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten()]
    known = Preprocessing(resize=64, crop=64, mean=(0.5,) * 3, std=(0.2,) * 3)
    return Explainer(nn.Sequential(*layers, nn.Linear(128, 10)).eval(), preprocessing=known)


def bare(explainer: Explainer, photos: list[Path], threads: int) -> float:
    """Photos a second of `explain` on batches of 32 paths, decoded one after the other."""
    torch.set_num_threads(threads)
    began = time.perf_counter()
    for first in range(0, len(photos), BLOCK):
        explainer.explain(photos[first : first + BLOCK], depth=DEPTH)
    return len(photos) / (time.perf_counter() - began)


def steady(folder: Path) -> float:
    """Photos a second between the first and the last finished block of a run."""
    lines = sorted((one for of in Ledger(folder).lines().values() for one in of), key=_at)
    passed = (lines[-1].at - lines[0].at) / 1e9
    return sum(one.photos for one in lines[1:]) / passed


def _at(line: Any) -> int:
    return int(line.at)


def engine(explainer: Explainer, name: str, photos: Path, out: Path, scope: Scope) -> float:
    """Photos a second of an engine, without its start."""
    torch.set_num_threads(1)
    shutil.rmtree(out, ignore_errors=True)
    factory = partial(Explainer.load, name)
    explain_dataset(explainer, photos, out, DatasetOptions(block=BLOCK), scope, factory=factory)
    return steady(out)


def loop(explainer: Explainer, photos: list[Path], out: Path) -> float:
    """Photos a second of `guid-xmage explain FOLDER`, a folder with figures for each."""
    from guidxmage.jobs.explain_photos import Job, explain_photos

    torch.set_num_threads(1)
    shutil.rmtree(out, ignore_errors=True)
    job = Job(objects="none")
    list(explain_photos(explainer, photos[:1], out, job))
    began = time.perf_counter()
    list(explain_photos(explainer, photos[1:], out, job))
    return (len(photos) - 1) / (time.perf_counter() - began)


def compare(name: str, count: int, rounds: int, folder: Path) -> list[dict[str, Any]]:
    """Each way in every round; the median of the rounds' photos a second."""
    paths = save_photos(folder / "photos", count)
    explainer = Explainer.load(name)
    torch.set_num_threads(1)
    explainer.explain(paths[:BLOCK], depth=DEPTH)
    here, out = folder / "photos", folder / "out"
    run = partial(engine, explainer, name, here, out)
    ways: dict[str, Callable[[], float]] = {
        "bare engine, 1 thread": partial(bare, explainer, paths, 1),
        "local, 1 worker": partial(run, Scope(workers=1)),
        "bare engine, 2 threads": partial(bare, explainer, paths, 2),
        "local, 2 workers": partial(run, Scope(workers=2)),
        "ray, 2 workers": partial(run, Scope(engine="ray", workers=2)),
        LOOP: partial(loop, explainer, paths[:9], folder / "folders"),
    }
    rates: dict[str, list[float]] = {way: [] for way in ways}
    spent: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, measure in ways.items():
            before = time.process_time()
            rates[way].append(measure())
            each = (time.process_time() - before) / (9 if way == LOOP else count)
            spent[way].append(each)
            print(f"{way:<28} {rates[way][-1]:7.2f} photos/s {each:.3f} s", flush=True)
    return [
        {
            "kind": "rate",
            "network": name,
            "way": way,
            "photos": 9 if way == LOOP else count,
            "per_second": round(statistics.median(rates[way]), 3),
            # Of workers in other processes this one knows nothing.
            "processor": round(statistics.median(spent[way]), 4) if "2 w" not in way else None,
        }
        for way in ways
    ]


def parts(name: str, count: int, folder: Path) -> list[dict[str, Any]]:
    """Milliseconds a photo of what a worker does, one thread: read, run, put into rows, write.

    What is not the network is what a GPU would wait for.
    """
    torch.set_num_threads(1)
    paths = save_photos(folder / "parts", count)
    explainer = Explainer.load(name)
    maker = BlockMaker(explainer, DatasetOptions(block=BLOCK))
    items = open_source(folder / "parts").items
    spent = dict.fromkeys(PARTS, 0.0)
    for first in range(0, len(paths), BLOCK):
        at = [time.process_time()]
        reads = [maker.reader.read(first + n, one) for n, one in enumerate(items[first:][:BLOCK])]
        at.append(time.process_time())
        found = maker.explain(reads)
        at.append(time.process_time())
        rows = maker.rows.of(found, reads)
        at.append(time.process_time())
        write_atomically(folder / "rows.parquet", parquet_of(rows))
        at.append(time.process_time())
        if first:  # the first batch is where the network is captured
            for n, part in enumerate(spent):
                spent[part] += at[n + 1] - at[n]
    each = {part: round(1000 * of / (count - BLOCK), 2) for part, of in spent.items()}
    size = (folder / "rows.parquet").stat().st_size / BLOCK
    return [{"kind": "parts", "network": name, **each, "bytes": round(size)}, _listed(folder)]


def _listed(folder: Path) -> dict[str, Any]:
    """What it takes to know the names of many photos: microseconds and bytes of memory each."""
    (root := folder / "names").mkdir()
    photo = next((folder / "parts").iterdir())
    for number in range(NAMES):
        os.link(photo, root / f"photo-of-the-collection-{number:08}.jpg")
    began = time.perf_counter()
    open_source(root)
    micro = 1e6 * (time.perf_counter() - began) / NAMES
    tracemalloc.start()  # which makes it slower by far
    source = open_source(root)
    gc.collect()
    used = tracemalloc.get_traced_memory()[0] / NAMES
    tracemalloc.stop()
    return {"kind": "names", "photos": len(source), "micro": round(micro, 1), "bytes": round(used)}


def _grown(folder: str, out: str, pipe: Any) -> None:
    """The largest memory that a run over these photos takes, in MiB, and its seconds."""
    torch.set_num_threads(1)
    explainer = small()
    sizes: list[float] = []
    page = resource.getpagesize()

    def show(_: Any) -> None:
        statm = Path("/proc/self/statm")
        sizes.append(int(statm.read_text().split()[1]) * page / 2**20)

    began = time.process_time()
    explain_dataset(explainer, folder, out, DatasetOptions(block=128), show=show)
    pipe.send((sizes, time.process_time() - began))


def growth(most: int, rounds: int, folder: Path) -> list[dict[str, Any]]:
    """Memory and processor seconds of runs over more and more photos, each in a fresh process.

    Of the rounds the median, since a run of few photos takes less than what disturbs it.
    """
    save_photos(folder / "small", most, (96, 72))
    rows = []
    warm = statistics.median(_run(folder, WARM)[1] for _ in range(rounds))
    for count in (most // 8, most // 4, most // 2, most):
        runs = [_run(folder, count) for _ in range(rounds)]
        sizes = runs[0][0]
        early = sizes[len(sizes) // 8 : len(sizes) // 4] or sizes
        rows.append(
            {
                "kind": "growth",
                "photos": count,
                "seconds": round(statistics.median(run[1] for run in runs) - warm, 3),
                "mib_early": round(max(early), 1),
                "mib_end": round(max(sizes[-len(sizes) // 8 :]), 1),
            }
        )
        print(rows[-1], flush=True)
    return [*rows, {"kind": "exponent", "exponent": round(exponent(rows), 3)}]


def _run(folder: Path, count: int) -> tuple[list[float], float]:
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(dir=folder) as name:
        part = Path(name) / "photos"
        part.mkdir()
        for path in sorted((folder / "small").iterdir())[:count]:
            os.link(path, part / path.name)
        ours, theirs = context.Pipe()
        process = context.Process(target=_grown, args=(str(part), f"{name}/rows", theirs))
        process.start()
        found: tuple[list[float], float] = ours.recv()
        process.join()
    return found


def exponent(rows: list[dict[str, Any]]) -> float:
    """The slope of log seconds over log photos, both beyond those of the first run."""
    x = [math.log(row["photos"] - WARM) for row in rows]
    y = [math.log(row["seconds"]) for row in rows]
    return float(np.polyfit(x, y, 1)[0])


def told(rows: list[dict[str, Any]]) -> str:
    """The page's tables."""
    rates = {row["way"]: row["per_second"] for row in rows if row["kind"] == "rate"}
    lines = ["| way | photos a second | of |", "| --- | ---: | --- |"]
    for way, rate in rates.items():
        other = COMPARED.get(way)
        ratio = f"{100 * rate / rates[other]:.0f} % of {other}" if other in rates else ""
        lines.append(f"| {way} | {rate:.1f} | {ratio} |")
    lines += [
        "",
        "| photos | seconds | MiB early | MiB at the end |",
        "| ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        if row["kind"] == "growth":
            cells = (row["photos"], row["seconds"], row["mib_early"], row["mib_end"])
            lines.append(f"| {' | '.join(map(str, cells))} |")
    for row in rows:
        if row["kind"] == "parts":
            each = ", ".join(f"{part} {row[part]}" for part in PARTS)
            lines.append(f"\nprocessor milliseconds a photo, {row['network']}: {each}")
            lines.append(f"bytes of a row: {row['bytes']}")
        if row["kind"] == "asked":
            lines.append(
                f"\n{row['rows']} rows: opened in {row['open']} s, a question answered in "
                f"{row['ask']} s, {row['gib']} GiB"
            )
        if row["kind"] == "names":
            lines.append(
                f"a name: {row['bytes']} bytes, {row['micro']} µs ({row['photos']} photos)"
            )
    lines += [f"\nexponent {row['exponent']}" for row in rows if row["kind"] == "exponent"]
    return "\n".join(lines)


def asked(count: int, folder: Path) -> list[dict[str, Any]]:
    """Seconds and memory of a question about so many rows, copies of a few with other hashes."""
    photos, masks = folder / "few", folder / "masks"
    masks.mkdir()
    for path in save_photos(photos, SHARD // 100, (96, 72)):
        labels = np.zeros((72, 96), np.uint8)
        labels[20:50, 30:70] = 1
        Image.fromarray(labels).save(masks / f"{path.stem}.png")
    made = folder / "made"
    explain_dataset(small(), photos, made, DatasetOptions(objects=masks, block=SHARD // 100))
    (file,) = (made / "rows").rglob("*.parquet")
    rows = pa.concat_tables([pq.read_table(file)] * 100)
    head = replace(Ledger(made).head(), photos=count, block=len(rows))
    ledger = Ledger(folder / "many")
    ledger.begin(head)
    for block in range(head.blocks):
        _shard(ledger, rows, block)
    process = multiprocessing.get_context("spawn")
    ours, theirs = process.Pipe()
    one = process.Process(target=_asked, args=(str(ledger.folder), theirs))
    one.start()
    theirs.close()
    found = ours.recv()
    one.join()
    shutil.rmtree(ledger.folder)
    return [{"kind": "asked", "rows": count, **found}]


def _shard(ledger: Ledger, rows: Any, block: int) -> None:
    first = block * len(rows)
    items = range(first, first + len(rows))
    ids = pa.array([hashlib.sha256(str(n).encode()).hexdigest() for n in items])
    for name, values in (("id", ids), ("item", pa.array(items, rows.schema.field("item").type))):
        rows = rows.set_column(rows.schema.names.index(name), rows.schema.field(name), values)
    buffer = io.BytesIO()
    pq.write_table(rows, buffer, compression="zstd")
    write_atomically(ledger.shard(block), buffer.getvalue())
    digest = hashlib.sha256(buffer.getvalue()).hexdigest()
    made_with = ledger.head().digest
    ledger.add(Line(block, digest, "", "", "", made_with, len(rows), 0, 1.0))


def _asked(folder: str, pipe: Any) -> None:
    began = time.perf_counter()
    dataset = Dataset(folder)
    opened = time.perf_counter()
    dataset.query("background")
    ended = time.perf_counter()
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    seconds = {"open": round(opened - began, 1), "ask": round(ended - opened, 1)}
    pipe.send({**seconds, "gib": round(most, 2)})


def conditions(given: argparse.Namespace) -> dict[str, Any]:
    """What all rows depend on."""
    return {
        "torch": torch.__version__,
        "processor": platform.processor() or platform.machine(),
        "processors": os.cpu_count(),
        "network": given.network,
        "rounds": given.rounds,
        "load": round(os.getloadavg()[0], 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="efficientnet_lite0")
    parser.add_argument("--photos", type=int, default=256, help="0 leaves the rates as they are")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--growth", type=int, default=20_000, help="0 leaves the growth as it is")
    parser.add_argument("--parts", type=int, default=256, help="0 leaves the parts as they are")
    parser.add_argument("--asked", type=int, default=10_000_000, help="0 leaves it as it is")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--table", action="store_true", help="print what the file of --json has")
    given = parser.parse_args()
    if given.table:
        print(told(result_table.read(given.json)[1]))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = compare(given.network, given.photos, given.rounds, folder) if given.photos else []
        rows += parts(given.network, given.parts, folder) if given.parts else []
        rows += asked(given.asked, folder) if given.asked else []
        rows += growth(given.growth, given.rounds, folder) if given.growth else []
    print(told(rows))
    if given.json:
        _, before = result_table.read(given.json)
        new = {row["kind"] for row in rows}
        kept = [row for row in before if row["kind"] not in new]
        result_table.write(given.json, conditions(given), [*kept, *rows])


if __name__ == "__main__":
    main()
