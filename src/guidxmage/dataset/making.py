"""Explain all photos of a source into a data set; what is there already is kept."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, Literal

from guidxmage.dataset.items import Item
from guidxmage.dataset.kept import PREVIEWS, fit_maps
from guidxmage.dataset.ledger import HEAD, ROWS, Head, Ledger
from guidxmage.dataset.local import Look, Pool, Setup, check_portable, run_here
from guidxmage.dataset.masks import Masks
from guidxmage.dataset.options import DatasetOptions
from guidxmage.dataset.portable import Portable
from guidxmage.dataset.progress import Progress
from guidxmage.dataset.sources import Listed, Source, open_source
from guidxmage.dataset.working import MakeExplainer, Outcome, Work, standing
from guidxmage.errors import InputError, MissingExtraError
from guidxmage.explainer import Explainer
from guidxmage.files.names import brief, shown
from guidxmage.files.result_folder import sweep
from guidxmage.files.schema import unknown_name
from guidxmage.provenance import fingerprint

Engine = Literal["local", "ray"]
Show = Callable[[Progress], None]
_EXTRA = ("pyarrow", "scipy")


@dataclass(frozen=True)
class Made:
    """What a run came to. photos: wanted; kept: of them, from before; errors: in this run.

    notes: sentences about what was not read or not found.
    """

    folder: Path
    photos: int
    explained: int
    kept: int
    errors: int
    seconds: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Scope:
    """Which photos of the source are wanted, and who makes them.

    limit: the first so many. sample: so many drawn at random, by `seed`. shard: (i, n), the i-th of
    n shares of the blocks, counted from 0, for schedulers that run n commands. engine, workers:
    "local" processes or "ray" actors; one local worker is this very process. address: of a Ray
    cluster. gpus: of each Ray actor, which may be a fraction.
    """

    limit: int | None = None
    sample: int | None = None
    seed: int = 0
    shard: tuple[int, int] = (0, 1)
    engine: Engine = "local"
    workers: int = 1
    address: str | None = None
    gpus: float = 0.0

    def __post_init__(self) -> None:
        i, n = self.shard
        if not 0 <= i < n:
            raise InputError(f"the share {i}/{n} is none; give i/n with i from 0 to n − 1")
        if self.engine not in ("local", "ray"):
            raise InputError(f"engine is {self.engine!r}; choose 'local' or 'ray'")
        for name, value in (("limit", self.limit), ("sample", self.sample)):
            if value is not None and value < 1:
                raise InputError(f"{name} is {value}; give 1 or more")
        if not 1 <= self.workers <= 4096:
            raise InputError(f"workers is {self.workers}; give 1 to 4096")

    def of(self, source: Source) -> Sequence[Item]:
        """The photos that are wanted, in the source's order."""
        items = source.items
        if self.sample is not None and self.sample < len(items):
            drawn = random.Random(self.seed).sample(range(len(items)), self.sample)
            items = [items[number] for number in sorted(drawn)]
        return items if self.limit is None else items[: self.limit]


def explain_dataset(
    explainer: Explainer,
    source: Any,
    out: str | os.PathLike[str],
    options: DatasetOptions | None = None,
    scope: Scope | None = None,
    *,
    factory: MakeExplainer | None = None,
    overwrite: bool = False,
    show: Show = lambda _: None,
) -> Made:
    """Explain all photos of a source into the data set `out`, a row for each photo and target.

    source: as `open_source` has it. What is there of the same photos is kept, so that a run that
    was stopped goes on; a photo that cannot be explained is a row with an `error`. factory: makes
    an equal explainer in other processes, where there are several workers; by default the network
    is sent to them by pickle. overwrite: make all of it anew. show: told how far the run is.

    Raises InputError: no photos; a data set of another network or other options; a folder that
    cannot be written; a network or options that no photo can be explained with.
    """
    _check_packages()
    options, scope = options or DatasetOptions(), scope or Scope()
    opened = open_source(source)
    items = scope.of(opened)
    ledger = Ledger(Path(out))
    if not overwrite:
        _refuse_loss(ledger, items, opened, options, scope)
    head = ledger.begin(_head(explainer, opened, items, options, scope), overwrite=overwrite)
    data = opened.items.data if isinstance(opened.items, Listed) else None
    fit_maps(Path(out), head.photos)
    setup = Setup(Path(out), head, options, factory or Portable(explainer), data)
    for name in (ROWS, PREVIEWS):
        sweep(Path(out) / name, below=True)  # what killed runs left
    mine = [work for work in _blocks(items, head.block) if _is_mine(work, scope)]
    progress = Progress(sum(len(work.items) for work in mine))
    left = list(_left((ledger, head), mine, progress, options.objects))
    show(progress)
    for outcome in _run(setup, scope, explainer, left, (progress, partial(show, progress))):
        del outcome  # the ledger has it
    show(progress)
    if ledger.head().digest != head.digest:
        raise InputError(
            f"another run has begun {out} anew meanwhile; give each a folder of its own"
        )
    return Made(
        folder=Path(out),
        photos=progress.total,
        explained=progress.done,
        kept=progress.kept,
        errors=progress.errors,
        seconds=progress.seconds,
        notes=(*opened.notes, *Masks(options.objects).unmatched(items)),
    )


