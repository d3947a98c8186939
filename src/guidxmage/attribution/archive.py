"""Explanations as files: manifest.json beside arrays.npz, nothing pickled.

What is read is checked against docs/formats.md before anything relies on it.
"""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from guidxmage.attribution.attribution import TENSORS, Attribution
from guidxmage.attribution.meaning_archive import meaning_entry, meanings_in, output_entry
from guidxmage.attribution.placement_archive import (
    depth_entries,
    placement_arrays,
    restored_placements,
    result_entries,
)
from guidxmage.engine.symbolic import SymbolicModel
from guidxmage.engine.trail.trail import Trail
from guidxmage.errors import InputError
from guidxmage.files.atomic import MANIFEST
from guidxmage.files.result_folder import Kind
from guidxmage.files.untrusted import (
    LARGEST_MARK,
    Array,
    checked_array,
    entry,
    listed,
    optional,
    parsed_json,
    read_arrays,
    read_json,
    shape_of,
)
from guidxmage.inputs.preprocessing import Preprocessing
from guidxmage.provenance import fingerprint
from guidxmage.provenance.versions import __version__

SCHEMA = "guid-xmage/explanation/3"
# The first one kept no reference, and said less of its pictures and objects; the second did not
# name the reference, which was black unless given.
READABLE = (SCHEMA, "guid-xmage/explanation/2", "guid-xmage/explanation/1")
ARRAYS = "arrays.npz"
# Of the arrays that the command line adds.
OBJECTS = "objects"
_EXACTNESS = 100  # characters, at most
KIND = Kind((*READABLE, "guid-xmage/joint-explanation/1"))
"""What folders of saved explanations are told by."""


