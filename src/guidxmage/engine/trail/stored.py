"""What a trail is on a disk: one JSON text and plain arrays, checked before anything relies on it.

docs/formats.md describes it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from guidxmage.engine.trail.decisions import BYTES
from guidxmage.engine.trail.gates import CONVENTIONS
from guidxmage.errors import InputError
from guidxmage.files.untrusted import checked_array, entry, listed, optional, parsed_json, shape_of

Array = npt.NDArray[Any]

# The first parts of the names of a trail's arrays.
ARRAYS = ("trail", "gates")
# What the JSON text says of each site, beside its name.
SITE_KEYS = ("site", "kind", "shape", "planes", "merged")
GATE_KEYS = ("site", "convention", "planes", "merged")
# Binary digits of a position; above 31 it would not fit the integers that it is read into.
_MOST_DIGITS = 31
_MOST_GATE_PLANES = 16


@dataclass(frozen=True)
class StoredSite:
    """The decisions of one call site: packed planes (B, ⌈n/8⌉) of uint8."""

    site: str
    kind: str
    shape: tuple[int, ...]
    planes: tuple[Array, ...]
    merged: bool


@dataclass(frozen=True)
class StoredGate:
    """The numbers recorded at one smooth call site: floating planes (B, …)."""

    site: str
    convention: str
    planes: tuple[Array, ...]
    merged: bool


@dataclass(frozen=True)
class StoredTrail:
    """A trail of `rows` images in plain values."""

    header: dict[str, Any]
    rows: int
    sites: tuple[StoredSite, ...]
    gates: tuple[StoredGate, ...]

    def arrays(self) -> dict[str, Array]:
        """What is written."""
        described = {
            "header": self.header,
            "rows": self.rows,
            "sites": [_described(site, SITE_KEYS) for site in self.sites],
            "gates": [_described(gate, GATE_KEYS) for gate in self.gates],
        }
        arrays = {"trail": np.frombuffer(json.dumps(described).encode(), dtype=np.uint8)}
        groups: tuple[tuple[str, Sequence[StoredSite | StoredGate]], ...] = (
            ("trail", self.sites),
            ("gates", self.gates),
        )
        for name, entries in groups:
            for number, one in enumerate(entries):
                for plane, values in enumerate(one.planes):
                    arrays[f"{name}.{number}.{plane}"] = values
        return arrays

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, Array], name: str = "the trail") -> StoredTrail:
        """The inverse of `arrays`.

        name: what an InputError calls it, which is raised where anything is missing, of another
        type or of another size than the rest says.
        """
        text = checked_array(arrays, "trail", "uint8", (None,), name).tobytes()
        described = parsed_json(text.decode("utf-8", "replace"), name)
        rows = entry(described, "rows", int, name)
        if rows < 0:
            raise InputError(f"{name} states {rows} images")
        sites = [
            _site(arrays, number, one, rows, name)
            for number, one in enumerate(listed(described, "sites", dict, name))
        ]
        listed_gates = listed(described, "gates", dict, name) if "gates" in described else []
        gates = [_gate(arrays, number, one, rows, name) for number, one in enumerate(listed_gates)]
        for entries in (sites, gates):
            _refuse_repeated([one.site for one in entries], name)
        return cls(entry(described, "header", dict, name), rows, tuple(sites), tuple(gates))


def _described(one: StoredSite | StoredGate, keys: Sequence[str]) -> dict[str, Any]:
    described = {key: getattr(one, key) for key in keys}
    described["planes"] = len(one.planes)
    return described


def _site(
    arrays: Mapping[str, Array], number: int, described: dict[str, Any], rows: int, name: str
) -> StoredSite:
    site, kind = (entry(described, key, str, name) for key in ("site", "kind"))
    shape, planes = shape_of(described, "shape", name), entry(described, "planes", int, name)
    allowed = {"bits": (1, 2), "index": (1, _MOST_DIGITS), **dict.fromkeys(BYTES, (1, 1))}.get(kind)
    if allowed is None or not allowed[0] <= planes <= allowed[1]:
        raise InputError(f"{name}: the site {site!r} is {kind!r} of {planes} planes, which is none")
    size = (rows, 8 * prod(shape) if kind in BYTES else -(-prod(shape) // 8))
    found = (
        checked_array(arrays, f"trail.{number}.{plane}", "uint8", size, name)
        for plane in range(planes)
    )
    merged = bool(optional(described, "merged", bool, name))
    return StoredSite(site, kind, shape, tuple(found), merged)


def _gate(
    arrays: Mapping[str, Array], number: int, described: dict[str, Any], rows: int, name: str
) -> StoredGate:
    site, convention = (entry(described, key, str, name) for key in ("site", "convention"))
    planes = entry(described, "planes", int, name)
    if convention not in (*CONVENTIONS, "told") or not 0 <= planes <= _MOST_GATE_PLANES:
        raise InputError(
            f"{name}: the site {site!r} has {planes} planes by the convention {convention!r}, "
            "which is none"
        )
    found = []
    for plane in range(planes):
        key = f"gates.{number}.{plane}"
        own = arrays[key].ndim if key in arrays else 1
        size = (rows, *[None] * (max(own, 1) - 1))
        found.append(checked_array(arrays, key, "float32 float64", size, name))
    return StoredGate(site, convention, tuple(found), entry(described, "merged", bool, name))


def _refuse_repeated(sites: Sequence[str], name: str) -> None:
    repeated = [site for site, count in Counter(sites).items() if count > 1]
    if repeated:
        raise InputError(f"{name} has the call site {repeated[0]!r} twice")
