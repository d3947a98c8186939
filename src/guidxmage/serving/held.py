"""One explained photo as the server holds it: numbers, scene, what a list says of it."""

from __future__ import annotations

import io
import secrets
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from guidxmage.attribution.archive import KIND, OBJECTS, read_result, restored
from guidxmage.errors import InputError
from guidxmage.explanation import Explanation
from guidxmage.files.names import brief, shown
from guidxmage.files.result_folder import read_mark
from guidxmage.files.untrusted import Array, checked_array, entry, listed, optional, read_arrays
from guidxmage.objects.label_map import BACKGROUND, LabelMap
from guidxmage.viewer.scene import Scene, scene_of

_THUMBNAIL = 320
_WHOLE_NUMBERS = "uint8 uint16 uint32 int32"
_TEXT = 200  # characters of what a result says of itself, at most


@dataclass(eq=False)
class Held:
    """An explanation and what the viewer is fed with of it.

    model: SHA-256 of the network it was made with, where it was read from a folder; joined: whether
    its explanation has the network at hand. obstacle: why there are no questions to be asked, "" as
    a rule. lock: taken by whoever changes it.
    """

    name: str
    explanation: Explanation
    regions: LabelMap | None
    scene: Scene
    summary: dict[str, Any]
    model: str | None = None
    joined: bool = True
    obstacle: str = ""
    tag: str = field(default_factory=lambda: secrets.token_hex(8))
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def nbytes(self) -> int:
        """About how much memory it takes."""
        arrays = sum(values.nbytes for values in self.scene.arrays.values())
        return 2 * arrays + self.explanation.trail.nbytes


def held_of(
    explanation: Explanation,
    regions: LabelMap | None,
    name: str,
    source: str,
    evidence: Mapping[str, Any],
) -> Held:
    """What was explained just now. source: of the objects, "auto" or where they came from."""
    parts = explanation.split()
    table = None if regions is None else parts[0].table(regions).to_dict()
    scene = scene_of(explanation, regions, name=name, regions_from=source, evidence=evidence)
    target = scene.manifest["targets"][0]
    summary = _summary(target, scene.manifest["network"], table, source)
    return Held(name, explanation, regions, scene, summary)


# --- results that `guid-xmage explain` wrote -----------------------------------------------------


def summary_of_saved(folder: Path) -> tuple[str, dict[str, Any]]:
    """The photo's name and what a list says of a result, from its manifest alone.

    Raises InputError where there is no explanation, or a damaged one.
    """
    manifest = read_mark(folder, KIND)
    if manifest is None:
        raise InputError(f"{folder} holds no saved explanation")
    name = str(folder)
    model = entry(manifest, "model", dict, name)
    network, weights = (entry(model, key, str, name) for key in ("name", "weights"))
    results = listed(manifest, "results", dict, name)
    tables = optional(manifest, "objects", list, name) or [None]
    if not results:
        raise InputError(f"{name} states no result")
    source = optional(manifest, "objects_from", str, name) or ""
    summary = _summary(
        {key: results[0].get(key) for key in ("name", "score", "residual")},
        f"{network} ({weights})" if weights else network,
        tables[0] if tables and isinstance(tables[0], dict) else None,
        source,
    )
    return _photo_name(manifest, folder), summary


def open_saved(folder: Path) -> Held:
    """A result from its folder, without its network. Raises InputError."""
    manifest, arrays = read_result(folder)
    explanation = Explanation.of(restored(manifest, arrays, folder))
    regions, source = _saved_regions(manifest, arrays, explanation, folder)
    name, summary = _photo_name(manifest, folder), summary_of_saved(folder)[1]
    scene = scene_of(
        explanation,
        regions,
        name=name,
        regions_from=source,
        evidence=_evidence(manifest, folder),
    )
    held = Held(name, explanation, regions, scene, summary, joined=False)
    stated = optional(manifest, "fingerprints", dict, str(folder)) or {}
    held.model = optional(stated, "model", str, str(folder))
    if "integrated_gradients" in manifest:
        held.obstacle = (
            "integrated gradients are of a line of images; questions go to explanations of one"
        )
    return held


def saved_picture(folder: Path) -> Image.Image | None:
    """The picture in a result's folder, alone. Raises InputError."""
    arrays = read_arrays(folder / "arrays.npz", lambda name: name == "picture.0")
    if not arrays:
        return None
    found = checked_array(arrays, "picture.0", "uint8", (None, None, 3), str(folder))
    return Image.fromarray(found) if found.size else None


def thumbnail(picture: Image.Image | None) -> bytes:
    """A small PNG; grey where there is nothing to be shown."""
    small = Image.new("RGB", (4, 3), "grey") if picture is None else picture.convert("RGB")
    small.thumbnail((_THUMBNAIL, _THUMBNAIL))
    file = io.BytesIO()
    small.save(file, "PNG")
    return file.getvalue()


def _photo_name(manifest: Mapping[str, Any], folder: Path) -> str:
    stated = manifest.get("photo")
    return brief(Path(stated).name if isinstance(stated, str) and stated else folder.name)


def _saved_regions(
    manifest: Mapping[str, Any], arrays: Mapping[str, Array], explanation: Explanation, folder: Path
) -> tuple[LabelMap | None, str]:
    if OBJECTS not in arrays:
        return None, ""
    name = str(folder)
    size = tuple(explanation.contributions.shape[-2:])
    labels = checked_array(arrays, OBJECTS, _WHOLE_NUMBERS, size, name)
    tables = optional(manifest, "objects", list, name) or []
    rows = listed(tables[0], "rows", dict, name) if tables else []
    names = {entry(row, "label", int, name): entry(row, "name", str, name) for row in rows}
    source = optional(manifest, "objects_from", str, name) or "saved"
    return LabelMap(labels, names), brief(source, _TEXT)


def _evidence(manifest: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """What a result states of how it can be checked."""
    kept = ("photo_sha256", "versions", "fingerprints", "certificate", "seconds", "digest")
    found = {key: manifest[key] for key in kept if manifest.get(key) is not None}
    return {**found, "verify": f"guid-xmage verify {shown(folder)}"}


# --- what a list says ----------------------------------------------------------------------------


def _summary(
    target: Mapping[str, Any], network: str, table: Mapping[str, Any] | None, source: str
) -> dict[str, Any]:
    score = _number(target.get("score"))
    objects, background = _shares(table, score, source)
    return {
        "target": brief(target.get("name"), _TEXT),
        "network": brief(network, _TEXT),
        "score": score,
        "residual": _number(target.get("residual")),
        "object_share": objects,
        "background_share": background,
    }


def _shares(
    table: Mapping[str, Any] | None, score: float | None, source: str
) -> tuple[float | None, float | None]:
    """Which part of the score lies on the objects, and on the background.

    There is none of either where the regions were cut by colour.
    """
    rows = table.get("rows") if isinstance(table, Mapping) else None
    if source == "auto" or not score or not isinstance(rows, list):
        return None, None
    shares = [0.0, 0.0]
    for row in rows:
        own = _number(row.get("whole", row.get("sum"))) if isinstance(row, Mapping) else None
        if own is None:
            return None, None
        shares[row.get("label") == BACKGROUND] += own / score
    return shares[0], shares[1]


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None
