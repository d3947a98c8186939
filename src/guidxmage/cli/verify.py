"""guid-xmage verify: saved results, made again from image and network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from guidxmage.cli.common import (
    AsJson,
    Labels,
    above_the_bar,
    load_explainer,
    one_sentence,
    print_json,
    progress_bar,
)
from guidxmage.errors import GuidXmageError, InputError
from guidxmage.files.names import shown

if TYPE_CHECKING:
    from guidxmage.explainer import Explainer
    from guidxmage.jobs.verify_result import Source, Verification

EXAMPLES = """**Examples**

`guid-xmage verify explanations/cat`

`guid-xmage verify explanations` — all results below a folder

`guid-xmage verify explanations/cat --model resnet50 --weights resnet50.pth --photo cat.jpg`

`guid-xmage verify explanations/cat --model mynet.py:build` — which runs that file
"""
FAILED = 1
_WORDS = {True: "pass", False: "FAIL", None: "–"}


@one_sentence
def verify(  # noqa: PLR0917
    result: Annotated[
        Path,
        typer.Argument(
            help="A folder that `guid-xmage explain` or `sufficient` wrote, or one of many."
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(
            help="The network; by default as the result names it. FILE.py:function runs that file, "
            "and is never taken from a result."
        ),
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="Its weights; by default as the result names them.")
    ] = None,
    labels: Labels = None,
    photo: Annotated[
        Path | None, typer.Option(help="The photo; by default where the result says it was.")
    ] = None,
    seconds: Annotated[
        float, typer.Option(min=0.1, help="Sufficient pixels: to prove a claim again.")
    ] = 60,
    as_json: AsJson = False,
) -> None:
    """Recompute saved explanations and say whether they are what they claim to be.

    Of sufficient pixels, every counterexample is run again, and the claim proved again.

    Exit code 0: every check passed. 1: one failed. 2: there is nothing to check.
    """
    from guidxmage.jobs.verify_result import find_results

    folders = find_results(result)
    asked = _Asked(model, weights, labels, photo, seconds)
    if folders == [result]:
        found = asked.verified(result)
        _print(found, as_json)
        if not found.passed:
            raise typer.Exit(FAILED)
        return
    if photo is not None:
        raise InputError(f"--photo goes with a single result; there are {len(folders)}")
    typer.echo(f"guid-xmage: {len(folders)} results in {shown(result)}", err=True)
    outcomes: list[dict[str, Any]] = []
    with progress_bar(len(folders), "verifying") as advance:
        for folder in folders:
            outcomes.append(_outcome(asked, folder))
            advance()
            if not as_json:
                with above_the_bar():
                    _print_line(outcomes[-1])
    _end(outcomes, as_json)


class _Asked:
    """What the command line says of the network, and the explainers made for it so far."""

    def __init__(
        self,
        model: str | None,
        weights: str | None,
        labels: Path | None,
        photo: Path | None,
        seconds: float,
    ) -> None:
        if photo is not None and not photo.is_file():
            raise InputError(f"{photo} is not a file")
        self.model, self.weights, self.labels, self.photo = model, weights, labels, photo
        self.seconds = seconds
        self._explainers: dict[Source, Explainer] = {}

    def verified(self, folder: Path) -> Verification:
        """The verification of one result; its files are looked at before anything is loaded."""
        from guidxmage.jobs.verify_result import (
            check_files,
            read_manifest,
            read_manifest_text,
            read_source,
            unread,
        )
        from guidxmage.jobs.verify_result import verify as checked
        from guidxmage.jobs.verify_sufficient import is_sufficient

        if is_sufficient(read_manifest_text(folder)[0]):
            return self._sufficient(folder)
        manifest = read_manifest(folder)
        source = read_source(manifest, folder)
        files = check_files(folder)
        if files.passed is False:
            return unread(files)
        as_named = self.model in (None, source.model) and self.weights in (None, source.weights)
        return checked(
            folder,
            self._explainer(source),
            self.photo or _stated_photo(manifest),
            named=as_named and source.model is not None,
            labelled=self.labels is not None or (as_named and source.labels is None),
        )

    def _sufficient(self, folder: Path) -> Verification:
        """The verification of one result about sufficient pixels."""
        from guidxmage.jobs.verify_result import unread
        from guidxmage.jobs.verify_sufficient import (
            check_sufficient_files,
            read_sufficient_source,
            verify_sufficient,
        )

        manifest, source = read_sufficient_source(folder)
        files = check_sufficient_files(folder)
        if files.passed is False:
            return unread(files)
        as_named = self.model in (None, source.model) and self.weights in (None, source.weights)
        return verify_sufficient(
            folder,
            self._explainer(source),
            self.photo or _stated_photo(manifest),
            labelled=self.labels is not None or (as_named and source.labels is None),
            seconds=self.seconds,
        )

    def _explainer(self, source: Source) -> Explainer:
        """The explainer of the network that is asked for, or that the result names."""
        if self.model is None and source.model is None:
            raise InputError("the result does not name its network; give it with --model")
        if self.model is None and source.runs_code:
            raise InputError(
                f"the result names the network {source.model!r}; loading it would run code, so say "
                f"that you trust it: --model {source.model}"
            )
        if source not in self._explainers:
            self._explainers[source] = load_explainer(
                str(self.model or source.model),
                self.weights or source.weights,
                self.labels,
                source.dtype,
                gates=source.gates,
                output=source.output,
            )
        return self._explainers[source]


def _stated_photo(manifest: dict[str, Any]) -> Path | None:
    """The photo, where the result says that it was and still is one."""
    stated = manifest.get("photo")
    try:
        found = Path(stated) if isinstance(stated, str) else None
        return found if found is not None and found.is_file() else None
    except (OSError, ValueError):  # no path at all
        return None


def _outcome(asked: _Asked, folder: Path) -> dict[str, Any]:
    """What became of one of several results, as JSON values."""
    try:
        return {"folder": str(folder), **asked.verified(folder).to_json()}
    except GuidXmageError as error:
        return {"folder": str(folder), "passed": False, "error": str(error)}


def _end(outcomes: list[dict[str, Any]], as_json: bool) -> None:
    """The last line of several, and the exit code."""
    good = sum(outcome["passed"] for outcome in outcomes)
    if as_json:
        summary = {
            "schema": "guid-xmage/verifications/1",
            "passed": good == len(outcomes),
            "results": outcomes,
        }
        print_json(summary)
    else:
        partly = sum(bool(one["passed"] and _unchecked(one)) for one in outcomes)
        words = f", {partly} of them not in every respect" if partly else ""
        typer.echo(f"{good} of {len(outcomes)} verified{words}")
    if good < len(outcomes):
        raise typer.Exit(FAILED)


def _print_line(outcome: dict[str, Any]) -> None:
    """One of several results in a line."""
    if outcome["passed"]:
        left = [f"{check['name']}: {check['detail']}" for check in _unchecked(outcome)]
        besides = f" (not checked: {'; '.join(left)})" if left else ""
        _echo(f"verified      {outcome['folder']}{besides}")
        return
    failed = [check for check in outcome.get("checks", []) if check["passed"] is False]
    words = [outcome["error"]] if "error" in outcome else []
    words += [f"{check['name']}: {check['detail']}" for check in failed]
    _echo(f"NOT verified  {outcome['folder']}: {'; '.join(words)}")


def _unchecked(outcome: dict[str, Any]) -> list[dict[str, Any]]:
    return [check for check in outcome.get("checks", []) if check["passed"] is None]


def _echo(line: str) -> None:
    """A line that holds names from a result: on one line, whatever they are made of."""
    typer.echo(shown(line))


def _print(found: Verification, as_json: bool) -> None:
    """All checks of a single result."""
    if as_json:
        print_json(found.to_json())
        return
    for check in found.checks:
        _echo(f"{_WORDS[check.passed]:<5}{check.name}: {check.detail}")
    reasons: dict[str, list[str]] = {}
    for name, why in found.not_evidence.items():
        reasons.setdefault(why, []).append(name)
    for why, names in reasons.items():
        _echo(f"not evidence: {', '.join(names)} ({why})")
    typer.echo("verified" if found.passed else "NOT verified")
