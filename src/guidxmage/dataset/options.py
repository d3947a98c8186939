"""How every photo of a data set is explained, and what its rows are told by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from guidxmage.errors import InputError

LABEL = "label"
"""The target that is each photo's own true label."""
Maps = Literal["summed", "channels"]


@dataclass(frozen=True)
class DatasetOptions:
    """How every photo is explained.

    target: as `Explainer.explain` has it, or "label" for each photo's true label. objects: masks, a
    folder of them that mirrors the photos or is flat, a COCO or a VOC file; None where they come
    with the source, or there are none. reference: as `explain` has it. depth: where the network is
    cut for the whole map that is summed over objects, beside "input"; None for no whole maps.
    ambiguous: count the ambiguous decisions of each photo, by a second run in float64. maps:
    "summed" over channels or with "channels": also keep the contributions as arrays. previews: also
    keep small pictures. threads: of each worker; how many workers there are changes no result, but
    this may, in its last digits. block: photos in one block, by default from 32 to 256 by their
    number.
    """

    target: Any = "top1"
    objects: Path | None = None
    reference: Any = None
    depth: Any = "default"
    ambiguous: bool = False
    maps: Maps | None = None
    previews: bool = False
    threads: int = 1
    block: int | None = None
    source: Mapping[str, str] = field(default_factory=dict)
    """How the network was named, for a report that explains photos again."""

    def __post_init__(self) -> None:
        if self.maps not in (None, "summed", "channels"):
            raise InputError(f"maps is {self.maps!r}; choose 'summed' or 'channels'")
        for name, value in (("threads", self.threads), ("block", self.block or 1)):
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 2**20:
                raise InputError(f"{name} is {value!r}; give a whole number, 1 or more")

    def block_of(self, photos: int) -> int:
        """Photos in one block of a data set that begins with so many."""
        if self.block is not None:
            return self.block
        return min(max(-(-photos // 64 // 32) * 32, 32), 256)

    def told(self) -> dict[str, Any]:
        """What rows depend on, as JSON values; a difference makes another data set."""
        from guidxmage.provenance import fingerprint

        return {
            "target": _told(self.target),
            "objects": None if self.objects is None else str(self.objects),
            "reference": "zero" if self.reference is None else _told(self.reference),
            "depth": _told(self.depth),
            "ambiguous": self.ambiguous,
            "maps": self.maps,
            "previews": self.previews,
            "threads": self.threads,
            "digest": fingerprint.of_values(
                [self.target, self._reference(), self.depth, self._masks()]
            ),
        }

    def _masks(self) -> str | None:
        """Of one file with the masks of many photos; those in a folder are told by the photos."""
        from guidxmage.provenance import fingerprint

        one = self.objects is not None and self.objects.is_file()
        return fingerprint.of_photo(self.objects) if self.objects and one else None

    def _reference(self) -> Any:
        from guidxmage.provenance import fingerprint

        given = self.reference
        return fingerprint.of_photo(given) if isinstance(given, Path) else given


def _told(value: Any) -> Any:
    """A value as JSON has it, or its text."""
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, list | tuple) and len(value) <= 100:
        return [_told(one) for one in value]
    return " ".join(str(value).split())[:200]
