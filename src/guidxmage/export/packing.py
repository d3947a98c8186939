"""The output `trail`, packed decisions, as the trail that they are, and its hash."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from guidxmage.engine.trail.decisions import Decisions
from guidxmage.engine.trail.trail import Trail
from guidxmage.errors import InputError
from guidxmage.files.untrusted import entry, listed, shape_of
from guidxmage.provenance import fingerprint

Bytes = NDArray[np.uint8]
# Planes of a call site; positions have no more digits.
_MOST_PLANES = 31


def sites_of(decisions: Mapping[str, Decisions]) -> list[dict[str, Any]]:
    """What a file says of its trail: the call sites in order, and how each is packed."""
    return [
        {
            "site": site,
            "kind": one.kind,
            "shape": list(one.shape),
            "planes": len(one.planes),
            "merged": one.merged,
        }
        for site, one in decisions.items()
    ]


def read_trail(packed: Any, metadata: Mapping[str, Any]) -> Trail:
    """The output `trail` (B, bytes) of a graph as a trail, to be compared with others.

    packed: uint8, also of one image (bytes,); metadata: what the graph's file says of itself. A
    network with smooth operators recorded numbers beside its decisions; these are not in it. Raises
    InputError where the two do not fit.
    """
    planes = np.atleast_2d(np.asarray(packed))
    if planes.dtype != np.uint8 or planes.ndim != 2:
        raise InputError("a packed trail is an array of bytes, (images, bytes)")
    sites = listed(metadata, "trail", dict, "the metadata")
    widths = [width for one in sites for width in _widths(one)]
    if sum(widths) != planes.shape[1]:
        raise InputError(
            f"the trail has {planes.shape[1]} bytes for an image, where the metadata says "
            f"{sum(widths)}"
        )
    ends = list(accumulate(widths, initial=0))
    parts = iter(torch.from_numpy(planes[:, start:end].copy()) for start, end in pairwise(ends))
    decisions = {
        one["site"]: Decisions(
            one["kind"],
            tuple(one["shape"]),
            tuple(next(parts) for _ in range(one["planes"])),
            bool(one.get("merged")),
        )
        for one in sites
    }
    return Trail(decisions, rows=len(planes))


def trail_hash(packed: Any, metadata: Mapping[str, Any]) -> str:
    """SHA-256 of one image's packed trail (bytes,), as data sets have it in their column `trail`.

    Of networks with smooth operators only the decisions are in it, so that it is another one than
    theirs. Raises InputError as `read_trail` does, and for several images.
    """
    found = read_trail(packed, metadata)
    if found.rows != 1:
        raise InputError(f"there are trails of {found.rows} images; hash them one by one")
    return fingerprint.of_planes(found)


def _widths(site: Mapping[str, Any]) -> Sequence[int]:
    """Bytes of each plane of a call site."""
    name = "the metadata"
    entry(site, "site", str, name)
    planes = entry(site, "planes", int, name)
    if entry(site, "kind", str, name) not in ("bits", "index") or not 0 < planes <= _MOST_PLANES:
        raise InputError(f"{name}: what is said of {site['site']!r} is no packed site")
    return [-(-prod(shape_of(site, "shape", name)) // 8)] * planes