def manifest_of(explanation: Attribution) -> dict[str, Any]:
    """Everything but the arrays, ready for JSON."""
    trail, described = explanation.trail, explanation.preprocessing
    return {
        "schema": SCHEMA,
        "versions": {
            "guid-xmage": __version__,
            "torch": str(torch.__version__),
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "model": {
            "name": explanation.model_name,
            "weights": explanation.weights_source,
            "classes": explanation.logits.shape[-1],
            "labels": explanation.labels,
            **output_entry(explanation.output),
        },
        "photo_sizes": [list(size) for size in explanation.photo_sizes],
        "space": explanation.space,
        "reference": explanation.reference_name,
        "preprocessing": described.to_dict() if described else None,
        "input_shape": list(explanation.input.shape[explanation.batched :]),
        "batched": explanation.batched,
        "several": explanation.several,
        "exactness": explanation.exactness,
        "trail": {
            "call_sites": len(trail),
            "decisions_per_image": trail.count,
            "gates_per_image": sum(gate.count for gate in trail.gates.values()),
            "bytes": trail.nbytes,
            **trail.header,
        },
        "fingerprints": _fingerprints(explanation),
        **({"depths": depth_entries(explanation.placements)} if explanation.placements else {}),
        "results": [_result(part) for part in explanation.split()],
    }


def _fingerprints(explanation: Attribution) -> dict[str, str | None]:
    """SHA-256 of the network, where it is at hand, of the images and of the trail."""
    network = explanation.symbolic_model.network
    model = None if network is None else network.model
    return {
        "model": None if model is None else fingerprint.of_model(model),
        "image": fingerprint.of_tensor(explanation.input),
        "trail": fingerprint.of_planes(explanation.trail, explanation.trail.gates),
    }


def _result(part: Attribution) -> dict[str, Any]:
    against, total = int(part.against), float(part.contributions.sum(dtype=torch.float64))
    return {
        "target": int(part.target),
        "against": against if against >= 0 else None,
        "name": part.target_name,
        **meaning_entry(part.meaning),
        "score": float(part.score),
        "contribution_sum": total,
        "bias": float(part.bias),
        "residual": float(part.residual),
        "residual_bound": float(part.residual_bound),
        "bias_by_layer": {site: float(value) for site, value in part.bias_by_layer.items()},
        **(result_entries(part.placements, total) if part.placements else {}),
    }


def write_explanation(
    explanation: Attribution,
    folder: Path,
    extra: Mapping[str, Any] | None = None,
    *,
    arrays: bool = True,
    objects: Array | None = None,
) -> dict[str, Any]:
    """Write manifest and, unless told otherwise, arrays into an existing folder.

    `extra` entries join the manifest, which is returned. It states the SHA-256 of every file that
    is in the folder by then, and of itself. objects: the label map (H, W) that the tables of
    objects among the `extra` entries are of.
    """
    if arrays:
        more = {} if objects is None else {OBJECTS: _narrow(objects)}
        np.savez(folder / ARRAYS, **{**_arrays(explanation), **more})
    manifest = {**manifest_of(explanation), **(extra or {}), "arrays": ARRAYS if arrays else None}
    files = sorted(path for path in folder.iterdir() if path.name != MANIFEST)
    manifest["files"] = {path.name: fingerprint.of_file(path) for path in files}
    (folder / MANIFEST).write_text(signed(manifest), encoding="utf-8")
    return manifest


def signed(manifest: dict[str, Any]) -> str:
    """A manifest as text, with a digest of all the rest in `digest`, which is set in place."""
    manifest["digest"] = ""
    text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
    manifest["digest"] = fingerprint.of_text(text)
    return _NO_DIGEST.sub(f'"digest": "{manifest["digest"]}"', text)


def is_signed(text: str) -> bool:
    """Whether a manifest's text is as `signed` wrote it."""
    stated = _DIGEST.search(text)
    return (
        stated is not None and fingerprint.of_text(_DIGEST.sub('"digest": ""', text)) == stated[1]
    )


# At the end of a manifest; quotation marks inside of texts are escaped.
_NO_DIGEST = re.compile(r'"digest": ""(?=\n}\n$)')
_DIGEST = re.compile(r'"digest": "([0-9a-f]{64})"(?=\n}\n$)')


def _arrays(explanation: Attribution) -> dict[str, Any]:
    model, by_layer = explanation.symbolic_model, explanation.bias_by_layer
    arrays = {name: getattr(explanation, name).cpu().numpy() for name in TENSORS}
    arrays["cotangent"] = model.cotangent.cpu().numpy()
    arrays["model_bias"] = model.bias.cpu().numpy()
    if explanation.reference is not None:
        arrays["reference"] = explanation.reference.cpu().numpy()
    if by_layer:
        arrays["bias_values"] = np.stack([value.cpu().numpy() for value in by_layer.values()])
    arrays["bias_sites"] = np.frombuffer(json.dumps(list(by_layer)).encode(), dtype=np.uint8)
    for number, picture in enumerate(explanation.pictures):
        if picture is not None:
            arrays[f"picture.{number}"] = np.asarray(picture)
    placed = placement_arrays(explanation.placements)
    return {**arrays, **placed, **explanation.trail.to_arrays()}


def unread_arrays(explanation: Attribution, arrays: Mapping[str, Array]) -> list[str]:
    """The arrays of an archive that an explanation read from it does not hold, and so none judges.

    The trail is one of them where its text says more than was read.
    """
    own = _arrays(explanation)
    extra = [name for name in arrays if name not in own and name != OBJECTS]
    said, read = (json.loads(bytes(texts["trail"])) for texts in (arrays, own))
    return [*extra, *([] if said == read else ["trail"])]


def _narrow(labels: Array) -> Array:
    """A label map in the narrowest type that holds it."""
    return labels.astype(np.min_scalar_type(int(labels.max())))


def read_explanation(folder: Path, schemas: tuple[str, ...] = READABLE) -> Attribution:
    """Read what `write_explanation` wrote; the symbolic model is without its network.

    schemas: one of which the manifest must state. Raises InputError when the folder holds no
    explanation, a damaged one, or one of another schema.
    """
    return restored(*read_result(folder, schemas), folder)


def read_result(
    folder: Path, schemas: tuple[str, ...] = READABLE
) -> tuple[dict[str, Any], dict[str, Array]]:
    """Manifest and arrays of a saved explanation; InputError as `read_explanation` raises it."""
    for name in (MANIFEST, ARRAYS):
        if not (folder / name).exists():
            raise InputError(f"{folder} holds no saved explanation with arrays: no {name}")
    manifest = read_json(folder / MANIFEST, LARGEST_MARK)
    schema = entry(manifest, "schema", str, str(folder / MANIFEST))
    if schema not in schemas:
        raise InputError(f"{folder} holds {schema!r}, not {schemas[0]!r}")
    return manifest, read_arrays(folder / ARRAYS)


def restored(manifest: dict[str, Any], arrays: dict[str, Array], folder: Path) -> Attribution:
    """The explanation in what `read_result` read.

    Raises InputError where the two do not fit together.
    """
    name = f"the explanation in {folder}"
    sizes = _Sizes.of(manifest, arrays, name)
    tensors = {key: torch.from_numpy(np.array(sizes.tensor(arrays, key))) for key in TENSORS}
    model, reference = entry(manifest, "model", dict, name), sizes.reference(arrays)
    labels = None if model.get("labels") is None else tuple(listed(model, "labels", str, name))
    output, meanings = meanings_in(manifest, sizes.images, sizes.targets, name)
    return Attribution(
        output=output,
        meanings=meanings,
        **tensors,
        bias_by_layer=sizes.bias_by_layer(arrays),
        exactness=_exactness(manifest, name),
        trail=sizes.trail,
        symbolic_model=SymbolicModel(
            weights=tensors["weights"],
            bias=torch.from_numpy(np.array(sizes.tensor(arrays, "model_bias"))),
            trail=sizes.trail,
            cotangent=torch.from_numpy(np.array(arrays["cotangent"])),
            batched=sizes.batched,
            several=sizes.several,
            input=tensors["input"],
        ),
        pictures=tuple(_picture(arrays, n, name) for n in range(sizes.trail.rows)),
        photo_sizes=_photo_sizes(manifest, sizes.trail.rows, name),
        space=entry(manifest, "space", str, name),
        labels=labels,
        model_name=entry(model, "name", str, name),
        weights_source=entry(model, "weights", str, name),
        preprocessing=_preprocessing(manifest, name),
        reference=None if reference is None else torch.from_numpy(np.array(reference)),
        placements=restored_placements(manifest, arrays, sizes.per_target, sizes.input[1:], name),
    )


@dataclass(frozen=True)
class _Sizes:
    """The axes of a saved explanation, and what every array must be in view of them."""

    images: int
    targets: int
    classes: int
    input: tuple[int, ...]
    batched: bool
    several: bool
    dtype: str
    trail: Trail
    name: str

    @classmethod
    def of(cls, manifest: dict[str, Any], arrays: dict[str, Array], name: str) -> _Sizes:
        trail = Trail.from_arrays(arrays, name)
        classes = entry(entry(manifest, "model", dict, name), "classes", int, name)
        cotangent = checked_array(
            arrays, "cotangent", "float32 float64", (None, trail.rows, classes), name
        )
        sizes = cls(
            images=trail.rows,
            targets=len(cotangent),
            classes=classes,
            input=shape_of(manifest, "input_shape", name),
            batched=entry(manifest, "batched", bool, name),
            several=entry(manifest, "several", bool, name),
            dtype=str(cotangent.dtype),
            trail=trail,
            name=name,
        )
        counts = (sizes.images, sizes.targets, classes, prod(sizes.input))
        alone = (sizes.batched or sizes.images == 1) and (sizes.several or sizes.targets == 1)
        if min(counts) < 1 or not alone:
            raise InputError(
                f"{name} is of {sizes.images} images, {sizes.targets} targets, {classes} classes "
                f"and an input of {list(sizes.input)}, which is none"
            )
        return sizes

    @property
    def per_image(self) -> tuple[int, ...]:
        return (self.images,) if self.batched else ()

    @property
    def per_target(self) -> tuple[int, ...]:
        return (*self.per_image, self.targets) if self.several else self.per_image

    def tensor(self, arrays: dict[str, Array], key: str) -> Array:
        """One of the arrays that are always there."""
        shapes = {
            "logits": (*self.per_image, self.classes),
            "weights": (*self.per_target, *self.input),
            "contributions": (*self.per_target, *self.input),
            "input": (*self.per_image, *self.input),
        }
        dtype = self.dtype
        if key in ("target", "against"):
            dtype = "int64"
        if key in ("bias", "residual", "residual_bound", "model_bias"):
            dtype = "float64"
        found = checked_array(arrays, key, dtype, shapes.get(key, self.per_target), self.name)
        if dtype == "int64" and not -1 <= int(found.min()) <= int(found.max()) < self.classes:
            raise InputError(f"{self.name}: {key!r} names a class that there is not")
        return found

    def bias_by_layer(self, arrays: dict[str, Array]) -> dict[str, torch.Tensor]:
        """Call site → its part of the bias."""
        text = checked_array(arrays, "bias_sites", "uint8", (None,), self.name).tobytes()
        found = {"sites": parsed_json(text.decode("utf-8", "replace"), self.name)}
        sites = listed(found, "sites", str, self.name)
        if len(set(sites)) < len(sites):
            raise InputError(f"{self.name} has a call site of the bias twice")
        if not sites:
            return {}
        shape = (len(sites), *self.per_target)
        values = checked_array(arrays, "bias_values", "float64", shape, self.name)
        return {site: torch.from_numpy(np.array(v)) for site, v in zip(sites, values, strict=True)}

    def reference(self, arrays: dict[str, Array]) -> Array | None:
        """R, where it is not 0: it must broadcast to the input."""
        if "reference" not in arrays:
            return None
        full = (*self.per_image, *self.input)
        own = arrays["reference"].shape
        fitting = tuple(1 if n == 1 else size for n, size in zip(own, full, strict=False))
        shape = fitting if len(own) == len(full) else full
        return checked_array(arrays, "reference", "float32 float64", shape, self.name)


def _exactness(manifest: dict[str, Any], name: str) -> str:
    found = entry(manifest, "exactness", str, name)
    if len(found) > _EXACTNESS:
        raise InputError(f"{name}: 'exactness' has {len(found)} characters")
    return found


def _photo_sizes(manifest: dict[str, Any], images: int, name: str) -> tuple[tuple[int, int], ...]:
    sizes = listed(manifest, "photo_sizes", list, name)
    whole = all(len(size) == 2 and all(type(n) is int and n > 0 for n in size) for size in sizes)
    if not whole or len(sizes) != images:
        raise InputError(f"{name}: 'photo_sizes' must give height and width of {images} photos")
    return tuple((height, width) for height, width in sizes)


def _preprocessing(manifest: dict[str, Any], name: str) -> Preprocessing | None:
    described = optional(manifest, "preprocessing", dict, name)
    if described is None:
        return None
    optional(described, "name", str, name)
    try:
        plain = {k: tuple(v) if isinstance(v, list) else v for k, v in described.items()}
        return Preprocessing.from_dict(plain)
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
    except (TypeError, ValueError) as error:
        raise InputError(f"{name}: its preprocessing is none") from error


def _picture(arrays: dict[str, Array], number: int, name: str) -> Image.Image | None:
    key = f"picture.{number}"
    if key not in arrays:
        return None
    shape = (None, None, 3) if arrays[key].ndim == 3 else (None, None)
    found = checked_array(arrays, key, "uint8", shape, name)
    if found.size == 0:
        raise InputError(f"{name}: the picture {key!r} is empty")
    return Image.fromarray(found)
