"""Graphs in the formats that they are written in, as bytes."""

from __future__ import annotations

import io
import re
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from guidxmage.errors import InputError, UnsupportedOperatorError
from guidxmage.export.module import ExplainingModule

METADATA = "guid-xmage"
FORMATS = {"onnx": ".onnx", "pt2": ".pt2", "aoti": ".aoti.pt2"}
# A protocol buffer holds no more.
_LARGEST_ONNX = 2**31 - 2**20


def traced(module: ExplainingModule, example: Tensor) -> ExportedProgram:
    """A module as a graph of ATen operators, of any number of images where its program takes them.

    example: images (2, C, H, W), or one image where the program takes single images.
    """
    rows = len(example)
    inputs = {
        name: torch.zeros(rows, dtype=torch.int64, device=example.device)
        for name in module.target.inputs
    }
    batch = {0: torch.export.Dim("batch")} if module.program.batched else {}
    shapes: dict[str, Any] = dict.fromkeys(("images", *inputs), batch)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PyTorch's about itself
        return torch.export.export(module, (example,), inputs, dynamic_shapes=shapes, strict=False)


def written(
    kind: str,
    graph: ExportedProgram,
    names: tuple[Sequence[str], Sequence[str]],
    metadata: Mapping[str, str],
    sites: Mapping[str, str] | None = None,
) -> bytes:
    """A graph in a format; names are those of inputs and outputs.

    sites: where operators are called from, for the message that says which one a format lacks.
    """
    if kind == "onnx":
        try:
            return _onnx(graph, names, metadata)
        except torch.onnx.errors.OnnxExporterError as error:
            raise UnsupportedOperatorError(_not_in_onnx(error, sites or {})) from error
    if kind == "pt2":
        file = io.BytesIO()
        torch.export.save(graph, file, extra_files=dict(metadata))
        return file.getvalue()
    return _compiled(graph, metadata)


def _onnx(
    graph: ExportedProgram,
    names: tuple[Sequence[str], Sequence[str]],
    metadata: Mapping[str, str],
) -> bytes:
    refuse_without("onnx", "onnxscript")
    size = sum(one.numel() * one.itemsize for one in graph.state_dict.values())
    if size > _LARGEST_ONNX:
        raise InputError("the network is larger than the 2 GiB of an ONNX file; write it as pt2")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            graph,
            dynamo=True,
            input_names=list(names[0]),
            output_names=list(names[1]),
            verbose=False,
            optimize=False,
        )
        assert program is not None
        _tidy(program.model)
    model = program.model_proto
    model.producer_name = METADATA
    for key, value in metadata.items():
        model.metadata_props.add(key=key, value=value)
    content: bytes = model.SerializeToString()
    return content


def _not_in_onnx(error: Exception, sites: Mapping[str, str]) -> str:
    """Which operator ONNX has not, and where it is called, as far as the exporter tells."""
    found = re.search(r"target=torch\.ops\.(aten\.\w+(\.\w+)?)", str(error))
    if found is None:
        return "the graph cannot be written in ONNX; write it as pt2"
    name = found[1]
    own = name if name in sites else next((one for one in sites if _same(one, name)), None)
    where = "in what transposes the network" if own is None else f"at '{sites[own]}'"
    return f"{own or name} {where} cannot be exported: ONNX has no such operator; write it as pt2"


def _same(one: str, other: str) -> bool:
    """Whether two names are of one function."""
    return one.split(".")[1] == other.split(".")[1]


def _tidy(model: Any) -> None:
    """Compute what is constant, drop what is not used, and name everything once.

    The exporter's own optimiser takes longer than all the rest, for a graph that is no faster: it
    looks for patterns of transformers at every node.
    """
    from onnx_ir.passes import common
    from onnxscript.optimizer import fold_constants

    fold_constants(model)
    for tidying in (
        common.RemoveUnusedNodesPass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.DeduplicateInitializersPass(),
        common.CommonSubexpressionEliminationPass(),
        common.OutputFixPass(),
        common.NameFixPass(),
    ):
        tidying(model)


def _compiled(graph: ExportedProgram, metadata: Mapping[str, str]) -> bytes:
    from torch._inductor import aoti_compile_and_package

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"graph{FORMATS['pt2']}"
        try:
            aoti_compile_and_package(
                graph,
                package_path=str(path),
                inductor_configs={"aot_inductor.metadata": dict(metadata)},
            )
        except (RuntimeError, OSError) as error:
            raise InputError(
                "the graph could not be compiled; a C++ compiler is needed for aoti: "
                f"{first_line(error)}"
            ) from error
        return path.read_bytes()


def refuse_without(*packages: str) -> None:
    """Raise InputError where a package is not installed."""
    from importlib.util import find_spec

    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise InputError(
            f"{' and '.join(missing)} must be installed for this; pip install 'guid-xmage[export]'"
        )


def first_line(error: BaseException) -> str:
    """What another library says went wrong, in one line."""
    lines = str(error).splitlines()
    return lines[0][:200] if lines else type(error).__name__
