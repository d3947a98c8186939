"""guid-xmage prove: the exactness of an explanation as formulas that any SMT solver checks."""

from __future__ import annotations

import json
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from guidxmage.cli.common import (
    AsJson,
    Labels,
    Model,
    Overwrite,
    Weights,
    load_explainer,
    one_sentence,
    target_of,
)
from guidxmage.errors import InputError
from guidxmage.files.names import shown

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from guidxmage.explainer import Explainer
    from guidxmage.files.result_folder import Kind
    from guidxmage.proof.rational.smt import Printed, Proof

EXAMPLES = """**Examples**

`guid-xmage prove photo.png --model small.py:build` — a chain of identities, one for each layer

`guid-xmage prove photo.png --model tiny.py:build --one-formula --timeout 300`

`guid-xmage prove photo.png --model small.py:build --format vnnlib --eps 0.01`
"""
RESULT, FILES = "proof.json", "smt"
PROOF, QUERIES = "guid-xmage/proof/1", "guid-xmage/vnnlib/1"
NOT_PROVED = 1


class Format(str, Enum):
    """What is written."""

    smt2 = "smt2"
    vnnlib = "vnnlib"


@one_sentence
def prove(  # noqa: PLR0917
    photo: Annotated[Path, typer.Argument(help="A photo.")],
    model: Model,
    weights: Weights = "default",
    labels: Labels = None,
    target: Annotated[
        str, typer.Option(help="The class, index or name; by default the best.")
    ] = "top1",
    out: Annotated[Path, typer.Option(help="Folder for the files.")] = Path("proof"),
    file_format: Annotated[
        Format, typer.Option("--format", help="smt2: the proof. vnnlib: queries for verifiers.")
    ] = Format.smt2,
    one_formula: Annotated[
        bool, typer.Option("--one-formula", help="All in one formula; for tiny networks.")
    ] = False,
    timeout: Annotated[
        float, typer.Option(min=0.001, help="Seconds to write the formulas and to check them.")
    ] = 60,
    tolerance: Annotated[
        float, typer.Option(min=0, help="Allowed for printed floats, relative to the largest.")
    ] = 1e-9,
    eps: Annotated[
        float, typer.Option(min=0, help="How far a pixel may go in the VNN-LIB box.")
    ] = 0.01,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Prove that the symbolic model of a photo is exact, for small piecewise-linear networks.

    Writes SMT-LIB 2 files and checks them with z3 where it is installed. Everything is about the
    network in float64 and its own input, after the preprocessing. Exit code 0: proved; 1: refuted,
    unknown, or not checked.
    """
    from guidxmage.files.result_folder import PLACES, PROVENANCE, check_replaceable, place_of
    from guidxmage.proof.rational import smt
    from guidxmage.proof.rational.deadline import Deadline, OutOfTimeError

    places = [place_of(photo, out)]
    check_replaceable(out, _kind(), overwrite=overwrite, places=places)
    explainer = load_explainer(model, weights, labels, "float64")
    explanation = explainer.explain(photo, target_of(target, None), space="input")
    if explanation.several:
        raise InputError(f"--target {target} names several classes; a proof is about one")
    symbolic = explanation.symbolic_model
    assert symbolic.network is not None
    program = symbolic.network.program
    deadline, printed = Deadline(timeout), None
    cotangent, trail = symbolic.cotangent[0, 0], explanation.trail
    try:
        claim = smt.claim_of(program, explanation.input, cotangent, trail=trail, deadline=deadline)
        if file_format is Format.vnnlib:
            box = _box(explainer, photo, eps)
            _write_queries(claim, out, (eps, box), deadline, as_json, overwrite, places)
            return
        printed = smt.printed_difference(
            claim, explanation.weights, float(explanation.bias), tolerance
        )
        proof = smt.prove(claim, one_formula=one_formula, deadline=deadline)
    except OutOfTimeError:
        if file_format is Format.vnnlib:
            raise InputError(
                f"the queries were not written within {timeout:g} s; give a longer --timeout"
            ) from None
        proof = smt.unwritten(deadline)
    summary = _summary(proof, printed, shown(photo), explainer.name)
    summary[PROVENANCE] = {PLACES: places}
    files = {f"{FILES}/{name}": content for name, content in proof.files.items()}
    written = _write(out, files, summary, overwrite, places)
    text = json.dumps(written, indent=2, ensure_ascii=False)
    typer.echo(text if as_json else _sentences(proof, printed, out))
    if proof.verdict != "proved" or printed is None or not printed.holds:
        raise typer.Exit(NOT_PROVED)


def _kind() -> Kind:
    """What folders of proofs and queries are told by."""
    from guidxmage.files.result_folder import Kind

    return Kind((PROOF, QUERIES), RESULT)


def _write(
    out: Path,
    files: Mapping[str, str],
    summary: Mapping[str, Any],
    overwrite: bool,
    places: Sequence[str],
) -> dict[str, Any]:
    """Write texts by name, and what they are beside them; what stands there."""
    from guidxmage.files.result_folder import atomic_folder, write_mark

    with atomic_folder(out, _kind(), overwrite=overwrite, places=places) as new:
        for name, content in files.items():
            (new / name).parent.mkdir(exist_ok=True)
            (new / name).write_text(content, encoding="utf-8")
        return write_mark(new, summary, RESULT)


def _summary(proof: Proof, printed: Printed | None, photo: str, model: str) -> dict[str, Any]:
    found: dict[str, Any] = {
        "schema": PROOF,
        "photo": photo,
        "model": model,
        "verdict": proof.verdict,
        "reason": proof.reason,
        "seconds": proof.seconds,
        "decisions": proof.decisions,
        "photo_follows_its_trail_exactly": proof.contains_photo,
        "steps": [
            {"file": f"{FILES}/{name}", "answer": answer, "seconds": seconds}
            for name, answer, seconds in proof.steps
        ],
        "printed": None,
        "witness": None,
    }
    if printed is not None:
        found["printed"] = {
            "holds": printed.holds,
            "largest_difference": float(printed.largest),
            "bias_difference": float(printed.bias),
            "allowed": float(printed.allowed),
        }
    if proof.witness is not None:
        witness = proof.witness
        found["witness"] = {
            "image": [str(value) for value in witness.image],
            "claimed": str(witness.claimed),
            "exact": str(witness.exact),
            "network_float64": witness.network,
            "follows": witness.follows,
        }
    return found


def _sentences(proof: Proof, printed: Printed | None, out: Path) -> str:
    count = len(proof.files)
    lines = [f"{proof.verdict}: {proof.reason}" if proof.reason else proof.verdict]
    if not count:
        return lines[0]
    lines.append(
        f"  {proof.decisions:,} decisions, {count} formula{'s' if count > 1 else ''} in "
        f"{out / FILES}/, z3 {proof.seconds:.2f} s"
    )
    if proof.contains_photo is False:
        lines.append("  in exact arithmetic the photo itself takes other decisions: see the trail")
    if printed is None:
        return "\n".join(lines)
    word = "is" if printed.holds else "is NOT"
    lines.append(
        f"  the printed weights and bias: off by {float(printed.largest):.3g} and "
        f"{float(printed.bias):.3g}, which {word} within the allowed {float(printed.allowed):.3g}"
    )
    return "\n".join(lines)


def _box(explainer: Explainer, photo: Path, eps: float) -> tuple[Tensor, Tensor] | None:
    """The network's inputs for images in [0, 1] within eps of the photo, as `attack` has them.

    None where the photo's values are the network's own and not in [0, 1]: then there is no box.
    """
    X = explainer.read(photo)
    if float(X.min()) < 0 or float(X.max()) > 1:
        return None
    ends = [explainer.to_input((X + step).clamp(0, 1)[None])[0] for step in (-eps, eps)]
    return ends[0].minimum(ends[1]), ends[0].maximum(ends[1])


def _write_queries(  # noqa: PLR0917
    claim: Any,
    out: Path,
    within: tuple[float, Any],
    deadline: Any,
    as_json: bool,
    overwrite: bool,
    places: Sequence[str],
) -> None:
    """The VNN-LIB files; the network itself is the user's ONNX export."""
    from guidxmage.files.result_folder import PLACES, PROVENANCE
    from guidxmage.proof.rational.vnnlib import queries

    eps, box = within
    files = queries(claim, eps, deadline, box)
    summary = {"schema": QUERIES, "eps": eps, PROVENANCE: {PLACES: list(places)}}
    written = _write(out, files, summary, overwrite, places)
    typer.echo(json.dumps(written) if as_json else f"{', '.join(files)} → {out}/")
