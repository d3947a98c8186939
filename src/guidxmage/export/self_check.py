"""A small image with its expected numbers that travels in an exported file, and the comparison."""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from guidxmage.attribution.attribution import Attribution
from guidxmage.errors import InputError
from guidxmage.files.untrusted import entry, shape_of

Array = NDArray[Any]
# Pixels between two colours that are drawn; those in between are between them.
_CELL = 8
# Values of a map that are kept, evenly through it.
_SAMPLES = 64
# Of the largest logit, and of the 2-norm of a map: a runtime sums in another order.
TOLERANCES = {torch.float32: (1e-4, 1e-3), torch.float64: (1e-10, 1e-8)}
# How many times farther a map may be off than a change of the image within rounding moves it: then
# decisions fall otherwise, as they do where a runtime sums in another order.
_TIMES = 5


@dataclass(frozen=True)
class Deviation:
    """How far an output is from what is expected, and how far it may be."""

    name: str
    found: float
    allowed: float

    @property
    def holds(self) -> bool:
        """Whether it is near enough; NaN is not."""
        return self.found <= self.allowed


def check_pixels(shape: Sequence[int]) -> Array:
    """The image as bytes: uint8 (C, …), the same for a shape at all times."""
    grid = [-(-size // _CELL) + 1 for size in shape[1:]]
    colours = np.random.default_rng(0).uniform(0, 255, (shape[0], *grid))
    for axis, size in enumerate(shape[1:], 1):
        cell, place = np.divmod(np.arange(size), _CELL)
        share = (place / _CELL).reshape(-1, *[1] * (len(shape) - 1 - axis))
        ends = colours.take(cell, axis), colours.take(cell + 1, axis)
        colours = ends[0] * (1 - share) + ends[1] * share
    pixels: Array = colours.round().astype(np.uint8)
    return pixels


def as_input(pixels: Array, space: str) -> Array:
    """Bytes as an image of the explained space, float64: in [0, 1], or else in [-2, 2]."""
    unit = pixels.astype(np.float64) / 255
    return unit if space == "pixels" else 4 * unit - 2


def within_rounding(image: Tensor) -> list[Tensor]:
    """The image, changed by no more than some units in the last place."""
    unit = 4 * torch.finfo(image.dtype).eps
    generator = torch.Generator().manual_seed(0)
    return [
        image * (1 + unit * (2 * torch.rand(image.shape, generator=generator) - 1).to(image))
        for _ in range(3)
    ]


def expectation(
    found: Attribution, others: Sequence[Attribution], pixels: Array, given: Mapping[str, int]
) -> dict[str, Any]:
    """What is written: the image, and the numbers of its explanation.

    others: explanations of the image, changed within rounding; given: the classes that are further
    inputs.
    """
    logits, maps = TOLERANCES[found.logits.dtype]
    size = max(float(found.weights.norm()), torch.finfo(torch.float32).tiny)
    moved = (float((one.weights - found.weights).norm()) / size for one in others)
    maps = max(maps, _TIMES * max(moved))
    contributions, weights = _double(found.contributions), _double(found.weights)
    return {
        "image": base64.b64encode(zlib.compress(pixels.tobytes(), 9)).decode(),
        "shape": list(pixels.shape),
        "given": dict(given),
        "logits": _double(found.logits).tolist(),
        "target": found.target.reshape(-1).tolist(),
        "score": _double(found.score).reshape(-1).tolist(),
        "bias": _double(found.bias).reshape(-1).tolist(),
        "residual_bound": _double(found.residual_bound).reshape(-1).tolist(),
        "contributions": _sampled(contributions).tolist(),
        "weights": _sampled(weights).tolist(),
        "norms": {
            "contributions": float(np.linalg.norm(contributions)),
            "weights": float(np.linalg.norm(weights)),
        },
        "tolerance": {"logits": logits, "maps": maps},
    }


def image_of(check: Mapping[str, Any], name: str) -> Array:
    """The bytes of the image, uint8 (C, …). Raises InputError where they are not what they say."""
    shape = shape_of(check, "shape", name)
    try:
        packed = base64.b64decode(entry(check, "image", str, name), validate=True)
        unpacking = zlib.decompressobj()
        raw = unpacking.decompress(packed, prod(shape) + 1)
    except (binascii.Error, zlib.error) as error:
        raise InputError(f"{name}: the image of the self-check is damaged") from error
    if len(raw) != prod(shape):
        raise InputError(f"{name}: the image of the self-check is not of the shape that it says")
    return np.frombuffer(raw, dtype=np.uint8).reshape(shape)


def deviations(
    check: Mapping[str, Any], outputs: Mapping[str, Array], name: str
) -> list[Deviation]:
    """How far outputs (1, …) of that image are from the numbers that were written."""
    tolerance = entry(check, "tolerance", dict, name)
    near, maps = (_number(tolerance, key, name) for key in ("logits", "maps"))
    bound = max(_numbers(check, "residual_bound", name), default=0.0)
    largest = max((abs(one) for one in _numbers(check, "logits", name)), default=0.0)
    found = []
    for key, values in outputs.items():
        own = values.astype(np.float64).reshape(-1)
        if key == "residual":
            found.append(Deviation(key, float(np.abs(own).max()), 2 * bound))
        elif key in ("contributions", "weights"):
            norm = _number(entry(check, "norms", dict, name), key, name)
            expected = _expected(check, key, _sampled(values).size, name)
            apart = float(np.abs(_sampled(values) - expected).max())
            found.append(Deviation(key, apart, maps * norm))
            lengths = abs(float(np.linalg.norm(own)) - norm)
            found.append(Deviation(f"norm of {key}", lengths, maps * norm))
        else:
            expected = _expected(check, key, own.size, name)
            allowed = 0.0 if key == "target" else near * max(largest, 1e-30)
            if key == "bias":
                allowed = max(allowed, maps * float(np.abs(expected).max()))
            found.append(Deviation(key, float(np.abs(own - expected).max()), allowed))
    return found


def _double(tensor: Tensor) -> Array:
    array: Array = tensor.detach().cpu().double().numpy()
    return array


def _sampled(values: Array) -> Array:
    flat = values.astype(np.float64).reshape(-1)
    return flat[:: max(1, flat.size // _SAMPLES)]


def _expected(check: Mapping[str, Any], key: str, size: int, name: str) -> Array:
    numbers = _numbers(check, key, name)
    if len(numbers) != size:
        raise InputError(f"{name}: the self-check has {len(numbers)} numbers for {key}, not {size}")
    return np.array(numbers, dtype=np.float64)


def _numbers(check: Mapping[str, Any], key: str, name: str) -> list[float]:
    items = entry(check, key, list, name)
    if not all(isinstance(one, int | float) and not isinstance(one, bool) for one in items):
        raise InputError(f"{name}: {key} of the self-check is no list of numbers")
    return [float(one) for one in items]


def _number(document: Mapping[str, Any], key: str, name: str) -> float:
    value = document.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"{name}: {key} of the self-check is no number")
    return float(value)
