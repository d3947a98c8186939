"""An exported graph for a report: what it says of itself, and whether a page can ask it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from guidxmage.attribution.exactness import in_words
from guidxmage.errors import InputError
from guidxmage.export.reading import described
from guidxmage.export.targets import CLASS_INPUT, GIVEN
from guidxmage.files.names import brief, shown
from guidxmage.files.untrusted import entry, listed, optional
from guidxmage.inputs.preprocessing import Preprocessing
from guidxmage.inputs.reference import black_of, zero_of
from guidxmage.viewer.report_network import ReportNetwork, runtime_in

_NEEDED = ("logits", "contributions", "bias")
_TEXT, _LONGEST = 200, 2**14  # characters of a name and pixels of a side, at most
_WHOLE = ("whole", "unplaced")
_COMMAND = "guid-xmage export --target given --depth default"


def report_network(graph: Path, runtime: Path | None = None) -> ReportNetwork:
    """The network of a report, from a file that `guid-xmage export --target given` wrote.

    runtime: a folder with onnxruntime-web. Raises InputError for what is no such file, and for a
    graph that a page cannot ask: of fixed targets, of bytes, of float64, of no pictures.
    """
    metadata, name = described(graph), shown(graph)
    shape = _shape(metadata, name)
    outputs = listed(metadata, "outputs", str, name)
    if missing := [one for one in _NEEDED if one not in outputs]:
        raise InputError(f"{name} gives no {missing[0]}; write it with `{_COMMAND}`")
    stated = optional(metadata, "preprocessing", dict, name)
    known = None if stated is None else _preprocessing(stated, name)
    space, reference = (entry(metadata, key, str, name) for key in ("space", "reference"))
    said = {
        "model": brief(entry(metadata, "model", str, name), _TEXT),
        "weights": brief(optional(metadata, "weights", str, name) or "", _TEXT),
        "fingerprint": entry(metadata, "fingerprint", str, name),
        "space": space,
        "shape": shape,
        "reference": brief(reference, _TEXT),
        "colour": _colour(reference, space, known, shape[0]),
        "exactness": in_words(entry(metadata, "exactness", str, name)),
        "preprocessing": None if known is None else known.to_dict(),
        "labels": _labels(metadata, name),
        "outputs": outputs,
        "depth": _depth(metadata, name) if set(_WHOLE) <= set(outputs) else None,
    }
    return ReportNetwork(graph, said, None if runtime is None else runtime_in(runtime))


def _shape(metadata: Mapping[str, Any], name: str) -> list[int]:
    """(C, H, W) of the images. Raises InputError where a page cannot give what the graph takes."""
    inputs = {entry(one, "name", str, name): one for one in listed(metadata, "inputs", dict, name)}
    if entry(metadata, "target", str, name) != GIVEN or set(inputs) != {"images", CLASS_INPUT}:
        raise InputError(
            f"{name} explains a target of its own, and a report asks for any class; write it with "
            f"`{_COMMAND}`"
        )
    dtype = entry(inputs["images"], "dtype", str, name)
    if dtype != "float32":
        option = "--bytes" if dtype == "uint8" else "--dtype"
        raise InputError(
            f"{name} takes {dtype} where a report gives float32; export it without {option}"
        )
    shape = entry(inputs["images"], "shape", list, name)[1:]
    if len(shape) != 3 or not all(isinstance(n, int) and 0 < n <= _LONGEST for n in shape):
        raise InputError(f"{name} takes no pictures, channels × height × width")
    return [int(size) for size in shape]


def _preprocessing(stated: Mapping[str, Any], name: str) -> Preprocessing:
    values = {key: tuple(one) if isinstance(one, list) else one for key, one in stated.items()}
    try:
        return Preprocessing.from_dict(values)
    except (InputError, TypeError) as error:
        raise InputError(f"{name} states a preprocessing that is none: {error}") from error


def _depth(metadata: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Of the whole map, as the viewer has it: checked, so that the page can draw with it."""
    stated = entry(metadata, "depth", dict, name)
    grid = listed(stated, "grid", int, name)
    stride, sigma = (entry(stated, key, float, name) for key in ("stride", "sigma"))
    if len(grid) != 2 or not all(0 < one <= _LONGEST for one in (*grid, stride, sigma)):
        raise InputError(f"{name} states a depth that is none; write it with `{_COMMAND}`")
    site = brief(entry(stated, "site", str, name), _TEXT)
    return {"site": site, "grid": grid, "stride": stride, "sigma": sigma}


def _labels(metadata: Mapping[str, Any], name: str) -> list[str] | None:
    if metadata.get("labels") is None:
        return None
    return [brief(one, _TEXT) for one in listed(metadata, "labels", str, name)]


def _colour(
    reference: str, space: str, known: Preprocessing | None, channels: int
) -> list[float] | None:
    """R of each channel, where its name tells it; None for an image."""
    if reference in ("network's zero", "black"):
        found = (black_of if reference == "black" else zero_of)(space, known)
        return [0.0] * channels if found is None else [float(value) for value in found.flatten()]
    try:
        values = [float(value) for value in reference.split(",")]
    except ValueError:
        return None
    return values * channels if len(values) == 1 else values
