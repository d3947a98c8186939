"""Grey garments on black, placed at another size before a background.

Everything is computed with integers, so that the same seed gives the same bytes on every machine.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.uint8]
Masks = NDArray[np.bool_]
Numbers = NDArray[np.int64]

THRESHOLD = 16
"""Grey levels up to this one are background, closed gaps aside."""
SMALLEST, LARGEST = 24, 32
"""Sides in pixels that a garment's picture of 28 pixels is scaled to."""
# Weights of neighbouring pixels are multiples of 1/64.
_UNIT = 64
# A garment's black stays visible: it gets this share of the tint, of 255.
_FLOOR = 51
_DARKEST_TINT = 90
_ROWS = 2048


@dataclass(frozen=True, eq=False)
class Figures:
    """N tinted garments (N, H, W, 3), black elsewhere, and their masks (N, H, W)."""

    pixels: Array
    masks: Masks

    def before(self, backgrounds: Array) -> Array:
        """Images (N, 3, H, W): the garments' pixels inside of the masks, others outside."""
        painted = np.where(self.masks[..., None], self.pixels, backgrounds)
        return np.ascontiguousarray(painted.transpose(0, 3, 1, 2))


def closed_masks(greys: Array) -> Masks:
    """Masks of garments (N, H, W): brighter than the threshold, gaps of one or two pixels closed.

    A morphological closing by 3×3; larger openings, as within a bag's handle, stay open.
    """
    masks = np.empty(greys.shape, np.bool_)
    for start in range(0, len(greys), _ROWS):
        rows = slice(start, start + _ROWS)
        grown = _grown(np.pad(greys[rows] > THRESHOLD, ((0, 0), (2, 2), (2, 2))))
        masks[rows] = ~_grown(~grown)[:, 2:-2, 2:-2]
    return masks


def _grown(masks: Masks) -> Masks:
    """Every pixel that touches the mask, corners included."""
    grown: Masks = masks.copy()
    for axis in (1, 2):
        before = grown.copy()
        ahead, behind = [slice(None)] * 3, [slice(None)] * 3
        ahead[axis], behind[axis] = slice(1, None), slice(None, -1)
        grown[tuple(ahead)] |= before[tuple(behind)]
        grown[tuple(behind)] |= before[tuple(ahead)]
    return grown


def place_figures(greys: Array, side: int, draw: np.random.Generator) -> Figures:
    """Garments (N, 28, 28) at random sizes, places and tints on a square of `side` pixels.

    None of the draws depends on a garment's class.
    """
    count = len(greys)
    sizes = draw.integers(SMALLEST, min(LARGEST, side) + 1, count)
    places = draw.integers((side - sizes + 1)[:, None], size=(count, 2))
    tints = draw.integers(_DARKEST_TINT, 256, (count, 3))
    pixels = np.zeros((count, side, side, 3), np.uint8)
    masks = np.empty((count, side, side), np.bool_)
    for start in range(0, count, _ROWS):
        rows = slice(start, start + _ROWS)
        levels, masks[rows] = _scaled(greys[rows], sizes[rows], places[rows], side)
        shades = _FLOOR * 255 + (255 - _FLOOR) * levels[..., None]
        tinted = shades * tints[rows][:, None, None] // (255 * 255)
        pixels[rows] = tinted * masks[rows][..., None]
    return Figures(pixels, masks)


def _scaled(greys: Array, sizes: Numbers, places: Numbers, side: int) -> tuple[Numbers, Masks]:
    """Grey levels and masks (N, side, side) by bilinear interpolation.

    Levels average over the garment only, so that its rim is not darkened by the black around it.
    """
    own = closed_masks(greys).astype(np.int64)
    taps = [_taps(sizes, places[:, axis], greys.shape[1], side) for axis in (0, 1)]
    weights = _interpolated(own, taps)
    levels = _interpolated(greys * own, taps)
    return levels // np.maximum(weights, 1), 2 * weights >= _UNIT**2


def _taps(sizes: Numbers, places: Numbers, width: int, side: int) -> tuple[Numbers, Numbers]:
    """For each target pixel the first of two source pixels, counted from −1, and its weight."""
    steps = 2 * (np.arange(side) - places[:, None]) + 1
    positions = steps * (width * _UNIT // 2) // sizes[:, None] - _UNIT // 2
    first, second_weight = positions // _UNIT, positions % _UNIT
    # What lies outside of the picture takes both pixels from its black border.
    outside = (first < -1) | (first >= width)
    return np.where(outside, -1, first), np.where(outside, _UNIT, _UNIT - second_weight)


def _interpolated(values: Numbers, taps: list[tuple[Numbers, Numbers]]) -> Numbers:
    """Weighted sums (N, side, side) of values (N, 28, 28) with a border of zeros, times 64²."""
    padded = np.pad(values, ((0, 0), (1, 1), (1, 1)))
    for axis, (first, weight) in enumerate(taps, 1):
        shape = (-1, first.shape[1], 1) if axis == 1 else (-1, 1, first.shape[1])
        start, share = first.reshape(shape) + 1, weight.reshape(shape)
        padded = np.take_along_axis(padded, start, axis) * share + np.take_along_axis(
            padded, start + 1, axis
        ) * (_UNIT - share)
    return padded
