"""One block: a fixed run of photos, read, explained in batches, its rows as Parquet."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch

from guidxmage.attribution.targets import is_per_image
from guidxmage.dataset.doubtful import Doubtful
from guidxmage.dataset.items import Item
from guidxmage.dataset.kept import Kept, keep_maps, previews_of
from guidxmage.dataset.masks import Masks
from guidxmage.dataset.options import LABEL, DatasetOptions
from guidxmage.dataset.reading import Read, Reader, ahead
from guidxmage.dataset.rows import Rows
from guidxmage.dataset.schema import arrow_schema
from guidxmage.errors import InputError
from guidxmage.explainer import Explainer
from guidxmage.explanation import Explanation
from guidxmage.files.names import brief
from guidxmage.provenance import fingerprint

Tick = Callable[[int, int], None]
"""Told after a batch: how many more photos are done, and how many of them failed."""
# Threads that read photos for one network.
_READERS = 2
# Of one target and pixel: weights and contributions in the network's numbers, and in a float64
# copy; beside them the maps in float64.
_COPIES, _MAPS = 3, 6


class LabelError(InputError):
    """A photo whose true label is to be explained has none that is a class of the network."""


class StoppedError(Exception):
    """The run is to end; the block at hand is given up."""


@dataclass(frozen=True)
class Content:
    """What a block came to.

    shard: its rows as Parquet. contents: hashes of what was read for its photos, in order. photos,
    errors: how many. seconds: it took. kept: maps and previews, where they are wanted.
    """

    shard: bytes
    contents: tuple[str, ...]
    photos: int
    errors: int
    seconds: float
    kept: Kept | None = None


@dataclass
class BlockMaker:
    """Makes blocks with one explainer, one after the other, on one thread of one process.

    network: the explainer's fingerprint where it is known, which takes a second to take.
    """

    explainer: Explainer
    options: DatasetOptions
    network: str = ""
    pool: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(_READERS, "guid-xmage-read"), repr=False
    )

    def __post_init__(self) -> None:
        self.network = self.network or self.explainer.fingerprint()
        doubtful = Doubtful() if self.options.ambiguous else None
        self.rows = Rows(self.explainer, self.network, fingerprint.makers(), doubtful)
        self.reader = Reader(self.explainer, Masks(self.options.objects))
        self._sizes: dict[tuple[int, ...], int] = {}

    def make(
        self, items: Sequence[Item], first: int, tick: Tick, stop: Callable[[], bool]
    ) -> Content:
        """The block of these items, the first of which has this place in the source.

        Depends on nothing else: neither on who makes it, nor on what was made before. Raises
        StoppedError when told to stop, and InputError where the network or the options, rather than
        single photos, are at fault.
        """
        began = time.perf_counter()
        made = _Made(self)
        numbered = enumerate(items, first)
        for read in ahead(self.pool, self.reader, numbered, 2 * self.explainer.batch_rows):
            if stop():
                raise StoppedError
            made.take(read, tick)
        made.finish(tick)
        rows = sorted(made.rows, key=lambda row: row["item"])  # stable: targets keep their order
        kept = keep_maps(made.maps, first, len(items)) if self.options.maps else None
        if self.options.previews:
            kept = (kept or Kept()).with_previews(made.previews)
        return Content(
            shard=parquet_of(rows),
            contents=tuple(made.contents),
            photos=len(items),
            errors=made.errors,
            seconds=time.perf_counter() - began,
            kept=kept,
        )

    def rows_for(self, X: torch.Tensor) -> int:
        """How many images of this shape are run at once, by the explainer's memory budget."""
        shape = tuple(X.shape[1:])
        if shape not in self._sizes:
            program = self.explainer.network(X).program
            targets = self._targets(X)
            pixels = prod(shape)
            each = pixels * X.element_size() * _COPIES + pixels // shape[0] * 8 * _MAPS
            results = max(self.explainer.memory_budget // (targets * each), 1)
            self._sizes[shape] = min(self.explainer.rows(program), results)
        return self._sizes[shape]

    def _targets(self, X: torch.Tensor) -> int:
        """How many targets a photo has."""
        target = self.options.target
        if isinstance(target, str):
            digits = target.lower().removeprefix("top").removeprefix("-")
            if target.lower().startswith("top") and digits.isdecimal():
                return max(int(digits), 1)
            return int(self.explainer.logits(X).shape[1]) if target == "all" else 1
        if isinstance(target, tuple) and len(target) == 2 and target[0] in ("top", "classes"):
            return target[1] if target[0] == "top" else max(len(target[1]), 1)
        return 1

    def explain(self, reads: Sequence[Read]) -> Explanation:
        """A batch of photos of one shape. Raises what the explainer raises."""
        X = torch.cat([read.X for read in reads if read.X is not None])
        depth = self.options.depth
        both = None if depth is None else [depth] if depth == "input" else [depth, "input"]
        target: Any = self.options.target
        if target == LABEL:
            target = [self._own_class(read) for read in reads]
        elif is_per_image(target):
            raise InputError(
                "a target that is a list has one class for each image of a batch; give "
                '("classes", […]) for several classes of every photo'
            )
        return self.explainer.explain(X, target, reference=self.options.reference, depth=both)

    def _own_class(self, read: Read) -> int:
        found = self.rows.label_class(read.item.label, self._classes(read))
        if found is None:
            what = "no label" if read.item.label is None else f"the label {brief(read.item.label)}"
            raise LabelError(f"{read.item.name} has {what}, which is no class of this network")
        return found

    def _classes(self, read: Read) -> int:
        assert read.X is not None
        return self.explainer.network(read.X).program.classes


@dataclass
class _Made:
    """What a block has so far: batches of one shape that are not full yet, and finished rows."""

    maker: BlockMaker
    rows: list[dict[str, Any]] = field(default_factory=list)
    contents: list[str] = field(default_factory=list)
    maps: dict[int, Any] = field(default_factory=dict)
    previews: list[dict[str, Any]] = field(default_factory=list)
    errors: int = 0
    _waiting: dict[tuple[int, ...], list[Read]] = field(default_factory=dict)
    _refused: list[str] = field(default_factory=list)
    _explained: int = 0

    def take(self, read: Read, tick: Tick) -> None:
        """One photo; runs its batch where that is full now."""
        self.contents.append(read.content)
        if read.X is None:
            self._fail(read)
            tick(1, 1)
            return
        shape = tuple(read.X.shape[1:])
        batch = self._waiting.setdefault(shape, [])
        batch.append(read)
        if len(batch) >= self._rows_for(read):
            self._run(self._waiting.pop(shape), tick)

    def _rows_for(self, read: Read) -> int:
        assert read.X is not None
        try:
            return self.maker.rows_for(read.X)
        except Exception:  # it is told, photo by photo, when they are explained
            return 1

    def finish(self, tick: Tick) -> None:
        """Run what is left. Raises InputError where every photo was refused by the network."""
        for batch in self._waiting.values():
            self._run(batch, tick)
        self._waiting = {}
        if len(self._refused) > 1 and not self._explained:
            raise InputError(f"no photo can be explained: {self._refused[0]}")

    def _run(self, reads: list[Read], tick: Tick) -> None:
        before = self.errors
        for part, found in self._explanations(reads):
            self.rows += self.maker.rows.of(found, part)
            self._explained += len(part)
            if self.maker.options.maps:
                self.maps |= maps_of(found, part, self.maker.options.maps)
            if self.maker.options.previews:
                self.previews += previews_of(found, part)
        tick(len(reads), self.errors - before)

    def _explanations(self, reads: list[Read]) -> Iterator[tuple[list[Read], Explanation]]:
        """Of the batch; where that fails, of its photos one by one."""
        try:
            found = self.maker.explain(reads)
        except MemoryError:
            raise
        # Whatever a network stumbles over with one photo is that photo's error.
        except Exception as error:
            if len(reads) > 1:
                for read in reads:
                    yield from self._explanations([read])
            else:
                failed = reads[0].failed(error)
                if not isinstance(error, LabelError):  # which is the photo's own fault
                    self._refused.append(failed.error or "")
                self._fail(failed)
        else:
            yield reads, found

    def _fail(self, read: Read) -> None:
        self.errors += 1
        self.rows.append(self.maker.rows.failed(read))


def maps_of(found: Explanation, reads: Sequence[Read], kind: str) -> dict[int, Any]:
    """Contributions in float32 by the photos' places: (K, H, W), or (K, C, H, W) of channels."""
    maps = found.contributions if found.several else found.contributions[:, None]
    summed = maps if kind == "channels" else maps.double().sum(2)
    arrays = summed.float().cpu().numpy()
    return {read.number: arrays[n] for n, read in enumerate(reads)}


def parquet_of(rows: list[dict[str, Any]]) -> bytes:
    """Rows as the bytes of a Parquet file, which depend on them alone."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    table = pa.Table.from_pylist(rows, schema=arrow_schema())
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()
