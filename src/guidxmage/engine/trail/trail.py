"""The execution trail: every decision a network took on an image, packed."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from guidxmage.engine.trail.decisions import Decisions
from guidxmage.engine.trail.distance import Distance
from guidxmage.engine.trail.gates import Gates
from guidxmage.engine.trail.pairwise import PairwiseDistances
from guidxmage.engine.trail.stored import ARRAYS, StoredGate, StoredSite, StoredTrail
from guidxmage.errors import InputError
from guidxmage.files.atomic import write_atomically
from guidxmage.files.untrusted import read_arrays


@dataclass(frozen=True)
class Difference:
    """The first decision, in order of execution, in which two trails differ."""

    site: str
    position: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.site} at {list(self.position)}"


@dataclass(frozen=True)
class Trail(Mapping[str, Decisions]):
    """All decisions of B images, keyed by call site in order of execution.

    `header` states what the trail was recorded with: dtype, device, input shape, versions.
    `gates`: the numbers recorded at smooth operators; where there are any, no other image follows
    the trail unless it has the same numbers.
    """

    decisions: dict[str, Decisions]
    header: dict[str, Any] = field(default_factory=dict)
    rows: int = 1
    gates: dict[str, Gates] = field(default_factory=dict)

    def __getitem__(self, site: str) -> Decisions:
        return self.decisions[site]

    def __iter__(self) -> Iterator[str]:
        return iter(self.decisions)

    def __len__(self) -> int:
        return len(self.decisions)

    def __repr__(self) -> str:
        return (
            f"Trail({self.rows} image(s), {len(self)} call sites, "
            f"{self.count:,} decisions and {self.nbytes // max(self.rows, 1):,} bytes per image)"
        )

    @property
    def count(self) -> int:
        """Number of decisions per image."""
        return sum(entry.count for entry in self.values())

    @property
    def nbytes(self) -> int:
        """Bytes stored, all images together."""
        gates = sum(gate.nbytes for gate in self.gates.values())
        return gates + sum(entry.nbytes for entry in self.values())

    def image(self, index: int) -> Trail:
        """The trail of one image, as a trail of one row."""
        return self.with_planes(lambda plane: plane[index : index + 1], rows=1)

    def take(self, rows: Tensor | slice) -> Trail:
        """The trails of some images, chosen by number, mask or slice."""
        taken = self.with_planes(lambda plane: plane[rows], rows=0)
        count = len(torch.arange(self.rows)[rows.cpu() if isinstance(rows, Tensor) else rows])
        return replace(taken, rows=count)

    def replaced(self, rows: Tensor, other: Trail) -> Trail:
        """A new trail with other images in some rows: number `rows[n]` is image n of `other`."""
        self._check_sites(other)
        decisions = {}
        for site, entry in self.items():
            planes = tuple(plane.clone() for plane in entry.planes)
            for plane, news in zip(planes, other[site].planes, strict=True):
                plane[rows] = news
            decisions[site] = entry.with_planes(planes)
        gates = {}
        for site, gate in self.gates.items():
            planes = tuple(plane.clone() for plane in gate.planes)
            for plane, news in zip(planes, other.gates[site].planes, strict=True):
                plane[rows] = news
            gates[site] = gate.with_planes(planes)
        return replace(self, decisions=decisions, gates=gates)

    def flipped(self, site: Sequence[str | None], position: Tensor, choice: Tensor) -> Trail:
        """A new trail in which one decision of every image is another.

        site: one call site per image, None where nothing changes; position and choice (B,) int64:
        the decision's flat position there and what it becomes (its planes' binary digits).
        """
        decisions = dict(self.decisions)
        for name in {name for name in site if name is not None}:
            rows = torch.tensor([n for n, own in enumerate(site) if own == name])
            rows = rows.to(position.device)
            decisions[name] = self[name].with_choice(rows, position[rows], choice[rows])
        return replace(self, decisions=decisions)

    def to(self, device: torch.device | str) -> Trail:
        """The same trail on another device."""
        return self.with_planes(lambda plane: plane.to(device), rows=self.rows)

    def with_planes(self, change: Callable[[Tensor], Tensor], *, rows: int) -> Trail:
        """The same sites with every plane changed, those of decisions first; `rows` images."""
        changed = {
            site: entry.with_planes(tuple(change(plane) for plane in entry.planes))
            for site, entry in self.items()
        }
        gates = {
            site: gate.with_planes(tuple(change(plane) for plane in gate.planes))
            for site, gate in self.gates.items()
        }
        return Trail(changed, self.header, rows, gates)

    @property
    def sites(self) -> tuple[str, ...]:
        """The call sites, in order of execution, of decisions and then of smooth operators."""
        return (*self, *self.gates)

    def same(self, other: Trail) -> Tensor:
        """Whether T(X) = T(Z), bool (B,); one row on either side is compared with every row."""
        self._check_comparable(other)
        verdict = torch.ones(max(self.rows, other.rows), dtype=torch.bool)
        if self.sites != other.sites or (self._branches and not self._matches(other)):
            return ~verdict
        for site, entry in self.items():
            verdict &= entry.same(other[site]).cpu()
        for site, gate in self.gates.items():
            verdict &= gate.same(other.gates[site])
        return verdict

    def hamming(self, other: Trail) -> dict[str, Tensor]:
        """Number of decisions that differ, per call site, int64 (B,).

        Where the two take different branches, all decisions of a call site that the other does not
        have count as different.
        """
        self._check_comparable(other)
        rows = max(self.rows, other.rows)
        return {
            site: entry.differs(other[site]).reshape(-1, entry.count).sum(1).cpu().expand(rows)
            if entry.matches(other.decisions.get(site))
            else torch.full((rows,), entry.count)
            for site, entry in self.items()
        }

    def distance(self, other: Trail) -> Distance:
        """How many decisions differ, layer by layer, in a form to print and to read off."""
        counts = {site: entry.count for site, entry in self.items()}
        return Distance(self.hamming(other), counts, max(self.rows, other.rows))

    def pairs(self) -> PairwiseDistances:
        """How many decisions every two images of this trail take differently, layer by layer."""
        planes = {site: [plane.cpu().numpy() for plane in e.planes] for site, e in self.items()}
        return PairwiseDistances.of(
            planes, {site: entry.count for site, entry in self.items()}, self.rows
        )

    def first_difference(self, other: Trail) -> list[Difference | None]:
        """The first differing decision of every row, or None where the trails are the same."""
        self._check_comparable(other)
        found: list[Difference | None] = [None] * max(self.rows, other.rows)
        for (site, entry), theirs in zip_longest(self.items(), other, fillvalue=("", None)):
            if site != theirs or entry is None or not entry.matches(other[site]):
                there = Difference(site or str(theirs), ())  # the two have parted before
                return [there if one is None else one for one in found]
            if all(found) or bool(entry.same(other[site]).all()):
                continue
            differs = entry.differs(other[site])
            for row, mask in enumerate(differs):
                if found[row] is None and bool(mask.any()):
                    position = np.unravel_index(int(mask.flatten().int().argmax()), entry.shape)
                    found[row] = Difference(site, tuple(int(i) for i in position))
        return found

    def _check_sites(self, other: Trail) -> None:
        if self.sites != other.sites:
            raise InputError("the two trails come from different networks")

    @property
    def _branches(self) -> bool:
        """Whether the run took branches: the next image may take others, with other sites."""
        entries = [entry.kind for entry in self.values()]
        return "told" in entries or any(gate.convention == "told" for gate in self.gates.values())

    def _matches(self, other: Trail) -> bool:
        """Whether call sites of one name are of one size: in other branches they need not be."""
        decisions = all(entry.matches(other[site]) for site, entry in self.items())
        return decisions and all(
            gate.matches(other.gates[site]) for site, gate in self.gates.items()
        )

    def without_branches(self) -> Trail:
        """The same without what Python was told: programs in other precisions do not tell it."""
        decisions = {site: own for site, own in self.items() if own.kind != "told"}
        gates = {site: own for site, own in self.gates.items() if own.convention != "told"}
        return replace(self, decisions=decisions, gates=gates)

    def _check_comparable(self, other: Trail) -> None:
        if not (self._branches and other._branches):
            self._check_sites(other)
            if not all(entry.matches(other[site]) for site, entry in self.items()):
                raise InputError("the two trails come from different networks or image sizes")
        if self.rows != other.rows and 1 not in (self.rows, other.rows):
            raise InputError(f"trails of {self.rows} and {other.rows} images cannot be compared")

    @classmethod
    def concatenate(cls, trails: list[Trail]) -> Trail:
        """Trails of the same network one after the other."""
        first = trails[0]
        if len(trails) == 1:
            return first

        def joined(parts: Sequence[Any]) -> Any:
            planes = zip(*(part.planes for part in parts), strict=True)
            return parts[0].with_planes(tuple(torch.cat(own) for own in planes))

        decisions = {site: joined([trail[site] for trail in trails]) for site in first}
        gates = {site: joined([trail.gates[site] for trail in trails]) for site in first.gates}
        return cls(decisions, first.header, sum(trail.rows for trail in trails), gates)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """The trail as plain arrays: one JSON text and the packed bytes of every plane."""

        def arrays(planes: Sequence[Tensor]) -> tuple[np.ndarray, ...]:
            return tuple(plane.cpu().numpy() for plane in planes)

        sites = tuple(
            StoredSite(site, e.kind, e.shape, arrays(e.planes), e.merged)
            for site, e in self.items()
        )
        gates = tuple(
            StoredGate(site, g.convention, arrays(g.planes), g.merged)
            for site, g in self.gates.items()
        )
        return StoredTrail(self.header, self.rows, sites, gates).arrays()

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], name: str = "the trail") -> Trail:
        """Inverse of `to_arrays`; `name` is what an InputError calls it.

        Raises InputError where arrays are missing, of another type or of another size than the
        JSON text says.
        """
        stored = StoredTrail.of_arrays(arrays, name)

        def tensors(planes: Sequence[np.ndarray]) -> tuple[Tensor, ...]:
            return tuple(torch.from_numpy(np.array(plane)) for plane in planes)

        decisions = {
            s.site: Decisions(s.kind, s.shape, tensors(s.planes), s.merged) for s in stored.sites
        }
        gates = {g.site: Gates(g.convention, tensors(g.planes), g.merged) for g in stored.gates}
        return cls(decisions, stored.header, stored.rows, gates)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the trail alone as a NumPy archive, without pickle (docs/formats.md).

        The file appears whole or not at all. Raises InputError when it cannot be written.
        """
        content = io.BytesIO()
        np.savez(content, **self.to_arrays())  # type: ignore[arg-type]
        write_atomically(Path(path), content.getvalue())
        return Path(path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Trail:
        """Read what `save` wrote, or the trail in the arrays.npz of a saved explanation.

        Raises InputError where there is no such file, or another or a damaged one.
        """
        try:
            arrays = read_arrays(path, wanted=lambda name: name.partition(".")[0] in ARRAYS)
            return cls.from_arrays(arrays, str(path))
        except InputError as error:
            raise InputError(f"{path} holds no trail, or a damaged one: {error}") from error
