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

from guidxmage.attribution.archive import KIND, read_result, restored
from guidxmage.errors import InputError
from guidxmage.explanation import Explanation
from guidxmage.files.names import brief
from guidxmage.files.result_folder import read_mark
from guidxmage.files.untrusted import checked_array, entry, listed, optional, read_arrays
from guidxmage.jobs.saved_scene import (
    photo_name,
    saved_evidence,
    saved_regions,
    shares,
    summary_of,
)
from guidxmage.objects.label_map import LabelMap
from guidxmage.serving.questions import HELD
from guidxmage.viewer.scene import Scene, scene_of

_THUMBNAIL = 320
_WHOLE_NUMBERS = "uint8 uint16 uint32 int32"
_TEXT = 200  # characters of what a result says of itself, at most


@dataclass(eq=False)
class Held:
    """An explanation and what the viewer is fed with of it.

    added: explanations of further targets that were asked for.
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
    added: list[Explanation] = field(default_factory=list)
    tag: str = field(default_factory=lambda: secrets.token_hex(8))
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def nbytes(self) -> int:
        """About how much memory it takes."""
        arrays = sum(values.nbytes for values in self.scene.arrays.values())
        trails = (1 + len(self.added)) * self.explanation.trail.nbytes
        return HELD * arrays + trails


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
    about = {} if table is None else {"objects": [table], "objects_from": source}
    return Held(name, explanation, regions, scene, summary_of(scene, about))


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
    if not results:
        raise InputError(f"{name} states no result")
    score, residual = (_number(results[0].get(key)) for key in ("score", "residual"))
    objects, background = shares(manifest, score)
    photo = photo_name(manifest, folder)
    return photo, {
        "name": photo,
        "network": brief(f"{network} ({weights})" if weights else network, _TEXT),
        "target": brief(results[0].get("name"), _TEXT),
        "score": score,
        "residual": residual,
        "object_share": objects,
        "background_share": background,
    }


def open_saved(folder: Path) -> Held:
    """A result from its folder, without its network. Raises InputError."""
    manifest, arrays = read_result(folder)
    explanation = Explanation.of(restored(manifest, arrays, folder))
    regions = saved_regions(manifest, arrays, explanation, folder)
    name = photo_name(manifest, folder)
    scene = scene_of(
        explanation,
        regions,
        name=name,
        regions_from=brief(optional(manifest, "objects_from", str, str(folder)) or "", _TEXT),
        evidence=saved_evidence(manifest, folder),
    )
    held = Held(name, explanation, regions, scene, summary_of(scene, manifest), joined=False)
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


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None
