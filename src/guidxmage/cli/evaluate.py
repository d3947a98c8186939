"""guid-xmage evaluate: explanation methods side by side, and the paper's Table 1."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from guidxmage.cli.common import AsJson, complain, naming_options, one_sentence, progress_bar
from guidxmage.errors import InputError

if TYPE_CHECKING:
    from guidxmage.evaluation.run import EvaluatedNetwork
    from guidxmage.evaluation.settings import Settings

EXAMPLES = """**Examples**

`guid-xmage evaluate` — a few methods on the bundled network and 20 labelled photos

`guid-xmage evaluate photos/ --masks masks/ --methods all --measures all --views 5`

`guid-xmage evaluate data --model table1-networks/resnet20-0/plain --methods all --out resnet20`

`guid-xmage evaluate --preset table1 --trained table1-networks --garments data`
"""

_WITH_PRESET = {"trained", "garments", "part"}
_NOT_WITH_PRESET = {
    *("data", "methods", "measures", "all_views", "deep"),
    *("limit", "masks", "target", "seed", "dtype"),
}


@one_sentence
def evaluate(  # noqa: PLR0917
    context: typer.Context,
    data: Annotated[
        str,
        typer.Argument(help="imagenet or cifar10 (labelled photos of foolbox), or a folder."),
    ] = "imagenet",
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="Repeatable. A name, NAME=WEIGHTS.pth, file.py:function (runs that file), or a "
            "folder that `guid-xmage harden` trained, such as out/alexnet-0/plain; of your own "
            "network file.py:function=FOLDER."
        ),
    ] = None,
    methods: Annotated[str, typer.Option(help="Names with commas, quick, or all.")] = "quick",
    measures: Annotated[str, typer.Option(help="Names with commas, quick, or all.")] = "quick",
    views: Annotated[
        int | None,
        typer.Option(help="Of each photo: itself, then crops and flips; default 1, table1 10."),
    ] = None,
    all_views: Annotated[
        str, typer.Option(help="Only these methods are given every view; default all.")
    ] = "",
    deep: Annotated[int, typer.Option(help="Photos on which costly measures are taken.")] = 10,
    limit: Annotated[int | None, typer.Option(help="At most so many photos.")] = None,
    masks: Annotated[Path | None, typer.Option(help="Folder of masks of the objects.")] = None,
    target: Annotated[str, typer.Option(help="top1, or label: the photo's own class.")] = "top1",
    seed: Annotated[int, typer.Option(help="Of crops, random maps and the bootstrap.")] = 0,
    dtype: Annotated[str, typer.Option(help="Of the maps: float32 or float64.")] = "float32",
    preset: Annotated[
        str | None,
        typer.Option(help="table1: the paper's Table 1, with its own data, methods and measures."),
    ] = None,
    trained: Annotated[
        Path | None, typer.Option(help="table1: what configs/table1-networks.toml trained.")
    ] = None,
    garments: Annotated[
        Path | None, typer.Option(help="table1: the data they were trained on.")
    ] = None,
    part: Annotated[
        str | None, typer.Option(help="table1: only imagenet, imagenet-more or garments.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder; a run that was stopped goes on there.")] = Path(
        "evaluation"
    ),
    as_json: AsJson = False,
) -> None:
    """Measure explanation methods on images and write a report.

    Every record is kept as it is made: run the same command again after an interruption. Networks
    may be added to a folder; with other settings another folder is needed.
    """
    from guidxmage.evaluation.settings import QUICK_MEASURES, QUICK_METHODS, Settings, names_from
    from guidxmage.evaluation.settings import all_measures as known_measures
    from guidxmage.evaluation.settings import all_methods as known_methods

    _check_together(context, preset)
    if preset is not None:
        _preset(preset, model or [], trained, garments, out, as_json, part, views)
        return
    with naming_options(**{name: f"--{name.replace('_', '-')}" for name in context.params}):
        settings = Settings(
            methods=names_from(methods, known_methods(), QUICK_METHODS),
            measures=names_from(measures, known_measures(), QUICK_MEASURES),
            views=1 if views is None else views,
            all_views=names_from(all_views, known_methods()),
            deep=deep,
            seed=seed,
            dtype=cast("Any", dtype),
            target=cast("Any", target),
        )
    if limit is not None and limit < 1:
        raise InputError(f"--limit is {limit}; give a number of photos from 1 on")
    networks = [network_of(text) for text in model or ["efficientnet_lite0"]]
    _one(settings, networks, data, limit, masks, out, as_json)


def _check_together(context: typer.Context, preset: str | None) -> None:
    """Raise InputError for options that would be passed over in silence."""
    given = {
        name
        for name in context.params
        if (source := context.get_parameter_source(name)) is not None and source.name != "DEFAULT"
    }
    idle = given & (_NOT_WITH_PRESET if preset is not None else _WITH_PRESET)
    if idle:
        option = sorted(idle)[0].replace("_", "-")
        words = "does not go with --preset" if preset is not None else "goes with --preset table1"
        raise InputError(f"{'DATA' if option == 'data' else f'--{option}'} {words}; leave it out")


def _one(  # noqa: PLR0917
    settings: Settings,
    networks: list[EvaluatedNetwork],
    data: str,
    limit: int | None,
    masks: Path | None,
    out: Path,
    as_json: bool,
) -> None:
    """Evaluate networks on one set of photos."""
    from guidxmage.evaluation.data.photos import read_photos
    from guidxmage.evaluation.report.publication import publish
    from guidxmage.evaluation.run import run

    photos = read_photos(data, limit, masks)
    total = len(photos) * settings.views * len(networks)
    with progress_bar(total, "evaluating") as advance:
        records = run(settings, networks, photos, data, out, advance, complain)
    title = f"Explanation methods on {Path(data).name}"
    _say(*publish(out, settings, records, photos, title), as_json)


def _preset(  # noqa: PLR0917
    name: str,
    models: list[str],
    trained: Path | None,
    garments: Path | None,
    out: Path,
    as_json: bool,
    part: str | None,
    views: int | None,
) -> None:
    """The preset's parts, one after the other."""
    from contextlib import ExitStack

    from guidxmage.evaluation.table1 import PUBLISHED, VIEWS, TablePart, evaluate_table1, parts

    if name != "table1":
        raise InputError(f"there is no preset {name!r}; there is table1")
    if (trained is None) != (garments is None):
        raise InputError("--trained and --garments go together: networks and their data")
    chosen = [
        one
        for one in parts(garments, VIEWS if views is None else views)
        if part in (None, one.name)
    ]
    if not chosen:
        raise InputError(f"the preset has no part {part!r} here")
    files = _weight_files(models, {network for one in chosen for network in one.networks})
    if trained is not None and not trained.is_dir():
        raise InputError(f"--trained {trained} is no folder; name what `guid-xmage harden` wrote")

    def load(of: TablePart, network: str) -> EvaluatedNetwork:
        if of.name == "garments":
            return network_of(str(Path(trained or "") / f"{network}-0" / "plain"))
        if network in files:
            return checked(network_of(f"{network}={files[network]}"))
        try:
            return checked(network_of(network))
        except InputError as error:
            if network not in PUBLISHED:
                raise
            raise InputError(
                "its published weights are not here and could not be downloaded; give them with "
                f"--model {network}=FILE"
            ) from error

    with ExitStack() as stack:

        def started(of: TablePart, views: int) -> Any:
            return stack.enter_context(progress_bar(views, of.name))

        _say(*evaluate_table1(chosen, load, out, started, complain), as_json)


