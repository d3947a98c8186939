"""Explanations as files: manifest.json beside arrays.npz, nothing pickled."""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from guidxmage import __version__, fingerprint
from guidxmage.engine.symbolic import SymbolicModel
from guidxmage.engine.trail import Trail
from guidxmage.errors import InputError
from guidxmage.explanation import TENSORS, Explanation
from guidxmage.files import MANIFEST
from guidxmage.preprocessing import Preprocessing
from guidxmage.result_folder import Kind

SCHEMA = "guid-xmage/explanation/1"
ARRAYS = "arrays.npz"
KIND = Kind((SCHEMA, "guid-xmage/joint-explanation/1"))
"""What folders of saved explanations are told by."""


def manifest_of(explanation: Explanation) -> dict[str, Any]:
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
        },
        "photo_sizes": [list(size) for size in explanation.photo_sizes],
        "space": explanation.space,
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
        "results": [_result(part) for part in explanation.split()],
    }


def _fingerprints(explanation: Explanation) -> dict[str, str | None]:
    """SHA-256 of the network, where it is at hand, of the images and of the trail."""
    network = explanation.symbolic_model.network
    model = None if network is None else network.model
    return {
        "model": None if model is None else fingerprint.of_model(model),
        "image": fingerprint.of_tensor(explanation.input),
        "trail": fingerprint.of_trail(explanation.trail),
    }


def _result(part: Explanation) -> dict[str, Any]:
    against = int(part.against)
    return {
        "target": int(part.target),
        "against": against if against >= 0 else None,
        "name": part.target_name,
        "score": float(part.score),
        "contribution_sum": float(part.contributions.sum(dtype=torch.float64)),
        "bias": float(part.bias),
        "residual": float(part.residual),
        "residual_bound": float(part.residual_bound),
        "bias_by_layer": {site: float(value) for site, value in part.bias_by_layer.items()},
    }


def write_explanation(
    explanation: Explanation,
    folder: Path,
    extra: Mapping[str, Any] | None = None,
    *,
    arrays: bool = True,
) -> dict[str, Any]:
    """Write manifest and, unless told otherwise, arrays into an existing folder.

    `extra` entries join the manifest, which is returned. It states the SHA-256 of every file that
    is in the folder by then, and of itself.
    """
    if arrays:
        np.savez(folder / ARRAYS, **_arrays(explanation))
    manifest = {**manifest_of(explanation), **(extra or {}), "arrays": ARRAYS if arrays else None}
    files = sorted(path for path in folder.iterdir() if path.name != MANIFEST)
    manifest["files"] = {path.name: fingerprint.of_file(path) for path in files}
    manifest["digest"] = ""
    text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
    manifest["digest"] = fingerprint.of_text(text)
    signed = _NO_DIGEST.sub(f'"digest": "{manifest["digest"]}"', text)
    (folder / MANIFEST).write_text(signed, encoding="utf-8")
    return manifest


# At the end of a manifest; quotation marks inside of texts are escaped.
_NO_DIGEST = re.compile(r'"digest": ""(?=\n}\n$)')
_DIGEST = re.compile(r'"digest": "([0-9a-f]{64})"(?=\n}\n$)')


def damage(folder: Path) -> list[str]:
    """What of a saved explanation is not as it was written, a sentence each."""
    try:
        text = (folder / MANIFEST).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        return [f"{MANIFEST} cannot be read: {error}"]
    stated = _DIGEST.search(text)
    if stated is None or fingerprint.of_text(_DIGEST.sub('"digest": ""', text)) != stated[1]:
        return [f"{MANIFEST} was changed"]
    found = []
    for name, expected in json.loads(text)["files"].items():
        if not (folder / name).is_file():
            found.append(f"{name} is missing")
        elif fingerprint.of_file(folder / name) != expected:
            found.append(f"{name} was changed")
    return found


def _arrays(explanation: Explanation) -> dict[str, Any]:
    model, by_layer = explanation.symbolic_model, explanation.bias_by_layer
    arrays = {name: getattr(explanation, name).cpu().numpy() for name in TENSORS}
    arrays["cotangent"] = model.cotangent.cpu().numpy()
    arrays["model_bias"] = model.bias.cpu().numpy()
    if by_layer:
        arrays["bias_values"] = np.stack([value.cpu().numpy() for value in by_layer.values()])
    arrays["bias_sites"] = np.frombuffer(json.dumps(list(by_layer)).encode(), dtype=np.uint8)
    for number, picture in enumerate(explanation.pictures):
        if picture is not None:
            arrays[f"picture.{number}"] = np.asarray(picture)
    return {**arrays, **explanation.trail.to_arrays()}


def read_explanation(folder: Path, schema: str = SCHEMA) -> Explanation:
    """Read what `write_explanation` wrote; the symbolic model is without its network.

    schema: what the manifest must say. Raises InputError when the folder holds no explanation, a
    damaged one, or one of another schema.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if manifest["schema"] != schema:
            raise InputError(f"{folder} holds {manifest['schema']!r}, not {schema!r}")
        with np.load(folder / ARRAYS, allow_pickle=False) as stored:
            arrays = dict(stored)
        return _restored(manifest, arrays)
    except (FileNotFoundError, NotADirectoryError) as error:
        name = Path(error.filename).name
        raise InputError(f"{folder} holds no saved explanation with arrays: no {name}") from error
    except InputError:
        raise
    except Exception as error:  # zip, JSON and NumPy each raise their own kinds
        raise InputError(f"the explanation in {folder} is damaged: {error}") from error


def _restored(manifest: dict[str, Any], arrays: dict[str, Any]) -> Explanation:
    tensors = {name: torch.from_numpy(arrays[name]) for name in TENSORS}
    trail = Trail.from_arrays(arrays)
    sites = json.loads(arrays["bias_sites"].tobytes().decode())
    described, labels = manifest["preprocessing"], manifest["model"]["labels"]
    return Explanation(
        **tensors,
        bias_by_layer={
            site: torch.from_numpy(np.array(value))
            for site, value in zip(sites, arrays.get("bias_values", ()), strict=True)
        },
        exactness=manifest["exactness"],
        trail=trail,
        symbolic_model=SymbolicModel(
            weights=tensors["weights"],
            bias=torch.from_numpy(arrays["model_bias"]),
            trail=trail,
            cotangent=torch.from_numpy(arrays["cotangent"]),
            batched=manifest["batched"],
            several=manifest["several"],
            input=tensors["input"],
        ),
        pictures=tuple(_picture(arrays.get(f"picture.{n}")) for n in range(trail.rows)),
        photo_sizes=tuple((size[0], size[1]) for size in manifest["photo_sizes"]),
        space=manifest["space"],
        labels=None if labels is None else tuple(labels),
        model_name=manifest["model"]["name"],
        weights_source=manifest["model"]["weights"],
        preprocessing=Preprocessing.from_dict(described) if described else None,
    )


def _picture(array: Any) -> Image.Image | None:
    return None if array is None else Image.fromarray(array)
