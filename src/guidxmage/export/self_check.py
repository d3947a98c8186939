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
from guidxmage.engine.trail.trail import Trail
from guidxmage.errors import InputError
from guidxmage.files.names import brief
from guidxmage.files.untrusted import entry, shape_of

Array = NDArray[Any]
# Pixels between two colours that are drawn; those in between are between them.
_CELL = 8
# Values of a map that are kept, evenly through it.
_SAMPLES = 64
# Of the largest logit, and of the 2-norm of a map: a runtime sums in another order.
TOLERANCES = {torch.float32: (1e-4, 1e-3), torch.float64: (1e-10, 1e-8)}
# Bytes of an image: more are not unpacked.
_LARGEST_IMAGE = 2**28
# Bytes of a trail that are kept, and which share of their bits may be others at any rate.
_BYTES = 4096
_FLIPPED = 1e-3
# How many times the bound of `explain` a graph's own may be, or this that.
_WIDER_BOUND = 4.0
# Of all that is added up in float64, which another runtime adds up in another order.
_SUMMED = 1e-11
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
    found: Attribution,
    others: Sequence[Attribution],
    pixels: Array,
    given: Mapping[str, int],
    outputs: Sequence[str],
) -> dict[str, Any]:
    """What is written: the image, and the numbers of its explanation.

    others: explanations of the image, changed within rounding; given: the classes that are further
    inputs; outputs: of the graph.
    """
    logits, maps = TOLERANCES[found.logits.dtype]
    named = {name: getattr(found, name) for name in ("contributions", "weights")}
    tolerance = {"logits": logits, "maps": _tolerance("weights", found, others, maps)}
    tolerance["bias"] = _moved("bias", found, others)
    more: dict[str, Any] = {}
    if "whole" in outputs or "unplaced" in outputs:
        named["whole"] = found.whole
        tolerance["whole"] = _tolerance("whole", found, others, maps)
        tolerance["unplaced"] = _moved("unplaced", found, others)
        more["unplaced"] = _double(found.unplaced).reshape(-1).tolist()
    if "trail" in outputs:
        flipped = (int(found.trail.distance(one.trail).total) for one in others)
        share = _TIMES * max(flipped) / max(1, found.trail.count)
        tolerance["trail"] = min(max(_FLIPPED, share), 1.0)
        more["trail"] = base64.b64encode(_sampled_bytes(_packed(found.trail)).tobytes()).decode()
    maps_of = {name: _double(tensor) for name, tensor in named.items()}
    return {
        "image": base64.b64encode(zlib.compress(pixels.tobytes(), 9)).decode(),
        "shape": list(pixels.shape),
        "given": dict(given),
        "logits": _double(found.logits).tolist(),
        "target": found.target.reshape(-1).tolist(),
        "score": _double(found.score).reshape(-1).tolist(),
        "bias": _double(found.bias).reshape(-1).tolist(),
        "residual_bound": _double(found.residual_bound).reshape(-1).tolist(),
        **{name: _sampled(values).tolist() for name, values in maps_of.items()},
        "norms": {name: float(np.linalg.norm(values)) for name, values in maps_of.items()},
        **more,
        "tolerance": tolerance,
    }


def _tolerance(name: str, found: Attribution, others: Sequence[Attribution], least: float) -> float:
    """How far a map may be off, as a share of its norm."""
    own: Tensor = getattr(found, name)
    size = max(float(own.norm()), torch.finfo(torch.float32).tiny)
    moved = (float((getattr(one, name) - own).norm()) / size for one in others)
    return min(max(least, _TIMES * max(moved)), 1.0)


def _moved(name: str, found: Attribution, others: Sequence[Attribution]) -> float:
    """How far a number may be off at any rate: it takes the sum of what decisions move."""
    own = _double(getattr(found, name))
    return _TIMES * max(float(np.abs(_double(getattr(one, name)) - own).max()) for one in others)


def image_of(check: Mapping[str, Any], name: str) -> Array:
    """The bytes of the image, uint8 (C, …). Raises InputError where they are not what they say."""
    shape = shape_of(check, "shape", name)
    if prod(shape) > _LARGEST_IMAGE:
        raise InputError(f"{name}: the image of the self-check is larger than any that is written")
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
    """How far outputs (1, …) of that image are from the numbers that were written.

    Raises InputError where a number is missing, or an output is of another kind or size.
    """
    found: list[Deviation] = []
    for key, values in outputs.items():
        if not isinstance(values, np.ndarray) or values.dtype.kind not in "biuf" or not values.size:
            raise InputError(f"{name}: the graph's output {brief(key)!r} is no array of numbers")
        if key in ("contributions", "weights", "whole"):
            found += _map_deviations(check, key, values, name)
        elif key == "trail":
            found.append(_trail_deviation(check, values, name))
        else:
            found.append(_deviation(check, key, values.astype(np.float64).reshape(-1), name))
    return [*found, *_own_sums(outputs)]