def explain_with_options(
    explainer: Explainer, source: Any, out: str | os.PathLike[str], **given: Any
) -> Made:
    """`explain_dataset` with the fields of options and scope by their names."""
    sides: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
    for side, kind in zip(sides, (DatasetOptions, Scope), strict=True):
        for one in fields(kind):
            if one.name in given:
                side[one.name] = given.pop(one.name)
    more = {name: given.pop(name) for name in ("factory", "overwrite", "show") if name in given}
    if given:
        known = [one.name for kind in (DatasetOptions, Scope) for one in fields(kind)]
        raise InputError(f"explain_dataset {unknown_name(next(iter(given)), known, 'option')}")
    return explain_dataset(
        explainer, source, out, DatasetOptions(**sides[0]), Scope(**sides[1]), **more
    )


def _run(
    setup: Setup,
    scope: Scope,
    explainer: Explainer,
    left: Sequence[Work],
    seen: tuple[Progress, Look],
) -> Iterator[Outcome]:
    """By the engine that is wanted."""
    progress, look = seen
    if not left:
        return iter(())
    if scope.engine == "ray":
        from guidxmage.dataset.on_ray import Cluster, run_on_ray

        check_portable(setup)
        cluster = Cluster(scope.workers, scope.address, scope.gpus)
        return run_on_ray(setup, cluster, left, progress, look)
    if scope.workers == 1:
        return run_here(setup, explainer, left, progress, look)
    check_portable(setup)
    return Pool(setup, scope.workers, progress, look).run(left)


def _check_packages() -> None:
    from importlib.util import find_spec

    for package in _EXTRA:
        if find_spec(package) is None:
            raise MissingExtraError(package, "dataset")


def _head(
    explainer: Explainer,
    source: Source,
    items: Sequence[Item],
    options: DatasetOptions,
    scope: Scope,
) -> Head:
    sample = None if scope.sample is None else [scope.sample, scope.seed]
    return Head(
        network=explainer.fingerprint(),
        model=explainer.name,
        options=options.told(),
        source={"kind": source.kind, "name": source.name, "sample": sample},
        photos=len(items),
        block=options.block_of(len(source)),
        versions=fingerprint.makers(),
        named=dict(options.source),
    )


def _refuse_loss(
    ledger: Ledger,
    items: Sequence[Item],
    source: Source,
    options: DatasetOptions,
    scope: Scope,
) -> None:
    """Raise InputError where a run would put its rows in the place of other photos' rows."""
    if not (ledger.folder / HEAD).is_file():
        return
    head, out = ledger.head(), shown(ledger.folder)
    finished = ledger.finished(head)
    if not finished:
        return
    if options.block is not None and options.block != head.block:
        raise InputError(f"{out} has blocks of {head.block} photos; leave out the size of blocks")
    there = max(block * head.block + line.photos for block, line in finished.items())
    if scope.limit is not None and len(items) < there:
        raise InputError(
            f"{out} has rows of {there} photos, and the limit of {scope.limit} would take some of "
            "them away; leave it out, or choose another folder"
        )
    if (head.source.get("kind"), head.source.get("name")) == (source.kind, source.name):
        return
    block = min(finished)
    first = block * head.block
    work = Work(block, first, items[first : first + head.block])
    if standing(ledger, head, work, ledger.lines(), options.objects) is None:
        raise InputError(
            f"{out} has rows of {brief(head.source.get('name'))}, and these are other photos: "
            "choose another folder, or overwrite it"
        )


def _blocks(items: Sequence[Item], size: int) -> Iterator[Work]:
    for block, first in enumerate(range(0, len(items), size)):
        yield Work(block, first, items[first : first + size])


def _is_mine(work: Work, scope: Scope) -> bool:
    share, shares = scope.shard
    return work.block % shares == share


def _left(
    of: tuple[Ledger, Head], blocks: Sequence[Work], progress: Progress, objects: Path | None
) -> Iterator[Work]:
    """The blocks that are not there yet, or not whole, or not of these photos."""
    ledger, head = of
    lines = ledger.lines()
    for work in blocks:
        line = standing(ledger, head, work, lines, objects)
        if line is None:
            yield work
        else:
            progress.keep(line.photos)
