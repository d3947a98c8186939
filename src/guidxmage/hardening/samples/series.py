"""A series of background-suppressed samples for each image, and its file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from guidxmage.errors import InputError
from guidxmage.files.names import brief
from guidxmage.files.result_folder import Kind, atomic_folder, write_mark
from guidxmage.files.untrusted import checked_array, entry, listed, read_arrays, read_json, shape_of

SCHEMA = "guid-xmage/series/1"
KIND = Kind((SCHEMA,))
_TENSORS = ("originals", "samples", "masks", "labels", "curves", "kept", "answers")
ARRAYS, MANIFEST = "series.npz", "manifest.json"


@dataclass(frozen=True, eq=False)
class Series:
    """Samples of B images at S strengths.

    originals (B, C, H, W) and samples (B, S, C, H, W) in [0, 1], equal on the object; masks
    (B, H, W), True on the object; labels (B,): the classes whose contribution was suppressed, and
    the labels of the samples. curves (B, 1 + S·steps): the background's contribution, explained
    anew after every step; it never rises. kept (B, S): steps that made it fall. answers (B, S): the
    network's own answers to the samples. on_grid: all values are whole grey levels.
    """

    originals: Tensor
    samples: Tensor
    masks: Tensor
    labels: Tensor
    strengths: tuple[float, ...]
    curves: Tensor
    kept: Tensor
    answers: Tensor
    on_grid: bool

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def before(self) -> Tensor:
        """The background's contribution to begin with, (B,)."""
        return self.curves[:, 0]

    @property
    def after(self) -> Tensor:
        """The background's contribution at each strength, (B, S)."""
        steps = (self.curves.shape[1] - 1) // len(self.strengths)
        return self.curves[:, steps::steps]

    @property
    def stuck(self) -> Tensor:
        """Images whose background's contribution could not be lowered at all, bool (B,)."""
        return self.kept.sum(1) == 0

    @classmethod
    def concatenate(cls, parts: list[Series]) -> Series:
        """Series of the same scheme one after the other."""
        if not parts:
            raise InputError("there are no images to make samples of")
        joined: dict[str, Any] = {
            name: torch.cat([getattr(part, name) for part in parts]) for name in _TENSORS
        }
        return replace(parts[0], **joined, on_grid=all(part.on_grid for part in parts))

    def summary(self) -> dict[str, Any]:
        """Counts and medians in words and numbers, ready for JSON."""
        fall = self.before[:, None] - self.after
        return {
            "images": len(self),
            "strengths": [round(value, 9) for value in self.strengths],
            "stuck": int(self.stuck.sum()),
            "stuck_images": self.stuck.nonzero()[:, 0].tolist(),
            "background_before_mean": float(self.before.double().mean()),
            "background_after_mean": self.after.double().mean(0).tolist(),
            "fall_median": fall.double().median(0).values.tolist(),
            "answer_changed": (self.answers != self.labels[:, None]).double().mean(0).tolist(),
        }

    def __repr__(self) -> str:
        found = self.summary()
        lines = [f"Series of {len(self)} images, {found['stuck']} without any fall"]
        rows = zip(self.strengths, found["background_after_mean"], strict=True)
        lines.append(f"  background contributes {found['background_before_mean']:.4g} on average")
        lines += [f"  at strength {strength * 255:.3g}/255: {mean:.4g}" for strength, mean in rows]
        return "\n".join(lines)

    # --- files -------------------------------------------------------------------------------

    def save(self, path: str | Path, **about: Any) -> None:
        """Write a folder: arrays (uint8 where values are whole grey levels) and a JSON manifest.

        `about` is added to the manifest (model, dataset, seed). See docs/formats.md.
        """
        with atomic_folder(Path(path), KIND) as folder:
            self.write_into(folder, about)

    def write_into(self, folder: Path, about: Mapping[str, Any]) -> None:
        """Write arrays and manifest into an existing, empty folder."""
        np.savez(
            folder / ARRAYS,
            originals=_stored(self.originals, self.on_grid),
            samples=_stored(self.samples, self.on_grid),
            masks=np.packbits(self.masks.numpy(), axis=-1),
            labels=self.labels.numpy(),
            curves=self.curves.numpy(),
            kept=self.kept.to(torch.int16).numpy(),
            answers=self.answers.numpy(),
        )
        manifest = {
            "schema": SCHEMA,
            "shape": list(self.originals.shape[1:]),
            "on_grid": self.on_grid,
            **self.summary(),
            "strengths": list(self.strengths),
            "about": dict(about),
        }
        write_mark(folder, manifest, MANIFEST)

    @classmethod
    def load(cls, path: str | Path) -> Series:
        """Read what `save` wrote. Raises InputError for anything else."""
        folder = Path(path)
        try:
            manifest = read_json(folder / MANIFEST)
            schema = entry(manifest, "schema", str, str(folder / MANIFEST))
            if schema != SCHEMA:
                raise InputError(f"it holds {brief(schema)}, not {SCHEMA}")
            return cls._restored(manifest, read_arrays(folder / ARRAYS), str(folder))
        except InputError as error:
            raise InputError(f"{folder} is no series of samples: {error}") from error

    @classmethod
    def _restored(cls, manifest: Any, own: Mapping[str, Any], name: str) -> Series:
        """The arrays, each of the type and shape that `write_into` gave it."""
        strengths = tuple(listed(manifest, "strengths", float, name))
        shape, on_grid = shape_of(manifest, "shape", name), entry(manifest, "on_grid", bool, name)
        kind, many = "uint8" if on_grid else "float32 float64", len(strengths)
        originals = checked_array(own, "originals", kind, (None, *shape), name)
        count = len(originals)
        if len(shape) != 3 or not count or not many:
            raise InputError(f"it has {count} images of shape {shape} and {many} strengths")
        width = shape[-1]
        packed = checked_array(own, "masks", "uint8", (count, shape[1], -(-width // 8)), name)
        curves = checked_array(own, "curves", "float32 float64", (count, None), name)
        if curves.shape[1] < 1 + many or (curves.shape[1] - 1) % many:
            raise InputError(f"its curves have {curves.shape[1]} points for {many} strengths")
        kept = checked_array(own, "kept", "int16", (count, many), name)

        def plain(key: str, kind: str, *shape: int) -> Tensor:
            return torch.from_numpy(checked_array(own, key, kind, shape, name))

        return cls(
            originals=_read(originals),
            samples=_read(checked_array(own, "samples", kind, (count, many, *shape), name)),
            masks=torch.from_numpy(np.unpackbits(packed, axis=-1, count=width).astype(bool)),
            labels=plain("labels", "int64", count),
            strengths=strengths,
            curves=torch.from_numpy(curves),
            kept=torch.from_numpy(kept.astype(np.int64)),
            answers=plain("answers", "int64", count, many),
            on_grid=on_grid,
        )


def _stored(values: Tensor, on_grid: bool) -> np.ndarray:
    return (values * 255).round().to(torch.uint8).numpy() if on_grid else values.numpy()


def _read(stored: np.ndarray) -> Tensor:
    values = torch.from_numpy(stored)
    return values.float() / 255 if values.dtype == torch.uint8 else values