def _weight_files(given: list[str], known: set[str]) -> dict[str, str]:
    """The weight files that --model names, by network. Raises InputError for anything else."""
    files = {}
    for text in given:
        name, found, file = text.partition("=")
        if not found or name not in known:
            raise InputError(
                f"--model {text} does not go with --preset; give NAME=WEIGHTS.pth for one of "
                f"{', '.join(sorted(known))}"
            )
        if not Path(file).is_file():
            raise InputError(f"--model {text}: there is no weight file {file}")
        files[name] = file
    return files


def network_of(text: str) -> EvaluatedNetwork:
    """The network that --model names, loaded only when its turn comes.

    Raises InputError for a folder without a trained network, for a name that nothing has, and for
    a file that is not there.
    """
    from functools import partial

    from guidxmage.evaluation.run import EvaluatedNetwork
    from guidxmage.models import load_model, load_python_model
    from guidxmage.models.python_models import check_factory
    from guidxmage.models.registry import check_available

    code, _, folder = text.rpartition("=")
    if Path(text).is_dir() or (":" in code and Path(folder).is_dir()):
        from guidxmage.hardening.training.trained import load_trained

        loaded = load_trained(text) if Path(text).is_dir() else load_trained(folder, code)
        return EvaluatedNetwork(loaded.name, lambda: loaded)
    if ":" in text and not text.startswith("timm:"):
        check_factory(text)
        return EvaluatedNetwork(text.rpartition(":")[2], partial(load_python_model, text))
    name, _, weights = text.partition("=")
    check_available(name, weights or "default")
    return EvaluatedNetwork(name, partial(load_model, name, weights=weights or "default"))


def checked(network: EvaluatedNetwork) -> EvaluatedNetwork:
    """The network, loaded now. Raises InputError where its weights cannot be had."""
    from guidxmage.evaluation.run import EvaluatedNetwork

    loaded = network.load()
    return EvaluatedNetwork(network.name, lambda: loaded)


def _say(report: Path, rows: list[Any], as_json: bool) -> None:
    typer.echo(json.dumps([asdict(row) for row in rows], indent=1) if as_json else str(report))
