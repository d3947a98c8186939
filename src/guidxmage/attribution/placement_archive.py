"""Placements as arrays and as entries of a manifest; what is read is checked."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from guidxmage.attribution.depths import Depth
from guidxmage.attribution.placement import Placement
from guidxmage.errors import InputError
from guidxmage.files.untrusted import Array, checked_array, entry, listed, parsed_json, shape_of

_MOST = 64  # depths of one result
_TENSORS = ("whole", "placed_bias", "unplaced", "residual", "residual_bound")


def depth_entries(placements: Sequence[Placement]) -> list[dict[str, Any]]:
    """What a manifest says of the depths."""
    return [
        {
            "site": one.depth.site,
            "grid": list(one.depth.grid),
            "stride": one.depth.stride,
            "sigma": one.sigma,
            "sigma_at_network": one.depth.sigma,
        }
        for one in placements
    ]


def result_entries(placements: Sequence[Placement], total: float) -> dict[str, Any]:
    """What a manifest says of one image and target, whose contributions sum to `total`.

    How much of the bias lies on the picture, and of the score nowhere, at the chosen depth; and at
    each depth more of that.
    """
    return {
        "placed": float(placements[0].whole.sum()) - total,
        "unplaced": float(placements[0].unplaced),
        "depths": _at_depths(placements),
    }


def _at_depths(placements: Sequence[Placement]) -> list[dict[str, Any]]:
    return [
        {
            "site": one.depth.site,
            "whole_sum": float(one.whole.sum()),
            "placed_bias_sum": float(one.placed_bias.sum()),
            "unplaced": float(one.unplaced),
            "unplaced_by_layer": {s: float(v) for s, v in one.unplaced_by_layer.items()},
            "residual": float(one.residual),
            "residual_bound": float(one.residual_bound),
        }
        for one in placements
    ]


def placement_arrays(placements: Sequence[Placement]) -> dict[str, Array]:
    """The arrays of all depths, "placement.0.whole" and so on."""
    arrays: dict[str, Array] = {}
    for number, one in enumerate(placements):
        values = {name: getattr(one, name).cpu().numpy() for name in _TENSORS}
        sites = json.dumps(list(one.unplaced_by_layer)).encode()
        values["unplaced_sites"] = np.frombuffer(sites, dtype=np.uint8)
        if one.unplaced_by_layer:
            shares = [share.cpu().numpy() for share in one.unplaced_by_layer.values()]
            values["unplaced_values"] = np.stack(shares)
        arrays |= {f"placement.{number}.{name}": value for name, value in values.items()}
    return arrays


def restored_placements(
    manifest: dict[str, Any],
    arrays: dict[str, Array],
    per_target: tuple[int, ...],
    picture: tuple[int, ...],
    name: str,
) -> tuple[Placement, ...]:
    """The placements of a saved explanation; one without depths has none.

    per_target: the axes of images and targets; picture: (H, W). Raises InputError for what does
    not fit.
    """
    if "depths" not in manifest:
        return ()
    described = listed(manifest, "depths", dict, name)
    if len(described) > _MOST:
        raise InputError(f"{name} states {len(described)} depths; at most {_MOST} are read")
    return tuple(
        _restored(one, arrays, f"placement.{number}.", (per_target, picture), name)
        for number, one in enumerate(described)
    )


def _restored(
    described: dict[str, Any],
    arrays: dict[str, Array],
    start: str,
    sizes: tuple[tuple[int, ...], tuple[int, ...]],
    name: str,
) -> Placement:
    per_target, picture = sizes
    shapes = dict.fromkeys(_TENSORS, per_target)
    shapes |= dict.fromkeys(("whole", "placed_bias"), (*per_target, *picture))
    tensors = {key: _tensor(arrays, start + key, shapes[key], name) for key in _TENSORS}
    text = checked_array(arrays, f"{start}unplaced_sites", "uint8", (None,), name).tobytes()
    found = {"sites": parsed_json(text.decode("utf-8", "replace"), name)}
    sites = listed(found, "sites", str, name)
    if len(set(sites)) < len(sites):
        raise InputError(f"{name} has a call site without a place twice")
    values = (len(sites), *per_target)
    shares = _tensor(arrays, f"{start}unplaced_values", values, name) if sites else torch.empty(0)
    return Placement(
        depth=Depth(
            entry(described, "site", str, name),
            shape_of(described, "grid", name),
            _positive(described, "stride", name),
            _positive(described, "sigma_at_network", name),
        ),
        unplaced_by_layer=dict(zip(sites, shares, strict=True)),
        sigma=_positive(described, "sigma", name),
        leading=len(per_target),
        **tensors,
    )


def _tensor(arrays: dict[str, Array], key: str, shape: tuple[int, ...], name: str) -> Tensor:
    return torch.from_numpy(np.array(checked_array(arrays, key, "float64", shape, name)))


def _positive(described: dict[str, Any], key: str, name: str) -> float:
    found = entry(described, key, float, name)
    if not 0 < found < 1e9:
        raise InputError(f"{name}: {key!r} of a depth is {found}")
    return found
