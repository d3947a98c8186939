"""guid-xmage harden: lower what the background contributes, and measure what that gains."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from guidxmage.cli.common import AsJson, naming_options, one_sentence

EXAMPLES = """**Examples**

`guid-xmage garments data && guid-xmage harden --data data --config configs/harden-small.toml`

`guid-xmage harden --data data --model resnet20 --arms longer,ours --seeds 0 --out hardened`

`torchrun --nproc-per-node 2 -m guidxmage.cli harden --data data` — each training on two processes
"""


@one_sentence
def harden(  # noqa: PLR0917
    data: Annotated[Path, typer.Option(help="Garments, CIFAR-10, or train/validation/test.")],
    config: Annotated[
        Path | None, typer.Option(help="TOML with the settings; see docs/hardening.md.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Networks, with commas; file.py:function runs that file.")
    ] = None,
    arms: Annotated[str | None, typer.Option(help="Arms, separated by commas.")] = None,
    seeds: Annotated[str | None, typer.Option(help="Seeds, separated by commas.")] = None,
    out: Annotated[Path, typer.Option(help="Folder; a run that was stopped goes on there.")] = Path(
        "hardened"
    ),
    as_json: AsJson = False,
) -> None:
    """Train networks, retrain them with background-suppressed samples, attack them, report.

    Beside ours run the arms that an honest comparison needs. Every part that is done is kept: run
    the same command again after an interruption.
    """
    from dataclasses import replace

    from guidxmage.hardening.data.splits import load_splits
    from guidxmage.hardening.experiment import Experiment, run
    from guidxmage.hardening.readiness import check_code
    from guidxmage.hardening.report.publication import publish
    from guidxmage.hardening.settings import read_settings

    experiment = Experiment() if config is None else read_settings(config)
    given: dict[str, Any] = {}
    if model is not None:
        given["networks"] = tuple(model.split(","))
    if arms is not None:
        given["arms"] = tuple(arms.split(","))
    if seeds is not None:
        given["seeds"] = tuple(map(_number, seeds.split(",")))
    with naming_options(networks="--model", arms="--arms", seeds="--seeds"):
        experiment = replace(experiment, **given)
    check_code(experiment)
    first = int(os.environ.get("RANK", "0")) == 0
    splits = load_splits(data, experiment.size)
    found = run(experiment, splits, out, lambda line: typer.echo(line, err=True) if first else None)
    if first:
        written = publish(out, experiment, splits, found, f"Hardening on {data.name}")
        typer.echo(json.dumps(found, indent=1) if as_json else str(written))


def _number(text: str) -> int:
    from guidxmage.errors import InputError

    try:
        return int(text)
    except ValueError:
        raise InputError(f"--seeds {text}: seeds are whole numbers, separated by commas") from None
