"""guid-xmage batch: a row for each photo of a source, however many there are."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from guidxmage.cli.common import (
    INTERRUPTED,
    AsJson,
    Device,
    GateConvention,
    Gates,
    Labels,
    Model,
    OutputKind,
    Overwrite,
    Precision,
    Weights,
    complain,
    depth_of,
    load_explainer,
    one_sentence,
    print_json,
    target_of,
)
from guidxmage.errors import InputError
from guidxmage.files.names import shown

if TYPE_CHECKING:
    from guidxmage.dataset.making import Made
    from guidxmage.dataset.progress import Progress

EXAMPLES = """**Examples**

`guid-xmage batch photos/ --out answers` — every photo below a folder, a row each

`guid-xmage batch photos/ --objects masks/ --target label --out answers`

`guid-xmage batch train-0000.tar --model resnet50 --workers 8 --out answers`

`guid-xmage batch list.parquet --engine ray --address auto --gpus 0.5 --workers 16 --out answers`

`guid-xmage query answers background` — then ask
"""
# Between two lines where there is no terminal.
_HEARTBEAT = 30.0


class EngineName(str, Enum):
    """What runs the workers."""

    local = "local"
    ray = "ray"


class MapsKind(str, Enum):
    """What of the maps is kept."""

    none = "none"
    summed = "summed"
    channels = "channels"


@one_sentence
def batch(  # noqa: PLR0917
    source: Annotated[
        Path,
        typer.Argument(
            help="A folder of photos (of class folders: their names are the labels), a CSV, TSV or "
            "Parquet list with the columns path, label, mask, a Parquet file with the images' "
            "bytes, a WebDataset tar, or a folder of tars or Parquet files."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the data set.")],
    model: Model = "efficientnet_lite0",
    weights: Weights = "default",
    labels: Labels = None,
    output: OutputKind = None,
    target: Annotated[
        str,
        typer.Option(help="top1, top5, a class index or name, indices 1,2; label: the true one."),
    ] = "top1",
    rather_than: Annotated[
        str | None, typer.Option(help="Explain why the target rather than this class (or top2).")
    ] = None,
    objects: Annotated[
        Path | None,
        typer.Option(
            help="Masks: a folder that mirrors the photos' (or has them by their stems), COCO "
            "JSON, Pascal VOC XML. By default those of the source, where it has any."
        ),
    ] = None,
    depth: Annotated[
        str,
        typer.Option(help="Where the network is cut for the whole map: default, 8, a layer; none."),
    ] = "default",
    ambiguous: Annotated[
        bool, typer.Option("--ambiguous", help="Count ambiguous decisions (a run in float64).")
    ] = False,
    maps: Annotated[
        MapsKind, typer.Option(help="Also keep the contributions, as a Zarr array.")
    ] = MapsKind.none,
    previews: Annotated[bool, typer.Option("--previews", help="Also keep small pictures.")] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="The first so many photos.")] = None,
    sample: Annotated[int | None, typer.Option(min=1, help="So many photos at random.")] = None,
    seed: Annotated[int, typer.Option(help="Of --sample.")] = 0,
    shard: Annotated[
        str, typer.Option(help="i/n: the i-th (from 0) of n shares, for n commands side by side.")
    ] = "0/1",
    engine: Annotated[EngineName, typer.Option(help="What runs the workers.")] = EngineName.local,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Processes or actors; by default one a processor, or one a GPU."),
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Of each worker.")] = 1,
    address: Annotated[str | None, typer.Option(help="Of a Ray cluster; auto finds it.")] = None,
    gpus: Annotated[float, typer.Option(min=0, help="Of each Ray actor: 1, 0.5 …")] = 0.0,
    block: Annotated[int | None, typer.Option(min=1, help="Photos in one block.")] = None,
    dtype: Annotated[Precision, typer.Option(help="Precision to run in.")] = Precision.float32,
    device: Device = "cpu",
    gates: Gates = GateConvention.secant,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Explain all photos of a source: a row of numbers for each photo and target, as Parquet.

    A run that was stopped, however that came, goes on with the same command. Several runs may write
    into one data set. A photo that cannot be explained is a row with an error.
    """
    from guidxmage.dataset.making import Scope, explain_dataset
    from guidxmage.dataset.options import LABEL, DatasetOptions

    factory = partial(
        load_explainer,
        model,
        weights,
        labels,
        dtype.value,
        device,
        gates=gates.value,
        output=output,
    )
    explainer = factory()
    kind = explainer.outputs.kind
    options = DatasetOptions(
        target=LABEL if target == LABEL else target_of(target, rather_than, kind),
        objects=objects,
        depth=None if depth == "none" else depth_of(depth),
        ambiguous=ambiguous,
        maps=None if maps is MapsKind.none else maps.value,
        previews=previews,
        threads=threads,
        block=block,
        source={
            "model": model,
            "weights": weights,
            "dtype": dtype.value,
            "gates": gates.value,
            **({} if labels is None else {"labels": str(labels)}),
            **({} if output is None else {"output": output}),
        },
    )
    scope = Scope(
        limit=limit,
        sample=sample,
        seed=seed,
        shard=_share(shard),
        engine=engine.value,
        workers=_workers(device, engine, gpus) if workers is None else workers,
        address=address,
        gpus=gpus,
    )
    with _showing(out) as show:
        made = explain_dataset(
            explainer,
            source,
            out,
            options,
            scope,
            factory=factory,
            overwrite=overwrite,
            show=show,
        )
    _tell(made, as_json)


