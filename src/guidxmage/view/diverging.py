"""Blue, white and red for a signed map that lies over a photograph.

Two hues that readers with any of the usual colour deficiencies tell apart, as dark as each other at
the same distance from zero. The photograph stays visible beneath, in grey: the map multiplies it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from guidxmage.view.colors import RGB, FloatMap

ASCENDING = np.array(
    [
        (24, 82, 158),
        (67, 134, 195),
        (146, 197, 222),
        (255, 255, 255),
        (246, 178, 145),
        (214, 96, 77),
        (170, 14, 38),
    ],
    dtype=np.uint8,
)
"""From the most negative value to the most positive, in equal steps, (7, 3)."""

ADDS, SUBTRACTS = "#aa0e26", "#18529e"
"""Of bars and words: what adds to a score, and what subtracts from it."""

DARKEST = 0.74
"""How light, of 1, the darkest part of a photograph is beneath a map."""


def diverging(values: FloatMap, scale: float) -> RGB:
    """Colours of values of any shape, (…, 3), saturated beyond ±scale; zero is white."""
    relative = np.clip(values / scale, -1, 1) if scale > 0 else np.sign(values)
    anchors = np.linspace(-1, 1, len(ASCENDING))
    channels = [np.interp(relative, anchors, ASCENDING[:, channel]) for channel in range(3)]
    colors: RGB = np.rint(np.stack(channels, axis=-1)).astype(np.uint8)
    return colors


def over_photo(photo: RGB | None, values: FloatMap, scale: float) -> RGB:
    """Values (H, W) in colours over a photograph (H, W, 3) in light grey; without one, alone."""
    colors = diverging(values, scale)
    if photo is None:
        return colors
    light = (photo @ np.array([0.299, 0.587, 0.114])) / 255
    ground: npt.NDArray[np.float64] = (DARKEST + (1 - DARKEST) * light)[..., None]
    shown: RGB = np.rint(colors * ground).astype(np.uint8)
    return shown
