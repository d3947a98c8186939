"""Distribution and saliency maps: a contribution matrix as a picture."""

from __future__ import annotations

from functools import partial
from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from guidxmage.errors import InputError, MissingExtraError
from guidxmage.view.colors import (
    RGB,
    FloatMap,
    Style,
    check_scale,
    colorize,
    pixel_contributions,
    shared_scale,
)

if TYPE_CHECKING:
    from PIL import Image

SIGMA_SHARE = 0.02
"""The default width of the smoothing, as a share of the image's shorter side."""

STRONGEST_COVER, COVER_POWER = 0.9, 0.7
"""How much of the photograph the strongest contributions hide, and how fast that falls off."""

BACKDROP = 190
"""Grey level under a saliency map without a photograph."""


def distribution_map(
    contributions: npt.ArrayLike, scale: float | None = None, style: Style = "bands"
) -> RGB:
    """The colour of every pixel's own contribution, uint8 (H, W, 3), without any smoothing.

    `contributions` is (H, W) or (C, H, W); `scale` defaults to `shared_scale` of this map.
    "bands" shows five classes: within a tenth of the scale green, up to half of it yellow
    (adds) or cyan (subtracts), beyond it red or blue; "continuous" blends the five colours.
    """
    values = pixel_contributions(contributions)
    return colorize(values, shared_scale([values]) if scale is None else check_scale(scale), style)


def default_sigma(shape: tuple[int, ...]) -> float:
    """The default width of the smoothing for an image (H, W), in pixels."""
    return SIGMA_SHARE * min(shape)


def smooth_contributions(
    values: npt.ArrayLike, sigma: float | None = None, labels: npt.ArrayLike | None = None
) -> FloatMap:
    """Contributions (H, W) or (C, H, W) spread by a Gaussian that keeps their sum, (H, W).

    Every pixel hands its whole value to its neighbours, with weights that sum to 1 inside the
    image; with `labels`, an integer map (H, W), inside its own region, so that the sum of every
    region stays what it was. `sigma` is in pixels, by default 2 % of the shorter side. Float64
    throughout. Raises InputError for a negative sigma and for labels that do not fit.
    """
    values = pixel_contributions(values)
    sigma = default_sigma(values.shape) if sigma is None else sigma
    if not (isfinite(sigma) and sigma >= 0):
        raise InputError(f"sigma must be a finite number of pixels ≥ 0, not {sigma}.")
    if labels is None:
        return _spread(values, np.ones(values.shape, dtype=bool), sigma)
    regions = _consecutive(check_labels(labels, values.shape))
    smooth = np.zeros_like(values)
    for region, box in enumerate(_ndimage().find_objects(regions), start=1):
        inside = regions[box] == region
        smooth[box] += _spread(values[box], inside, sigma)
    return smooth


def check_labels(labels: npt.ArrayLike, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """The label map as an array; InputError unless it holds integers and has the given shape."""
    regions = np.asarray(labels)
    if regions.shape != shape or regions.dtype.kind not in "iub":
        raise InputError(
            f"labels must be integers of shape {shape}, one for each pixel, not {regions.dtype} "
            f"of shape {regions.shape}."
        )
    return regions


def _consecutive(labels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The same regions, numbered 1, 2, 3, …."""
    numbers = np.unique(labels, return_inverse=True)[1]
    return numbers.reshape(labels.shape) + 1


def _spread(values: FloatMap, inside: npt.NDArray[np.bool_], sigma: float) -> FloatMap:
    """Distribute the values inside a mask to the pixels of that mask.

    The zero-padded Gaussian G is symmetric, so dividing each value by what G leaves of its own
    weights inside the mask, before it is spread, keeps Σ: 1ᵀ M G (a M / G M) = Σ a M.
    """
    # Weights that reach beyond the array fall on nothing; leaving them out only rescales G,
    # which the quotient undoes.
    radius = min(round(4 * sigma), max(values.shape) - 1)
    mask = inside.astype(np.float64)
    if radius == 0:
        return values * mask
    gaussian = partial(_ndimage().gaussian_filter, sigma=sigma, mode="constant", radius=radius)
    kept = gaussian(mask)
    shares = np.divide(values, kept, out=np.zeros_like(values), where=inside)
    smooth: FloatMap = gaussian(shares) * mask
    return smooth


def _ndimage() -> Any:
    try:
        import scipy.ndimage
    except ImportError as error:
        raise MissingExtraError("scipy", "view") from error
    return scipy.ndimage


def overlay(photo: RGB | None, smooth: FloatMap, scale: float) -> RGB:
    """Smoothed contributions (H, W) over a paled photograph (H, W, 3), uint8 (H, W, 3).

    The stronger a contribution, the more it covers; where nothing happens the photograph stays.
    """
    ground = np.full((*smooth.shape, 3), float(BACKDROP)) if photo is None else paled(photo)
    strength = np.abs(smooth) / scale if scale > 0 else np.sign(np.abs(smooth))
    cover = (STRONGEST_COVER * np.clip(strength, 0, 1) ** COVER_POWER)[..., None]
    colors = colorize(smooth, scale, "continuous")
    return np.rint(cover * colors + (1 - cover) * ground).astype(np.uint8)


def paled(photo: RGB) -> FloatMap:
    """A photograph (H, W, 3) as a light grey one, so that colour is left to the contributions."""
    luminance = photo @ np.array([0.299, 0.587, 0.114])
    return np.repeat((60 + 0.7 * luminance)[..., None], 3, axis=-1)


def check_size(image: Image.Image, shape: tuple[int, ...]) -> None:
    """InputError unless the image has the height and width of its contributions."""
    if (image.height, image.width) != shape:
        raise InputError(
            f"the image is {image.width}×{image.height} but its contributions are "
            f"{shape[1]}×{shape[0]}; pass the image that the contributions belong to."
        )


def map_image(
    contributions: npt.ArrayLike, scale: float | None = None, style: Style = "bands"
) -> Image.Image:
    """`distribution_map` as an RGB image, one pixel for each pixel."""
    from PIL import Image

    return Image.fromarray(distribution_map(contributions, scale, style))


def overlay_image(
    image: Image.Image | None,
    contributions: npt.ArrayLike,
    *,
    sigma: float | None = None,
    labels: npt.ArrayLike | None = None,
    scale: float | None = None,
) -> Image.Image:
    """The saliency map as an RGB image at the size of the contributions.

    Smoothed contributions (see `smooth_contributions`) cover the paled photograph the more the
    stronger they are. `scale` belongs to the smoothed values and defaults to `shared_scale` of
    them. Raises InputError if the image and its contributions differ in size.
    """
    from PIL import Image

    smooth = smooth_contributions(contributions, sigma, labels)
    scale = shared_scale([smooth]) if scale is None else check_scale(scale)
    if image is None:
        return Image.fromarray(overlay(None, smooth, scale))
    check_size(image, smooth.shape)
    return Image.fromarray(overlay(np.asarray(image.convert("RGB")), smooth, scale))
