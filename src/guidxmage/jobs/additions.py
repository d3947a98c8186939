"""What `guid-xmage explain` adds to a result, made again: objects, pictures, radii …"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from guidxmage.attribution.archive import OBJECTS
from guidxmage.errors import InputError, MissingExtraError, UnsupportedOperatorError
from guidxmage.explanation import Explanation
from guidxmage.files.untrusted import Array, checked_array, entry, listed, optional, read_json
from guidxmage.jobs.certificate_check import compared_certificates
from guidxmage.jobs.drawing import MAPS, Drawing, draw, drawn_alike, pictures_of
from guidxmage.jobs.explain_photos import CERTIFICATE, radius_of
from guidxmage.objects.label_map import LabelMap
from guidxmage.proof.certificate import Certificate
from guidxmage.provenance import fingerprint

# name, whether it passed (None: no evidence), and a few words.
Finding = tuple[str, bool | None, str]
_LONGEST = 300  # characters of a photo's name, at most
_WHOLE_NUMBERS = "uint8 uint16 uint32 int32"


@dataclass(frozen=True)
class Additions:
    """Of one result: its manifest and arrays as read, and the explanation in them."""

    folder: Path
    manifest: Mapping[str, Any]
    arrays: Mapping[str, Array]
    explanation: Explanation
    photo: Path | None

    def expected(self) -> dict[str, Any]:
        """The added entries of the manifest, as far as it has them.

        Raises InputError for entries that are of another form than `guid-xmage explain` writes.
        """
        makers: dict[str, Callable[[], Any]] = {
            "photo": lambda: self.manifest["photo"],
            "photo_sha256": self._photo,
            "provenance": self._provenance,
            "seconds": lambda: self.manifest["seconds"],
            "certificate_seconds": lambda: self.manifest["certificate_seconds"],
            "top": self._top,
            "objects": self._objects,
            "objects_from": lambda: self.manifest["objects_from"],
            "sentences": self._sentences,
            "pictures": self._picture_files,
            "drawing": self._drawn,
            "radius": lambda: self._radius[0],
            "source": lambda: self.manifest["source"],
            "certificate": self._lines,
        }
        return {key: make() for key, make in makers.items() if key in self.manifest}

    def _provenance(self) -> dict[str, Any]:
        stated = self.manifest["provenance"]
        if not isinstance(stated, dict):
            raise InputError("provenance is no table")
        return {**stated, "photo": self.manifest.get("photo_sha256")}

    def findings(self, certificates: Sequence[Certificate]) -> list[Finding]:
        """What else there is to be looked at, beside the manifest."""
        found = []
        if OBJECTS in self.arrays or "objects" in self.manifest:
            found.append(self._label_map())
        if "pictures" in self.manifest:
            found.append(self._pictures())
        if "certificate" in self.manifest:
            found.append(self._certificate_file(certificates))
        return found

    @property
    def _name(self) -> str:
        return f"the result in {self.folder}"

    def _photo(self) -> str | None:
        return None if self.photo is None else fingerprint.of_file(self.photo)

    def _top(self) -> list[dict[str, Any]]:
        best = self.explanation.top()
        return [{"class": index, "name": name, "score": score} for index, name, score in best]

    # --- objects -----------------------------------------------------------------------------

    @cached_property
    def _regions(self) -> LabelMap | None:
        """The label map, with the names that the tables give; None where there is none."""
        if OBJECTS not in self.arrays:
            return None
        size = tuple(self.explanation.contributions.shape[-2:])
        labels = checked_array(self.arrays, OBJECTS, _WHOLE_NUMBERS, size, self._name)
        tables = listed(self.manifest, "objects", dict, self._name)
        rows = listed(tables[0], "rows", dict, self._name) if tables else []
        names = {
            entry(row, "label", int, self._name): entry(row, "name", str, self._name)
            for row in rows
        }
        return LabelMap(labels, names, seen=True)

    def _objects(self) -> list[dict[str, Any]]:
        """The tables, summed again from contributions and label map."""
        regions = self._regions
        if regions is None:
            raise InputError(f"{self._name} has tables of objects without their label map")
        return [part.table(regions).to_dict() for part in self.explanation.split()]

    def _sentences(self) -> list[str]:
        return [part.sentence(self._regions) for part in self.explanation.split()]

    def _label_map(self) -> Finding:
        """Whether a label map that was found by segmentation is found again."""
        regions = self._regions
        if regions is None or "objects" not in self.manifest:
            return "objects", False, "the label map and the tables do not go together"
        if self.manifest.get("objects_from") != "auto":
            return "objects", None, "which pixels are an object's: masks were given"
        try:
            again = self.explanation.regions("auto")
        except MissingExtraError as error:
            return "objects", None, str(error)
        same = np.array_equal(again.labels, regions.labels) and again.names == regions.names
        if same or drawn_alike(self._described):
            return "objects", same, f"{'as' if same else 'not as'} the picture is segmented"
        return "objects", None, "the picture was segmented with other versions"

    # --- pictures ----------------------------------------------------------------------------

    @property
    def _described(self) -> dict[str, Any]:
        return optional(self.manifest, "drawing", dict, self._name) or {}

    @cached_property
    def _radius(self) -> tuple[dict[str, Any], str]:
        try:
            return radius_of(self.explanation)
        except UnsupportedOperatorError as error:
            raise InputError(f"{self._name} states radii that there are not: {error}") from error

    def _drawing(self) -> Drawing:
        """As the manifest says; the note is that of the radii."""
        described, name = self._described, self._name
        style = entry(described, "style", str, name)
        scales = [optional(described, key, float, name) for key in ("scale", "whole_scale")]
        map_ = entry(described, "map", str, name)
        if style not in ("bands", "continuous") or map_ not in MAPS:
            raise InputError(f"{name} states no drawing: {style!r} of {map_!r}")
        if not all(scale is None or 0 < scale < inf for scale in scales):
            raise InputError(f"{name} states no drawing: at scales of {scales}")
        photo, date = (entry(described, key, str, name)[:_LONGEST] for key in ("photo", "date"))
        note = self._radius[1] if "radius" in self.manifest else ""
        return Drawing(style, scales[0], note, scales[1], map_, photo, date)  # type: ignore[arg-type]

    def _picture_files(self) -> dict[str, str]:
        return pictures_of(placed=bool(self.explanation.placements))

    def _drawn(self) -> dict[str, Any]:
        """What the manifest says of the drawing; the versions are no evidence."""
        return {**self._drawing().to_json(), "versions": self._described.get("versions")}

    def _pictures(self) -> Finding:
        """Whether the pictures are drawn again pixel by pixel."""
        with tempfile.TemporaryDirectory() as scratch:
            try:
                draw(self.explanation, self._regions, Path(scratch), self._drawing())
            except MissingExtraError as error:
                return "picture files", None, str(error)
            other = [
                name
                for name in self._picture_files().values()
                if not _same_picture(self.folder / name, Path(scratch) / name)
            ]
        if not other:
            return "picture files", True, "drawn again, the same pixel by pixel"
        words = f"{', '.join(other)}: drawn again {'is' if len(other) == 1 else 'are'} different"
        if drawn_alike(self._described):
            return "picture files", False, words
        return "picture files", None, f"{words}, but other versions are installed than drew them"

    # --- certificates ------------------------------------------------------------------------

    @cached_property
    def _stored_certificates(self) -> list[dict[str, Any]]:
        stored = read_json(self.folder / CERTIFICATE)
        return listed({CERTIFICATE: stored}, CERTIFICATE, dict, self._name)

    def _lines(self) -> list[str]:
        return [entry(one, "line", str, CERTIFICATE) for one in self._stored_certificates]

    def _certificate_file(self, certificates: Sequence[Certificate]) -> Finding:
        """Whether stored certificates say what new ones do, but for their primes."""
        stored, new = self._stored_certificates, [one.to_json() for one in certificates]
        if len(stored) != len(new):
            return CERTIFICATE, False, f"{len(stored)} certificates where there are {len(new)}"
        found = [compared_certificates(*pair) for pair in zip(stored, new, strict=True)]
        failed = [detail for passed, detail in found if passed is False]
        unknown = [detail for passed, detail in found if passed is None]
        if failed:
            return CERTIFICATE, False, failed[0]
        if unknown:
            return CERTIFICATE, None, unknown[0]
        return CERTIFICATE, True, "it says what a new certificate says, with other primes"


def _same_picture(stored: Path, drawn: Path) -> bool:
    """Pixel by pixel; of the same size, before anything is unpacked."""
    try:
        with Image.open(stored) as one, Image.open(drawn) as other:
            if (one.size, one.mode, one.format) != (other.size, other.mode, other.format):
                return False
            if getattr(one, "n_frames", 1) != 1:
                return False
            return np.array_equal(np.asarray(one), np.asarray(other))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False
