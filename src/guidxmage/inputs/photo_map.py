"""What a network sees of a photo, as an affine map of the photo's own pixels.

Resizing is linear; Pillow rounds what it resizes to whole grey levels, and that remainder is known.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from guidxmage.inputs.preprocessing import Preprocessing, Size


@dataclass(frozen=True)
class PhotoMap:
    """What the network sees of images Z (…, C, h, w) of a photo's size.

    It is seen + rows (Z − P) columnsᵀ. rows (H, h) and columns (W, w): resize and crop, of each
    column and of each row of pixels; photo P (C, h, w); seen (C, H, W): what Pillow made of it. All
    float64, P as it is in the network's dtype.
    """

    rows: Tensor
    columns: Tensor
    photo: Tensor
    seen: Tensor

    @classmethod
    def of(cls, preprocessing: Preprocessing, photo: Image.Image, dtype: torch.dtype) -> PhotoMap:
        """The map of one photo, read in the preprocessing's mode."""
        rows, columns = preprocessing.resize_matrices(photo.size[::-1])
        seen = planes_of(preprocessing.crop_image(photo))
        return cls(rows, columns, planes_of(photo).to(dtype).double(), seen)

    def __call__(self, Z: Tensor) -> Tensor:
        """What the network sees of images (…, C, h, w), float64 (…, C, H, W); of P bit for bit."""
        moved = self.rows @ (Z.double().cpu() - self.photo) @ self.columns.t()
        return (self.seen + moved).to(Z.device)

    def adjoint(self, weights: Tensor) -> Tensor:
        """Weights (…, C, H, W) on what is seen as weights (…, C, h, w) on the photo, float64."""
        return (self.rows.t() @ weights.double().cpu() @ self.columns).to(weights.device)

    def shares(self, maps: Tensor) -> Tensor:
        """Shares of what is seen (…, H, W) on the photo (…, h, w), float64, with the same sum.

        What is seen beyond the photo's edge counts for the pixels at the edge.
        """
        rows, columns = _shares(self.rows), _shares(self.columns)
        return (rows.t() @ maps.double().cpu() @ columns).to(maps.device)

    @property
    def scale(self) -> float:
        """How many of the photo's pixels lie between two that are seen, the geometric mean."""
        steps = [_step(_shares(one)) for one in (self.rows, self.columns)]
        return float((steps[0] * steps[1]) ** 0.5)

    @property
    def remainder(self) -> Tensor:
        """(C, H, W): what rounding and clipping to grey levels added to the resized photo."""
        return self.seen - self.rows @ self.photo @ self.columns.t()

    @property
    def padding(self) -> Tensor:
        """(H, W): 1 where the network sees the black around a photo that is smaller, else 0."""
        inside = [(side != 0).any(1).double() for side in (self.rows, self.columns)]
        return 1 - inside[0][:, None] * inside[1]


def _shares(matrix: Tensor) -> Tensor:
    """Rows of a resizing matrix that sum to 1; one beyond the edge is that of the edge."""
    known = matrix.sum(1).abs().gt(0.5).nonzero().flatten()
    own = torch.arange(len(matrix)).clamp(int(known[0]), int(known[-1]))
    return matrix[own] / matrix[own].sum(1, keepdim=True)


def _step(matrix: Tensor) -> float:
    """How far the centres of two rows are apart."""
    centres = matrix @ torch.arange(matrix.shape[1], dtype=matrix.dtype)
    inner = centres[1:] - centres[:-1]
    return float(inner.max()) if len(inner) and float(inner.max()) > 0 else 1.0


def planes_of(image: Image.Image) -> Tensor:
    """Pixels in [0, 1], float64 (C, H, W)."""
    pixels: Any = np.asarray(image, dtype=np.float64) / 255
    return torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1)).permute(2, 0, 1)


def labels_on_photo(
    labels: npt.NDArray[np.int32], preprocessing: Preprocessing, size: Size, outside: int
) -> npt.NDArray[np.int32]:
    """Label map (H, W) of what the network sees → of a photo of this (height, width).

    Nearest neighbour; what the crop cuts off is labelled `outside`.
    """
    resized, (top, left, height, width) = preprocessing.geometry(size)
    places = []
    sides = zip(size, resized, (top, left), (height, width), strict=True)
    for length, new, start, seen in sides:
        at = ((np.arange(length) + 0.5) * new / length).astype(int) - start
        places.append(np.where((at >= 0) & (at < seen), at, -1))
    rows, columns = places
    found: npt.NDArray[np.int32] = labels[np.ix_(np.maximum(rows, 0), np.maximum(columns, 0))]
    found = found.copy()
    found[rows < 0] = outside
    found[:, columns < 0] = outside
    return found
