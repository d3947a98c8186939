"""An explanation made again from what it states: image, cotangent, reference and space."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace

import torch
from PIL.Image import Image
from torch import Tensor

from guidxmage.assembly import Origin, Part, assembled
from guidxmage.engine.runs import Recording
from guidxmage.engine.symbolic import Network, pull_targets
from guidxmage.engine.trail import Trail
from guidxmage.errors import InputError
from guidxmage.explanation import Explanation
from guidxmage.inputs import Batch, carried_to_pixels
from guidxmage.preprocessing import Preprocessing
from guidxmage.spaces import PhotoMap, on_input, on_photo
from guidxmage.targets import Targets


@dataclass(frozen=True)
class Again:
    """One image explained again, for all its targets.

    explanation: what the engine makes of it. least_bound, largest_bound ([K]): the residual's bound
    depends a little on the way into the network's own input, of which the explanation tells only
    the end.
    """

    explanation: Explanation
    least_bound: Tensor
    largest_bound: Tensor

    def of_target(self, number: int) -> Again:
        """The same for one of the targets."""
        if not self.explanation.several:
            return self
        bounds = self.least_bound[number], self.largest_bound[number]
        return Again(self.explanation[number], *bounds)


def made_again(image: Explanation, network: Network, recording: Recording, trail: Trail) -> Again:
    """Explain a single image again, along a trail of it.

    recording: of the image, with the norms that the bound needs. Raises InputError where the space
    is none that the explanation has a way from.
    """
    part, space, described = (
        _part(image, network, recording, trail),
        image.space,
        image.preprocessing,
    )
    origin = Origin(space, image.labels, image.model_name, image.weights_source, described)
    if space == "input":
        found = assembled([part], _batch(image.input), _expanded(image), network, origin)
        bounds = [found.residual_bound]
        with suppress(InputError):  # not of pixels
            pixels = _in_pixels(part, image, network, origin)
            bounds.append(on_input(pixels, image.reference).residual_bound)
        return Again(found, torch.stack(bounds).amin(0), torch.stack(bounds).amax(0))
    if space == "pixels":
        carried = _carried(part, described)
        found = assembled([carried], _batch(image.input), _expanded(image), network, origin)
    else:
        found = on_photo(_in_pixels(part, image, network, origin), _photo(image), image.reference)
    return Again(found, found.residual_bound, found.residual_bound)


def _part(image: Explanation, network: Network, recording: Recording, trail: Trail) -> Part:
    """Everything that is pulled to the network's input."""
    cotangent = image.symbolic_model.cotangent
    pulled = pull_targets(network.program, trail, cotangent, recording.norms)
    classes, against = (one.reshape(-1, 1) for one in (image.target, image.against))
    return Part(
        recording=replace(recording, trail=trail),
        targets=Targets(cotangent, classes, against, image.several),
        weights=pulled.weights,
        sites=pulled.sites,
        shares=pulled.shares,
        variance=pulled.variance,
        worst=pulled.worst,
    )


def _carried(part: Part, preprocessing: Preprocessing | None) -> Part:
    """What was pulled to the network's input, carried to pixels in [0, 1]."""
    shape = part.weights.shape[2:]
    if preprocessing is None or len(shape) != 3 or shape[0] != len(preprocessing.mean):
        raise InputError("there is no way from pixels into the network")
    weights, shift = carried_to_pixels(part.weights, preprocessing)
    return replace(
        part,
        weights=weights,
        sites=("preprocessing", *part.sites),
        shares=torch.cat([shift[..., None], part.shares], -1),
    )


def _in_pixels(part: Part, image: Explanation, network: Network, origin: Origin) -> Explanation:
    """The explanation in pixels that one in another space was carried over from."""
    carried, described = _carried(part, image.preprocessing), image.preprocessing
    assert described is not None
    if image.space == "input":
        pixels = described.to_pixels(image.input)
    else:
        pixels = PhotoMap.of(described, _photo(image), image.weights.dtype).seen.to(image.weights)
    return assembled([carried], _batch(pixels), None, network, replace(origin, space="pixels"))


def _photo(image: Explanation) -> Image:
    photo = image.pictures[0]
    if photo is None:
        raise InputError("the photo whose pixels are explained is missing")
    return photo


def _batch(image: Tensor) -> Batch:
    size = (int(image.shape[-2]), int(image.shape[-1])) if image.ndim > 1 else (1, len(image))
    return Batch(image[None], (None,), (size,), batched=False)


def _expanded(image: Explanation) -> Tensor | None:
    """The reference (1, *input shape), None where it is 0."""
    R = image.reference
    return None if R is None else R.to(image.input).expand(image.input.shape)[None]
