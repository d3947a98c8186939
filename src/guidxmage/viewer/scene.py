"""What the viewer is fed with: one photo's explanations as a manifest and plain arrays.

All that the viewer shows it computes from these numbers, which are Python's own. docs/viewer.md
has the format.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from guidxmage.attribution.attribution import Attribution
from guidxmage.attribution.exactness import in_words
from guidxmage.attribution.placement import Placement
from guidxmage.engine.program.places import INPUT
from guidxmage.errors import InputError
from guidxmage.objects.label_map import LabelMap
from guidxmage.objects.segmentation import superpixels

FORMAT = "guid-xmage/scene/1"
Array = npt.NDArray[Any]
# The types that the viewer reads, by their names in the manifest.
_TYPES = ("float32", "float64", "uint8", "uint16", "int32")
_COLOURS = ("red", "green", "blue")


@dataclass(frozen=True, eq=False)
class Scene:
    """One photo as the viewer shows it.

    manifest: plain values for JSON; arrays: by name, in C order and little-endian, as the
    manifest's "arrays" describes them.
    """

    manifest: dict[str, Any]
    arrays: dict[str, Array] = field(default_factory=dict)

    def bytes_of(self, name: str) -> bytes:
        """The raw bytes of one array. Raises InputError where there is none of that name."""
        if name not in self.arrays:
            raise InputError(f"there is no array {name!r} in what is shown")
        return self.arrays[name].tobytes()

    def with_target(self, part: Attribution) -> Scene:
        """With one more target of the same image. Raises InputError as `scene_of` does."""
        number = len(self.manifest["targets"])
        own = _target_arrays(part, number, _in_order(part.placements))
        targets = [*self.manifest["targets"], _target(part)]
        described = {**self.manifest["arrays"], **_described(own)}
        manifest = {**self.manifest, "targets": targets, "arrays": described}
        return Scene(manifest, {**self.arrays, **own})


def scene_of(
    explanation: Attribution,
    regions: LabelMap | None = None,
    *,
    name: str = "",
    regions_from: str = "",
    evidence: Mapping[str, Any] | None = None,
    parts: bool = True,
) -> Scene:
    """The scene of one image, with all of its targets and depths.

    regions: objects at the size of the explained image, and regions_from where they came from.
    name: of the photo; evidence: what the viewer shows of how the result can be checked. parts:
    whether superpixels are made where there is a picture and scikit-image. Raises InputError for a
    batch, and for what is no picture (signals, videos, volumes).
    """
    if explanation.batched:
        raise InputError("the viewer shows one image; index the explanation first")
    singles = explanation.split()
    first = singles[0]
    shape = tuple(first.input.shape)
    if len(shape) != 3:
        raise InputError(
            f"the viewer shows pictures, channels × height × width; this input is of shape {shape}"
        )
    arrays = {**_input_arrays(first), **_label_arrays(first, regions, parts=parts)}
    for number, part in enumerate(singles):
        arrays |= _target_arrays(part, number, _in_order(part.placements))
    manifest = {
        "format": FORMAT,
        "name": name,
        "network": _network(first),
        "space": first.space,
        "reference": first.reference_name,
        "exactness": in_words(first.exactness),
        "size": list(shape[1:]),
        "channels": _channels(first),
        "units": "normalised" if first.space == "input" else "0–1",
        "targets": [_target(part) for part in singles],
        "depths": [_depth(one) for one in _in_order(first.placements)],
        "depth": _first_shown(first.placements),
        "classes": [[index, name, _finite(value)] for index, name, value in _classes(first)],
        "objects": None if regions is None else _objects(regions, regions_from),
        "evidence": dict(evidence or {}),
        "arrays": _described(arrays),
    }
    return Scene(manifest, arrays)


def _network(part: Attribution) -> str:
    source = f" ({part.weights_source})" if part.weights_source else ""
    return f"{part.model_name}{source}"


def _channels(part: Attribution) -> list[str]:
    count = part.input.shape[0]
    if count == 3 and part.pictures[0] is not None:
        return list(_COLOURS)
    return ["grey"] if count == 1 else [f"channel {number}" for number in range(count)]


def _classes(part: Attribution) -> list[tuple[int, str, float]]:
    return part.top(part.logits.shape[-1])


def _objects(regions: LabelMap, source: str) -> dict[str, Any]:
    return {"names": {str(label): name for label, name in regions.names.items()}, "source": source}


# --- depths ----------------------------------------------------------------------------------


def _in_order(placements: Sequence[Placement]) -> list[Placement]:
    """From the image to the last layer: coarser and coarser."""
    return sorted(placements, key=lambda one: (one.depth.site != INPUT, one.depth.stride))


def _first_shown(placements: Sequence[Placement]) -> int:
    """The number of the depth that was asked for first; −1 where there is none."""
    ordered = _in_order(placements)
    return next((n for n, one in enumerate(ordered) if one is placements[0]), -1)


def _depth(one: Placement) -> dict[str, Any]:
    depth = one.depth
    return {
        "site": depth.site,
        "grid": list(depth.grid),
        "stride": depth.stride,
        "sigma": one.sigma,
    }


# --- targets ---------------------------------------------------------------------------------


def _target(part: Attribution) -> dict[str, Any]:
    return {
        "name": str(part.target_name),
        "target": int(part.target),
        "against": int(part.against),
        "score": _finite(part.score),
        "probability": part.probability,
        **({} if part.meaning is None else {"unit": part.meaning.unit}),
        "contribution_sum": _finite(part.contributions.sum(dtype=torch.float64)),
        "bias": _finite(part.bias),
        "residual": _finite(part.residual),
        "residual_bound": _finite(part.residual_bound),
        "bias_by_layer": _pairs(part.bias_by_layer),
        "depths": [_at_depth(one) for one in _in_order(part.placements)],
    }


def _at_depth(one: Placement) -> dict[str, Any]:
    return {
        "whole_sum": _finite(one.whole.sum()),
        "placed_bias_sum": _finite(one.placed_bias.sum()),
        "unplaced": _finite(one.unplaced),
        "unplaced_by_layer": _pairs(one.unplaced_by_layer),
        "residual": _finite(one.residual),
        "residual_bound": _finite(one.residual_bound),
    }


def _pairs(by_layer: Mapping[str, torch.Tensor]) -> list[list[Any]]:
    return [[site, _finite(value)] for site, value in by_layer.items()]


def _finite(value: Any) -> float | None:
    """As JSON has it, which knows of no infinity."""
    found = float(value)
    return found if math.isfinite(found) else None


# --- arrays ----------------------------------------------------------------------------------


def _input_arrays(part: Attribution) -> dict[str, Array]:
    arrays = {"input": _plain(part.input)}
    picture = part.picture()
    if picture is not None:
        arrays["picture"] = np.ascontiguousarray(np.asarray(picture.convert("RGB")))
    if part.reference is not None:
        full = part.reference.to(part.input).expand(part.input.shape)
        arrays["reference"] = _plain(full)
    return arrays


def _label_arrays(part: Attribution, regions: LabelMap | None, *, parts: bool) -> dict[str, Array]:
    arrays: dict[str, Array] = {}
    size = tuple(part.input.shape[1:])
    if regions is not None:
        if regions.size != size:
            raise InputError(f"the objects are of size {regions.size}, the explanation of {size}")
        arrays["objects"] = _narrow(regions.labels)
    picture = part.picture()
    if parts and picture is not None and min(size) > 1 and find_spec("skimage") is not None:
        arrays["superpixels"] = _narrow(superpixels(picture))
    return arrays


def _narrow(labels: Array) -> Array:
    largest = int(labels.max())
    kind = "uint8" if largest < 2**8 else "uint16" if largest < 2**16 else "int32"
    return labels.astype(kind)


def _target_arrays(
    part: Attribution, number: int, placements: Sequence[Placement]
) -> dict[str, Array]:
    arrays = {f"weights.{number}": _plain(part.weights)}
    if not _is_product(part):
        arrays[f"contributions.{number}"] = _plain(part.contributions)
    for depth, one in enumerate(placements):
        arrays[f"whole.{number}.{depth}"] = _plain(one.whole.float())
        arrays[f"placed.{number}.{depth}"] = _plain(one.placed_bias.float())
    return arrays


def _is_product(part: Attribution) -> bool:
    """Whether A is Δ ⊙ (X − R) to the last bit in its own precision, so that it need not be sent.

    In other spaces than the network's own the product is taken in float64 and rounded once.
    """
    R, X = part.reference, part.input
    counted = X if R is None else X - R.to(X)
    return torch.equal(part.weights * counted, part.contributions)


def _plain(values: torch.Tensor) -> Array:
    found = values.detach().cpu()
    if found.dtype not in (torch.float32, torch.float64):
        found = found.float()
    plain: Array = np.ascontiguousarray(found.numpy())
    return plain.astype(plain.dtype.newbyteorder("<"), copy=False)


def _described(arrays: Mapping[str, Array]) -> dict[str, Any]:
    found = {}
    for name, values in arrays.items():
        kind = values.dtype.name
        assert kind in _TYPES, f"{name} is {kind}"
        found[name] = {"dtype": kind, "shape": list(values.shape)}
    return found
