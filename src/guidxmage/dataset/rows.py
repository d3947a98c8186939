"""The rows of a batch that was explained: plain numbers, one row for each photo and target."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from guidxmage.attribution.exactness import exactness_of
from guidxmage.attribution.placement import Placement
from guidxmage.dataset.doubtful import Doubtful
from guidxmage.dataset.reading import Read
from guidxmage.dataset.schema import COLUMNS, PARTS
from guidxmage.explainer import Explainer
from guidxmage.explanation import Explanation
from guidxmage.objects.label_map import BACKGROUND, IGNORED, LabelMap
from guidxmage.provenance import fingerprint
from guidxmage.view.reflecting import reflecting

Plane = npt.NDArray[np.float64]
_OBJECT, _BACKGROUND, _IGNORED = range(3)
# A Gaussian of fewer pixels is faster taken pixel by pixel than as a product of matrices.
_NARROW = 4.0


@dataclass
class Rows:
    """Makes rows. network, versions: what the rows say that they depend on.

    doubtful: counts ambiguous decisions, where that is wanted.
    """

    explainer: Explainer
    network: str
    versions: dict[str, str]
    doubtful: Doubtful | None = None
    _smooth: dict[tuple[int, float], torch.Tensor] = field(default_factory=dict, repr=False)

    def of(self, found: Explanation, reads: Sequence[Read]) -> list[dict[str, Any]]:
        """Of a batch (B, …), one photo after the other, for each its targets in order."""
        network = found.symbolic_model.network
        smooth = network is not None and bool(network.program.smooth)
        rows = []
        for image, read in zip(found, reads, strict=True):
            shared = self._of_photo(read, int(image.logits.shape[-1])) | {
                "trail": fingerprint.of_planes(image.trail, image.trail.gates),
                "decisions": image.trail.count,
                "ambiguous": None if self.doubtful is None else self.doubtful.of(image),
                **self._predicted(image),
            }
            for rank, part in enumerate(image.split()):
                own = self._of_target(part, read, smooth)
                rows.append(self._filled(shared | {"rank": rank} | own))
        return rows

    def failed(self, read: Read) -> dict[str, Any]:
        """The row of a photo that could not be explained."""
        return self._filled(self._of_photo(read) | {"error": read.error or "unknown"})

    def label_class(self, label: str | None, classes: int) -> int | None:
        """The class that a true label names: by a name that only one has, else by its number.

        A name that is a number comes first: folders 0, 1, 10, 2 are classes of those names, in
        whatever order. classes: how many there are.
        """
        if label is None:
            return None
        names = self.explainer.labels or ()
        for plain in (str, _folded):
            same = [n for n, name in enumerate(names) if plain(name) == plain(label)]
            if same:
                return same[0] if len(same) == 1 else None
        number = int(label) if label.isascii() and label.isdecimal() and len(label) < 9 else classes
        # Where classes have numbers for names, another number is none of them.
        numbered = any(name.strip().isdecimal() for name in names)
        return number if number < classes and not numbered else None

    def _filled(self, row: dict[str, Any]) -> dict[str, Any]:
        return {name: row.get(name) for name in COLUMNS}

    def _of_photo(self, read: Read, classes: int = 0) -> dict[str, Any]:
        height, width = read.size or (None, None)
        return {
            "item": read.number,
            "id": read.id,
            "path": read.item.name,
            "label": read.item.label,
            "label_class": self.label_class(read.item.label, classes),
            "mask": None if read.regions is None else _digest(read.regions),
            "height": height,
            "width": width,
            "network": self.network,
            "versions": json.dumps(self.versions, sort_keys=True),
        }

    def _predicted(self, image: Explanation) -> dict[str, Any]:
        if image.output not in ("scores", "labels") or image.meanings:
            return {}
        best, name, _ = image.top(1)[0]
        return {"predicted": best, "predicted_name": name}

    def _of_target(self, part: Explanation, read: Read, smooth: bool) -> dict[str, Any]:
        pixels = part.contributions.double().sum(0).cpu().numpy()
        target, against = int(part.target), int(part.against)
        row = {
            "target": target if target >= 0 else None,
            "target_name": str(part.target_name),
            "against": against if against >= 0 else None,
            "score": float(part.score),
            "probability": part.probability,
            "pixels": float(part.contributions.sum(dtype=torch.float64)),
            "bias": float(part.bias),
            "residual": float(part.residual),
            "bound": float(part.residual_bound),
            "exactness": exactness_of(
                smooth=smooth, residual=part.residual, bound=part.residual_bound
            ),
            **_signed("pixels", pixels),
        }
        maps: dict[str, Plane] = {"pixels": pixels}
        if part.placements:
            chosen, raw = part.placements[0], part.at("input")
            maps["whole"] = self._drawn(chosen)
            if read.regions is not None:
                maps["whole_input"] = self._drawn(raw)
            row |= _placed(chosen, raw) | _signed("whole", maps["whole"])
        if read.regions is not None:
            row |= _parts(maps, read.regions)
        return row

    def _drawn(self, placed: Placement) -> Plane:
        """The map through its Gaussian; as a product of matrices, which are kept for each size."""
        if placed.whole.ndim != 2 or placed.sigma < _NARROW:  # few products, or no plane
            smoothed: Plane = placed.smoothed().cpu().numpy()
            return smoothed
        rows, columns = (self._matrix(int(n), placed.sigma) for n in placed.whole.shape)
        # By PyTorch, whose number of threads is set: NumPy's would be that of the processors.
        drawn: Plane = (rows @ placed.whole.cpu() @ columns.T).numpy()
        return drawn

    def _matrix(self, size: int, sigma: float) -> torch.Tensor:
        if (size, sigma) not in self._smooth:
            if len(self._smooth) > 16:
                self._smooth.clear()
            # Like `smoothed`: what is wider than the picture by far is its mean.
            wide = sigma > 4 * size
            even = np.full((size, size), 1 / size)
            matrix = even if wide else _gaussian(size, sigma)
            self._smooth[size, sigma] = torch.from_numpy(np.ascontiguousarray(matrix))
        return self._smooth[size, sigma]


def _folded(name: str) -> str:
    return name.strip().casefold().replace("_", " ")


def _digest(regions: LabelMap) -> str:
    """SHA-256 of a label map: labels at each pixel, and their names."""
    return fingerprint.of_values([regions.labels, sorted(regions.names.items())])


def _gaussian(size: int, sigma: float) -> Plane:
    eye = np.eye(size)
    return reflecting(eye, [sigma], [0]) if sigma > 0 else eye


def _signed(name: str, values: Plane) -> dict[str, float]:
    return {
        f"{name}_positive": float(np.maximum(values, 0).sum()),
        f"{name}_negative": float(np.minimum(values, 0).sum()),
    }


def _placed(chosen: Placement, raw: Placement) -> dict[str, Any]:
    return {
        "placed_bias": float(raw.placed_bias.sum()),
        "unplaced": float(raw.unplaced),
        "whole_input": float(raw.whole.sum()),
        "whole": float(chosen.whole.sum()),
        "whole_unplaced": float(chosen.unplaced),
        "whole_residual": float(chosen.residual),
        "whole_bound": float(chosen.residual_bound),
        "depth": chosen.depth.site,
        "sigma": float(chosen.sigma),
    }


def _parts(maps: dict[str, Plane], regions: LabelMap) -> dict[str, Any]:
    """Σ of every map over all objects together, the background, what is ignored; and by object."""
    labels = regions.labels.reshape(-1)
    kinds = np.full(labels.shape, _OBJECT)
    kinds[labels == BACKGROUND], kinds[labels == IGNORED] = _BACKGROUND, _IGNORED
    row: dict[str, Any] = {}
    areas = np.bincount(kinds, minlength=3)
    for part, kind in zip(PARTS, (_OBJECT, _BACKGROUND, _IGNORED), strict=True):
        row[f"{part}_area"] = int(areas[kind])
    for name, values in maps.items():
        flat = values.reshape(-1)
        signs = {"": flat, "_positive": np.maximum(flat, 0), "_negative": np.minimum(flat, 0)}
        for sign, signed in signs.items():
            if sign and name == "whole_input":
                continue
            sums = np.bincount(kinds, weights=signed, minlength=3)
            row |= {f"{part}_{name}{sign}": float(sums[n]) for n, part in enumerate(PARTS)}
    if "whole" in maps:
        row |= {f"{one}_bias": row[f"{one}_whole"] - row[f"{one}_pixels"] for one in PARTS}
    return row | {"objects": _objects(maps, regions)}


def _objects(maps: dict[str, Plane], regions: LabelMap) -> list[dict[str, Any]]:
    there, index = np.unique(regions.labels.reshape(-1), return_inverse=True)
    areas = np.bincount(index)
    sums = {name: np.bincount(index, weights=values.reshape(-1)) for name, values in maps.items()}
    return [
        {
            "name": regions.names[label],
            "label": label,
            "area": int(areas[n]),
            "pixels": float(sums["pixels"][n]),
            "whole": float(sums["whole"][n]) if "whole" in sums else None,
        }
        for n, label in enumerate(there.tolist())
        if label not in (BACKGROUND, IGNORED)
    ]
