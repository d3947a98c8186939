"""Saved results changed as a forger would: every hash made anew."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from guidxmage import fingerprint
from guidxmage.archive import signed

Arrays = dict[str, np.ndarray[Any, Any]]


def forge(
    folder: Path,
    arrays: Callable[[Arrays], None] = lambda _: None,
    manifest: Callable[[dict[str, Any]], None] = lambda _: None,
) -> None:
    """Change arrays and manifest of a result in place, and sign what comes out."""
    with np.load(folder / "arrays.npz") as stored:
        content = {name: array.copy() for name, array in stored.items()}
    arrays(content)
    np.savez(folder / "arrays.npz", **content)  # type: ignore[arg-type]
    document = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    document["fingerprints"] = _fingerprints(document, content)
    manifest(document)
    sign(folder, document)


def sign(folder: Path, manifest: dict[str, Any]) -> None:
    """Write a manifest that lists the folder's files as they are."""
    files = sorted(path for path in folder.iterdir() if path.name != "manifest.json")
    manifest["files"] = {path.name: fingerprint.of_file(path) for path in files}
    manifest.pop("digest", None)
    (folder / "manifest.json").write_text(signed(manifest), encoding="utf-8")


def _fingerprints(manifest: Mapping[str, Any], arrays: Arrays) -> dict[str, Any]:
    import torch

    image = torch.from_numpy(np.array(arrays["input"])) if "input" in arrays else torch.zeros(1)
    return {**manifest["fingerprints"], "image": fingerprint.of_tensor(image)}
