"""What the commands share: options, one-sentence errors, progress, the network asked for."""

from __future__ import annotations

import json
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from guidxmage.errors import GuidXmageError, InputError, SettingError
from guidxmage.files.names import shown

if TYPE_CHECKING:
    from guidxmage.explainer import Explainer
    from guidxmage.jobs.photo_results import Outcome

BAD_INPUT, INTERRUPTED = 2, 130
GONE_SHOWN = 10
_LAYER = "layer:"


class Space(str, Enum):
    """What is explained."""

    photo = "photo"
    pixels = "pixels"
    input = "input"


class Precision(str, Enum):
    """The dtype a network is run in."""

    float32 = "float32"
    float64 = "float64"


class GateConvention(str, Enum):
    """How smooth operators are made affine."""

    secant = "secant"
    tangent = "tangent"


Model = Annotated[
    str,
    typer.Option(
        help="A name from `guid-xmage models`, timm:NAME, a folder saved by Hugging Face "
        "transformers, an ONNX file, or your own factory as file.py:function or "
        "package.module:function, which runs that file or module."
    ),
]
ExplainedSpace = Annotated[
    Space | None,
    typer.Option(
        help="photo: its own pixels at its own size; pixels: those the network sees; input: "
        "after the normalisation."
    ),
]
Weights = Annotated[
    str, typer.Option(help="default (published), none (random), or a .pth/.safetensors file.")
]
Labels = Annotated[Path | None, typer.Option(help="File with the class names: lines, or JSON.")]
Dtype = Annotated[Precision, typer.Option(help="Precision to run in.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps …")]
Gates = Annotated[
    GateConvention,
    typer.Option(help="How smooth operators (GELU, attention …) are made affine."),
]
OutputKind = Annotated[
    str | None,
    typer.Option(
        "--output",
        help="What of the network's output is explained: a key or index of class scores, or "
        "scores, regression, segmentation, boxes, embedding, with settings after a colon "
        "(docs/outputs.md).",
    ),
]
Overwrite = Annotated[
    bool,
    typer.Option("--overwrite", help="Make results anew, whatever is there of them."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the results as JSON.")]


def one_sentence(command: Callable[..., None]) -> Callable[..., None]:
    """End a command with one clear sentence and exit code 2 instead of a traceback."""

    @wraps(command)
    def guarded(*args: Any, **kwargs: Any) -> None:
        try:
            with warnings.catch_warnings():
                # The same is said in a sentence.
                warnings.filterwarnings("ignore", message="Image size .* exceeds limit")
                command(*args, **kwargs)
        except GuidXmageError as error:
            complain(str(error))
            raise typer.Exit(BAD_INPUT) from None
        except KeyboardInterrupt:
            typer.echo("guid-xmage: interrupted; finished results are kept", err=True)
            raise typer.Exit(INTERRUPTED) from None

    return guarded


@contextmanager
def naming_options(**options: str) -> Iterator[None]:
    """Let errors name the option that a setting was given by, rather than the setting."""
    try:
        yield
    except SettingError as error:
        for setting, option in options.items():
            if error.key == setting or error.key.startswith((f"{setting}.", f"{setting}[")):
                place = error.key.removeprefix(setting)
                raise InputError(f"{option}{place} {error.words}") from None
        raise


def complain(sentence: str) -> None:
    """A sentence on standard error, on one line whatever the names in it hold."""
    with above_the_bar():
        typer.echo(f"guid-xmage: {shown(sentence)}", err=True)


def print_json(document: Any) -> None:
    """A JSON document; where names in it are no text of the terminal's, in ASCII with escapes."""
    text = json.dumps(document, indent=2, ensure_ascii=False)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(document, indent=2)
    with above_the_bar():
        typer.echo(text)


def find_photos(paths: Sequence[Path], out: Path | None = None) -> tuple[list[Path], list[str]]:
    """The photos, and a sentence for each path where there is none.

    out: where the results go; those that are there are left out of what is found in folders.
    Raises InputError where there are no photos at all.
    """
    from guidxmage.files.result_folder import is_result
    from guidxmage.inputs.photos import find_images

    problems: list[str] = []
    given = {os.path.abspath(path) for path in paths}
    results: dict[str, bool] = {}

    def is_own(photo: Path) -> bool:
        """Whether a photo is a picture in one of the results."""
        place = os.path.abspath(photo)
        if out is None or place in given or not place.startswith(os.path.abspath(out) + os.sep):
            return False
        name = os.path.relpath(place, os.path.abspath(out)).split(os.sep)[0]
        if name not in results:
            results[name] = is_result(out / name)
        return results[name]

    found = [photo for photo in find_images(paths, problems) if not is_own(photo)]
    if not found:
        for problem in problems[:-1]:
            complain(problem)
        raise InputError(problems[-1] if problems else f"there are no photos but those in {out}")
    return found, problems


def tell_outcomes(
    outcomes: Iterable[Outcome],
    problems: Sequence[str],
    show: Callable[[Outcome], None],
    as_json: bool,
    advance: Callable[[], None],
) -> list[Outcome]:
    """Print each photo's outcome as it comes, and end with exit code 2 where one failed.

    problems: sentences on photos that were not even found. show: prints a result in a few lines.
    """
    for problem in problems:
        complain(problem)
    done = []
    for outcome in outcomes:
        done.append(outcome)
        advance()
        if outcome.error:
            complain(outcome.error)
        elif not as_json:
            with above_the_bar():
                typer.echo(f"{shown(outcome.photo)} → {shown(outcome.folder)}/{_history(outcome)}")
                show(outcome)
    if as_json:
        results = [{**o.manifest, "folder": shown(o.folder)} for o in done if o.folder]
        print_json(results)
        if kept := sum(outcome.resumed for outcome in done):
            complain(f"{kept} of {len(done)} results were kept from an earlier run")
    failed = len(problems) + sum(outcome.error is not None for outcome in done)
    if failed:
        if len(done) + len(problems) > 1:
            complain(f"{failed} of {len(done) + len(problems)} photos failed")
        raise typer.Exit(BAD_INPUT)
    return done


def _history(outcome: Outcome) -> str:
    """What became of an earlier result."""
    if outcome.resumed:
        return "   (kept from an earlier run)"
    return f"   (made anew: other {', '.join(outcome.changed)})" if outcome.changed else ""


def tell_gone(folders: Sequence[Path]) -> None:
    """Say that results are there whose photos are not."""
    if folders:
        names = ", ".join(shown(folder) for folder in folders[:GONE_SHOWN])
        more = f" and {len(folders) - GONE_SHOWN} more" if len(folders) > GONE_SHOWN else ""
        complain(f"kept, though the photo is gone: {names}{more}")


def load_explainer(
    model: str,
    weights: str,
    labels: Path | None,
    dtype: str,
    device: str = "cpu",
    **options: Any,
) -> Explainer:
    """The explainer for --model and its companions; other options go to `Explainer`."""
    import torch

    from guidxmage.explainer import Explainer
    from guidxmage.models import load_python_model, read_labels
    from guidxmage.outputs.words import output_of

    if (words := options.pop("output", None)) is not None:
        options["output"] = output_of(words)
    precision = {"float32": torch.float32, "float64": torch.float64}[dtype]
    if ":" not in model or model.startswith("timm:"):
        place = {"dtype": precision, "device": device}
        explainer = Explainer.load(model, weights=weights, labels=labels, **place, **options)
        if model.lower().endswith(".onnx"):  # what was changed in it, and what it does not say
            complain(explainer.weights_source)
        return explainer
    if weights != "default":
        raise InputError(
            f"--weights {weights} does not go with --model {model}: load the weights in your own "
            "function"
        )
    loaded = load_python_model(model)
    options.setdefault("output", loaded.output)
    explainer = Explainer(
        loaded.model,
        preprocessing=loaded.preprocessing,
        labels=loaded.labels if labels is None else read_labels(labels),
        name=loaded.name,
        dtype=precision,
        device=device,
        **options,
    )
    explainer.weights_source, explainer.check = loaded.weights, loaded.check
    explainer.code = loaded.code
    return explainer


def is_number(text: str) -> bool:
    """Whether a text is a whole number in plain digits, as `-5` is."""
    return re.fullmatch(r"-?[0-9]{1,18}", text) is not None


def target_of(target: str, rather_than: str | None, output: str = "scores") -> Any:
    """The target specification for --target and --rather-than; output: the explainer's kind."""
    if output not in ("scores", "labels"):
        if rather_than is not None:
            raise InputError(
                f"--rather-than is between class scores; of {output} write it in the target, as "
                "box:0:1, mask:dog:cat or like:a.jpg:rather:b.jpg"
            )
        return target
    if rather_than is not None:
        return ("contrast", class_of(target), class_of(rather_than))
    parts = [part.strip() for part in target.split(",")]
    # Class names such as "Granny Smith, apple" are not in the list; numbers may be listed.
    if len(parts) > 1 and all(map(is_number, parts)):
        return ("classes", [int(part) for part in parts])
    return class_of(target)


def depth_of(word: str) -> str | float:
    """A stride, or the name of a layer; with "layer:" before it where that is a number."""
    if word.startswith(_LAYER):
        return word.removeprefix(_LAYER)
    try:
        return float(word)
    except ValueError:
        return word


def class_of(text: str) -> int | str:
    """A class by its number or its name."""
    return int(text) if is_number(text) else text


# Bars that are on the terminal.
_bars: list[Progress] = []


@contextmanager
def progress_bar(total: int, doing: str = "explaining") -> Iterator[Callable[[], None]]:
    """A bar on stderr for several steps on a terminal; silent otherwise.

    What is printed meanwhile goes through `above_the_bar`.
    """
    if total < 2 or not sys.stderr.isatty():
        yield lambda: None
        return
    columns: Sequence[Any] = (
        TextColumn(doing),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    # Results would be sent to stderr, or be printed behind the bar, if stdout were redirected.
    bar = Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False)
    with bar:
        task = bar.add_task("", total=total)
        _bars.append(bar)
        try:
            yield lambda: bar.advance(task)
        finally:
            _bars.remove(bar)


@contextmanager
def above_the_bar() -> Iterator[None]:
    """Take the bar away while something is printed, so that they do not share a line."""
    here = [bar for bar in _bars if bar.live.is_started]
    for bar in here:
        bar.stop()
    try:
        yield
    finally:
        sys.stdout.flush()
        for bar in here:
            bar.start()
