"""The whole score on the picture at one depth of the network, as it is drawn."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import isfinite, prod
from typing import Any

import numpy as np
import numpy.typing as npt

from guidxmage.errors import InputError
from guidxmage.reports.short_repr import short_repr
from guidxmage.view.canvas import average, fitted
from guidxmage.view.colors import RGB, FloatMap, pixel_contributions
from guidxmage.view.diverging import over_photo
from guidxmage.view.reflecting import reflecting

PERCENT = 100
"""Maps are drawn and stated in score per hundredth of the picture, whatever its size."""

PIXELS = "input"


@dataclass(frozen=True, eq=False)
class PlacedMap:
    """The whole score on the picture, the network cut behind one call site.

    values (H, W): the map, Σ values + `unplaced` = the score but for rounding. site: where the
    network is cut, "input" for the image; grid: how many cells it has there; stride: pixels from
    cell to cell; sigma: of the Gaussian that the map is drawn through, in pixels. Raises InputError
    for values that are no map of finite numbers and for a sigma that is none.
    """

    site: str
    grid: tuple[int, ...]
    stride: float
    sigma: float
    values: npt.NDArray[Any]
    unplaced: float

    __repr__ = short_repr

    def __post_init__(self) -> None:
        pixel_contributions(self.values)
        if not (isfinite(self.sigma) and self.sigma >= 0):
            raise InputError(f"sigma must be a finite number of pixels ≥ 0, not {self.sigma}.")

    @property
    def total(self) -> float:
        """What of the score lies on the picture."""
        return float(np.sum(self.values, dtype=np.float64))

    @property
    def is_pixels(self) -> bool:
        """Whether the network is cut at the image itself."""
        return self.site == PIXELS

    def name(self) -> str:
        """What a caption calls the depth: "pixels", "stride 16 (blocks.10)"."""
        site = f"layer {self.site}" if self.site[:1].isdigit() else self.site
        return "pixels" if self.is_pixels else f"stride {self.stride:.3g} ({site})"

    def cells(self) -> str:
        """How many cells the picture has: "14×14 cells"."""
        if self.is_pixels:  # of the photo itself where that is explained
            return f"{'×'.join(map(str, np.shape(self.values)))} pixels"
        return f"{'×'.join(map(str, self.grid))} cells"

    def drawn(self, box: int) -> FloatMap:
        """The smoothed map within box × box, in score per hundredth of the picture.

        Large maps are reduced by averaging first; the border reflects, so that the sum stays.
        """
        values = pixel_contributions(self.values)
        shape = fitted(values.shape, box)
        small = average(values, shape)
        sigmas = [self.sigma * n / m for n, m in zip(small.shape, values.shape, strict=True)]
        smooth: FloatMap = reflecting(small, sigmas, (0, 1)) * (values.size / PERCENT)
        return smooth


def common_scale(maps: Iterable[FloatMap]) -> float:
    """The scale at which no value of several smoothed maps saturates; 0 where all are zero."""
    return max((float(np.abs(one).max()) for one in maps), default=0.0)


def whole_image(placed: PlacedMap, photo: RGB | None, scale: float | None = None) -> RGB:
    """A map over its photograph (H, W, 3), one image pixel for each pixel, uint8 (H, W, 3)."""
    smooth = placed.drawn(max(placed.values.shape[-2:]))
    return over_photo(photo, smooth, common_scale([smooth]) if scale is None else scale)


def in_order(depths: Iterable[PlacedMap]) -> list[PlacedMap]:
    """From pixels to the last layer."""
    return sorted(depths, key=lambda one: (-prod(one.grid), not one.is_pixels))