def _workers(device: str, engine: EngineName, gpus: float) -> int:
    """One a processor that this process may use, or one a GPU."""
    if device != "cpu":
        import torch

        count = torch.cuda.device_count() if engine is EngineName.ray else 1
        return max(int(count / (gpus or 1)), 1)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _share(text: str) -> tuple[int, int]:
    first, _, count = text.partition("/")
    if not (first.isdecimal() and count.isdecimal()):
        raise InputError(f"--shard is {shown(text)}; give i/n, such as 0/8")
    return int(first), int(count)


def _tell(made: Made, as_json: bool) -> None:
    for note in made.notes:
        complain(note)
    if as_json:
        content = {**vars(made), "folder": shown(made.folder), "seconds": round(made.seconds, 1)}
        print_json(content)
    else:
        kept = f", {made.kept} kept from earlier" if made.kept else ""
        failed = f", {made.errors} with an error" if made.errors else ""
        typer.echo(
            f"{shown(made.folder)}: {made.photos} photos{kept}{failed}, "
            f"{made.explained / max(made.seconds, 1e-9):.1f} a second"
        )


@contextmanager
def _showing(out: Path) -> Iterator[Callable[[Progress], None]]:
    """A line that is kept up to date on a terminal, a line now and then elsewhere.

    When the run is interrupted it says how to go on.
    """
    terminal = sys.stderr.isatty()
    last: list[Any] = [0.0, False, 0]

    def show(progress: Progress) -> None:
        now = time.monotonic()
        if progress.waiting and not last[1]:
            last[1] = True
            complain("the blocks that are left are another run's; waiting for it")
        if now - last[0] < (0.2 if terminal else _HEARTBEAT):
            return
        last[0] = now
        line = f"guid-xmage: {progress}"
        if terminal:
            last[2] = len(line)
            sys.stderr.write(f"\r\x1b[2K{line}")
            sys.stderr.flush()
        else:
            typer.echo(line, err=True)

    def clear() -> None:
        if terminal and last[2]:
            sys.stderr.write("\r\x1b[2K")
            sys.stderr.flush()

    try:
        yield show
    except KeyboardInterrupt:
        clear()
        complain(f"interrupted; finished blocks of {shown(out)} are kept, the same command goes on")
        raise typer.Exit(INTERRUPTED) from None
    finally:
        clear()
