"""Which networks can be explained, and how exactly: one row of figures for each."""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from guidxmage.engine.program.precision import widened
from guidxmage.engine.program.program import Program
from guidxmage.engine.rules import rule_of
from guidxmage.errors import GuidXmageError, InputError
from guidxmage.explainer import Explainer
from guidxmage.explanation import Explanation
from guidxmage.files.atomic import alone, write_atomically
from guidxmage.files.names import brief
from guidxmage.files.untrusted import entry, listed, optional, read_json
from guidxmage.models import load_model
from guidxmage.models.calibration import natural_like_images
from guidxmage.provenance.versions import __version__
from guidxmage.reports import markdown

SCHEMA = "guid-xmage/coverage/1"


@dataclass(frozen=True)
class CoverageRow:
    """What explaining one network gave.

    kinds: what occurs in it beside affine operators. residual32, residual64: |score − ΣA − b| over
    the largest of the three, in float32 and float64; within: both are within their bounds; seconds:
    of a float32 explanation, once captured; error: why there is none.
    """

    network: str
    parameters: int = 0
    size: int = 0
    kinds: tuple[str, ...] = ()
    exactness: str = ""
    residual64: float | None = None
    residual32: float | None = None
    within: bool = False
    seconds: float | None = None
    error: str = ""

    @property
    def covered(self) -> bool:
        """Whether the network was explained, and its sums close."""
        return not self.error and self.within


def check_network(name: str, *, seed: int = 0) -> CoverageRow:
    """Explain one image by a network with random weights, in float32 and in float64."""
    try:
        loaded = load_model(name, weights="none", seed=seed)
        parameters = sum(p.numel() for p in loaded.model.parameters())
        preprocessing = loaded.preprocessing
        size = _side(preprocessing)
        pixels = natural_like_images(1, size, torch.Generator().manual_seed(seed))[0]
        narrow = Explainer(loaded.model, preprocessing=preprocessing)
        # From black: residuals are relative to its sum and bias, in all tables so far.
        first = narrow.explain(pixels, reference=0.0)
        began = time.perf_counter()
        found = narrow.explain(pixels, int(first.target), reference=0.0)
        seconds = time.perf_counter() - began
        program = narrow.network(pixels[None]).program
        kinds = kinds_of(program)
        del narrow
        wide = Explainer(loaded.model, preprocessing=preprocessing, dtype=torch.float64)
        wide.adopt(widened(program))  # a capture takes longer than all the rest
        del program
        exact = wide.explain(pixels.double(), int(first.target), reference=0.0)
    except GuidXmageError as error:
        return CoverageRow(name, error=str(error))
    except Exception as error:  # a network that cannot even be built says why in its own words
        reason = (str(error).strip().splitlines() or [""])[0]
        return CoverageRow(name, error=f"{type(error).__name__}: {reason}")
    return CoverageRow(
        network=name,
        parameters=parameters,
        size=size,
        kinds=kinds,
        exactness=found.exactness,
        residual64=_relative(exact),
        residual32=_relative(found),
        within=_within(found) and _within(exact),
        seconds=seconds,
    )


def _side(preprocessing: Any) -> int:
    crop = preprocessing.crop
    return int(crop if isinstance(crop, int) else crop[0])


def _relative(explained: Explanation) -> float:
    total = float(explained.contributions.sum(dtype=torch.float64))
    size = max(abs(float(explained.score)), abs(total), abs(float(explained.bias)))
    return abs(float(explained.residual)) / size if size else 0.0


def _within(explained: Explanation) -> bool:
    return bool(explained.residual.abs() <= explained.residual_bound)


def kinds_of(program: Program) -> tuple[str, ...]:
    """Whether there are decisions, and the families of smooth operators."""
    found = set()
    for call in program.calls:
        rule = rule_of(call)
        if rule is not None and rule.kind == "decision":
            found.add("decisions")
        elif rule is not None and rule.kind == "gate":
            found.add(rule.family or "activations")
    return tuple(sorted(found))


def survey(
    names: Sequence[str],
    out: Path | None = None,
    told: Callable[[CoverageRow], None] = lambda _: None,
) -> list[CoverageRow]:
    """One row for each network; those that `out` has from this version are not made again.

    Refused ones are tried again, where they are named. The file is written after every row. Raises
    InputError where it holds something else.
    """
    known = {} if out is None else {row.network: row for row in read_rows(out)}
    rows = []
    for name in names:
        row = known[name] if name in known and known[name].covered else check_network(name)
        gc.collect()
        rows.append(row)
        if out is not None:
            _add(row, out)
        told(row)
    return rows


def _add(row: CoverageRow, out: Path) -> None:
    """Write a row, beside those that another run has written meanwhile."""
    with alone(out):
        rows = {**{one.network: one for one in read_rows(out)}, row.network: row}
        _write(out, list(rows.values()))


def read_rows(path: Path) -> list[CoverageRow]:
    """The rows of a file that `survey` wrote; none of another version's, or where there is no file.

    Raises InputError where it holds something else.
    """
    if not path.exists():
        return []
    try:
        found = read_json(path)
        if (schema := entry(found, "schema", str, str(path))) != SCHEMA:
            raise InputError(f"it holds {brief(schema)}")
        rows = [_row(row, str(path)) for row in listed(found, "rows", dict, str(path))]
        current = entry(found, "versions", dict, str(path)) == _versions()
    except (InputError, TypeError) as error:
        raise InputError(f"{path} is no coverage table ({error}); choose another file") from error
    return rows if current else []


def _row(values: dict[str, Any], name: str) -> CoverageRow:
    """A row as `survey` wrote it. Raises InputError, and TypeError for what no row has."""
    kinds = {"parameters": int, "size": int, "within": bool, "network": str, "exactness": str}
    for key, kind in {**kinds, "error": str}.items():
        entry(values, key, kind, name)
    for key in ("residual64", "residual32", "seconds"):
        optional(values, key, float, name)
    return CoverageRow(**{**values, "kinds": tuple(listed(values, "kinds", str, name))})


def _versions() -> dict[str, str]:
    return {"guid-xmage": __version__, "torch": str(torch.__version__)}


def _write(path: Path, rows: Sequence[CoverageRow]) -> None:
    content = {"schema": SCHEMA, "versions": _versions(), "rows": [asdict(row) for row in rows]}
    write_atomically(path, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())


def table(rows: Sequence[CoverageRow]) -> str:
    """The rows as a Markdown table."""
    head = ["network", "parameters", "input", "beside affine operators", "exact"]
    head += ["residual, float64", "residual, float32", "seconds"]
    lines = [
        [row.network, "", "", f"**refused**: {row.error}", *[""] * 4]
        if row.error
        else [
            row.network,
            f"{row.parameters / 1e6:.1f} M",
            f"{row.size}²",
            ", ".join(row.kinds) or "none",
            row.exactness,
            f"{row.residual64:.0e}",
            f"{row.residual32:.0e}{'' if row.within else ' **beyond its bound**'}",
            f"{row.seconds:.2f}",
        ]
        for row in rows
    ]
    return markdown.table(head, lines, words=(0, 3, 4))


def summary(rows: Sequence[CoverageRow]) -> str:
    """How many were explained, in one line."""
    covered = sum(row.covered for row in rows)
    share = 100 * covered / len(rows) if rows else 0
    return f"{covered} of {len(rows)} networks explained, sums within their bounds ({share:.0f} %)"