def _own_sums(outputs: Mapping[str, Array]) -> list[Deviation]:
    """What a consumer may count on without this file: the sum, and the residual in its bound."""
    own = {key: values.astype(np.float64) for key, values in outputs.items()}
    found = []
    if {"score", "contributions", "bias", "residual"} <= own.keys():
        score, bias, residual = (own[key].reshape(-1) for key in ("score", "bias", "residual"))
        maps = own["contributions"].reshape(score.size, -1)
        apart = np.abs(score - maps.sum(1) - bias - residual).max()
        size = float((np.abs(maps).sum(1) + np.abs(bias) + np.abs(score)).max())
        found.append(Deviation("score − Σ − bias − residual", float(apart), _SUMMED * size))
    if {"residual", "bound"} <= own.keys():
        beyond = np.abs(own["residual"]) - own["bound"]
        found.append(Deviation("residual beyond the bound", float(beyond.max()), 0.0))
    return found


def _deviation(check: Mapping[str, Any], key: str, own: Array, name: str) -> Deviation:
    """Of an output that has few numbers."""
    bound = max(_numbers(check, "residual_bound", name), default=0.0)
    if key == "residual":
        return Deviation(key, float(np.abs(own).max()), 2 * bound)
    if key == "bound":  # the graph's layers are not folded, and its maps may have their own
        ratios = np.maximum(own, 1e-300) / max(bound, 1e-300)
        return Deviation(key, float(np.maximum(ratios, 1 / ratios).max()), _WIDER_BOUND)
    expected = _expected(check, key, own.size, name)
    allowed = 0.0
    if key != "target":
        largest = max((abs(one) for one in _numbers(check, "logits", name)), default=0.0)
        allowed = _tolerated(check, "logits", name) * max(largest, 1e-30)
    if key in ("bias", "unplaced"):
        maps = _tolerated(check, "maps" if key == "bias" else "whole", name)
        allowed = max(allowed, maps * float(np.abs(expected).max()), _tolerated(check, key, name))
    return Deviation(key, float(np.abs(own - expected).max()), allowed)


def _map_deviations(
    check: Mapping[str, Any], key: str, values: Array, name: str
) -> list[Deviation]:
    """Of a map: the numbers that were written, and the norm of all."""
    norm = _number(entry(check, "norms", dict, name), key, name)
    allowed = norm * _tolerated(check, "whole" if key == "whole" else "maps", name)
    expected = _expected(check, key, _sampled(values).size, name)
    apart = float(np.abs(_sampled(values) - expected).max())
    lengths = abs(float(np.linalg.norm(values.astype(np.float64))) - norm)
    return [Deviation(key, apart, allowed), Deviation(f"norm of {key}", lengths, allowed)]


def _trail_deviation(check: Mapping[str, Any], values: Array, name: str) -> Deviation:
    """Which share of the bits that were written are others."""
    try:
        expected = base64.b64decode(entry(check, "trail", str, name), validate=True)
    except binascii.Error as error:
        raise InputError(f"{name}: the trail of the self-check is damaged") from error
    if values.dtype != np.uint8:
        raise InputError(f"{name}: the graph's output 'trail' is no array of bytes")
    own = _sampled_bytes(values.reshape(-1))
    if len(own) != len(expected):
        raise InputError(f"{name}: the trail of the self-check is not as long as the graph's")
    xored: Any = np.bitwise_xor(own, np.frombuffer(expected, dtype=np.uint8))
    differing = np.unpackbits(xored)
    return Deviation("trail", float(differing.mean()), _tolerated(check, "trail", name))


def _tolerated(check: Mapping[str, Any], key: str, name: str) -> float:
    """A share, or of a single number how far it may be off."""
    found = _number(entry(check, "tolerance", dict, name), key, name)
    if not 0 <= found <= (1 if key not in ("bias", "unplaced") else np.finfo(np.float32).max):
        raise InputError(f"{name}: the self-check allows {found:g} for {key}, which is no limit")
    return found


def _packed(trail: Trail) -> Array:
    """The decisions of one image, as a graph packs them."""
    planes = [plane[0].cpu().numpy() for one in trail.values() for plane in one.planes]
    return np.concatenate(planes) if planes else np.zeros(0, dtype=np.uint8)


def _sampled_bytes(packed: Array) -> Array:
    return packed[:: max(1, packed.size // _BYTES)]


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
