"""Results of `guid-xmage explain` for the viewer, and what a list says of each."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from guidxmage.attribution.archive import OBJECTS, SCHEMA, read_result, restored
from guidxmage.attribution.attribution import Attribution
from guidxmage.errors import InputError
from guidxmage.files.names import brief, shown
from guidxmage.files.untrusted import Array, checked_array, entry, listed, optional
from guidxmage.jobs.verify_result import read_manifest_text
from guidxmage.objects.label_map import BACKGROUND, LabelMap
from guidxmage.viewer.scene import Scene, scene_of

_WHOLE_NUMBERS = "uint8 uint16 uint32 int32"
_TEXT = 200  # characters of what a result says of itself, at most
_STATED = ("photo_sha256", "versions", "fingerprints", "certificate", "seconds", "digest")
_JOINT = "guid-xmage/joint-explanation/"


def saved_scene(folder: Path) -> tuple[Scene, dict[str, Any]]:
    """What the viewer is fed with of a result, and what a list says of it, see `summary_of`.

    Raises InputError where there is no explanation with arrays, a damaged one, or one that the
    viewer does not show: of a signal, a video or several inputs.
    """
    _refuse_joint(folder)
    manifest, arrays = read_result(folder)
    explanation = restored(manifest, arrays, folder)
    regions = saved_regions(manifest, arrays, explanation, folder)
    scene = scene_of(
        explanation,
        regions,
        name=photo_name(manifest, folder),
        regions_from=brief(optional(manifest, "objects_from", str, str(folder)) or "", _TEXT),
        evidence=saved_evidence(manifest, folder),
    )
    return scene, summary_of(scene, manifest)


def _refuse_joint(folder: Path) -> None:
    manifest, _ = read_manifest_text(folder)
    if str(manifest.get("schema", "")).startswith(_JOINT):
        raise InputError(
            f"{folder} holds a joint explanation of several inputs; the viewer shows pictures of "
            "one input"
        )


def photo_name(manifest: Mapping[str, Any], folder: Path) -> str:
    """The name of the photo's file, or of the result's folder where that is not stated."""
    stated = manifest.get("photo")
    return brief(Path(stated).name if isinstance(stated, str) and stated else folder.name, _TEXT)


def saved_regions(
    manifest: Mapping[str, Any], arrays: Mapping[str, Array], explanation: Attribution, folder: Path
) -> LabelMap | None:
    """The label map of a result, with the names that its tables give. Raises InputError."""
    if OBJECTS not in arrays:
        return None
    name = f"the result in {folder}"
    size = tuple(explanation.contributions.shape[-2:])
    labels = checked_array(arrays, OBJECTS, _WHOLE_NUMBERS, size, name)
    tables = listed(manifest, "objects", dict, name) if "objects" in manifest else []
    rows = listed(tables[0], "rows", dict, name) if tables else []
    names = {entry(row, "label", int, name): entry(row, "name", str, name) for row in rows}
    return LabelMap(labels, names, seen=True)


def saved_evidence(manifest: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """What a result states of how it came about, and how to have it checked, where it can be."""
    found = {key: manifest[key] for key in _STATED if manifest.get(key) is not None}
    if manifest.get("schema") == SCHEMA and "integrated_gradients" not in manifest:
        place = shown(folder)
        place = f"./{place}" if place.startswith("-") else place  # no option
        found["verify"] = f"guid-xmage verify {shlex.quote(place)}"
    return found


def summary_of(scene: Scene, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What a list says of a result: of its first target.

    object_share, background_share: which part of the score lies on the objects and on label 0, of
    the whole map where there is one and else of the pixels; None without masks of objects.
    """
    first = scene.manifest["targets"][0]
    objects, background = shares(manifest, first["score"])
    return {
        "name": scene.manifest["name"],
        "network": brief(scene.manifest["network"], _TEXT),
        "target": brief(first["name"], _TEXT),
        "targets": len(scene.manifest["targets"]),
        "score": first["score"],
        "residual": first["residual"],
        "residual_bound": first["residual_bound"],
        "object_share": objects,
        "background_share": background,
    }


def shares(manifest: Mapping[str, Any], score: float | None) -> tuple[float | None, float | None]:
    """Of the first target, by its table of objects. Regions cut by colour are no objects."""
    tables = manifest.get("objects")
    table = tables[0] if isinstance(tables, list) and tables else None
    rows = table.get("rows") if isinstance(table, Mapping) else None
    if manifest.get("objects_from") == "auto" or not score or not isinstance(rows, list):
        return None, None
    sums = {True: 0.0, False: 0.0}
    for row in rows:
        value = row.get("whole", row.get("sum")) if isinstance(row, Mapping) else None
        if not isinstance(value, int | float) or not math.isfinite(value):
            return None, None
        sums[row.get("label") == BACKGROUND] += float(value) / score
    return sums[False], sums[True]
