"""export: an explainer as one file that logits and explanations come from without Python."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from guidxmage.attribution.attribution import Attribution
from guidxmage.engine.program.places import INPUT
from guidxmage.engine.program.plain import refuse_what_is_not_plain
from guidxmage.errors import InputError
from guidxmage.explainer import Explainer
from guidxmage.export import packing, self_check
from guidxmage.export.formats import FORMATS, METADATA, traced, written
from guidxmage.export.module import OUTPUTS, PLACED, USUAL, ExplainingModule, Space
from guidxmage.export.placing import GraphCut
from guidxmage.export.targets import GIVEN, graph_target
from guidxmage.files.atomic import write_atomically
from guidxmage.inputs.reference import is_zero, reference_name
from guidxmage.provenance import fingerprint

SCHEMA = "guid-xmage/graph/1"


@dataclass(frozen=True)
class Exported:
    """A file that was written: its path, format and size in bytes, and what is said in it."""

    path: Path
    format: str
    size: int
    metadata: dict[str, Any]


def export(
    explainer: Explainer,
    path: Path | str,
    *,
    format: str | None = None,
    target: Any = "top1",
    outputs: Sequence[str] = USUAL,
    depth: Any = None,
    reference: Any = None,
    shape: Sequence[int] | None = None,
    from_bytes: bool = False,
    overwrite: bool = False,
) -> Exported:
    """Write a network and its explanation as one graph of ordinary operators.

    format: "onnx", "pt2" (torch.export) or "aoti" (a compiled library for this machine); by default
    the path's ending says it. target: as in `Explainer.explain`, the same for all images, or
    "given" for an input `class_index`, int64 (batch,). outputs: names of `OUTPUTS`. depth: where
    the network is cut for the outputs "whole" and "unplaced", one as in `Explainer.explain`, which
    are added where a depth is given; else "input". reference: as in `Explainer.explain`, the same
    for all images. shape: (C, H, W) of the images, needed where the preprocessing does not tell.
    from_bytes: the graph takes uint8 pixels (batch, C, H, W) at the network's size and normalises
    them itself. The number of images is free.

    Raises InputError, and UnsupportedOperatorError by operator and call site for what has no form
    that leaves Python. The file appears whole or not at all.
    """
    path = Path(path)
    kind = _format(path, format)
    if path.exists() and not overwrite:
        raise InputError(f"{path} is there already; choose another name or allow overwriting")
    module, metadata = explaining(
        explainer,
        target,
        outputs=outputs,
        depth=depth,
        reference=reference,
        shape=shape,
        from_bytes=from_bytes,
    )
    names = (("images", *module.target.inputs), module.outputs)
    text = json.dumps({**metadata, "format": kind}, ensure_ascii=False, allow_nan=False)
    graph, sites = traced(module, module.example), module.program.sites
    content = written(kind, graph, names, {METADATA: text}, sites)
    write_atomically(path, content)
    return Exported(path, kind, len(content), json.loads(text))


def explaining(
    explainer: Explainer,
    target: Any = "top1",
    *,
    outputs: Sequence[str] = USUAL,
    depth: Any = None,
    reference: Any = None,
    shape: Sequence[int] | None = None,
    from_bytes: bool = False,
) -> tuple[ExplainingModule, dict[str, Any]]:
    """The module that is exported, and what is said in the file; see `export`."""
    outputs = (outputs,) if isinstance(outputs, str) else outputs
    _refuse(explainer, outputs, from_bytes)
    if depth is not None:
        outputs = (*outputs, *PLACED)
    shape = _shape(explainer, shape)
    program = explainer.network(shape).program
    refuse_what_is_not_plain(program)
    asked = graph_target(target, program.classes, explainer.labels)
    placed = set(PLACED) & set(outputs)
    cut = GraphCut.of(program, INPUT if depth is None else depth) if placed else None
    pixels = self_check.check_pixels(shape)
    image = torch.from_numpy(self_check.as_input(pixels, explainer.space)).to(program.dtype)
    # Not 0, which a graph that ignores its class would explain as well.
    last = program.classes - 1
    given = dict(zip(asked.inputs, (min(1, last), last if last > 1 else 0), strict=False))
    site = None if cut is None else cut.depth.site
    found, *others = (
        explainer.explain(one, _asked(target, given), reference=reference, depth=site)
        for one in (image, *self_check.within_rounding(image))
    )
    space = _space(explainer, found.reference, from_bytes)
    module = ExplainingModule(program, asked, space, outputs=outputs, cut=cut)
    return module, {
        **_said(explainer, module, found, shape),
        "check": self_check.expectation(found, others, pixels, given, module.outputs),
    }


def _space(explainer: Explainer, R: Tensor | None, from_bytes: bool) -> Space:
    """What is explained, as the graph computes it."""
    known, normalisation = explainer.preprocessing, None
    if explainer.space == "pixels":
        assert known is not None
        mean, std = (
            torch.tensor(values, dtype=torch.float64).reshape(-1, 1, 1)
            for values in (known.mean, known.std)
        )
        normalisation = (mean, std)
    return Space(normalisation, R, is_zero(R, explainer.space, known), from_bytes)


def _said(
    explainer: Explainer, module: ExplainingModule, found: Attribution, shape: Sequence[int]
) -> dict[str, Any]:
    """What the file says of itself, without its self-check."""
    space, known = explainer.space, explainer.preprocessing
    return {
        "schema": SCHEMA,
        "made_by": fingerprint.makers("onnx", "onnxscript"),
        "model": explainer.name,
        "weights": explainer.weights_source,
        "fingerprint": fingerprint.of_model(explainer.model),
        "dtype": str(module.program.dtype).removeprefix("torch."),
        "space": space,
        "preprocessing": None if known is None else known.to_dict(),
        "reference": reference_name(found.reference, space, known, batched=False),
        "exactness": found.exactness,
        "gates": dict(explainer.gates),
        "target": module.target.words,
        "inputs": _inputs(module, shape),
        "outputs": list(module.outputs),
        "depth": None if module.cut is None else vars(module.cut.depth),
        "trail": None if module.packing is None else packing.sites_of(module.packing.sites),
        "labels": None if explainer.labels is None else list(explainer.labels),
    }


def _inputs(module: ExplainingModule, shape: Sequence[int]) -> list[dict[str, Any]]:
    batch = "batch" if module.program.batched else 1
    dtype = "uint8" if module.from_bytes else str(module.program.dtype).removeprefix("torch.")
    images = {"name": "images", "dtype": dtype, "shape": [batch, *shape]}
    others = [{"name": n, "dtype": "int64", "shape": [batch]} for n in module.target.inputs]
    return [images, *others]


def _asked(target: Any, given: dict[str, int]) -> Any:
    """What the self-check is explained for: numbers where the graph is given classes."""
    numbers = list(given.values())
    if isinstance(target, str) and target == GIVEN:
        return numbers[0]
    sides = _sides(target)
    if sides is None:
        return target
    return ("contrast", *(numbers.pop(0) if side == GIVEN else side for side in sides))


def _sides(target: Any) -> tuple[Any, Any] | None:
    if isinstance(target, tuple) and len(target) == 3 and target[0] == "contrast":
        return target[1], target[2]
    return (target.a, target.b) if hasattr(target, "a") and hasattr(target, "b") else None


def _shape(explainer: Explainer, given: Sequence[int] | None) -> tuple[int, ...]:
    if given is not None:
        sizes = tuple(given)
        if not sizes or not all(isinstance(n, int) and n > 0 for n in sizes):
            raise InputError(f"shape is {given!r}; give channels, height and width")
        return sizes
    known = explainer.preprocessing
    size = None if known is None else known.output_size
    if known is None or size is None:
        raise InputError("the size of the network's images is not known; give shape, (C, H, W)")
    return (len(known.mean), *size)


def _format(path: Path, given: str | None) -> str:
    if given is None:
        endings = sorted(FORMATS.items(), key=lambda one: -len(one[1]))
        given = next((kind for kind, end in endings if path.name.endswith(end)), path.suffix[1:])
    if given not in FORMATS:
        raise InputError(f"format {given!r} is not known; choose {', '.join(FORMATS)}")
    return given


def _refuse(explainer: Explainer, outputs: Sequence[str], from_bytes: bool) -> None:
    unknown = sorted(set(outputs) - set(OUTPUTS))
    if unknown or not outputs:
        named = f"output {unknown[0]!r} is not known" if unknown else "no output is named"
        raise InputError(f"{named}; choose from {', '.join(OUTPUTS)}")
    if explainer.outputs.kind != "scores":
        raise InputError(
            f"what is explained of this network is {explainer.outputs.kind}, which is chosen in "
            "Python; only class scores can be exported"
        )
    if from_bytes and explainer.space != "pixels":
        raise InputError(
            "a graph takes uint8 pixels only where the preprocessing is known; this explainer "
            "explains the network's own input"
        )
