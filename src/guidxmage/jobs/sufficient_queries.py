"""The claims about sufficient pixels as queries for any verifier: VNN-LIB files and a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from guidxmage.adversarial.certified.sufficient import SufficientPixels
from guidxmage.errors import InputError, UnsupportedOperatorError
from guidxmage.explainer import Explainer
from guidxmage.export import export
from guidxmage.proof.rational.vnnlib import overtaken

FOLDER, NETWORK, LIST = "queries", "network.onnx", "instances.csv"


@dataclass(frozen=True)
class Query:
    """One file: its name, its text, and what a verifier must answer, "unsat" or "sat"."""

    file: str
    text: str
    expected: str


def write_queries(
    explainer: Explainer, found: SufficientPixels, folder: Path, seconds: float
) -> list[dict[str, Any]]:
    """Write one file a query into a folder below this one; what each is expected to answer.

    The network takes the same images in [0, 1] as the claims are about, in float32 where its
    weights are float32 numbers. instances.csv lists the queries, with `seconds` for each.
    Raises InputError for another norm than linf, and where the network has no form as ONNX.
    """
    queries = queries_of(explainer, found)
    out = folder / FOLDER
    out.mkdir()
    plain = _as_stored(explainer)
    try:
        export(plain, out / NETWORK, outputs=("logits",), shape=tuple(found.image.shape))
    except UnsupportedOperatorError as error:
        raise InputError(f"--queries: {error}") from error
    for query in queries:
        (out / query.file).write_bytes(query.text.encode())
    rows = [f"{NETWORK},{query.file},{seconds:g}\n" for query in queries]
    (out / LIST).write_text("".join(rows), encoding="utf-8")
    return [{"file": f"{FOLDER}/{one.file}", "expected": one.expected} for one in queries]


def queries_of(explainer: Explainer, found: SufficientPixels) -> list[Query]:
    """The claim, which must be unsat; and for each needed unit the claim with that unit free, too.

    Raises InputError for another norm than linf: VNN-LIB's regions are boxes.
    """
    if found.norm != "linf":
        raise InputError("queries in VNN-LIB are boxes, so they are of the norm linf alone")
    classes, queries = len(explainer.logits(found.image)), []
    for name, free, expected, said in _asked(found):
        ends = [[Fraction(v) for v in end.flatten().tolist()] for end in box(found, free)]
        text = overtaken(
            (ends[0], ends[1]),
            found.from_class,
            classes,
            rivals=None if found.rather_than < 0 else [found.rather_than],
            said=f"{said}\nNetwork: {NETWORK}. Expected: {expected}.",
        )
        queries.append(Query(name, text, expected))
    return queries


def box(found: SufficientPixels, free: Tensor) -> tuple[Tensor, Tensor]:
    """The least and the greatest images (C, H, W): within ε and [0, 1] where free, else fixed."""
    X, epsilon = found.image.double(), found.epsilon
    low = torch.where(free, (X - epsilon).clamp(0, 1), X)
    return low, torch.where(free, (X + epsilon).clamp(0, 1), X)


def _asked(found: SufficientPixels) -> Sequence[tuple[str, Tensor, str, str]]:
    """Of each query the file, the free pixels (H, W), the expected answer, and what it asks."""
    free, queries = found.irrelevant, []
    rival = "another class" if found.rather_than < 0 else f"class {found.rather_than}"
    asks = f"Does {rival} score at least as high as class {found.from_class}"
    if bool(free.any()):
        said = f"{asks} when the irrelevant pixels change by at most {found.epsilon!r}?"
        queries.append(("claim.vnnlib", free, "unsat", said))
    for unit, verdict in enumerate(found.verdicts):
        if verdict == "needed":
            said = f"{asks} when unit {unit} changes by at most {found.epsilon!r} as well?"
            queries.append((f"needed-{unit:05}.vnnlib", free | (found.parts == unit), "sat", said))
    return queries


def _as_stored(explainer: Explainer) -> Explainer:
    """The network in float32 where its float64 weights are float32 numbers, for other readers."""
    tensors = [*explainer.model.parameters(), *explainer.model.buffers()]
    wide = [one for one in tensors if one.dtype == torch.float64]
    if not all(torch.equal(one.float().double(), one) for one in wide):
        return explainer
    known = explainer.preprocessing if explainer.space == "pixels" else None
    return Explainer(explainer.model, preprocessing=known, name=explainer.name, dtype=torch.float32)
