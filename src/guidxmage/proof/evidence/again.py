"""An explanation made again from what it states: image, cotangent, reference and space."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace

import torch
from PIL.Image import Image
from torch import Tensor

from guidxmage.attribution.assemble import Chunk, Origin, assembled
from guidxmage.attribution.attribution import Attribution
from guidxmage.attribution.change_space import on_input, on_photo
from guidxmage.attribution.targets import Targets
from guidxmage.engine.program.steps import Recording
from guidxmage.engine.symbolic import Network, pull_targets
from guidxmage.engine.trail.trail import Trail
from guidxmage.errors import InputError
from guidxmage.inputs.input_space import Batch, carried_to_pixels
from guidxmage.inputs.photo_map import PhotoMap
from guidxmage.inputs.preprocessing import Preprocessing
from guidxmage.inputs.reference import PREPROCESSING, zero_of


@dataclass(frozen=True)
class Again:
    """One image explained again, for all its targets.

    explanation: what the engine makes of it. least_bound, largest_bound ([K]): the residual's bound
    depends a little on the way into the network's own input, of which the explanation tells only
    the end.
    """

    explanation: Attribution
    least_bound: Tensor
    largest_bound: Tensor

    def of_target(self, number: int) -> Again:
        """The same for one of the targets."""
        if not self.explanation.several:
            return self
        bounds = self.least_bound[number], self.largest_bound[number]
        return Again(self.explanation[number], *bounds)


def made_again(image: Attribution, network: Network, recording: Recording, trail: Trail) -> Again:
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
    if space == "pixels":
        carried = _carried(part, described)
        found = assembled([carried], _batch(image.input), _expanded(image), network, origin)
        return Again(found, found.residual_bound, found.residual_bound)
    R = 0.0 if image.reference is None else image.reference
    if space == "input":
        found = assembled([part], _batch(image.input), _expanded(image), network, origin)
        ways = [found]
        with suppress(InputError):  # not of pixels
            ways += [on_input(one, R) for one in _in_pixels(part, image, network, origin)]
    else:
        photo = _photo(image)
        ways = [on_photo(one, photo, R) for one in _in_pixels(part, image, network, origin)]
        found = ways[0]
    bounds = torch.stack([one.residual_bound for one in ways])
    return Again(found, bounds.amin(0), bounds.amax(0))


def _part(image: Attribution, network: Network, recording: Recording, trail: Trail) -> Chunk:
    """Everything that is pulled to the network's input."""
    cotangent = image.symbolic_model.cotangent
    pulled = pull_targets(network.program, trail, cotangent, recording.norms)
    classes, against = (one.reshape(-1, 1) for one in (image.target, image.against))
    return Chunk(
        recording=replace(recording, trail=trail),
        targets=Targets(cotangent, classes, against, image.several),
        weights=pulled.weights,
        sites=pulled.sites,
        shares=pulled.shares,
        variance=pulled.variance,
        worst=pulled.worst,
    )


def _carried(part: Chunk, preprocessing: Preprocessing | None) -> Chunk:
    """What was pulled to the network's input, carried to pixels in [0, 1]."""
    shape = part.weights.shape[2:]
    if preprocessing is None or len(shape) != 3 or shape[0] != len(preprocessing.mean):
        raise InputError("there is no way from pixels into the network")
    weights, shift = carried_to_pixels(part.weights, preprocessing)
    return replace(
        part,
        weights=weights,
        sites=(PREPROCESSING, *part.sites),
        shares=torch.cat([shift[..., None], part.shares], -1),
    )


def _in_pixels(
    part: Chunk, image: Attribution, network: Network, origin: Origin
) -> list[Attribution]:
    """The explanations in pixels that one in another space may have been carried over from.

    `explain` carries over what is counted from black, a user perhaps from the network's zero.
    """
    carried, described = _carried(part, image.preprocessing), image.preprocessing
    assert described is not None
    if image.space == "input":
        pixels = described.to_pixels(image.input)
    else:
        pixels = PhotoMap.of(described, _photo(image), image.weights.dtype).seen.to(image.weights)
    zero, own = zero_of("pixels", described), replace(origin, space="pixels")
    assert zero is not None
    references = (None, zero.to(pixels).expand(pixels.shape)[None])
    return [assembled([carried], _batch(pixels), R, network, own) for R in references]


def _photo(image: Attribution) -> Image:
    photo = image.pictures[0]
    if photo is None:
        raise InputError("the photo whose pixels are explained is missing")
    return photo


def _batch(image: Tensor) -> Batch:
    size = (int(image.shape[-2]), int(image.shape[-1])) if image.ndim > 1 else (1, len(image))
    return Batch(image[None], (None,), (size,), batched=False)


def _expanded(image: Attribution) -> Tensor | None:
    """The reference (1, *input shape), None where it is 0."""
    R = image.reference
    return None if R is None else R.to(image.input).expand(image.input.shape)[None]
