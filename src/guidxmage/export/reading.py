"""What an exported ONNX file says of itself, and whether onnxruntime gives the numbers in it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from guidxmage.errors import InputError
from guidxmage.export.formats import FORMATS, METADATA, first_line, refuse_without
from guidxmage.export.self_check import Deviation, as_input, deviations, image_of
from guidxmage.export.writing import SCHEMA
from guidxmage.files.names import brief
from guidxmage.files.untrusted import entry, listed, parsed_json

# A protocol buffer, and what is said in it, are no larger.
_LARGEST_FILE, _LARGEST_TEXT = 2**31, 2**26


@dataclass(frozen=True)
class Checked:
    """The self-check of a file: what it says of itself, and how far each output is off."""

    metadata: dict[str, Any]
    deviations: tuple[Deviation, ...]

    @property
    def holds(self) -> bool:
        """Whether every output is as near as the file allows."""
        return all(one.holds for one in self.deviations)


def check(path: Path | str) -> Checked:
    """Run the image that travels in an ONNX file with onnxruntime, and compare.

    What the file says is data: its sizes are checked, and no code of its own runs. Raises
    InputError for what is no such file.
    """
    path = Path(path)
    session = _session(path)
    metadata = _metadata(session, path)
    expected = entry(metadata, "check", dict, str(path))
    pixels = image_of(expected, str(path))
    feed = _feed(session, metadata, expected, pixels, str(path))
    names = [one.name for one in session.get_outputs()]
    missing = [one for one in listed(metadata, "outputs", str, str(path)) if one not in names]
    if missing:
        raise InputError(f"{path}: the graph has no output {brief(missing[0])}, which it tells of")
    try:
        values = session.run(names, feed)
    except Exception as error:  # onnxruntime's own kinds are of no public class
        raise InputError(f"onnxruntime cannot run {path}: {first_line(error)}") from error
    found = deviations(expected, dict(zip(names, values, strict=True)), str(path))
    return Checked(metadata, tuple(found))


def described(path: Path | str) -> dict[str, Any]:
    """What an ONNX file that `export` wrote says of itself. Raises InputError for any other."""
    path = Path(path)
    return _metadata(_session(path), path)


def _session(path: Path) -> Any:
    refuse_without("onnxruntime")
    import onnxruntime

    if not path.is_file():
        raise InputError(f"{path} is no file")
    if path.name.endswith(FORMATS["pt2"]):
        raise InputError(f"{path} is no ONNX file; the self-check runs in onnxruntime alone")
    if path.stat().st_size > _LARGEST_FILE:
        raise InputError(f"{path} is larger than any ONNX file may be")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if hasattr(os, "sched_getaffinity"):
        options.intra_op_num_threads = len(os.sched_getaffinity(0))
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise InputError(
            f"{path} is no graph that onnxruntime takes: {first_line(error)}"
        ) from error


def _metadata(session: Any, path: Path) -> dict[str, Any]:
    text = session.get_modelmeta().custom_metadata_map.get(METADATA)
    if text is None or len(text) > _LARGEST_TEXT:
        raise InputError(f"{path} was not written by guid-xmage export: it says nothing of itself")
    metadata = parsed_json(text, str(path))
    if entry(metadata, "schema", str, str(path)) != SCHEMA:
        raise InputError(f"{path} is of another version of guid-xmage export")
    space = entry(metadata, "space", str, str(path))
    if space not in ("pixels", "input"):
        raise InputError(f"{path}: {brief(space)!r} is no space that is explained")
    found: dict[str, Any] = metadata
    return found


def _feed(
    session: Any,
    metadata: Mapping[str, Any],
    expected: Mapping[str, Any],
    pixels: np.ndarray[Any, Any],
    name: str,
) -> dict[str, Any]:
    """The inputs of one image."""
    given = entry(expected, "given", dict, name)
    feed: dict[str, Any] = {}
    told = {entry(one, "name", str, name): one for one in listed(metadata, "inputs", dict, name)}
    for one in session.get_inputs():
        if one.name not in told:
            raise InputError(
                f"{name}: the graph has an input {one.name!r} that it does not tell of"
            )
        if one.name != "images":
            number = entry(given, one.name, int, name)
            if abs(number) >= 2**63:
                raise InputError(f"{name}: {one.name} of the self-check is no class")
            feed[one.name] = np.array([number], dtype=np.int64)
            continue
        if list(pixels.shape) != list(one.shape[1:]):
            raise InputError(f"{name}: the image of the self-check does not fit the graph")
        if one.type == "tensor(uint8)":
            feed[one.name] = pixels[None]
        else:
            dtype = np.float64 if one.type == "tensor(double)" else np.float32
            space = entry(metadata, "space", str, name)
            feed[one.name] = as_input(pixels, space)[None].astype(dtype)
    return feed
