"""The whole score on the picture at a depth that was not asked for at once: one more run."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from guidxmage.attribution.attribution import Attribution
from guidxmage.attribution.change_space import placed_on_photo
from guidxmage.attribution.depths import ProgramCut, chosen
from guidxmage.attribution.placement import Found, Placement, joined_cuts, place, placement
from guidxmage.engine.capture.user_model import untouched
from guidxmage.engine.symbolic import Network, drop_axes, pull_targets
from guidxmage.errors import InputError
from guidxmage.inputs.input_space import carried_to_pixels
from guidxmage.inputs.photo_map import PhotoMap

_ROWS = 8  # image-target pairs that are run at once


def placed_later(found: Attribution, depth: Any) -> tuple[Placement, ...]:
    """The placements of an attribution at a depth, or at several.

    Raises InputError for a depth that there is not, and without the network.
    """
    network = found.symbolic_model.network
    if network is None:
        raise InputError(
            "the explanation was loaded without its network; load it with "
            "Explanation.load(path, explainer=…), or ask for the depth when explaining"
        )
    images = found.input if found.batched else found.input[None]
    cuts = chosen(network.program, depth)
    with nullcontext() if network.model is None else untouched(network.model):
        parts = [_of_image(found, network, images, number, cuts) for number in range(len(images))]
    score = found.score if found.batched else found.score[None]
    score = score if found.several else score[:, None]
    unit = torch.finfo(images.dtype).eps / 2
    made = [placement(one, score, unit, found.batched, found.several) for one in joined_cuts(parts)]
    if found.space == "photo":
        made = _on_photo(found, network, made)
    return tuple(one.beside(found.pixel_contributions()) for one in made)


def _of_image(
    found: Attribution, network: Network, images: Tensor, number: int, cuts: Sequence[ProgramCut]
) -> list[Found]:
    given = network.to_input(images[number : number + 1])
    cotangent = found.symbolic_model.cotangent[:, number : number + 1]
    return place(cuts, given, cotangent, _ROWS)


def _on_photo(found: Attribution, network: Network, made: list[Placement]) -> list[Placement]:
    """From what the network sees to the photo's own pixels; it is a single photo."""
    preprocessing, photo = found.preprocessing, found.pictures[0]
    if preprocessing is None or photo is None:
        raise InputError("the explanation of a photo's own pixels lacks the photo")
    there = PhotoMap.of(preprocessing, photo, found.weights.dtype)
    model = found.symbolic_model
    pulled = pull_targets(network.program, model.trail, model.cotangent, rows=_ROWS)
    weights, _ = carried_to_pixels(pulled.weights, preprocessing)
    seen = drop_axes(weights, found.batched, found.several)
    return [placed_on_photo(one, seen, there) for one in made]
