"""The reference image R, which contributions A = Δ ⊙ (X − R) are counted from, and its name.

The network's zero is the image that the normalisation maps to 0, the mean colour; it is the default
where the normalisation is known.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from guidxmage.errors import InputError
from guidxmage.inputs.input_space import InputSpace, Photo, as_numbers, unexpanded
from guidxmage.inputs.photo_map import planes_of
from guidxmage.inputs.photos import read_image
from guidxmage.inputs.preprocessing import Preprocessing

ZERO, BLACK = "zero", "black"
"""References that are given by name; any other text is the path of an image."""
Reference = Tensor | float | Photo | None

# Call sites of the bias that are no layer's.
PREPROCESSING, REFERENCE, PADDING = "preprocessing", "reference", "black padding"
# More channels than that are no colour to be spelled out.
_COLOUR = 4


# --- R -------------------------------------------------------------------------------------------


def reference_in_space(own: InputSpace, given: Reference, X: Tensor) -> Tensor | None:
    """R for images X (B, C, H, W) of an explainer's own space, of X's shape; None where it is 0.

    Raises InputError for what is no reference or does not fit.
    """
    # The preprocessing of an own "input" reads photos; it says nothing of tensors.
    known = None if own.name == "input" else own.preprocessing
    return _resolved(given, X, own.name, known, lambda image: own.read(image).tensor[0])


def reference_of_photo(given: Reference, X: Tensor, preprocessing: Preprocessing) -> Tensor | None:
    """The same for the pixels X ([B,] C, H, W) of a photo at its own size."""

    def read(image: Photo) -> Tensor:
        return planes_of(read_image(image, preprocessing.mode))

    return _resolved(given, X, "photo", preprocessing, read)


def reference_of_input(given: Reference, X: Tensor, preprocessing: Preprocessing) -> Tensor | None:
    """The same for what a known normalisation makes of pixels, X ([B,] C, H, W)."""

    def read(image: Photo) -> Tensor:
        seen = preprocessing.crop_image(read_image(image, preprocessing.mode))
        return preprocessing.from_pixels(planes_of(seen))

    return _resolved(given, X, "input", preprocessing, read)


def _resolved(
    given: object,
    X: Tensor,
    space: str,
    preprocessing: Preprocessing | None,
    read: Callable[[Photo], Tensor],
) -> Tensor | None:
    R: Tensor | None
    if given is None or (isinstance(given, str) and given == ZERO):
        R = zero_of(space, preprocessing)
    elif isinstance(given, str) and given == BLACK:
        if space == "input" and preprocessing is None:
            raise InputError(
                "which input black pixels become is not known, as the preprocessing is not; give "
                "the reference as a number or a tensor"
            )
        R = black_of(space, preprocessing)
    elif isinstance(given, (str, os.PathLike, Image.Image)) or (
        isinstance(given, np.ndarray) and given.ndim
    ):
        R = read(given)
        if R.shape != X.shape[-R.ndim :]:
            raise InputError(
                f"the reference image comes out at {tuple(R.shape)} and does not fit images of "
                f"{tuple(X.shape[-R.ndim :])}"
            )
    else:
        R = _numbers(given, X)
    return None if R is None else _fitted(R.to(X), X)


def _numbers(given: object, X: Tensor) -> Tensor:
    try:
        return as_numbers(given, X)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            "a reference is a number, a tensor, an image, 'zero' or 'black', not "
            f"{type(given).__name__}"
        ) from error


def _fitted(R: Tensor, X: Tensor) -> Tensor | None:
    try:
        R = R.expand(X.shape)
    except RuntimeError as error:
        own = X.shape[1:] if X.ndim > 3 else X.shape
        raise InputError(
            f"the reference of shape {tuple(R.shape)} does not fit images of {tuple(own)}"
        ) from error
    kept = unexpanded(R)
    if not torch.isfinite(kept).all():
        raise InputError("the reference holds NaN or Inf")
    return R if bool(kept.any()) else None


def filling(given: object, X: Tensor, space: str, preprocessing: Preprocessing | None) -> Tensor:
    """Pixels to fill a part of X (C, H, W) with, of its shape: given as a reference is.

    preprocessing: None where nothing is known of what becomes of pixels in the space. Raises
    InputError for what is none or does not fit.
    """

    def read(image: Photo) -> Tensor:
        if preprocessing is None:
            raise InputError(
                "what the network is given of a photo is not known, as the preprocessing is not; "
                "give the pixels as a tensor"
            )
        photo = read_image(image, preprocessing.mode)
        if space == "photo":
            return planes_of(photo)
        seen = planes_of(preprocessing.crop_image(photo))
        return seen if space == "pixels" else preprocessing.from_pixels(seen)

    R = _resolved(given, X, space, preprocessing, read)
    return torch.zeros_like(X) if R is None else R


# --- the two with a name -------------------------------------------------------------------------


def zero_of(space: str, preprocessing: Preprocessing | None) -> Tensor | None:
    """The network's zero in a space, float64 (C, 1, 1); None where it is 0 throughout."""
    if space == "input" or preprocessing is None:
        return None
    return torch.tensor(preprocessing.mean, dtype=torch.float64)[:, None, None]


def black_of(space: str, preprocessing: Preprocessing | None) -> Tensor | None:
    """What black pixels are in a space, float64 (C, 1, 1); None where they are 0 throughout."""
    if space != "input" or preprocessing is None:
        return None
    channels = len(preprocessing.mean)
    return preprocessing.from_pixels(torch.zeros(channels, 1, 1, dtype=torch.float64))


def is_zero(R: Tensor | None, space: str, preprocessing: Preprocessing | None) -> bool:
    """Whether R, None or (…, C, H, W) with sizes 1 where it repeats, is the network's zero."""
    return _is_colour(R, zero_of(space, preprocessing))


def _is_colour(R: Tensor | None, colour: Tensor | None) -> bool:
    if R is None or colour is None:
        rest = colour if R is None else R
        return rest is None or not bool(rest.any())
    if R.ndim < 3 or R.shape[-3] not in (1, len(colour)):
        return False
    return bool((colour.to(R) == R).all())


def reference_name(
    R: Tensor | None, space: str, preprocessing: Preprocessing | None, *, batched: bool
) -> str:
    """R in words: "network's zero", "black", "0.5", a value for each channel, or "an image".

    It follows from R alone, which is as in `is_zero`. Where black is the network's zero it has that
    name.
    """
    if is_zero(R, space, preprocessing):
        return "network's zero"
    if _is_colour(R, black_of(space, preprocessing)):
        return "black"
    assert R is not None  # that is 0, so black or the zero
    if batched:
        if len(R) > 1 and not bool((R[:1] == R).all()):
            return "one for each image"
        R = R[0]
    values = R.flatten(1)[:, 0] if R.ndim == 3 else R.flatten()[:1]
    if bool((values[0] == R).all()):
        return f"{float(values[0]):.6g}"
    if R.ndim != 3:
        return "given numbers"
    if not bool((values[:, None, None] == R).all()):
        return "an image"
    if len(values) > _COLOUR:
        return "a number for each channel"
    return ", ".join(f"{float(value):.6g}" for value in values)
